"""What is asked of an engine: jobs that run to their end, and servers that are talked to.

Files travel as tar streams in both directions and land below one root folder, `PIKAFORGE_ROOT` in the environment of
what runs: `/forge` in a container, a temporary folder on the host engine. So one guest script serves both.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pikaforge.errors import HostError

SIGNAL_BASE = 128
"""Shells and container engines report death by signal N as exit status 128 + N."""
NOBODY = 65534
"""User and group of unprivileged servers: `nobody` by that number everywhere, and owner of nothing."""


class CannotServe(HostError):
    """This engine cannot run a server as it is asked to; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A tar archive and the folder below the root into which it is unpacked."""

    folder: str
    archive: Path | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A guest script that runs to its end."""

    label: str
    """Stage and node, for names and logs: `compile-debian12-sandybridge-none`."""
    image: str
    argv: tuple[str, ...]
    """Paths of guest scripts are relative to the root, which is the working folder."""
    env: Mapping[str, str]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] = ()
    """Regular files below the root that are fetched after success."""
    log: Path
    cache: str = ""
    """Name of a cache that survives jobs; its folder is given as `CCACHE_DIR`."""
    network: Literal["none", "bridge"] = "none"
    timeout: float = 4 * 3600
    """Seconds after which the job is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended, and its output files in the folder that the caller gave."""

    status: int
    """Exit status; 128 + N for death by signal N."""
    timed_out: bool = False
    outputs: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJob:
    """A server that is started, talked to over TCP, and stopped."""

    label: str
    image: str
    argv: tuple[str, ...]
    """The program's path is relative to the root; so are the paths that its configuration names."""
    inputs: tuple[Input, ...]
    port: int
    log: Path
    network: str = ""
    """The private network of `Engine.network` that it is on."""
    unprivileged: bool = False
    """Whether it runs as a user who may write nothing but the folder `data` below the root."""
    open_files: int | None = None
    """Its limit of open files, soft and hard."""
    env: Mapping[str, str] = field(default_factory=dict)
    """On top of the environment that every server has."""


class RunningServer(Protocol):
    """A started server."""

    root: str
    """The root folder as the server sees it."""
    port: int
    """The port on which it listens."""

    def address(self) -> tuple[str, int]:
        """Host and port at which this process reaches the server's port."""

    def wait(self, timeout: float) -> int | None:
        """The exit status (128 + N for signal N), or None if it still runs after `timeout` seconds."""

    def signal(self, name: str) -> None:
        """Send a signal by its short name, `TERM`."""

    def log_text(self) -> str:
        """All that it has printed so far."""

    def again(self) -> None:
        """Start it again after its end, with the files that it left."""

    def peer(self) -> str:
        """The address at which other servers of its network reach it."""

    def today(self) -> str:
        """The date where it runs, YYYYMMDD."""

    def fetch(self, folder: str) -> bytes | None:
        """A folder below the root as a tar archive whose members begin with its name; None if it is not there."""

    def rest(self) -> Mapping[str, int]:
        """What its process holds now: `fds` and `threads`, and `rss_kib` of memory (VmRSS)."""

    def mapped(self) -> tuple[str, ...]:
        """Paths of the files that its process has mapped (/proc/PID/maps), as it sees them, once each."""


class Engine(Protocol):
    """Where jobs run: containers, or this machine itself."""

    kind: Literal["docker", "host"]

    def verify(self) -> None:
        """Raise HostError, with the way to get one, if the engine cannot be used."""

    def root(self, label: str) -> str:
        """The root folder as a job or server of this label will see it."""

    def cores(self) -> int:
        """CPUs that jobs may use together."""

    def run(self, job: Job, into: Path) -> JobResult:
        """Run a job to its end; on success its output files are written into the folder `into`."""

    def serve(self, job: ServerJob) -> AbstractContextManager[RunningServer]:
        """Start a server; it is ended and removed when the block is left.

        Raises:
            CannotServe: this engine cannot give it what it asks for.
        """

    def network(self, label: str) -> AbstractContextManager[str]:
        """Make a private network for servers; its name. Empty where servers share this machine's loopback instead."""

    def cpu_flags(self, image: str) -> frozenset[str]:
        """The /proc/cpuinfo flags that all CPUs have where jobs run.

        Args:
            image: any image of the engine, to look with.
        """

    def known_cpu_flags(self) -> frozenset[str] | None:
        """As `cpu_flags`, as far as it can be told before any image is made; None if it cannot."""

    def sweep(self) -> int:
        """Remove what runs left that were killed; the count of it."""

    def abort(self) -> None:
        """End everything that this engine has running, from another thread."""


def folders(paths: Iterable[str], *, owned: Mapping[str, int] | None = None) -> bytes:
    """A tar archive with just these folders and their parents, mode 755.

    Args:
        paths: absolute or not; a slash at the start counts for nothing.
        owned: owner and group by path; root is that of all others.
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
    """A tar archive of files by their names, with their folders; owner root, mode 644 or 755, time 0."""
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
