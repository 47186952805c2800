"""Documents: the data of a YAML file, and where in the file each value is. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from pikaforge.config.yaml_words import KeyPath, show_path

YamlValue: TypeAlias = str | int | float | tuple["YamlValue", ...] | dict[str, "YamlValue"] | None
"""A value of a document: a scalar, a list (as a tuple) or a mapping."""


@dataclass(slots=True, kw_only=True)
class Place:
    """Where a value and its key are in the file, and how a scalar is written there."""

    line: int
    column: int
    key: tuple[int, int] | None = None
    """Line and column of its key; None for items of lists, and for the whole document."""
    text: str | None = None
    """A scalar without its quotes; None for lists and mappings."""
    children: dict[str | int, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The data of a file (mappings as dict, sequences as tuple), and where in the file each value is."""

    file: str
    data: YamlValue
    top: Place

    def value(self, path: KeyPath) -> YamlValue:
        """Return the value at `path`; raise KeyError if there is none."""
        value = self.data
        for part in path:
            value = within(value, part)
        return value

    def position(self, path: KeyPath, *, key: bool = False) -> tuple[int, int]:
        """Return line and column, from 1, of the value at `path`, or of its key; else of the nearest parent.

        For a parent it is the key's: the value of a block mapping begins in the line after its key.
        """
        place, depth = self._find(path)
        if place.key is not None and (key or depth < len(path) or place.children):
            return place.key
        return place.line, place.column

    def text(self, path: KeyPath) -> str | None:
        """Return the scalar at `path` as written in the file, without its quotes; None if there is none."""
        place, depth = self._find(path)
        return place.text if depth == len(path) else None

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """Return the place of a value for errors, such as `matrix.yaml:12:5, images.debian12.gcc`."""
        return show_place(self.file, *self.position(path, key=key), path)

    def _find(self, path: KeyPath) -> tuple[Place, int]:
        place = self.top
        for depth, part in enumerate(path):
            child = place.children.get(part)
            if child is None:
                return place, depth
            place = child
        return place, len(path)


def has(value: YamlValue, part: str | int) -> bool:
    """Return whether a mapping has a key, or a value is a list and may have an index."""
    return part in value if isinstance(value, dict) else isinstance(value, tuple) and isinstance(part, int)


def within(value: YamlValue, part: str | int) -> YamlValue:
    """Return what a mapping has for a key, or a list for an index; raise KeyError for anything else."""
    if isinstance(value, dict) and isinstance(part, str):
        return value[part]
    if isinstance(value, tuple) and isinstance(part, int):
        return value[part]
    raise KeyError(part)


def show_place(file: str, line: int, column: int, path: KeyPath = ()) -> str:
    """Return a place in a file as errors show it: `matrix.yaml:12:5, images.debian12.gcc`."""
    place = f"{file}:{line}:{column}"
    return f"{place}, {show_path(path)}" if path else place
