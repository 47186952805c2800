"""Files that this tool keeps for itself, and believes only if nobody else can have written them.

The first line is the SHA-256 of the rest, so a damaged file is as good as none. A file of another user, one that others
may write, a link, and one with a second name are not believed either. What is in them is JSON, which runs nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat

LIMIT = 64 << 20
"""Bytes of such a file at most."""


def read(path: str) -> bytes | None:
    """Return what such a file holds; None if there is none that can be believed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        if not _own(os.fstat(descriptor)):
            return None
        with open(descriptor, "rb", closefd=False) as stream:
            digest, _, body = stream.read(LIMIT).partition(b"\n")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return body if hashlib.sha256(body).hexdigest().encode() == digest else None


def _own(found: os.stat_result) -> bool:
    """Return whether a file is one that only this user can have written, and no longer than such files are."""
    alone = found.st_uid == os.geteuid() and not found.st_mode & 0o022 and found.st_nlink == 1
    return alone and stat.S_ISREG(found.st_mode) and found.st_size <= LIMIT


def write(path: str, body: bytes, *, most: int) -> None:
    """Write such a file; it is no harm if that cannot be done. Its folder is made, but not the folder of that one.

    Args:
        path: of the file.
        body: what it holds.
        most: files of its kind that stay in its folder; of more, those that were written first are removed.
    """
    from contextlib import suppress  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415  # whoever only reads needs neither

    from pikaforge.errors import FullDiskError  # noqa: PLC0415
    from pikaforge.host.durable import write_atomically  # noqa: PLC0415

    file = Path(path)
    if not file.parent.parent.is_dir():  # nothing was built yet; who only looks makes no out/
        return
    with suppress(OSError, FullDiskError):
        write_atomically(file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        file.chmod(0o600)
        kept = sorted(file.parent.glob(f"*{file.suffix}"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[:-most]:
            old.unlink(missing_ok=True)
