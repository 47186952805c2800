"""The connection to a container engine, through the docker SDK: the one module that imports it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pikaforge.errors import HostError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models import containers

    Container = containers.Container

LABEL = "org.pikaforge"
"""Prefix of all labels: `.owner` on what must not outlive a run, `.kind` on everything."""

GET_ONE = (
    "start the engine (`systemctl start docker`), or let `bash setup.sh` install and start one\n"
    "set DOCKER_HOST to reach an engine on another machine\n"
    "or build on this machine without containers: --engine host"
)


def load_sdk() -> Any:
    """The SDK's module.

    Raises:
        HostError: it is not installed.
    """
    try:
        import docker  # noqa: PLC0415  # 0.3 s that a plan must not cost
        import docker.errors  # noqa: PLC0415
    except ImportError as error:
        raise HostError("the docker SDK for Python is not installed", hint="run `bash setup.sh`") from error
    if not hasattr(docker, "from_env"):
        # Without the SDK, this project's own docker/ folder imports as an empty namespace package.
        raise HostError("the docker SDK for Python is not installed", hint="run `bash setup.sh`")
    return docker


def brief(error: BaseException) -> str:
    """The engine's own sentence out of an SDK exception, on one line."""
    explanation = getattr(error, "explanation", None)
    return " ".join(str(explanation or error).split())[:300]


class EngineConnection:
    """The engine behind DOCKER_HOST, or the local one."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._cores = 0

    def _client(self) -> DockerClient:
        """One client a thread: the SDK's sessions are not made to be shared."""
        client: DockerClient | None = getattr(self._local, "client", None)
        if client is None:
            sdk = load_sdk()
            try:
                client = sdk.from_env(timeout=600)
            except sdk.errors.DockerException as error:
                raise HostError(f"no container engine answers: {brief(error)}", hint=GET_ONE) from error
            self._local.client = client
        return client

    def verify(self) -> None:
        """Raise HostError unless an engine for Linux on x86-64 answers."""
        import requests  # noqa: PLC0415

        sdk = load_sdk()
        try:
            info = self._client().info()
        except (sdk.errors.DockerException, requests.exceptions.RequestException) as error:
            raise HostError(f"no container engine answers: {brief(error)}", hint=GET_ONE) from error
        if info.get("OSType") != "linux" or info.get("Architecture") not in ("x86_64", "amd64"):
            raise HostError(
                f"the container engine is for {info.get('OSType')} on {info.get('Architecture')}; "
                "x86-64 Linux is needed",
                hint="set DOCKER_HOST to an engine on an x86-64 machine",
            )
        self._cores = int(info.get("NCPU") or 1)

    def cores(self) -> int:
        """CPUs of the engine's machine."""
        if not self._cores:
            self.verify()
        return self._cores

    @staticmethod
    def _remote_host() -> str:
        """The host of an engine on another machine (tcp://HOST:PORT, ssh://USER@HOST), "" for one on this machine."""
        url = urlsplit(os.environ.get("DOCKER_HOST", ""))
        local = url.scheme not in ("tcp", "ssh", "http", "https") or url.hostname in ("localhost", "127.0.0.1", "::1")
        return "" if local else str(url.hostname)
