"""sources.lock: written on first use, enforced afterwards, refreshed on demand."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Done, Project
    from integration.conftest import Git, Web

pytestmark = pytest.mark.engine

PULLS = (988, 990)


@pytest.fixture
def factory(sample_repositories: Path, tmp_path: Path) -> Path:
    """The sample's repositories, to be changed."""
    folder = tmp_path / "factory"
    shutil.copytree(sample_repositories, folder)
    return folder


class Pinned:
    """A project whose source and patches come from a server of the test's own."""

    def __init__(self, project: Project, site: Web) -> None:
        self.project = project
        self.site = site
        self.url = f"{site.url}/pika.git"
        self.entry = f"{self.url}#v3.4.0"
        project.series(*(project.pull(number, f"{site.url}/pull") for number in PULLS))

    def run(self, verb: str = "patches", *args: str, check: int | None = None) -> Done:
        """Run a verb with that source; `patches` is the source stage alone."""
        words = ("patches", "check", *args) if verb == "patches" else (verb, *args)
        return self.project.tool(*self.project.arguments(words[0], *words[1:], source=self.url, image=""), check=check)

    def pins(self) -> dict[str, str]:
        """The source's pins."""
        return self.project.pins("sources").get(self.entry, {})

    def forget_what_was_fetched(self) -> None:
        """As on another machine, to which only sources.lock went."""
        for name in ("store/source", "downloads", "git"):
            shutil.rmtree(self.project.out / name, ignore_errors=True)

    def move_tag(self, git: Git) -> tuple[str, str]:
        """Upstream moves the tag; the old and the new commit."""
        repository = self.site.folder / "pika.git"
        old = git("rev-parse", "v3.4.0^{commit}", cwd=repository)
        new = git("commit-tree", "-p", old, "-m", "Release 3.4.0, again", f"{old}^{{tree}}", cwd=repository)
        git("tag", "--force", "v3.4.0", new, cwd=repository)
        git("update-server-info", cwd=repository)
        return old, new


@pytest.fixture
def pinned(ready: Project, factory: Path, web: Callable[[Path], Web]) -> Pinned:
    """Nothing is pinned but the images."""
    return Pinned(ready, web(factory))


def test_first_use_pins_everything_and_says_so(pinned: Pinned, git: Git, factory: Path) -> None:
    done = pinned.run(check=0)
    commit = git("rev-parse", "v3.4.0^{commit}", cwd=factory / "pika.git")
    links = {
        name: git("ls-tree", commit, f"third/{name}", cwd=factory / "pika.git").split()[2]
        for name in ("pink", "rocksdb")
    }
    digests = {number: hashlib.sha256((factory / f"pull/{number}.patch").read_bytes()).hexdigest() for number in PULLS}
    wanted = {
        "commit": commit,
        **{f"patch pull-{number}": digest for number, digest in digests.items()},
        **{f"submodule third/{name}": link for name, link in links.items()},
    }
    assert pinned.pins() == wanted
    for pin, value in wanted.items():
        assert f"note: sources.lock: {pinned.entry}: {pin} pinned to {value}" in done.stdout.splitlines()
    body = json.loads(pinned.project.lock_path.read_text(encoding="utf-8"))
    assert body["version"] == 1
    again = pinned.run(check=0)
    assert "sources.lock" not in again.text


def test_moved_tag_is_not_followed(pinned: Pinned, git: Git) -> None:
    """The pinned commit is built, though the tag is another one now."""
    pinned.run(check=0)
    old, new = pinned.move_tag(git)
    before = pinned.pins()
    pinned.forget_what_was_fetched()
    pinned.run(check=0)
    (record,) = pinned.project.stored("source").values()
    assert record["facts"]["commit"] == old != new
    assert pinned.pins() == before


def test_moved_tag_of_a_local_repository_is_refused(ready: Project, git: Git, factory: Path) -> None:
    """Looking costs nothing there, so a difference is seen, and named with both commits."""
    ready.series()
    source = factory / "pika.git"
    ready.tool(*ready.arguments("patches", "check", source=source, image=""), check=0)
    old = git("rev-parse", "v3.4.0^{commit}", cwd=source)
    new = git("commit-tree", "-p", old, "-m", "again", f"{old}^{{tree}}", cwd=source)
    git("tag", "--force", "v3.4.0", new, cwd=source)
    before = ready.lock_path.read_bytes()
    done = ready.build("R620", source=source)
    assert done.returncode == 2, done.text
    assert f"error: commit of {source}#v3.4.0 has changed: sources.lock says {old}, it is {new} now" in done.stderr
    assert f"  where: {ready.lock_path}" in done.stderr
    assert "invoke lock" in done.stderr
    assert ready.lock_path.read_bytes() == before


