"""Other programs: the one module that starts them. Commands are argument vectors, never shell text."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pikaforge.errors import FullDiskError, ProgramError
from pikaforge.host import interrupts
from pikaforge.host.disk import HINT, has_no_room, said_in
from pikaforge.host.ended_runs import start_time as start_time  # noqa: PLC0414  # that of a process is looked for here
from pikaforge.host.raw import RawStream

Argv = Sequence[str]
SECRET = re.compile(r"PIKAFORGE_(SIGNING_KEY|.*_(PASSWORD|TOKEN))")
"""Variables that other programs do not get: they may hold a secret itself, and not only its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ended."""

    argv: tuple[str, ...]
    status: int
    """Exit status; negative N means killed by signal N."""
    stdout: bytes
    stderr: bytes

    def text(self) -> str:
        """Return standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    def errors(self) -> str:
        """Return standard error as text, with a last line if the program was killed, because it says nothing of that.

        Bytes that are not UTF-8 are replaced.
        """
        said = self.stderr.decode("utf-8", "replace")
        if self.status >= 0:
            return said
        try:
            name = signal.Signals(-self.status).name
        except ValueError:  # a real-time signal
            name = f"signal {-self.status}"
        between = "" if said.endswith("\n") or not said else "\n"
        return f"{said}{between}{Path(self.argv[0]).name} was killed by {name}\n"


def find(program: str) -> str | None:
    """Return the path of a program; None without one. The sbin folders count also if they are not on PATH."""
    path = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    return shutil.which(program, path=path)


