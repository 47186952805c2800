"""Writes a bundle: beside, then renamed. The same members give the same bytes."""

from __future__ import annotations

import gzip
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pikaforge.bundle.listing import (
    END,
    MANIFEST,
    NAME_LIMIT,
    SIZE_LIMIT,
    UNIT,
    BundleMember,
    Listing,
    header,
    refusal,
)
from pikaforge.errors import ConfigError, FullDiskError, HostError
from pikaforge.host import process
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.run_id import RunId
from pikaforge.host.store import sha256
from pikaforge.host.text import size_text

SUFFIXES = (".tar.zst", ".tar.gz", ".tar")
ZSTD = ("zstd", "-q", "-c", "-T0", "-5")
"""With -T, the result does not depend on the number of threads (zstd(1))."""
BLOCK = 1 << 20
SHARE = {".tar": 100, ".tar.gz": 60, ".tar.zst": 50}
"""Percent of the members' bytes that must be free on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFile:
    """A file that becomes a member."""

    path: Path
    executable: bool = False


def suffix_of(output: Path) -> str:
    """Return the suffix of a bundle's name, which says how it is compressed.

    Raises:
        ConfigError: it has another one.
    """
    found = next((suffix for suffix in SUFFIXES if output.name.endswith(suffix)), None)
    if found is None:
        raise ConfigError(
            f"{output.name} is no name of a bundle", where="--output", hint=f"one of {' '.join(SUFFIXES)}"
        )
    return found


def members_of(sources: Mapping[str, MemberFile]) -> tuple[BundleMember, ...]:
    """Return the members for some files, by name, in the order in which they are written.

    Raises:
        HostError: a name or a file cannot be in a bundle.
    """
    members = []
    for name, source in sorted(sources.items()):
        why = refusal(name)
        size = source.path.stat().st_size
        if size >= SIZE_LIMIT:
            why = f"has {size_text(size)}: a member has less than {size_text(SIZE_LIMIT)}"
        if why:
            raise HostError(f"{name[:NAME_LIMIT]!r} {why}, so it cannot be in a bundle", where=str(source.path))
        digest = sha256(source.path)
        members.append(BundleMember(name=name, size=size, sha256=digest, executable=source.executable))
    return tuple(members)


def check_room(output: Path, members: Sequence[BundleMember]) -> None:
    """Raise FullDiskError if there is no room for a bundle of some members."""
    size = sum(member.size for member in members)
    wanted = size * SHARE[suffix_of(output)] // 100
    free = shutil.disk_usage(output.parent).free
    if free < wanted:
        raise FullDiskError(
            f"the bundle may need {size_text(wanted)} in {output.parent}, where {size_text(free)} are free",
            hint="free space there, or name a file on another disk: --output FILE",
        )


def write(output: Path, listing: Listing, sources: Mapping[str, MemberFile]) -> None:
    """Write a bundle.

    Args:
        output: the file; it is replaced when the new one is whole.
        listing: its manifest.
        sources: the file of each member, by name.

    Raises:
        HostError: a file has changed since its digest was computed.
        FullDiskError: the disk is full.
    """
    beside = output.with_name(f".{output.name}.{RunId.current().text}-new")
    try:
        with full_disk_errors(output.parent), _packed(beside, suffix_of(output)) as stream:
            text = listing.text().encode()
            _add(stream, header(MANIFEST, len(text)), len(text), io.BytesIO(text))
            for member in listing.members:
                with sources[member.name].path.open("rb") as content:
                    start = header(member.name, member.size, executable=member.executable)
                    _add(stream, start, member.size, content)
            stream.write(bytes(END))
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


def _add(stream: IO[bytes], start: bytes, size: int, content: IO[bytes]) -> None:
    stream.write(start)
    left = size
    while left:
        block = content.read(min(left, BLOCK))
        if not block:
            break
        stream.write(block)
        left -= len(block)
    if left or content.read(1):
        raise HostError("a file has changed while the bundle was written", where=content.name, hint="run it again")
    stream.write(bytes(-size % UNIT))


@contextmanager
def _packed(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """Open a new file; what is written to it is compressed."""
    with path.open("xb") as file:
        if suffix == ".tar.zst":
            process.require("zstd", hint="install the package `zstd`, or name the bundle NAME.tar.gz: --output FILE")
            with process.filtered(ZSTD, output=file) as stream:
                yield stream
        elif suffix == ".tar.gz":
            # Without a name and a time in it, the same content gives the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as stream:
                yield cast(IO[bytes], stream)
        else:
            yield file
        file.flush()
        os.fsync(file.fileno())
