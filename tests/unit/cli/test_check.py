"""`check`, and the chunks of `build`, `plan` and `matrix`, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.helpers import BASE

from pikaforge.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose patch and recipe are there."""
    matrix: dict[str, Any] = deepcopy(BASE)
    matrix["product"]["patches"] = "patches/series.yaml"
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/fix.patch").write_text("fix\n", encoding="utf-8")
    (tmp_path / "patches/series.yaml").write_text(yaml.safe_dump({"patches": [{"file": "fix.patch"}]}))
    (tmp_path / "recipe.sh").write_text("make\n", encoding="utf-8")
    (tmp_path / "waivers.yaml").write_text("waivers: []\n", encoding="utf-8")
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    monkeypatch.setenv("PIKAFORGE_CWD", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the tool in the project; status, output, errors."""

    def runs(*words: str) -> tuple[int, str, str]:
        status = main.main(words)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return runs


FILES = ("matrix.yaml", "patches/series.yaml", "waivers.yaml")


def test_files_that_are_right(run: Run) -> None:
    status, out, err = run("check", *FILES)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "matrix.yaml: 3 models, 2 images, 12 cells, 2 of which cannot be built",
        "patches/series.yaml: 1 patch",
        "waivers.yaml: 0 waivers",
    ]


def test_the_matrix_is_checked_if_no_file_is_named(run: Run) -> None:
    status, out, _ = run("check", "--matrix", "matrix.yaml")
    assert (status, out.partition(":")[0]) == (0, "matrix.yaml")


def test_all_mistakes_of_all_files_are_shown(run: Run, project: Path) -> None:
    (project / "patches/fix.patch").unlink()
    (project / "recipe.sh").unlink()
    (project / "waivers.yaml").write_text("waivers: [{}]\n", encoding="utf-8")
    status, out, err = run("check", *FILES, "missing.yaml")
    assert (status, out) == (2, "")
    for text in ("recipe.sh", "patches/fix.patch", "waivers.yaml:1:", "missing.yaml"):
        assert text in err
    assert "Traceback" not in err


@pytest.mark.parametrize("text", ["", "[]", "a: [", "patches: {}\n", "\x1b[31m: 1", "waivers: 1", "::error::x: {}\n"])
def test_a_wrong_file_is_an_error_and_no_command(run: Run, project: Path, text: str) -> None:
    (project / "wrong.yaml").write_text(text, encoding="utf-8")
    status, out, err = run("check", "wrong.yaml")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "\x1b" not in err
    assert not any(line.lstrip().startswith("::") for line in err.splitlines())


# ---- chunks


def test_the_chunks_of_gitlabs_jobs_are_all_cells(run: Run) -> None:
    select = ("all", "--os", "all", "--allocator", "all", "--matrix", "matrix.yaml")
    status, out, err = run("matrix", "--format", "gitlab", "--chunks", "4", *select)
    assert status == 0
    assert len(err.splitlines()) == 2
    assert all(line.startswith("left out: R640-el7-") for line in err.splitlines())
    [job] = json.loads(out).values()
    assert [entry["PIKAFORGE_CHUNK"] for entry in job["parallel"]["matrix"]] == ["1/4", "2/4", "3/4", "4/4"]
    built: list[str] = []
    for entry in job["parallel"]["matrix"]:
        status, out, _ = run("plan", "--json", "--chunk", entry["PIKAFORGE_CHUNK"], *select)
        assert status == 0
        built += [cell["id"] for cell in json.loads(out)["cells"]]
    _, out, _ = run("matrix", "--format", "json", *select)
    assert sorted(built) == sorted(cell["id"] for cell in json.loads(out)["cells"] if not cell["problem"])


@pytest.mark.parametrize("most", ["1", "2", "4", "256"])
def test_the_cells_of_githubs_jobs_are_built_by_their_command_lines(run: Run, most: str) -> None:
    """Each cell by one job, and each compilation, too."""
    status, out, _ = run("matrix", "--format", "github", "--chunks", most, "--matrix", "matrix.yaml")
    assert status == 0
    built: list[str] = []
    compiled: list[str] = []
    for entry in json.loads(out)["include"]:
        _, out, _ = run("plan", "--json", *entry["cells"].split(), "--matrix", "matrix.yaml")
        plan = json.loads(out)
        assert [cell["id"] for cell in plan["cells"]] == sorted(entry["cells"].split(), key=all_ids(run).index)
        built += [cell["id"] for cell in plan["cells"]]
        wanted = {f"{cell['image']}-{cell['target']}-{cell['allocator']}" for cell in plan["cells"]}
        compiled += sorted(wanted & {node["label"] for node in plan["nodes"] if node["stage"] == "compile"})
    assert sorted(built) == sorted(set(all_ids(run)) - {"R640-el7-none", "R640-el7-system"})
    assert len(compiled) == len(set(compiled)) == 6


def all_ids(run: Run) -> list[str]:
    """The ids of all cells, in the order of the matrix."""
    _, out, _ = run("matrix", "--format", "json", "--matrix", "matrix.yaml")
    return [cell["id"] for cell in json.loads(out)["cells"]]


def test_github_gets_as_many_jobs_as_are_wanted(run: Run) -> None:
    _, out, _ = run("matrix", "--format", "github", "--chunks", "2", "--matrix", "matrix.yaml")
    assert len(json.loads(out)["include"]) == 2


@pytest.mark.parametrize("words", [("table", "3"), ("json", "3"), ("gitlab", "201"), ("github", "257")])
def test_chunks_that_are_refused(run: Run, words: tuple[str, str]) -> None:
    status, out, err = run("matrix", "--format", words[0], "--chunks", words[1], "--matrix", "matrix.yaml")
    assert (status, out) == (2, "")
    assert "where: --chunks" in err


def test_a_chunk_is_the_same_on_every_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a model would mean the image of the machine that asks."""
    monkeypatch.setattr("pikaforge.plan.matrix.matching_image", lambda _spec: "el7")
    words = ("R620", "--chunk", "1/1", "--matrix", "matrix.yaml")
    _, out, _ = run("plan", "--json", *words)
    assert [cell["image"] for cell in json.loads(out)["cells"]] == ["debian12"]
    _, out, _ = run("plan", "--json", "R620", "--matrix", "matrix.yaml")
    assert [cell["image"] for cell in json.loads(out)["cells"]] == ["el7"]


def test_a_job_without_cells_has_nothing_to_do(run: Run) -> None:
    """As with a fixed number of jobs that is larger than that of the compilations; no engine is asked for it."""
    status, out, err = run("build", "R620", "--chunk", "2/9", "--matrix", "matrix.yaml")
    assert (status, err) == (0, "")
    assert out == "note: there are fewer jobs than 2/9: nothing is left for this one\n"
