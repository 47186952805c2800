"""The seam of allocators: a library of ten lines, registered, goes the way from the configuration to its package."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unit import elf_files as ef
from unit.cell_results import IMAGE as IMAGE_FACTS
from unit.cell_results import SOURCE, trees
from unit.cell_results import result as stage_result
from unit.helpers import Ending, FakeEngine, make_spec, members, tar_of, the_cell

from pikaforge.audit.elf.facts import facts_of
from pikaforge.audit.judge_allocator import AllocatorRules, judge
from pikaforge.cli import main
from pikaforge.config.registry import ALLOCATORS
from pikaforge.config.schema import Allocator, Spec, matrix_schema
from pikaforge.errors import ConfigError, StageError
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace, guest_digests
from pikaforge.pipeline import allocator as stage
from pikaforge.pipeline import compile as compile_stage
from pikaforge.pipeline import package
from pikaforge.pipeline.smoke.allocator_in_use import environment, mapped_wrong, served, served_wrong
from pikaforge.plan import plan
from pikaforge.plan.allocators.kind import Presence, Statistics

if TYPE_CHECKING:
    from pikaforge.config.schema import Tarball

CELL, GROUP, KEY = "R620-debian12-bump", "debian12-sandybridge-bump", "a" * 32
SONAME, BUILD_ID = "libbump.so.1", "33" * 20
LIBRARY = ef.library(BUILD_ID, soname=SONAME, symbols=[("bump_alloc", 0, 5, ef.FUNC)])
IMAGE = stage_result("image", IMAGE_FACTS)


class Bump:
    """A pointer that is moved; nothing is ever freed."""

    name = "bump-alloc"
    about = "only moves a pointer"
    own = True
    required = ("tarball",)
    optional: frozenset[str] = frozenset()
    fields: Mapping[str, str] = {}
    presence: Presence | None = Presence(
        title="bump",
        libraries=("libbump.so*",),
        whole=("libbump.so*",),
        symbols=(b"bump_alloc",),
        link="-lbump",
        statistics=Statistics(environment={"BUMP": "tell"}, total=re.compile(r"^bumped (\d+)$", re.MULTILINE)),
    )
    scripts = ("bump.sh", "cc")
    licence = "0BSD"
    other_licences: Mapping[str, str] = {}
    url = "https://example.org/bump"

    def check(self, entry: Allocator) -> None:
        if entry.packages:
            raise ValueError("no package has a bump")

    def sources(self, spec: Spec, image: str, allocator: str) -> Mapping[str, Tarball]:
        return {"bump": spec.tarballs[str(spec.allocators[allocator].tarball)]}

    def environment(self, entry: Allocator) -> Mapping[str, str]:
        return {"PIKAFORGE_BUMP": "16"}

    def material(self, entry: Allocator) -> Mapping[str, str | None]:
        return {"bump": "16"}

    def use(self, entry: Allocator) -> Mapping[str, str]:
        return {"PIKAFORGE_ALLOCATOR_LINK": "-lbump"}

    def problem(self, spec: Spec, image: str, allocator: str) -> str:
        return "el7 cannot bump" if image == "el7" else ""

    def remark(self, spec: Spec, image: str, allocator: str) -> str:
        return "nothing is ever freed"


@pytest.fixture(autouse=True)
def kind() -> Iterator[Bump]:
    made = Bump()
    with ALLOCATORS.registered(made.name, made):
        yield made


def source() -> bytes:
    """The release: one file in a top folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("bump-1.2/bump.c")
        info.size, info.mtime = 4, 1_600_000_000
        tar.addfile(info, io.BytesIO(b"text"))
    return buffer.getvalue()


ENTRY = {"kind": "bump-alloc", "tarball": "bump-1.2"}


def spec_with(*, entry: Mapping[str, Any] = ENTRY, **changes: Any) -> Spec:
    pinned = {
        "version": "1.2",
        "url": "https://example.org/bump-1.2.tar",
        "sha256": hashlib.sha256(source()).hexdigest(),
    }
    allocators = {"none": {"kind": "none"}, "bump": dict(entry)}
    return make_spec(allocators=allocators, tarballs={"bump-1.2": pinned}, **changes)


