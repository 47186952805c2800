"""README's commands and the tests on bare machines: what only a developer's machine has is missed here.

Machines and the two parts take turns, by commit: one machine gets README's commands, or every eighth module of the unit
and guest tests. PIKAFORGE_TEST_ALL=bare gives each machine all of it.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import programs
import pytest
from integration.bare import PATH, Machine, machine_of
from integration.keys import Key, new_key
from standins import make
from thorough import turn, whole

from pikaforge.attest.signing import KEY
from pikaforge.config import load
from pikaforge.errors import EXIT_HOST
from pikaforge.host.lockfile import Lock
from pikaforge.pipeline.image import base_image

if TYPE_CHECKING:
    from conftest import Engine, Project

    from .conftest import Shop

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.engine


def standin(_: Project, name: str) -> str:
    """What answers to the name of an image that cannot be pulled here."""
    (found,) = (each for each in make.known().values() if each.entry == name)
    return make.build(found.name)


def minimal(project: Project, name: str) -> str:
    """What an image of the matrix starts from, which the finished build has pinned: its system and apt, no more."""
    entry = load.load(project.matrix).images[name]

    class Pinned:
        lock = Lock(project.lock_path)

    base = base_image.identify(name, entry, workspace=Pinned, offline=True)  # type: ignore[arg-type]
    assert base is not None, f"{name} is not pinned"
    return base.tag


MACHINES: dict[str, Callable[[Project, str], str]] = {
    "debian12": minimal,
    "debian13": minimal,
    "ubuntu2204": standin,
}
"""By name: where the image of a minimal system comes from."""
IMAGE = "debian12"
"""What each of them builds for: the finished build has it, so that bytes can be compared; and it has RPMs."""
FIRST = ("R620", "--source", "sample", "--os", IMAGE)
"""Arguments of README's first command."""
FORMATS = ("tar", "rpm", "deb", "wheel")
GOBJECT = "/usr/lib/x86_64-linux-gnu/libgobject-2.0.so.0"
SKIPPED = 10
"""Fewer tests than this may be skipped."""
SHARE = 8
"""In a plain run, one module in so many is run on a bare machine."""


def chosen(part: Literal["readme", "tests"]) -> list[str]:
    """The machines whose turn it is for a part: one, and another one for each part."""
    names = list(MACHINES)
    return names if whole("bare") else [names[(turn("bare") + (part == "tests")) % len(names)]]


def modules() -> list[str]:
    """The modules of the unit and guest tests whose turn it is."""
    found = sorted(
        str(path.relative_to(ROOT))
        for folder in ("unit", "guest")
        for path in ROOT.glob(f"tests/{folder}/**/test_*.py")
    )
    return found if whole("bare") else found[turn("modules") % SHARE :: SHARE]


def start(engine: Engine, shop: Shop, folder: Path, name: str) -> Iterator[Machine]:
    """A machine by its name."""
    with machine_of(engine, MACHINES[name](shop.ready(folder), name), "bash", "setup.sh", *FIRST) as machine:
        yield machine


