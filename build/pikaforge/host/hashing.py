"""Cache keys: hashes of everything that decides a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

FORMAT = 1
"""Raise it when the meaning of stored results changes: every key then changes too."""


def digest(data: bytes | str) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def key(stage: str, material: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """Return the key of a node: 32 hex digits.

    Args:
        stage: its stage.
        material: all else that decides the result: JSON values, never a clock or a path of this machine.
        inputs: the identity of the result of each needed node, by the node's id; its key while there is no result.
    """
    text = json.dumps(
        {"format": FORMAT, "stage": stage, "material": material, "inputs": inputs},
        sort_keys=True,
        separators=(",", ":"),
    )
    return digest(text)[:32]


@lru_cache(maxsize=256)
def _file_digest(path: Path, _changed: tuple[int, int]) -> str:
    return digest(path.read_bytes())


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes. It is computed again only if the file's time or size has changed."""
    status = path.stat()
    return _file_digest(path, (status.st_mtime_ns, status.st_size))


def files_digest(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of files below `root`, by name."""
    return {name: file_digest(root / name) for name in sorted(names)}


def tree_digest(folder: Path) -> str:
    """Return one digest of all regular files below a folder: of names, contents and the executable bit."""
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        executable = bool(path.stat().st_mode & 0o100)
        lines.append(f"{file_digest(path)} {int(executable)} {path.relative_to(folder).as_posix()}\n")
    return digest("".join(lines))
