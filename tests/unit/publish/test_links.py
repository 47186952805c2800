"""A publisher touches nothing but what it has made: links in a root, paths in records, folders like its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from publishing import Root, in_folder

from pikaforge.errors import PublishError
from pikaforge.host.run_id import RunId
from pikaforge.host.store import locked
from pikaforge.publish.sites.directory import Directory
from pikaforge.publish.sites.journal import Journal
from pikaforge.publish.state import CATALOGUE, STATE, STATE_LIMIT, read_catalogue, read_state

PLACE = "debian12/R620"
GENERATIONS = "debian12/.R620.generations"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root with one package in generation 1."""
    made = in_folder(tmp_path)
    made.publish(made.shelf.item())
    return made


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder of somebody else, with names that a publisher would remove."""
    folder = tmp_path / "somebody"
    for name in ("1", "7", "2024", ".new", ".R620.generations/7", ".R620.generations/.new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "precious").write_text("precious")
    return folder


def top(root: Root) -> Path:
    assert isinstance(root.site, Directory)
    return root.site.root


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestLinks:
    @pytest.mark.parametrize("where", ["el7", "el7/.R720.generations", GENERATIONS, "debian12", f"{GENERATIONS}/.new"])
    def test_nothing_is_removed_where_a_link_leads(self, root: Root, other: Path, where: str) -> None:
        before = contents(other)
        link = top(root) / where
        if link.is_dir():
            link.rename(link.with_name("moved"))
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(other)
        try:
            root.publish(root.shelf.item("1.1"))
        except PublishError as error:
            assert "symlink" in error.message
        assert contents(other) == before

    def test_a_repository_that_leads_elsewhere_is_not_one(self, root: Root, other: Path) -> None:
        before = contents(other)
        (top(root) / PLACE).unlink()
        (top(root) / PLACE).symlink_to(other / "7")
        with pytest.raises(PublishError, match="symlink"):
            root.publish(root.shelf.item("1.1"))
        assert contents(other) == before
        assert (top(root) / GENERATIONS / "1").is_dir()

    def test_no_file_of_the_root_is_written_through_a_link(self, root: Root, other: Path) -> None:
        before = contents(other)
        (top(root) / CATALOGUE).unlink()
        (top(root) / "index.html").unlink()
        (top(root) / "index.html").symlink_to(other / "1" / "precious")
        root.publish(root.shelf.item("1.1"))
        assert not (top(root) / "index.html").is_symlink()
        assert contents(other) == before

    def test_a_lock_is_not_taken_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock"):
            pass
        assert not (tmp_path / "elsewhere").exists()

    def test_a_published_file_that_became_a_link_is_refused(self, root: Root, other: Path) -> None:
        (file,) = (top(root) / PLACE).glob("x86_64/*.rpm")
        file.unlink()
        file.symlink_to(other / "1" / "precious")
        with pytest.raises(PublishError, match="no regular file"):
            root.publish(root.shelf.item("1.1"))


class TestOwn:
    def test_control_old_and_incomplete_generations_are_removed(self, root: Root) -> None:
        folder = top(root) / GENERATIONS
        for version in ("1.1", "1.2", "1.3"):
            root.publish(root.shelf.item(version))
        (folder / ".new" / "x86_64").mkdir(parents=True)
        root.publish(root.shelf.item("1.4"))
        assert sorted(path.name for path in folder.iterdir()) == ["4", "5"]

    def test_a_folder_without_the_record_of_a_generation_stays(self, root: Root, tmp_path: Path) -> None:
        said: list[str] = []
        again = in_folder(tmp_path, notice=said.append)
        mine = top(root) / GENERATIONS / "2024"
        mine.mkdir()
        (mine / "precious").write_text("precious")
        again.publish(again.shelf.item("1.1"))
        assert (mine / "precious").read_text() == "precious"
        assert "2024" in " ".join(said)

    def test_a_folder_whose_record_is_too_large_stays(self, root: Root, tmp_path: Path) -> None:
        said: list[str] = []
        again = in_folder(tmp_path, notice=said.append)
        record = top(root) / GENERATIONS / "2024" / STATE
        record.parent.mkdir()
        with record.open("wb") as stream:
            stream.truncate(STATE_LIMIT + 1)
        again.publish(again.shelf.item("1.1"))
        assert f"{record.parent} is no generation that was published here; it is left alone" in said
        assert record.is_file()

    def test_files_in_the_making_of_killed_publishers_are_removed(self, root: Root) -> None:
        dead = replace(RunId.current(), started="1").text
        names = [f".index.html.{dead}-abcdefgh", f"utils/.detect-model.sh.{dead}-abcdefgh"]
        kept = [".htaccess", f".index.html.{RunId.current().text}-abcdefgh"]
        (top(root) / "utils").mkdir(exist_ok=True)
        for name in names + kept:
            (top(root) / name).write_text("x")
        root.publish(root.shelf.item("1.1"))
        assert [name for name in names if (top(root) / name).exists()] == []
        assert [name for name in kept if (top(root) / name).exists()] == kept


class TestRecords:
    @pytest.mark.parametrize("path", ["../../x.rpm", "/etc/passwd", "a//b", "x86_64/../../y", ".", "a\0b"])
    def test_paths_in_a_record_stay_below(self, root: Root, path: str) -> None:
        record = top(root) / PLACE / STATE
        assert read_state(record.read_bytes(), where="") is not None
        text = json.loads(record.read_text())
        text["generations"][0]["metadata"] = [{"path": path, "sha256": "0" * 64, "bytes": 1}]
        with pytest.raises(PublishError, match="leads elsewhere"):
            read_state(json.dumps(text).encode(), where="")

    @pytest.mark.parametrize("field", ["image", "model"])
    def test_a_record_is_of_a_folder_below(self, root: Root, field: str) -> None:
        for read, path in ((read_state, f"{PLACE}/{STATE}"), (read_catalogue, CATALOGUE)):
            text = json.loads((top(root) / path).read_text())
            (text if path != CATALOGUE else text["repositories"][0])[field] = ".."
            with pytest.raises(PublishError, match="leads elsewhere"):
                read(json.dumps(text).encode(), where="")

    def test_a_record_of_another_place_is_refused(self, root: Root) -> None:
        record = top(root) / PLACE / STATE
        text = json.loads(record.read_text())
        text["model"] = "R720"
        record.write_text(json.dumps(text))
        with pytest.raises(PublishError, match="state of debian12/R720"):
            root.publish(root.shelf.item("1.1"))

    def test_a_generation_whose_artifacts_are_unknown_is_damaged(self, root: Root) -> None:
        text = json.loads((top(root) / PLACE / STATE).read_text())
        text["artifacts"] = {}
        with pytest.raises(PublishError, match="no record"):
            read_state(json.dumps(text).encode(), where="")

    def test_a_journal_is_about_its_own_repository(self) -> None:
        own = Journal(place="el7/R620", pointers=(), removals=("el7/R620/x86_64/a.rpm",))
        assert Journal.parse(own.text()) == own
        for removals in (("el7/R720/x86_64/a.rpm",), ("repo.json",)):
            assert Journal.parse(Journal(place="el7/R620", pointers=(), removals=removals).text()) is None
