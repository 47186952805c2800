"""A docker engine of a test's own, on a small disk: it may be filled, stopped and killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP and IFF_RUNNING
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Switches the loopback interface of a new network namespace on, and becomes a program."""


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of some size, as a folder of this machine; skips where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        _unmount(folder)
        folder.rmdir()


def _unmount(folder: Path) -> None:
    """Unmount a folder, and what is mounted below it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((m for m in mounts if m == str(folder) or m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Fill a file system, but for some bytes; the file with which that is done."""
    file = folder / ".filler"
    with file.open("wb") as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 20))
            stream.flush()
    os.truncate(file, max(0, file.stat().st_size - leave))
    return file


class OwnEngine:
    """dockerd with its containerd, below one folder. It has no network, or one that ends on this machine."""

    def __init__(self, folder: Path, *, bridged: bool = False) -> None:
        """`bridged`: containers have a bridge, in the engine's own network namespace (nsenter(1))."""
        self.folder = folder
        self._network = () if bridged else ("--bridge=none",)
        self.address = f"unix://{folder}/s"
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of dockerd."""
        assert self._running is not None
        return self._running.pid

    def start(self) -> None:
        """Start it, and wait until it answers; skips if it cannot run here."""
        (self.folder / "conf").write_text("{}", encoding="utf-8")
        argv = [
            # In a network of its own: `--bridge=none` removes docker0, which is that of the machine's engine.
            *("unshare", "--net", "--", sys.executable, "-c", LOOPBACK),
            *("dockerd", f"--config-file={self.folder}/conf"),
            *(f"--pidfile={self.folder}/p", f"--host={self.address}"),
            *(f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec"),
            *(*self._network, "--iptables=false", "--ip6tables=false"),
        ]
        # A containerd that was killed, and that nobody has waited for, would be taken for a living one.
        for left in ("p", "s", "exec/containerd/containerd.pid"):
            (self.folder / left).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._running = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._running.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not run here: {(self.folder / 'log').read_text(errors='replace')[-400:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        import docker

        try:
            client = docker.DockerClient(base_url=self.address, timeout=5)
            client.close()
        except docker.errors.DockerException:
            return False
        return True

    def kill(self) -> None:
        """Kill dockerd, with which its containerd is killed (prctl(2), PR_SET_PDEATHSIG); containers run on."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def close(self) -> None:
        """End dockerd, and what it has started: containerd, its shims, and what runs in containers."""
        if self._running is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        if self._running.poll() is None:
            self._running.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._running.wait(20)
        self.kill()
        for pid in self._left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Processes that name its folder, and their children."""
        named, parents = set(), {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parents[int(place.name)] = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                arguments = place.joinpath("cmdline").read_bytes()
                if f"{self.folder}/".encode() in arguments:
                    named.add(int(place.name))
        children = {pid for pid, parent in parents.items() if parent in named}
        return sorted((named | children) - {os.getpid(), 1})


@contextmanager
def own_engine(size: str, *, bridged: bool = False) -> Iterator[OwnEngine]:
    """An engine on a disk of some size; skips where none can run."""
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip("dockerd runs as root only, and has to be installed")
    with small_disk(size) as folder:
        engine = OwnEngine(folder, bridged=bridged)
        try:
            engine.start()
            yield engine
        finally:
            engine.close()
