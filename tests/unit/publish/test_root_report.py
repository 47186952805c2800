"""The build report of a published root: what proves the packages that are listed, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from unit.dist_folders import cell, write_dist
from unit.helpers import BASE

from pikaforge.cli import main
from pikaforge.pipeline import report
from pikaforge.pipeline.report_record import BuildReport

R620, R640 = "R620-debian12-none", "R640-debian12-none"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    places = {name: {"kind": "directory", "path": name} for name in ("staging", "stable")}
    data = {**BASE, "publish": places}
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (tmp_path / "recipe.sh").write_text("make\n")
    write_dist(tmp_path / "dist", cell(R620), cell(R640))
    return tmp_path


def _publish(project: Path, *words: str) -> int:
    where = ["--matrix", str(project / "matrix.yaml"), "--dist", str(project / "dist"), "--yes"]
    return main.main(["publish", *words, *where])


def _report(project: Path, root: str = "staging") -> BuildReport:
    found = report.load(project / root)
    assert found is not None
    return found


def _ids(found: BuildReport) -> list[str]:
    return [each.id for each in found.cells]


def test_its_packages_are_where_it_says(project: Path) -> None:
    assert _publish(project, "all", "--to", "staging") == 0
    found = _report(project)
    assert _ids(found) == [R620, R640]
    for each in found.cells:
        (artifact,) = each.artifacts
        assert artifact.path.startswith(f"debian12/{each.model}/")
        report.package_path(project / "staging", artifact)
    page = (project / "staging" / "report.html").read_text(encoding="utf-8")
    assert all(f'href="{each.artifacts[0].path}"' in page for each in found.cells)
    assert 'href="report.html"' in (project / "staging" / "index.html").read_text(encoding="utf-8")


def test_publications_add_up_and_a_second_one_changes_nothing(project: Path) -> None:
    assert _publish(project, "R620", "--to", "staging") == 0
    assert _ids(_report(project)) == [R620]
    assert _publish(project, "R640", "--to", "staging") == 0
    before = {name: (project / "staging" / name).read_bytes() for name in ("report.json", "report.html")}
    assert _ids(_report(project)) == [R620, R640]
    assert _publish(project, "all", "--to", "staging") == 0
    assert {name: (project / "staging" / name).read_bytes() for name in before} == before


def test_a_rollback_takes_away_what_is_not_listed(project: Path) -> None:
    assert _publish(project, "all", "--to", "staging") == 0
    write_dist(project / "dist", cell(R620), version="v1.1")
    data = yaml.safe_load((project / "matrix.yaml").read_text())
    data["product"]["version"] = "v1.1"
    (project / "matrix.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    assert _publish(project, "R620", "--to", "staging") == 0
    found = _report(project)
    assert (found.version, _ids(found)) == ("v1.0, v1.1", [R620, R640])
    assert _publish(project, "R620", "--rollback", "--to", "staging") == 0
    assert _ids(_report(project)) == [R640]


def test_a_promotion_takes_the_records_along(project: Path) -> None:
    assert _publish(project, "all", "--to", "staging") == 0
    assert _publish(project, "R640", "--promote", "staging:stable") == 0
    assert _report(project, "stable").cells == _report(project).cells[1:]


def test_a_damaged_report_is_made_anew(project: Path) -> None:
    assert _publish(project, "R620", "--to", "staging") == 0
    (project / "staging" / "report.json").write_text("{}")
    assert _publish(project, "R640", "--to", "staging") == 0
    assert _ids(_report(project)) == [R640]


def test_what_has_changed_since_the_publication(project: Path) -> None:
    assert _publish(project, "all", "--to", "staging") == 0
    write_dist(project / "dist", cell(R620, target="u", wanted="u"), cell(R640))
    words = ["report", str(project / "dist"), "--since", str(project / "staging"), "--dist", str(project / "dist")]
    assert main.main(words) == 0
    page = (project / "dist" / "report.html").read_text(encoding="utf-8")
    element = page.partition(f'id="cell:{R620}">')[2].partition("</script>")[0]
    assert [line["what"] for line in json.loads(element)["changes"]] == ["target"]
    assert "1 of 2 cells have changed" in page
