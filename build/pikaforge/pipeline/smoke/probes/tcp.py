"""The kind `tcp`: raw bytes over TCP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pikaforge.pipeline.smoke.probes.probe import ProbeOptions, shown

if TYPE_CHECKING:
    from pikaforge.config.smoke_checks import Probe
    from pikaforge.pipeline.smoke.session import Session

ENCODING = "latin-1"
"""Each byte is the character of its number."""
LOOK = 0.25
"""Seconds to look whether a connection stays open. A container engine accepts connections to a published port, and
closes them at once if nothing listens on it in the container."""


class TcpProbe(ProbeOptions):
    """Bytes that are sent, and bytes that must come next. The probes of a check share one connection."""

    about = "sends bytes over TCP, and wants bytes (`expect`), or a match among them (`match`); without, a connection"
    optional = frozenset({"send", "expect", "match"})

    def check(self, probe: Probe) -> None:
        """Refuse two expectations."""
        if probe.expect is not None and probe.match is not None:
            raise ValueError("kind tcp takes one of `expect` and `match`")

    def ask(self, probe: Probe, session: Session) -> str:
        """Send the bytes, and read what comes up to the end of what must come."""
        wire = session.wire()
        wire.begin()
        if probe.send is not None:
            wire.send(probe.send.encode(ENCODING))
        wrong = ""
        if probe.expect is not None:
            wanted = probe.expect.encode(ENCODING)
            found = wire.read_as(wanted).decode(ENCODING)
            wrong = "" if found == probe.expect else shown(found)
        elif probe.match is not None:
            rest = wire.until(re.compile(probe.match))
            wrong = "" if rest is None else shown(rest)
        elif probe.send is None and not wire.is_open(LOOK):
            wrong = "a connection that was closed at once"
        return wrong

    def describe(self, probe: Probe) -> str:
        """Return what is sent and wanted."""
        sent = f"sent {shown(probe.send)}" if probe.send is not None else "connected"
        if probe.expect is not None:
            return f"{sent}; wanted {shown(probe.expect)}"
        return f"{sent}; wanted a match of {probe.match!r}" if probe.match is not None else sent


KIND = TcpProbe()
