"""Results of smoke checks, as the stage keeps them and dist/report.json shows them."""

from __future__ import annotations

from pydantic import Field

from pikaforge.config.scalars import Strict


class CheckRecord(Strict):
    """One smoke check."""

    name: str = Field(description="As in product.smoke; with a server also version, start, allocator and stop.")
    passed: bool = Field(description="Whether it was made and held.")
    seconds: float = Field(description="How long it took.")
    detail: str = Field(default="", description="The exact exchange that failed.")
    required: bool = Field(default=True, description="Whether its failure fails the stage.")
    skipped: str = Field(default="", description="Why it was not made; then it has not passed.")
    note: str = Field(default="", description="What is to be known of it even if it passed.")
    exchanges: tuple[str, ...] = Field(
        default=(), description="What was asked, and what came, of the steps that held; 40 at most, each cut."
    )

    @property
    def failed(self) -> bool:
        """Whether it was made and did not pass."""
        return not self.passed and not self.skipped


class WayRecord(Strict):
    """The smoke checks natively or under emulation."""

    ran: bool = Field(description="Whether the server was started in this way at all.")
    reason: str = Field(default="", description="Why not; such a way is never called passed.")
    problem: str = Field(default="", description="Why it is refused; empty if it passed.")
    cpu: str = Field(default="", description="The emulated CPU; empty natively.")
    machine: str = Field(
        default="", description="The CPU that it ran on natively, as it calls itself, and its microarchitecture."
    )
    checks: tuple[CheckRecord, ...] = Field(default=(), description="In the order in which they were made.")
    rest: dict[str, object] = Field(
        default_factory=dict, description="What the server held at rest: file descriptors, threads, bytes of memory."
    )

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the required checks that did not hold."""
        return tuple(c.name for c in self.checks if c.required and c.failed)


class SmokeFacts(Strict):
    """Facts of the smoke stage."""

    target: str
    """The target of the tree."""
    tried: str = ""
    """The target whose tree was run: `target`, or its twin; empty if the stage has failed."""
    native: WayRecord
    emulated: WayRecord
    checks: tuple[CheckRecord, ...] = ()
    """Checks that passed natively, or under emulation if nothing ran natively: for the package's manifest."""
