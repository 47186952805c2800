"""Read YAML text as plain data with positions, more strictly than YAML asks for.

YAML lets one text mean different things to different readers (`010`, `1:30`, `1e3`). It lets a later key silently
replace an earlier one, and a few lines expand to gigabytes. A file that decides what is built must mean one thing, so
all of that is refused here, with the line and the way to write it. `22.10` without quotes is the number 22.1, as YAML
says. `Document.text` keeps what was written, for the error where a string was expected.

The text is read event by event, as `yaml.parse` does, and not composed into nodes. Nodes do not show whether a tag was
written out; aliases in them are already expanded, and deep nesting has already exhausted the stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from pikaforge.config.document import Document, Place, YamlValue, show_place
from pikaforge.config.yaml_words import describe, shorten
from pikaforge.errors import ConfigError

SIZE_LIMIT = 1 << 20
"""In bytes. A matrix of a thousand models has about a tenth of this."""
DEPTH_LIMIT = 32
"""Levels of nested mappings and lists; matrix.yaml has seven."""


class _Loader(Protocol):
    """What is used of PyYAML's loaders."""

    def check_event(self) -> bool:
        """Return whether there is another event."""

    def get_event(self) -> yaml.Event:
        """Return the next event."""

    def dispose(self) -> None:
        """Release what the loader holds."""


class _Resolver(Protocol):
    """What is used of PyYAML's resolver."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        """Return the tag of a plain scalar."""


_LOADER: Callable[[str], _Loader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
_RESOLVER: _Resolver = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"

# All characters but those that YAML 1.1 allows in a file (chapter 5.1); and U+FEFF, which may only begin the file.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_PLAIN_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]{1,3})?")
# For YAML 1.1, and so for PyYAML, this is text; for YAML 1.2, and so for most editors, a number: 08, 0o7, 1e3.
_NUMBER_ELSEWHERE = re.compile(r"[-+]?(0[0-9]+|0o[0-7]+|[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+)")


def read(path: Path) -> str:
    """Return the text of a file, at most `SIZE_LIMIT` bytes of UTF-8.

    Raises:
        ConfigError: there is no such file, or it cannot be read, or is not text.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file",
            where=str(path),
            hint="run from the folder that has it, or name another file",
        ) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder", where=str(path), hint="name the file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"the file cannot be read: {reason}", where=str(path), hint="check its owner and permissions"
        ) from None
    _check_size(len(content), file=str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        raise ConfigError(
            f"the file is not UTF-8: it holds the byte 0x{content[error.start]:02x}",
            where=show_place(str(path), line, column),
            hint="save it as UTF-8",
        ) from None


def parse(text: str, *, file: str) -> Document:
    """Read one YAML document.

    Args:
        text: the document.
        file: its name in errors.

    Raises:
        ConfigError: it is not YAML, or YAML readers understand it in different ways.
    """
    _check_size(len(text), file=file)
    forbidden = _FORBIDDEN.search(text.removeprefix("\ufeff"))
    if forbidden:
        before = text.removeprefix("\ufeff")[: forbidden.start()]
        raise ConfigError(
            f"the control character U+{ord(forbidden.group()):04X} may not be in the file",
            where=show_place(file, before.count("\n") + 1, len(before) - before.rfind("\n")),
            hint='remove it, or write it in double quotes as an escape, such as "\\u0000"',
        )
    builder = _DocumentBuilder(file=file)
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, file=file) from None
    if builder.top is None or builder.top.text == "":
        raise ConfigError("the file is empty", where=file, hint="restore it, e.g. with git checkout")
    return Document(file=file, data=builder.data, top=builder.top)


def _events(text: str) -> Iterator[yaml.Event]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except (
        ValueError,
        OverflowError,
    ):  # PyYAML's own scanner, for the escape of a character that does not exist
        raise yaml.YAMLError("a character is written as an escape that does not exist") from None
    finally:
        loader.dispose()


def _check_size(size: int, *, file: str) -> None:
    if size > SIZE_LIMIT:
        raise ConfigError(
            f"the file is larger than {SIZE_LIMIT >> 20} MiB", where=file, hint="is this the file you meant?"
        )


