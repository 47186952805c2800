"""A builder with an old CPU: every model is built, emulated or as a twin; and what a run says whose cells fail."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pikaforge.cli import main
from pikaforge.cpu import emulation, microarch
from pikaforge.host import machine
from pikaforge.host.docker import DockerEngine
from pikaforge.pipeline.report import load
from pikaforge.pipeline.report_record import CellRecord

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("twins")]

OLD = microarch.kernel_flags("x86_64_v2")
R6 = (
    "R610", "R620", "R630", "R640", "R650", "R660", "R670", "R6415", "R6515", "R6525", "R6615", "R6625",
)  # fmt: skip
EMULATED = {
    "R610": "nehalem", "R620": "sandybridge", "R630": "haswell", "R670": "x86_64_v3",
    "R6415": "zen", "R6515": "zen2", "R6525": "zen2",
}  # fmt: skip
TWINS = {"R640": "haswell", "R650": "haswell", "R660": "haswell", "R6615": "zen2", "R6625": "zen2"}


@pytest.fixture(scope="module")
def project(shop: Shop, shrink: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A product of one file with one check: what it is compiled for matters here, and not what it does."""
    project = shop.ready(tmp_path_factory.mktemp("twins"))
    shrink(project)
    shop.take(project, "source")
    return project


def _build(project: Project, *argv: str) -> int:
    return main.main(project.arguments("build", *argv, image=""))


def _report(project: Project) -> dict[str, CellRecord]:
    report = load(project.dist)
    assert report is not None
    return {cell.model: cell for cell in report.cells}


def _manifest(project: Project, model: str) -> dict[str, Any]:
    with tarfile.open(project.package(model)) as tar:
        stream = tar.extractfile("pika/manifest.json")
        assert stream is not None
        found: dict[str, Any] = json.load(stream)
        return found


@pytest.fixture
def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder shows no more than x86-64-v2: to the plan, and to the smoke stage."""
    monkeypatch.setattr(machine, "cpu_flags", lambda: OLD)
    monkeypatch.setattr(DockerEngine, "cpu_flags", lambda self, image: OLD)


@pytest.mark.usefixtures("old_cpu")
def test_an_old_builder_builds_every_model(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert _build(project, "R6*-debian12-none") == 0
    shown = capsys.readouterr().out
    cells = _report(project)
    assert set(cells) == set(R6)
    assert {model: cell.status for model, cell in cells.items()} == dict.fromkeys(R6, "done")
    assert {model: cell.tried for model, cell in cells.items()} == {**EMULATED, **TWINS}
    for model, cell in cells.items():
        assert cell.audit is not None
        assert (cell.audit.target, cell.audit.passed) == (cell.target, True), "its own code is judged, not the twin's"
        assert cell.native is not None
        assert cell.emulated is not None
        assert (cell.emulated.ran, cell.emulated.failed) == (True, ())
        assert cell.native.ran == (cell.tried == "nehalem"), "what this CPU lacks is never called run"
        manifest = _manifest(project, model)
        assert (manifest["target"], manifest["tried"]["target"]) == (cell.target, cell.tried)
        assert bool(manifest["tried"]["not_run"]) == (model in TWINS)
    twins = ", ".join(f"{model}-debian12-none" for model in ("R640", "R650", "R660"))
    assert f"note: {twins}: function tried as haswell; AVX-512 code audited, not run" in shown.splitlines()
    assert len([line for line in shown.splitlines() if line.startswith("compile ") and line.endswith("...")]) == len(
        {cell.target for cell in cells.values()}
    ), "twins are compilations that others have anyway"


@pytest.mark.usefixtures("old_cpu")
def test_what_must_be_run_is_refused_before_anything_starts(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _build(project, "R620-debian12-none", "R640-debian12-none", "--require-run") == 2
    shown = capsys.readouterr()
    assert "1 of 2 cells cannot be built; nothing was started" in shown.err
    assert (
        "R640-debian12-none: skylake_avx512 can be run neither by this machine's CPU nor by the emulator" in shown.err
    )
    assert "..." not in shown.out


def test_a_machine_that_can_run_it_takes_the_twins_place(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict of such a machine stays in the store, also for the old one."""
    if lacking := emulation.lacking("skylake_avx512", machine.cpu_flags()):
        pytest.skip(f"this machine's CPU lacks {', '.join(lacking)}")
    assert _build(project, "R640-debian12-none") == 0
    cell = _report(project)["R640"]
    assert cell.tried == "skylake_avx512"
    assert cell.native is not None
    assert cell.native.ran
    digest = cell.artifacts[0].sha256
    capsys.readouterr()
    monkeypatch.setattr(machine, "cpu_flags", lambda: OLD)
    monkeypatch.setattr(DockerEngine, "cpu_flags", lambda self, image: OLD)
    assert _build(project, "R640-debian12-none") == 0
    again = _report(project)["R640"]
    assert (again.tried, again.not_run, again.artifacts[0].sha256) == ("skylake_avx512", "", digest)
    assert _manifest(project, "R640")["tried"] == {"target": "skylake_avx512", "not_run": ""}


def test_some_cells_that_fail_are_summed_up_first(
    shop: Shop, shrink: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = shop.ready(tmp_path)
    shrink(
        project, prologue='case $PIKAFORGE_TARGET_FLAGS in *haswell*) echo "forge: reason: no haswell"; exit 1 ;; esac'
    )
    shop.take(project, "source")
    assert _build(project, "R6[23]0-debian12-none", "R730-debian12-none") == 4
    shown = capsys.readouterr().out.splitlines()
    first = shown.index("1 of 3 cells built, 2 refused")
    command = f"nox -s build -- R630-debian12-none {' '.join(project.places)} --source sample --formats tar"
    assert shown[first + 1 : first + 3] == [
        "  R630-debian12-none: compile debian12-haswell-none: the build failed",
        f"    to try it alone: {command}",
    ]
    assert shown[first + 3].startswith("  R730-debian12-none: ")
    assert shown[first + 5].startswith("CELL")
    assert project.package("R620").is_file()
