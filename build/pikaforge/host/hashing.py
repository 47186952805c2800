"""Cache keys: hashes of everything that decides a result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

FORMAT = 1
"""Raise it when the meaning of stored results changes: every key then changes too."""


def digest(data: bytes | str) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


class Encoded:
    """A value of key material that many nodes have. Its JSON is made once; the key is the same as with the value."""

    __slots__ = ("text",)

    def __init__(self, value: object) -> None:
        self.text = json.dumps(value, sort_keys=True, separators=(",", ":"))

    @classmethod
    def of_files(cls, contents: Mapping[str, bytes]) -> Encoded:
        """Return the digests of contents by name. Nearly all files are the same in all packages."""
        found = cls.__new__(cls)
        found.text = f"{{{','.join([_member(name, contents[name]) for name in sorted(contents)])}}}"
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=1024)
def _member(name: str, data: bytes) -> str:
    """Return the digest of a content as a member of an object in JSON."""
    return f"{json.dumps(name)}:{json.dumps(digest(data))}"


_MARK = f"{os.urandom(16).hex()}:"
"""Begin of what stands for such a value in a text. It differs from process to process, so that no value can have it."""


def key(stage: str, material: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """Return the key of a node: 32 hex digits.

    Args:
        stage: its stage.
        material: all else that decides the result: JSON values, and `Encoded` ones; never a clock or a path of this
            machine.
        inputs: the identity of the result of each needed node, by the node's id; its key while there is no result.
    """
    encoded: list[str] = []

    def stands_for(value: object) -> str:
        if not isinstance(value, Encoded):
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
        encoded.append(value.text)
        return f"{_MARK}{len(encoded) - 1}"

    text = json.dumps(
        {"format": FORMAT, "stage": stage, "material": material, "inputs": inputs},
        sort_keys=True,
        separators=(",", ":"),
        default=stands_for,
    )
    first, *others = text.split(f'"{_MARK}')
    parts = [first]
    for other in others:
        number, _, rest = other.partition('"')
        parts += [encoded[int(number)], rest]
    return digest("".join(parts))[:32]


@lru_cache(maxsize=8192)
def _file_digest(path: str, _changed: tuple[int, int]) -> str:
    return digest(Path(path).read_bytes())


_seen: ContextVar[dict[str, str] | None] = ContextVar("_seen", default=None)
"""The digests of the files that a block of `looking_once` has looked at."""
_seen_together: ContextVar[dict[tuple[str, tuple[str, ...]], dict[str, str]] | None] = ContextVar(
    "_seen_together", default=None
)
"""Likewise of files that were asked for together: many nodes ask for the same ones."""


@contextmanager
def looking_once() -> Iterator[None]:
    """Look at each file once while the block runs: for keys of many nodes at one moment, of which nothing is made."""
    token, together = _seen.set({}), _seen_together.set({})
    try:
        yield
    finally:
        _seen.reset(token)
        _seen_together.reset(together)


def file_digest(path: Path | str) -> str:
    """Return the digest of a file's bytes. It is computed again only if the file's time or size has changed."""
    seen = _seen.get()
    if seen is None:
        return _digest_now(path)
    name = str(path)
    if name not in seen:
        seen[name] = _digest_now(name)
    return seen[name]


def _digest_now(path: Path | str) -> str:
    status = os.stat(path)  # noqa: PTH116  # this is asked for thousands of times
    return _file_digest(str(path), (status.st_mtime_ns, status.st_size))


def files_digest(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of files below `root`, by name."""
    place = (str(root), tuple(sorted(names)))
    together = _seen_together.get()
    found = together.get(place) if together is not None else None
    if found is None:
        found = {name: file_digest(f"{root}/{name}") for name in place[1]}
        if together is not None:
            together[place] = found
    return dict(found)


def tree_digest(folder: Path) -> str:
    """Return one digest of all regular files below a folder: of names, contents and the executable bit."""
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        executable = bool(path.stat().st_mode & 0o100)
        lines.append(f"{file_digest(path)} {int(executable)} {path.relative_to(folder).as_posix()}\n")
    return digest("".join(lines))
