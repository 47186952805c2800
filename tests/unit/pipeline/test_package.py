"""Packages: their names, what they say of themselves, and their place under dist/."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.cell_results import (
    AUDITED,
    CELL,
    COMPILED,
    DISPATCHED,
    EPOCH,
    IMAGE,
    SMOKED,
    TREE,
    pack,
    result,
    results,
    trees,
)  # fmt: skip
from unit.helpers import Ending, FakeEngine, make_spec, members, refusal, the_cell

from pikaforge.audit.audit_record import ElfRecord
from pikaforge.errors import HostError, StageError
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.tar.package import tarball_name
from pikaforge.host.hashing import digest
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.dist_folder import put_package, write_sums
from pikaforge.pipeline.manifest import manifest
from pikaforge.pipeline.package import STAGE, CellResults, PackageFacts, material
from pikaforge.pipeline.source import origin
from pikaforge.pipeline.stage import Request, RunContext


@pytest.mark.parametrize(
    ("cell", "changes", "name"),
    [
        ("R620-el7-none", {}, "demo-v1.0-R620.tar.gz"),
        ("R620-debian12-none", {}, "demo-v1.0-R620.tar.gz"),
        ("R620-el7-system", {}, "demo-v1.0-R620-system.tar.gz"),
        ("R620-el7-system", {"images__el7__allocator": "system"}, "demo-v1.0-R620.tar.gz"),
        ("R620-el7-none", {"images__el7__allocator": "system"}, "demo-v1.0-R620-none.tar.gz"),
        ("R640-debian12-none", {"product__name": "x", "product__version": "2"}, "x-2-R640.tar.gz"),
    ],
)
def test_file_names(cell: str, changes: dict[str, Any], name: str) -> None:
    spec = make_spec(**changes)
    assert tarball_name(spec, the_cell(spec, cell)) == name


def described(given: CellResults | None = None, cell: str = CELL, **changes: Any) -> dict[str, Any]:
    """The manifest of a package without contents."""
    spec = make_spec(**changes)
    return manifest(spec, the_cell(spec, cell), (given or results()).facts(), ()).as_json()


def test_the_manifest() -> None:
    assert described() == {
        "format": 4,
        "product": "demo",
        "version": "v1.0",
        "cell": CELL,
        "model": "R620",
        "cpus": ["sandybridge", "ivybridge"],
        "target": "sandybridge",
        "wanted_target": "sandybridge",
        "flags": ["-march=sandybridge", "-mtune=sandybridge"],
        "allocator": {"name": "none", "kind": "none", "library": "", "unwinder": ""},
        "image": {
            "name": "debian12",
            "os": {"id": "debian", "version": "12"},
            "base": "bootstrap bookworm",
            "baseline": "x86_64",
            "build_packages": {"gcc": "12.2"},
            "runtime_packages": {"libc6": "2.36"},
        },
        "source": {
            "kind": "product",
            "url": "https://example.org/demo.git",
            "ref": "v1.0",
            "tag": "v1.0",
            "version": "v1.0",
            "commit": "c" * 40,
            "head": "d" * 40,
            "patches": [
                {
                    "name": "pull-1",
                    "sha256": "e" * 64,
                    "url": "u",
                    "why": "",
                    "state": "applied",
                    "offsets": [],
                    "notes": [],
                }
            ],
            "submodules": {"third/x": "f" * 40},
        },
        "source_date_epoch": EPOCH,
        "compiler": ["gcc 12.2.0"],
        "adaptations": [],
        "keep_werror": False,
        "dropped_flags": [[3, "-march=native"]],
        "bundled_libraries": [
            {
                "soname": "libz.so.1",
                "path": "lib/libz.so.1",
                "package": "zlib1g",
                "version": "1:1.2",
                "sha256": "0" * 64,
                "code": "c" * 64,
            },
            {"soname": "liby.so.1", "path": "lib/liby.so.1", "package": "unknown", "version": "-", "sha256": "1" * 64},
        ],
        "licences": [
            {"of": "demo", "names": [], "files": ["licenses/demo/LICENSE"]},
            {"of": "unknown", "names": [], "files": ["licenses/unknown/COPYING"]},
            {"of": "zlib1g", "names": ["Zlib"], "files": ["licenses/zlib1g/copyright"]},
        ],
        "audit": {
            "allow_list": "the compiler's macros",
            "features_used": ["avx"],
            "kernel_flags": ["avx"],
            "symbol_versions": {"GLIBC": "2.34"},
            "system_libraries": ["libc.so.6"],
            "dispatched": [DISPATCHED.model_dump(mode="json")],
        },
        "checks": ["version", "ping"],
        "tried": {"target": "sandybridge", "not_run": ""},
        "contents": [],
    }


def test_the_manifest_has_the_licence_that_the_matrix_states() -> None:
    found = described(product__licence="MIT")["licences"]
    assert found[0] == {"of": "demo", "names": ["MIT"], "files": ["licenses/demo/LICENSE"]}
    bare = replace(results(), compiled=result("compile", COMPILED.model_copy(update={"licences": ()})))
    assert described(bare, product__licence="MIT")["licences"] == [{"of": "demo", "names": ["MIT"], "files": []}]


def test_the_manifest_tells_what_the_compiler_needed() -> None:
    entry = {"gcc": ">=12,<13", "cflags": ["-fcommon"], "cxxflags": ["-include", "limits"], "why": "no <limits>"}
    later = {"gcc": ">=13", "cxxflags": ["-include", "cstdint"], "why": "no <cstdint>"}
    found = described(product__compilers=[entry, later], product__keep_werror=True)
    assert (found["adaptations"], found["keep_werror"]) == ([entry], True)


def test_the_manifest_has_no_clock_and_no_path_of_this_machine(tmp_path: Path) -> None:
    given = trees(tmp_path)
    text = json.dumps(described(given))
    assert "/home/somebody" not in text
    assert str(tmp_path) not in text
    assert not re.search(r"seconds|1\.25|20\d\d-\d\d", text)
    assert text == json.dumps(described(given))


def test_a_fallback_is_told_in_the_manifest() -> None:
    found = described(cell="R640-el7-none", images__el7__fallback="nearest")
    assert (found["wanted_target"], found["target"]) == ("skylake_avx512", "haswell")


def test_a_twin_is_told_in_the_manifest() -> None:
    smoked = SMOKED.model_copy(update={"target": "skylake_avx512", "tried": "haswell"})
    found = described(replace(results(), smoked=result("smoke", smoked)), cell="R640-debian12-none")
    assert (found["target"], found["checks"]) == ("skylake_avx512", ["version", "ping"])
    assert found["tried"] == {
        "target": "haswell",
        "not_run": "function tried as haswell; AVX-512 code audited, not run",
    }


def test_the_host_engine_has_no_runtime_packages() -> None:
    image = IMAGE.model_copy(update={"base": "this machine", "packages": {"build": (("gcc", "12.2"),)}})
    assert described(replace(results(), image=result("image", image)))["image"]["runtime_packages"] == {}


def test_a_package_is_tree_and_extras(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    fake.endings["package"] = Ending(outputs={"out/package.tar.gz": b"packed"})
    made, facts = pack(workspace, trees(tmp_path))
    name = "demo-v1.0-R620.tar.gz"
    assert facts.artifacts == (ArtifactRecord(format="tar", role="main", path=name, bytes=6, sha256=digest("packed")),)
    assert made.files[name].read_bytes() == b"packed"
    assert workspace.store.get("package", "2" * 32) == (made, "")
    [job] = fake.jobs
    assert (job.image, job.network, job.argv) == ("tools:1", "none", ("sh", "guest/run.sh", "package"))
    assert job.env == {"PIKAFORGE_PRODUCT": "demo", "SOURCE_DATE_EPOCH": str(EPOCH)}
    extra = members(job.inputs[2])
    modes = {name: oct(mode) for name, (mode, _) in extra.items()}
    assert modes["extra/manifest.json"] == "0o644"
    assert modes["extra/systemd/demo@.service"] == "0o644"
    assert modes["extra/utils/deploy.sh"] == "0o755"
    assert {mode for name, mode in modes.items() if not name.endswith(".sh")} == {"0o644"}
    written = json.loads(extra["extra/manifest.json"][1])
    assert written == facts.manifest
    assert written["cell"] == CELL
    # What it lists is what is packed: the tree's files and those beside it, but for itself.
    listed = {entry["path"]: (entry["mode"], entry["sha256"]) for entry in written["contents"]}
    beside = {name.removeprefix("extra/"): ("0755" if mode & 0o111 else "0644", hashlib.sha256(data).hexdigest())
              for name, (mode, data) in extra.items()}  # fmt: skip
    del beside["manifest.json"]
    tree = {"bin/demo": ("0755", hashlib.sha256(TREE["bin/demo"]).hexdigest()),
            "conf/demo.conf": ("0644", hashlib.sha256(TREE["conf/demo.conf"]).hexdigest())}  # fmt: skip
    assert listed == {**tree, **beside}


def test_debug_information_is_a_package_of_its_own(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    fake.endings["package"] = lambda job: Ending(outputs={path: path.encode() for path in job.outputs})
    _, facts = pack(workspace, trees(tmp_path, {"bin/demo.debug": b"names"}))
    assert [(a.role, a.name) for a in facts.artifacts] == [
        ("main", "demo-v1.0-R620.tar.gz"),
        ("debug", "demo-v1.0-R620-debuginfo.tar.gz"),
    ]
    layout = members(fake.jobs[1].inputs[1])["pack/layout.tsv"][1].decode()
    assert "\t644\t/usr/lib/debug/opt/demo/bin/demo.debug\tdebug/bin/demo.debug\n" in layout
    assert "/usr/lib/debug/.build-id/ab/cdef.debug" in layout


def test_all_formats_are_made_of_the_same_files(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    fake.endings["package"] = lambda job: Ending(outputs={path: path.encode() for path in job.outputs})
    _, facts = pack(workspace, trees(tmp_path), images__debian12__formats=["tar", "rpm"])
    assert [(a.format, a.role, a.name) for a in facts.artifacts] == [
        ("tar", "main", "demo-v1.0-R620.tar.gz"),
        ("rpm", "main", "demo-1.0-1.R620.debian12.x86_64.rpm"),
    ]
    tarball, rpm = fake.jobs
    extra = [item.archive for job in (tarball, rpm) for item in job.inputs if item.folder == "extra"]
    assert extra[0] == extra[1]
    spec = next(members(item)["pack/package.spec"][1].decode() for item in rpm.inputs if item.folder == "pack")
    assert "libc.so.6(GLIBC_2.34)(64bit)" in spec


LARGE: ElfRecord = AUDITED.files[0].model_copy(update={"bytes": 1 << 20})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"files": ()}, "bin/demo is not among what was audited"),
        ({"files": (LARGE,)}, "is smaller than its programs"),
        ({"checks": ()}, "no smoke check has passed"),
    ],
    ids=["no program", "too small", "not smoke-tested"],
)
def test_what_cannot_be_a_package_is_not_made(
    workspace: Workspace, fake: FakeEngine, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    fake.endings["package"] = Ending(outputs={"out/package.tar.gz": b"packed"})
    given = trees(tmp_path)
    if "checks" in changes:
        given = replace(given, smoked=result("smoke", SMOKED.model_copy(update=changes)))
    else:
        given = replace(given, audited=result("audit", AUDITED.model_copy(update=changes)))
    with pytest.raises(StageError, match=why):
        pack(workspace, given)
    assert workspace.store.get("package", "2" * 32) == (None, "")


def test_a_package_that_could_not_be_made(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    fake.endings["package"] = Ending(status=1, log="tar: what\nforge: reason: no space\n")
    with pytest.raises(StageError) as caught:
        pack(workspace, trees(tmp_path))
    assert caught.value.lines() == [
        "error: the tarball could not be made",
        f"  where: stage package, {CELL}",
        "  command: sh guest/run.sh package (exit status 1)",
        "  reason: no space",
        "  last lines of the log:",
        "    | tar: what",
        "    | forge: reason: no space",
        f"  log: {workspace.out}/logs/{CELL}/package-tarball.log",
    ]
    assert workspace.store.get("package", "2" * 32) == (None, "")


def test_the_key_follows_what_goes_in(workspace: Workspace) -> None:
    def of(cell: str = CELL, **changes: Any) -> dict[str, Any]:
        spec = make_spec(**changes)
        return material(spec, the_cell(spec, cell), workspace.home, others={})

    base = of()
    assert of() == base
    assert of("R720-debian12-none") != base
    assert of(hardware__R620={"cpus": ["sandybridge"]}) != base
    assert of(product__server__port=7001) != base
    entry = {"gcc": ">=12", "cxxflags": ["-include", "limits"], "why": "no <limits>"}
    adapted = of(product__compilers=[entry])
    assert adapted != base
    assert of(product__compilers=[{**entry, "why": "told better"}]) != adapted, "the manifest has the reason"
    assert of(product__compilers=[{**entry, "gcc": ">=13"}]) == base
    assert of(product__keep_werror=True) != base
    (workspace.home / "docker/guest/package.sh").write_text("# another")
    assert of() != base


# ---- what is told


@pytest.mark.parametrize(
    ("model", "names", "told"),
    [
        (
            "HPE-DL380",
            ("demo-HPE-DL380.tar.gz", "demo-1-1.HPE+DL380.rpm"),
            "written HPE+DL380 in demo-1-1.HPE+DL380.rpm",
        ),
        ("HPE-DL380", ("demo-HPE-DL380.tar.gz",), ""),
        ("R620", ("demo-1-1.R620.rpm",), ""),
        ("R+6", ("demo-1-1.R+6.rpm",), ""),
    ],
)
def test_a_model_that_is_written_otherwise_in_a_release_is_told_once(
    workspace: Workspace, model: str, names: tuple[str, ...], told: str
) -> None:
    made = tuple(ArtifactRecord(format="rpm", role="main", path=name, sha256="0" * 64, bytes=1) for name in names)
    facts = PackageFacts(artifacts=made, manifest={"model": model}).model_dump(mode="json")
    result = Result(stage="package", key="k", identity="x", facts=facts, files={})
    spec = make_spec()
    source = origin.parse(spec.product, "", base=workspace.base, cwd=workspace.base, out=workspace.out)
    run = RunContext.of(workspace, Request(spec=spec, origin=source, series=None))
    found = list(STAGE.remarks(result, run, fresh=True))
    assert len(found) == bool(told)
    assert told in "".join(found)
    assert list(STAGE.remarks(result, run, fresh=False)) == []


# ---- dist/


def _packed(tmp_path: Path, text: str, name: str = "demo-v1.0-R620.tar.gz") -> tuple[Result, ArtifactRecord]:
    path = tmp_path / name
    path.write_text(text)
    kind = "rpm" if name.endswith(".rpm") else "tar"
    artifact = ArtifactRecord(format=kind, role="main", path=name, sha256=digest(text), bytes=len(text))
    return Result(stage="package", key="k", identity="x", facts={}, files={name: path}), artifact


def test_a_package_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "dist" / "debian12"
    path = folder / "demo-v1.0-R620.tar.gz"
    assert put_package(*_packed(tmp_path, "one"), folder) == (path, True)
    before = path.stat()
    assert put_package(*_packed(tmp_path, "one"), folder) == (path, False)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert put_package(*_packed(tmp_path, "two"), folder) == (path, True)
    assert path.read_text() == "two"
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_is_told_of_another_file_goes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    path, _ = put_package(*_packed(tmp_path, "one"), folder)
    beside = [path.with_name(path.name + suffix) for suffix in (".sbom.json", ".intoto.json", ".asc")]
    for companion in beside:
        companion.write_text("about one")
    put_package(*_packed(tmp_path, "one"), folder)
    assert all(companion.is_file() for companion in beside)
    put_package(*_packed(tmp_path, "two"), folder)
    assert not any(companion.exists() for companion in beside)


def test_a_damaged_package_under_dist_is_put_right(tmp_path: Path) -> None:
    path, _ = put_package(*_packed(tmp_path, "one"), tmp_path / "dist")
    path.write_text("damaged")
    assert put_package(*_packed(tmp_path, "one"), tmp_path / "dist") == (path, True)
    assert path.read_text() == "one"


def test_something_else_under_the_name_of_an_rpm_is_put_right(tmp_path: Path) -> None:
    path, _ = put_package(*_packed(tmp_path, "one", "x.rpm"), tmp_path / "dist")
    path.write_text("no RPM")
    assert put_package(*_packed(tmp_path, "one", "x.rpm"), tmp_path / "dist") == (path, True)


def test_a_package_that_is_not_as_it_was_left_is_said(tmp_path: Path) -> None:
    """One of another build is not: it was left there."""
    said: list[Path] = []
    path, _ = put_package(*_packed(tmp_path, "one"), tmp_path / "dist")
    noted = frozenset({digest("one")})
    put_package(*_packed(tmp_path, "two"), tmp_path / "dist", noted=noted, changed=said.append)
    assert (said, path.read_text()) == ([], "two")
    put_package(*_packed(tmp_path, "two"), tmp_path / "dist", noted=noted, changed=said.append)
    assert said == [], "a killed build has left it, and could not note it any more"
    path.write_text("damaged")
    noted = frozenset({digest("two")})
    put_package(*_packed(tmp_path, "two"), tmp_path / "dist", noted=noted, changed=said.append)
    assert (said, path.read_text()) == ([path], "two")


def _sums(folder: Path) -> str:
    return (folder / "SHA256SUMS").read_text()


def test_sums_are_merged_sorted_and_rid_of_what_vanished(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tar.gz", "c.tar.gz"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, {"c.tar.gz": "3" * 64, "a.tar.gz": "1" * 64})
    assert _sums(tmp_path) == f"{'1' * 64}  a.tar.gz\n{'3' * 64}  c.tar.gz\n"
    (tmp_path / "a.tar.gz").unlink()
    write_sums(tmp_path, {"b.tar.gz": "2" * 64})
    assert _sums(tmp_path) == f"{'2' * 64}  b.tar.gz\n{'3' * 64}  c.tar.gz\n"
    write_sums(tmp_path, {"c.tar.gz": "4" * 64})
    assert _sums(tmp_path) == f"{'2' * 64}  b.tar.gz\n{'4' * 64}  c.tar.gz\n"


@pytest.mark.parametrize("year", [-1, 1], ids=["of before", "of a clock that was set back since"])
def test_a_signature_of_other_sums_does_not_stay(tmp_path: Path, year: int) -> None:
    (tmp_path / "a").write_text("")
    write_sums(tmp_path, {"a": "1" * 64})
    signature = tmp_path / "SHA256SUMS.asc"
    signature.write_text("signature")
    then = signature.stat().st_mtime + year * 365 * 86400
    os.utime(signature, (then, then))
    write_sums(tmp_path, {"a": "1" * 64})
    assert signature.exists(), "it is of these sums"
    write_sums(tmp_path, {"a": "2" * 64})
    assert not signature.exists()


def test_the_same_sums_are_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    write_sums(tmp_path, {"a": "1" * 64})
    before = (tmp_path / "SHA256SUMS").stat().st_ino
    write_sums(tmp_path, {"a": "1" * 64})
    assert (tmp_path / "SHA256SUMS").stat().st_ino == before


def test_lines_that_are_no_sums_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    one, two, three = (digit * 64 for digit in "123")
    (tmp_path / "SHA256SUMS").write_text(f"nonsense\n\n{one} a\n{two}  a\n{three}  \n4  a\n")
    write_sums(tmp_path, {})
    assert _sums(tmp_path) == f"{two}  a\n"


def test_sums_that_cannot_be_read_are_no_reason_to_forget_them(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").mkdir()
    with pytest.raises(HostError) as caught:
        write_sums(tmp_path, {"a": "1" * 64})
    advice = "it is in the way: move it away, and the next build writes the file"
    assert refusal(caught) == (f"{tmp_path}/SHA256SUMS is not a file", "", advice)


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: None])
def test_sums_of_an_empty_folder(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "SHA256SUMS")
    write_sums(tmp_path, {})
    assert not (tmp_path / "SHA256SUMS").is_file() or _sums(tmp_path) == ""
