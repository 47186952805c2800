"""What every job gets, and what a log says about its failure."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unit.helpers import Ending, FakeEngine, make_workspace

from pikaforge.errors import StageError
from pikaforge.host.confinement import FACTS_LINES, Bounds, OutputError
from pikaforge.host.job import Job, JobResult
from pikaforge.host.workspace import COMMON, GUEST, Workspace, failure, guest_digests, run_job


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path, FakeEngine())


def test_every_job_has_the_common_scripts(workspace: Workspace) -> None:
    archive = workspace.guest("abi.sh").archive
    assert isinstance(archive, bytes)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["abi.sh", "lib.sh", "run.sh"]


@pytest.mark.parametrize("name", COMMON)
def test_every_key_follows_the_common_scripts(workspace: Workspace, name: str) -> None:
    before = guest_digests(workspace.home, ["abi.sh"])
    (workspace.home / GUEST / name).write_text("# changed\n")
    after = guest_digests(workspace.home, ["abi.sh"])
    assert {script for script in after if before[script] != after[script]} == {name}


@pytest.mark.parametrize(
    ("log", "findings"),
    [
        ("a.c:1: error: one\nforge: reason: no bin/x\nforge: applying p1\nforge: reason: no y\n", ("no bin/x", "no y")),
        ("forge: reason: twice\nforge: reason: twice\n", ("twice",)),
        ("configure.sh: looking\nnote forge: reason: inside\na.c:1:2: error: first\na.c:2:2: error: second\n",
         ("a.c:1:2: error: first",)),
        ("compile.sh: line 3: no\nforge: this image has no cc\n", ()),
        ("forge: reason: red \x1b[31m\n", ("red \\x1b[31m",)),
    ],
    ids=["reasons before errors", "each once", "lines of the tree are none", "notes are none", "no controls"],
)  # fmt: skip
def test_what_a_log_says_of_a_failure(tmp_path: Path, log: str, findings: tuple[str, ...]) -> None:
    path = tmp_path / "compile.log"
    path.write_text(log)
    assert failure(stage="compile", label="x", log=path).findings == findings


def test_a_long_log_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "compile.log"
    path.write_text("a.c:1: error: one\n" + "x" * 10_000 + "\n" + "".join(f"line {n}\n" for n in range(50)))
    found = failure(stage="compile", label="x", log=path)
    assert found.findings == ("a.c:1: error: one",)
    assert found.tail == tuple(f"line {n}" for n in range(35, 50))
    path.write_text("forge: reason: one\n" * 5000)
    assert failure(stage="compile", label="x", log=path).findings == ("one",)


# ---- how jobs of stages end


@pytest.fixture
def end(tmp_path: Path) -> Callable[[Callable[[Job], Ending] | Ending], JobResult]:
    """Run a job of a stage that has a fact, and ends as the test says."""

    def end(ending: Callable[[Job], Ending] | Ending) -> JobResult:
        fake = FakeEngine()
        fake.endings["x"] = ending
        shop = replace(make_workspace(tmp_path, fake), bounds=Bounds(processes=77))
        job = Job(label="x", image="", argv=("sh",), env={}, inputs=(), facts=("out/facts",), log=tmp_path / "log")
        try:
            return run_job(shop, job, tmp_path, stage="compile", label="x", failed="the build failed")
        finally:
            assert fake.jobs[0].bounds.processes == 77, "those of the workspace"

    return end


def refuse(_job: Job) -> Ending:
    raise OutputError("out/facts is larger than 16 MiB")


@pytest.mark.parametrize(
    ("ending", "message", "findings"),
    [
        (refuse, "the build failed: out/facts is larger than 16 MiB", ()),
        (
            Ending(outputs={"out/facts": b"\n" * (FACTS_LINES + 1)}),
            "the build failed: facts has more than 200000 lines",
            (),
        ),
        (
            Ending(status=2, exceeded="a file became larger than 1 GiB (limits.file_mib)", log="a.c:1: error: no\n"),
            "the build failed",
            ("a file became larger than 1 GiB (limits.file_mib)", "a.c:1: error: no"),
        ),
    ],
    ids=["too large", "too many lines", "a limit"],
)
def test_what_a_hostile_job_leaves_is_an_error_of_the_stage(
    end: Callable[..., JobResult], ending: object, message: str, findings: tuple[str, ...]
) -> None:
    with pytest.raises(StageError) as caught:
        end(ending)
    assert (caught.value.message, caught.value.failure.findings, caught.value.exit_code) == (message, findings, 4)
    assert end(Ending(outputs={"out/facts": b"\n" * FACTS_LINES})).status == 0, "the control"


class Large(FakeEngine):
    """An engine with much memory."""

    def memory(self) -> int:
        return 8 << 30


def test_what_the_user_has_not_said_is_taken_from_the_machine(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, Large())
    sized = replace(workspace, jobs=0).sized()
    assert (sized.jobs, sized.memory, sized.bounds) == (3, 7 << 30, workspace.bounds)
    given = replace(workspace, jobs=5, memory=2 << 30).sized()
    assert (given.jobs, given.memory, given.bounds.memory) == (5, 2 << 30, 2 << 30)
    tighter = replace(workspace, memory=2 << 30, bounds=replace(workspace.bounds, memory=1 << 30)).sized()
    assert tighter.bounds.memory == 1 << 30