def prefix() -> bytes:
    """What its guest script leaves."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(f"./lib/{SONAME}")
        info.size = len(LIBRARY)
        tar.addfile(info, io.BytesIO(LIBRARY))
    return buffer.getvalue()


@pytest.fixture
def built(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> Result:
    """Its build, of a file that was given on the command line."""
    (workspace.home / "docker/guest/bump.sh").write_text("cc\n")
    given = tmp_path / "mine.tar"
    given.write_bytes(source())
    facts = tar_of({"facts/compiler.txt": "gcc\n"})
    fake.endings["allocator"] = Ending(
        outputs={"packed/prefix.tar": prefix(), "packed/debug.tar": tar_of({}), "packed/facts.tar": facts}
    )
    shop = replace(workspace, given={"bump-alloc": given})
    spec = spec_with()
    return stage.make(shop, spec, the_cell(spec, CELL), IMAGE, key=KEY)


def test_configuration_takes_it() -> None:
    schema = matrix_schema()["$defs"]
    assert "bump-alloc" in schema["Allocator"]["properties"]["kind"]["enum"]
    assert "`bump-alloc` only moves a pointer." in schema["Allocator"]["description"]
    assert "bump-alloc" in schema["Check"]["properties"]["allocators"]["items"]["enum"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kind": "bump-alloc"}, "kind bump-alloc needs `tarball`"),
        ({**ENTRY, "unwinder": "libunwind"}, "kind bump-alloc takes no `unwinder`"),
        ({**ENTRY, "packages": {"debian": {"build": ["x"]}}}, "no package has a bump"),
        ({**ENTRY, "kind": "bumper"}, "must be 'none', 'system', 'gperftools' or 'bump-alloc'"),
    ],
)
def test_entries_are_checked(entry: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        spec_with(entry=entry)


def test_the_plan_has_its_build_and_what_it_says() -> None:
    spec = spec_with()
    cells = [the_cell(spec, CELL), the_cell(spec, "R620-el7-bump")]
    assert [cell.problem for cell in cells] == ["", "el7 cannot bump"]
    made = plan.expand(spec, cells)
    assert f"allocator:{GROUP}" in [node.id for node in made.nodes]
    assert any("nothing is ever freed" in warning for warning in made.warnings)


def test_the_command_line_has_a_file_for_its_tarball(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["build", "--help"])
    assert "--bump-alloc FILE" in capsys.readouterr().out


def test_it_is_built(built: Result, fake: FakeEngine, workspace: Workspace) -> None:
    [job] = fake.jobs
    assert job.argv[:3] == ("sh", "guest/run.sh", "bump")
    assert (job.env["PIKAFORGE_PRODUCT"], job.env["PIKAFORGE_VERSION"], job.env["PIKAFORGE_BUMP"]) == (
        "bump-alloc",
        "1.2",
        "16",
    )
    assert "PIKAFORGE_UNWINDER" not in job.env
    assert [item.folder for item in job.inputs] == ["guest", "bump"]
    assert built.read(stage.AllocatorFacts).libraries == {SONAME: BUILD_ID}
    spec = spec_with()
    material = stage.material(spec, the_cell(spec, CELL), workspace.home)
    assert material["bump"] == "16"
    assert material["scripts"] == guest_digests(workspace.home, Bump.scripts)


def test_a_build_that_fails_is_called_by_its_name(fake: FakeEngine, workspace: Workspace) -> None:
    (workspace.home / "docker/guest/bump.sh").write_text("cc\n")
    (workspace.out / "downloads").mkdir(parents=True)
    (workspace.out / "downloads" / "bump-1.2.tar").write_bytes(source())
    fake.endings["allocator"] = Ending(status=64)
    spec = spec_with()
    with pytest.raises(StageError, match=r"^bump-alloc could not be built$"):
        stage.make(workspace, spec, the_cell(spec, CELL), IMAGE, key=KEY)


def test_the_product_is_compiled_with_it(built: Result, fake: FakeEngine, workspace: Workspace) -> None:
    facts = tar_of({"facts/compiler.txt": "gcc\n"})
    fake.endings["compile"] = Ending(
        outputs={
            "packed/tree.tar": tar_of({"bin/demo": "x"}),
            "packed/debug.tar": tar_of({}),
            "packed/facts.tar": facts,
        }
    )
    path = workspace.base / "source.tar"
    path.write_bytes(tar_of({"a.c": "x"}))
    made = stage_result("source", SOURCE, {"source.tar": path})
    spec = spec_with()
    compile_stage.make(workspace, spec, the_cell(spec, CELL), made, IMAGE, key=KEY, allocator=built)
    env = fake.jobs[-1].env
    assert (env["PIKAFORGE_ALLOCATOR"], env["PIKAFORGE_ALLOCATOR_LINK"]) == ("own", "-lbump")
    assert env["PIKAFORGE_ALLOCATOR_DIR"] == "/forge/allocator"
    material = compile_stage.material(spec, the_cell(spec, CELL), base=workspace.base, home=workspace.home)
    assert material["allocator"] == ["bump-alloc", False, {"PIKAFORGE_ALLOCATOR_LINK": "-lbump"}]


def test_the_audit_finds_it() -> None:
    program = facts_of(ef.make(ef.Elf(text=ef.RET, needed=[SONAME])), "bin/demo")
    library = facts_of(LIBRARY, f"lib/{SONAME}")
    plain = facts_of(ef.make(ef.Elf(text=ef.RET, needed=["libc.so.6"])), "bin/demo")
    rules = AllocatorRules(kind="bump-alloc", programs=("bin/demo",), ours={SONAME: BUILD_ID})
    assert library.allocators == ("bump",)
    assert judge([program, library], rules).violations == ()
    [line] = judge([plain, library], rules).violations
    assert line.what == "Compiled, but bump not used: it needs no libbump.so"
    assert "-lbump" in line.do
    none = AllocatorRules(kind="none", programs=("bin/demo",))
    assert [line.what for line in judge([program, library], none).violations] == [
        f"uses {SONAME}, though the allocator is none"
    ]
    hidden = facts_of(ef.make(ef.Elf(text=ef.NOP * 8, symbols=[("bump_alloc", 0, 8, ef.FUNC)])), "bin/demo")
    assert [line.what for line in judge([hidden], none).violations] == [
        "has bump built in, though the allocator is none"
    ]


def test_a_running_server_shows_it() -> None:
    files = ("/forge/tree/bin/demo", f"/forge/tree/lib/{SONAME}")
    assert mapped_wrong(files, kind="bump-alloc", root="/forge") == ""
    assert mapped_wrong(files[:1], kind="bump-alloc", root="/forge").endswith("shows no libbump.so")
    assert environment() == {"MALLOCSTATS": "1", "BUMP": "tell"}
    log = f"bumped {5 << 20}\n"
    assert served(log) == ("bump", 5 << 20)
    assert served_wrong(log, kind="bump-alloc", at_least=4) == ""
    assert served_wrong(log, kind="bump-alloc", at_least=6).startswith("bump has served 5.0 MiB, less than 6")
    assert served_wrong("", kind="bump-alloc", at_least=4).endswith("no statistics (BUMP=tell)")
    assert served_wrong(log, kind="none", at_least=4) == "the allocator is none, but bump has printed its statistics"


def test_it_has_a_package_of_its_own(built: Result, fake: FakeEngine, workspace: Workspace, tmp_path: Path) -> None:
    fake.endings["package"] = lambda job: Ending(outputs={path: path.encode() for path in job.outputs})
    spec = spec_with(images__debian12__formats=["rpm"])
    given = replace(trees(tmp_path), allocator=built)
    result = package.make(workspace, spec, the_cell(spec, CELL), given, key="2" * 32, tools="tools:1", others={})
    facts = result.read(package.PackageFacts)
    told = [(artifact.role, artifact.name) for artifact in facts.artifacts]
    assert told[1] == ("allocator", "demo-bump-alloc-libs-1.2-1.sandybridge.debian12.x86_64.rpm")
    text = members(fake.jobs[-1].inputs[1])["pack/package.spec"][1].decode()
    assert "License: 0BSD" in text
    assert "unwinder" not in text
    allocator = facts.manifest["allocator"]
    assert isinstance(allocator, dict)
    assert allocator["kind"] == "bump-alloc"
