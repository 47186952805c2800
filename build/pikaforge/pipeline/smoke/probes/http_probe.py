"""The kind `http`: GET of a path."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, cast

from pikaforge.pipeline.smoke.probes.probe import ProbeOptions, shown
from pikaforge.pipeline.smoke.wire import BLOCK, Garbled, Wire, brief

if TYPE_CHECKING:
    from socket import socket

    from pikaforge.config.smoke_checks import Probe
    from pikaforge.pipeline.smoke.session import Session

OK = 200
BODY_LIMIT = 1 << 20
"""Bytes of a body that are read; the wire bounds the whole answer."""


class HttpProbe(ProbeOptions):
    """A request on a connection of its own. Redirections are not followed: they are answers."""

    about = "gets `path` over HTTP, and wants `status` (200) and a body that matches `match`"
    required = frozenset({"path"})
    optional = frozenset({"status", "match"})

    def ask(self, probe: Probe, session: Session) -> str:
        """Get the path."""
        with session.new_wire() as wire:
            wire.send(f"GET {probe.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("ascii"))
            status, body = _answer(wire)
        if status != _wanted(probe):
            return f"status {status} and {shown(body)}"
        return "" if re.search(probe.match or "", body) is not None else shown(body)

    def describe(self, probe: Probe) -> str:
        """Return what is sent and wanted."""
        matched = f" and a match of {probe.match!r}" if probe.match is not None else ""
        return f"got {probe.path}; wanted status {_wanted(probe)}{matched}"


def _wanted(probe: Probe) -> int:
    return OK if probe.status is None else probe.status


class _Stream(io.RawIOBase):
    """What comes over a wire, as the standard library reads it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._wire.some(len(view))
        view[: len(data)] = data
        return len(data)

    def makefile(self, _: str) -> io.BufferedReader:
        """Return the stream that a response reads; it takes this for a socket."""
        return io.BufferedReader(self, BLOCK)


def _answer(wire: Wire) -> tuple[int, str]:
    """Read status and body.

    Raises:
        Closed: they are no HTTP, or longer than an answer may be, or did not come in time.
    """
    # The parser alone: the connection is the wire. A plan must not cost its import.
    from http.client import HTTPException, HTTPResponse  # noqa: PLC0415, TID251

    answer = HTTPResponse(cast("socket", _Stream(wire)), method="GET")
    try:
        answer.begin()
        body = answer.read(BODY_LIMIT)
    except (HTTPException, ValueError) as error:
        raise Garbled(f"what came is no HTTP: {type(error).__name__}: {brief(error)}") from error
    return answer.status, body.decode("utf-8", "backslashreplace")


KIND = HttpProbe()
