"""Starts the tool without importing it each time: a process that has imported it forks, once for each run.

Half of what a short run costs is imports, and the tests run the tool hundreds of times. All that a new process would
have is made anew in the forked one: arguments, environment, folder, umask, session, standard streams. What depends on
how Python itself was started is not: see `same_start`. Runs that a test watches, or sends signals to, are real ones,
because a forked process has the command line of the one that it comes from; so are those of the bare machines, and all
of them with PIKAFORGE_TEST_ALL=starts.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import audit_memory

STARTS_PYTHON = re.compile(r"PYTHON|LC_|LANG|TZ|LD_|MALLOC_")
"""Variables that are read while Python, or the C library, starts."""
LENGTH = 8
"""Bytes before a request that say how long it is."""


class Preloaded:
    """The process that forks. It is started with the first run, and ends with this process."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._started: dict[str, str] = {}
        """What Python was started with."""
        self.seconds = 0.0
        """CPU seconds of the runs that have ended, with the programs that these have started."""

    def same_start(self, env: Mapping[str, str]) -> bool:
        """Whether Python would start alike in this environment and in that of the process that forks."""
        return self._control is None or self._started == _of_python(env)

    def _connect(self, env: Mapping[str, str]) -> socket.socket:
        if self._control is None:
            self._started = _of_python(env)
            # Nothing else of the first run: a test may look for what still runs with a variable of its own.
            rest = {name: value for name, value in os.environ.items() if not STARTS_PYTHON.match(name)}
            ours, theirs = socket.socketpair()
            with theirs:
                subprocess.Popen(
                    [sys.executable, __file__, str(theirs.fileno())],
                    env={**rest, **self._started},
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._control = ours
        return self._control

    def start(self, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path | None, umask: int) -> Run:
        """Start `python -m pikaforge ARGV`."""
        request = {"argv": argv, "env": dict(env), "cwd": str(cwd or Path.cwd()), "umask": umask}
        text = json.dumps(request).encode()
        ours, theirs = socket.socketpair()
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            with theirs:
                socket.send_fds(self._connect(env), [b"r"], [theirs.fileno(), null, to_out, to_err])
        finally:
            for each in (null, to_out, to_err):
                os.close(each)
        ours.sendall(len(text).to_bytes(LENGTH, "big") + text)
        return Run(self, ours, out, err)


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if STARTS_PYTHON.match(name)}


class Run:
    """A run of the tool, as `subprocess.Popen` would have it."""

    def __init__(self, starter: Preloaded, answers: socket.socket, out: int, err: int) -> None:
        self._starter = starter
        self._answers = answers.makefile("r", encoding="ascii")
        self._socket = answers
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr: IO[str] = os.fdopen(err, encoding="utf-8", errors="replace")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("pikaforge", timeout or 0.0)
            status, seconds = self._answers.readline().split()
            self.returncode = int(status)
            self._starter.seconds += float(seconds)
            self._answers.close()
            self._socket.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


# ---- the process that forks


class Forks:
    """Forks for each request; tells who asked the process id, and later the exit status and CPU seconds."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, socket.socket] = {}
        self._woken, self._waker = socket.socketpair()

    def serve(self) -> dict[str, Any]:
        """Serve until nobody asks any more. In a forked process this returns what was asked for."""
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready = select.select([self._control, self._woken], [], [])[0]
            if self._woken in ready:
                self._woken.recv(4096)
                self._tell()
            if self._control in ready:
                said, fds, _, _ = socket.recv_fds(self._control, 1, 4)
                if not said:
                    self._end()
                if (request := self._fork(fds)) is not None:
                    return request

    def _fork(self, fds: list[int]) -> dict[str, Any] | None:
        answers = socket.socket(fileno=fds[0])
        pid = os.fork()
        if pid:
            for each in fds[1:]:
                os.close(each)
            answers.sendall(f"{pid}\n".encode())
            self._running[pid] = answers
            return None
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, each in enumerate(fds[1:]):
            os.dup2(each, number)
            os.close(each)
        with answers, answers.makefile("rb") as stream:
            request: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(LENGTH), "big")))
        for other in (self._control, self._woken, self._waker, *self._running.values()):
            other.close()
        return request

    def _tell(self) -> None:
        while self._running:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            answers = self._running.pop(pid)
            with answers, contextlib.suppress(OSError):  # nobody may wait for it any more
                seconds = usage.ru_utime + usage.ru_stime
                answers.sendall(f"{os.waitstatus_to_exitcode(status)} {seconds:.3f}\n".encode())

    def _end(self) -> NoReturn:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        os._exit(0)


def become(request: Mapping[str, Any]) -> None:
    """Make this forked process what a new one would be."""
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    if request["umask"] >= 0:
        os.umask(request["umask"])
    tempfile.tempdir = None
    sys.path[0] = request["cwd"]
    sys.argv = ["pikaforge", *request["argv"]]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        unbuffered = old.write_through and number > 0
        raw = os.fdopen(number, "wb" if number else "rb", buffering=0 if unbuffered else -1, closefd=False)
        stream = io.TextIOWrapper(
            raw, old.encoding, old.errors, line_buffering=name == "stderr", write_through=unbuffered
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def preload() -> None:
    """Import all that a verb may import. What cannot be imported here is found by the run that needs it."""
    import pikaforge

    for module in pkgutil.walk_packages(pikaforge.__path__, "pikaforge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("docker")
    from pikaforge.cli.unchanged import again
    from pikaforge.config import licences

    licences.fault("MIT")  # the list of licences is the same for each run
    again.SHARE = 0  # few tests call twice: a second look would take more than it saves
    audit_memory.install()
    gc.collect()
    gc.freeze()  # so that a collection in a forked process does not copy all pages


if __name__ == "__main__":
    preload()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        asked = Forks(channel).serve()
    become(asked)
    runpy.run_module("pikaforge", run_name="__main__", alter_sys=True)
