"""Outputs, summaries and cache keys for GitHub Actions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from unit.cell_results import SOURCE
from unit.helpers import BASE, refusal, the_cell

from pikaforge.cli import github
from pikaforge.cli.context import Context
from pikaforge.cli.faces.closing import close_run
from pikaforge.cli.faces.github import GithubLog
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.cli.github import OUTPUT, SUMMARY
from pikaforge.errors import ConfigError, HostError
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.host.store import Store
from pikaforge.pipeline.dist import DistFiles
from pikaforge.pipeline.expected import EarlierTimes
from pikaforge.pipeline.outcomes import Report
from pikaforge.pipeline.report_record import BuildReport, CellRecord, StageRecord
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import Plan, expand

EL7, DEBIAN12, SKYLAKE = "el7-sandybridge-none", "debian12-sandybridge-none", "debian12-skylake_avx512-none"


# ---- outputs and summary


def test_outputs_are_appended_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "output"
    github.output({OUTPUT: str(path)}, matrix='{"include": []}', jobs="0")
    github.output({OUTPUT: str(path)}, more="grüße")
    assert path.read_text(encoding="utf-8") == 'matrix={"include": []}\njobs=0\nmore=grüße\n'


def test_summaries_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    for text in ("### a\n\n| b |", "### c"):
        github.add_summary({SUMMARY: str(path)}, text)
    assert path.read_text(encoding="utf-8") == "### a\n\n| b |\n### c\n"


@pytest.mark.parametrize("environ", [{}, {OUTPUT: "", SUMMARY: ""}])
def test_elsewhere_nothing_is_told(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    github.output(environ, a="b")
    github.add_summary(environ, "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["a\nother=b", "a\rb", "a\u2028b"])
def test_an_output_cannot_bring_another_one(value: str, tmp_path: Path) -> None:
    path = tmp_path / "output"
    with pytest.raises(ValueError, match="one line"):
        github.output({OUTPUT: str(path)}, a=value)
    assert not path.exists()


@pytest.mark.parametrize(
    ("variable", "tell"),
    [
        (OUTPUT, lambda environ: github.output(environ, a="b")),
        (SUMMARY, lambda environ: github.add_summary(environ, "text")),
    ],
)
def test_a_file_that_cannot_be_written(variable: str, tell: Callable[[dict[str, str]], None], tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file"
    with pytest.raises(HostError) as caught:
        tell({variable: str(path)})
    assert refusal(caught) == (
        f"{path} cannot be written: No such file or directory",
        variable,
        f"GitHub's runner sets {variable} to a file of its own; anywhere else, unset it",
    )


def _packed(cell: Cell) -> CellRecord:
    name = f"{cell.image}/demo-{cell.model}-##[x].tar.gz"
    made = ArtifactRecord(path=name, sha256="a" * 64, bytes=7, format="tar", role="main")
    return _record(cell).model_copy(update={"status": "done", "artifacts": (made,)})


def test_a_build_has_outputs_about_the_cells_of_its_run(tmp_path: Path) -> None:
    cells = all_cells(_setting(tmp_path).spec)
    report = BuildReport(product="demo", version="v1.0", cells=tuple(map(_packed, cells)))
    path, dist = tmp_path / "output", tmp_path / "dist"
    github.build_outputs({OUTPUT: str(path)}, dist, report, {"R640-debian12-none"})
    outputs = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())
    assert (outputs["dist"], outputs["report"]) == (str(dist), str(dist / "report.json"))
    assert json.loads(outputs["artifacts"]) == [
        {
            "cell": "R640-debian12-none",
            "format": "tar",
            "role": "main",
            "path": f"{dist}/debian12/demo-R640-##[x].tar.gz",
            "sha256": "a" * 64,
            "bytes": 7,
        }
    ]
    github.build_outputs({}, dist, report, {"R640-debian12-none"})


def test_a_list_that_github_would_not_accept_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github, "OUTPUT_LIMIT", 100)
    cells = all_cells(_setting(tmp_path).spec)
    report = BuildReport(product="demo", version="v1.0", cells=tuple(map(_packed, cells)))
    github.build_outputs({OUTPUT: str(tmp_path / "output")}, tmp_path, report, {cell.id for cell in cells})
    assert (tmp_path / "output").read_text(encoding="utf-8").splitlines()[-1] == "artifacts="


def test_a_folder_cannot_bring_an_output(tmp_path: Path) -> None:
    report = BuildReport(product="demo", version="v1.0", cells=())
    with pytest.raises(ConfigError, match="several lines"):
        github.build_outputs({OUTPUT: str(tmp_path / "output")}, tmp_path / "a\nreport=b", report, set())
    assert not (tmp_path / "output").exists()


def _record(cell: Cell) -> CellRecord:
    ended: dict[str, Literal["done", "failed", "blocked"]] = {"audit": "failed", "smoke": "done", "package": "blocked"}
    return CellRecord(
        id=cell.id,
        model=cell.model,
        image=cell.image,
        allocator=cell.allocator,
        target=cell.target,
        wanted=cell.wanted,
        flags=cell.flags,
        status="failed",
        finished="",
        stages=tuple(StageRecord(stage=n, label="x", key="", status=s, seconds=1.0) for n, s in ended.items()),
    )


def test_the_end_of_a_build_is_in_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the cells of this run: the report also has those of earlier ones."""
    summary = tmp_path / "summary"
    spec = _setting(tmp_path).spec
    records = BuildReport(product="demo", version="v1.0", cells=tuple(_record(cell) for cell in all_cells(spec)))
    mine = the_cell(spec, "R640-debian12-none")
    plan = Plan(cells=(mine,), nodes=())
    with Reporter(GithubLog(sys.stdout, {SUMMARY: str(summary)})) as reporter:
        reporter.opened(spec.product, plan, [], EarlierTimes(nodes={}, stages={}))
        close_run(
            reporter,
            Report(plan=plan),
            DistFiles(report=records),
            spec=spec,
            selectors=["R640"],
            report=tmp_path / "report.json",
            command="build {}".format,
            status=4,
        )
    lines = summary.read_text(encoding="utf-8").splitlines()
    assert lines[: lines.index("")] == [f"### {spec.product.name} {spec.product.version}"]
    assert lines[2:5] == [
        "| CELL | TARGET | AUDIT | NATIVE | EMULATED | PACKAGE |",
        "| --- | --- | --- | --- | --- | --- |",
        "| R640-debian12-none | skylake\\_avx512 | FAILED | done | done | - |",
    ]
    assert "<details><summary>Options</summary>" in lines
    assert "R640-debian12-none  skylake_avx512  FAILED" in capsys.readouterr().out


