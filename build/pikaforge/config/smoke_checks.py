"""Smoke checks as matrix.yaml writes them: instances, steps, expectations, probes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from pikaforge.config.registry import PROBES
from pikaforge.config.scalars import PAGE_PATTERN, AllocatorName, Argument, Below, Name, OneOf, Scalar, Strict

MAIN = "main"
"""The instance that a step asks if it names none."""


PEER = re.compile(r"\{(ip|port):([A-Za-z0-9][A-Za-z0-9._-]*)\}")
"""Finds {ip:NAME} and {port:NAME} in words that are sent."""


Reply = Scalar | tuple["Scalar | tuple[Scalar, ...]", ...]


class Refusal(Strict):
    """How a server must refuse to start: it ends by itself and says why."""

    match: str = Field(min_length=1, description="Regular expression that what it printed must contain.")
    status: int | None = Field(default=None, description="Its exit status (128 + N for signal N); null: any but 0.")


class Data(Strict):
    """What a server finds in its data folder at its first start: a copy of another one's data, or of a part."""

    of: Name = Field(description="The instance whose data it is; it may be running.")
    folder: Below = Field(default="", description="A folder below that one's data, may hold {today}; empty: all.")
    to: Below = Field(default="", description="Where its content goes, below the new one's data; empty: the top.")


def _bytes_only(text: str | None) -> str | None:
    wrong = next((character for character in text or "" if ord(character) > 0xFF), None)
    if wrong is not None:
        raise ValueError(f"each character stands for one byte, and {wrong!r} is none: write its bytes as \\xNN")
    return text


RawBytes = Annotated[str, Field(min_length=1, max_length=65536), AfterValidator(_bytes_only)]
"""Bytes, each as the character of its number."""


def _describe_probes(schema: JsonDict) -> None:
    """Put the kinds into the description of `Probe` in the JSON schema."""
    kinds = "; ".join(f"`{name}` {PROBES.get(name).about}" for name in PROBES.names)
    schema["description"] = f"One question, and what must come. Its kinds: {kinds}."


