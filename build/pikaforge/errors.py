"""Errors of this tool: the exit status of each, and where to read on.

The base class says what is wrong (`message`), where (`where`: YAML path, stage, cell, log file), and what to do
(`hint`). Errors are raised anywhere, and caught in one place, in `cli`. Each kind has a code, by
which docs/troubleshooting.md has a section.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

EXIT_DONE = 0
EXIT_CONFIG = 2
EXIT_HOST = 3
EXIT_STAGE = 4
EXIT_PUBLISH = 5
SIGNAL_BASE = 128
"""Shells report the end by signal N as exit status 128 + N, and so does the tool."""
EXIT_INTERRUPTED = SIGNAL_BASE + 2
"""After SIGINT (Ctrl-C)."""


HELP = "docs/troubleshooting.md"
"""Has a section for each code."""


def _indented(text: str) -> str:
    """Return a text with its further lines indented: a name with a line end must not begin a line of its own."""
    return text.replace("\n", "\n    ")


class ForgeError(Exception):
    """Base of all expected errors. A traceback of one is shown with `--debug` only."""

    exit_code: ClassVar[int] = EXIT_STAGE
    kind: ClassVar[str] = "E-error"
    """Names a section of `HELP`. A stage error is of the kind of its stage."""

    also: tuple[ForgeError, ...] = ()
    """Further errors that were found at the same time (all mistakes in a file), printed after this one."""
    facts: object = None
    """What a stage had found out before, where its failure has no facts of its own."""

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    @property
    def code(self) -> str:
        """Its kind, which has a section in `HELP`."""
        return self.kind

    def lines(self) -> list[str]:
        """Return the error as it is printed: `error:`, `where:` and `hint:`, and then those of `also`."""
        lines = [f"error: {_indented(self.message)}"]
        if self.where:
            lines.append(f"  where: {_indented(self.where)}")
        for part in self.hint.splitlines():
            lines.append(f"  hint: {part}")
        for other in self.also:
            lines.extend(other.lines())
        return lines

    def see(self) -> list[str]:
        """Return the last lines of the error where it is printed: the sections that it names, and those of `also`."""
        codes = dict.fromkeys(error.code for error in (self, *self.also))
        return [f"  see: {HELP}#{code.lower()}" for code in codes]


class ConfigError(ForgeError):
    """A file of the configuration is wrong: matrix.yaml, a series, waivers."""

    exit_code = EXIT_CONFIG
    kind = "E-config"


class SelectionError(ConfigError):
    """SELECTORs name no cells, or some that cannot be built."""

    kind = "E-selection"


class UsageError(ConfigError):
    """Arguments that do not go together, or name what is not there."""

    kind = "E-usage"


class PinError(ConfigError):
    """Something is not what sources.lock or a digest says, or has no pin."""

    kind = "E-pin"


class OriginError(ConfigError):
    """The source is none that can be built."""

    kind = "E-source"


class PatchError(ConfigError):
    """The patch series, or a file of it, cannot be used."""

    kind = "E-patch"


class CredentialsError(ConfigError):
    """User, password or token of a server are missing, or cannot be used."""

    kind = "E-credentials"


class KeyFileError(ConfigError):
    """A key to sign or to verify with cannot be used."""

    kind = "E-key"


class DestinationError(ConfigError):
    """A destination, or what its clients are to read, cannot be as it is configured."""

    kind = "E-destination"


class HostError(ForgeError):
    """This machine lacks something, or refuses something: a file, a folder, a setting."""

    exit_code = EXIT_HOST
    kind = "E-host"


class EngineError(HostError):
    """The container engine does not answer, or not as it should."""

    kind = "E-engine"


class ProgramError(HostError):
    """A program or a Python package is missing, or does not run."""

    kind = "E-program"


class GitError(HostError):
    """Git cannot read a repository."""

    kind = "E-git"


class AnswerError(HostError):
    """A server answers, but not with what was asked for."""

    kind = "E-answer"


class UpstreamError(HostError):
    """The source or a patch cannot be reached. It is no UnreachableError: no cell can do without."""

    kind = "E-network"


class ImageError(HostError):
    """An image cannot be made, or is not what matrix.yaml says."""

    kind = "E-image"


class FullDiskError(ForgeError):
    """There is no space left in a folder. It ends the run at once: all that goes on would fail, too.

    It is no HostError, so that nobody who can do without something takes it for that.
    """

    exit_code = EXIT_HOST
    kind = "E-disk"


class UnreachableError(HostError):
    """Something on another machine cannot be reached: a registry, a mirror, a download, a repository."""

    kind = "E-network"


class OfflineError(HostError):
    """Something is wanted from the network, which the offline mode forbids.

    It is no UnreachableError: nothing else is tried in its place, and nothing is waited for.
    """


class BundleError(ForgeError):
    """A bundle is damaged, or is not one: nothing of it is used."""


class AuditError(ForgeError):
    """A file or package cannot be read, so there is no verdict about it."""

    kind = "E-file"


class LoadError(ForgeError):
    """A load test cannot go on."""

    kind = "E-load"


class InterruptionError(ForgeError):
    """A person or a system has stopped the run."""

    kind = "E-interrupted"


class PublishError(ForgeError):
    """A repository could not be written, or could not be verified after that."""

    exit_code = EXIT_PUBLISH
    kind = "E-publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailure:
    """Details of a failed stage. All fields are for readers; none decides what the tool does next."""

    stage: str
    label: str
    """The node, e.g. `debian12-sandybridge-none`, or a cell id."""
    command: str = ""
    status: int | None = None
    """Exit status of the command; negative N means killed by signal N."""
    log: str = ""
    """Path of the whole log."""
    tail: tuple[str, ...] = ()
    """The last lines of the log."""
    findings: tuple[str, ...] = ()
    """The lines that most likely tell the reason, e.g. the first compiler error."""
    facts: object = None
    """What the stage found out nevertheless: the model that its result would have; for the report."""


class StageError(ForgeError):
    """A stage failed, or an audit, smoke test or verification said no."""

    exit_code = EXIT_STAGE

    def __init__(self, message: str, failure: StageFailure, *, hint: str = "") -> None:
        super().__init__(message, where=f"stage {failure.stage}, {failure.label}", hint=hint)
        self.failure = failure

    def with_facts(self, facts: object) -> StageError:
        """The same error, with what the stage found out."""
        return StageError(self.message, replace(self.failure, facts=facts), hint=self.hint)

    @property
    def code(self) -> str:
        """That of its stage."""
        return f"E-stage-{self.failure.stage}"

    def lines(self) -> list[str]:
        """Return the error as it is printed, with the findings, the end of the log and its path."""
        failure = self.failure
        lines = [f"error: {_indented(self.message)}", f"  where: {_indented(self.where)}"]
        if failure.command:
            status = "" if failure.status is None else f" (exit status {failure.status})"
            lines.append(f"  command: {_indented(failure.command)}{status}")
        lines.extend(f"  reason: {_indented(line)}" for line in failure.findings)
        if failure.tail:
            lines.append("  last lines of the log:")
            lines.extend(f"    | {_indented(line)}" for line in failure.tail)
        if failure.log:
            lines.append(f"  log: {failure.log}")
        lines.extend(f"  hint: {line}" for line in self.hint.splitlines())
        return lines
