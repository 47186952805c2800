"""The kind `resp`: a server that speaks RESP answers PING."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pikaforge.pipeline.smoke.probes.probe import ProbeOptions
from pikaforge.pipeline.smoke.resp import ErrorReply

if TYPE_CHECKING:
    from pikaforge.config.smoke_checks import Probe
    from pikaforge.pipeline.smoke.session import Session

LOADING = "LOADING"
"""The word at the start of the error of a server that has not read its data yet."""


class RespProbe(ProbeOptions):
    """PING in RESP. Any reply is one, because a server that wants a password first also serves."""

    about = "sends PING in RESP, and wants any reply but that it is loading"

    def ask(self, probe: Probe, session: Session) -> str:
        """Send PING."""
        reply = session.connection().exchange([["PING"]])[0]
        return reply.text if isinstance(reply, ErrorReply) and reply.text.startswith(LOADING) else ""

    def describe(self, probe: Probe) -> str:
        """Return what is sent and wanted."""
        return "sent PING; wanted a reply"


KIND = RespProbe()