def test_changed_patch_is_refused(pinned: Pinned, factory: Path) -> None:
    pinned.run(check=0)
    patch = factory / "pull" / "990.patch"
    old = hashlib.sha256(patch.read_bytes()).hexdigest()
    patch.write_bytes(patch.read_bytes().replace(b"[PATCH]", b"[PATCH v2]"))
    new = hashlib.sha256(patch.read_bytes()).hexdigest()
    assert old != new
    pinned.run(check=0)  # what was fetched is as pinned, and nobody asks again
    pinned.forget_what_was_fetched()
    done = pinned.run()
    assert done.returncode == 2, done.text
    assert f"patch pull-990 of {pinned.entry} has changed: sources.lock says {old}, it is {new} now" in done.text
    assert pinned.pins()["patch pull-990"] == old
    assert pinned.project.stored("source") == {}


def test_locked_refuses_what_is_not_pinned(pinned: Pinned) -> None:
    before = pinned.project.lock_path.read_bytes()
    done = pinned.run("build", "R620", "--os", "debian12", "--locked")
    assert done.returncode == 2, done.text
    assert f"error: --locked: commit of {pinned.entry} is not pinned (it is " in done.stderr
    assert "run once without --locked, or `invoke lock`, and commit sources.lock" in done.stderr
    assert "..." not in done.stdout, "nothing was started"
    assert pinned.project.lock_path.read_bytes() == before


def test_locked_is_content_after_a_first_run(pinned: Pinned) -> None:
    pinned.run(check=0)
    before = pinned.project.lock_path.read_bytes()
    pinned.forget_what_was_fetched()
    pinned.run("patches", "--locked", check=0)
    assert pinned.project.lock_path.read_bytes() == before


def test_locked_refuses_a_branch(pinned: Pinned, git: Git, factory: Path) -> None:
    head = git("rev-parse", "pull-988", cwd=factory / "pika.git")
    pinned.url += "#pull-988"
    done = pinned.run("build", "R620", "--os", "debian12", "--locked")
    assert done.returncode == 2, done.text
    assert "is a branch, which cannot be pinned" in done.stderr
    assert f"name the commit: --source {pinned.site.url}/pika.git#{head}" in done.stderr


def test_lock_shows_the_difference_and_updates(pinned: Pinned, git: Git, factory: Path) -> None:
    pinned.run(check=0)
    before = pinned.pins()
    assert pinned.run("lock", check=0).stdout.strip() == "sources.lock: nothing changed"
    old, new = pinned.move_tag(git)
    patch = factory / "pull" / "988.patch"
    patch.write_bytes(patch.read_bytes().replace(b"[PATCH]", b"[PATCH v2]"))
    digest = hashlib.sha256(patch.read_bytes()).hexdigest()
    done = pinned.run("lock", check=0)
    assert done.stdout.splitlines() == [
        f"sources.lock: {pinned.entry}: commit {old} -> {new}",
        f"sources.lock: {pinned.entry}: patch pull-988 {before['patch pull-988']} -> {digest}",
    ]
    assert pinned.pins() == {**before, "commit": new, "patch pull-988": digest}
    pinned.forget_what_was_fetched()
    pinned.run("patches", "--locked", check=0)
    (record,) = pinned.project.stored("source").values()
    assert record["facts"]["commit"] == new


def test_lock_that_cannot_be_read(pinned: Pinned) -> None:
    pinned.project.lock_path.write_text("{half")
    done = pinned.run("build", "R620", "--os", "debian12")
    assert done.returncode == 2, done.text
    assert "error: sources.lock cannot be read: " in done.stderr
    assert "restore it from version control, or remove it to pin anew" in done.stderr
    assert pinned.project.lock_path.read_text() == "{half"


def test_sample_needs_no_pin(ready: Project) -> None:
    before = ready.lock_path.read_bytes()
    ready.tool(*ready.arguments("patches", "check", "--locked", image=""), check=0)
    assert ready.lock_path.read_bytes() == before
