"""The kind `command`: a program of the tree, run to its end in the clean image."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pikaforge.host.job import TIMED_OUT
from pikaforge.pipeline.smoke.endings import describe_end
from pikaforge.pipeline.smoke.probes.probe import ProbeOptions, shown

if TYPE_CHECKING:
    from pikaforge.config.smoke_checks import Probe
    from pikaforge.pipeline.smoke.session import Session

END = 300
"""Characters at the end of an output in a report."""


class CommandProbe(ProbeOptions):
    """A command, its exit status, and what it prints. The commands of all checks without instances share a folder."""

    about = (
        "runs a program of the tree in the clean image, and wants exit status `status` (0) and a match of its output"
    )
    required = frozenset({"argv"})
    optional = frozenset({"status", "match"})
    serverless = True

    def ask(self, probe: Probe, session: Session) -> str:
        """Run the command."""
        done = session.execute(probe.argv or ())
        text = done.output.decode("utf-8", "backslashreplace")
        if done.status != _wanted(probe):
            late = " (it did not end in time)" if done.status == TIMED_OUT else ""
            return f"{describe_end(done.status)}{late}; it printed {shown(text[-END:])}"
        return "" if re.search(probe.match or "", text) is not None else f"the output {shown(text[-END:])}"

    def describe(self, probe: Probe) -> str:
        """Return what is run and wanted."""
        matched = f" and a match of {probe.match!r}" if probe.match is not None else ""
        return f"ran {shlex.join(probe.argv or ())}; wanted exit status {_wanted(probe)}{matched}"


def _wanted(probe: Probe) -> int:
    return probe.status or 0


KIND = CommandProbe()
