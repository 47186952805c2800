"""The audit stage: what it holds a tree to, how it refuses one, and which days change its key."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from unit import code
from unit import elf_files as ef
from unit.cell_results import IMAGE
from unit.cell_results import result as stage_result
from unit.helpers import Ending, FakeEngine, make_spec, make_workspace, members, the_cell

from pikaforge.audit import audit as library
from pikaforge.audit import audit_result
from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.elf.code import code_digest
from pikaforge.audit.isa import worker_pool
from pikaforge.cpu import features
from pikaforge.errors import EXIT_STAGE, AuditError, StageError
from pikaforge.formats.manifest import BUILT_HERE
from pikaforge.host import process
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import audit
from pikaforge.pipeline.compile import BundledLibrary, CompileFacts
from pikaforge.pipeline.image import abi, libraries
from pikaforge.pipeline.image.libraries import ImageLibrary, Libraries

CELL = "R620-debian12-none"
GROUP = "debian12-sandybridge-none"
TODAY = date(2026, 6, 15)
LOADER = "/lib64/ld-linux-x86-64.so.2"
MACROS = tuple(f"#define {name} 1" for name in ("__AVX__", "__XSAVE__", "__SSE4_2__"))
BASE_LIBRARIES = ["libc.so.*", "ld-linux-x86-64.so.*"]
ABI = {"GLIBC": "2.36", "GLIBCXX": "3.4.30"}
WAIVER: dict[str, Any] = {
    "file": "bin/demo",
    "function": "work",
    "features": ["avx2"],
    "reason": "it asks the CPU first",
    "expires": "2026-12-31",
}


def program(code: bytes = ef.AVX, *, name: str = "work", **more: Any) -> ef.Elf:
    text = code + ef.RET
    return ef.Elf(text=text, symbols=[(name, 0, len(text), ef.FUNC)], interpreter=LOADER, **more)


def functions(count: int) -> ef.Elf:
    """A program with so many functions that the target does not run."""
    text = (ef.AVX2 + ef.RET) * count
    return replace(program(), text=text, symbols=[(f"f{n:02}", 5 * n, 5, ef.FUNC) for n in range(count)])


def archive(path: Path, contents: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


class HostLike(FakeEngine):
    """A host engine, as far as the stage asks."""

    kind: Literal["docker", "host"] = "host"

    def root(self, label: str) -> str:
        return f"/home/user/out/work/{label}-owner"


class Stage:
    """The stage on trees that are made for it."""

    key = "a" * 32

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def run(
        self,
        elf: ef.Elf | Mapping[str, ef.Elf | bytes],
        *,
        cell: str = CELL,
        key: str = "",
        debug: Mapping[str, ef.Elf] | None = None,
        abi: Mapping[str, str] | None = None,
        today: date = TODAY,
        facts: Mapping[str, object] | None = None,
        record: Path | None = None,
        **changes: Any,
    ) -> Result:
        """Run it; other arguments change the specification."""
        spec = make_spec(**{"defaults__base_libraries": BASE_LIBRARIES, **changes})
        tree = {"bin/demo": elf} if isinstance(elf, ef.Elf) else elf
        folder = self.workspace.base
        compiled = stage_result(
            "compile",
            CompileFacts(compiler=(), macros=MACROS, bundled=(), licences=(), dropped=()).model_copy(update=facts),
            {
                "tree.tar": archive(
                    folder / "tree.tar", {n: e if isinstance(e, bytes) else ef.make(e) for n, e in tree.items()}
                ),
                "debug.tar": archive(
                    folder / "debug.tar", {f"{n}.debug": ef.make(e) for n, e in (debug or {}).items()}
                ),
            },
        )
        image = stage_result(
            "image",
            IMAGE.model_copy(update={"abi": ABI if abi is None else abi}),
            {} if record is None else {libraries.FILE: record},
        )
        return audit.make(self.workspace, spec, the_cell(spec, cell), compiled, image, key=key or self.key, today=today)

    def judged(self, elf: ef.Elf | Mapping[str, ef.Elf | bytes], **more: Any) -> AuditRecord:
        """Run it on what it must not refuse; the record."""
        return self.run(elf, **more).read(AuditRecord)

    def refusal(self, elf: ef.Elf | Mapping[str, ef.Elf | bytes], **more: Any) -> StageError:
        """Run it on what it must refuse."""
        with pytest.raises(StageError) as caught:
            self.run(elf, **more)
        assert (caught.value.where, caught.value.exit_code) == (f"stage audit, {GROUP}", EXIT_STAGE)
        assert self.workspace.store.get("audit", self.key) == (None, ""), "what was refused is not kept"
        return caught.value

    def log(self, group: str = GROUP) -> list[str]:
        path = self.workspace.out / "logs" / group / "audit.log"
        return path.read_text(encoding="utf-8").splitlines()


def record_of(error: StageError) -> AuditRecord:
    """The record of what was refused."""
    assert isinstance(error.failure.facts, AuditRecord)
    return error.failure.facts


@pytest.fixture
def stage(workspace: Workspace) -> Stage:
    return Stage(workspace)


# ---- trees that pass


def test_a_good_tree_gives_a_verdict_that_is_kept(stage: Stage, workspace: Workspace, fake: FakeEngine) -> None:
    result = stage.run(program(versions={"libc.so.6": ["GLIBC_2.34"]}), facts={"dropped": ((7, "-march=native"),)})
    assert workspace.store.get("audit", stage.key) == (result, "")
    assert result.files == {}
    record = result.read(AuditRecord)
    assert (record.title, record.target, record.passed) == (GROUP, "sandybridge", True)
    assert (record.violations, record.kernel_flags) == ((), ("avx",))
    assert record.allow_list == "the compiler's macros for -march=sandybridge -mtune=sandybridge"
    assert record.symbol_versions == {"GLIBC": "2.34"}
    assert record.dropped_flags == ((7, "-march=native"),)
    assert [each.name for each in record.files] == ["bin/demo"]
    assert stage.log()[0].startswith(f"{GROUP}: passed for sandybridge (1 ELF file, ")
    assert fake.jobs == [], "the audit needs no container"
    names = sorted(
        path.name for path in workspace.store.root.iterdir() if not path.name.startswith((".uses-", ".used-"))
    )
    assert names == [".lock", "audit"], "and leaves nothing"


@pytest.mark.parametrize(("jobs", "used"), [(1, 1), (3, 3), (64, 8)])
def test_it_takes_no_more_processes_than_its_share(
    jobs: int, used: int, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    whole = library.audit_tree

    def audit_tree(*args: Any, **more: Any) -> AuditResult:
        found.append(worker_pool.cores())
        return whole(*args, **more)

    monkeypatch.setattr(library, "audit_tree", audit_tree)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    stage.workspace = replace(stage.workspace, jobs=jobs)
    stage.run(program())
    assert (found, worker_pool.cores()) == ([used], 8)


def test_what_stands_on_a_verdict_is_all_that_it_says(stage: Stage) -> None:
    first = stage.run(program(), key="1" * 32)
    again = stage.run(program(), key="2" * 32)
    other = stage.run(program(ef.AVX + ef.AVX), key="3" * 32)
    assert first.identity == again.identity
    assert other.identity != first.identity


def test_libraries_that_were_built_elsewhere_are_known_to_be(stage: Stage) -> None:
    user = program(needed=["liba.so.1"], runpath="$ORIGIN/../lib")
    library_ = replace(program(ef.TZCNT), interpreter="", soname="liba.so.1")
    tree = {"bin/demo": user, "lib/liba.so.1": library_}
    taken = BundledLibrary(soname="liba.so.1", path="lib/liba.so.1", package="a", version="1", sha256="0" * 64)
    assert stage.judged(tree, facts={"bundled": (taken,)}, key="b" * 32).warnings
    error = stage.refusal(tree)
    assert error.failure.findings[0].startswith("lib/liba.so.1: work: tzcnt x1")


# ---- trees that do not


def test_an_instruction_beyond_the_target_is_refused_with_all_that_is_known(stage: Stage) -> None:
    error = stage.refusal(program(ef.AVX2))
    log = stage.workspace.out / "logs" / GROUP / "audit.log"
    assert error.message == "the audit refuses it for sandybridge: 1 violation"
    [finding] = error.failure.findings
    assert finding.startswith("bin/demo: work: avx2 x1; first at 0x401000: c5 fd fe c1  ")
    assert finding.endswith("sandybridge lacks avx2")
    assert "waive it by file, function and feature" in error.hint
    assert error.failure.log == str(log)
    record = record_of(error)
    assert not record.passed
    assert [line.where for line in record.violations] == ["bin/demo"]
    assert record.findings[0].function == "work"
    assert stage.log()[0].startswith(f"{GROUP}: REFUSED, 1 violation for sandybridge")
    assert f"  violation: {finding}" in stage.log()
    assert f"  reason: {finding}" in error.lines()


@pytest.mark.parametrize(
    ("count", "more"), [(1, []), (12, []), (13, ["1 more, all in the log"]), (70, ["58 more, all in the log"])]
)
def test_an_error_has_the_first_violations_and_the_log_has_all(stage: Stage, count: int, more: list[str]) -> None:
    error = stage.refusal(functions(count))
    assert error.message == f"the audit refuses it for sandybridge: {count} violation{'s' if count > 1 else ''}"
    named = [line.split(":")[1].strip() for line in error.failure.findings[: audit.SHOWN]]
    assert named == [f"f{n:02}" for n in range(min(count, audit.SHOWN))]
    assert list(error.failure.findings[audit.SHOWN :]) == more
    assert len(record_of(error).violations) == count
    assert sum(line.startswith("  violation: bin/demo: f") for line in stage.log()) == count
    assert not any("more" in line for line in stage.log())
    assert len(error.hint.splitlines()) == 1, "what to do is said once"


@pytest.mark.parametrize(
    ("bad_functions", "bad_files", "shown"),
    [(20, 3, (9, 3)), (20, 10, (6, 6)), (2, 20, (2, 10)), (11, 1, (11, 1)), (12, 1, (11, 1)), (0, 14, (0, 12))],
)
def test_many_functions_leave_room_for_violations_of_other_kinds(
    stage: Stage, bad_functions: int, bad_files: int, shown: tuple[int, int]
) -> None:
    tree = {f"lib/p{n:02}.so": ef.Elf(soname=f"p{n:02}.so", needed=["libgone.so"]) for n in range(bad_files)}
    error = stage.refusal({"bin/demo": functions(bad_functions) if bad_functions else program(), **tree})
    lines = error.failure.findings[: audit.SHOWN]
    assert tuple(sum(line.startswith(start) for line in lines) for start in ("bin/demo: f", "lib/p")) == shown
    left = bad_functions + bad_files - sum(shown)
    assert list(error.failure.findings[audit.SHOWN :]) == ([f"{left} more, all in the log"] if left else [])


def test_each_thing_to_do_is_said_once(stage: Stage) -> None:
    error = stage.refusal(replace(functions(3), needed=["libgone.so"], stack=7))
    assert [line.partition(":")[0].partition(",")[0] for line in error.hint.splitlines()] == [
        "compile it for the target; if it runs only after a CPU check",
        "give its assembly files a .note.GNU-stack section",
        "put it into lib/ with a run path of $ORIGIN/../lib",
    ]


def test_a_symbol_version_that_the_image_lacks_is_refused_and_both_are_named(stage: Stage) -> None:
    elf = program(versions={"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.34"]})
    error = stage.refusal(elf, abi={"GLIBC": "2.17"})
    assert error.failure.findings == ("bin/demo: needs GLIBC_2.34, the image has at most GLIBC_2.17",)
    assert stage.judged(elf, abi={"GLIBC": "2.34"}, key="b" * 32).passed
    assert stage.judged(elf, abi={"GLIBC": "2.100"}, key="c" * 32).passed
    assert stage.judged(elf, abi={"GLIBCXX": "3.4.19"}, key="d" * 32).passed, "what is not known is not judged"


def test_what_the_base_system_does_not_promise_is_refused(stage: Stage) -> None:
    error = stage.refusal(program(needed=["libz.so.1"]))
    assert "needs libz.so.1, which is neither" in error.failure.findings[0]
    assert stage.judged(
        program(needed=["libz.so.1"]), defaults__base_libraries=[*BASE_LIBRARIES, "libz.so.1"], key="b" * 32
    ).system_libraries == ("libz.so.1",)


def test_units_that_were_compiled_for_another_cpu_are_refused(stage: Stage) -> None:
    for march, refused in (("haswell", True), ("sandybridge", False)):
        debug = replace(program(), debug=ef.dwarf([(f"GNU C17 -march={march}", "a.c")]))
        if refused:
            [finding] = stage.refusal(program(), debug={"bin/demo": debug}).failure.findings
            assert "compiled with -march=haswell instead of sandybridge" in finding
        else:
            assert stage.judged(program(), debug={"bin/demo": debug}).units[0].march == "sandybridge"


def test_what_cannot_be_read_is_no_verdict(stage: Stage) -> None:
    with pytest.raises(AuditError, match="no compiler macros") as caught:
        stage.run(program(), facts={"macros": ()})
    assert caught.value.where == GROUP
    assert stage.workspace.store.get("audit", stage.key) == (None, "")


def test_names_are_told_as_people_write_them_and_kept_as_they_are(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: list[str], **more: Any) -> process.Completed:
        assert more["stdin"] == b"_Z4workv"
        return process.Completed(argv=tuple(argv), status=0, stdout=b"work()\n", stderr=b"")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "find", lambda _name: "/usr/bin/c++filt")
    error = stage.refusal(program(ef.AVX2, name="_Z4workv"))
    assert error.failure.findings[0].startswith("bin/demo: work() [_Z4workv]: avx2 x1; ")
    assert any(line.startswith("  violation: bin/demo: work() [_Z4workv]: ") for line in stage.log())
    assert record_of(error).findings[0].function == "_Z4workv", "a waiver needs it so"


# ---- paths of the build


@pytest.mark.parametrize("engine", [FakeEngine, HostLike])
def test_the_folder_of_containers_is_in_no_file(tmp_path: Path, engine: Callable[[], FakeEngine]) -> None:
    stage = Stage(make_workspace(tmp_path, engine()))
    error = stage.refusal(program(extra=b"\0/forge/src/main.c\0"))
    assert error.failure.findings == ("bin/demo: holds paths of the build: /forge/src/main.c",)
    assert stage.judged(program(extra=b"\0/forgery/main.c\0")).passed


OWN = f"/home/user/out/work/compile-{GROUP}-owner/src/main.c"


def test_the_host_engines_own_folder_is_in_no_file(tmp_path: Path) -> None:
    stage = Stage(make_workspace(tmp_path, HostLike()))
    error = stage.refusal(program(extra=b"\0" + OWN.encode() + b"\0"))
    assert error.failure.findings == (f"bin/demo: holds paths of the build: {OWN}",)
    beside = b"\0/home/user/out/work/lib/liba.so\0/home/user/out/work/compile-other-owner/a.c\0"
    assert stage.judged(program(extra=beside)).passed, "a library of the user's may be there"


def test_a_folder_of_the_host_is_no_matter_to_containers(stage: Stage) -> None:
    assert stage.judged(program(extra=b"\0" + OWN.encode() + b"\0")).passed


# ---- waivers


def test_a_waiver_of_the_specification_holds(stage: Stage) -> None:
    record = stage.judged(program(ef.AVX2), waivers=[WAIVER])
    assert record.passed
    assert any("waived (avx2): it asks the CPU first" in note for note in record.notes)
    assert record.kernel_flags == ()


@pytest.mark.parametrize(("day", "holds"), [(date(2026, 12, 31), True), (date(2027, 1, 1), False)])
def test_a_waiver_holds_until_its_last_day(stage: Stage, day: date, holds: bool) -> None:
    if holds:
        assert stage.judged(program(ef.AVX2), waivers=[WAIVER], today=day).passed
    else:
        findings = stage.refusal(program(ef.AVX2), waivers=[WAIVER], today=day).failure.findings
        assert [line.partition(":")[0] for line in findings] == ["bin/demo", "waivers"]


def test_a_waiver_that_nothing_needs_is_refused(stage: Stage) -> None:
    assert stage.refusal(program(), waivers=[WAIVER]).failure.findings == (
        "waivers: waiver for avx2 in work of bin/demo is unused: remove it",
    )


ALLOCATORS = {name: {"kind": "none"} for name in ("none", "other")}


@pytest.mark.parametrize(
    ("axis", "glob", "cells"),
    [
        ("image", "el*", ["R620-el7-none", "R620-el7-other"]),
        ("image", "debian12", ["R620-debian12-none", "R620-debian12-other"]),
        ("allocator", "other", ["R620-el7-other", "R620-debian12-other"]),
        ("allocator", "n*", ["R620-el7-none", "R620-debian12-none"]),
        ("target", "sandy*", ["R620-el7-none", "R620-el7-other", "R620-debian12-none", "R620-debian12-other"]),
        ("target", "haswell", []),
    ],
)
def test_a_waiver_is_for_some_images_allocators_and_targets(
    stage: Stage, axis: str, glob: str, cells: list[str]
) -> None:
    waiver = {**WAIVER, axis: glob}
    for number, cell in enumerate(
        f"R620-{image}-{name}" for image in ("el7", "debian12") for name in ("none", "other")
    ):
        key = f"{number:032}"
        if cell in cells:
            more: dict[str, Any] = {"waivers": [waiver], "allocators": ALLOCATORS, "cell": cell, "key": key}
            assert stage.judged(program(ef.AVX2), **more).passed, cell
            continue
        assert stage.judged(program(), waivers=[waiver], allocators=ALLOCATORS, cell=cell, key=key).passed, (
            "it is not unused there"
        )
        with pytest.raises(StageError, match=r": 1 violation$"):
            stage.run(program(ef.AVX2), waivers=[waiver], allocators=ALLOCATORS, cell=cell, key=key)


def test_a_waiver_for_what_the_target_has_is_not_unused(stage: Stage) -> None:
    assert stage.judged(program(), waivers=[{**WAIVER, "features": ["avx"]}]).passed


# ---- the key


def key_material(cell: str = CELL, *, today: date = TODAY, **changes: Any) -> dict[str, Any]:
    spec = make_spec(**changes)
    plain: dict[str, Any] = json.loads(json.dumps(audit.material(spec, the_cell(spec, cell), today=today)))
    return plain


def test_the_key_changes_on_the_day_after_a_waivers_last_one_and_on_no_other() -> None:
    waivers = [
        {**WAIVER, "expires": "2026-06-20"},
        {**WAIVER, "features": ["fma"], "expires": "2026-06-25"},
    ]
    days = [date(2026, 6, 15) + timedelta(days=n) for n in range(20)]
    materials = [key_material(today=day, waivers=waivers) for day in days]
    changes = [str(days[n]) for n in range(1, len(days)) if materials[n] != materials[n - 1]]
    assert changes == ["2026-06-21", "2026-06-26"]


def test_without_waivers_no_day_changes_the_key() -> None:
    assert key_material(today=date(2026, 1, 1)) == key_material(today=date(2036, 1, 1))


@pytest.mark.parametrize(
    "changed",
    [
        key_material("R620-debian12-system"),
        key_material("R620-el7-none"),
        key_material("R640-debian12-none"),
        key_material(defaults__base_libraries=["libm.so.*"]),
        key_material(waivers=[WAIVER]),
    ],
)
def test_the_key_follows_what_decides_the_verdict(changed: dict[str, Any]) -> None:
    assert changed != key_material()


def test_no_table_is_left_out_of_the_key() -> None:
    assert set(features.TABLES) == {path.name for path in features.FOLDER.glob("*.csv")}


def test_the_key_follows_tables_decoder_and_judgement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = key_material()
    with monkeypatch.context() as patched:
        patched.setattr(audit_result, "REVISION", audit_result.REVISION + 1)
        assert key_material() != before
    with monkeypatch.context() as patched:
        patched.setattr(audit_result, "library_version", lambda name: f"another {name}")
        assert key_material() != before
    folder = features.FOLDER
    for name in features.TABLES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.setattr(features, "FOLDER", tmp_path)
    assert key_material() == before
    for name in features.TABLES:
        with (tmp_path / name).open("ab") as stream:
            stream.write(b"\n")
        after = key_material()
        assert after != before, name
        before = after


def test_the_key_does_not_follow_what_the_audit_does_not_see() -> None:
    same = key_material(
        "R720-debian12-none",
        product__server__port=7001,
        product__smoke=[],
        product__version="v2",
        defaults__image="el7",
    )
    assert same == key_material()


# ---- what the image promises


@pytest.fixture
def measure(workspace: Workspace, fake: FakeEngine) -> Callable[..., dict[str, str]]:
    """What is measured in an image with these libraries."""
    (workspace.home / "docker/guest/abi.sh").write_text("# abi.sh\n")

    def measure(**libraries: bytes) -> dict[str, str]:
        names = {"libc": "libc.so.6", "libstdcxx": "libstdc++.so.6", "libgcc": "libgcc_s.so.1"}
        outputs = {f"out/{soname}": libraries.get(name, b"") for name, soname in names.items()}
        fake.endings["image-debian12"] = Ending(outputs=outputs)
        log = workspace.log_path("debian12", "image")
        return abi.measure(workspace, "image:runtime", stage="image", label="debian12", log=log)

    return measure


def _defining(*names: str) -> bytes:
    return ef.make(ef.Elf(soname="lib.so", defines=["lib.so", *names]))


def test_the_abi_is_the_highest_version_of_each_namespace(
    measure: Callable[..., dict[str, str]], fake: FakeEngine
) -> None:
    found = measure(
        libc=_defining("GLIBC_2.2.5", "GLIBC_2.36", "GLIBC_2.4", "GLIBC_PRIVATE"),
        libstdcxx=_defining("GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "CXXABI_1.3.13", "CXXABI_1.3.2", "CXXABI_FLOAT128"),
        libgcc=_defining("GCC_3.0", "GCC_12.0.0", "GCC_4.8.0"),
    )
    assert found == {"GLIBC": "2.36", "GLIBCXX": "3.4.30", "CXXABI": "1.3.13", "GCC": "12.0.0"}
    [job] = fake.jobs
    assert (job.image, job.network) == ("image:runtime", "none")
    assert job.argv == ("sh", "guest/abi.sh", "libc.so.6", "libstdc++.so.6", "libgcc_s.so.1")
    assert "guest/abi.sh" in members(job.inputs[0])


def test_a_library_that_the_image_has_not_promises_nothing(measure: Callable[..., dict[str, str]]) -> None:
    assert measure(libc=_defining("GLIBC_2.17")) == {"GLIBC": "2.17"}
    assert measure() == {}


def test_libraries_that_cannot_be_fetched_are_told(
    measure: Callable[..., dict[str, str]], workspace: Workspace, fake: FakeEngine
) -> None:
    measure()
    fake.endings["image-debian12"] = Ending(status=22, log="forge: reason: ldconfig does not list it\n")
    log = workspace.log_path("debian12", "image")
    with pytest.raises(StageError, match="the base libraries cannot be read") as caught:
        abi.measure(workspace, "image:runtime", stage="image", label="debian12", log=log)
    assert caught.value.failure.findings == ("ldconfig does not list it",)
    assert caught.value.failure.status == 22


def test_a_base_library_that_is_no_program_is_told(measure: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(AuditError):
        measure(libc=b"/* GNU ld script */\n")


# ---- the distribution's own libraries


GUARDED = code.library(
    {
        "sum": (code.LEAF_7, code.CPUID, code.HAS_AVX2, code.jne("yes"), code.RET, "yes:", code.jmp("fast")),
        "fast": (code.AVX2, code.RET),
    },
    exports=["sum"],
    soname="liba.so.1",
)


def image_with(stage: Stage, data: bytes = GUARDED, *, altered: tuple[str, ...] = (), known: bool = True) -> Path:
    """The record of an image that has a library."""
    place = stage.workspace.base / "in-the-image"
    place.write_bytes(data)
    entry = ImageLibrary(
        path="/usr/lib/liba.so.1.2",
        package="liba1",
        version="1.2-3",
        sha256=hashlib.sha256(data).hexdigest(),
        code=code_digest(place),
    )
    path = stage.workspace.base / libraries.FILE
    path.write_text(Libraries(libraries=(entry,) if known else (), altered=altered).model_dump_json())
    return path


def bundled(path: str = "lib/liba.so.1", data: bytes = GUARDED, package: str = "liba1") -> BundledLibrary:
    digest = hashlib.sha256(data).hexdigest()
    return BundledLibrary(soname="liba.so.1", path=path, package=package, version="9", sha256=digest)


def user() -> bytes:
    return ef.make(program(needed=["liba.so.1"], runpath="$ORIGIN/../lib"))


def test_a_library_of_the_images_own_package_is_accepted(stage: Stage) -> None:
    tree = {"bin/demo": user(), "lib/liba.so.1": GUARDED}
    record = stage.judged(tree, facts={"bundled": (bundled(),)}, record=image_with(stage))
    [found] = record.dispatched
    assert (found.package, found.version, found.features) == ("liba1", "1.2-3", ("avx2",)), "the record's word"
    assert list(record.packaged) == ["lib/liba.so.1"]
    assert record.kernel_flags == ("avx",), "of the program, not of what the library has beyond that"


@pytest.mark.parametrize(
    ("claim", "record", "why"),
    [
        ({}, {"known": False}, "no package of the image has brought this file (of liba1)"),
        (
            {},
            {"known": False, "altered": ("/usr/lib/liba.so.1.2",)},
            "/usr/lib/liba.so.1.2 in the image is not what its package has brought",
        ),
        ({"data": b"another"}, {}, "no package of the image has brought this file (of liba1)"),
    ],
)
def test_why_a_bundled_library_is_not_the_distributions(
    stage: Stage, claim: dict[str, Any], record: dict[str, Any], why: str
) -> None:
    tree = {"bin/demo": user(), "lib/liba.so.1": GUARDED}
    error = stage.refusal(tree, facts={"bundled": (bundled(**claim),)}, record=image_with(stage, **record))
    assert f"lib/liba.so.1: not taken for the distribution's own: {why}" in record_of(error).notes


def test_a_bundled_library_that_is_refused_is_traced_to_its_cause(stage: Stage) -> None:
    """Such as libstdc++ where base_libraries does not have it."""
    tree = {"bin/demo": user(), "lib/liba.so.1": GUARDED}
    error = stage.refusal(
        tree, facts={"bundled": (bundled(package="lib\x1ba1"),)}, record=image_with(stage, known=False)
    )
    cause = "it travels in the tree because no glob of defaults.base_libraries fits liba.so.1"
    assert f"lib/liba.so.1 is of the image's package lib a1; {cause}" in error.hint.splitlines()
    own = {"bin/demo": ef.make(program(ef.AVX2)), "lib/liba.so.1": ef.make(ef.Elf(soname="liba.so.1"))}
    error = stage.refusal(own, facts={"bundled": (bundled(),)}, record=image_with(stage))
    assert cause not in error.hint, "the control: the library is not what is refused"


def test_a_recipe_that_lies_about_what_it_has_bundled(stage: Stage) -> None:
    """The digests are what a container says in which the recipe has been root: the code in the tree must fit, too."""
    evil = code.library({"sum": (code.AVX2, code.RET)}, exports=["sum"], soname="liba.so.1")
    tree = {"bin/demo": user(), "lib/liba.so.1": evil}
    error = stage.refusal(tree, facts={"bundled": (bundled(),)}, record=image_with(stage))
    assert error.failure.findings[0].startswith("lib/liba.so.1: sum: avx2 x1; ")
    own = {"bin/demo": ef.make(program(ef.AVX2)), "lib/liba.so.1": GUARDED}
    error = stage.refusal(own, facts={"bundled": (bundled(), bundled("bin/demo"))}, record=image_with(stage))
    assert [finding.split(":")[0] for finding in error.failure.findings] == ["bin/demo"]


def test_a_library_that_was_built_here_is_not_the_distributions(stage: Stage) -> None:
    tree = {"bin/demo": user(), "lib/liba.so.1": GUARDED}
    claim = (bundled(package=BUILT_HERE),)
    error = stage.refusal(tree, facts={"bundled": claim}, record=image_with(stage))
    assert record_of(error).packaged == {}


def test_an_image_without_a_record_has_no_libraries_of_its_own(stage: Stage) -> None:
    tree = {"bin/demo": user(), "lib/liba.so.1": GUARDED}
    assert record_of(stage.refusal(tree, facts={"bundled": (bundled(),)})).packaged == {}


def test_the_key_follows_the_baseline() -> None:
    assert key_material(images__debian12__baseline="x86_64_v2") != key_material()
