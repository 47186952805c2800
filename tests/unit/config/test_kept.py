"""Specifications that were parsed before are taken as they were kept, and never anything else."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path

import pytest
from pydantic import BaseModel
from unit.helpers import ROOT, make_matrix

from pikaforge.config import kept, load
from pikaforge.config.patch_series import Series
from pikaforge.config.scalars import plain
from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError


class Reader:
    """Counts how often a file is parsed."""

    __name__ = "Reader"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> Spec:
        self.calls += 1
        return load.load(path)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "matrix.yaml"
    path.write_text(make_matrix(), encoding="utf-8")
    (tmp_path / "out").mkdir()
    return path


@pytest.fixture
def read(matrix: Path, reader: Reader) -> Callable[[], Spec]:
    return lambda: kept.kept(matrix, matrix.parent / "out" / "answers", reader)


def _file(matrix: Path) -> Path:
    (found,) = (matrix.parent / "out" / "answers").iterdir()
    return found


def test_it_is_the_same_and_is_not_parsed_again(matrix: Path, read: Callable[[], Spec], reader: Reader) -> None:
    first, second = read(), read()
    assert reader.calls == 1
    assert second == first == load.load(matrix)
    for how in ({}, {"exclude_unset": True}, {"mode": "json"}):
        assert second.model_dump(**how) == first.model_dump(**how)


def test_the_matrix_and_the_series_of_this_checkout(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    series = ROOT / "patches/v3.4.0/series.yaml"
    for _ in range(2):
        assert kept.kept(ROOT / "matrix.yaml", tmp_path / "out" / "a", load.load) == load.load(ROOT / "matrix.yaml")
        found: Series = kept.kept(series, tmp_path / "out" / "a", load.load_series)
        assert found == load.load_series(series)
    assert len(list((tmp_path / "out" / "a").iterdir())) == 2


def test_another_text_is_another_specification(matrix: Path, read: Callable[[], Spec], reader: Reader) -> None:
    read()
    matrix.write_text(make_matrix(product__version="v2.0"), encoding="utf-8")
    assert read().product.version == "v2.0"
    assert reader.calls == 2


def test_another_version_of_the_tool_parses_again(
    read: Callable[[], Spec], reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read()
    monkeypatch.setattr(kept, "_tool", lambda: "another")
    read()
    assert reader.calls == 2


def test_the_tool_is_known_by_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    monkeypatch.setattr(kept, "PACKAGE", tmp_path)
    before = kept._tool.__wrapped__()
    assert kept._tool.__wrapped__() == before
    (tmp_path / "a.py").write_text("22")
    assert kept._tool.__wrapped__() != before


def test_a_damaged_file_is_parsed_anew_and_written_again(
    matrix: Path, read: Callable[[], Spec], reader: Reader
) -> None:
    read()
    whole = _file(matrix).read_bytes()
    _file(matrix).write_bytes(whole.replace(b"sandybridge", b"haswell....", 1))
    assert read().hardware["R620"].cpus == ("sandybridge", "ivybridge")
    assert reader.calls == 2
    assert _file(matrix).read_bytes() == whole


def test_a_link_and_a_file_that_others_may_write_are_not_believed(
    matrix: Path, read: Callable[[], Spec], reader: Reader
) -> None:
    read()
    _file(matrix).chmod(0o666)
    read()
    assert reader.calls == 2
    elsewhere = matrix.parent / "elsewhere"
    file = _file(matrix)
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    read()
    assert reader.calls == 3
    assert not file.is_symlink()


def test_a_file_of_another_user_is_not_believed(
    read: Callable[[], Spec], reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    read()
    assert reader.calls == 2


def _sealed(path: Path, value: object) -> None:
    body = json.dumps(value).encode()
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, _: [name, ["model", "Popen", [], []]],
        lambda name, _: [name, ["os.system", "true"]],
        lambda name, _: [name, []],
        lambda name, _: [name, ["model"]],
        lambda name, _: name,
        lambda _, value: ["f" * 64, value],
    ],
)
def test_what_this_version_does_not_write_is_not_believed(
    matrix: Path, read: Callable[[], Spec], reader: Reader, change: Callable[[object, object], object]
) -> None:
    wanted = read()
    name, value = json.loads(_file(matrix).read_bytes().partition(b"\n")[2])
    _sealed(_file(matrix), change(name, value))
    assert read() == wanted
    assert reader.calls == 2


def test_mistakes_are_reported_each_time_and_nothing_is_kept(matrix: Path, read: Callable[[], Spec]) -> None:
    matrix.write_text("product: 1\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ConfigError):
            read()
    matrix.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        read()
    assert not (matrix.parent / "out" / "answers").exists()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is known of the tool is looked at anew."""
    kept._tool.cache_clear()
    yield
    monkeypatch.undo()
    kept._tool.cache_clear()


@pytest.mark.usefixtures("tool")
def test_the_folder_of_the_call_is_no_part_of_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path[1:]])
        for _ in range(2):
            kept._tool.cache_clear()
            digests.add(kept._tool())
            (folder / "matrix.yaml").touch()  # as editors do, which rename
    assert len(digests) == 1
    libraries = tmp_path / "site-packages"
    libraries.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(libraries)])
    kept._tool.cache_clear()
    digests.add(kept._tool())
    (libraries / "pydantic-3.dist-info").mkdir()
    os.utime(libraries, ns=(1, 1))
    kept._tool.cache_clear()
    digests.add(kept._tool())
    assert len(digests) == 3


def _parts(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _parts(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _parts(each)


@pytest.mark.parametrize("path", [ROOT / "matrix.yaml", *sorted((ROOT / "tests" / "products").glob("*/matrix.yaml"))])
def test_keys_are_made_of_what_pydantic_would_say(path: Path) -> None:
    spec = load.load(path)
    for part in _parts(spec):
        assert plain(part) == part.model_dump(mode="json")
        assert plain(part, only_given=True) == part.model_dump(mode="json", exclude_unset=True)


def test_what_specifications_do_not_have_is_refused() -> None:
    assert plain((1, {"a": date(2026, 1, 2)}, None)) == [1, {"a": "2026-01-02"}, None]
    for value in (b"", {1}, object(), Path()):
        with pytest.raises(TypeError):
            plain(value)