@pytest.mark.xdist_group("bare-readme")
@pytest.mark.long(120)
class TestReadme:
    """The commands of README.md, in its order, by a user without locale, terminal or home."""

    @pytest.fixture(scope="class", params=chosen("readme"))
    @staticmethod
    def machine(
        request: pytest.FixtureRequest, engine: Engine, shop: Shop, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Machine]:
        yield from start(engine, shop, tmp_path_factory.mktemp("machine"), request.param)

    @pytest.fixture(scope="class")
    @staticmethod
    def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
        with new_key(tmp_path_factory.mktemp("key")) as key:
            yield key

    @pytest.fixture(scope="class")
    @staticmethod
    def built(machine: Machine) -> Machine:
        """After the first command, whose artifacts are kept as dist/report.json has them."""
        lacking = machine.lacking(programs.PROGRAMS)
        assert {"git", "python3", "gpg", "node"} <= lacking, "this is no bare machine"
        machine.setup(*FIRST)
        return machine

    def test_it_builds_the_same_bytes(self, built: Machine, shop: Shop, tmp_path: Path) -> None:
        project = shop.ready(tmp_path)
        shop.take(project, "source", "compile", "audit", "smoke")
        project.build("R620", "--formats", ",".join(FORMATS), check=0)
        here = digests(json.loads((project.dist / "report.json").read_text(encoding="utf-8")))
        assert digests(json.loads(built.read("dist/report.json"))) == here
        assert {path.rpartition(".")[2] for path in here} == {"gz", "rpm", "deb", "whl"}

    def test_a_second_time_nothing_is_to_do(self, built: Machine) -> None:
        done = built.setup(*FIRST)
        assert done.lines("^setup: ") == []
        assert "everything is up to date" in done.text

    def test_it_publishes(self, built: Machine, key: Key) -> None:
        env = {KEY: key.secret.read_text(encoding="ascii")}
        where = ("R620", "--to", "staging")
        assert "this was a dry run" in built.nox("publish", *where, env=env).text
        assert built.nox("publish", *where, "--yes", env=env).lines(r"^  done: \d+ files were written")
        assert "everything is there already" in built.nox("publish", *where, "--yes", env=env).text
        for pointer in ("x86_64/repodata/repomd.xml", "debs/InRelease", "wheels/index.html", "tarballs/SHA256SUMS"):
            assert built.read(f"repo-staging/{IMAGE}/R620/{pointer}")

    def test_it_verifies(self, built: Machine, key: Key) -> None:
        built.put({"srv/key.asc": key.public})
        done = built.nox("verify", f"dist/{IMAGE}", "--key", "/srv/key.asc")
        assert re.search(r"verified: all \d+ checks say yes", done.text)

    def test_it_audits(self, built: Machine) -> None:
        for path in (f"dist/{IMAGE}/pika-v3.4.0-R620.tar.gz", "/usr/bin/git"):
            built.nox("audit", path, "--model", "R620")

    def test_it_measures(self, built: Machine) -> None:
        built.nox("bench", *FIRST, "--seconds", "2", "--rounds", "1")
        assert built.read(f"out/bench/R620-{IMAGE}.png").startswith(b"\x89PNG")

    def test_a_library_that_is_missing_has_its_name(self, built: Machine) -> None:
        """As where setup.sh never ran; already the dry run says so."""
        built.ok("sh", "-c", f"dpkg --purge --force-depends $(dpkg -S {GOBJECT} | cut -d: -f1)", env=PATH)
        done = built.run(".venv/bin/nox", "-s", "publish", "--", "R620", "--to", "repo")
        assert done.status == EXIT_HOST
        assert done.lines(
            r"^error: the Python package createrepo_c cannot be imported: lib(gobject|glib)-2\.0\.so\.0: cannot open "
        )
        assert done.lines(r"^  hint: .* run `bash setup\.sh`; by hand: install libglib2\.0-0")

    def test_at_last_setup_is_the_first_process(self, built: Machine) -> None:
        """As in a container whose command it is; nothing runs there afterwards. It brings what is missing again."""
        done = built.last()
        assert done.status == 0
        assert done.lines(r"^setup: installs libglib2\.0-0$")
        assert "everything is up to date" in done.text


def digests(report: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the artifacts of a build report, by their paths below dist/."""
    (cell,) = report["cells"]
    return {artifact["path"]: artifact["sha256"] for artifact in cell["artifacts"]}


@pytest.mark.xdist_group("bare-tests")
@pytest.mark.long(150)
class TestTests:
    """`bash setup.sh tests` with unit and guest tests."""

    @pytest.fixture(scope="class", params=chosen("tests"))
    @staticmethod
    def machine(
        request: pytest.FixtureRequest, engine: Engine, shop: Shop, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Machine]:
        yield from start(engine, shop, tmp_path_factory.mktemp("machine"), request.param)

    def test_it_gets_what_tests_start(self, machine: Machine) -> None:
        assert machine.setup("tests", "tests/unit/test_errors.py", "-q").lines(r"\b[1-9]\d* passed")
        assert machine.lacking(programs.PROGRAMS) == set()

    @pytest.mark.apart
    def test_none_fails_and_few_are_skipped(self, machine: Machine) -> None:
        done = machine.run(
            ".venv/bin/nox", "-s", "tests", "--", *modules(), "-n", "2", "--dist", "loadgroup", "-q",
            "--junitxml=out/tests.xml",
        )  # fmt: skip
        (suite,) = ET.fromstring(machine.read("out/tests.xml").decode())
        reasons = [str(skipped.get("message")) for skipped in suite.iter("skipped")]
        assert (done.status, suite.get("failures"), suite.get("errors")) == (0, "0", "0")
        assert int(suite.get("tests", "0")) > (4000 if whole("bare") else 200)
        assert len(reasons) < SKIPPED, reasons
