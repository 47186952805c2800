"""Two products in one checkout: each has its report, and nobody publishes the other one's packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from unit.dist_folders import cell, write_dist
from unit.helpers import BASE

from pikaforge.cli import main
from pikaforge.pipeline.report import NAME, all_of, load, name_of, write
from pikaforge.pipeline.report_record import BuildReport

CELL = "R620-debian12-none"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the configurations of `demo` and of `other`, and packages of `demo`."""
    for name in ("demo", "other"):
        data = {
            **BASE,
            "product": {**BASE["product"], "name": name},
            "publish": {"here": {"kind": "directory", "path": "repo"}},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (tmp_path / "recipe.sh").write_text("make\n")
    write_dist(tmp_path / "dist", cell(CELL))
    return tmp_path


def publish(project: Path, product: str, *words: str) -> int:
    places = ("--matrix", str(project / f"{product}.yaml"), "--dist", str(project / "dist"))
    return main.main(["publish", "R620", "--to", "here", *words, *places])


def test_control_the_own_product_is_published(project: Path) -> None:
    assert publish(project, "demo", "--yes") == 0
    assert (project / "repo/debian12/R620").is_dir()


@pytest.mark.parametrize("words", [(), ("--yes",)])
def test_the_packages_of_another_product_are_refused(
    project: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(project, "other", *words) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: what was built there is demo, and other.yaml is about other",
        f"  where: {project / 'dist'}",
        "  hint: name the configuration of demo with --matrix, or build other first",
        "  see: docs/troubleshooting.md#e-usage",
    ]
    assert not (project / "repo").exists()


def test_the_repository_of_another_product_is_left_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(project, "demo", "--yes")
    before = sorted(str(path) for path in (project / "repo").rglob("*"))
    assert publish(project, "other", "--rollback", "--yes") == 2
    assert "this is a repository of demo, and other.yaml is about other" in capsys.readouterr().err
    assert sorted(str(path) for path in (project / "repo").rglob("*")) == before


def test_each_product_has_a_report(project: Path) -> None:
    dist = project / "dist"
    other = BuildReport(product="other", version="v2", cells=())
    assert write(dist, other) == dist / "report.other.json"
    assert (load(dist, "report.other.json"), name_of(dist, "demo")) == (other, NAME)
    assert [each.product for each in all_of(dist)] == ["demo", "other"]
    assert publish(project, "demo", "--yes") == 0, "it is still there"
    assert write(dist, other) == dist / "report.other.json", "also a second time"


def test_a_report_keeps_its_name_when_the_other_one_is_gone(project: Path) -> None:
    dist = project / "dist"
    write(dist, BuildReport(product="other", version="v2", cells=()))
    (dist / NAME).unlink()
    assert name_of(dist, "other") == "report.other.json"
    shutil.rmtree(dist)
    assert name_of(dist, "other") == NAME
