"""The allocator stage: what it asks of the engine, what it keeps, how it fails; and who takes its result."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from unit import elf_files as ef
from unit.cell_results import IMAGE as IMAGE_FACTS
from unit.cell_results import SOURCE
from unit.cell_results import result as stage_result
from unit.elf_files import library
from unit.helpers import Ending, FakeEngine, make_spec, members, tar_of, the_cell

from pikaforge.audit import audit
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.judge_allocator import AllocatorRules
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.config.schema import Spec
from pikaforge.errors import EXIT_HOST, EXIT_STAGE, ConfigError, HostError, StageError
from pikaforge.host.job import Job
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import allocator
from pikaforge.pipeline import compile as compile_stage
from pikaforge.pipeline.allocator import AllocatorFacts
from pikaforge.plan.allocators.gperftools import BUILT

SCRIPTS = BUILT.scripts
CELL, FRAMES = "R620-debian12-own", "R620-debian12-frames"
GROUP = "debian12-sandybridge-own"
KEY = "a" * 32
THEN = 1_600_000_000
SECRET = "https://example.org/get/{}?token=secret"
IMAGE = stage_result("image", IMAGE_FACTS)


def tarball(name: str, file: str, mtime: int) -> bytes:
    """A release: one file in a top folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(f"{name}/{file}")
        info.size, info.mtime = 4, mtime
        tar.addfile(info, io.BytesIO(b"text"))
    return buffer.getvalue()


SOURCES = {
    "gperftools-2.7.tar": tarball("gperftools-2.7", "configure.ac", THEN),
    "libunwind-1.3.1.tar": tarball("libunwind-1.3.1", "unwind.c", THEN + 99),
}
ENTRIES: dict[str, Any] = {
    "none": {"kind": "none"},
    "system": {"kind": "system"},
    "own": {"kind": "gperftools", "unwinder": "libunwind", "tarball": "gperftools", "libunwind": "unwind"},
    "frames": {"kind": "gperftools", "unwinder": "frame-pointers", "tarball": "gperftools"},
}


def pinned(**versions: str) -> dict[str, Any]:
    """Entries of `tarballs`; an argument changes a version."""
    files = {"gperftools": ("2.7", "gperftools-2.7.tar"), "unwind": ("1.3.1", "libunwind-1.3.1.tar")}
    return {
        name: {
            "version": versions.get(name, version),
            "url": SECRET.format(file),
            "sha256": hashlib.sha256(SOURCES[file]).hexdigest(),
        }
        for name, (version, file) in files.items()
    }


def spec_with(**changes: Any) -> Spec:
    return make_spec(**{"allocators": ENTRIES, "tarballs": pinned(), **changes})


# ---- libraries made by hand


