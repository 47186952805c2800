"""The protocol of a kind of probe, a member of `config.registry.PROBES`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from pikaforge.config.registry import PROBES, ProbeOption

if TYPE_CHECKING:
    from pikaforge.config.smoke_checks import Probe
    from pikaforge.pipeline.smoke.session import Session

SHOWN = 400
"""Characters of an answer in a report."""


class ProbeKind(ProbeOption, Protocol):
    """A way to ask."""

    def ask(self, probe: Probe, session: Session) -> str:
        """Ask once.

        Returns:
            "" if what must come has come, else what came instead.

        Raises:
            Closed: nobody answered, or not within the bounds.
        """

    def describe(self, probe: Probe) -> str:
        """Return in words what is sent, and what is wanted."""


class ProbeOptions:
    """The usual answers of a kind."""

    about = ""
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    serverless = False

    def check(self, probe: Probe) -> None:
        """Accept the fields."""


def of(probe: Probe) -> ProbeKind:
    """Return the kind of a probe."""
    return cast(ProbeKind, PROBES.get(probe.kind))


def shown(text: str) -> str:
    """Return an answer for people, cut to one line."""
    text = repr(text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
