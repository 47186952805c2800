"""The compile stage: what it refuses of a tree that was compiled."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from unit.cell_results import COMPILED, result, results
from unit.helpers import Ending, FakeEngine, make_spec, the_cell

from pikaforge.errors import StageError
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import compile as compile_stage
from pikaforge.pipeline.compile import LicenceRecord
from pikaforge.pipeline.stage import RunContext

KEY = "c" * 32
Run = Callable[..., Result]


def archive(*names: str, link: tuple[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
        if link is not None:
            member = tarfile.TarInfo(link[0])
            member.type, member.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(member)
    return stream.getvalue()


@pytest.fixture
def run(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> Run:
    """Run the stage; the job leaves a tree."""
    source = tmp_path / "source.tar"
    source.write_bytes(archive())
    (workspace.base / "recipe.sh").write_text("make\n")

    def run(tree: bytes, *formats: str) -> Result:
        outputs = {"packed/tree.tar": tree, "packed/debug.tar": archive(), "packed/facts.tar": archive()}
        fake.endings["compile"] = Ending(outputs=outputs)
        spec = make_spec(images__debian12__formats=list(formats))
        given = results()
        made = replace(given.source, files={"source.tar": source})
        return compile_stage.make(workspace, spec, the_cell(spec, "R620-debian12-none"), made, given.image, key=KEY)

    return run


@pytest.mark.parametrize("name", ["share/two words", "share/100%", "share/ä", "share/a$b"])
@pytest.mark.parametrize("format", ["rpm", "deb", "wheel"])
def test_names_that_a_package_cannot_hold_end_the_stage(run: Run, workspace: Workspace, name: str, format: str) -> None:
    """And not the package stage, after minutes of smoke tests."""
    with pytest.raises(StageError) as caught:
        run(archive("bin/demo", name), "tar", format)
    assert caught.value.message == f"the tree cannot be packed (format {format})"
    assert "cannot be written into a" in caught.value.failure.findings[0]
    assert name.rpartition("/")[2] in caught.value.failure.findings[0]
    assert workspace.store.get("compile", KEY) == (None, ""), "nothing is kept"
    # The controls: a tarball holds any name, and a package a plain one.
    run(archive("bin/demo", name), "tar")
    run(archive("bin/demo", "share/a+b.c~d"), "tar", format)


@pytest.mark.parametrize(
    ("format", "target"), [("rpm", "../../etc/passwd"), ("deb", "/etc/passwd"), ("wheel", "gone"), ("wheel", ".")]
)
def test_links_that_a_package_cannot_hold(run: Run, format: str, target: str) -> None:
    with pytest.raises(StageError) as caught:
        run(archive("bin/demo", link=("lib/x", target)), format)
    assert "lib/x" in caught.value.failure.findings[0]
    run(archive("bin/demo", link=("bin/x", "demo")), format)


def test_licences_are_kept_by_whose_they_are() -> None:
    rows = [
        ["file", "demo", "licenses/demo/LICENSE"],
        ["file", "zlib1g", "licenses/zlib1g/copyright"],
        ["name", "zlib1g", "Zlib"],
        ["name", "zlib1g", " "],
        ["name", "xz", "LGPLv2+\x1b[2J"],
        ["other", "x", "y"],
        ["file", "short"],
    ]
    assert compile_stage.licence_records(rows) == (
        LicenceRecord(of="demo", files=("licenses/demo/LICENSE",)),
        LicenceRecord(of="zlib1g", names=("Zlib",), files=("licenses/zlib1g/copyright",)),
        LicenceRecord(of="xz", names=("LGPLv2+ [2J",)),
    )


@pytest.mark.parametrize(
    ("licences", "told"),
    [
        (COMPILED.licences, []),
        (COMPILED.licences[:2], ["the image has no licence of zlib1g,"]),
        (COMPILED.licences[1:], ["the source has no file with a licence;"]),
        ((), ["the image has no licence of unknown, zlib1g,", "the source has no file with a licence;"]),
    ],
)
def test_what_travels_without_a_licence_is_told_once(licences: tuple[LicenceRecord, ...], told: list[str]) -> None:
    made = result("compile", COMPILED.model_copy(update={"licences": licences}))
    run = SimpleNamespace(spec=make_spec())
    remarks = compile_stage.STAGE.remarks
    said = list(remarks(made, cast(RunContext, run), fresh=True))
    assert [line.startswith(start) for line, start in zip(said, told, strict=True)] == [True] * len(told)
    assert list(remarks(made, cast(RunContext, run), fresh=False)) == []
