"""Jobs and servers, and the protocol of the engines that run them.

Files are copied as tar streams in both directions. They are below one root folder, which programs find in the variable
`PIKAFORGE_ROOT`: `/forge` in a container, a temporary folder on the host engine. So guest scripts run on both.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pikaforge.errors import HostError
from pikaforge.host.confinement import USUAL, Bounds
from pikaforge.host.text import ignore


class CannotServe(HostError):
    """The engine cannot run a server with the wanted options; the message says why."""


PACKED = "packed"
"""Folder below the root for outputs that are fetched together: run.sh packs into it, and nothing else is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A tar archive, and the folder below the root into which it is unpacked."""

    folder: str
    archive: Path | bytes
    sealed: bool = False
    """Whether a job in a container cannot change it: it belongs to root there."""
    packed: bool = False
    """Whether a job in a container unpacks it itself, as its own user: `run.sh` does. That takes less time than the
    engine's way, and can go on beside other work. It is not sealed, and the archive is plain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A guest script that runs to its end."""

    label: str
    """Stage and node, for names and logs: `compile-debian12-sandybridge-none`."""
    image: str
    argv: tuple[str, ...]
    """Program and arguments. Paths of guest scripts are relative to the root, which is the working folder."""
    env: Mapping[str, str]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] = ()
    """Regular files below the root that are copied out after success."""
    facts: tuple[str, ...] = ()
    """Further ones, which are texts that are read into memory."""
    log: Path
    cache: str = ""
    """Name of a compiler cache that outlives jobs (`compiler_cache`); its folder is in `CCACHE_DIR`."""
    bounds: Bounds = USUAL
    network: Literal["none", "bridge"] = "none"
    timeout: float = 4 * 3600
    """Seconds after which the job is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job has ended, and its output files in the caller's folder by their paths in the job."""

    status: int
    """Exit status; 128 + N for a death by signal N."""
    timed_out: bool = False
    exceeded: str = ""
    """Which of its limits it has most likely met, for people; "" if none."""
    outputs: Mapping[str, Path] = field(default_factory=dict)
    memory: int = 0
    """Bytes that it used at most, as far as that was seen; 0: not known. Of one that was killed for lack of memory, the
    limit that it met."""
    out_of_memory: bool = False
    """Whether one of its processes was killed for lack of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """A command that was run beside a server, and has ended."""

    status: int
    """Exit status; 128 + N for a death by signal N, `TIMED_OUT` if it did not end in time."""
    output: bytes
    """What it printed on standard output and error, `OUTPUT_LIMIT` bytes at most."""


TIMED_OUT = 124
"""The exit status of timeout(1)."""
OUTPUT_LIMIT = 4 << 20
"""Bytes of a command's output that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJob:
    """A server that is started, used over TCP, and stopped; without a port, a place for commands."""

    label: str
    image: str
    argv: tuple[str, ...]
    """Program and arguments. The program's path is relative to the root, unless it begins with a slash."""
    inputs: tuple[Input, ...]
    port: int
    """Where it listens; 0 if it does not."""
    log: Path
    network: str = ""
    """The private network of `Engine.network` that it is in; "" for none."""
    unprivileged: bool = False
    """Whether it can write to the folder `data` below the root only."""
    open_files: int | None = None
    """Its limit of open files, soft and hard."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to those that every server has."""
    kept: str = ""
    """Name of a data folder that outlives the server, until `Engine.forget`; "" for an empty one of its own."""
    bounds: Bounds = USUAL


class RunningServer(Protocol):
    """A server that was started."""

    root: str
    """The root folder in the server's view."""
    port: int
    """The port on which it listens."""

    def address(self) -> tuple[str, int]:
        """Return host and port at which this process reaches the server.

        Raises:
            ConnectionRefusedError: the server has ended.
        """

    def wait(self, timeout: float) -> int | None:
        """Return the exit status (128 + N for signal N); None if it still runs after `timeout` seconds."""

    def signal(self, name: str) -> None:
        """Send a signal by its short name, `TERM`."""

    def execute(self, argv: Sequence[str], *, timeout: float) -> Executed:
        """Run a command where the server runs, as its user, in its root folder, and wait for its end.

        Args:
            argv: program, whose path is relative to the root unless it begins with a slash, and arguments.
            timeout: seconds after which it is killed.

        Raises:
            HostError: it cannot be run there; the server may have ended.
        """

    def log_text(self) -> str:
        """Return all that it has printed so far."""

    def restart(self) -> None:
        """Start it again after its end, with the files that it has left."""

    def peer(self) -> str:
        """Return the address at which other servers of its network reach it."""

    def today(self) -> str:
        """Return the date in the server's view, YYYYMMDD."""

    def fetch(self, folder: str) -> bytes | None:
        """Return a folder below the root as a tar archive whose members begin with its name; None if it is missing."""

    def resources(self) -> Mapping[str, int]:
        """Return what its process uses now: `fds`, `threads`, and `rss_kib` of memory (VmRSS)."""

    def mapped_files(self) -> tuple[str, ...]:
        """Return the paths of the files that its process has mapped (/proc/PID/maps), in its view, once each."""


