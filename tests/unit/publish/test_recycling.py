"""The folder of an old generation becomes that of a new one, and has the files of the current one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from publishing import Root, in_folder

from pikaforge.errors import PublishError
from pikaforge.publish.sites import directory, recycling
from pikaforge.publish.sites.directory import Directory

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACE = "debian12/R620"
NAME = "tarballs/demo-v1.0.tar.gz"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root with generations 1 and 2, of one package each."""
    made = in_folder(tmp_path)
    for version in ("1.0", "1.1"):
        made.publish(made.shelf.item(version, format="tar"))
    return made


def place(root: Root) -> Path:
    assert isinstance(root.site, Directory)
    return root.site.root / PLACE


def generation(root: Root, number: int) -> Path:
    return place(root).parent / ".R620.generations" / str(number)


def publish(root: Root, version: str = "1.2") -> None:
    root.publish(root.shelf.item(version, format="tar"))


def linked(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of hard links that are made from now on."""
    names: list[str] = []
    real = os.link

    def link(source: str, target: str, **options: bool) -> None:
        names.append(source)
        real(source, target, **options)

    patch.setattr(os, "link", link)
    return names


def files_of(version: str) -> set[str]:
    return {f"demo-v{version}.tar.gz{suffix}" for suffix in ("", ".sbom.json", ".intoto.json")}


def test_only_what_came_since_is_linked(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        root.publish(root.shelf.item(f"2.{number}", format="tar"))
    publish(root, "3.0")
    made = linked(monkeypatch)
    publish(root, "3.1")
    assert set(made) == files_of("3.0"), "the others are in the old folder"
    assert {path.name for path in place(root).glob("tarballs/*3*.gz")} >= {"demo-v3.0.tar.gz", "demo-v3.1.tar.gz"}


def test_the_folder_is_that_of_before(root: Root) -> None:
    before = generation(root, 1).stat().st_ino
    publish(root)
    assert place(root).stat().st_ino == before
    assert not generation(root, 1).exists()
    state = root.state()
    named = {file.path for file in state.files()} | {"repository.json", "tarballs/SHA256SUMS"}
    there = {str(path.relative_to(place(root))) for path in place(root).rglob("*") if path.is_file()}
    assert there == named


def test_what_the_current_generation_has_is_taken_over_and_not_what_the_old_one_has(root: Root) -> None:
    """Somebody has put a file back, or has written another one: that is what is served, and what stays served."""
    file = place(root) / NAME
    file.unlink()
    file.write_bytes(b"put back")
    publish(root)
    assert (place(root) / NAME).read_bytes() == b"put back"


def test_whatever_happened_to_the_old_folder(root: Root, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    old = generation(root, 1)
    (old / NAME).unlink()
    (old / NAME).symlink_to(tmp_path / "precious" / "file")
    (old / "tarballs" / "link").symlink_to(tmp_path / "precious")
    (old / "tarballs" / "more").mkdir()
    (old / "tarballs" / "more" / "file").touch()
    os.mkfifo(old / "fifo")
    before = {path.name: path.read_bytes() for path in (place(root) / "tarballs").glob("demo*")}
    publish(root)
    there = {path.name: path.read_bytes() for path in (place(root) / "tarballs").glob("demo*")}
    assert before.items() <= there.items()
    assert not any(path.is_symlink() or path.is_fifo() for path in place(root).rglob("*"))
    assert not (place(root) / "tarballs" / "more").exists()
    assert (tmp_path / "precious" / "file").read_text() == "precious"


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_that_is_missing_in_the_old_one_is_made(root: Root, tmp_path: Path, link: bool) -> None:
    shutil.rmtree(generation(root, 1) / "tarballs")
    if link:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "demo-v1.0.tar.gz").touch()
        (generation(root, 1) / "tarballs").symlink_to(tmp_path / "precious")
    publish(root)
    assert {path.name for path in place(root).glob("tarballs/*.gz")} == {f"demo-v1.{n}.tar.gz" for n in range(3)}
    assert not (place(root) / "tarballs").is_symlink()
    if link:
        assert (tmp_path / "precious" / "demo-v1.0.tar.gz").exists()


@pytest.mark.parametrize("number", [0, None], ids=["one for all", "others than files have"])
def test_numbers_that_a_listing_makes_up_are_not_believed(
    root: Root, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    real = recycling._listed
    (generation(root, 1) / NAME).unlink()
    (generation(root, 1) / NAME).write_bytes(b"another file")

    def listed(folder: Path) -> tuple[dict[str, int], list[str], list[str]]:
        regular, folders, others = real(folder)
        made_up: Mapping[str, int] = {name: len(name) if number is None else number for name in regular}
        return dict(made_up), folders, others

    monkeypatch.setattr(recycling, "_listed", listed)
    publish(root)
    assert (place(root) / NAME).read_bytes() == b"tarball 1.0"


@pytest.mark.parametrize("what", ["missing", "a link"])
def test_what_is_kept_must_be_there_also_if_the_old_folder_has_it(root: Root, tmp_path: Path, what: str) -> None:
    file = place(root) / NAME
    file.unlink()
    if what == "a link":
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishError):
        publish(root)
    assert root.state().current.number == 2


@pytest.mark.parametrize("step", ["strip", "_link", "_synced"])
def test_a_killed_one_is_no_loss(root: Root, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed one removes nothing
        patch.setattr(directory, step, die)
        publish(root)
    assert root.state().current.number == 2
    assert {path.name for path in generation(root, 2).parent.iterdir()} == {".new", ".staged", "2"}
    for version in ("1.2", "1.3"):
        publish(root, version)
    assert {path.name for path in place(root).glob("tarballs/*.gz")} == {f"demo-v1.{n}.tar.gz" for n in range(4)}
    assert {path.name for path in generation(root, 3).parent.iterdir()} == {"3", "4"}
