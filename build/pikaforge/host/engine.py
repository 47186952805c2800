"""Containers: where jobs and servers run; `images` has what they are made from.

Nothing is mounted from this machine, so the engine may as well be a remote one (`DOCKER_HOST`). Everything made
here carries labels; containers are removed when their block is left, and `sweep` removes what a killed run left.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pikaforge import emulation
from pikaforge.errors import HostError
from pikaforge.host.connection import LABEL, brief, load_sdk
from pikaforge.host.container import ROOT, ContainerServer, fetch_file
from pikaforge.host.images import EngineImages
from pikaforge.host.job import NOBODY, SIGNAL_BASE, Input, Job, JobResult, RunningServer, ServerJob, folders
from pikaforge.host.owner import Owner

if TYPE_CHECKING:
    from pikaforge.host.connection import Container

CACHE = "/forge-cache"


class DockerEngine(EngineImages):
    """The engine behind DOCKER_HOST, or the local one."""

    kind: Literal["docker", "host"] = "docker"

    def __init__(self) -> None:
        super().__init__()
        self._owner = Owner.current()
        self._lock = threading.Lock()
        self._running: dict[str, Container] = {}
        self._aborted = False
        self._flags: frozenset[str] | None = None

    def root(self, label: str) -> str:
        """Always `/forge`: one fixed path keeps builds reproducible."""
        return ROOT

    def cpu_flags(self, image: str) -> frozenset[str]:
        """As `Engine.cpu_flags`; looked up once, from inside a container: the engine may be on another machine."""
        if self._flags is None:
            with self._container("cpu", image, ("cat", "/proc/cpuinfo"), network_mode="none") as container:
                container.start()
                container.wait()
                self._flags = emulation.flags_of(bytes(container.logs()).decode("utf-8", "replace"))
        return self._flags

    # ---- what a run must not leave behind

    def _labels(self, kind: str) -> dict[str, str]:
        return {f"{LABEL}.kind": kind, f"{LABEL}.owner": self._owner.text}

    def sweep(self) -> int:
        """Remove containers and networks whose run is over without having removed them; the count of them."""
        sdk = load_sdk()
        removed = 0
        client = self._client()
        for container in client.containers.list(all=True, filters={"label": f"{LABEL}.owner"}, ignore_removed=True):
            owner = Owner.parse(container.labels.get(f"{LABEL}.owner", ""))
            if owner is not None and owner.gone():
                with contextlib.suppress(sdk.errors.APIError):
                    container.remove(force=True, v=True)
                    removed += 1
        for network in client.networks.list(filters={"label": f"{LABEL}.owner"}):
            owner = Owner.parse((network.attrs.get("Labels") or {}).get(f"{LABEL}.owner", ""))
            if owner is not None and owner.gone():
                with contextlib.suppress(sdk.errors.APIError):
                    network.remove()
                    removed += 1
        return removed

    def abort(self) -> None:
        """Kill every container of this run; the threads that wait for them then come back."""
        sdk = load_sdk()
        with self._lock:
            self._aborted = True
            containers = list(self._running.values())
        for container in containers:
            with contextlib.suppress(sdk.errors.APIError):
                container.kill()

    @contextmanager
    def _container(
        self, label: str, image: str, argv: tuple[str, ...], *, open_files: int | None = None, **options: Any
    ) -> Iterator[Container]:
        sdk = load_sdk()
        limits = {"core": 0} if open_files is None else {"core": 0, "nofile": open_files}
        name = f"pikaforge-{label}-{secrets.token_hex(4)}"
        try:
            container = self._client().containers.create(
                image,
                list(argv),
                name=name,
                labels=self._labels("job"),
                init=True,  # reaps children and forwards signals; without it a stop takes 10 s
                working_dir=ROOT,
                ulimits=[sdk.types.Ulimit(name=n, soft=value, hard=value) for n, value in limits.items()],
                **options,
            )
        except sdk.errors.ImageNotFound as error:
            raise HostError(
                f"the image {image} is no longer in the engine", hint="run again: it is made anew"
            ) from error
        except sdk.errors.APIError as error:
            raise HostError(f"the engine could not create a container: {brief(error)}") from error
        with self._lock:
            self._running[name] = container
            aborted = self._aborted
        try:
            if aborted:
                raise HostError("interrupted")
            yield container
        except sdk.errors.APIError as error:
            raise HostError(f"the engine failed: {brief(error)}", where=f"container {name}") from error
        finally:
            with self._lock:
                del self._running[name]
            with contextlib.suppress(sdk.errors.APIError):
                container.remove(force=True, v=True)

    @staticmethod
    def _put(container: Container, inputs: tuple[Input, ...], owned: Mapping[str, int] | None = None) -> None:
        wanted = [ROOT, f"{ROOT}/out", *(owned or ()), *(f"{ROOT}/{i.folder}" for i in inputs)]
        container.put_archive("/", folders(wanted, owned=owned))
        for item in inputs:
            path = f"{ROOT}/{item.folder}"
            if isinstance(item.archive, bytes):
                container.put_archive(path, item.archive)
            else:
                with item.archive.open("rb") as stream:
                    container.put_archive(path, stream)

    # ---- jobs and servers

    def run(self, job: Job, into: Path) -> JobResult:
        """As `Engine.run`: one container a job, gone afterwards."""
        options: dict[str, Any] = {"network_mode": job.network, "environment": {**job.env, "FORGE_ROOT": ROOT}}
        if job.cache:
            volume = f"pikaforge-{job.cache}"
            self._client().volumes.create(volume, labels={f"{LABEL}.kind": "cache"})
            options["volumes"] = {volume: {"bind": CACHE, "mode": "rw"}}
            options["environment"]["CCACHE_DIR"] = CACHE
        with self._container(job.label, job.image, job.argv, **options) as container:
            self._put(container, job.inputs)
            timed_out = threading.Event()
            container.start()

            def expire() -> None:
                timed_out.set()
                with contextlib.suppress(Exception):  # it may have ended meanwhile
                    container.kill()

            timer = threading.Timer(job.timeout, expire)
            timer.daemon = True
            timer.start()
            try:
                with job.log.open("ab") as log:
                    for chunk in container.logs(stream=True, follow=True):
                        log.write(chunk)
                        log.flush()
                status = int(container.wait()["StatusCode"])
            finally:
                timer.cancel()
            if status != 0 or timed_out.is_set():
                return JobResult(status=status, timed_out=timed_out.is_set())
            outputs = {}
            for path in job.outputs:
                target = into / Path(path).name
                fetch_file(container, f"{ROOT}/{path}", target)
                outputs[path] = target
            return JobResult(status=0, outputs=outputs)

    @contextmanager
    def serve(self, job: ServerJob) -> Iterator[RunningServer]:
        """As `Engine.serve`; the port is published on the loopback interface of the engine's machine.

        A remote engine publishes on all its interfaces, because its loopback cannot be reached from here.
        """
        remote = self._remote_host()
        options: dict[str, Any] = {
            "ports": {f"{job.port}/tcp": None if remote else ("127.0.0.1", None)},
            "network_mode": job.network or "bridge",
        }
        owner = 0
        if job.env:
            options["environment"] = dict(job.env)
        if job.unprivileged:
            owner = NOBODY
            options["user"] = f"{NOBODY}:{NOBODY}"
        argv = (f"{ROOT}/{job.argv[0]}", *job.argv[1:])
        with self._container(job.label, job.image, argv, open_files=job.open_files, **options) as container:
            self._put(container, job.inputs, {f"{ROOT}/data": owner})
            container.start()
            server = ContainerServer(container, remote or "127.0.0.1", job.port)
            try:
                yield server
            finally:
                with contextlib.suppress(Exception):
                    job.log.write_bytes(container.logs())

    @contextmanager
    def network(self, label: str) -> Iterator[str]:
        """As `Engine.network`: a bridge of its own, on which nothing but these servers is."""
        sdk = load_sdk()
        with self._lock:
            if self._aborted:
                raise HostError("interrupted")
        name = f"pikaforge-{label}-{secrets.token_hex(4)}"
        try:
            made = self._client().networks.create(name, driver="bridge", labels=self._labels("network"))
        except sdk.errors.APIError as error:
            raise HostError(
                f"the engine could not create a network: {brief(error)}",
                hint="`docker network prune` removes networks that nothing uses",
            ) from error
        try:
            yield name
        finally:
            with contextlib.suppress(sdk.errors.APIError):
                made.remove()


def signal_of(status: int) -> int:
    """The signal behind an exit status of 128 + N, or 0."""
    return status - SIGNAL_BASE if SIGNAL_BASE < status < SIGNAL_BASE + 65 else 0
