"""Publishing to a folder: generations, what is skipped, refused, kept, rolled back, promoted, and mended."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_packages
from publishing import EPOCH, FakeSigner, Root, Shelf, in_folder, spec

from pikaforge.config.schema import FormatName
from pikaforge.errors import EXIT_PUBLISH, HostError, PublishError
from pikaforge.formats.deb import apt
from pikaforge.formats.rpm import yum
from pikaforge.publish.diff import Item, compare
from pikaforge.publish.promote import promotion
from pikaforge.publish.publisher import Publisher, PublishRequest
from pikaforge.publish.sites import directory
from pikaforge.publish.sites.directory import Directory
from pikaforge.publish.state import CATALOGUE, STATE, STATE_LIMIT, Catalogue, read_catalogue, read_state, text
from pikaforge.publish.transaction import Transaction

PLACE = "debian12/R620"
NAMESPACE = {"r": "http://linux.duke.edu/metadata/repo", "c": "http://linux.duke.edu/metadata/common"}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """An empty root in a folder."""
    return in_folder(tmp_path)


def served(root: Root, place: str = PLACE) -> Path:
    """What a web server would serve."""
    assert isinstance(root.site, Directory)
    return root.site.root / place


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder; symlinks are followed, hidden names are not."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def inside(folder: Path) -> list[str]:
    """Names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def named_by_yum(repository: Path) -> dict[str, str]:
    """Packages as a client finds them: location by name and version; every digest on the way is checked."""
    folder = repository / "x86_64"
    repomd = ET.fromstring((folder / "repodata" / "repomd.xml").read_text())
    found = {}
    for data in repomd.iterfind("r:data", NAMESPACE):
        location = data.find("r:location", NAMESPACE)
        checksum = data.find("r:checksum", NAMESPACE)
        assert location is not None and checksum is not None
        path = folder / location.attrib["href"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum.text
        if data.attrib["type"] == "primary":
            for package in packages_of(path.read_bytes()):
                href, digest, label = package
                assert hashlib.sha256((folder / href).read_bytes()).hexdigest() == digest
                found[label] = href
    return found


def packages_of(primary: bytes) -> Iterator[tuple[str, str, str]]:
    """Location, digest and name-version of the packages in a primary.xml.gz."""
    for package in ET.fromstring(gzip.decompress(primary).decode()).iterfind("c:package", NAMESPACE):
        location, checksum = package.find("c:location", NAMESPACE), package.find("c:checksum", NAMESPACE)
        name, version = package.find("c:name", NAMESPACE), package.find("c:version", NAMESPACE)
        assert location is not None and checksum is not None and name is not None and version is not None
        yield location.attrib["href"], str(checksum.text), f"{name.text}-{version.attrib['ver']}"


def revision(root: Root) -> int:
    """Of the metadata that is served."""
    found = re.search(rb"<revision>(\d+)</revision>", (served(root) / "x86_64/repodata/repomd.xml").read_bytes())
    assert found is not None
    return int(found[1])


class TestGenerations:
    def test_packages_of_all_kinds(self, root: Root) -> None:
        done = root.publish(*(root.shelf.item(format=each) for each in ("rpm", "deb", "tar", "wheel")))
        assert named_by_yum(served(root)) == {"demo-1.0": "demo-1.0-1.x86_64.rpm"}
        names = set(tree(served(root)))
        assert {"x86_64/demo-1.0-1.x86_64.rpm.sbom.json", "tarballs/demo-v1.0.tar.gz", "debs/Release"} <= names
        assert {f"{folder}/SHA256SUMS" for folder in ("x86_64", "debs", "tarballs", "wheels")} <= names
        assert done.transferred == 4 * 3 + 3 + 2
        sums = (served(root) / "tarballs/SHA256SUMS").read_text()
        digest = hashlib.sha256(b"tarball 1.0").hexdigest()
        assert f"{digest}  demo-v1.0.tar.gz\n" in sums
        assert sums.count("\n") == 3
        link = f'<a href="demo-1.0-py3-none-any.whl#sha256={hashlib.sha256(b"wheel 1.0").hexdigest()}">'
        assert link in (served(root) / "wheels/index.html").read_text()

    def test_the_second_time_nothing_is_done(self, root: Root) -> None:
        root.publish(root.shelf.item(), root.shelf.item(format="deb"))
        before = {path: path.stat().st_mtime_ns for path in served(root).parent.parent.rglob("*") if path.is_file()}
        done = root.publish(root.shelf.item(), root.shelf.item(format="deb"))
        after = {path: path.stat().st_mtime_ns for path in served(root).parent.parent.rglob("*") if path.is_file()}
        assert after == before
        assert done.transferred == 0
        assert done.pages == []
        assert all(each.nothing for each in done.diffs)
        assert [artifact.name for each in done.diffs for artifact in each.same] == [
            "demo-1.0-1.x86_64.rpm",
            "demo_1.0-1_amd64.deb",
        ]

    def test_a_web_server_can_read_it_whatever_the_umask(self, root: Root) -> None:
        before = os.umask(0o077)
        try:
            root.publish(root.shelf.item(), root.shelf.item(format="deb"))
        finally:
            os.umask(before)
        top = served(root).parent.parent
        modes = {
            path.lstat().st_mode & 0o777 for path in [top, *top.rglob("*")] if path.is_dir() and not path.is_symlink()
        }
        assert modes == {0o755}
        assert {path.stat().st_mode & 0o777 for path in top.rglob("*") if path.is_file() and path.name != ".lock"} == {
            0o644
        }

    def test_looking_writes_nothing(self, root: Root) -> None:
        done = root.publisher().look(PublishRequest(items=(root.shelf.item(),)))
        assert [put.artifact.path for put in done.diffs[0].placed] == ["x86_64/demo-1.0-1.x86_64.rpm"]
        assert not served(root).parent.parent.exists()

    def test_each_model_has_a_repository_of_its_own(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"), root.shelf.item("1.0", model="R640"), root.shelf.item("1.0", image="el9"))
        assert set(named_by_yum(served(root))) == {"demo-1.0"}
        places = {repository.path for repository in catalogue(root).repositories}
        assert places == {PLACE, "debian12/R640", "el9/R620"}

    def test_the_same_contents_are_the_same_bytes(self, tmp_path: Path) -> None:
        first, second = in_folder(tmp_path / "a"), in_folder(tmp_path / "b")
        for root, order in ((first, 1), (second, -1)):
            items = [root.shelf.item(f"1.{n}", format=kind) for n in range(3) for kind in ("rpm", "deb")][::order]
            root.publish(*items)
        names = [name for name in tree(served(first)) if name != "repository.json"]
        assert {name: tree(served(first))[name] for name in names} == {
            name: tree(served(second))[name] for name in names
        }

    def test_the_date_of_the_metadata_is_that_of_the_newest_source_and_always_grows(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0", epoch=EPOCH))
        assert revision(root) == EPOCH
        root.publish(root.shelf.item("1.1", epoch=EPOCH))
        assert revision(root) == EPOCH + 1
        root.publish(root.shelf.item("1.2", epoch=EPOCH + 100))
        assert revision(root) == EPOCH + 100

    def test_what_is_there_is_known_without_its_file(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        root.publish(root.shelf.item("1.0"))
        read: list[str] = []
        real = yum._read

        def noted(cr: Any, name: str, path: Path) -> Any:
            read.append(name)
            return real(cr, name, path)

        monkeypatch.setattr(yum, "_read", noted)
        root.publish(root.shelf.item("1.1"))
        assert read == ["demo-1.1-1.x86_64.rpm"]
        assert set(named_by_yum(served(root))) == {"demo-1.0", "demo-1.1"}

    def test_old_metadata_stays_while_its_generation_is_kept(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        old = {name for name in tree(served(root)) if "-primary" in name or "by-hash" in name}
        for number in range(1, 5):
            root.publish(root.shelf.item(f"1.{number}"))
            assert old <= set(tree(served(root)))
        root.publish(root.shelf.item("1.5"))
        assert not old & set(tree(served(root)))

    def test_only_two_folders_of_generations_are_left(self, root: Root) -> None:
        for number in range(5):
            root.publish(root.shelf.item(f"1.{number}"))
        assert inside(served(root).parent / ".R620.generations") == ["4", "5"]


class TestSameNames:
    def test_other_bytes_are_refused_and_nothing_changes(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0", content=b"a"), root.shelf.item("1.0", model="R640", content=b"a"))
        before = tree(served(root).parent.parent)
        with pytest.raises(PublishError) as caught:
            root.publish(
                root.shelf.item("2.0"),
                root.shelf.item("1.0", content=b"b"),
                root.shelf.item("1.0", model="R640", content=b"c"),
            )
        assert caught.value.message == "2 packages have other bytes"
        assert "debian12/R640/x86_64/demo-1.0-1.x86_64.rpm is " in caught.value.hint
        assert "--replace" in caught.value.hint
        assert caught.value.exit_code == EXIT_PUBLISH
        assert tree(served(root).parent.parent) == before

    def test_replaced_packages_do_not_break_readers_of_the_old_metadata(self, root: Root) -> None:
        old = root.shelf.item("1.0", content=b"a")
        root.publish(old)
        root.publish(root.shelf.item("1.0", content=b"b"), replace=True)
        assert named_by_yum(served(root)) == {"demo-1.0": "r2/demo-1.0-1.x86_64.rpm"}
        there = (served(root) / "x86_64/demo-1.0-1.x86_64.rpm").read_bytes()
        assert hashlib.sha256(there).hexdigest() == old.artifact.sha256
        assert (served(root) / "x86_64/r2/SHA256SUMS").is_file()

    def test_an_unlisted_package_that_is_kept_is_listed_again(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        root.publish(root.shelf.item("1.1"), keep=1)
        assert set(named_by_yum(served(root))) == {"demo-1.1"}
        done = root.publish(root.shelf.item("1.0"))
        assert done.transferred == 3  # metadata alone
        assert set(named_by_yum(served(root))) == {"demo-1.0", "demo-1.1"}

    def test_a_package_that_is_listed_again_with_a_signature_is_indexed_from_its_own_file(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        root.publish(root.shelf.item("1.1"), keep=1)
        root.publish(root.shelf.item("1.0", signed=True))
        assert set(named_by_yum(served(root))) == {"demo-1.0", "demo-1.1"}

    def test_a_signature_that_comes_later_is_added(self, root: Root) -> None:
        root.publish(root.shelf.item(format="tar"))
        done = root.publish(root.shelf.item(format="tar", signed=True))
        assert (served(root) / "tarballs/demo-v1.0.tar.gz.asc").read_bytes() == b"signature\n"
        assert done.transferred == 1
        assert root.publish(root.shelf.item(format="tar")).transferred == 0

    def test_an_rpm_that_was_signed_once_more_is_the_same(self, root: Root) -> None:
        def signed(content: bytes, body: str) -> Item:
            item = root.shelf.item("1.0", content=content, signed=True)
            return replace(item, artifact=item.artifact.model_copy(update={"body": body}))

        root.publish(signed(b"a", "x"))
        assert root.publish(signed(b"b", "x")).transferred == 0
        with pytest.raises(PublishError):
            root.publish(signed(b"b", "y"))


class TestHistory:
    def test_keep_leaves_the_newest_versions_of_each_package(self, root: Root) -> None:
        for number in range(4):
            root.publish(root.shelf.item(f"1.{number}"), root.shelf.item(f"1.{number}", name="other"), keep=2)
        assert set(named_by_yum(served(root))) == {"demo-1.2", "demo-1.3", "other-1.2", "other-1.3"}

    def test_what_a_kept_generation_names_is_never_removed(self, root: Root) -> None:
        for number in range(6):
            root.publish(root.shelf.item(f"1.{number}"), keep=2)
            state = root.state()
            assert len(state.generations) <= 2
            for file in state.files():
                data = (served(root) / file.path).read_bytes()
                assert hashlib.sha256(data).hexdigest() == file.sha256
        # Generations 5 and 6 name 1.3, 1.4 and 1.5.
        assert {p.name for p in (served(root) / "x86_64").glob("*.rpm")} == {
            f"demo-1.{n}-1.x86_64.rpm" for n in (3, 4, 5)
        }

    def test_a_rollback_is_a_new_generation_with_the_old_contents(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"), root.shelf.item("1.0", format="deb"))
        old = named_by_yum(served(root))
        root.publish(root.shelf.item("1.1"), root.shelf.item("1.1", format="deb"))
        newest = revision(root)
        done = root.rollback()
        assert named_by_yum(served(root)) == old
        assert revision(root) > newest
        assert "demo_1.1" not in (served(root) / "debs/Packages").read_text()
        assert (served(root) / "x86_64/demo-1.1-1.x86_64.rpm").is_file()  # a reader may be at it still
        assert (root.state().current.number, root.state().current.restores) == (3, 1)
        assert done.transferred == 0  # its lists are there under their digests

    def test_rolling_back_again_goes_further_back(self, root: Root) -> None:
        for number in range(3):
            root.publish(root.shelf.item(f"1.{number}"))
        seen = []
        for _ in range(2):
            root.rollback()
            seen.append(set(named_by_yum(served(root))))
        assert seen == [{"demo-1.0", "demo-1.1"}, {"demo-1.0"}]
        with pytest.raises(PublishError, match="no generation before"):
            root.rollback()

    def test_after_a_rollback_and_a_publication_the_rollback_is_what_was_before(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        root.publish(root.shelf.item("1.1"))
        root.rollback()
        root.publish(root.shelf.item("1.2"))
        root.rollback()
        assert set(named_by_yum(served(root))) == {"demo-1.0"}

    def test_there_is_nothing_to_roll_back(self, root: Root) -> None:
        with pytest.raises(PublishError, match="no such repository"):
            root.rollback()

    def test_a_promotion_copies_what_is_there(self, root: Root, tmp_path: Path) -> None:
        root.publish(root.shelf.item("1.0"), root.shelf.item("1.0", format="deb"), root.shelf.item(model="R640"))
        stable = Directory(tmp_path / "stable")
        found = promotion(root.site, lambda artifact: artifact.cell.startswith("R620"))
        publisher = Publisher(site=stable, spec=spec(), url="https://stable.example.org", signer=None, product="demo")
        with found.source() as source:
            done = publisher.publish(PublishRequest(items=found.items), source)
        assert done.transferred == 2 * 3 + 3 + 2
        assert named_by_yum(stable.root / PLACE) == named_by_yum(served(root))
        assert not (stable.root / "debian12/R640").exists()
        with found.source() as source:
            assert publisher.publish(PublishRequest(items=found.items), source).transferred == 0

    def test_what_was_altered_is_not_promoted(self, root: Root, tmp_path: Path) -> None:
        root.publish(root.shelf.item("1.0"))
        with (served(root) / "x86_64/demo-1.0-1.x86_64.rpm").open("ab") as stream:
            stream.write(b"!")
        found = promotion(root.site, lambda _: True)
        publisher = Publisher(
            site=Directory(tmp_path / "stable"), spec=spec(), url="https://s.example.org", signer=None, product="demo"
        )
        with pytest.raises(PublishError, match="digest that it was published with"), found.source() as source:
            publisher.publish(PublishRequest(items=found.items), source)
        assert not (tmp_path / "stable" / "debian12" / "R620").exists()


class TestSigned:
    def test_metadata_and_sums_are_signed(self, root: Root) -> None:
        root.signer = FakeSigner()
        root.publish(root.shelf.item(), root.shelf.item(format="deb"))
        for name in ("x86_64/repodata/repomd.xml", "x86_64/SHA256SUMS", "debs/SHA256SUMS"):
            digest = hashlib.sha256((served(root) / name).read_bytes()).hexdigest()
            assert digest in (served(root) / f"{name}.asc").read_text()
        release = (served(root) / "debs/Release").read_bytes()
        assert (served(root) / "debs/InRelease").read_bytes() == b"signed\n" + release
        assert hashlib.sha256(release).hexdigest() in (served(root) / "debs/Release.gpg").read_text()
        assert "gpgcheck=1" in (served(root).parent / "demo.repo").read_text()
        key = catalogue(root).key
        assert key is not None and (key.path, key.fingerprint) == ("demo.asc", "A" * 40)
        assert (served(root).parent.parent / "demo.asc").read_text() == FakeSigner.public

    def test_what_is_signed_is_not_published_to_without_a_key(self, root: Root) -> None:
        root.signer = FakeSigner()
        root.publish(root.shelf.item("1.0"))
        root.signer = None
        with pytest.raises(PublishError, match="there is no key to sign with") as caught:
            root.publish(root.shelf.item("1.1"))
        assert "A" * 40 in caught.value.hint

    def test_a_new_key_signs_the_metadata_anew_and_stands_beside_the_old_one(self, root: Root) -> None:
        root.publish(root.shelf.item())
        root.signer = FakeSigner()
        assert root.publish(root.shelf.item()).diffs[0].resigned
        second = FakeSigner("B" * 40)
        second.public = FakeSigner.public.replace("AAAA", "BBBB")
        root.signer = second
        root.publish(root.shelf.item())
        assert (served(root) / "x86_64/repodata/repomd.xml.asc").read_text().startswith("B" * 40)
        assert (served(root).parent.parent / "demo.asc").read_text() == FakeSigner.public + second.public
        assert root.publish(root.shelf.item()).diffs[0].nothing

    def test_where_signature_and_metadata_are_switched_one_after_the_other_both_fit_meanwhile(
        self, root: Root, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root.signer = FakeSigner()
        root.publish(root.shelf.item("1.0"))
        changes: list[Transaction] = []
        real = Directory.commit

        def commit(site: Directory, change: Transaction) -> int:
            changes.append(change)
            return real(site, change)

        monkeypatch.setattr(Directory, "commit", commit)
        monkeypatch.setattr(Directory, "stepwise", True)
        old = (served(root) / "x86_64/repodata/repomd.xml").read_bytes()
        root.publish(root.shelf.item("1.1"))
        (change,) = changes
        new = change.pointers["x86_64/repodata/repomd.xml"]
        both = change.transitional["x86_64/repodata/repomd.xml.asc"].decode()
        assert all(hashlib.sha256(data).hexdigest() in both for data in (old, new))
        order = [name for name in change.pointers if "repomd" in name]
        assert order == ["x86_64/repodata/repomd.xml", "x86_64/repodata/repomd.xml.asc"]
        alone = change.pointers["x86_64/repodata/repomd.xml.asc"].decode()
        assert hashlib.sha256(new).hexdigest() in alone and hashlib.sha256(old).hexdigest() not in alone
        assert list(change.pointers)[-1] == "repository.json"

    def test_a_first_signature_is_there_before_what_it_signs(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        root.signer = FakeSigner()
        seen: list[str] = []

        def commit(_: Directory, change: Transaction) -> int:
            seen.extend(change.pointers)
            return 0

        monkeypatch.setattr(Directory, "stepwise", True)
        monkeypatch.setattr(Directory, "commit", commit)
        with suppress(PublishError):
            root.publish(root.shelf.item("1.0"))
        assert [name for name in seen if "repomd" in name] == [
            "x86_64/repodata/repomd.xml.asc",
            "x86_64/repodata/repomd.xml",
        ]


class TestKilled:
    """What a publisher that dies leaves, step by step."""

    @pytest.mark.parametrize("step", ["mkdir", "fill", "rename", "symlink_to", "replace"])
    def test_the_next_one_goes_on(self, root: Root, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        root.publish(root.shelf.item("1.0"))
        before = tree(served(root))

        class Killed(BaseException):
            pass

        def die(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed one removes nothing
            if step == "fill":
                patch.setattr(Directory, "_fill", die)
            elif step == "replace":
                patch.setattr(directory, "_synced", lambda folder: die() if folder == served(root).parent else None)
            else:
                real = getattr(Path, step)
                patch.setattr(
                    Path, step, lambda self, *a, **k: die() if ".generations" in str(self) else real(self, *a, **k)
                )
            root.publish(root.shelf.item("1.1"))
        if step != "replace":
            assert tree(served(root)) == before
        root.publish(root.shelf.item("1.2"))
        assert {"demo-1.0", "demo-1.2"} <= set(named_by_yum(served(root)))
        left = inside(served(root).parent / ".R620.generations")
        assert all(name.isdecimal() for name in left)
        assert len(left) == 2

    def test_pages_that_were_not_written_are_written_by_the_next(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        for name in (CATALOGUE, "index.html"):
            (served(root).parent.parent / name).unlink()
        done = root.publish(root.shelf.item("1.0"))
        assert {CATALOGUE, "index.html"} <= set(done.pages)

    def test_only_folders_of_its_own_are_tidied(self, root: Root) -> None:
        other = served(root).parent / ".cache"
        (other / "7").mkdir(parents=True)
        (other / ".new").mkdir()
        root.publish(root.shelf.item("1.0"))
        assert inside(other) == [".new", "7"]

    def test_something_else_in_the_place_is_left_alone(self, root: Root) -> None:
        served(root).mkdir(parents=True)
        (served(root) / "mine").touch()
        with pytest.raises(PublishError, match="something else where the repository should be"):
            root.publish(root.shelf.item("1.0"))
        assert (served(root) / "mine").exists()

    def test_a_full_disk_changes_nothing(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        root.publish(root.shelf.item("1.0"))
        before = tree(served(root))
        with monkeypatch.context() as patch, pytest.raises(PublishError) as caught:

            def full(_: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "fsync", full)
            root.publish(root.shelf.item("1.1"))
        assert "No space left on device; nothing was changed" in caught.value.message
        assert tree(served(root)) == before
        assert inside(served(root).parent / ".R620.generations") == ["1"]

    def test_a_package_that_changed_meanwhile_is_refused(self, root: Root) -> None:
        item = root.shelf.item("1.0", format="tar")
        root.shelf.sources[PLACE, item.artifact.path].write_bytes(b"other")
        with pytest.raises(PublishError, match="does not have the digest"):
            root.publish(item)
        assert not served(root).exists()

    def test_a_file_system_without_hard_links_gets_copies(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        def cannot(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", cannot)
        root.publish(root.shelf.item("1.0"))
        root.publish(root.shelf.item("1.1"))
        assert set(named_by_yum(served(root))) == {"demo-1.0", "demo-1.1"}


class TestDamaged:
    def test_a_state_that_cannot_be_read_is_not_overwritten(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        (served(root) / "repository.json").write_text("{")
        with pytest.raises(PublishError, match="cannot be read") as caught:
            root.publish(root.shelf.item("1.1"))
        assert "repository.json" in caught.value.where
        assert (served(root) / "repository.json").read_text() == "{"

    @pytest.mark.parametrize("name", [f"{PLACE}/{STATE}", CATALOGUE])
    def test_a_state_that_is_too_large_is_not_read_whole(self, root: Root, name: str) -> None:
        root.publish(root.shelf.item())
        file = served(root, "") / name
        with file.open("r+b") as stream:
            stream.truncate(STATE_LIMIT + 1)
        with pytest.raises(PublishError, match="the file is larger than 64 MiB") as caught:
            root.publish(root.shelf.item("1.1"))
        assert caught.value.where == str(file)

    def test_metadata_that_was_altered_is_not_built_on(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        (primary,) = (served(root) / "x86_64/repodata").glob("*-primary.xml.gz")
        primary.write_bytes(b"other")
        with pytest.raises(PublishError, match="a metadata file is missing or altered"):
            root.publish(root.shelf.item("1.1"))

    @pytest.mark.parametrize("other", [False, True], ids=["a place that is made anew", "another place"])
    def test_of_the_catalogue_counts_what_is_taken_over(self, root: Root, other: bool) -> None:
        """The entry of a repository that is published to comes from its state, and is made anew."""
        root.publish(root.shelf.item("1.0"), root.shelf.item("1.0", model="R720"))
        file = served(root, CATALOGUE)
        found = json.loads(file.read_text())
        found["repositories"][int(other)]["artifacts"][0]["sha256"] = 5
        file.write_text(json.dumps(found))
        if other:
            with pytest.raises(PublishError, match=r"repositories\.1\.artifacts\.0\.sha256"):
                root.publish(root.shelf.item("1.1"))
        else:
            root.publish(root.shelf.item("1.1"))
        good = {artifact.version for artifact in root.state().listed()}
        assert good == ({"1.0-1"} if other else {"1.0-1", "1.1-1"})
        if not other:
            assert [len(each.artifacts) for each in catalogue(root).repositories] == [2, 1]

    def test_another_product_has_another_root(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        publisher = Publisher(site=root.site, spec=spec(), url="https://e.example.org", signer=None, product="else")
        with pytest.raises(PublishError, match="this is a repository of demo, not of else"):
            publisher.look(PublishRequest(items=(root.shelf.item("1.1"),)))

    def test_what_is_no_package_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.rpm").write_bytes(b"no package")
        with pytest.raises(PublishError, match="this is no RPM"):
            yum.metadata({"x.rpm": tmp_path / "x.rpm"}, {}, revision=1)
        with pytest.raises(PublishError, match="the DEB cannot be read"):
            apt.metadata({"x.deb": tmp_path / "x.rpm"}, b"", revision=1, origin="o", label="l")

    def test_metadata_that_does_not_know_what_it_should(self, tmp_path: Path) -> None:
        (tmp_path / "x.rpm").write_bytes(small_packages.rpm())
        files, _ = yum.metadata({"x.rpm": tmp_path / "x.rpm"}, {}, revision=1)
        with pytest.raises(PublishError, match=r"does not know y\.rpm"):
            yum.metadata({"y.rpm": None}, files, revision=1)
        with pytest.raises(PublishError, match=r"does not know y\.deb"):
            apt.metadata({"y.deb": None}, b"", revision=1, origin="o", label="l")


class TestMissing:
    """What makes metadata of a kind cannot be imported."""

    @pytest.mark.parametrize(("made_by", "kind"), [("rpm.yum", "rpm"), ("deb.apt", "deb")])
    def test_it_is_said_before_anything_is_written(
        self, root: Root, made_by: str, kind: FormatName, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = root.shelf.item("1.0", format=kind)
        root.publish(there)
        monkeypatch.setattr(f"pikaforge.formats.{made_by}.library", missing)
        before = tree(served(root, ""))
        # The first place comes before the one with the package that needs it.
        new = (root.shelf.item("1.0", format="tar", image="debian11"), root.shelf.item("1.1", format=kind))
        for do in (root.publisher().look, lambda request: root.publish(*request.items)):
            do(PublishRequest(items=(there,)))  # nothing is to be made
            with pytest.raises(HostError, match="it is missing"):
                do(PublishRequest(items=new))
            assert tree(served(root, "")) == before
        with pytest.raises(HostError, match="it is missing"):
            root.publish(root.shelf.item("2.0", format="tar"))  # beside it, in the same generation

    @pytest.mark.parametrize("kind", ["rpm", "deb", "tar", "wheel"])
    def test_who_does_not_need_it_can_do_without(
        self, root: Root, kind: FormatName, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for made_by, of in (("rpm.yum", "rpm"), ("deb.apt", "deb")):
            if of != kind:
                monkeypatch.setattr(f"pikaforge.formats.{made_by}.library", missing)
        assert root.publish(root.shelf.item("1.0", format=kind)).transferred


def missing() -> None:
    """Stands for an import that fails."""
    raise HostError("it is missing")


class TestRecords:
    def test_a_state_comes_back_as_it_was(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"), root.shelf.item("1.0", format="deb", signed=True))
        root.publish(root.shelf.item("1.1"))
        root.rollback()
        state = root.state()
        assert read_state(text(state), where="x") == state
        assert read_catalogue(text(catalogue(root)), where="x") == catalogue(root)

    def test_the_catalogue_tells_what_is_listed(self, root: Root) -> None:
        root.publish(root.shelf.item("1.0"))
        root.publish(root.shelf.item("1.1"), keep=1)
        (repository,) = catalogue(root).repositories
        assert [artifact.version for artifact in repository.artifacts] == ["1.1-1"]
        assert (repository.path, repository.generation) == (PLACE, 2)


def catalogue(root: Root) -> Catalogue:
    """What the root says that it offers."""
    found = read_catalogue(root.site.read(CATALOGUE), where="root")
    assert found is not None
    return found


def test_nothing_is_to_do_for_what_is_there(tmp_path: Path) -> None:
    item = Shelf(tmp_path).item("1.0")
    fresh = compare([item], None, key="")
    assert not fresh.nothing
    assert fresh.number == 1
