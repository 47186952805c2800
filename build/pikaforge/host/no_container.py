"""The host engine: it runs the same guest scripts on this machine, without containers.

It is for machines on which no container engine may run. It installs nothing and isolates little. The machine decides
about results, too, so the image stage checks that the packages of the image are installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import socket
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from pikaforge.errors import SIGNAL_BASE, FullDiskError, HostError
from pikaforge.host import compiler_cache, confinement, kept_data, machine, process
from pikaforge.host.archives import extract
from pikaforge.host.confinement import FACTS_LIMIT, NOBODY, Abilities, OutputError
from pikaforge.host.disk import HINT, full_disk_errors, refuse_full, said_in
from pikaforge.host.job import (
    OUTPUT_LIMIT,
    TIMED_OUT,
    CannotServe,
    Executed,
    Input,
    Job,
    JobResult,
    RunningServer,
    ServerJob,
)
from pikaforge.host.logs import last_lines
from pikaforge.host.run_id import RunId
from pikaforge.host.text import ignore

BOUNDED = 'ulimit -f "$0" && exec "$@"'
"""Shell text that starts a program with a limit of the size of files, in blocks of `ULIMIT_BLOCK` bytes."""
ULIMIT_BLOCK = 512
LOOK = 1.0
"""Seconds between two looks at how long the log of a job has become."""
LIMITED = 'ulimit -n "$0" && exec "$@"'
"""Shell text that starts a program with a limit of open files. The program has the process id of the shell."""
PASSED_ON = ("PATH", "HOME", "USER", "TMPDIR", "LD_LIBRARY_PATH")
"""Variables of this process that a job gets. Jobs in containers get none."""


class HostEngine:
    """Runs jobs in temporary folders below `work`, as the current user."""

    kind: Literal["docker", "host"] = "host"

    def __init__(self, work: Path) -> None:
        self._work = work
        self._kept = work.parent / kept_data.FOLDER
        self._run_id = RunId.current()
        self._lock = threading.Lock()
        self._children: set[process.Child] = set()
        self._aborted = False

    def verify(self) -> None:
        """Raise HostError unless this machine is x86-64 Linux."""
        name = os.uname()
        if name.sysname != "Linux" or name.machine != "x86_64":
            raise HostError(f"this machine is {name.sysname} on {name.machine}; x86-64 Linux is needed")

    def root(self, label: str) -> str:
        """Return a folder that only this run uses. It is the same at each call with a label."""
        return str(self._work / f"{label}-{self._run_id.text}")

    def cores(self) -> int:
        """Return on how many CPUs this process may run (its affinity, as `nproc` counts)."""
        return len(os.sched_getaffinity(0))

    def memory(self) -> int:
        """Return the bytes of memory of this machine."""
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def refuse_full(self) -> None:
        """As `Engine.refuse_full`: that of the work folders."""
        refuse_full(next(folder for folder in (self._work, *self._work.absolute().parents) if folder.exists()))

    def sweep(self, notice: Callable[[str], None] = ignore) -> int:
        """Remove work folders of runs that have ended; return how many those were."""
        removed = 0
        for folder in self._work.iterdir() if self._work.is_dir() else ():
            made_by = RunId.parse("-".join(folder.name.rsplit("-", 3)[-3:]))
            if made_by is not None and made_by.gone():
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed

    def abort(self) -> None:
        """End everything that runs."""
        with self._lock:
            self._aborted = True
            children = list(self._children)
        for child in children:
            child.kill_group()

    def settle(self) -> None:
        """Return: the folder of a job is removed at its end."""

    @contextmanager
    def _folder(self, label: str, inputs: tuple[Input, ...]) -> Iterator[Path]:
        root = Path(self.root(label))
        shutil.rmtree(root, ignore_errors=True)
        try:
            with full_disk_errors(self._work):
                (root / "out").mkdir(parents=True)
                for made in (root, root / "out"):
                    made.chmod(0o755)  # without set-group-ID, which folders inherit
                for item in inputs:
                    folder = root / item.folder
                    folder.mkdir(parents=True, exist_ok=True)
                    extract(item.archive, folder)
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _environment(self, root: Path) -> dict[str, str]:
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {**kept, "PIKAFORGE_ROOT": str(root)}

    @contextmanager
    def _child(
        self, argv: tuple[str, ...], root: Path, env: dict[str, str], log: Path, *, user: int | None = None
    ) -> Iterator[process.Child]:
        with log.open("ab") as output, process.child(argv, cwd=root, env=env, output=output, user=user) as child:
            with self._lock:
                self._children.add(child)
                aborted = self._aborted
            try:
                if aborted:
                    raise HostError("interrupted")
                yield child
            finally:
                with self._lock:
                    self._children.discard(child)

    def run(self, job: Job, into: Path) -> JobResult:
        """As `Engine.run`, in a temporary folder."""
        with self._folder(job.label, job.inputs) as root:
            env = {**self._environment(root), **job.env, "PIKAFORGE_ROOT": str(root)}
            if job.cache:
                env["CCACHE_DIR"] = str(compiler_cache.local(self._work.parent / compiler_cache.FOLDER, job.cache))
            argv = ("/bin/sh", "-c", BOUNDED, str(job.bounds.file // ULIMIT_BLOCK), *job.argv)
            with self._child(argv, root, env, job.log) as child:
                status, exceeded = _end_of(child, job)
                timed_out = status is None and not exceeded
                if status is None:
                    child.kill_group()
                    status = -int(signal.SIGKILL)
            status = SIGNAL_BASE - status if status < 0 else status
            if status != 0:
                if not (timed_out or exceeded):
                    _refuse_full(root, job.log)
                result = JobResult(status=status, timed_out=timed_out, exceeded=exceeded)
                unlimited = Abilities(limits_memory=False)
                return confinement.explained(job.bounds, unlimited, result, killed=False, tail=last_lines(job.log))
            outputs = {path: _taken(root / path, into, job, path) for path in (*job.outputs, *job.facts)}
            return JobResult(status=0, outputs=outputs)

    @contextmanager
    def serve(self, job: ServerJob) -> Iterator[RunningServer]:
        """As `Engine.serve`; the server listens on `job.port` of this machine."""
        _check_limit(job.open_files)
        with self._folder(job.label, job.inputs) as root:
            data = root / "data"
            if job.kept:
                data.symlink_to(kept_data.opened(self._kept, job.kept))
            data.mkdir(exist_ok=True)
            argv = (str(root / job.argv[0]), *job.argv[1:])
            if job.open_files is not None:
                argv = ("/bin/sh", "-c", LIMITED, str(job.open_files), *argv)
            job.log.write_bytes(b"")
            with _unprivileged(root, data) if job.unprivileged else contextlib.nullcontext() as user:
                env = {**self._environment(root), **job.env}
                server = _LocalServer(job, root, lambda: self._child(argv, root, env, job.log, user=user), env, user)
                try:
                    server.restart()
                    if job.kept:
                        kept_data.note(self._kept, job.kept, server.pid)
                    yield server
                finally:
                    server.end()

    def forget(self, kept: str) -> None:
        """As `Engine.forget`."""
        kept_data.forget(self._kept, kept)

    @contextmanager
    def network(self, label: str) -> Iterator[str]:
        """As `Engine.network`: "", because servers reach each other over the loopback interface, by their ports."""
        yield ""

    def cpu_flags(self, image: str) -> frozenset[str]:
        """Return the CPU flags of this machine."""
        return machine.cpu_flags()

    def cpu_model(self, image: str) -> str:
        """As `Engine.cpu_model`: those of this machine."""
        return machine.cpu_model()

    def known_cpu_flags(self) -> frozenset[str] | None:
        """Return the CPU flags of this machine."""
        return machine.cpu_flags()

    def free_port(self, offsets: tuple[int, ...]) -> int:
        """Return a port that is free on all interfaces, as are those at the offsets from it.

        Raises:
            HostError: none was found.
        """
        for _ in range(200):
            with contextlib.ExitStack() as stack:
                first = stack.enter_context(socket.socket())
                first.bind(("", 0))
                port = int(first.getsockname()[1])
                try:
                    for offset in offsets:
                        if offset:
                            other = stack.enter_context(socket.socket())
                            other.bind(("", port + offset))
                except (OSError, OverflowError):
                    continue
                return port
        raise HostError(f"found no free port on this machine with {offsets} beside it free too")


def _refuse_full(root: Path, log: Path) -> None:
    """Raise FullDiskError if a job failed because a disk is full. If that of the log is, the log does not say so."""
    refuse_full(root, log.parent)
    if said := said_in(last_lines(log)):
        raise FullDiskError(f"no space left for a job in {root}: {said}", where=str(log), hint=HINT)


def _end_of(child: process.Child, job: Job) -> tuple[int | None, str]:
    """Wait for a job; return its exit status, None if it has to be ended, and which limit it has met."""
    end = time.monotonic() + job.timeout
    begun = job.log.stat().st_size
    while (left := end - time.monotonic()) > 0:
        status = child.wait(min(LOOK, left))
        if status is not None:
            return status, ""
        if job.log.stat().st_size - begun > job.bounds.log:
            return None, confinement.too_long_a_log(job.bounds)
    return None, ""


def _taken(file: Path, into: Path, job: Job, path: str) -> Path:
    """Move an output of a job into a folder; return its new path.

    Raises:
        OutputError: it is not there, is no regular file, or is too large.
    """
    limit = FACTS_LIMIT if path in job.facts else job.bounds.file
    try:
        found = file.lstat()
    except OSError as error:
        raise OutputError(f"the job left no {path}", where=job.label) from error
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is not a regular file", where=job.label)
    if found.st_size > limit:
        raise confinement.too_large(path, limit, where=job.label)
    target = into / file.name
    with full_disk_errors(into):
        shutil.move(file, target)
    return target


def _check_limit(open_files: int | None) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files is not None and most not in (resource.RLIM_INFINITY,) and open_files > most and os.geteuid() != 0:
        raise CannotServe(f"this machine's limit of open files is {most}, and {open_files} are wanted")


@contextmanager
def _unprivileged(root: Path, data: Path) -> Iterator[int | None]:
    """Let a server write to `data` only; give the user that it must run as, None for this process's user.

    If this process does not run as root, its user only loses the right to write to `root`.
    """
    if os.geteuid() == 0:
        closed = [folder for folder in (root, *root.parents) if not folder.stat().st_mode & stat.S_IXOTH]
        if closed:
            raise CannotServe(f"{closed[-1]} is closed to other users, and the server has to be one")
        for path in (data, *data.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield NOBODY
        return
    root.chmod(0o555)
    try:
        yield None
    finally:
        root.chmod(0o755)


class _LocalServer:
    """A server that is a child process."""

    def __init__(
        self,
        job: ServerJob,
        root: Path,
        start: Callable[[], AbstractContextManager[process.Child]],
        env: Mapping[str, str],
        user: int | None,
    ) -> None:
        self.root = str(root)
        self._env, self._user = env, user
        self.port = job.port
        self._job = job
        self._start = start
        self._stack = contextlib.ExitStack()
        self._child: process.Child | None = None

    def _running(self) -> process.Child:
        assert self._child is not None  # `serve` has started it
        return self._child

    def restart(self) -> None:
        self.end()
        self._child = self._stack.enter_context(self._start())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._running().pid

    def end(self) -> None:
        """End the server if it still runs."""
        self._stack.close()

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def peer(self) -> str:
        return "127.0.0.1"

    def wait(self, timeout: float) -> int | None:
        status = self._running().wait(timeout)
        return SIGNAL_BASE - status if status is not None and status < 0 else status

    def signal(self, name: str) -> None:
        self._running().signal(signal.Signals[f"SIG{name}"])

    def execute(self, argv: Sequence[str], *, timeout: float) -> Executed:
        program, *arguments = argv
        words = [str(Path(self.root) / program), *arguments]
        status, output = process.bounded(
            words, cwd=Path(self.root), env=self._env, user=self._user, timeout=timeout, limit=OUTPUT_LIMIT
        )
        if status is None:
            return Executed(status=TIMED_OUT, output=output)
        return Executed(status=SIGNAL_BASE - status if status < 0 else status, output=output)

    def log_text(self) -> str:
        return self._job.log.read_text(encoding="utf-8", errors="replace")

    def today(self) -> str:
        return time.strftime("%Y%m%d")

    def fetch(self, folder: str) -> bytes | None:
        path = Path(self.root) / folder
        if not path.is_dir():
            return None
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(path, arcname=path.name)
        return buffer.getvalue()

    def mapped_files(self) -> tuple[str, ...]:
        try:
            return process.mapped_files(
                Path(f"/proc/{self._running().pid}/maps").read_text(encoding="utf-8", errors="replace")
            )
        except OSError as error:
            raise HostError(f"cannot look at the server's process: {error.strerror}") from error

    def resources(self) -> Mapping[str, int]:
        folder = Path("/proc") / str(self._running().pid)
        try:
            status = (folder / "status").read_text(encoding="utf-8", errors="replace")
            return {"fds": len(os.listdir(folder / "fd")), **process.resources(status)}  # noqa: PTH208
        except OSError as error:
            raise HostError(f"cannot look at the server's process: {error.strerror}") from error
