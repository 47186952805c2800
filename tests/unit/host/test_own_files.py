"""What the tool keeps for itself is believed only if nobody else can have written it, and if it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pikaforge.host import own_files

BODY = b'{"a": 1}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "answers" / "a.json"
    path.parent.parent.mkdir()
    own_files.write(str(path), BODY, most=4)
    return path


def test_it_is_read_as_it_was_written(path: Path) -> None:
    assert own_files.read(str(path)) == BODY
    assert path.stat().st_mode & 0o777 == 0o600
    assert own_files.read(str(path.with_name("none.json"))) is None


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _link(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def _second_name(path: Path) -> None:
    os.link(path, path.with_name("another"))


def _open_to_all(path: Path) -> None:
    path.chmod(0o666)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [_damage, _cut, _link, _second_name, _open_to_all, _folder, _pipe])
def test_what_others_may_have_written_is_as_good_as_none(path: Path, change: Callable[[Path], None]) -> None:
    change(path)
    assert own_files.read(str(path)) is None


def test_a_file_of_another_user_is_as_good_as_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert own_files.read(str(path)) is None


def test_a_huge_file_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_files, "LIMIT", 20)
    assert own_files.read(str(path)) is None


def test_of_many_files_the_newest_stay(path: Path) -> None:
    for number in range(8):
        file = path.with_name(f"{number}.json")
        own_files.write(str(file), BODY, most=4)
        os.utime(file, (number, number))
    os.utime(path, (0, 0))
    own_files.write(str(path.with_name("last.json")), BODY, most=4)
    assert sorted(each.name for each in path.parent.iterdir()) == ["5.json", "6.json", "7.json", "last.json"]


def test_who_only_looks_makes_no_out(tmp_path: Path) -> None:
    own_files.write(str(tmp_path / "out" / "answers" / "a.json"), BODY, most=4)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_harm(path: Path) -> None:
    file = path / "below-a-file.json"
    own_files.write(str(file), BODY, most=4)
    assert own_files.read(str(file)) is None
