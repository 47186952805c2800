"""The clock is set back, or on: what is there stays up to date, bytes are the same, and locks are no older than before.

The tool's clock runs ahead, and the times of files with it; then it is what it is; then it runs ahead again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from survival import TRACE, Survivor, digests

from pikaforge.publish.sites.web_lock import parse

YEAR = 365 * 86400
ROOT = Path(__file__).resolve().parents[2]
AHEAD = f"""
import time
import time_machine
time_machine.travel(time.time() + {YEAR}, tick=True).start()
"""


@pytest.fixture
def ahead(tmp_path: Path) -> dict[str, str]:
    """The surroundings of a run whose clock is a year ahead; Python reads sitecustomize.py when it starts."""
    library = pytest.importorskip("time_machine")
    (tmp_path / "sitecustomize.py").write_text(AHEAD)
    places = (tmp_path, ROOT / "build", Path(library.__file__).parents[1])
    return {"PYTHONPATH": os.pathsep.join(map(str, places))}


def later(folders: Iterator[Path] | list[Path]) -> int:
    """Date all files a year ahead, as they would be; how many those are."""
    count = 0
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                os.utime(path, (time.time() + YEAR, time.time() + YEAR))
                count += 1
    return count


@pytest.mark.engine
@pytest.mark.xdist_group("survival")
@pytest.mark.long(60)
def test_builds_after_the_clock_was_set_back_and_on(survivor: Survivor, ahead: dict[str, str]) -> None:
    project = survivor.project
    survivor.begin_anew()
    status, text = survivor.run(env=ahead)
    assert status == 0, text
    assert TRACE not in text
    survivor.as_ever(text)
    dated = later([project.out, project.dist])
    assert dated > 10
    status, text = survivor.run()
    assert (status, "everything is up to date" in text) == (0, True), text
    survivor.as_ever(text)
    for stage in ("package", "compile"):
        shutil.rmtree(project.out / "store" / stage)
        status, text = survivor.run()
        assert status == 0, text
        survivor.as_ever(text)
    path = project.package()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    later([project.dist])
    status, text = survivor.run()
    assert (status, digests(project.dist)) == (0, survivor.bytes), text
    status, text = survivor.run(env=ahead)
    assert (status, "everything is up to date" in text) == (0, True), text
    shutil.rmtree(project.out / "store" / "package")
    status, text = survivor.run(env=ahead)
    assert status == 0, text
    survivor.as_ever(text)
    print(f"clock: a year ahead, {dated} files dated so; then 4 builds with the clock set back, and 2 ahead; all alike")


def test_a_lock_of_a_server_whose_clock_was_set_back_has_no_age() -> None:
    """Its age is unknown then, and it is looked at for as long as it is valid; it would else be fresh for a year."""
    dates = [time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(at)) for at in (time.time(), time.time() + YEAR)]
    assert parse(b"{}", {"Last-Modified": dates[1], "Date": dates[0]}).age is None
    assert parse(b"{}", {"Last-Modified": dates[0], "Date": dates[1]}).age == YEAR