def _syntax_error(error: yaml.YAMLError, text: str, *, file: str) -> ConfigError:
    """Return the error of PyYAML's scanner or parser in its own words, with what most often causes it as a hint."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return ConfigError(
            f"this is not YAML: {error}", where=file, hint="look for a character that should not be there"
        )
    message = f"this is not YAML: {error.problem or error.context}"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError(message, where=file)
    start = error.context_mark
    if error.context and start is not None and start.line != mark.line:
        message += f" ({error.context} that begins in line {start.line + 1})"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = "look for an unclosed quote or bracket, or a wrong indentation, here or in the lines before"
    if "\t" in line[: mark.column + 1]:
        hint = "put spaces in place of the tab"
    elif line[mark.column : mark.column + 1] in ("@", "`", "%"):
        hint = "put text that begins with this character in quotes"
    elif "block scalar" in (error.context or ""):
        hint = 'put text that begins with > or | in quotes, such as ">=11"'
    elif "mapping values are not allowed" in message:
        hint = "put text that holds a colon and a space in quotes, or check the indentation"
    return ConfigError(message, where=show_place(file, mark.line + 1, mark.column + 1), hint=hint)


@dataclass(slots=True, kw_only=True)
class _Open:
    """A mapping or sequence that has not ended yet; a sequence becomes a tuple at its end."""

    data: dict[str, YamlValue] | list[YamlValue]
    place: Place
    key: str | None = None
    key_position: tuple[int, int] = (1, 1)


@dataclass(slots=True, kw_only=True)
class _DocumentBuilder:
    """Builds data and places from events, with a stack of its own."""

    file: str
    data: YamlValue = None
    top: Place | None = None
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def take(self, event: yaml.Event) -> None:
        """Process the next event of the document."""
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._refuse(
                    event, "the file holds more than one document", "remove the line `---` and what follows"
                )
        elif isinstance(event, yaml.AliasEvent):
            raise self._refuse(event, f"the alias *{event.anchor} is not supported", "write the value out")
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            self._check_plainness(event)
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            else:
                self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _check_plainness(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            raise self._refuse(
                event, f"the anchor &{event.anchor} is not supported", "write values out where they are used"
            )
        if event.tag is not None:
            shown = event.tag.replace(_TAG, "!!")
            raise self._refuse(
                event,
                f"the tag {shorten(shown)} is not supported",
                "remove it; text that looks like a number goes in quotes",
            )

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        data: dict[str, YamlValue] | list[YamlValue] = {} if isinstance(event, yaml.MappingStartEvent) else []
        parent = self.stack[-1] if self.stack else None
        if parent is not None and isinstance(parent.data, dict) and parent.key is None:
            raise self._refuse(
                event,
                "a key must be a string, and this is a list or mapping",
                "put it in quotes if it is meant as text",
            )
        if len(self.stack) >= DEPTH_LIMIT:
            raise self._refuse(
                event,
                f"the values are nested deeper than {DEPTH_LIMIT} levels",
                "nothing here needs that: check the brackets",
            )
        line, column = _mark(event)
        self.stack.append(_Open(data=data, place=Place(line=line, column=column)))

    def _end(self) -> None:
        done = self.stack.pop()
        self._add(done.data if isinstance(done.data, dict) else tuple(done.data), done.place)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        parent = self.stack[-1] if self.stack else None
        if parent is not None and isinstance(parent.data, dict) and parent.key is None:
            self._key(event, parent)
            return
        line, column = _mark(event)
        self._add(self._value(event), Place(line=line, column=column, text=event.value))

    def _key(self, event: yaml.ScalarEvent, parent: _Open) -> None:
        if event.implicit[0] and event.value == "<<":
            raise self._refuse(event, "the merge key << is not supported", "write the keys out")
        value = self._value(event)
        if not isinstance(value, str):
            if event.value == "":
                raise self._refuse(event, "a key is missing before the colon", "write one")
            raise self._refuse(
                event,
                f"the key {event.value} is read as {describe(value)}, and a key must be a string",
                f'put it in quotes: "{event.value}"',
            )
        if value in parent.place.children:
            first = parent.place.children[value].key or (1, 1)
            raise self._refuse(
                event,
                f"the key {shorten(value)} is here twice; first in line {first[0]}",
                "remove one of them",
                key=value,
            )
        parent.key, parent.key_position = value, _mark(event)

    def _value(self, event: yaml.ScalarEvent) -> YamlValue:
        """Return the value of a scalar: a quoted one is text, a plain one is what YAML 1.1 says.

        Numbers that YAML 1.2 or a person would read differently are refused (octal, hexadecimal, sexagesimal, with
        underscores or exponents), because either choice would surprise somebody.
        """
        if not event.implicit[0]:
            return event.value
        written: str = event.value
        tag = _RESOLVER.resolve(yaml.ScalarNode, written, (True, False)).removeprefix(_TAG)
        if tag in ("int", "float") or _NUMBER_ELSEWHERE.fullmatch(written):
            return self._number(event, tag)
        if tag in ("bool", "null"):
            return _CONSTANTS[tag](written)
        return written  # text; dates, too, because nothing here counts days

    def _number(self, event: yaml.ScalarEvent, tag: str) -> int | float:
        written: str = event.value
        if tag == "int" and _PLAIN_INT.fullmatch(written):
            return int(written)
        if tag == "float" and _PLAIN_FLOAT.fullmatch(written):
            number = float(written)
            if number - number == 0:  # neither infinity (1.0e+999) nor not a number
                return number
        raise self._refuse(
            event,
            f"programs read {shorten(written)} as different numbers, or as text",
            f'put text in quotes: "{written[:60]}"; write a number in plain decimal digits',
        )

    def _add(self, value: YamlValue, place: Place) -> None:
        if not self.stack:
            self.data, self.top = value, place
            return
        parent = self.stack[-1]
        if isinstance(parent.data, list):
            parent.place.children[len(parent.data)] = place
            parent.data.append(value)
        elif parent.key is not None:
            place.key = parent.key_position
            parent.place.children[parent.key] = place
            parent.data[parent.key] = value
            parent.key = None

    def _refuse(self, event: yaml.Event, message: str, hint: str, *, key: str | None = None) -> ConfigError:
        path: list[str | int] = []
        for part in self.stack:
            if isinstance(part.data, list):
                path.append(len(part.data))
            elif part.key is not None:
                path.append(part.key)
        if key is not None:
            path.append(key)
        return ConfigError(message, where=show_place(self.file, *_mark(event), path), hint=hint)


def _mark(event: yaml.Event) -> tuple[int, int]:
    """Return line and column of an event, from 1."""
    mark = event.start_mark
    assert mark is not None  # events of a text have one
    return mark.line + 1, mark.column + 1


_CONSTANTS: dict[str, Callable[[str], bool | None]] = {
    "bool": lambda written: written.lower() in ("yes", "true", "on"),
    "null": lambda written: None,
}
