"""A Python index on this machine's loopback interface, the wheel that is put there, and pip, which takes it."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from integration.builds import ALL_FORMATS, SampleBuild

NAME = "pika-server"
VERSION = "3.4.0+r620.debian12"
GONE = ("PYTHONPATH", "PYTHONHOME", "PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE", "LD_LIBRARY_PATH")
OPEN = ("-a", ".", "-P", ".")
"""Options of an index that lets everybody do everything."""


def clean() -> dict[str, str]:
    """This process's environment without what changes what is run, and without pip's settings, which name indexes."""
    env = {name: value for name, value in os.environ.items() if name not in GONE and not name.startswith("PIP_")}
    # A loopback address is no proxy's business.
    return {**env, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "PIP_CONFIG_FILE": os.devnull}


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(word) for word in argv], env=clean(), capture_output=True, text=True, check=False, timeout=120
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A package index that runs."""

    url: str
    log: Path

    def get(self, path: str) -> str:
        """What it answers; nothing while there is no answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def listens(self) -> bool:
        """Whether it takes connections."""
        host, _, port = self.url.rpartition("/")[2].partition(":")
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError:
            return False
        return True


def wheel_of(sample_build: Callable[..., SampleBuild], folder: Path) -> Path:
    """The wheel as the pipeline leaves it in dist/, with what lies beside it, in a folder without other packages."""
    (wheel,) = sample_build("R620", "--formats", ALL_FORMATS).dist.glob("*.whl")
    for path in wheel.parent.glob(f"{wheel.name}*"):
        shutil.copy2(path, folder)
    return folder / wheel.name


@contextmanager
def index_of(folder: Path, log: Path, until: Callable[..., None], *, options: Sequence[str] = OPEN) -> Iterator[Index]:
    """A pypiserver with the packages of a folder; it has nothing else and asks no other index."""
    argv = [sys.executable, "-m", "pypiserver", "run", "--interface", "127.0.0.1", "--disable-fallback", "-v"]
    with index_by(lambda port: [*argv, "--port", str(port), *options, str(folder)], log, until) as index:
        yield index


@contextmanager
def index_by(argv: Callable[[int], Sequence[str]], log: Path, until: Callable[..., None]) -> Iterator[Index]:
    """An index that a program serves on the port that it is given."""
    for _ in range(20):  # the port may be taken between the two lines
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        index = Index(url=f"http://127.0.0.1:{port}", log=log)
        with serving(argv(port), log) as server:

            def ended_or_listens(server: subprocess.Popen[bytes] = server, index: Index = index) -> bool:
                return server.poll() is not None or index.listens()

            until(ended_or_listens, "the index listens", 60)
            if server.poll() is None:
                yield index
                return
        if "Address already in use" not in log.read_text():
            break
    pytest.fail(f"the index does not start:\n{log.read_text()}")


@contextmanager
def serving(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs while the block does."""
    with log.open("wb") as stream:
        server = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=clean(), start_new_session=True
        )
    try:
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def install(environment: Path, simple: str, wanted: str) -> subprocess.CompletedProcess[str]:
    """Let pip of this environment install something into another one, from an index alone."""
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check")
    return run(*pip, "install", "--no-deps", "--no-cache-dir", "--index-url", simple, wanted)


def skip_unless_it_runs_here(needed: str) -> None:
    """The sample's program needs a glibc."""
    if numbers(platform.libc_ver()[1]) < numbers(needed):
        pytest.skip(f"this machine's glibc is older than {needed}, which the sample for debian12 needs")


def numbers(version: str) -> tuple[int, ...]:
    """A version to compare."""
    return tuple(int(part) for part in version.split("."))
