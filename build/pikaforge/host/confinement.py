"""What a container may do: its user, its rights and its limits; and how much of what it leaves is read.

Containers run as `NOBODY` without any capability, and cannot get one (`no-new-privileges`). Their root file system is
read-only. They write to the work folder, which is an anonymous volume, and to temporary folders in memory.
"""

from __future__ import annotations

import copy
import io
import posixpath
import re
import signal
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pikaforge.errors import SIGNAL_BASE, HostError
from pikaforge.host.text import size_text

if TYPE_CHECKING:
    from pikaforge.host.job import JobResult

NOBODY = 65534
"""User and group of what runs in containers. It is `nobody` on most systems, and owns no files."""
CHUNK = 1 << 20
FACTS_LIMIT, FACTS_LINES = 16 << 20, 200_000
"""Bytes and lines of a text that a job leaves, or that a program in a container prints: it is read into memory."""
SERVER_LOG_LIMIT = 64 << 20
"""Bytes of what a server prints that are read."""
FETCH_LIMIT = 1 << 30
"""Bytes of a folder that is read from a server's container into memory."""
TEMPORARY = dict.fromkeys(("/tmp", "/var/tmp"), "rw,exec,nosuid,nodev,mode=1777")  # noqa: S108  # of the container
"""Folders of a container that are in memory, and are counted as such. Programs of `configure` are run there."""
WRITES_LEFT = 2
"""Files of the engine's own log of a container; the older one is removed."""
BLOCK = tarfile.BLOCKSIZE
WITHOUT_CONTENT = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE),
)
"""Types of members that have no content, whatever size their headers say."""
SIZE_ENDED = SIGNAL_BASE + 25
"""Exit status of a shell whose program got SIGXFSZ, which ends whoever makes a file too large (setrlimit(2))."""
FULL = ("File size limit exceeded", "File too large")
"""What programs print whose file has become too large (SIGXFSZ, EFBIG)."""
CROWDED = ("Resource temporarily unavailable", "Cannot fork", "fork: retry")
"""What programs print that can start no other (EAGAIN of fork(2))."""
KILL_ENDED = SIGNAL_BASE + signal.SIGKILL
"""Exit status of a shell whose program got SIGKILL."""
KILLED = re.compile(
    rf"Killed signal terminated program|unable to execute command: Killed|\*\*\* \[.*\] (Killed|Error {KILL_ENDED})$"
    rf"|^(.*: line \d+: +\d+ )?Killed( |$)|\bcode={KILL_ENDED}\b|\bsignal: (9|killed)\b"
)
"""What gcc, clang, make, shells, ninja, cargo and go print if a program that they have started got SIGKILL."""


class OutputError(HostError):
    """What a job has left cannot be taken: it is missing, is no regular file, or is too large."""

    kind = "E-output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much a job may use."""

    processes: int = 4096
    """Processes and threads at once."""
    memory: int = 0
    """Bytes of memory; 0: seven eighths of what the engine's machine has."""
    file: int = 16 << 30
    """Bytes of one file."""
    seconds: float = 4 * 3600
    """How long a compilation may take."""
    log: int = 64 << 20
    """Bytes that it may print."""


USUAL = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What an engine can limit."""

    memory: int = 0
    """Bytes of its machine; 0: not known."""
    limits_memory: bool = True
    limits_processes: bool = True


def options(bounds: Bounds, engine: Abilities, *, user: int = NOBODY) -> dict[str, object]:
    """Return arguments of the SDK's `containers.create` that confine a container."""
    confined: dict[str, object] = {
        "user": f"{user}:{user}",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "tmpfs": dict(TEMPORARY),
    }
    if memory := memory_limit(bounds, engine):
        # Without swap. Where the kernel cannot limit swap, engines say so in a warning only.
        confined.update(mem_limit=memory, memswap_limit=memory)
    if engine.limits_processes:
        confined["pids_limit"] = bounds.processes
    return confined


def memory_of(bounds: Bounds, engine: Abilities) -> int:
    """Return how many bytes of memory a job may use; 0 if there is no bound."""
    return bounds.memory or engine.memory * 7 // 8


