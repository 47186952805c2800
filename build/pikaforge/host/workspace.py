"""What all stages of a run share: folders, engine, store and lock; and how a job is run for a stage."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pikaforge.errors import HostError, StageError, StageFailure
from pikaforge.host import git_packs, logs
from pikaforge.host.confinement import FACTS_LINES, USUAL, Bounds, OutputError
from pikaforge.host.download import Downloads
from pikaforge.host.hashing import files_digest
from pikaforge.host.job import Engine, Input, Job, JobResult, files
from pikaforge.host.leftovers import sweep, sweep_temporary
from pikaforge.host.lockfile import Lock
from pikaforge.host.shared_store import SharedStore
from pikaforge.host.store import Store
from pikaforge.host.text import REASON, one_line
from pikaforge.host.watch import covered

HOME = Path(__file__).resolve().parents[3]
"""The checkout: this package is used from there, with docker/ beside it."""
GUEST = "docker/guest"
COMMON = ("lib.sh", "run.sh")
"""Guest scripts of every job: what the scripts share, and what runs them."""
COMPILER_ERROR = re.compile(r"^\S.*?(:\d+)*: (fatal )?error: .*|^.*undefined reference to .*|^make.*: \*\*\* .*")
TAIL_LINES = 15
LINE = 4096
"""Letters of a line of a log that are read as one."""
REASONS = 1000
"""Reasons in a log that count."""


def unwatched(_label: str, _stage: str, _log: Path) -> None:
    """Ignore a log; for runs that nobody watches."""


@dataclass(slots=True)
class UsedMemory:
    """What the jobs of a node have used of the memory."""

    bytes: int = 0
    """Of the largest one, as far as that is known."""
    out: bool = False
    """Whether one was killed for lack of memory."""

    def note(self, result: JobResult) -> None:
        """Take note of a job."""
        self.bytes, self.out = max(self.bytes, result.memory), self.out or result.out_of_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Folders, engine, store and lock of a run."""

    base: Path
    """The folder of matrix.yaml. Paths in matrix.yaml are relative to it."""
    out: Path
    """Folder of store, downloads, logs and work folders."""
    dist: Path
    engine: Engine
    store: Store
    lock: Lock
    jobs: int
    """Cores that all nodes may use together; in the workspace of one node, how many processes it may start at once."""
    downloads: Downloads
    memory: int = 0
    """Bytes of memory that all nodes may use together; 0: it is not known."""
    compiler_cache: bool = True
    """Whether compilations use caches. Releases use none."""
    shares_cache: bool = False
    """Whether all series of patches on one source share a cache."""
    bounds: Bounds = USUAL
    """How much a job may use."""
    given: Mapping[str, Path] = field(default_factory=dict)
    """Local files that are used instead of pinned tarballs, by the name of the library in them."""
    git_wanted: Callable[[str, str], None] = git_packs.unnoticed
    """Gets URL and commit of what is fetched by git, whether it is there already or not."""
    home: Path = field(default=HOME)
    matrix: Path | None = None
    """The configuration file. Logs of two of them are kept apart."""
    shared: SharedStore | None = None
    """A store that machines share; None if there is none."""
    used: UsedMemory = field(default_factory=UsedMemory, compare=False)
    """In the workspace of one node: what its jobs have used."""
    on_log: Callable[[str, str, Path], None] = field(default=unwatched, compare=False)
    """Is called with label, stage and path of each log when it is begun."""

    def guest(self, *names: str) -> Input:
        """Return guest scripts as an input, with those of every job among them."""
        wanted = {name: self.home / GUEST / name for name in {*COMMON, *names}}
        return Input(folder="guest", archive=files(wanted, executable=wanted), sealed=True)

    def sized(self) -> Workspace:
        """Return it with the cores and the memory of the engine's machine, where the user has given none.

        A job may not use more memory than the user has given to all of them.
        """
        given = self.memory
        memory = given or self.engine.memory() * 7 // 8
        bounds = replace(self.bounds, memory=min(self.bounds.memory or given, given)) if given else self.bounds
        return replace(self, jobs=self.jobs or self.engine.cores(), memory=memory, bounds=bounds)

    def swept(self) -> tuple[Path, ...]:
        """Return the folders in which killed runs may have left what is named by their run id."""
        folders = (self.base, self.dist, *filter(Path.is_dir, self.dist.glob("*")), self.lock.path.parent)
        folders += tuple(self.out / name for name in ("sample", "downloads", "bench", "wheels"))
        return tuple(dict.fromkeys(folders))

    def sweep(self) -> int:
        """Remove what killed runs have left in the folders that they write to, and for temporary files; count it."""
        with covered():  # nothing is made of what is seen here
            return self.store.sweep() + sum(map(sweep, self.swept())) + sweep_temporary()

    def log_path(self, label: str, stage: str) -> Path:
        """Return the path `out/logs/<label>/<stage>.log`, or one beside it. The file is there, and empty.

        See `logs`.
        """
        path = logs.claimed(self.out / "logs", label, stage, matrix=self.matrix or self.base)
        self.on_log(label, stage, path)
        return path