def require(program: str, *, hint: str) -> str:
    """Return the path of a program.

    Args:
        program: its name.
        hint: how to get it.

    Raises:
        HostError: it is missing.
    """
    path = find(program)
    if path is None:
        raise ProgramError(f"the program `{program}` is missing on this machine", hint=hint)
    return path


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of this process with a fixed locale, without this tool's secrets, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not SECRET.fullmatch(name)}
    return {**kept, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", **(extra or {})}


def run(
    argv: Argv,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
) -> Completed:
    """Run a program to its end, and return what it has printed.

    Raises:
        HostError: it cannot be started, or ran longer than `timeout` seconds and was killed.
        FullDiskError: it failed and says that a disk is full.
    """
    options = {
        "cwd": cwd,
        "env": environment() if env is None else dict(env),
        "stdin": subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    with _started(argv, options) as started:
        try:
            stdout, stderr = started.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as error:
            raise ProgramError(f"`{argv[0]}` did not end within {timeout:g} s") from error
    done = Completed(argv=tuple(argv), status=started.returncode, stdout=stdout, stderr=stderr)
    if done.status != 0 and (said := said_in(done.errors().splitlines())):
        named = (Path(word.rpartition("=")[2]) for word in argv if "/" in word)
        folder = next(filter(has_no_room, [Path(tempfile.gettempdir()), cwd or Path.cwd(), *named]), None)
        raise FullDiskError(
            f"no space left{f' in {folder}' if folder else ''} for `{Path(argv[0]).name}`: {said}", hint=HINT
        )
    return done


_running: set[int] = set()
_ended = threading.Event()


@contextmanager
def _started(argv: Argv, options: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a session of its own. If it still runs when the block is left, it is ended with its group.

    Raises:
        HostError: it cannot be started, or `end_all` was called.
    """
    if _ended.is_set():
        raise ProgramError("interrupted")
    interrupts.hold()
    try:
        started: subprocess.Popen[bytes] = subprocess.Popen(list(argv), start_new_session=True, **options)
    except BaseException as error:
        interrupts.release()
        if not isinstance(error, OSError):
            raise
        hint = "install it, then run again" if isinstance(error, FileNotFoundError) else ""
        raise ProgramError(f"cannot run `{argv[0]}`: {error.strerror}", hint=hint) from error
    _running.add(started.pid)
    try:
        interrupts.release()
        if _ended.is_set():  # another thread has ended what it knew of
            raise ProgramError("interrupted")
        yield started
    finally:
        _running.discard(started.pid)
        if started.poll() is None:
            _kill_group(started.pid)
        for stream in (started.stdin, started.stdout, started.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        started.wait()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_all() -> None:
    """End every program that was started here, with its process group. No program starts afterwards."""
    _ended.set()
    for pid in list(_running):
        _kill_group(pid)


def pause(seconds: float) -> None:
    """Wait in a thread.

    Raises:
        HostError: `end_all` was called: the run is interrupted, and the thread has to end.
    """
    if _ended.wait(seconds):
        raise ProgramError("interrupted")


class Child:
    """A running program in a process group of its own, so that it can be ended with all that it has started."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = self._popen.pid

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit status (negative N: killed by signal N); None if it still runs after `timeout` seconds."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, if it still runs."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def kill_group(self) -> None:
        """End the program and all that it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:  # a program of the group has changed its user; the first one has not
            self._popen.kill()
        self._popen.wait()


@contextmanager
def child(
    argv: Argv,
    *,
    cwd: Path,
    env: Mapping[str, str],
    output: IO[bytes],
    user: int | None = None,
    stdin: IO[bytes] | None = None,
) -> Iterator[Child]:
    """Start a program. It is ended with its process group when the block is left.

    Args:
        argv: program and arguments.
        cwd: its working folder.
        env: its whole environment.
        output: where standard output and error go.
        user: user and group that it runs as; only root can change them.
        stdin: a file or pipe that it reads; else it reads nothing.
    """
    options = {
        "cwd": cwd,
        "env": dict(env),
        "stdin": subprocess.DEVNULL if stdin is None else stdin,
        "stdout": output,
        "stderr": subprocess.STDOUT,
        "user": user,
        "group": user,
        "extra_groups": None if user is None else [],
    }
    with _started(argv, options) as popen:
        started = Child(popen)
        try:
            yield started
        finally:
            started.kill_group()


LATE = 5.0
"""Seconds for the rest of an output. A program that has left its group may keep it open for ever."""


def bounded(
    argv: Argv, *, cwd: Path, env: Mapping[str, str], user: int | None, timeout: float, limit: int
) -> tuple[int | None, bytes]:
    """Run a program to its end, with bounds for its time and for what is kept of its output.

    Args:
        argv: program and arguments.
        cwd: its working folder.
        env: its whole environment.
        user: user and group that it runs as; only root can change them.
        timeout: seconds after which it is killed, with all that it has started.
        limit: bytes of standard output and error that are kept.

    Returns:
        Its exit status, negative N if signal N killed it, None if it was killed here; and what it has printed.

    Raises:
        HostError: it cannot be started.
    """
    reading, writing = os.pipe()
    kept = bytearray()

    def keep() -> None:
        with os.fdopen(reading, "rb", buffering=0) as stream:
            while block := stream.read(1 << 16):
                kept.extend(block[: limit - len(kept)])

    reader = threading.Thread(target=keep, daemon=True)
    reader.start()
    with os.fdopen(writing, "wb") as output, child(argv, cwd=cwd, env=env, output=output, user=user) as started:
        output.close()  # else the end is never read
        status = started.wait(timeout)
    reader.join(LATE)
    return status, bytes(kept)


def resources(status: str) -> dict[str, int]:
    """Return `threads` and `rss_kib` of a text of /proc/PID/status."""
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {"threads": int(values["Threads"]), "rss_kib": int(values["VmRSS"].split()[0])}


def mapped_files(maps: str) -> tuple[str, ...]:
    """Return the paths of files in a text of /proc/PID/maps, once each."""
    fields = (line.split(maxsplit=5) for line in maps.split("\n"))
    return tuple(dict.fromkeys(row[5] for row in fields if len(row) > 5 and row[5].startswith("/")))


class _Output(RawStream):
    """Standard output of a running program. At its end it raises EOFError if the program has failed."""

    def __init__(self, started: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._started, self._errors = started, errors

    def some(self, size: int) -> bytes:
        assert self._started.stdout is not None
        data = self._started.stdout.read(size)
        if not data and self._started.wait() != 0:
            self._errors.seek(0)
            raise EOFError(self._errors.read(1000).decode("utf-8", "replace").strip() or "its program failed")
        return data


@contextmanager
def output(argv: Argv, *, stdin: IO[bytes]) -> Iterator[IO[bytes]]:
    """Start a program, and give its output as it comes. It is ended when the block is left.

    Args:
        argv: program and arguments.
        stdin: a file that it reads.

    Raises:
        HostError: it cannot be started.
    """
    with tempfile.TemporaryFile() as errors:
        options = {"env": environment(), "stdin": stdin, "stdout": subprocess.PIPE, "stderr": errors}
        with _started(argv, options) as started:
            yield io.BufferedReader(_Output(started, errors), 1 << 16)


@contextmanager
def filtered(argv: Argv, *, output: IO[bytes]) -> Iterator[IO[bytes]]:
    """Start a program that reads what is written to the stream, and writes to a file.

    Args:
        argv: program and arguments.
        output: the file.

    Raises:
        HostError: it cannot be started, or fails.
    """
    with tempfile.TemporaryFile() as errors:
        options = {"env": environment(), "stdin": subprocess.PIPE, "stdout": output, "stderr": errors}
        with _started(argv, options) as started:
            assert started.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, and its status says so
                yield started.stdin
                started.stdin.close()
            if started.wait() != 0:
                errors.seek(0)
                said = errors.read(1000).decode("utf-8", "replace").strip()
                raise full_or_failed(argv[0], said)


def full_or_failed(program: str, said: str) -> FullDiskError | ProgramError:
    """Return the error of a program that has failed, by what it has said."""
    if full := said_in(said.splitlines()):
        return FullDiskError(f"no space left for `{program}`: {full}", hint=HINT)
    return ProgramError(f"`{program}` failed: {said or 'without a word'}")


def ended(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has waited for it (state Z in /proc/PID/stat)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in ("Z", "X")


def cwd() -> Path:
    """Return the folder of relative arguments. setup.sh and nox change the folder, and say where the user was."""
    return Path(os.environ.get("PIKAFORGE_CWD") or Path.cwd())
