"""What a check says, and the document of `doctor --json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import Field

from pikaforge.config.scalars import Strict
from pikaforge.doctor.facts import Facts

State = Literal["ok", "warning", "lacking"]


class Diagnosis(Strict):
    """What one check says of one thing."""

    check: str = Field(description="Name of the check, such as disk.")
    subject: str = Field(description="What it is about: a program, a folder, a server.")
    state: State = Field(
        description="lacking: a build needs it. warning: something else does, or it may be too little."
    )
    says: str = Field(description="What was found.")
    stops: str = Field(default="", description="What does not work without it; empty if nothing is wrong.")
    mend: tuple[str, ...] = Field(default=(), description="Commands and settings that mend it, the usual one first.")


class DoctorReport(Strict):
    """The output of `doctor --json`."""

    version: Literal[1] = Field(default=1, description="Of this format.")
    images: tuple[str, ...] = Field(description="The images for which the machine was judged.")
    state: State = Field(description="The worst of all findings.")
    findings: tuple[Diagnosis, ...] = Field(description="In the order of the checks.")


class DoctorCheck(Protocol):
    """A judge over facts. It is pure: it asks nobody."""

    name: str

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield what it says of each thing; nothing of what the facts do not have."""


def worst(findings: tuple[Diagnosis, ...]) -> State:
    """Return the worst state of some findings."""
    states = {finding.state for finding in findings}
    return "lacking" if "lacking" in states else "warning" if "warning" in states else "ok"