class Engine(Protocol):
    """What runs jobs: containers, or this machine."""

    kind: Literal["docker", "host"]

    def verify(self) -> None:
        """Raise HostError with a hint if the engine cannot be used."""

    def root(self, label: str) -> str:
        """Return the root folder in the view of a job or server with this label."""

    def cores(self) -> int:
        """Return how many CPUs jobs may use together."""

    def memory(self) -> int:
        """Return the bytes of memory of the machine on which jobs run; 0 if that is not known."""

    def run(self, job: Job, into: Path) -> JobResult:
        """Run a job to its end; after success, write its output files into the folder `into`.

        Raises:
            FullDiskError: the job failed because a disk is full, or its log or outputs cannot be written.
            OutputError: an output is missing, is no regular file, or is too large.
        """

    def serve(self, job: ServerJob) -> AbstractContextManager[RunningServer]:
        """Start a server. It is ended and removed when the block is left.

        Raises:
            CannotServe: the engine cannot run it with its options.
        """

    def forget(self, kept: str) -> None:
        """Remove the data folder of that name, `ServerJob.kept`, if it is there and no server uses it."""

    def network(self, label: str) -> AbstractContextManager[str]:
        """Make a private network for servers; give its name. "" if servers use this machine's loopback interface."""

    def cpu_flags(self, image: str) -> frozenset[str]:
        """Return the /proc/cpuinfo flags that all CPUs have where jobs run.

        Args:
            image: any image of the engine; a container of it reads them.
        """

    def cpu_model(self, image: str) -> str:
        """Return how the CPUs call themselves where jobs run, with their microarchitecture; "" if that is not known.

        Args:
            image: as for `cpu_flags`.
        """

    def known_cpu_flags(self) -> frozenset[str] | None:
        """Return the flags as `cpu_flags` does; None if they cannot be known before an image is made."""

    def refuse_full(self) -> None:
        """Look at the disk on which jobs and servers write, as far as it can be seen from here.

        A server's failure may come from a full disk without a word of that.

        Raises:
            FullDiskError: it has no room.
        """

    def sweep(self, notice: Callable[[str], None] = ignore) -> int:
        """Remove what killed runs have left; return how many things that were.

        Args:
            notice: is told what cannot be removed now.
        """

    def abort(self) -> None:
        """End all that this engine runs; for other threads."""

    def settle(self) -> None:
        """Wait until what jobs have left behind is removed. A run is not over before."""


def folders(paths: Iterable[str], *, owned: Mapping[str, int] | None = None) -> bytes:
    """Return a tar archive of folders and their parents, with mode 755.

    Args:
        paths: absolute or not; a slash at the start is ignored.
        owned: owner and group by path; all others are root's.
    """
    owners = {path.strip("/"): owner for path, owner in (owned or {}).items()}
    wanted: dict[str, None] = {}
    for path in paths:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            wanted["/".join(parts[:depth])] = None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in wanted:
            if not name:
                continue
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            info.uid = info.gid = owners.get(name, 0)
            tar.addfile(info)
    return buffer.getvalue()


def files(contents: Mapping[str, bytes | Path], *, executable: Iterable[str] = (), owner: int = 0) -> bytes:
    """Return a tar archive of files and their folders, with mode 644 or 755 and time 0.

    Args:
        contents: of the files, by name.
        executable: names of files with mode 755.
        owner: owner and group of all.
    """
    modes = set(executable)
    buffer = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(contents):
            parts = name.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in made:
                    made.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type = tarfile.DIRTYPE
                    info.mode = 0o755
                    info.uid = info.gid = owner
                    tar.addfile(info)
            content = contents[name]
            data = content.read_bytes() if isinstance(content, Path) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755 if name in modes else 0o644
            info.uid = info.gid = owner
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
