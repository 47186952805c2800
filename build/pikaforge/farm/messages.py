"""What client and worker say to each other: JSON texts of a fixed form. Nothing else of this tool goes through Dask.

Both sides take what they get for hostile: a text is bounded, has the form or is refused, and its words are cleaned
before they are shown.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from pikaforge import errors
from pikaforge.config.scalars import Name, Strict
from pikaforge.errors import AnswerError, ConfigError, ForgeError, HostError, StageError, StageFailure
from pikaforge.host.text import clean, size_text

LIMIT = 64 << 20
"""Bytes of a text. The facts of a failed audit are the largest part of one."""
TEXT = 20_000
"""Characters of a message or hint."""
KEY = r"^[0-9a-f]{32}$"
DIGEST = r"^[0-9a-f]{64}$"
Words = Annotated[str, Field(max_length=TEXT), AfterValidator(clean)]
Line = Annotated[str, Field(max_length=2000), AfterValidator(lambda text: clean(text).replace("\n", " "))]
Key = Annotated[str, Field(pattern=KEY)]
Message = TypeVar("Message", bound=BaseModel)

ERRORS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}


class LackError(HostError):
    """The shared store does not have what a node takes, or has it damaged."""

    def __init__(self, message: str, *, lacks: str, where: str, hint: str) -> None:
        """`lacks`: the id of the node whose result it is; the stage of projects for the project."""
        super().__init__(message, where=where, hint=hint)
        self.lacks = lacks


class Need(Strict):
    """A result that a node takes."""

    key: Key
    identity: str = Field(max_length=200)


class NodeRequest(Strict):
    """A node that a worker is to make."""

    format: Literal[1] = 1
    tool: str = Field(pattern=DIGEST, description="Digest of the client's tool; the worker's must be the same.")
    project: Key
    cell: str = Field(max_length=500, description="One that needs the node.")
    node: str = Field(max_length=600, description="Its id.")
    key: Key
    needs: dict[str, Need] = Field(max_length=1000)
    jobs: int = Field(ge=0, le=4096, description="Compiler processes at once; 0: as many as the worker has cores.")
    again: bool = Field(default=False, description="What the shared store has of it is damaged: all is put there anew.")


class PinRecord(Strict):
    """A pin that a worker has written into its copy of sources.lock."""

    section: Literal["sources", "images"]
    entry: Line
    pin: Line
    value: Line
    replaced: bool = Field(default=False, description="Whether there was another one before.")


class FailureRecord(Strict):
    """A `StageFailure`."""

    stage: Line
    label: Line
    command: Words = ""
    status: int | None = None
    log: Line = ""
    tail: tuple[Line, ...] = Field(default=(), max_length=1000)
    findings: tuple[Words, ...] = Field(default=(), max_length=1000)


class ErrorRecord(Strict):
    """A `ForgeError`."""

    kind: Name = Field(description="Name of its class; an unknown one counts as the class of its exit status.")
    exit_code: int
    message: Words
    where: Words = ""
    hint: Words = ""
    failure: FailureRecord | None = None

    @classmethod
    def of(cls, error: ForgeError, *, machine: str) -> ErrorRecord:
        """Return the record of an error; the path of its log gets the machine's name."""
        failure = None
        if isinstance(error, StageError):
            found = error.failure
            failure = FailureRecord(
                stage=found.stage,
                label=found.label,
                command=found.command[:TEXT],
                status=found.status,
                log=f"{machine}:{found.log}" if found.log else "",
                tail=tuple(line[:2000] for line in found.tail[-1000:]),
                findings=tuple(line[:TEXT] for line in found.findings[:1000]),
            )
        return cls(
            kind=type(error).__name__,
            exit_code=error.exit_code,
            message=error.message[:TEXT],
            where=error.where[:TEXT],
            hint=error.hint[:TEXT],
            failure=failure,
        )

    def error(self, facts: object) -> ForgeError:
        """Return the error, with what its stage found out."""
        if self.failure is not None:
            failure = StageFailure(**self.failure.model_dump(), facts=facts)
            return StageError(self.message, failure, hint=self.hint)
        kind = ERRORS.get(self.kind)
        if kind is None or not issubclass(kind, ForgeError) or issubclass(kind, StageError):
            kind = {ConfigError.exit_code: ConfigError, HostError.exit_code: HostError}.get(self.exit_code, ForgeError)
        error = kind(self.message, where=self.where, hint=self.hint)
        error.facts = facts
        return error


class NodeReply(Strict):
    """What has become of a node."""

    format: Literal[1] = 1
    node: str = Field(max_length=600)
    key: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    status: Literal["cached", "done", "failed"]
    seconds: float = Field(default=0.0, ge=0, le=1e8, allow_inf_nan=False)
    machine: Line = Field(default="", description="Where it was made.")
    error: ErrorRecord | None = None
    facts: str = Field(default="", description="Facts of a failure as JSON.")
    lacks: str = Field(default="", max_length=600, description="What the shared store does not have, or has damaged.")
    pins: tuple[PinRecord, ...] = Field(default=(), max_length=1000)
    notices: tuple[Words, ...] = Field(default=(), max_length=1000)


def parse(model: type[Message], text: object, *, of: str) -> Message:
    """Return a message.

    Args:
        model: its form.
        text: what came.
        of: who has sent it.

    Raises:
        AnswerError: it has another form.
    """
    if not isinstance(text, str) or len(text) > LIMIT:
        raise AnswerError(f"{clean(of)} has sent no text of at most {size_text(LIMIT)}")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = clean(".".join(map(str, first["loc"])))[:200]
        raise AnswerError(
            f"{clean(of)} has sent what this version of the tool does not understand: {place}: {clean(first['msg'])}",
            hint="all machines of a farm need one version of this tool",
        ) from error