# ---- keys for caches

Edit = Callable[[dict[str, Any], Path], object]


def _setting(folder: Path, edit: Edit = lambda _matrix, _folder: None, **arguments: Any) -> Context:
    """`matrix` in a project with a series of two patches, one of them a file."""
    matrix: dict[str, Any] = deepcopy(BASE)
    matrix["product"]["patches"] = "patches/series.yaml"
    (folder / "patches").mkdir(exist_ok=True)
    (folder / "patches/fix.patch").write_text("fix\n", encoding="utf-8")
    _series(folder)
    (folder / "recipe.sh").write_text("make\n", encoding="utf-8")
    edit(matrix, folder)
    (folder / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    given = {"matrix": str(folder / "matrix.yaml"), "out": str(folder / "out"), "dist": "", "verb": "matrix"}
    nothing = {"selectors": [], "os": "", "allocator": ""}
    return Context(argparse.Namespace(**{**given, **nothing, **arguments}))


def _series(folder: Path, *, url: str = "http://127.0.0.1:9/1.patch", **more: Any) -> None:
    entries = [{"pull": 1, "url": url, **more}, {"file": "fix.patch"}]
    (folder / "patches/series.yaml").write_text(yaml.safe_dump({"patches": entries}), encoding="utf-8")


def _pin(folder: Path, section: str, entry: str, **pins: str) -> None:
    path = folder / "sources.lock"
    lock: dict[str, Any] = {"version": 1, "sources": {}, "images": {}}
    if path.exists():
        lock = json.loads(path.read_text(encoding="utf-8"))
    lock[section][entry] = {name.replace("__", " ").replace("_", "-"): value for name, value in pins.items()}
    path.write_text(json.dumps(lock), encoding="utf-8")


def _keys(context: Context) -> dict[str, str]:
    return github.cache_keys(context, all_cells(context.spec))


def _changed(folder: Path, edit: Edit, **arguments: Any) -> set[str]:
    """The groups whose key is another one after an edit."""
    before, after = _keys(_setting(folder)), _keys(_setting(folder, edit, **arguments))
    assert before.keys() == after.keys()
    return {group for group in before if before[group] != after[group]}


def test_each_compilation_has_a_key_of_its_own_that_stays(tmp_path: Path) -> None:
    found = _keys(_setting(tmp_path))
    cells = all_cells(_setting(tmp_path).spec)
    assert set(found) == {cell.group for cell in cells if not cell.problem}
    assert len(set(found.values())) == len(found) == 6
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert _keys(_setting(elsewhere)) == found, "no path and no clock is in it"
    assert not (tmp_path / "out").exists(), "it only looks"
    assert not (tmp_path / "sources.lock").exists()


EVERYTHING = {
    f"{pair}-{allocator}"
    for pair in ("el7-sandybridge", "debian12-sandybridge", "debian12-skylake_avx512")
    for allocator in ("none", "system")
}
ON_EL7 = {group for group in EVERYTHING if group.startswith("el7")}
ON_SKYLAKE = {group for group in EVERYTHING if "skylake" in group}


@pytest.mark.parametrize(
    ("edit", "groups"),
    [
        (lambda m, _: m["product"].update(version="v1.1"), EVERYTHING),
        (lambda m, _: m["product"]["source"].update(tag="v1.1"), EVERYTHING),
        (lambda m, _: m["product"].update(binaries=["bin/other"]), EVERYTHING),
        (lambda _, folder: (folder / "recipe.sh").write_text("make all\n"), EVERYTHING),
        (lambda _, folder: (folder / "patches/fix.patch").write_text("another\n"), EVERYTHING),
        (lambda _, folder: _series(folder, url="http://127.0.0.1:9/2.patch"), EVERYTHING),
        (lambda _, folder: _series(folder, enabled=False), EVERYTHING),
        (lambda m, _: m["images"]["el7"].update(base="centos:7.9"), ON_EL7),
        (lambda m, _: m["images"]["el7"].update(gcc="4.8.4"), ON_EL7),
        (lambda _, folder: _pin(folder, "images", "el7", digest="sha256:" + "a" * 64), ON_EL7),
        (lambda _, folder: (folder / "patches/README").write_text("of no patch\n"), set()),
        (lambda _, folder: _series(folder, why="because"), set()),
        (lambda m, _: m["product"].update(warning="given up"), set()),
        (lambda m, _: m["product"]["smoke"].clear(), set()),
        (lambda m, _: m["hardware"].update(R730={"cpus": ["sandybridge"]}), set()),
        (lambda m, _: m["images"]["el7"].update(formats=["tar"]), set()),
    ],
)
def test_a_key_changes_with_what_decides_the_compilation_and_nothing_else(
    edit: Edit, groups: set[str], tmp_path: Path
) -> None:
    assert _changed(tmp_path, edit) == groups


def test_a_missing_patch_is_the_builds_to_refuse(tmp_path: Path) -> None:
    assert _changed(tmp_path, lambda _, folder: (folder / "patches/fix.patch").unlink()) == EVERYTHING


def test_what_is_pinned_takes_part_by_its_pin_alone(tmp_path: Path) -> None:
    _pin(tmp_path, "images", "el7", digest="sha256:" + "a" * 64)
    assert _changed(tmp_path, lambda _, folder: _pin(folder, "images", "el7", digest="sha256:" + "b" * 64)) == ON_EL7
    _pin(tmp_path, "sources", "https://example.org/demo.git#v1.0", commit="c" * 40, patch__pull_1="d" * 64)
    assert _changed(tmp_path, lambda _, folder: _series(folder, url="http://127.0.0.1:9/moved.patch")) == set()
    assert _changed(tmp_path, lambda _, folder: (folder / "patches/fix.patch").write_text("another\n")) == EVERYTHING
    _pin(tmp_path, "images", "debian12", bootstrap="bookworm")
    assert _changed(tmp_path, lambda m, _: m["images"]["debian12"].update(base="debian:12")) == set()


def test_another_source_makes_other_keys(tmp_path: Path) -> None:
    """As soon as `matrix` is asked for one."""
    assert _changed(tmp_path, lambda *_: None, source="https://example.org/fork.git#v1.0") == EVERYTHING


def test_stored_results_change_no_key(tmp_path: Path) -> None:
    """GitHub's plan job has none, and a key must be the same everywhere."""
    context = _setting(tmp_path)
    before = _keys(context)
    asked = Context(argparse.Namespace(**{**github.ARGUMENTS, **vars(context.arguments)}))
    pipeline = asked.pipeline(asked.workspace(asked.engine()))
    plan = expand(context.spec, all_cells(context.spec))
    views = pipeline.views(plan, engine_answers=lambda: False)
    for view in views:
        if view.node.stage == "source":
            Store(tmp_path / "out/store").put("source", view.key, identity="made", facts=SOURCE, files={})
    again = pipeline.views(plan, engine_answers=lambda: False)
    assert [view.key for view in views] != [view.key for view in again], "or this shows nothing"
    assert _keys(context) == before
