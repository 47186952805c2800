"""Full disks beyond those of stages: the shared store, kept answers, the compiler cache, and what is published.

Stages are in test_survive_engine.py; images, downloads, git and single jobs in test_full_disk.py. See docs/survival.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import thorough
from integration.conftest import make_tiny
from own_engine import fill, small_disk
from survival import LIMIT, TRACE, Survivor, digests

from pikaforge.host.store import sha256

if TYPE_CHECKING:
    from conftest import Project

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("survival"), pytest.mark.long(120)]

WHOLE = thorough.whole("survival")
PAGE = 4096


def rooms(*choices: int) -> list[int]:
    return thorough.one_of("survival", choices)


def unattested(files: Mapping[str, str]) -> dict[str, str]:
    """All but the provenance, which names the store of what was taken from it, and the sums with its digest."""
    return {name: digest for name, digest in files.items() if not name.endswith((".intoto.json", "SHA256SUMS"))}


def test_the_shared_store_is_full(survivor: Survivor) -> None:
    """The build is as without one; what is there is whole; the next one puts there what there was no room for."""
    seen = []
    for room in rooms(0, PAGE, 10 * PAGE, 40 * PAGE):
        with small_disk("16m") as disk:
            env = {"PIKAFORGE_STORE": str(disk)}
            filler = fill(disk, leave=room)
            survivor.begin_anew()
            status, text = survivor.run(env=env)
            assert (status, TRACE in text) == (0, False), text
            assert f"the shared store {disk}: " in text and "No space left on device" in text, text
            survivor.as_ever(text)
            assert list(disk.glob(".beside/*")) == [], text
            filler.unlink()
            put = len(list((disk / "results").glob("*/*")))
            survivor.begin_anew()
            status, text = survivor.run(env=env)
            assert status == 0, text
            assert "is not taken" not in text
            assert "No space left" not in text
            assert len(list((disk / "results").glob("*/*"))) > put
            assert unattested(digests(survivor.project.dist)) == unattested(survivor.bytes), text
            seen.append((room, put))
    print(f"disk of the shared store: (room, results that were put there) {seen}; the same bytes each time")


def test_answers_for_which_there_is_no_room(survivor: Survivor) -> None:
    """A build with nothing to do says so, or that the disk is full; it keeps no half answer."""
    project, large = survivor.project, survivor.project.out
    survivor.begin_anew()
    status, text = survivor.run()
    assert status == 0, text
    seen = []
    with small_disk("96m") as disk:
        shutil.copytree(large, disk / "out", dirs_exist_ok=True)
        project.out = disk / "out"
        try:
            for room in rooms(0, PAGE, 3 * PAGE, 20 * PAGE):
                shutil.rmtree(project.out / "answers", ignore_errors=True)
                filler = fill(disk, leave=room)
                for _ in range(2):
                    status, text = survivor.run()
                    assert TRACE not in text, text
                    said = "everything is up to date" if status == 0 else f"no space left in {disk}/out"
                    assert (status in (0, 3), said in text) == (True, True), text
                    assert [each for each in survivor.left() if "/.git/" not in each] == [], text
                seen.append((room, status))
                filler.unlink()
                status, text = survivor.run()
                assert (status, "everything is up to date" in text) == (0, True), text
                survivor.as_ever(text)
        finally:
            project.out = large
    print(f"disk of the kept answers: (room, exit status) {seen}")


def test_a_compiler_cache_for_which_there_is_no_room(survivor: Survivor) -> None:
    """The engine has it on its disk. The next build uses what is whole of it."""
    island, words = survivor.island, survivor.words
    assert island is not None
    survivor.words = ("R620",)
    packages = {name: digest for name, digest in survivor.bytes.items() if name.endswith(".tar.gz")}
    seen = []
    try:
        for room in rooms(0, 40 * PAGE, 100 * PAGE):
            survivor.begin_anew()
            status, text = survivor.run()
            assert status == 0, text
            survivor.forget("compile", "audit", "smoke", "package")
            filler = fill(island.engine.folder, leave=room)
            status, text = survivor.run()
            filler.unlink()
            assert (status in (0, 3), TRACE in text) == (True, False), text
            assert status == 0 or "no space left" in text, text
            seen.append((room, status))
            survivor.forget("compile")
            status, text = survivor.run()
            assert status == 0, text
            assert {n: d for n, d in digests(survivor.project.dist).items() if n in packages} == packages, text
    finally:
        survivor.words = words
        with island.client() as client:
            for volume in client.volumes.list():
                volume.remove()
    print(f"disk of the compiler cache: (room, exit status) {seen}; the same packages each time")


def packages(folder: Path) -> list[str]:
    """Names and digests of the tarballs below a folder."""
    found = (Path(top) / name for top, _, files in os.walk(folder) for name in files if name.endswith(".tar.gz"))
    return sorted(f"{path.name} {sha256(path)}" for path in found)


def test_what_is_published_has_no_room(ready: Project) -> None:
    """From none on, more each time: a repository is there whole, or not at all."""
    make_tiny(ready)
    ready.build("R620", check=0, timeout=LIMIT)
    with small_disk("16m") as disk:
        root = disk / "root"
        ready.change(lambda matrix: matrix["publish"]["staging"].update(path=str(root)))
        publish = ("publish", "R620", "--to", "staging", "--yes", *ready.places)
        room, seen = 0, []
        while True:
            filler = fill(disk, leave=room)
            done = ready.tool(*publish, check=None)
            filler.unlink()
            assert TRACE not in done.text
            seen.append((room, done.returncode))
            if done.returncode == 0:
                break
            assert "No space left" in done.text or "no space left" in done.text, done.text
            # A repository is there whole or not at all, and the error says which; the files about all come behind it.
            served = root / "debian12" / "R620"
            assert served.exists() == ("nothing was changed" not in done.text), done.text
            assert not served.exists() or packages(served) == packages(ready.dist)
            assert not served.exists() or "publish again to finish" in done.text, done.text
            room = 4 * room if room and not WHOLE else 2 * room or PAGE
        ready.tool(*publish, check=0)
        assert packages(root) == packages(ready.dist), "once, in one generation"
        assert (root / "repo.json").is_file()
    print(f"disk of what is published: (room, exit status) {seen}, then whole")
