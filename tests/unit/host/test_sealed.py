"""The fixtures that keep unit tests inside their process do so."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

import docker
import pytest
from unit.helpers import Forbidden

from pikaforge.host import process
from pikaforge.host.docker import DockerEngine
from pikaforge.pipeline.smoke.resp import Connection


def _unix() -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/var/run/docker.sock")


def _engine() -> None:
    docker.from_env()  # by its name at the time of the test, not of the import


def _inet() -> None:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("attempt", "what"),
    [
        (lambda: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda: process.run(["true"]), "subprocess.Popen"),
        (lambda: os.system("true"), "os.system"),  # noqa: S605
        (_unix, "socket.connect"),
        (_inet, "socket.connect"),
        (lambda: socket.create_connection(("127.0.0.1", 1)), "socket.create_connection"),
        (lambda: Connection("127.0.0.1", 1), "socket.create_connection"),
        (_engine, "docker.from_env"),
        (lambda: DockerEngine().verify(), "docker.from_env"),
    ],
)
def test_what_leaves_the_process_raises(attempt: Callable[[], object], what: str) -> None:
    with pytest.raises(Forbidden, match=rf"^a unit test must not use {what}; it was called with "):
        attempt()
