"""Two users of one machine have one store: they share it if they may, or are told whose it is and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.conftest import make_tiny
from survival import TRACE, Island, Survivor, digests

if TYPE_CHECKING:
    from integration.conftest import Shop

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users"),
    pytest.mark.engine,
    pytest.mark.xdist_group("survival"),
    pytest.mark.long(100),
]

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND, GROUP = 47011, 47012, 47013
"""Ids that nobody has."""
PROBE = "import pikaforge.cli.main, pydantic, docker"


def as_user(uid: int, umask: str) -> tuple[str, ...]:
    """The begin of the command line of a program of a user, who is in the common group."""
    ids = (f"--reuid={uid}", f"--regid={uid}", f"--groups={GROUP}")
    return ("setpriv", *ids, "sh", "-c", f'umask {umask} && exec "$@"', "sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Two users and the store of both."""

    first: Survivor
    second: Survivor

    def run(self, who: Survivor, umask: str) -> tuple[int, str]:
        """Build as one of them."""
        uid = FIRST if who is self.first else SECOND
        return who.run(enter=as_user(uid, umask))


def give(folder: Path, uid: int, gid: int) -> None:
    """Make all of a folder a user's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


@pytest.fixture
def python() -> dict[str, str]:
    """An interpreter that all users can start, and what it needs to find this program."""
    paths = os.pathsep.join((str(ROOT / "build"), sysconfig.get_path("purelib")))
    for program in (sys.executable, "/usr/bin/python3"):
        argv = [*as_user(FIRST, "022"), program, "-c", PROBE]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        if Path(program).exists() and subprocess.run(argv, env=env, capture_output=True, check=False).returncode == 0:
            return {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "PROGRAM": program}
    pytest.skip("no other user can start this program: its checkout, or Python, is in somebody's own folder")


@pytest.fixture
def house(island: Island, shop: Shop, python: dict[str, str]) -> Iterator[Callable[[int], House]]:
    """Make the store with a mode; each user has a project of the same kind."""
    top = Path(tempfile.mkdtemp(prefix="pf-users-", dir="/tmp"))
    top.chmod(0o755)
    socket = Path(island.engine.address.removeprefix("unix://"))
    socket.chmod(0o666)
    socket.parent.chmod(0o755)

    def make(mode: int) -> House:
        people = []
        for uid, name in ((FIRST, "first"), (SECOND, "second")):
            project = shop.ready(top / name)
            make_tiny(project)
            if name == "first":
                shutil.copytree(project.out, top / "out")
                give(top / "out", FIRST, GROUP)
                for path in (top / "out", *(p for p in (top / "out").rglob("*") if p.is_dir())):
                    path.chmod(mode)
            shutil.rmtree(project.out)
            project.out = top / "out"
            (top / name / "tmp").mkdir()
            give(top / name, uid, uid)
            env = {**python, "DOCKER_HOST": island.engine.address, "HOME": str(top / name)}
            people.append(Survivor(project=project, env=env, island=island, python=python["PROGRAM"]))
        return House(first=people[0], second=people[1])

    yield make
    shutil.rmtree(top)


def test_a_store_that_a_group_shares(house: Callable[[int], House]) -> None:
    """Each takes what the other has made. git wants to hear whose repositories it may read, and the hint says how."""
    both = house(0o2775)
    status, text = both.run(both.first, "002")
    assert status == 0, text
    whole = digests(both.first.project.dist)
    assert any(name.endswith(".tar.gz") for name in whole)
    status, text = both.run(both.second, "002")
    assert (status, TRACE in text) == (3, False), text
    assert "it belongs to another user" in text
    assert "git config --global --add safe.directory " in text
    (both.second.project.folder.parent / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
    status, text = both.run(both.second, "002")
    assert status == 0, text
    assert "compile  debian12-sandybridge-none is up to date" in text
    assert digests(both.second.project.dist) == whole
    path = min((both.first.project.out / "store" / "package").glob("*/*.tar.gz"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    shutil.rmtree(both.second.project.dist)
    status, text = both.run(both.second, "002")
    assert status == 0, text
    assert f"{path} does not have the digest it was stored with (of user {FIRST})" in text
    assert digests(both.second.project.dist) == whole
    status, text = both.run(both.first, "002")
    assert (status, "everything is up to date" in text) == (0, True), text
    assert both.first.left() == []
    print("users: one group: each takes what the other one has made and mends what is damaged, the same bytes")


def test_a_store_of_somebody_else(house: Callable[[int], House]) -> None:
    """It is not harmed, and the error says whose it is, or at least where."""
    both = house(0o755)
    status, text = both.run(both.first, "022")
    assert status == 0, text
    whole = digests(both.first.project.dist)
    status, text = both.run(both.second, "022")
    assert TRACE not in text
    assert status == 3, text
    assert f"{both.first.project.out} cannot be written (of user {FIRST})" in text
    assert "--out" in text, "what to do"
    status, text = both.run(both.first, "022")
    assert (status, "everything is up to date" in text) == (0, True), text
    assert digests(both.first.project.dist) == whole
    assert both.first.left() == []
    print("users: a store of somebody else: exit status 3 with its place, and nothing harmed")
