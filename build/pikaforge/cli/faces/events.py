"""The events of a run, as faces take them and `--json` prints them. `events.schema.json` is made of these models."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, RootModel

from pikaforge.config.scalars import Strict
from pikaforge.config.schema import schema_of

NODE = "Its id: STAGE:LABEL."


class EventBase(Strict):
    """What all events have."""

    time: str = Field(description="When it was, ISO 8601 in UTC.")


class RunNotice(EventBase):
    """A text that the user should read, such as a new pin."""

    event: Literal["notice"] = "notice"
    level: Literal["note", "warning"] = Field(default="note", description="How much it matters.")
    text: str = Field(description="The text.")


class RunOpened(EventBase):
    """What the run will do. It comes once, before the first node of the plan; not if the run ends before."""

    event: Literal["opened"] = "opened"
    product: str = Field(description="What is built.")
    version: str = Field(description="Its version.")
    options: tuple[str, ...] = Field(description="Options of the run that are not the defaults, with their values.")
    cells: tuple[str, ...] = Field(description="Ids of the selected cells.")
    compilations: int = Field(description="Distinct compilations of them.")
    nodes: int = Field(description="Nodes of the plan.")
    cached: int = Field(description="Nodes whose results were stored when the run began.")
    expected_seconds: float | None = Field(
        description="How long the rest is expected to take, by the times of earlier runs; null if none is known."
    )
    unknown: int = Field(description="Nodes that are to be run, of whose stage no time is known.")


class NodeStarted(EventBase):
    """A node is being made. Nodes whose results are stored are not started."""

    event: Literal["started"] = "started"
    node: str = Field(description=NODE)
    stage: str = Field(description="The stage.")
    label: str = Field(description="What it is run for: an image, a target of an image, a cell.")
    cells: tuple[str, ...] = Field(description="Ids of the cells that need it.")
    expected_seconds: float | None = Field(description="How long it took in an earlier run; null if that is not known.")


class NodeProgressed(EventBase):
    """A node that runs has printed how far it is."""

    event: Literal["progress"] = "progress"
    node: str = Field(description=NODE)
    fraction: float = Field(ge=0, le=1, description="What is done, from 0 to 1.")
    text: str = Field(description="What the build has printed: `42%`, `3/9`.")


class FailureText(Strict):
    """An error."""

    message: str = Field(description="What is wrong.")
    where: str = Field(default="", description="Where: a YAML path, a stage, a cell, a file.")
    reasons: tuple[str, ...] = Field(default=(), description="Lines that say why, such as the first compiler error.")
    tail: tuple[str, ...] = Field(default=(), description="The last lines of the log.")
    hints: tuple[str, ...] = Field(default=(), description="What to do.")
    lines: tuple[str, ...] = Field(description="All of it, as it is printed for people.")
    exit_status: int = Field(description="The exit status of its kind.")
    file: str = Field(default="", description="The configuration file that has what failed; empty if none has.")
    line: int = Field(default=0, description="The line there, from 1.")


class NodeEnded(EventBase):
    """The end of a node."""

    event: Literal["ended"] = "ended"
    node: str = Field(description=NODE)
    stage: str = Field(description="The stage.")
    label: str = Field(description="What it was run for.")
    cells: tuple[str, ...] = Field(description="Ids of the cells that need it.")
    status: Literal["cached", "done", "failed", "blocked"] = Field(description="How it ended.")
    seconds: float = Field(description="How long it took.")
    blocked_by: str = Field(default="", description="The node without whose result it was not run.")
    log: str = Field(default="", description="Path of its log, if it has one.")
    error: FailureText | None = Field(default=None, description="Why it failed.")
    reproduce: tuple[str, ...] = Field(
        default=(), description="Command lines that run it again on this machine, quoted for a shell."
    )


class RunStopping(EventBase):
    """A signal has come: what runs is being ended and removed."""

    event: Literal["stopping"] = "stopping"


class CellEnded(EventBase):
    """The verdicts on a cell."""

    event: Literal["cell"] = "cell"
    cell: str = Field(description="Its id.")
    target: str = Field(description="Microarchitecture that it was built for.")
    wanted: str = Field(description="The best one that all CPUs of the model run.")
    flags: tuple[str, ...] = Field(description="The compiler flags of the target.")
    status: Literal["done", "failed"] = Field(description="Whether there is a package that everything says yes to.")
    audit: str = Field(description="The audit's verdict, for people.")
    native: str = Field(description="That of the smoke checks on this machine's CPU.")
    emulated: str = Field(description="That of the smoke checks under emulation.")
    package: str = Field(description="Whether it was packed.")
    reason: str = Field(default="", description="Why it has no package.")
    command: str = Field(default="", description="The command that builds it alone, if it has no package.")


class ArtifactPut(EventBase):
    """A file that is in dist/."""

    event: Literal["artifact"] = "artifact"
    cell: str = Field(description="Id of the cell.")
    file: str = Field(description="Its path.")
    bytes: int = Field(description="Its size.")
    seconds: float = Field(description="What this run has spent on the cell's nodes; shared nodes count for each cell.")
    sha256: str = Field(description="Its SHA-256.")
    made: Literal["built", "packed only", "up to date"] = Field(
        description="`packed only`: nothing was compiled for it in this run; `up to date`: nothing was run."
    )


class TableShown(EventBase):
    """The table of a sweep."""

    event: Literal["table"] = "table"
    header: tuple[str, ...] = Field(description="Names of the columns.")
    rows: tuple[tuple[str, ...], ...] = Field(description="The rows.")
    remarks: tuple[str, ...] = Field(description="Lines below it.")


class RunClosed(EventBase):
    """The end of a run that was not interrupted."""

    event: Literal["closed"] = "closed"
    exit_status: int = Field(description="The exit status of the command.")
    built: int = Field(description="Cells with a package.")
    failed: int = Field(description="Cells without one.")
    seconds: float = Field(description="How long the run took.")
    report: str = Field(description="Path of the build report; empty if there is none.")
    page: str = Field(default="", description="Path of its page; empty if there is none.")
    next: tuple[str, ...] = Field(default=(), description="What can be done next: command lines, quoted for a shell.")


class RunInterrupted(EventBase):
    """The end of a run that a signal has ended. What was running is removed."""

    event: Literal["interrupted"] = "interrupted"
    exit_status: int = Field(description="128 + N after signal N.")
    kept: int = Field(description="Nodes whose results are kept.")
    nodes: int = Field(description="Nodes of the plan; 0 if it was not made yet.")
    next: tuple[str, ...] = Field(description="The command line that goes on, quoted for a shell.")


class RunFailed(EventBase):
    """The end of a run by an error that is not a node's: in the configuration, or of this machine."""

    event: Literal["failed"] = "failed"
    error: FailureText = Field(description="The error. It is printed on standard error, too.")


RunEvent: TypeAlias = (
    RunNotice
    | RunOpened
    | NodeStarted
    | NodeProgressed
    | NodeEnded
    | RunStopping
    | CellEnded
    | ArtifactPut
    | TableShown
    | RunClosed
    | RunInterrupted
    | RunFailed
)


class EventLine(RootModel[Annotated[RunEvent, Field(discriminator="event")]]):
    """One line of `--json` of build and sweep."""

    model_config = ConfigDict(defer_build=True)


def schema() -> dict[str, object]:
    """Return the JSON schema of one line of `--json`."""
    return schema_of(EventLine)
