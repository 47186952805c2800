"""What every job gets, and what a log says about its failure."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from unit.helpers import FakeEngine, make_workspace

from pikaforge.host.workspace import COMMON, GUEST, Workspace, failure, guest_digests


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
