"""Allocators through the whole pipeline: gperftools from Debian's own sources, and what must not pass."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.builds import reported

from pikaforge.audit.elf.facts import read_facts
from pikaforge.config.package_files import members

if TYPE_CHECKING:
    from conftest import Project, Shared

    from .conftest import Shop

# One worker, so that each library is built once.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("allocators"), pytest.mark.long(120)]

UNUSED = "Compiled, but tcmalloc not used"
NOWHERE = "http://127.0.0.1:9/gperftools-2.10.tar.gz"
LINKED = 'gcc() { command gcc "$@" -Wl,--no-as-needed -ltcmalloc; }'
"""Lines for a recipe whose gcc then links with the image's tcmalloc."""


@pytest.fixture(scope="module")
def tarball(gperftools: Path) -> Path:
    """gperftools 2.10."""
    return gperftools


def pinned(tarball: Path, **more: str) -> Callable[[dict[str, Any]], None]:
    """Take this tarball for the pinned one."""

    def edit(matrix: dict[str, Any]) -> None:
        entry = {"version": "2.10", "url": tarball.as_uri(), "sha256": hashlib.sha256(tarball.read_bytes()).hexdigest()}
        matrix["tarballs"]["gperftools-2.7"] = {**entry, **more}

    return edit


@pytest.fixture
def made(shop: Shop, shared: Shared, new_project: Callable[[Path], Project], tarball: Path, way: str) -> Project:
    """R620 with gperftools in one way, which is the test's parameter; once for all workers."""
    with shared.once(f"allocators-{way}") as folder:
        if folder is not None:
            project = shop.ready(folder)
            shop.take(project, "source")
            project.change(pinned(tarball))
            project.build(f"R620-debian12-{way}", "--formats", "tar,rpm", check=0)
    return new_project(shared.folder / f"allocators-{way}")


def cells(project: Project) -> dict[str, dict[str, Any]]:
    """The report's cells by allocator."""
    return {cell["allocator"]: cell for cell in reported(project.dist)}


@pytest.mark.parametrize(("way", "method"), [("libunwind", "libunwind"), ("frame-pointers", "generic_fp")])
def test_the_library_is_ours_and_serves_the_memory(made: Project, tmp_path: Path, way: str, method: str) -> None:
    cell = cells(made)[way]
    assert (cell["status"], cell["audit"]["passed"]) == ("done", True)
    built = cell["manifest"]["allocator"]
    assert (built["kind"], built["version"], built["library"]) == ("gperftools", "2.10", "lib/libtcmalloc.so.4")
    assert (built["built"]["asked"], built["built"]["chosen"], built["built"]["method"]) == (way, way, method)
    assert built["unwinder"] == ("libunwind" if way == "libunwind" else "none")
    checks = {check["name"]: check for check in cell["native"]["checks"]}
    assert {"allocator", "tcmalloc-stats", "allocator-load"} <= {name for name, c in checks.items() if c["passed"]}
    assert re.search(r"tcmalloc served [4-9]\d*[.]\d MiB", checks["allocator-load"]["note"])
    # Every unit of it was compiled for the target, and so says its debug information, found by build id.
    units = [unit for unit in cell["audit"]["units"] if unit["file"] == "lib/libtcmalloc.so.4"]
    assert {unit["march"] for unit in units} == {"sandybridge"}
    artifact = cell["artifacts"][0]
    assert artifact["path"] == f"debian12/pika-v3.4.0-R620-{way}.tar.gz"
    with tarfile.open(made.dist / artifact["path"]) as tar:
        tar.extractall(tmp_path, filter="tar")  # ours
    server, library = (read_facts(tmp_path / "pika" / name) for name in ("bin/pika", "lib/libtcmalloc.so.4"))
    assert "libtcmalloc.so.4" in server.needed
    assert server.runpath == ("$ORIGIN/../lib",)
    assert ("libunwind.so.8" in library.needed) is (way == "libunwind")


@pytest.mark.parametrize("way", ["libunwind", "frame-pointers"])
def test_the_library_is_also_a_package_of_its_own(made: Project, way: str) -> None:
    release = f"2.10-1.{way.replace('-', '+')}.sandybridge.debian12.x86_64.rpm"
    found = [a["path"] for a in cells(made)[way]["artifacts"] if a["role"] == "allocator"]
    assert found == [f"debian12/pika-gperftools-{part}-{release}" for part in ("libs", "devel")]
    libs, devel = ({m.name for m in members(made.dist / path)} for path in found)
    # Where no loader looks by itself, so nothing takes it for the distribution's.
    assert {name for name in libs | devel if not name.startswith("opt/pika-gperftools")} == set()
    assert "opt/pika-gperftools/lib/libtcmalloc.so.4" in libs
    assert not any("minimal" in name for name in libs | devel)
    assert {"opt/pika-gperftools/include/gperftools/tcmalloc.h", "opt/pika-gperftools/lib/libtcmalloc.so"} <= devel


@pytest.mark.parametrize("way", ["libunwind", "frame-pointers"])
def test_the_second_run_does_nothing(made: Project, way: str) -> None:
    again = made.build(f"R620-debian12-{way}", "--formats", "tar,rpm", check=0)
    assert "everything is up to date" in again.stdout.splitlines()
    assert not again.lines(r"\.\.\.$")


