"""Dask clusters of a test's own: a scheduler and workers as programs, on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import OWNER

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}
"""Settings with which a worker that is stuck is given up sooner than after five minutes."""


def tool_path() -> str:
    """PYTHONPATH of programs that import this tool."""
    return os.pathsep.join(filter(None, [str(ROOT / "build"), os.environ.get("PYTHONPATH", "")]))


def connecting(script: str, address: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script that connects to an address, in a process of its own: the library keeps threads and settings."""
    return subprocess.run(
        [sys.executable, "-c", script, address],
        env={**os.environ, **(env or {}), "PYTHONPATH": tool_path()},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


class Program:
    """A running program of the cluster, with its log."""

    def __init__(
        self, name: str, argv: list[str], folder: Path, env: Mapping[str, str], enter: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*enter, sys.executable, "-m", *argv],
                env={**os.environ, **QUICK, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def wait_for(self, words: str, timeout: float = 60.0) -> None:
        """Wait until a line of the log has these words."""
        end = time.monotonic() + timeout
        while words not in self.log.read_text(encoding="utf-8", errors="replace"):
            if self._popen.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{self.name} does not say {words!r}:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.signal(signal.SIGKILL)
        self._popen.wait()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None


class Farm:
    """A scheduler, workers, and a shared store."""

    def __init__(self, folder: Path, enter: tuple[str, ...] = ()) -> None:
        """`enter`: the begin of the programs' command lines, if they are in a network of their own."""
        self.folder = folder
        self._enter = enter
        self.store = folder / "shared"
        self.store.mkdir(parents=True, exist_ok=True)
        self.scheduler: Program | None = None
        self.workers: dict[str, Program] = {}
        self.env = {"PIKAFORGE_STORE": str(self.store)}
        """What clients and workers need."""
        self.images: Path | None = None
        """Results of images that workers have already, so that each begins with the source."""
        self._count = 0

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return str(json.loads(self._file.read_text(encoding="utf-8"))["address"])

    @property
    def _file(self) -> Path:
        return self.folder / f"scheduler-{self._count}.json"

    def start(self, *, port: int = 0) -> None:
        """Start a scheduler."""
        self._count += 1
        argv = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
        argv += ["--no-dashboard", "--no-show", "--scheduler-file", str(self._file)]
        self.scheduler = Program(f"scheduler-{self._count}", argv, self.folder, {}, self._enter)
        self.scheduler.wait_for("Scheduler at:")
        while not self._file.exists():
            time.sleep(0.05)

    def worker(self, name: str, *words: str, env: Mapping[str, str] | None = None) -> Program:
        """Start a worker; it is there when this returns."""
        argv = ["distributed.cli.dask_worker", self.address, "--preload", "pikaforge.farm.preload", "--name", name]
        argv += ["--no-nanny", "--no-dashboard", "--nthreads", "4", "--host", "127.0.0.1"]
        argv += ["--local-directory", str(self.folder / f"{name}-dask"), *words]
        if self.images is not None:  # they are in the engine, too
            shutil.copytree(self.images, self.folder / f"{name}-out" / "store" / "image", dirs_exist_ok=True)
        own = {"PYTHONPATH": tool_path(), "PIKAFORGE_FARM_OUT": str(self.folder / f"{name}-out")}
        surroundings = {**self.env, **own, **(env or {})}
        made = Program(f"{name}-{self._count}", argv, self.folder, surroundings, self._enter)
        made.wait_for("Registered to:")
        self.workers[name] = made
        return made

    def close(self) -> None:
        """End all."""
        everyone = [*self.workers.values(), *([self.scheduler] if self.scheduler is not None else [])]
        for program in everyone:
            program.signal(signal.SIGCONT)
            program.kill()


class Containers:
    """The containers of nodes that are made for a farm, as an observer beside it."""

    def __init__(self, engine: Engine, farm: Farm) -> None:
        self._engine = engine
        self._mark = f"PIKAFORGE_STORE={farm.store}".encode()

    def now(self, word: str = "") -> list[Container]:
        """Those that are there at this moment, with a word in their names."""
        found = self._engine.client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)
        return [each for each in found if word in str(each.name) and self._of_farm(each.labels)]

    def _of_farm(self, labels: Mapping[str, str]) -> bool:
        """Whether a process of the farm has made it. One that has ended removes its containers before."""
        pid = labels.get(OWNER, "").split("-")[1:2]
        try:
            return self._mark in Path(f"/proc/{pid[0]}/environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            return False

    def release(self, container: Container) -> None:
        """Let a recipe go on that waits for this, unless it has not begun, or has ended."""
        from docker.errors import APIError

        with contextlib.suppress(APIError):
            container.exec_run(["touch", "/forge/go"], user="0")

    def gone(self, ids: Iterable[str]) -> bool:
        """Whether the engine has none of them any more, whoever has removed them."""
        there = {each.id for each in self._engine.client.containers.list(all=True, ignore_removed=True)}
        return not there & set(ids)


@contextmanager
def farm(folder: Path, enter: tuple[str, ...] = ()) -> Iterator[Farm]:
    """A cluster without workers."""
    pytest.importorskip("distributed")
    folder.mkdir(parents=True, exist_ok=True)
    made = Farm(folder, enter)
    try:
        made.start()
        yield made
    finally:
        made.close()