class Probe(Strict):
    """One question, and what must come. The kinds define which fields they take."""

    model_config = ConfigDict(json_schema_extra=_describe_probes)

    kind: Annotated[str, OneOf(PROBES)] = Field(description="How it is asked.")
    send: RawBytes | None = Field(default=None, description="Bytes to send; each character is one, \\xNN is any.")
    expect: RawBytes | None = Field(default=None, description="The bytes that must come next.")
    path: str | None = Field(default=None, pattern=PAGE_PATTERN, max_length=4096, description="Of an HTTP request.")
    argv: tuple[Argument, ...] | None = Field(
        default=None,
        min_length=1,
        description="Program below the tree's top folder, and arguments, which may hold {tree}, {data} and {port}.",
    )
    status: int | None = Field(default=None, ge=0, le=999, description="The status that must come; null: 200, or 0.")
    match: str | None = Field(
        default=None,
        description="Regular expression that what comes must contain; of bytes, end it where the answer ends.",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Probe:
        kind = PROBES.get(self.kind)
        given = [name for name in type(self).model_fields if name != "kind" and getattr(self, name) is not None]
        for name in sorted(kind.required):
            if name not in given:
                raise ValueError(f"kind {self.kind} needs `{name}`")
        for name in given:
            if name not in kind.required | kind.optional:
                raise ValueError(f"kind {self.kind} takes no `{name}`")
        kind.check(self)
        return self


class Load(Strict):
    """Many numbered writes over several connections, each of which must be acknowledged."""

    send: tuple[str | int, ...] = Field(min_length=1, description="One write; {n} stands for its number.")
    expect: Scalar = Field(default="OK", description="The reply that acknowledges it.")
    count: int = Field(gt=0, le=1_000_000, description="How many, numbered from 1.")
    connections: int = Field(default=4, gt=0, le=64, description="Connections at once.")
    batch: int = Field(default=50, gt=0, le=1000, description="Requests in one packet.")
    kill_at: int | None = Field(
        default=None,
        gt=0,
        description="SIGKILL for the server once so many are acknowledged, while it is at the others. Those that are "
        "not acknowledged then are not wanted back; a `start` step brings it up again.",
    )

    @model_validator(mode="after")
    def _killed_meanwhile(self) -> Load:
        if self.kill_at is not None and self.kill_at + self.connections * self.batch > self.count:
            raise ValueError("`count` must exceed `kill_at` by more than one batch per connection")
        return self


class Reading(Strict):
    """How the acknowledged writes of the `write` step before are read back."""

    send: tuple[str | int, ...] = Field(min_length=1, description="One request; {n} stands for the write's number.")
    expect: Scalar = Field(description="The reply; {n} stands for the write's number.")
    batch: int = Field(default=50, gt=0, le=1000, description="Requests in one packet.")


class Served(Strict):
    """How much memory tcmalloc must have had, by the statistics that it prints at a program's end."""

    at_least: float = Field(gt=0, description="MiB that it had got from the system, at its most.")


EXPECTATIONS = ("expect", "unordered", "match", "error")


STEP_OPTIONS: dict[str, frozenset[str]] = {
    "send": frozenset({"at", "within", *EXPECTATIONS}),
    "pipeline": frozenset({"at", "within", *EXPECTATIONS}),
    "start": frozenset({"data", "refused"}),
    "stop": frozenset({"signal"}),
    "write": frozenset({"at"}),
    "verify": frozenset({"at"}),
    "files": frozenset({"at", "within", "match", "at_least"}),
    "served": frozenset({"at"}),
    "probe": frozenset({"at", "within"}),
}
"""The kinds of steps, with the further keys that each may have."""
SPOKEN = frozenset({"send", "pipeline", "write", "verify"})
"""The kinds that speak RESP."""
EXCHANGES = frozenset({"send", "pipeline", "probe"})
"""The kinds that the shared server can be asked."""


class Step(Strict):
    """One step of a check: an exchange with a server, or something done to one.

    Exactly one of `send`, `pipeline`, `start`, `stop`, `write`, `verify`, `files`, `served` and `probe`. An exchange in
    RESP (`send`, or `pipeline`: several requests in one packet, whose reply is the list of theirs) has exactly one
    expectation; a `probe`, of another protocol or a command, has its own. The other kinds are for checks with
    `instances` of their own. There, words that are sent may hold {ip:NAME} and {port:NAME}, where the others reach an
    instance, and paths may hold {today}, the server's date as YYYYMMDD.
    """

    at: Name = Field(default=MAIN, description="The instance that is asked.")
    send: tuple[str | int, ...] | None = Field(default=None, min_length=1, description="One request.")
    pipeline: tuple[tuple[str | int, ...], ...] | None = Field(
        default=None, min_length=1, description="Several requests, sent in one packet."
    )
    expect: Reply = Field(default=None, description="The exact reply; null is the nil reply.")
    unordered: tuple[Scalar, ...] | None = Field(default=None, description="The reply's members in any order.")
    match: str | None = Field(
        default=None, description="Regular expression that the reply contains, or (`files`) each file."
    )
    error: str | None = Field(default=None, description="Regular expression that the error reply contains.")
    within: float = Field(default=0.0, ge=0, le=600, description="Ask again until it holds, for so many seconds.")
    start: Name | None = Field(
        default=None, description="Start this instance and wait until it answers; again after a stop, with its data."
    )
    data: Data | None = Field(default=None, description="With the first `start`: what its data folder holds.")
    refused: Refusal | None = Field(default=None, description="With `start`: it must refuse, and how.")
    stop: Name | None = Field(
        default=None,
        description="End this instance. It must be gone in time, and not by another signal than the one sent; its "
        "exit status is left to the check `stop`, so that one defect is told once.",
    )
    signal: Literal["TERM", "INT", "QUIT", "KILL"] | None = Field(
        default=None, description="With `stop`: instead of the signal in `server.stop`."
    )
    write: Load | None = Field(default=None, description="Many writes, whose acknowledgements are recorded.")
    verify: Reading | None = Field(default=None, description="Read every acknowledged write of `write` back.")
    files: Below | None = Field(
        default=None,
        description="A glob over the paths of regular files below the instance's data; `*` matches slashes, too.",
    )
    at_least: int = Field(default=1, gt=0, description="With `files`: how many must be there.")
    served: Served | None = Field(
        default=None,
        description="End this instance as `stop` does, and see that its memory was served by tcmalloc; in a cell whose "
        "allocator is none, that it was not.",
    )

    probe: Probe | None = Field(
        default=None, description="Ask by another protocol than RESP, or run a command of the tree."
    )

    @property
    def kind(self) -> str:
        """The kind of the step, of `STEP_OPTIONS`."""
        return next(kind for kind in STEP_OPTIONS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _one_of_each(self) -> Step:
        kinds = [kind for kind in STEP_OPTIONS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {_quoted(STEP_OPTIONS)}")
        for name in sorted(self.model_fields_set - STEP_OPTIONS[kinds[0]] - STEP_OPTIONS.keys()):
            if getattr(self, name) is not None or name == "expect":
                raise ValueError(f"`{kinds[0]}` takes no `{name}`")
        if kinds[0] in ("send", "pipeline") and len(set(EXPECTATIONS) & self.model_fields_set) != 1:
            raise ValueError(f"give exactly one of {_quoted(EXPECTATIONS)}")
        return self


class Instance(Strict):
    """A server of a check's own, in a clean place of its own; `start` steps start it.

    Instances of one check reach each other over a private network, and nothing else reaches them there.
    """

    settings: dict[str, str] = Field(
        default_factory=dict, description="Configuration on top of the product's; values may hold {port} and {data}."
    )
    unprivileged: bool = Field(
        default=False,
        description="Run it as a user who may write its data folder alone: not the folder of its configuration.",
    )
    open_files: int | None = Field(
        default=None, gt=0, description="Its limit of open files (RLIMIT_NOFILE), soft and hard."
    )


class Check(Strict):
    """A named smoke check: steps in order, each exchange on one connection per server.

    A check without `instances` is a list of exchanges with the one server that all such checks share, or of commands
    in one folder, if the product has no server.
    """

    check: Name = Field(description="Its name in logs and reports.")
    why: str = Field(default="", description="The bug or promise that it stands for.")
    instances: dict[Name, Instance] = Field(
        default_factory=dict, description="Servers of its own; steps without `at` ask the one called main."
    )
    steps: tuple[Step, ...] = Field(min_length=1, description="What is done, in this order.")
    required: bool = Field(
        default=True, description="Whether its failure fails the stage; if not, it is only recorded."
    )
    needs: tuple[Name, ...] = Field(
        default=(), description="Earlier checks without which this one means nothing: if one fails, it is skipped."
    )
    allocators: tuple[AllocatorName, ...] = Field(
        default=(), description="Kinds of allocators that it is for; empty: all."
    )
    emulated: bool | None = Field(
        default=None,
        description="Whether it also runs under emulation of the target; null: if it has no instances of its own.",
    )

    @property
    def shared(self) -> bool:
        """Whether it asks the server that all checks without instances of their own share."""
        return not self.instances

    def serves(self, kind: str) -> bool:
        """Return whether it is for cells with a kind of allocator."""
        return not self.allocators or kind in self.allocators

    @property
    def runs_emulated(self) -> bool:
        """Whether it also runs under emulation."""
        return self.shared if self.emulated is None else self.emulated

    @model_validator(mode="after")
    def _fits_together(self) -> Check:
        for number, step in enumerate(self.steps):
            where = f"steps[{number}]"
            if self.shared:
                if step.kind not in EXCHANGES:
                    raise ValueError(f"{where}: `{step.kind}` needs `instances` of the check's own")
                if "at" in step.model_fields_set:
                    raise ValueError(f"{where}: `at` needs `instances` of the check's own")
                continue
            for name in _named(step):
                if name not in self.instances:
                    raise ValueError(f"{where}: there is no instance {name!r}; known are {_quoted(self.instances)}")
            if step.kind == "verify" and not any(s.kind == "write" for s in self.steps[:number]):
                raise ValueError(f"{where}: `verify` needs a `write` step before it")
        return self


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _named(step: Step) -> Iterator[str]:
    """Yield the instances that a step names."""
    if step.kind in ("start", "stop"):
        yield step.start or step.stop or ""
    else:
        yield step.at
    if step.data is not None:
        yield step.data.of
    asked = [step.probe.send or "", step.probe.path or "", *(step.probe.argv or ())] if step.probe is not None else []
    for request in [*(step.pipeline or [step.send or ()]), asked]:
        for word in request:
            if isinstance(word, str):
                yield from (found.group(2) for found in PEER.finditer(word))
