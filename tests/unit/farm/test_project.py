"""The project of a farm's run: what is in it, and what a worker takes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from unit.helpers import BASE

from pikaforge.config import load
from pikaforge.errors import AnswerError, ConfigError, UsageError
from pikaforge.farm import project as projects
from pikaforge.farm.project import ProjectOptions, ProjectPlace, text_of, unpack
from pikaforge.host.hashing import digest
from pikaforge.host.store import Result, Store

OPTIONS = ProjectOptions(today="2026-01-01")


@pytest.fixture
def place(tmp_path: Path) -> ProjectPlace:
    base = tmp_path / "base"
    product = {**BASE["product"], "patches": "patches/series.yaml"}
    (base / "patches" / "more").mkdir(parents=True)
    matrix = base / "matrix.yaml"
    matrix.write_text(yaml.safe_dump({**BASE, "product": product}), encoding="utf-8")
    (base / "recipe.sh").write_text("make\n")
    (base / "recipe.sh").chmod(0o755)
    (base / "secret").write_text("not part of it")
    (base / "patches" / "a.patch").write_text("a")
    (base / "patches" / "off.patch").write_text("off")
    (base / "patches" / "more" / "series").write_text("b.patch\n")
    (base / "patches" / "more" / "b.patch").write_text("b")
    series = [{"file": "a.patch"}, {"file": "off.patch", "enabled": False}, {"quilt": "more"}]
    (base / "patches" / "series.yaml").write_text(yaml.safe_dump({"patches": series}), encoding="utf-8")
    spec, found = load.load(matrix), load.load_series(base / "patches" / "series.yaml")
    return ProjectPlace(base=base, matrix=matrix, spec=spec, series=found, sample=False)


def _unpacked(text: str, folder: Path, key: str = "") -> projects.UnpackedProject:
    path = folder / "project.json"
    path.write_text(text, encoding="utf-8")
    key = key or digest(text)[:32]
    result = Result(stage=projects.STAGE, key=key, identity="", facts={}, files={projects.FILE: path})
    return unpack(result, folder / "projects")


def test_it_has_what_the_configuration_names(place: ProjectPlace, tmp_path: Path) -> None:
    there = _unpacked(text_of(place, OPTIONS), tmp_path)
    names = {path.relative_to(there.base).as_posix() for path in there.base.rglob("*") if path.is_file()}
    patches = {f"patches/{name}" for name in ("series.yaml", "a.patch", "more/series", "more/b.patch")}
    assert names == {"matrix.yaml", "recipe.sh", *patches}
    assert (there.base / "recipe.sh").stat().st_mode & 0o777 == 0o755
    assert there.spec == place.spec
    assert there.series == place.series


def test_the_same_files_are_the_same_project(place: ProjectPlace, tmp_path: Path) -> None:
    text = text_of(place, OPTIONS)
    store = Store(tmp_path / "store")
    assert projects.store(text, store).key == projects.store(text_of(place, OPTIONS), store).key
    (place.base / "sources.lock").write_text("{}")
    assert projects.store(text_of(place, OPTIONS), store).key != digest(text)[:32]


def test_options_change_the_specification(place: ProjectPlace, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"formats": ("deb",), "strict_targets": True})
    images = _unpacked(text_of(place, options), tmp_path).spec.images.values()
    assert {(image.formats, image.fallback) for image in images} == {(("deb",), "refuse")}


def test_what_is_too_large_is_refused(place: ProjectPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "MOST", 10)
    with pytest.raises(UsageError, match="the files of the project have"):
        text_of(place, OPTIONS)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\x00b", "a/" + "b" * 300, "-x/../.."])
def test_no_file_leaves_the_folder(place: ProjectPlace, tmp_path: Path, path: str) -> None:
    project = json.loads(text_of(place, OPTIONS))
    project["files"].append({"path": path, "content": base64.b64encode(b"x").decode()})
    with pytest.raises(AnswerError, match="does not understand"):
        _unpacked(json.dumps(project), tmp_path)
    assert not (tmp_path / "projects").exists()


def test_what_is_not_base64_is_refused(place: ProjectPlace, tmp_path: Path) -> None:
    project = json.loads(text_of(place, OPTIONS))
    project["files"].append({"path": "x", "content": "?"})
    with pytest.raises(AnswerError, match="not in base64"):
        _unpacked(json.dumps(project), tmp_path)


def test_another_text_under_the_key_is_refused(place: ProjectPlace, tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match="another project"):
        _unpacked(text_of(place, OPTIONS), tmp_path, key="0" * 32)


def test_a_bad_configuration_is_an_error_of_configuration(place: ProjectPlace, tmp_path: Path) -> None:
    place.matrix.write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError):
        _unpacked(text_of(replace(place, series=None), OPTIONS), tmp_path)
