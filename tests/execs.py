"""Programs run in containers, with all that they say.

`docker exec` of docker 20.10 loses what a program says at its end where that ends at once and the machine is busy: the
stream is closed before it was read. So the program's shell waits for a line on its input after it has told the status,
and gets it once that was read here.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docker.utils import socket as frames

if TYPE_CHECKING:
    from docker.models.containers import Container

LIMIT = 300.0
"""Seconds for one program."""
WRAP = 'exec 2>&1; end=$1; shift; "$@" </dev/null; printf "%s %s\\n" "$end" "$?"; read -r _ || :'


def run_in(
    container: Container,
    argv: Sequence[str],
    *,
    user: str = "",
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
) -> tuple[int, bytes]:
    """Run a program in a container that has sh; its exit status and both outputs."""
    api: Any = container.client
    api = api.api
    end = f"end-of-{uuid.uuid4().hex}"
    made = api.exec_create(
        container.id,
        ["sh", "-c", WRAP, "sh", end, *argv],
        stdin=True,
        user=user,
        environment=dict(env or {}),
        workdir=workdir,
    )
    stream = api.exec_start(made["Id"], socket=True)
    raw = getattr(stream, "_sock", stream)
    watchdog = threading.Timer(LIMIT, raw.shutdown, (socket.SHUT_RDWR,))
    watchdog.start()
    said = bytearray()
    read: Any = frames.frames_iter
    try:
        for _, block in read(stream, tty=False):
            said += block
            before, found, after = bytes(said).partition(end.encode())
            if found and after.endswith(b"\n"):
                raw.sendall(b"\n")
                return int(after), before
    finally:
        watchdog.cancel()
        stream.close()
    raise AssertionError(f"{argv} ended without a status, after: {bytes(said)[-1000:]!r}")
