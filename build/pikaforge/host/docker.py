"""The container engine: it runs jobs and servers in containers. `images` has its images.

No folder of this machine is mounted, so the engine may be a remote one (`DOCKER_HOST`). All that is made has labels.
Containers are removed when their block is left; those of jobs beside the next work, until `settle`. `sweep` removes
what killed runs have left.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pikaforge.cpu import emulation
from pikaforge.errors import EngineError, HostError
from pikaforge.host import confinement, engine_socket, machine, memory_watch, podman, replies, sweeping
from pikaforge.host.confinement import NOBODY, USUAL, Bounds
from pikaforge.host.connection import LABEL, address, brief, engine_errors, engine_full, load_sdk, refuse_full_engine
from pikaforge.host.container import ROOT, ContainerServer, fetch_outputs, printed, unpack
from pikaforge.host.container_inputs import Folders, fill
from pikaforge.host.disk import LEAST, full_disk_errors, said_in
from pikaforge.host.images import EngineImages
from pikaforge.host.job import CannotServe, Job, JobResult, RunningServer, ServerJob, files
from pikaforge.host.logs import last_lines
from pikaforge.host.removals import Removals
from pikaforge.host.run_id import RunId
from pikaforge.host.text import ignore

if TYPE_CHECKING:
    from pikaforge.host.connection import Container
    from pikaforge.host.engine_calls import EngineCalls

CACHE = "/forge-cache"
DATA = f"{ROOT}/data"
ENDING = 60.0
"""Seconds in which a container that was killed must have ended."""
LOCAL = "unix://"
"""Start of DOCKER_HOST for an engine on this machine."""


ContainerOptions = Mapping[str, Any]
"""Keyword arguments of the SDK's `containers.create`."""