def archive(contents: Mapping[str, bytes | str]) -> bytes:
    """As guests make them; a text is where a symbolic link leads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
                continue
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TC, PROFILER = "11" * 20, "22" * 20
PREFIX = archive(
    {
        "lib/libtcmalloc.so": "libtcmalloc.so.4.5.9",
        "lib/libtcmalloc.so.4": "libtcmalloc.so.4.5.9",
        "lib/libtcmalloc.so.4.5.9": library(TC, soname="libtcmalloc.so.4"),
        "lib/libprofiler.so.0.5.0": library(PROFILER, soname="libprofiler.so.0"),
        "lib/libtcmalloc.a": b"!<arch>\n",
        "include/gperftools/tcmalloc.h": b"/* */",
    }
)
UNWINDER = {
    "asked": "libunwind",
    "chosen": "libunwind",
    "method": "libunwind",
    "compiled": "generic_fp,libunwind",
    "libunwind": "image libunwind-dev 1.6.2-3",
    "gperftools": "2.7",
    "configure": "--prefix=/usr --enable-libunwind",
}
FACTS = tar_of(
    {
        "facts/unwinder.tsv": (
            "asked\tlibunwind\nchosen\tlibunwind\nmethod\tlibunwind\ncompiled\tgeneric_fp,libunwind\n"
            "libunwind\timage\tlibunwind-dev\t1.6.2-3\ngperftools\t2.7\nconfigure\t--prefix=/usr --enable-libunwind\n"
        ),
        "facts/dropped.tsv": "3\t-march=native\n1\t-O3\n",
        "facts/compiler.txt": "gcc (Debian) 12.2.0\nTarget: x86_64-linux-gnu\n",
        "facts/macros.txt": "#define __AVX__ 1\n",
    }
)
OUTPUTS = {"packed/prefix.tar": PREFIX, "packed/debug.tar": archive({}), "packed/facts.tar": FACTS}


@pytest.fixture
def run(workspace: Workspace, fake: FakeEngine) -> Callable[..., Result]:
    """Run the stage with tarballs that are in the download folder already."""
    fake.endings["allocator"] = Ending(outputs=OUTPUTS)
    folder = workspace.out / "downloads"
    folder.mkdir(parents=True)
    for name, data in SOURCES.items():
        (folder / name).write_bytes(data)

    def run(cell: str = CELL, *, shop: Workspace | None = None, key: str = KEY, **changes: Any) -> Result:
        spec = spec_with(**changes)
        return allocator.make(shop or workspace, spec, the_cell(spec, cell), IMAGE, key=key)

    return run


def contents(job: Job) -> dict[str, bytes]:
    """Content of all inputs by path below the root."""
    return {name: data for item in job.inputs for name, (_, data) in members(item).items()}


# ---- what is asked


def test_the_job(run: Callable[..., Result], fake: FakeEngine, workspace: Workspace) -> None:
    fake.endings["allocator"] = _looking(fake)
    run()
    [job] = fake.jobs
    assert (job.label, job.image) == (f"allocator-{GROUP}", IMAGE_FACTS.build)
    assert job.argv == ("sh", "guest/run.sh", "allocator", "prefix", "debug", "facts")
    assert job.env == {
        "PIKAFORGE_PRODUCT": "gperftools",
        "PIKAFORGE_VERSION": "2.7",
        "PIKAFORGE_UNWINDER": "libunwind",
        "PIKAFORGE_JOBS": "2",
        "PIKAFORGE_TARGET_FLAGS": "-march=sandybridge -mtune=sandybridge",
        "PIKAFORGE_CCACHE": "1",
        "SOURCE_DATE_EPOCH": str(THEN),
    }
    assert job.network == "none", "all that it needs it is given"
    assert len(job.cache) == 64, "the cache of these sources"
    assert (job.outputs, job.facts) == (("packed/prefix.tar", "packed/debug.tar"), ("packed/facts.tar",))
    assert job.log == workspace.out / "logs" / GROUP / "allocator.log"
    assert _seen(fake) == {
        **{f"guest/{name}": f"# {name}\n".encode() for name in ("lib.sh", "run.sh", *SCRIPTS)},
        "src/configure.ac": b"text",
        "libunwind/unwind.c": b"text",
    }


def _looking(fake: FakeEngine) -> Callable[[Job], Ending]:
    """Inputs are gone when the stage is done, so they are looked at while the job runs."""

    def look(job: Job) -> Ending:
        fake.seen = contents(job)  # type: ignore[attr-defined]
        return Ending(outputs=OUTPUTS)

    return look


def _seen(fake: FakeEngine) -> dict[str, bytes]:
    seen: dict[str, bytes] = fake.seen  # type: ignore[attr-defined]
    return seen


def test_frame_pointers_need_no_libunwind(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.endings["allocator"] = _looking(fake)
    result = run(FRAMES)
    assert fake.jobs[0].env["PIKAFORGE_UNWINDER"] == "frame-pointers"
    assert not [name for name in _seen(fake) if name.startswith("libunwind/")]
    assert list(result.read(AllocatorFacts).tarballs) == ["src"]


@pytest.mark.parametrize("place", ["debian", "debian12"])
def test_the_image_s_own_libunwind_is_not_built_again(run: Callable[..., Result], fake: FakeEngine, place: str) -> None:
    packages = {place: {"build": ["libunwind-dev"]}}
    fake.endings["allocator"] = _looking(fake)
    result = run(allocators={**ENTRIES, "own": {**ENTRIES["own"], "packages": packages}})
    assert not [name for name in _seen(fake) if name.startswith("libunwind/")]
    assert list(result.read(AllocatorFacts).tarballs) == ["src"]


def test_without_a_compiler_cache(run: Callable[..., Result], fake: FakeEngine, workspace: Workspace) -> None:
    run(shop=replace(workspace, compiler_cache=False, jobs=7))
    [job] = fake.jobs
    assert (job.cache, job.env["PIKAFORGE_CCACHE"], job.env["PIKAFORGE_JOBS"]) == ("", "0", "7")


# ---- what is kept


def test_the_result(run: Callable[..., Result], workspace: Workspace) -> None:
    result = run()
    assert workspace.store.get("allocator", KEY) == (result, "")
    files = {name: path.read_bytes() for name, path in result.files.items()}
    assert files.pop("compiler-cache").startswith(b"sha256:")
    assert files == {"prefix.tar": PREFIX, "debug.tar": OUTPUTS["packed/debug.tar"]}
    assert result.identity == hashlib.sha256(PREFIX).hexdigest(), "two with the same libraries are one"
    sources = pinned()
    wanted = {
        "version": "2.7",
        "tarballs": {
            "src": {
                "version": "2.7",
                "url": "https://example.org/get/gperftools-2.7.tar?***",
                "sha256": sources["gperftools"]["sha256"],
            },
            "libunwind": {
                "version": "1.3.1",
                "url": "https://example.org/get/libunwind-1.3.1.tar?***",
                "sha256": sources["unwind"]["sha256"],
            },
        },
        "unwinder": UNWINDER,
        "libraries": {"libprofiler.so.0": PROFILER, "libtcmalloc.so.4": TC},
        "compiler": ["gcc (Debian) 12.2.0", "Target: x86_64-linux-gnu"],
        "dropped": [[3, "-march=native"], [1, "-O3"]],
        "epoch": THEN,
    }
    assert {name: result.facts.get(name) for name in wanted} == wanted
    record = (workspace.store.root / "allocator" / KEY / "result.json").read_text(encoding="utf-8")
    assert "password" not in record
    assert "secret" not in record
    assert list(workspace.store.root.glob(".new-*")) == []


# ---- whence the tarballs


def test_a_file_that_was_given_serves_for_gperftools(
    run: Callable[..., Result], fake: FakeEngine, workspace: Workspace, tmp_path: Path
) -> None:
    (workspace.out / "downloads/gperftools-2.7.tar").unlink()
    given = tmp_path / "mine.tar"
    given.write_bytes(SOURCES["gperftools-2.7.tar"])
    fake.endings["allocator"] = _looking(fake)
    run(shop=replace(workspace, given={"gperftools": given}))
    assert {"src/configure.ac", "libunwind/unwind.c"} <= set(_seen(fake)), "and for nothing else"
    assert given.is_file()


def test_a_file_that_was_given_and_is_another(
    run: Callable[..., Result], fake: FakeEngine, workspace: Workspace, tmp_path: Path
) -> None:
    given = tmp_path / "mine.tar"
    given.write_bytes(SOURCES["libunwind-1.3.1.tar"])
    with pytest.raises(ConfigError, match=r"mine\.tar is not the gperftools-2\.7\.tar that is pinned") as caught:
        run(shop=replace(workspace, given={"gperftools": given}))
    found, wanted = (
        hashlib.sha256(SOURCES[name]).hexdigest() for name in ("libunwind-1.3.1.tar", "gperftools-2.7.tar")
    )
    assert found in caught.value.message
    assert wanted in caught.value.message
    assert fake.jobs == []


@pytest.mark.parametrize("name", ["gperftools", "unwind"])
def test_a_tarball_that_cannot_be_had(
    run: Callable[..., Result], fake: FakeEngine, workspace: Workspace, name: str
) -> None:
    sources = pinned()
    sources[name]["url"] = f"file://{workspace.base}/absent.tar"
    with pytest.raises(HostError, match=r"^cannot download absent\.tar: .* does not exist$") as caught:
        run(tarballs=sources)
    assert caught.value.exit_code == EXIT_HOST
    assert fake.jobs == []
    assert workspace.store.get("allocator", KEY) == (None, "")


def test_a_tarball_that_is_none(run: Callable[..., Result], fake: FakeEngine, workspace: Workspace) -> None:
    page = workspace.base / "page.tar"
    page.write_text("<html>404</html>")
    sources = pinned()
    sources["gperftools"] |= {"url": page.as_uri(), "sha256": hashlib.sha256(page.read_bytes()).hexdigest()}
    with pytest.raises(HostError, match=r"^page\.tar is not a source tarball: "):
        run(tarballs=sources)
    assert fake.jobs == []


# ---- how it fails

LOG = (
    "checking for libunwind.h... no\n"
    "forge: reason: the image has no libunwind.h: install libunwind-dev\n"
    "src/a.cc:1:2: error: no\n"
)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (64, ("gperftools could not be built", "see the log; another version: allocators.own.tarballs")),
        (65, ("gperftools is not what was asked for", "allocators.own says what is asked for")),
        (66, ("the build image lacks something", "see docker/debian/Dockerfile and allocators.own.packages")),
        (2, ("gperftools could not be built", "")),
        (137, ("gperftools could not be built", "")),
    ],
)
def test_a_job_that_fails_is_explained(
    run: Callable[..., Result], fake: FakeEngine, workspace: Workspace, status: int, said: tuple[str, str]
) -> None:
    fake.endings["allocator"] = Ending(status=status, log=LOG)
    with pytest.raises(StageError) as caught:
        run()
    error = caught.value
    assert ((error.message, error.hint), error.exit_code) == (said, EXIT_STAGE)
    assert error.where == f"stage allocator, {GROUP}"
    failure = error.failure
    assert (failure.stage, failure.label, failure.status) == ("allocator", GROUP, status)
    assert failure.findings == ("the image has no libunwind.h: install libunwind-dev",)
    assert failure.tail[-1] == "src/a.cc:1:2: error: no"
    assert failure.log == str(workspace.out / "logs" / GROUP / "allocator.log")
    assert failure.command == "sh guest/run.sh allocator prefix debug facts"
    assert workspace.store.get("allocator", KEY) == (None, "")
    assert list(workspace.store.root.glob(".new-*")) == []


def test_a_job_that_takes_too_long(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.endings["allocator"] = Ending(timed_out=True)
    with pytest.raises(StageError) as caught:
        run()
    assert caught.value.message == "gperftools could not be built: it ran longer than 14400 s"


# ---- the key


def material(workspace: Workspace, cell: str = CELL, **changes: Any) -> dict[str, Any]:
    spec = spec_with(**changes)
    plain: dict[str, Any] = json.loads(json.dumps(allocator.material(spec, the_cell(spec, cell), workspace.home)))
    return plain


def tarballs_with(name: str, **changes: str) -> dict[str, Any]:
    sources = pinned()
    sources[name] |= changes
    return sources


@pytest.mark.parametrize(
    ("cell", "changes"),
    [
        (CELL, {"tarballs": tarballs_with("gperftools", sha256="0" * 64)}),
        (CELL, {"tarballs": tarballs_with("gperftools", version="2.7.1")}),
        (CELL, {"tarballs": tarballs_with("unwind", sha256="0" * 64)}),
        (CELL, {"tarballs": tarballs_with("unwind", version="1.5.0")}),
        (FRAMES, {}),
        ("R640-debian12-own", {}),
        ("R620-el7-own", {}),
        (CELL, {"allocators": {**ENTRIES, "own": {**ENTRIES["own"], "libunwind": None}}}),
    ],
    ids=["sha256", "version", "libunwind", "its version", "unwinder", "flags", "flags of an old gcc", "no libunwind"],
)
def test_the_key_follows_what_decides_the_library(workspace: Workspace, cell: str, changes: dict[str, Any]) -> None:
    assert material(workspace, cell, **changes) != material(workspace)


def test_the_key_follows_the_unwinder_alone(workspace: Workspace) -> None:
    bare = {**ENTRIES, "own": {**ENTRIES["own"], "libunwind": None}}
    libunwind, frames = material(workspace, CELL, allocators=bare), material(workspace, FRAMES)
    assert {**libunwind, "unwinder": "frame-pointers"} == frames != libunwind


@pytest.mark.parametrize("script", ["allocator.sh", "toolchain.sh", "cc", "ccache.conf", "lib.sh", "run.sh"])
def test_the_key_follows_its_scripts(workspace: Workspace, script: str) -> None:
    before = material(workspace)
    (workspace.home / "docker/guest" / script).write_text("# changed\n")
    assert material(workspace) != before


def test_the_key_does_not_follow_where_it_comes_from(workspace: Workspace) -> None:
    before = material(workspace)
    (workspace.home / "docker/guest/bundle.sh").write_text("# changed\n")
    assert before == material(
        workspace,
        "R720-debian12-own",  # another model with the same target
        tarballs=tarballs_with("gperftools", url="https://mirror.example.org/gperftools-2.7.tar"),
        mirrors=["https://mirror.example.org/"],
        product__version="v2.0",
    )
    assert "example.org" not in json.dumps(before)


# ---- the product is compiled with it


@pytest.fixture
def compiled(workspace: Workspace, fake: FakeEngine) -> Callable[[str], Job]:
    """The job that compiles a cell."""
    facts = tar_of({"facts/compiler.txt": "gcc\n", "facts/macros.txt": "#define __AVX__ 1\n"})
    fake.endings["compile"] = Ending(
        outputs={
            "packed/tree.tar": tar_of({"bin/demo": "x"}),
            "packed/debug.tar": tar_of({}),
            "packed/facts.tar": facts,
        }
    )
    files = {name: workspace.base / name for name in ("source.tar", "prefix.tar")}
    for name, path in files.items():
        path.write_bytes(tar_of({f"lib/{name}": "x"}))
    source = stage_result("source", SOURCE.model_copy(update={"epoch": THEN}), files)
    built = Result(stage="allocator", key="k", identity="i", facts={}, files=files)

    def compile_it(name: str) -> Job:
        spec = spec_with()
        cell = the_cell(spec, f"R620-debian12-{name}")
        given = built if spec.allocators[name].kind == "gperftools" else None
        compile_stage.make(workspace, spec, cell, source, IMAGE, key=KEY, allocator=given)
        return fake.jobs[-1]

    return compile_it


@pytest.mark.parametrize(
    ("name", "said", "frames"),
    [("own", "own", "0"), ("frames", "own", "1"), ("none", "none", "0"), ("system", "system", "0")],
)
def test_the_recipe_is_told(compiled: Callable[[str], Job], name: str, said: str, frames: str) -> None:
    job = compiled(name)
    assert (job.env["PIKAFORGE_ALLOCATOR"], job.env["PIKAFORGE_FRAME_POINTERS"]) == (said, frames)
    own = said == "own"
    assert job.env.get("PIKAFORGE_ALLOCATOR_DIR") == ("/forge/allocator" if own else None)
    held = contents(job)
    assert ("allocator/./lib/prefix.tar" in held) is own
    assert "src/./lib/source.tar" in held


def test_the_key_of_the_product_follows_kind_and_frame_pointers(workspace: Workspace) -> None:
    spec = spec_with()
    found = [
        json.dumps(
            compile_stage.material(
                spec, the_cell(spec, f"R620-debian12-{name}"), base=workspace.base, home=workspace.home
            )
        )
        for name in ENTRIES
    ]
    assert len(set(found)) == 4


# ---- the audit finds its debug information

OURS = f"{TC}"
SONAME = "libtcmalloc.so.4"
MACROS = ["#define __AVX__ 1", "#define __XSAVE__ 1"]


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., AuditResult]:
    """Audit a tree with our library in it, whose debug information is in an archive of its own."""

    def judge(
        debug: Mapping[str, bytes], *, name: str = f"lib/{SONAME}", product: Mapping[str, bytes] | None = None
    ) -> AuditResult:
        program = ef.Elf(
            text=ef.AVX + ef.RET, needed=[SONAME], runpath="$ORIGIN/../lib", interpreter="/lib64/ld-linux-x86-64.so.2"
        )
        tars = []
        tree = {"bin/demo": ef.make(program), name: library(OURS, soname=SONAME)}
        for number, contents_ in enumerate((tree, product or {}, debug)):
            tars.append(tmp_path / f"{number}.tar")
            tars[-1].write_bytes(archive(contents_))
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        rules = Rules(
            linkage=LinkageRules(base_libraries=("libc.so.*", "ld-linux-x86-64.so.*"), maxima={}),
            memory=AllocatorRules(kind="gperftools", programs=("bin/demo",), ours={SONAME: OURS}),
        )
        return audit.audit_compiled(
            tars[0], tars[1:], scratch, label=GROUP, target="sandybridge",
            flags_used=("-march=sandybridge", "-mtune=sandybridge"), macros=MACROS, bundled=(), dropped=(),
            rules=rules, today=date(2026, 6, 15), workers=1,
        )  # fmt: skip

    return judge


def units(march: str, value: str = TC) -> bytes:
    """Debug information of a library that was compiled for something."""
    return library(value, debug=ef.dwarf([(f"GNU C++17 -march={march}", "tcmalloc.cc")]))


def marches(verdict: AuditResult) -> dict[str, str]:
    return {unit.file: unit.march for unit in verdict.flags.units}


def test_debug_information_is_found_by_build_id(judged: Callable[..., AuditResult]) -> None:
    verdict = judged({"lib/libtcmalloc.so.4.5.9.debug": units("sandybridge")})
    assert verdict.violations == ()
    assert marches(verdict) == {f"lib/{SONAME}": "sandybridge"}
    assert (verdict.memory.library, verdict.memory.unwinder) == (f"lib/{SONAME}", "none")


def test_what_it_tells_is_judged(judged: Callable[..., AuditResult]) -> None:
    verdict = judged({"lib/libtcmalloc.so.4.5.9.debug": units("haswell")})
    [line] = verdict.violations
    assert line.where == f"lib/{SONAME}"
    assert "compiled with -march=haswell instead of sandybridge" in line.what


def test_debug_information_of_another_library_is_not_taken(judged: Callable[..., AuditResult]) -> None:
    verdict = judged({"lib/libprofiler.so.0.5.0.debug": units("haswell", PROFILER)})
    assert (verdict.violations, marches(verdict)) == ((), {})


def test_the_name_goes_before_the_build_id(judged: Callable[..., AuditResult]) -> None:
    verdict = judged({f"lib/{SONAME}.debug": units("sandybridge"), "lib/libx.so.debug": units("haswell")})
    assert marches(verdict) == {f"lib/{SONAME}": "sandybridge"}


def test_files_without_a_build_id_are_not_taken_for_one_another(judged: Callable[..., AuditResult]) -> None:
    bare = ef.make(ef.Elf(text=ef.AVX + ef.RET, debug=ef.dwarf([("GNU C17 -march=haswell", "a.c")])))
    assert marches(judged({"lib/nobody.so.debug": bare})) == {}
