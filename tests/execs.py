"""Programs run in containers, with all that they say."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pikaforge.host.engine_calls import executed

if TYPE_CHECKING:
    from docker.models.containers import Container

LIMIT = 300.0
"""Seconds for one program."""


def run_in(
    container: Container,
    argv: Sequence[str],
    *,
    user: str = "",
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
) -> tuple[int, bytes]:
    """Run a program in a container; its exit status and both outputs."""
    client: Any = container.client
    api = client.api
    made = api.exec_create(container.id, list(argv), user=user, environment=dict(env or {}), workdir=workdir)["Id"]
    said = b"".join(executed(api, made, LIMIT))
    for _ in range(100):
        # The engine may see the end of the output before that of the program.
        status = api.exec_inspect(made)["ExitCode"]
        if status is not None:
            return status, said
        threading.Event().wait(0.1)
    raise AssertionError(f"{argv} ended without a status, after: {said[-1000:]!r}")


def name_itself(container: Container) -> None:
    """Let the name of a container resolve that has no network: the engine writes no line for it."""
    status, said = run_in(container, ["sh", "-c", 'echo "127.0.1.1 $(uname -n)" >>/etc/hosts'], user="0")
    assert status == 0, said
