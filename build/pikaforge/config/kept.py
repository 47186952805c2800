"""Specifications that were parsed and checked before, kept under the digest of their text and of this tool.

To read matrix.yaml, and to check it by the models, takes longer than most plans. What comes out depends on the text and
on this tool alone. So it is kept as JSON, in which each part names its model; models are made of it without checks
(`model_construct`), because they have passed them. Only a file that nobody else can have written is believed
(`host.own_files`), and only under the digest of exactly this text and this tool.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

import pydantic
from pydantic import BaseModel

from pikaforge.config.scalars import Strict
from pikaforge.config.waiver import Waiver
from pikaforge.host import own_files
from pikaforge.host.watch import covered

Model = TypeVar("Model", bound=BaseModel)

SUFFIX = ".spec"
MOST = 16
"""Files of this kind in a folder."""
PACKAGE = Path(__file__).resolve().parents[1]
HOME = PACKAGE.parents[1]
"""The checkout."""
FORMAT = 1


def kept(path: Path, folder: Path, load: Callable[[Path], Model]) -> Model:
    """Return what a configuration file says: as it was kept, else as `load` reads it, which is kept then.

    Args:
        path: of the configuration file.
        folder: of what is kept.
        load: reads the file.

    Raises:
        ConfigError: of `load`.
    """
    try:
        text = path.read_bytes()
    except (OSError, ValueError):
        return load(path)  # it knows why
    name = hashlib.sha256(f"{FORMAT} {load.__name__} {_tool()} {hashlib.sha256(text).hexdigest()}".encode()).hexdigest()
    file = f"{folder}/{name[:32]}{SUFFIX}"
    with covered():  # what is kept follows from the text and the tool, of which a watch knows already
        body = own_files.read(file)
    if body is not None and (found := _decoded(body, name)) is not None:
        return cast(Model, found)
    made = load(path)
    if path.read_bytes() == text:
        encoded = _encoded(made)
        with covered():
            own_files.write(file, json.dumps([name, encoded], separators=(",", ":")).encode(), most=MOST)
    return made


@lru_cache(maxsize=1)
def _tool() -> str:
    """Return a digest of this tool and its surroundings: times and sizes of its files, and of libraries' folders.

    The folder of the call is none of these: files in it change all the time, and matrix.yaml is often one of them.
    """
    here = os.getcwd()  # noqa: PTH109
    libraries = [path for path in sys.path if path and os.path.realpath(path) not in (here, os.path.realpath(HOME))]
    digest = hashlib.sha256(f"{sys.version} {libraries} {pydantic.VERSION}".encode("utf-8", "surrogateescape"))
    for path in (*_files(str(PACKAGE)), *libraries, str(pydantic.__file__)):
        try:
            found = os.stat(path)  # noqa: PTH116  # hundreds of files
        except OSError:
            continue
        digest.update(f"{path}\0{found.st_mtime_ns}\0{found.st_size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            elif entry.name.endswith((".py", ".json", ".yaml")):
                yield entry.path


def _encoded(value: object) -> object:
    """Return a value as JSON. Lists are tags with what follows: there are no lists in specifications."""
    if isinstance(value, BaseModel):
        fields = [[name, _encoded(getattr(value, name))] for name in type(value).model_fields]
        return ["model", type(value).__name__, sorted(value.model_fields_set), fields]
    if isinstance(value, dict):
        return ["dict", [[_encoded(key), _encoded(each)] for key, each in value.items()]]
    if isinstance(value, tuple):
        return ["tuple", *map(_encoded, value)]
    if isinstance(value, frozenset):
        return ["set", *map(_encoded, sorted(value))]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"a specification has no {type(value).__name__}")


def _decoded(body: bytes, name: str) -> object | None:
    """Return what was kept; None if it is another file's, or is not as this version writes it."""
    try:
        written, value = json.loads(body)
        return _made(value, _models()) if written == name else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _made(value: object, models: dict[str, type[BaseModel]]) -> object:
    if not isinstance(value, list):
        return value
    match value:
        case ["model", str(name), list(given), list(fields)]:
            content = {str(field): _made(each, models) for field, each in fields}
            return models[name].model_construct(_fields_set=set(given), **content)
        case ["dict", list(items)]:
            return {_made(key, models): _made(each, models) for key, each in items}
        case ["tuple", *members]:
            return tuple(_made(each, models) for each in members)
        case ["set", *members]:
            return frozenset(_made(each, models) for each in members)
    raise ValueError("no part of a specification")


def _models() -> dict[str, type[BaseModel]]:
    """Return the models of configuration files by name. A kept file can name no other class."""
    found: dict[str, type[BaseModel]] = {}
    left: list[type[BaseModel]] = [Strict, Waiver]
    while left:
        model = left.pop()
        left += model.__subclasses__()
        if model.__module__.startswith("pikaforge.config."):
            found[model.__name__] = model
    return found
