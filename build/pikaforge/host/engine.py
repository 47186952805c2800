"""Containers: the only module that speaks to a container engine, through the docker SDK.

Nothing is mounted from this machine, so the engine may as well be a remote one (`DOCKER_HOST`). Everything made
here carries labels; containers are removed when their block is left, and `sweep` removes what a killed run left.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pikaforge import emulation
from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.job import NOBODY, SIGNAL_BASE, Input, Job, JobResult, RunningServer, ServerJob, folders
from pikaforge.host.owner import Owner

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

ROOT = "/forge"
CACHE = "/forge-cache"
LABEL = "org.pikaforge"
"""Prefix of all labels: `.owner` on what must not outlive a run, `.kind` on everything."""
CHUNK = 1 << 20
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""The classic builder paints what a step writes to its error output."""
GONE = 409
"""The status with which the engine answers who wants to signal a container that does not run."""

GET_ONE = (
    "start the engine (`systemctl start docker`), or let `bash setup.sh` install and start one\n"
    "set DOCKER_HOST to reach an engine on another machine\n"
    "or build on this machine without containers: --engine host"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image that the engine holds."""

    id: str
    labels: Mapping[str, str]
    digests: tuple[str, ...]
    """`name@sha256:…` under which registries know it."""


class RegistryError(HostError):
    """The registry could not be reached, or does not have the image."""


def _load_sdk() -> Any:
    try:
        import docker  # noqa: PLC0415  # 0.3 s that a plan must not cost
        import docker.errors  # noqa: PLC0415
    except ImportError as error:
        raise HostError("the docker SDK for Python is not installed", hint="run `bash setup.sh`") from error
    if not hasattr(docker, "from_env"):
        # Without the SDK, this project's own docker/ folder imports as an empty namespace package.
        raise HostError("the docker SDK for Python is not installed", hint="run `bash setup.sh`")
    return docker


class DockerEngine:
    """The engine behind DOCKER_HOST, or the local one."""

    kind: Literal["docker", "host"] = "docker"

    def __init__(self) -> None:
        self._owner = Owner.current()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._running: dict[str, Container] = {}
        self._aborted = False
        self._cores = 0
        self._flags: frozenset[str] | None = None

    # ---- reaching the engine

    def _client(self) -> docker.DockerClient:
        """One client a thread: the SDK's sessions are not made to be shared."""
        client: docker.DockerClient | None = getattr(self._local, "client", None)
        if client is None:
            sdk = _load_sdk()
            try:
                client = sdk.from_env(timeout=600)
            except sdk.errors.DockerException as error:
                raise HostError(f"no container engine answers: {_brief(error)}", hint=GET_ONE) from error
            self._local.client = client
        return client

    def verify(self) -> None:
        """Raise HostError unless an engine for Linux on x86-64 answers."""
        import requests  # noqa: PLC0415

        sdk = _load_sdk()
        try:
            info = self._client().info()
        except (sdk.errors.DockerException, requests.exceptions.RequestException) as error:
            raise HostError(f"no container engine answers: {_brief(error)}", hint=GET_ONE) from error
        if info.get("OSType") != "linux" or info.get("Architecture") not in ("x86_64", "amd64"):
            raise HostError(
                f"the container engine is for {info.get('OSType')} on {info.get('Architecture')}; "
                "x86-64 Linux is needed",
                hint="set DOCKER_HOST to an engine on an x86-64 machine",
            )
        self._cores = int(info.get("NCPU") or 1)

    def root(self, label: str) -> str:
        """Always `/forge`: one fixed path keeps builds reproducible."""
        return ROOT

    def cores(self) -> int:
        """CPUs of the engine's machine."""
        if not self._cores:
            self.verify()
        return self._cores

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
        sdk = _load_sdk()
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
        sdk = _load_sdk()
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
        sdk = _load_sdk()
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
            raise HostError(f"the engine could not create a container: {_brief(error)}") from error
        with self._lock:
            self._running[name] = container
            aborted = self._aborted
        try:
            if aborted:
                raise HostError("interrupted")
            yield container
        except sdk.errors.APIError as error:
            raise HostError(f"the engine failed: {_brief(error)}", where=f"container {name}") from error
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
                self._fetch(container, f"{ROOT}/{path}", target)
                outputs[path] = target
            return JobResult(status=0, outputs=outputs)

    @staticmethod
    def _fetch(container: Container, path: str, target: Path) -> None:
        """Write one regular file of the container to `target`."""
        sdk = _load_sdk()
        try:
            stream, _ = container.get_archive(path, chunk_size=CHUNK)
        except sdk.errors.NotFound as error:
            raise HostError(f"the job left no {path}", where=f"container {container.name}") from error
        reader: Any = _Stream(stream)  # tarfile asks a stream for nothing but read
        with tarfile.open(fileobj=reader, mode="r|") as tar:
            member = tar.next()
            content = tar.extractfile(member) if member is not None else None
            if content is None:
                raise HostError(f"{path} is not a regular file", where=f"container {container.name}")
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, CHUNK)

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
            server = _ContainerServer(container, remote or "127.0.0.1", job.port)
            try:
                yield server
            finally:
                with contextlib.suppress(Exception):
                    job.log.write_bytes(container.logs())

    @contextmanager
    def network(self, label: str) -> Iterator[str]:
        """As `Engine.network`: a bridge of its own, on which nothing but these servers is."""
        sdk = _load_sdk()
        with self._lock:
            if self._aborted:
                raise HostError("interrupted")
        name = f"pikaforge-{label}-{secrets.token_hex(4)}"
        try:
            made = self._client().networks.create(name, driver="bridge", labels=self._labels("network"))
        except sdk.errors.APIError as error:
            raise HostError(
                f"the engine could not create a network: {_brief(error)}",
                hint="`docker network prune` removes networks that nothing uses",
            ) from error
        try:
            yield name
        finally:
            with contextlib.suppress(sdk.errors.APIError):
                made.remove()

    @staticmethod
    def _remote_host() -> str:
        """The host of an engine on another machine (tcp://HOST:PORT, ssh://USER@HOST), "" for one on this machine."""
        url = urlsplit(os.environ.get("DOCKER_HOST", ""))
        local = url.scheme not in ("tcp", "ssh", "http", "https") or url.hostname in ("localhost", "127.0.0.1", "::1")
        return "" if local else str(url.hostname)

    # ---- images

    def image(self, reference: str) -> ImageFacts | None:
        """The facts of an image that the engine holds, or None."""
        sdk = _load_sdk()
        try:
            attrs = self._client().images.get(reference).attrs
        except sdk.errors.ImageNotFound:
            return None
        return ImageFacts(
            id=attrs["Id"],
            labels=attrs["Config"].get("Labels") or {},
            digests=tuple(attrs.get("RepoDigests") or ()),
        )

    def pull(self, reference: str) -> ImageFacts:
        """Pull an image by `name:tag` or `name@sha256:…`.

        Raises:
            RegistryError: the registry is out of reach, or has no such image.
        """
        import requests  # noqa: PLC0415

        sdk = _load_sdk()
        try:
            image = self._client().images.pull(reference, platform="linux/amd64")
        except (sdk.errors.DockerException, requests.exceptions.RequestException) as error:
            raise RegistryError(f"cannot pull {reference}: {_brief(error)}") from error
        facts = self.image(str(image.id))
        assert facts is not None  # it was pulled a moment ago
        return facts

    def import_tar(self, archive: Path, tag: str, labels: Mapping[str, str]) -> ImageFacts:
        """Make a one-layer image of a root file system in a tar archive."""
        api = self._client().api
        changes = [f"LABEL {json.dumps(k)}={json.dumps(v)}" for k, v in {**labels, f"{LABEL}.kind": "image"}.items()]
        repository, _, version = tag.rpartition(":")
        with archive.open("rb") as stream:
            answer = api.import_image_from_data(stream, repository=repository, tag=version, changes=changes)
        facts = self.image(tag)
        if facts is None:
            raise HostError(f"the engine did not import {archive.name}: {str(answer)[-300:]}")
        return facts

    def build(
        self, *, context: bytes, target: str, tag: str, args: Mapping[str, str], labels: Mapping[str, str], log: Path
    ) -> ImageFacts | None:
        """Build one stage of the Dockerfile in `context` (a tar archive); None if a step failed, see `log`."""
        sdk = _load_sdk()
        stream = self._client().api.build(
            fileobj=io.BytesIO(context),
            custom_context=True,
            target=target,
            tag=tag,
            buildargs=dict(args),
            labels={**labels, f"{LABEL}.kind": "image"},
            rm=True,
            forcerm=True,
            decode=True,
        )
        failed = False
        try:
            with log.open("a", encoding="utf-8") as file:
                for event in stream:
                    if "error" in event:
                        failed = True
                    file.write(COLOUR.sub("", event.get("stream") or event.get("error") or ""))
                    file.flush()
        except sdk.errors.APIError as error:
            raise HostError(f"the engine could not build {tag}: {_brief(error)}") from error
        return None if failed else self.image(tag)

    def owned_images(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Images made by this tool: id, tags, size in bytes."""
        found = self._client().images.list(filters={"label": f"{LABEL}.kind=image"})
        return [(str(i.id), tuple(i.tags), int(i.attrs.get("Size") or 0)) for i in found]

    def remove_image(self, reference: str) -> None:
        """Remove an image with its tags, unless a container uses it."""
        sdk = _load_sdk()
        try:
            self._client().images.remove(reference, force=True)
        except sdk.errors.ImageNotFound:
            return
        except sdk.errors.APIError as error:
            raise HostError(f"cannot remove {reference}: {_brief(error)}") from error

    def remove_cache(self, name: str) -> bool:
        """Remove a cache volume; whether there was one."""
        sdk = _load_sdk()
        try:
            self._client().volumes.get(f"pikaforge-{name}").remove()
        except sdk.errors.NotFound:
            return False
        except sdk.errors.APIError as error:
            raise HostError(f"cannot remove the cache {name}: {_brief(error)}") from error
        return True


class _ContainerServer:
    """A server in a container, behind a published port."""

    root = ROOT

    def __init__(self, container: Container, host: str, port: int) -> None:
        self._container = container
        self._host = host
        self.port = port

    def address(self) -> tuple[str, int]:
        self._container.reload()
        published = (self._container.ports or {}).get(f"{self.port}/tcp") or []
        if not published:
            raise ConnectionRefusedError("the container's port is not published: it has ended")
        return self._host, int(published[0]["HostPort"])

    def wait(self, timeout: float) -> int | None:
        import requests  # noqa: PLC0415

        try:
            return int(self._container.wait(timeout=timeout)["StatusCode"])
        except (requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout):
            # What the SDK raises when the time is over; the container runs on.
            return None

    def signal(self, name: str) -> None:
        sdk = _load_sdk()
        try:
            self._container.kill(signal=f"SIG{name}")
        except sdk.errors.APIError as error:
            if error.status_code != GONE:  # as with processes: a signal for one that has ended is no error
                raise

    def log_text(self) -> str:
        return bytes(self._container.logs()).decode("utf-8", "replace")

    def again(self) -> None:
        self._container.start()

    def peer(self) -> str:
        self._container.reload()
        networks: Mapping[str, Any] = self._container.attrs["NetworkSettings"]["Networks"]
        return next((str(entry["IPAddress"]) for entry in networks.values() if entry["IPAddress"]), "")

    def today(self) -> str:
        return self._execute("date", "+%Y%m%d").strip()

    def fetch(self, folder: str) -> bytes | None:
        sdk = _load_sdk()
        try:
            stream, _ = self._container.get_archive(f"{ROOT}/{folder}", chunk_size=CHUNK)
        except sdk.errors.NotFound:
            return None
        return b"".join(stream)

    def rest(self) -> Mapping[str, int]:
        folder = self._process()
        status = self._execute("cat", f"{folder}/status")
        return {"fds": len(self._execute("ls", f"{folder}/fd").split()), **process.held(status)}

    def mapped(self) -> tuple[str, ...]:
        return process.mapped(self._execute("cat", f"{self._process()}/maps"))

    def _process(self) -> str:
        """The folder of the server's process under /proc."""
        # The engine's init is process 1, and the server its only child; what is executed here is no child of init.
        return f"/proc/{self._execute('cat', '/proc/1/task/1/children').split()[0]}"

    def _execute(self, *argv: str) -> str:
        """What a program prints in the container; the SDK's own exec gives no exit status with a stream."""
        api: Any = self._container.client
        api = api.api
        try:
            made = api.exec_create(self._container.id, list(argv))
            output = bytes(api.exec_start(made["Id"]))
            status = api.exec_inspect(made["Id"])["ExitCode"]
        except _load_sdk().errors.APIError as error:  # the server has ended, and its container with it
            raise HostError(f"`{' '.join(argv)}` cannot be run in the container: {_brief(error)}") from error
        if status != 0:
            said = " ".join(output.decode("utf-8", "replace").split())[:200]
            raise HostError(f"`{' '.join(argv)}` in the container ended with {status}: {said}")
        return output.decode("utf-8", "replace")


class _Stream:
    """A file of the chunks that the SDK yields, as much of one as tarfile's stream mode needs."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while len(self._rest) < size:
            block = next(self._chunks, None)
            if block is None:
                break
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _brief(error: BaseException) -> str:
    """The engine's own sentence out of an SDK exception, on one line."""
    explanation = getattr(error, "explanation", None)
    return " ".join(str(explanation or error).split())[:300]


def signal_of(status: int) -> int:
    """The signal behind an exit status of 128 + N, or 0."""
    return status - SIGNAL_BASE if SIGNAL_BASE < status < SIGNAL_BASE + 65 else 0