def guest_digests(home: Path, names: Sequence[str]) -> dict[str, str]:
    """Return digests of guest scripts as key material, with those of every job among them."""
    folder = home / GUEST
    try:
        return files_digest(folder, [*COMMON, *names])
    except FileNotFoundError:
        if folder.is_dir():
            raise
        raise HostError(
            f"{folder} is missing", hint="the tool works from its checkout: clone it and run `bash setup.sh` there"
        ) from None


def read_facts(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return the lines KEY<TAB>VALUE… of a guest script's facts: the values of each line by key, in order."""
    facts: dict[str, list[tuple[str, ...]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        name, *values = line.split("\t")
        facts.setdefault(name, []).append(tuple(values))
    return facts


def run_job(
    workspace: Workspace, job: Job, into: Path, *, stage: str, label: str, failed: str, hint: str = ""
) -> JobResult:
    """Run a job.

    Args:
        stage: of the node.
        label: of the node.
        failed: the message, e.g. "the build failed".
        hint: what to do, beside reading the log.

    Raises:
        StageError: the job failed, took too long, or left what cannot be taken. It has the reasons and the end of the
            log.
    """
    try:
        result = workspace.engine.run(replace(job, bounds=workspace.bounds), into)
        workspace.used.note(result)
        if result.status == 0 and not result.timed_out and not result.exceeded:
            _check_lines(result.outputs[path] for path in job.facts)
            return result
    except OutputError as error:
        found = failure(stage=stage, label=label, log=job.log, command=" ".join(job.argv))
        raise StageError(f"{failed}: {error.message}", found, hint=hint) from error
    message = f"{failed}: it ran longer than {job.timeout:.0f} s" if result.timed_out else failed
    found = failure(stage=stage, label=label, log=job.log, command=" ".join(job.argv), status=result.status)
    if result.exceeded:
        found = replace(found, findings=(result.exceeded, *found.findings))
    raise StageError(message, found, hint=hint)


def _check_lines(paths: Iterable[Path]) -> None:
    """Raise OutputError for a text with too many lines: each becomes an object."""
    for path in paths:
        with path.open("rb") as stream:
            if sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b"")) > FACTS_LINES:
                raise OutputError(f"{path.name} has more than {FACTS_LINES} lines")


def explained(error: StageError, messages: Mapping[int, tuple[str, str]], **words: str) -> StageError:
    """Return the error of a job with the message and hint of its exit status.

    Args:
        error: of the job.
        messages: message and hint by exit status.
        words: replace their names in braces in hints.
    """
    message, hint = messages.get(error.failure.status or 0, (error.message, ""))
    return StageError(message, error.failure, hint=hint.format(**words))


def failure(*, stage: str, label: str, log: Path, command: str = "", status: int | None = None) -> StageFailure:
    """Return what a log says about a failure: reasons of guest scripts or the first compiler error, and its end."""
    reasons: list[str] = []
    errors: list[str] = []
    lines: deque[str] = deque(maxlen=TAIL_LINES)
    with log.open(encoding="utf-8", errors="replace") if log.is_file() else io.StringIO() as stream:
        while line := stream.readline(LINE):
            line = line.rstrip("\n")
            lines.append(line)
            if (match := REASON.match(line)) and len(reasons) < REASONS:
                reasons.append(match[1])
            elif not errors and COMPILER_ERROR.match(line):
                errors.append(line)
    reasons = reasons or errors
    return StageFailure(
        stage=stage,
        label=label,
        command=command,
        status=status,
        log=str(log),
        tail=tuple(one_line(line[:300]) for line in lines),
        findings=tuple(dict.fromkeys(map(one_line, reasons))),
    )