def memory_limit(bounds: Bounds, engine: Abilities) -> int:
    """Return how many bytes of memory an engine lets a job use; 0 if it does not limit them."""
    return memory_of(bounds, engine) if engine.limits_memory else 0


def log_options(bounds: Bounds, *, podman: bool) -> dict[str, str]:
    """Return options of the driver json-file, so that the log that the engine keeps has an end, too."""
    limited = {"max-size": str(2 * bounds.log)}
    return limited if podman else {**limited, "max-file": str(WRITES_LEFT)}


# ---- what goes in


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainArchive:
    """A plain tar archive in memory, whose members were read."""

    tar: tarfile.TarFile
    size: int


def volume_root(
    root: str,
    *,
    podman: bool,
    mode: int = 0o755,
    owner: int = 0,
    folders: Mapping[str, int] | None = None,
    contents: Iterable[tuple[str, int, PlainArchive]] = (),
) -> bytes:
    """Return a tar archive for the root folder of a volume.

    Args:
        root: where the volume is mounted; the archive is unpacked there.
        podman: whether podman unpacks it.
        mode: of the root folder.
        owner: of the root folder.
        folders: owners by name of folders in it, which get mode 755; their parents belong to the same owner.
        contents: of such folders: name, owner, and an archive of what is in it. One archive for all that is small saves
            a request for each, which takes the engine a tenth of a second.
    """
    owners: dict[str, int] = {}
    for name, whose in (folders or {}).items():
        parts = name.strip("/").split("/")
        owners.update(("/".join(parts[: depth + 1]), whose) for depth in range(len(parts)))
    # Docker ignores an entry for the folder that it unpacks into, unless that has another name.
    entries = [("." if podman else f"../{posixpath.basename(root)}", mode, owner)]
    entries += [(name, 0o755, whose) for name, whose in owners.items() if name]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, bits, whose in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, bits
            info.uid = info.gid = whose
            tar.addfile(info)
        for folder, whose, archive in contents:
            for member in archive.tar:
                info = copy.copy(member)
                info.name = f"{folder}/{info.name}" if folder else info.name
                info.linkname = f"{folder}/{info.linkname}" if folder and info.islnk() else info.linkname
                info.uid = info.gid = whose
                info.uname = info.gname = ""
                tar.addfile(info, archive.tar.extractfile(member) if member.isreg() else None)
    return buffer.getvalue()


def plain(archive: Path | bytes, most: int) -> PlainArchive | None:
    """Return an archive for `volume_root`; None if it has more than `most` bytes, or is compressed or damaged."""
    if (archive.stat().st_size if isinstance(archive, Path) else len(archive)) > most:
        return None
    content = archive.read_bytes() if isinstance(archive, Path) else archive
    try:
        tar = tarfile.open(fileobj=io.BytesIO(content), mode="r:")  # noqa: SIM115  # it is in memory
        tar.getmembers()
    except tarfile.TarError:
        return None  # what is wrong with it is the engine's to say
    return PlainArchive(tar=tar, size=len(content))


