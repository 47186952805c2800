"""The connection to a container engine, through the docker SDK: the one module that imports it."""

from __future__ import annotations

import importlib
import os
import re
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pikaforge.errors import HostError
from pikaforge.host import docker_context, podman, replies
from pikaforge.host.confinement import Abilities

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models import containers

    Container = containers.Container

LABEL = "org.pikaforge"
"""Prefix of labels: `.owner` (a `RunId`) is on what must not outlive its run, `.kind` on everything."""

SOCKETS = ("/var/run/docker.sock", "{user}/docker.sock", "/run/podman/podman.sock", "{user}/podman/podman.sock")
"""Sockets of engines on this machine, in the order of setup.sh; {user} is XDG_RUNTIME_DIR."""
NO_ENGINE = (
    "start the engine (`systemctl start docker`, or podman.socket), or let `bash setup.sh` install and start one\n"
    "set DOCKER_HOST to reach an engine on another machine\n"
    "or build on this machine without containers: --engine host"
)
ENDED = "was it stopped, or did it die? `bash setup.sh` starts it; run this again then: it goes on where it was"
HINTS = {
    r"no space left on device": "the disk of the engine's machine is full; `invoke images.remove` frees some of it",
    **podman.HINTS,
}
"""What to do, by patterns in error messages of engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """Facts about an engine."""

    cores: int
    podman: bool
    rootless: bool
    abilities: Abilities = field(default_factory=Abilities)


def load_sdk() -> ModuleType:
    """Return the SDK's module.

    Raises:
        HostError: it is not installed.
    """
    try:
        import docker  # noqa: PLC0415  # 0.3 s that a plan must not cost
        import docker.errors  # noqa: PLC0415
    except ImportError as error:
        raise HostError(f"the docker SDK for Python cannot be imported: {error}", hint="run `bash setup.sh`") from error
    if not hasattr(docker, "from_env"):
        # Without the SDK, this project's own docker/ folder imports as an empty namespace package.
        raise HostError("the docker SDK for Python is not installed", hint="run `bash setup.sh`")
    return docker


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return variables that lead to an engine.

    These are those that are given, or DOCKER_HOST of the docker context in use or of podman's CONTAINER_HOST, or else
    for the first usable socket.

    Raises:
        HostError: the context cannot be read, or podman's variables name an engine that cannot be used.
    """
    given = docker_context.with_context(given)
    if given.get("DOCKER_HOST"):
        return dict(given)
    if address := podman.named(given):
        return {**given, "DOCKER_HOST": address}
    user = given.get("XDG_RUNTIME_DIR", "")
    paths = [Path(place.format(user=user)) for place in SOCKETS if user or "{user}" not in place]
    found = next((path for path in paths if path.is_socket() and os.access(path, os.R_OK | os.W_OK)), None)
    return {**given, "DOCKER_HOST": f"unix://{found}" if found else ""}


def address() -> str:
    """Return where the engine is: the URL that this process uses; "" if there is none."""
    return environment(os.environ)["DOCKER_HOST"]


def _ssh_errors(url: str) -> tuple[type[Exception], ...]:
    """Return what the SDK lets through when it cannot connect to an engine over ssh; nothing for other engines.

    Raises:
        HostError: what the SDK needs for ssh is not installed.
    """
    if not url.startswith("ssh://"):
        return ()
    try:
        paramiko = importlib.import_module("paramiko")
    except ImportError as error:
        raise HostError(
            "an engine over ssh needs the Python package paramiko, which is not installed",
            hint=f"{sys.executable} -m pip install 'docker[ssh]'\n"
            "or set DOCKER_HOST to an address of that engine that needs no ssh (tcp://HOST:PORT, with TLS)",
        ) from error
    return (paramiko.SSHException, OSError, EOFError)


def brief(error: BaseException) -> str:
    """Return the engine's own words in an exception of the SDK, or the innermost reason, on one line."""
    explanation = getattr(error, "explanation", None)
    while explanation is None and (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    if isinstance(error, OSError) and error.strerror:
        explanation = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(explanation or error).split())[:300]


@contextmanager
def engine_errors(what: str = "the engine failed", *, where: str = "", hint: str = "") -> Iterator[None]:
    """Raise HostError with the engine's own words for all that the SDK raises.

    Args:
        what: the message, before those words.
        where: as in HostError.
        hint: as in HostError, unless `HINTS` has a better one.
    """
    from pikaforge.host.http_session import LOST  # noqa: PLC0415  # the SDK speaks HTTP by requests

    sdk = load_sdk()
    try:
        yield
    except sdk.errors.APIError as error:
        said = brief(error)
        advice = next((advice for pattern, advice in HINTS.items() if re.search(pattern, said)), hint)
        raise HostError(f"{what}: {said}", where=where, hint=advice) from error
    # struct.error: an engine that dies in the middle of a stream leaves half a frame of it.
    except (sdk.errors.DockerException, struct.error, *LOST) as error:
        raise HostError(
            f"the container engine does not answer any more: {brief(error)}", where=where, hint=ENDED
        ) from error


class EngineConnection:
    """The engine behind DOCKER_HOST, that of docker's context, or the local one."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._version: str | None = None
        self._facts: EngineFacts | None = None

    def _client(self) -> DockerClient:
        """Return this thread's client: the SDK's sessions must not be shared."""
        client: DockerClient | None = getattr(self._local, "client", None)
        if client is None:
            sdk = load_sdk()
            variables = environment(os.environ)
            over_ssh = _ssh_errors(variables["DOCKER_HOST"])
            try:
                # Podman takes half a second to say its version, so only the first client asks.
                client = sdk.from_env(timeout=600, version=self._version, environment=variables)
            except (sdk.errors.DockerException, *over_ssh) as error:
                raise HostError(f"no container engine answers: {brief(error)}", hint=NO_ENGINE) from error
            self._version = client.api.api_version
            self._local.client = client
        return client

    def verify(self) -> None:
        """Raise HostError unless an engine for Linux on x86-64 answers."""
        from pikaforge.host.http_session import LOST  # noqa: PLC0415

        sdk = load_sdk()
        try:
            answer = self._client().info()
        except (sdk.errors.DockerException, *LOST) as error:
            raise HostError(f"no container engine answers: {brief(error)}", hint=NO_ENGINE) from error
        info = replies.parse(replies.EngineInfo, answer)
        if info.system != "linux" or info.architecture not in ("x86_64", "amd64"):
            raise HostError(
                f"the container engine is for {info.system} on {info.architecture}; x86-64 Linux is needed",
                hint="set DOCKER_HOST to an engine on an x86-64 machine",
            )
        self._facts = EngineFacts(
            cores=info.cpus or 1, podman=info.podman, rootless=info.rootless, abilities=info.abilities
        )

    def facts(self) -> EngineFacts:
        """Return the facts about the engine. It is asked once."""
        if self._facts is None:
            self.verify()
        assert self._facts is not None  # verify raises otherwise
        return self._facts

    def cores(self) -> int:
        """Return the number of CPUs of the engine's machine."""
        return self.facts().cores

    @staticmethod
    def _remote_host() -> str:
        """Return the host of an engine on another machine (tcp://HOST:PORT, ssh://USER@HOST); "" for a local one."""
        url = urlsplit(address())
        local = url.scheme not in ("tcp", "ssh", "http", "https") or url.hostname in ("localhost", "127.0.0.1", "::1")
        return "" if local else str(url.hostname)
