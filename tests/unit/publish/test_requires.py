"""Destinations that take only what was run; and which of several reports on one cell counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.dist_folders import cell, write_dist
from unit.helpers import BASE

from pikaforge.cli import main
from pikaforge.pipeline.report_page import merge
from pikaforge.pipeline.report_page.merge import FoundReport
from pikaforge.pipeline.report_record import BuildReport, StageRecord

R620, R640 = "R620-debian12-none", "R640-debian12-none"
COMPILED = StageRecord(stage="compile", label="debian12-t-none", key="of another source", status="done", seconds=1.0)
NOT_RUN = "function tried as haswell; AVX-512 code audited, not run"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    places = {
        "strict": {"kind": "directory", "path": "strict", "requires": "run"},
        "any": {"kind": "directory", "path": "any"},
    }
    data = {**BASE, "publish": places}
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (tmp_path / "recipe.sh").write_text("make\n")
    write_dist(tmp_path / "dist", cell(R620), cell(R640, not_run=NOT_RUN, tried="haswell"))
    return tmp_path


def _publish(project: Path, *words: str) -> int:
    return main.main(["publish", *words, "--matrix", str(project / "matrix.yaml"), "--dist", str(project / "dist")])


def test_a_destination_may_refuse_what_was_not_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _publish(project, "all", "--to", "any,strict", "--yes") == 5
    assert capsys.readouterr().err.splitlines() == [
        "error: strict requires that every package was run: 1 cell was not",
        "  where: publish.strict.requires",
        f"  hint: {R640}: {NOT_RUN}",
        "  hint: build them where their CPU is (DOCKER_HOST)",
        "  see: docs/troubleshooting.md#e-publish",
    ]
    assert not (project / "any").exists(), "nothing is published where a part would be refused"
    assert not (project / "strict").exists()


def test_what_was_run_is_taken(project: Path) -> None:
    assert _publish(project, "R620", "--to", "strict", "--yes") == 0
    assert (project / "strict" / "debian12" / "R620").is_dir()


@pytest.mark.parametrize("words", [(), ("--yes",)])
def test_a_missing_library_of_the_page_is_found_before_anything_is_written(
    project: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert _publish(project, "R620", "--to", "any", *words) == 3
    assert capsys.readouterr().err.startswith("error: the Python package Jinja2 cannot be imported: ")
    assert not [path for path in (project / "any").rglob("*") if path.name != ".lock"]


def test_without_the_requirement_the_page_tells_of_it(project: Path) -> None:
    assert _publish(project, "all", "--to", "any", "--yes") == 0
    page = (project / "any" / "index.html").read_text(encoding="utf-8")
    plain, _, data = page.partition('<script type="application/json"')
    assert plain.count(NOT_RUN) == data.count(NOT_RUN) == 1


def test_a_target_that_the_compiler_does_not_know_is_on_the_page(project: Path) -> None:
    write_dist(project / "dist", cell(R640, target="haswell", wanted="skylake_avx512"))
    assert _publish(project, "all", "--to", "any", "--yes") == 0
    page = (project / "any" / "index.html").read_text(encoding="utf-8")
    assert "built for haswell, as the compiler knows no skylake_avx512" in page
    assert '"wanted":"skylake_avx512"' in page


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        ({}, {"finished": "2026-02-01T00:00:00+00:00"}, "second"),
        ({"finished": "2026-02-01T00:00:00+00:00"}, {}, "first"),
        ({"not_run": NOT_RUN, "finished": "2026-02-01T00:00:00+00:00"}, {}, "second"),
        ({}, {"not_run": NOT_RUN, "finished": "2026-02-01T00:00:00+00:00"}, "first"),
        ({"status": "failed", "finished": "2026-02-01T00:00:00+00:00"}, {"not_run": NOT_RUN}, "first"),
        ({"not_run": NOT_RUN, "finished": "2026-02-01T00:00:00+00:00"}, {"stages": (COMPILED,)}, "first"),
    ],
)
def test_of_two_reports_the_one_whose_target_was_run_counts(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], counts: str
) -> None:
    reports = [
        FoundReport(
            folder=tmp_path / name, report=BuildReport(product="d", version="v", cells=(cell(R640, **changes),))
        )
        for name, changes in (("first", first), ("second", second))
    ]
    assert merge.cells(reports)[R640][0].folder.name == counts
