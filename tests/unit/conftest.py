"""Unit tests reach no engine, no network and no other program; and what they share."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import docker
import pytest
from unit.helpers import FakeEngine, Forbidden, make_workspace

from pikaforge.host import engine_socket, process
from pikaforge.host.workspace import Workspace


@pytest.fixture(autouse=True)
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would leave this process raises, with the name of what was tried."""

    def forbid(what: str) -> Any:
        def refuse(*args: object, **_: object) -> NoReturn:
            raise Forbidden(f"a unit test must not use {what}; it was called with {args!r:.200}")

        return refuse

    def silent(*_: object, **__: object) -> NoReturn:
        raise engine_socket.EngineSilentError("a unit test asks no engine")

    monkeypatch.setattr(engine_socket, "get", silent)
    for module, name, what in (
        (subprocess, "Popen", "subprocess.Popen"),
        (os, "system", "os.system"),
        (os, "posix_spawn", "os.posix_spawn"),
        (socket.socket, "connect", "socket.connect"),
        (socket.socket, "connect_ex", "socket.connect_ex"),
        (socket, "create_connection", "socket.create_connection"),
        (socket, "getaddrinfo", "socket.getaddrinfo"),
        (docker, "from_env", "docker.from_env"),
        (docker, "DockerClient", "docker.DockerClient"),
    ):
        monkeypatch.setattr(module, name, forbid(what))


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests decides them."""
    for name in ("PIKAFORGE_CWD", "DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")


@pytest.fixture(autouse=True)
def not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """`process.end_all` is for good; so each test has its own."""
    monkeypatch.setattr(process, "_ended", type(process._ended)())


@pytest.fixture
def fake() -> FakeEngine:
    """An engine that records its jobs and does as `endings` says."""
    return FakeEngine()


@pytest.fixture
def workspace(tmp_path: Path, fake: FakeEngine) -> Workspace:
    """A workspace below the test's folder, with guest scripts of its own."""
    return make_workspace(tmp_path, fake)