class DockerEngine(EngineImages):
    """The engine behind DOCKER_HOST, or the local one."""

    kind: Literal["docker", "host"] = "docker"

    def __init__(self) -> None:
        super().__init__()
        self._run_id = RunId.current()
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Container, EngineCalls]] = {}
        self._removals = Removals()
        self._aborted = False
        self._cpu = ""
        self._reading_limits = threading.Lock()
        self._allowed_limits: Mapping[str, int] | None = None

    def root(self, label: str) -> str:
        """Return `/forge` always: one fixed path keeps builds reproducible."""
        return ROOT

    def cpu_flags(self, image: str) -> frozenset[str]:
        """As `Engine.cpu_flags`; read once, in a container, because the engine may be on another machine."""
        self._cpu = self._cpu or self._printed("cpu", image, ("cat", "/proc/cpuinfo"), limits=self._limits(image))
        return emulation.flags_of(self._cpu)

    def cpu_model(self, image: str) -> str:
        """As `Engine.cpu_model`."""
        self.cpu_flags(image)
        return emulation.model_of(self._cpu)

    def known_cpu_flags(self) -> frozenset[str] | None:
        """As `Engine.known_cpu_flags`: those of this machine for a local engine; a remote one needs an image."""
        if not self._cpu and (address() or LOCAL).startswith(LOCAL):
            return machine.cpu_flags()
        return next((self.cpu_flags(image) for image, _, _ in self.owned_images()), None)

    def _printed(
        self,
        label: str,
        image: str,
        argv: tuple[str, ...],
        *,
        limits: Mapping[str, int],
        options: ContainerOptions | None = None,
    ) -> str:
        """Return what a command prints."""
        given = {"network_mode": "none", **(options or {})}
        with self._container(label, image, argv, limits=limits, options=given) as container:
            self._start(container)
            container.wait()
            return printed(container, self._calls()).decode("utf-8", "replace")

    def _limits(self, image: str) -> Mapping[str, int]:
        """Return the limits of every container: no core files, and with podman what its machine allows.

        Podman as root otherwise asks for more than a machine may allow, and then it starts nothing. They are read once.
        """
        if not self.facts().podman:
            return {"core": 0}
        with self._reading_limits:
            if self._allowed_limits is None:
                self._allowed_limits = {}
                # Without them, podman's own limits are used. What is wrong is then an error of the next container.
                with contextlib.suppress(HostError):
                    shown = self._printed(
                        "limits", image, podman.SHOW_LIMITS, limits=podman.LEAST, options=podman.SEE_ALL
                    )
                    self._allowed_limits = podman.hard_limits(shown)
        return {"core": 0, **self._allowed_limits}

    # ---- what must not outlive a run

    def _labels(self, kind: str) -> dict[str, str]:
        return {f"{LABEL}.kind": kind, sweeping.OWNER: self._run_id.text}

    def refuse_full(self) -> None:
        """As `Engine.refuse_full`, with the folders of an engine of this machine."""
        refuse_full_engine()

    def sweep(self, notice: Callable[[str], None] = ignore) -> int:
        """Remove containers and networks of runs that have ended; return how many those were."""
        if all(map(sweeping.is_clean, map(self._look, engine_socket.owned(sweeping.OWNER)))):
            return 0
        with engine_errors():
            return sweeping.sweep(self._client().api, self._calls(), notice)

    def abort(self) -> None:
        """Kill every container of this run. The threads that wait for them then go on, even if the engine is stuck."""
        with self._lock:
            self._aborted = True
            running = list(self._running.values())
        sweeping.all_at_once([partial(self._kill, container) for container, _ in running])
        for _, calls in running:
            calls.cut()

    def settle(self) -> None:
        """Wait until all containers of jobs that have ended are removed."""
        self._removals.wait()

    def _kill(self, container: Container) -> None:
        """Kill a container, from any thread."""
        with contextlib.suppress(Exception):  # it may have ended meanwhile, and the engine may be gone, too
            self._client().api.kill(str(container.id))

    @contextmanager
    def _container(
        self,
        label: str,
        image: str,
        argv: tuple[str, ...],
        *,
        limits: Mapping[str, int],
        options: ContainerOptions,
        bounds: Bounds | None = None,
        later: bool = False,
    ) -> Iterator[Container]:
        """Make a container without starting it. It is removed when the block is left.

        Args:
            limits: soft and hard ones by name.
            options: what differs from container to container.
            bounds: how much it may use; with them, its root folder is a volume.
            later: whether nobody waits for its removal, if the block ends without an error.
        """
        sdk = load_sdk()
        name = f"pikaforge-{label}-{secrets.token_hex(4)}"
        facts = self.facts()
        # An init reaps children and forwards signals; without it a stop takes 10 s.
        given: dict[str, Any] = {"init": True, **confinement.options(bounds or USUAL, facts.abilities), **options}
        given["log_config"] = sdk.types.LogConfig(
            type=podman.LOGS, config=confinement.log_options(bounds or USUAL, podman=facts.podman)
        )
        if bounds is not None:
            limits = {**limits, "fsize": bounds.file}
            given["mounts"] = [self._volume(ROOT), *given.get("mounts", ())]
        if facts.rootless:
            argv = podman.limited(argv, limits)
        with engine_errors("the engine could not create a container"):
            try:
                container = self._client().containers.create(
                    image,
                    list(argv),
                    name=name,
                    labels=self._labels("job"),
                    working_dir=ROOT,
                    ulimits=[sdk.types.Ulimit(name=n, soft=value, hard=value) for n, value in limits.items()],
                    **given,
                )
            except sdk.errors.ImageNotFound as error:
                raise EngineError(
                    f"the image {image} is no longer in the engine", hint="run again: it is made anew"
                ) from error
        with self._held(container, later=later):
            yield container

    @contextmanager
    def _held(self, container: Container, *, later: bool) -> Iterator[None]:
        """Let `abort` know a container, and remove it when the block is left; see `_container`."""
        calls, id_ = self._calls(), str(container.id)
        with self._lock:
            self._running[id_] = (container, calls)
            aborted = self._aborted
        try:
            if aborted:
                raise EngineError("interrupted")
            with engine_errors(where=f"container {container.name}"), calls.closing():
                yield
        except BaseException:
            later = False
            raise
        finally:
            with self._lock:
                del self._running[id_]
            removal = partial(self._remove, id_)
            self._removals.begin(removal) if later else removal()

    def _remove(self, container: str) -> None:
        """Remove a container, from any thread. If the engine is gone, the next run removes it."""
        with contextlib.suppress(Exception):
            self._client().api.remove_container(container, v=True, force=True)

    @staticmethod
    def _volume(target: str, name: str | None = None) -> object:
        """Return the mount of a volume; without a name, it is removed with its container."""
        return load_sdk().types.Mount(target=target, source=name, type="volume")

    # ---- jobs and servers

    def run(self, job: Job, into: Path) -> JobResult:
        """As `Engine.run`: each job has a container, which is removed afterwards."""
        environment = {**job.env, "PIKAFORGE_ROOT": ROOT}
        options: dict[str, object] = {"network_mode": job.network, "environment": environment}
        if job.cache:
            options["mounts"] = [self._volume(CACHE, self.cache_volume(job.cache))]
            environment["CCACHE_DIR"] = CACHE
        limits, bounds = self._limits(job.image), job.bounds
        with self._container(
            job.label, job.image, job.argv, limits=limits, options=options, bounds=bounds, later=True
        ) as container:
            bare = self.facts().podman
            fill(container, job.inputs, Folders(made="out"), podman=bare)
            if job.cache:
                unpack(container, CACHE, confinement.volume_root(CACHE, podman=bare, owner=NOBODY), bare=bare)
            exceeded = ""
            self._start(container)
            watch = memory_watch.watched(lambda: (self._client().api, self._calls()), str(container.id))
            with self._killed_after(container, job.timeout) as timed_out, watch as used:
                with full_disk_errors(job.log.parent), job.log.open("ab") as log:
                    left = bounds.log
                    for chunk in container.logs(stream=True, follow=True):
                        log.write(chunk[:left])
                        log.flush()
                        left -= len(chunk)
                        if left < 0:
                            exceeded = confinement.too_long_a_log(bounds)
                            self._kill(container)
                            break
                status = int(container.wait(timeout=ENDING if timed_out.is_set() else None)["StatusCode"])
            if status != 0 or timed_out.is_set() or exceeded:
                if not (timed_out.is_set() or exceeded):
                    self._refuse_full(container, job)
                result = JobResult(status=status, timed_out=timed_out.is_set(), exceeded=exceeded, memory=used.bytes)
                return self._explained(container, job, result)
            return JobResult(status=0, outputs=fetch_outputs(container, job, into), memory=used.bytes)

    def _explained(self, container: Container, job: Job, result: JobResult) -> JobResult:
        """Return the result of a job that has failed with the limit that it has met, if any."""
        container.reload()
        killed = bool(replies.parse(replies.EndedReply, container.attrs).state.out_of_memory)
        return confinement.explained(
            job.bounds, self.facts().abilities, result, killed=killed, tail=last_lines(job.log)
        )

    @contextmanager
    def _killed_after(self, container: Container, seconds: float) -> Iterator[threading.Event]:
        """Kill a container that still runs after so many seconds; the event says so.

        If it does not end then, what is read from it ends.
        """
        calls, expired, ended = self._calls(), threading.Event(), threading.Event()

        def expire() -> None:
            expired.set()
            self._kill(container)
            if not ended.wait(ENDING):
                calls.cut()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            ended.set()
            timer.cancel()

    def _refuse_full(self, container: Container, job: Job) -> None:
        """Raise FullDiskError if a job failed because the engine's disk is full.

        What it said about that may be lost: the engine keeps what a job prints on the same disk.
        """
        try:
            unpack(container, ROOT, files({".room": bytes(LEAST)}), bare=self.facts().podman)
        except load_sdk().errors.APIError as error:  # it may also be one that takes no more files
            if said := said_in([brief(error)]):
                raise engine_full(said, where=str(job.log)) from error
        if said := said_in(last_lines(job.log)):
            raise engine_full(said, also=", or of the job's memory", where=str(job.log))

    @contextmanager
    def serve(self, job: ServerJob) -> Iterator[RunningServer]:
        """As `Engine.serve`; the port is published on the loopback interface of the engine's machine.

        A remote engine publishes it on all interfaces, because its loopback interface cannot be reached from here.
        """
        remote = self._remote_host()
        options: dict[str, object] = {
            "ports": {f"{job.port}/tcp": None if remote else ("127.0.0.1", None)} if job.port else {},
            "network_mode": job.network or ("bridge" if job.port else "none"),
        }
        if job.env:
            options["environment"] = dict(job.env)
        if job.kept:
            options["mounts"] = [self._volume(DATA, self.kept_volume(job.kept))]
        argv = (posixpath.join(ROOT, job.argv[0]), *job.argv[1:])
        limits = dict(self._limits(job.image))
        if job.open_files is not None:
            if self.facts().rootless and job.open_files > limits.get("nofile", job.open_files):
                raise CannotServe(
                    f"the engine's limit of open files is {limits['nofile']}, {job.open_files} are wanted"
                )
            limits["nofile"] = job.open_files
        with self._container(
            job.label, job.image, argv, limits=limits, options=options, bounds=job.bounds
        ) as container:
            bare = self.facts().podman
            fill(container, job.inputs, Folders(made="data", only=job.unprivileged), podman=bare)
            if job.kept:
                unpack(container, DATA, confinement.volume_root(DATA, podman=bare, owner=NOBODY), bare=bare)
            self._start(container, job)
            server = ContainerServer(container, self._calls(), remote or "127.0.0.1", job.port)
            try:
                yield server
            finally:
                log = b""
                with contextlib.suppress(Exception):
                    log = printed(container, self._calls())
                with full_disk_errors(job.log.parent):
                    job.log.write_bytes(log)

    def _start(self, container: Container, job: ServerJob | None = None) -> None:
        """Start a container. One that did not run yet when all were killed is killed now."""
        try:
            container.start()
        except load_sdk().errors.APIError as error:
            if job is not None and job.open_files is not None and "rlimit" in brief(error):
                raise CannotServe(f"the engine may not give a container {job.open_files} open files") from error
            raise
        if self._aborted:
            self._kill(container)

    @contextmanager
    def network(self, label: str) -> Iterator[str]:
        """As `Engine.network`: a bridge that only these servers are connected to."""
        with self._lock:
            if self._aborted:
                raise EngineError("interrupted")
        name = f"pikaforge-{label}-{secrets.token_hex(4)}"
        with engine_errors(
            "the engine could not create a network", hint="`docker network prune` removes networks that nothing uses"
        ):
            made = self._client().networks.create(name, driver="bridge", labels=self._labels("network"))
        try:
            yield name
        finally:
            with contextlib.suppress(Exception):  # if the engine is gone, the next run removes it
                made.remove()
