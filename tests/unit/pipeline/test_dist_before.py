"""SHA256SUMS of a folder, where the run is about some of the cells whose packages are there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.dist_folders import cell, write_dist

from pikaforge.attest.describe import SUMS
from pikaforge.errors import HostError
from pikaforge.pipeline.dist_before import Before
from pikaforge.pipeline.dist_folder import descriptions, listed, write_sums

OWN, OTHER, THIRD = "R620-debian12-none", "R720-debian12-none", "R730-debian12-none"
DAMAGED = "does not say what is there, and is written again"
UNLISTED = "does not list what describes the packages of"


def package(folder: Path, model: str) -> Path:
    return folder / f"demo-v1.0-{model}.tar.gz"


def digests(folder: Path, *models: str) -> dict[str, str]:
    """Of packages and what describes them."""
    files = [f for m in models for f in (package(folder, m), *descriptions(package(folder, m)))]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With packages of three cells, and SHA256SUMS that is right."""
    write_dist(tmp_path, *map(cell, (OWN, OTHER, THIRD)))
    folder = tmp_path / "debian12"
    for model in ("R620", "R720", "R730"):
        for file in descriptions(package(folder, model)):
            file.write_text(f"{{}} of {model}")
    write_sums(folder, digests(folder, "R620", "R720", "R730"))
    return folder


def build(folder: Path) -> list[str]:
    """What a build of R620 says, that finds nothing to do; it writes SHA256SUMS."""
    before = Before.of(folder.parent, "demo")
    own = digests(folder, "R620")
    write_sums(folder, {**own, **before.compare_sums(folder, own, set())})
    before.look_for_others({OWN})
    return [notice.removeprefix(f"{folder / SUMS} ") for notice in before.notices]


def test_nothing_is_said_where_nothing_has_changed(folder: Path) -> None:
    whole = (folder / SUMS).read_bytes()
    assert build(folder) == []
    assert (folder / SUMS).read_bytes() == whole


def edited(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Change SHA256SUMS."""

    def edit(folder: Path) -> None:
        path = folder / SUMS
        with path.open(newline="") as stream:
            text = stream.read()
        path.write_bytes(change(text).encode())

    return edit


def of(folder: str, text: str) -> str:
    """The line of a package."""
    return next(line for line in text.splitlines(keepends=True) if line.endswith(f"  {folder}\n"))


LINE = "demo-v1.0-R720.tar.gz"
EDITS: dict[str, Callable[[str], str]] = {
    "another digest": lambda text: text.replace(of(LINE, text), f"{'0' * 64}  {LINE}\n"),
    "no line": lambda text: text.replace(of(LINE, text), ""),
    "a second line": lambda text: f"{text}{'0' * 64}  {LINE}\n",
    "a line that leads out": lambda text: f"{text}{'0' * 64}  ../report.json\n",
    "a path from the root": lambda text: f"{text}{'0' * 64}  /etc/passwd\n",
    "a hidden name": lambda text: f"{text}{'0' * 64}  ..\n",
    "control characters": lambda text: f"{text}{'0' * 64}  a\x1b]0;x\x07b\n",
    "no digest": lambda text: f"{text}abc\n",
    "a torn end": lambda text: f"{text}{'0' * 20}",
    "a zero byte": lambda text: f"{text}\0\n",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_line_is_said_and_mended(edit: Callable[[str], str], folder: Path) -> None:
    """The report has the digests of all packages, also of cells that the run is not about."""
    (folder / "a\x1b]0;x\x07b").write_text("")
    whole = (folder / SUMS).read_bytes()
    edited(edit)(folder)
    assert (folder / SUMS).read_bytes() != whole
    assert build(folder) == [DAMAGED]
    assert (folder / SUMS).read_bytes() == whole


@pytest.mark.parametrize("how", ["gone", "empty", "cut"])
def test_digests_that_are_lost(how: str, folder: Path) -> None:
    """Those of packages are in the report. What describes them is not vouched for: a build of the cell makes it."""
    path = folder / SUMS
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_text("")
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 3])
    said = build(folder)
    assert said == [DAMAGED, f"{UNLISTED} {OTHER}, {THIRD}: a build of these cells lists it again"]
    every = digests(folder, "R620", "R720", "R730")
    assert listed(folder).digests == {
        name: digest for name, digest in every.items() if "R620" in name or name.endswith(".tar.gz")
    }
    assert build(folder) == said[1:], "until that is done"
    write_sums(folder, every)
    assert build(folder) == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_said(make: Callable[[Path], None], folder: Path) -> None:
    path = folder / SUMS
    path.unlink()
    make(path)
    with pytest.raises(HostError, match="SHA256SUMS is not a file"):
        build(folder)


def test_line_ends_of_another_system_lose_nothing(folder: Path) -> None:
    path = folder / SUMS
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n", b"\r\n"))
    assert build(folder) == []
    assert path.read_bytes() == whole


def test_a_package_that_was_signed_by_hand_has_its_own_line(folder: Path) -> None:
    package(folder, "R720").write_text("signed")
    write_sums(folder, digests(folder, "R720"))
    assert build(folder) == []


def test_a_package_that_was_changed_keeps_the_line_of_the_build(folder: Path) -> None:
    """Whoever compares sees it."""
    package(folder, "R720").write_text("changed")
    before = listed(folder).digests
    assert build(folder) == []
    assert listed(folder).digests == before
    edited(EDITS["no line"])(folder)
    assert build(folder) == [DAMAGED]
    assert listed(folder).digests == before


def test_a_package_that_is_missing_is_said(tmp_path: Path) -> None:
    """Its cell is in the report no more; who has removed all packages of a cell does not want it."""
    first, second = (write_dist(tmp_path, cell(OTHER), version=v).report.cells[0].artifacts for v in ("v1.0", "v1.1"))
    from pikaforge.pipeline.report import write
    from pikaforge.pipeline.report_record import BuildReport

    write(tmp_path, BuildReport(product="demo", version="v1.1", cells=(cell(OTHER, artifacts=(*first, *second)),)))
    before = Before.of(tmp_path, "demo")
    before.look_for_others({OWN})
    assert before.notices == []
    gone = tmp_path / first[0].path
    gone.unlink()
    before.look_for_others({OTHER})
    assert before.notices == []
    before.look_for_others({OWN})
    assert before.notices == [f"{gone} is missing: the report has {OTHER} no more until it is built again"]
    (tmp_path / second[0].path).unlink()
    before.notices.clear()
    before.look_for_others({OWN})
    assert before.notices == []