def owned_by(owner: int | None, stream: IO[bytes], end: int | None = None) -> Iterator[bytes]:
    """Return a plain tar archive with another owner of all members, in pieces. Anything else comes as it is.

    Args:
        owner: the user and group; None: no other.
        stream: the archive.
        end: how many bytes of it are read; None: all.
    """
    left = end if end is not None else 1 << 62
    made = bytearray()
    plain = owner is not None
    while left > 0 and (head := stream.read(min(BLOCK, left))):
        left -= len(head)
        content = _content_size(head) if plain else None
        if content is None:
            plain = plain and not any(head)  # zeros end an archive
        else:
            head = _with_owner(head, owner or 0)
        made += head
        rest = min(left, -(-(content or 0) // BLOCK) * BLOCK if plain else left)
        while rest > 0 and (block := stream.read(min(CHUNK, rest))):
            left, rest = left - len(block), rest - len(block)
            made += block
            if len(made) >= CHUNK:
                yield bytes(made)
                made.clear()
        if len(made) >= CHUNK:
            yield bytes(made)
            made.clear()
    if made:
        yield bytes(made)


def _content_size(head: bytes) -> int | None:
    """Return how many bytes of content follow a tar header; None if it is no header."""
    try:
        info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return 0 if info.type in WITHOUT_CONTENT else info.size


def _with_owner(head: bytes, owner: int) -> bytes:
    number = b"%07o\0" % owner
    head = head[:108] + number + number + head[124:148] + b" " * 8 + head[156:265] + bytes(64) + head[329:]
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


# ---- what comes out


def copied(blocks: IO[bytes], target: Path, limit: int, what: str) -> None:
    """Write a stream to a file.

    Raises:
        OutputError: it is larger than the limit.
    """
    left = limit
    with target.open("wb") as file:
        while block := blocks.read(CHUNK):
            left -= len(block)
            if left < 0:
                raise too_large(what, limit)
            file.write(block)


def whole(blocks: Iterable[bytes], limit: int, what: str) -> bytes:
    """Return the pieces of a stream as one.

    Raises:
        OutputError: it is larger than the limit.
    """
    made = bytearray()
    for block in blocks:
        made += block
        if len(made) > limit:
            raise too_large(what, limit)
    return bytes(made)


def start_of(blocks: Iterable[bytes], limit: int) -> bytes:
    """Return the first bytes of a stream; the rest is not read."""
    made = bytearray()
    for block in blocks:
        made += block
        if len(made) >= limit:
            break
    return bytes(made[:limit])


def too_large(what: str, limit: int, *, where: str = "") -> OutputError:
    """Return the error for an output that is larger than a limit."""
    return OutputError(f"{what} is larger than {size_text(limit)}", where=where)


def too_long_a_log(bounds: Bounds) -> str:
    """Return why a job was ended that prints too much."""
    return f"it printed more than {size_text(bounds.log)} (limits.log_mib)"


def explained(bounds: Bounds, engine: Abilities, result: JobResult, *, killed: bool, tail: Sequence[str]) -> JobResult:
    """Return the result of a job that has failed with the limit that it has most likely met, if any.

    Args:
        bounds: of the job.
        engine: where it ran.
        result: says the limit already, if it was the job's log.
        killed: whether the engine says that the kernel has ended one of its processes for lack of memory. Of a
            container that ends at once then, engines may not hear of it: containerd can read the end first.
        tail: the last lines of its log.
    """
    met = result.exceeded or reason(bounds, engine, status=result.status, out_of_memory=killed, tail=tail)
    memory = memory_of(bounds, engine) if killed else 0
    if not (met or result.timed_out) and _was_killed(result.status, tail):
        memory = memory_limit(bounds, engine)
        why = _too_little(memory) if memory else "this machine has no memory left"
        met = f"a program of it was killed, most likely because {why}"
    return replace(result, exceeded=met, memory=max(result.memory, memory), out_of_memory=killed or memory > 0)


def reason(bounds: Bounds, engine: Abilities, *, status: int, out_of_memory: bool, tail: Sequence[str]) -> str:
    """Return which limit a job has most likely met; "" if none.

    Args:
        bounds: of the job.
        engine: where it ran.
        status: its exit status.
        out_of_memory: whether the kernel has ended one of its processes for lack of memory.
        tail: the last lines of its log.
    """
    if out_of_memory:
        return _too_little(memory_of(bounds, engine))
    if status == SIZE_ENDED or any(text in line for line in tail for text in FULL):
        return f"a file became larger than {size_text(bounds.file)} (limits.file_mib)"
    if any(text in line for line in tail for text in CROWDED):
        return f"it may have had more than {bounds.processes} processes at once (limits.processes)"
    return ""


def _too_little(memory: int) -> str:
    return f"it needed more than {size_text(memory)} of memory (limits.memory_mib, --memory)"


def _was_killed(status: int, tail: Sequence[str]) -> bool:
    return status == KILL_ENDED or any(KILLED.search(line) for line in tail)
