"""Runs of the tool that are killed, on an engine of the test's own: what runs, what is left, and the bytes at the end.

Nothing else is in that engine, so what a run leaves there is counted exactly: containers, volumes and networks.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Project
    from docker import DockerClient
    from own_engine import OwnEngine

MARK = "PIKAFORGE_TEST_MARK"
LIMIT = 600.0
"""Seconds for one run, on a machine that is busy."""
DESCRIBES_THE_RUN = ("report.json", "report.html")
"""Files of dist/ that say when a build was, and how long it took."""
PARTS = re.compile(
    r"/\.new-[^/]*|/\.making-[^/]*|/\.[^/]*[0-9a-f]{16}-\d+-\d+[^/]*|/tmp_[^/]*|\.part(\.json)?|\.git/.*\.lock|/work/.+"
)
"""Ends of paths that nobody may leave: results and files in the making, locks of results, parts of downloads and of
git."""
TRACE = "Traceback (most recent call last)"


def seed_of(name: str) -> random.Random:
    """A source of chance whose seed is shown, and can be given by PIKAFORGE_TEST_SEED."""
    seed = os.environ.get("PIKAFORGE_TEST_SEED") or f"{time.time_ns():x}"
    print(f"PIKAFORGE_TEST_SEED={seed} ({name})")  # pytest shows it with a failure
    return random.Random(f"{name} {seed}")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what a build has put into dist/, by path, but for what describes the run itself."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in DESCRIBES_THE_RUN and path.name[0] != "."
    }


def processes(mark: str, variable: str = MARK) -> list[int]:
    """Ids of the processes that a run has started, itself among them, without those that have ended.

    It is known by the value of a variable, which they all have.
    """
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{variable}={mark}\0".encode() in place.joinpath("environ").read_bytes() + b"\0":
                found.append(int(place.name))
    return found


def listed(pids: Iterable[int]) -> str:
    """Processes with state, threads' places in the kernel, and command line: a line each."""
    lines = []
    for pid in pids:
        with suppress(OSError):
            place = Path(f"/proc/{pid}")
            state = place.joinpath("stat").read_text().rpartition(")")[2].split()[0]
            waits = {thread.joinpath("wchan").read_text() for thread in place.glob("task/*")}
            command = place.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            lines.append(f"{pid} {state} {' '.join(sorted(waits))} {command}")
    return "\n".join(lines)


def kill_tree(mark: str) -> int:
    """Kill all processes of a run; how many those were. One that is just started by another is killed, too."""
    killed: set[int] = set()
    while left := processes(mark):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        for pid in left:
            _wait_for_the_end(pid)
    return len(killed)


def _wait_for_the_end(pid: int) -> None:
    """Wait until a killed process has no environment any more."""
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            import select

            select.select([descriptor], [], [], 10)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """An engine of the test's own, with the images of the sample, in a network that ends there."""

    engine: OwnEngine

    @property
    def enter(self) -> tuple[str, ...]:
        """The begin of the command line of what must reach the servers in its containers."""
        return ("nsenter", f"--net=/proc/{self.engine.pid}/ns/net", "--")

    @contextmanager
    def client(self) -> Iterator[DockerClient]:
        """Speak to it."""
        import docker

        client = docker.DockerClient(base_url=self.engine.address, timeout=600)
        try:
            yield client
        finally:
            client.close()

    def left(self) -> list[str]:
        """What is in it besides its images."""
        with self.client() as client:
            found = [f"container {c['Names'] or c['Id']}" for c in client.api.containers(all=True)]
            found += [f"volume {v['Name']}" for v in client.api.volumes()["Volumes"] or ()]
            found += [f"network {n['Name']}" for n in client.api.networks()]
        return [each for each in found if each not in ("network bridge", "network host", "network none")]

    def kill_containers(self) -> int:
        """Kill what runs in it; how many containers those were."""
        import docker

        killed = 0
        with self.client() as client:
            for container in client.api.containers():
                with suppress(docker.errors.APIError):
                    client.api.kill(container["Id"], signal="KILL")
                    killed += 1
        return killed


class Run:
    """A run of the tool that may be killed."""

    def __init__(self, argv: list[str], env: Mapping[str, str], log: Path, mark: str) -> None:
        self.mark = mark
        self._log = log
        with log.open("wb") as stream:
            self._popen = subprocess.Popen(
                argv,
                env={**env, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def lasts(self, seconds: float) -> bool:
        """Wait for its end at most so long; whether it still runs then."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def finish(self) -> int:
        """Its exit status; it is killed, and None of the statuses, if it does not end."""
        if self.lasts(LIMIT):
            kill_tree(self.mark)
            self._popen.wait()
            raise AssertionError(f"it did not end within {LIMIT:g} s:\n{self.text}")
        return int(self._popen.returncode)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@dataclass(slots=True, kw_only=True)
class Survivor:
    """A project whose runs meet with trouble."""

    project: Project
    env: Mapping[str, str]
    island: Island | None = None
    words: tuple[str, ...] = ("R620", "--no-compiler-cache")
    python: str = sys.executable
    number: int = 0
    seconds: float = 0.0
    """Of a whole build, from nothing but images."""
    bytes: Mapping[str, str] = field(default_factory=dict)
    """What a whole build without any trouble has made."""

    @property
    def temporary(self) -> Path:
        """TMPDIR of the runs."""
        return self.project.folder.parent / "tmp"

    def start(self, *, enter: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> Run:
        """Start a build."""
        self.number += 1
        self.temporary.mkdir(exist_ok=True)
        argv = [*(self.island.enter if self.island else ()), *enter, self.python, "-m", "pikaforge"]
        argv += self.project.arguments("build", *self.words)
        surroundings = {**self.project.tool.environment(self.env), "TMPDIR": str(self.temporary), **(env or {})}
        mark = f"{self.project.folder}#{self.number}"
        return Run(argv, surroundings, self.project.folder.parent / "output", mark)

    def run(self, **options: Any) -> tuple[int, str]:
        """Run a build to its end; its exit status, and what it has printed."""
        run = self.start(**options)
        return run.finish(), run.text

    def learn(self) -> None:
        """Build without any trouble."""
        self.begin_anew()
        began = time.monotonic()
        status, text = self.run()
        assert status == 0, text
        self.seconds = time.monotonic() - began
        self.bytes = digests(self.project.dist)
        assert any(name.endswith(".tar.gz") for name in self.bytes), text
        assert self.left() == []

    def begin_anew(self) -> None:
        """Forget all results but images."""
        for path in self.project.out.glob("*"):
            if path.name != "store":
                shutil.rmtree(path)
        for path in (self.project.out / "store").glob("*"):
            if path.name != "image":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.project.dist, ignore_errors=True)

    def forget(self, *stages: str) -> None:
        """Forget results of some stages, and what is in dist/."""
        for stage in stages:
            shutil.rmtree(self.project.out / "store" / stage, ignore_errors=True)
        shutil.rmtree(self.project.dist, ignore_errors=True)

    def left(self) -> list[str]:
        """What runs have left that nobody needs: in out/, dist/, beside matrix.yaml, in TMPDIR, and in the engine."""
        project = self.project
        found = [
            str(path)
            for top in (project.out, project.dist, project.folder)
            for path in top.rglob("*")
            if PARTS.search(str(path))
        ]
        found += map(str, self.temporary.iterdir())
        return found + (self.island.left() if self.island else [])

    def as_ever(self, text: str = "") -> None:
        """After a run that came to its end: the bytes are those of a build without trouble, and nothing is left."""
        assert digests(self.project.dist) == self.bytes, text
        assert self.left() == [], text