@pytest.mark.parametrize("way", ["libunwind"])
def test_what_is_built_but_not_used_is_refused(
    made: Project, ready: Project, shop: Shop, tarball: Path, way: str
) -> None:
    shop.take(ready, "source")
    [key] = [path.name for path in (made.out / "store" / "allocator").iterdir()]
    (ready.out / "store" / "allocator").mkdir(parents=True)
    (ready.out / "store" / "allocator" / key).symlink_to(made.out / "store" / "allocator" / key)
    ready.change(pinned(tarball))
    text = ready.recipe.read_text(encoding="utf-8")
    own = re.compile(r"(\n    own\)\n)(.*?)(\n        ;;\n)", re.DOTALL)
    assert len(own.findall(text)) == 1
    ready.recipe.write_text(own.sub(r"\1        tcmalloc_link=\n        tcmalloc_define=\3", text), encoding="utf-8")
    done = ready.build("R620", "--allocator", way, check=4)
    assert f"  reason: bin/pika: {UNUSED}: it needs no libtcmalloc.so" in done.stdout
    assert done.lines(rf"  reason: check allocator: {UNUSED}: /proc/PID/maps shows no libtcmalloc[.]so$")
    assert done.lines("  reason: check tcmalloc-stats: ")
    assert done.lines(rf"  reason: check allocator-load: .*{UNUSED}")
    assert ready.stored("audit") == {}
    assert not list(ready.dist.rglob("*.tar.gz"))


@pytest.mark.parametrize("allocator", ["system", "none"])
def test_the_images_own_library(tiny: Callable[..., Project], allocator: str) -> None:
    """It travels in the tree and is seen at run time; where none was asked for, it is refused in both places."""
    project = tiny(prologue=LINKED)
    done = project.build("R620", "--allocator", allocator)
    if allocator == "system":
        assert done.returncode == 0, done.text
        cell = cells(project)["system"]
        assert cell["manifest"]["allocator"]["library"] == "lib/libtcmalloc.so.4"
        assert "allocator" in cell["manifest"]["checks"]
        return
    assert done.returncode == 4, done.text
    assert "cannot find -ltcmalloc" in done.stdout, "its image has no library of another allocator"


def test_a_local_file_serves_without_network(tiny: Callable[..., Project], tarball: Path, tmp_path: Path) -> None:
    project = tiny()
    project.change(pinned(tarball, url=NOWHERE))
    done = project.build("R620", "--allocator", "frame-pointers", check=3)
    refused = "\n".join(done.lines("error: |hint: "))
    assert (
        "cannot download gperftools-2.10.tar.gz: http://127.0.0.1:9/gperftools-2.10.tar.gz cannot be reached" in refused
    )
    assert "--gperftools FILE" in refused
    local = tmp_path / "mine.tar.gz"
    local.write_bytes(tarball.read_bytes())
    done = project.build("R620", "--allocator", "frame-pointers", "--gperftools", local, check=4)
    assert done.lines("^allocator debian12-sandybridge-frame-pointers done in ")
    assert UNUSED in done.stdout, "the tiny product is not linked with it"
    assert len(project.stored("allocator")) == 1


def test_another_file_than_the_pinned_one_is_refused(
    tiny: Callable[..., Project], tarball: Path, tmp_path: Path
) -> None:
    project, wrong = tiny(), "0" * 64
    project.change(pinned(tarball, sha256=wrong))
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    options: tuple[tuple[str | Path, ...], ...] = ((), ("--gperftools", tarball))
    for option in options:
        done = project.build("R620", "--allocator", "libunwind", *option)
        assert done.returncode in (2, 3), done.text
        assert wrong in done.text
        assert found in done.text
        kept = [path.name for path in (project.out / "downloads").iterdir() if not path.name.startswith(".")]
        assert kept == []
    assert project.stored("allocator") == {}
    assert tarball.is_file()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "2.6.1"}, r"gperftools 2\.6\.1 is older than 2\.6\.2: .*Attempt to free invalid pointer"),
        (
            {"version": "2.10", "gcc": "4.7.2"},
            r"gperftools 2\.10 needs a compiler with C\+\+11.*debian12 has gcc 4\.7\.2",
        ),
        ({"version": "2.16", "gcc": "6.3"}, r"gperftools 2\.16 needs a compiler with C\+\+17.*debian12 has gcc 6\.3"),
    ],
    ids=["too old for the product", "C++11", "C++17"],
)
def test_known_bad_pairs_are_refused_before_anything_starts(
    project: Project, changes: dict[str, str], why: str
) -> None:
    def edit(matrix: dict[str, Any]) -> None:
        matrix["tarballs"]["gperftools-2.7"]["version"] = changes["version"]
        matrix["images"]["debian12"]["gcc"] = changes.get("gcc", "12.2")

    project.change(edit)
    done = project.build("R620", "--allocator", "libunwind", check=2)
    assert "cells cannot be built; nothing was started" in done.stderr
    assert re.search(why, done.stderr), done.text
    assert not project.out.exists() or not list(project.out.rglob("*.log"))
    planned = project.tool(*project.arguments("plan", "R620", "--allocator", "libunwind"))
    assert planned.returncode == 2
    assert re.search(why, planned.stdout)


def test_the_image_with_the_aborting_package_is_left_out(project: Project) -> None:
    done = project.tool("build", "R620", "--os", "el7", "--allocator", "system", "--matrix", project.matrix, check=2)
    assert "Attempt to free invalid pointer" in done.stderr
