"""`audit` as a user calls it: arguments, exit statuses, and what is printed where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit import artifacts, code
from unit import elf_files as ef
from unit.code import Part
from unit.helpers import BASE

from pikaforge.audit import audit_result
from pikaforge.audit.elf.code import code_digest
from pikaforge.cli import main
from pikaforge.cli.commands import audit
from pikaforge.cpu import microarch
from pikaforge.errors import HostError
from pikaforge.host import process

Run = Callable[..., tuple[int, str, str]]

GCC_MACROS = ("__AVX__", "__XSAVE__", "__SSE4_2__", "__SSE3__")
WAIVER: dict[str, Any] = {
    "file": "bad*",
    "function": "work",
    "features": ["avx2"],
    "reason": "it asks the CPU first",
    "expires": "2026-12-31",
}


def program(code: bytes, *, name: str = "work", **more: Any) -> bytes:
    text = code + ef.RET
    return ef.make(ef.Elf(text=text, symbols=[(name, 0, len(text), ef.FUNC)], **more))


class Compiler:
    """A gcc that knows a few macros, and takes down how it was called."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.programs = {"gcc"}

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in self.programs else None

    def run(self, argv: list[str], **more: Any) -> process.Completed:
        assert argv[0] in self.programs
        self.asked.append(list(argv))
        text = "12.2.0\n" if "-dumpversion" in argv else "".join(f"#define {name} 1\n" for name in GCC_MACROS)
        if argv[0] == "c++filt":
            text = more["stdin"].decode().replace("_Z4workv", "work()")
        return process.Completed(argv=tuple(argv), status=0, stdout=text.encode(), stderr=b"")


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """This machine's programs; of the day, that waivers have not expired."""
    compiler = Compiler()
    monkeypatch.setattr(process, "find", compiler.find)
    monkeypatch.setattr(process, "run", compiler.run)
    monkeypatch.setattr(audit_result, "today", lambda: date(2026, 6, 15))
    return compiler


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a matrix.yaml, a program for Sandy Bridge, and one that it does not run."""
    matrix(tmp_path)
    (tmp_path / "good").write_bytes(program(ef.AVX))
    (tmp_path / "bad").write_bytes(program(ef.AVX2))
    (tmp_path / "text").write_text("#!/bin/sh\n")
    return tmp_path


def matrix(folder: Path, **more: Any) -> None:
    (folder / "matrix.yaml").write_text(yaml.safe_dump({**BASE, **more}, sort_keys=False), encoding="utf-8")


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the verb, its paths relative to the project: exit status, standard output, standard error."""
    monkeypatch.setenv("PIKAFORGE_CWD", str(project))

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            status = main.main(["audit", *argv, "--matrix", "matrix.yaml"])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return status, shown.out, shown.err

    return run


# ---- the target


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("R62O", "did you mean R620 or R720 or R640?"),
        ("PowerEdge", "known: R620, R720, R640"),
        ("sandybridge", "known: R620, R720, R640"),
    ],
)
def test_a_model_that_is_not_known(run: Run, model: str, hint: str) -> None:
    assert run("good", "--model", model) == (
        2,
        "",
        (
            f"error: there is no hardware model {model!r}\n  where: --model\n  hint: {hint}\n"
            "  see: docs/troubleshooting.md#e-usage\n"
        ),
    )


def test_a_target_that_is_nearly_known(run: Run) -> None:
    status, out, err = run("good", "--target", "sandybrigde")
    assert (status, out) == (2, "")
    first, where, hint, see = err.splitlines()
    assert first == "error: 'sandybrigde' is no x86-64 microarchitecture that archspec knows"
    assert where == "  where: --target"
    assert hint.startswith("  hint: did you mean sandybridge")
    assert see == "  see: docs/troubleshooting.md#e-usage"


@pytest.mark.parametrize("target", ["Q", "power9", "armv8.2a"])
def test_a_target_that_is_not_known_at_all(run: Run, target: str) -> None:
    status, out, err = run("good", "--target", target)
    assert (status, out) == (2, "")
    assert f"error: {target!r} is no x86-64 microarchitecture" in err
    assert "  hint: " in err


def test_where_nothing_is_close_all_targets_are_listed(run: Run) -> None:
    _, _, err = run("good", "--target", "Q")
    assert err.splitlines()[-2] == f"  hint: known: {', '.join(sorted(microarch.known()))}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["good"], "one of the arguments --model --target is required"),
        (["good", "--model", "R620", "--target", "sandybridge"], "not allowed with argument"),
        (["--model", "R620"], "the following arguments are required: PATH"),
        (["good", "--model"], "expected one argument"),
        (["good", "--model", "R620", "--formats", "rpm"], "unrecognized arguments: --formats"),
    ],
)
def test_a_wrong_command_line_ends_with_2(run: Run, argv: list[str], message: str) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("usage: python -m pikaforge ")
    assert message in err


@pytest.mark.parametrize(
    ("argv", "target", "flags"),
    [
        (["--model", "R620"], "sandybridge", ["-march=sandybridge", "-mtune=sandybridge"]),
        (["--model", "R640"], "skylake_avx512", ["-march=skylake-avx512", "-mtune=skylake-avx512"]),
        (["--target", "haswell"], "haswell", ["-march=haswell", "-mtune=haswell"]),
    ],
)
def test_a_model_stands_for_what_all_its_cpus_run(
    run: Run, compiler: Compiler, argv: list[str], target: str, flags: list[str]
) -> None:
    status, out, err = run("good", *argv, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)[0]["target"] == target
    asked = compiler.asked[-1]
    assert [flag for flag in asked if not flag.startswith("-mno-")] == [
        "gcc", *flags, "-dM", "-E", "-x", "c", "/dev/null"
    ]  # fmt: skip
    assert ("-mno-fsgsbase" in asked) == (target != "sandybridge")


def test_without_a_compiler_the_verdict_says_so_and_stands(run: Run, compiler: Compiler) -> None:
    compiler.programs = set()
    status, out, err = run("bad", "good", "--target", "sandybridge")
    assert (status, err) == (4, "")
    assert out.count("warning: audit: there is no gcc here to ask for the features of the target") == 2
    assert "good: passed for sandybridge" in out
    assert "bad: REFUSED, 1 violation for sandybridge" in out
    assert compiler.asked == []


# ---- the verdict


def test_a_good_file_ends_with_0(run: Run, project: Path) -> None:
    status, out, err = run("good", "--model", "R620")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith(f"{project / 'good'}: passed for sandybridge (1 ELF file, ")
    assert "  needs of the CPU: avx" in out.splitlines()


def test_a_bad_file_ends_with_4(run: Run, project: Path) -> None:
    status, out, err = run("bad", "--model", "R620")
    assert (status, err) == (4, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{project / 'bad'}: REFUSED, 1 violation for sandybridge ")
    assert lines[1].startswith("  violation: bad: work: avx2 x1; first at 0x401000: ")


@pytest.mark.parametrize("paths", [("good", "bad"), ("bad", "good"), ("bad", "bad2")])
def test_one_bad_file_of_two_is_enough_and_both_are_told(run: Run, project: Path, paths: tuple[str, str]) -> None:
    (project / "bad2").write_bytes(program(ef.FMA))
    status, out, err = run(*paths, "--target", "sandybridge")
    assert (status, err) == (4, "")
    titles = [line.partition(": ")[0] for line in out.splitlines() if not line.startswith(" ")]
    assert titles == [str(project / path) for path in paths]


def test_two_good_files_end_with_0(run: Run, project: Path) -> None:
    (project / "good2").write_bytes(program(ef.NOP))
    assert run("good", "good2", "--target", "sandybridge")[0] == 0


def test_a_folder_is_judged_as_one(run: Run, project: Path) -> None:
    folder = project / "tree/bin"
    folder.mkdir(parents=True)
    for name in ("good", "bad", "text"):
        (project / name).rename(folder / name)
    status, out, _ = run("tree", "--target", "sandybridge")
    assert status == 4
    assert out.splitlines()[0].startswith(f"{project / 'tree'}: REFUSED, 1 violation for sandybridge (2 ELF files, ")
    assert "  violation: bin/bad: work: avx2" in out


def test_json_is_for_scripts(run: Run, project: Path) -> None:
    status, out, err = run("good", "bad", "--model", "R620", "--json")
    assert (status, err) == (4, "")
    good, bad = json.loads(out)
    assert (good["title"], good["passed"], good["violations"]) == (str(project / "good"), True, [])
    assert (bad["title"], bad["passed"], bad["violations"][0]["where"]) == (str(project / "bad"), False, "bad")
    assert bad["allow_list"] == "macros of gcc 12.2.0 -march=sandybridge -mtune=sandybridge"


def test_names_are_demangled_for_people_and_not_for_scripts(run: Run, project: Path, compiler: Compiler) -> None:
    compiler.programs.add("c++filt")
    (project / "bad").write_bytes(program(ef.AVX2, name="_Z4workv"))
    assert "violation: bad: work() [_Z4workv]: avx2 x1" in run("bad", "--model", "R620")[1]
    found = json.loads(run("bad", "--model", "R620", "--json")[1])
    assert found[0]["findings"][0]["function"] == "_Z4workv"
    assert "work()" not in json.dumps(found)


def test_long_verdicts_are_cut_unless_all_is_asked_for(run: Run, project: Path) -> None:
    text = (ef.AVX2 + ef.RET) * 50
    elf = replace(ef.Elf(text=text), symbols=[(f"f{n}", 5 * n, 5, ef.FUNC) for n in range(50)])
    (project / "bad").write_bytes(ef.make(elf))
    for more, shown, cut in (((), 40, True), (("--all",), 50, False)):
        status, out, _ = run("bad", "--model", "R620", *more)
        assert status == 4
        assert sum(line.startswith("  violation: bad: f") for line in out.splitlines()) == shown
        assert ("  violation: … and 10 more" in out.splitlines()) is cut
    assert len(json.loads(run("bad", "--model", "R620", "--json")[1])[0]["violations"]) == 50


# ---- what cannot be judged


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("text", "this is neither an ELF file nor a package", True),
        ("nowhere", "cannot read the file: No such file or directory", False),
        ("broken", "truncated", False),
        ("broken.tar.gz", "", False),
    ],
)
def test_what_cannot_be_read_is_told_without_a_traceback(
    run: Run, project: Path, path: str, message: str, hint: bool
) -> None:
    (project / "broken").write_bytes(program(ef.AVX)[:300])
    (project / "broken.tar.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    status, out, err = run("good", path, "--model", "R620")
    assert (status, out) == (4, ""), "not even the verdict on the file that is good"
    assert err.startswith("error: ")
    assert message in err
    assert path in err.splitlines()[1]
    assert ("  hint: packages are known by their names" in err) is hint


def test_an_empty_folder_is_told(run: Run, project: Path) -> None:
    (project / "empty").mkdir()
    status, out, err = run("empty", "--model", "R620")
    assert (status, out) == (4, "")
    assert err.splitlines() == [
        "error: there is no x86-64 program or library to judge", f"  where: {project / 'empty'}",
        "  see: docs/troubleshooting.md#e-file",
    ]  # fmt: skip


def test_what_was_unpacked_is_removed(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def audit_paths(paths: list[Path], scratch: Path, **_: Any) -> None:
        (scratch / "0").write_text("unpacked")
        seen.append(scratch)
        raise HostError("the disk is full")

    monkeypatch.setattr(audit, "audit_paths", audit_paths)
    printed = "error: the disk is full\n  see: docs/troubleshooting.md#e-host\n"
    assert run("good", "--model", "R620") == (3, "", printed)
    assert not seen[0].exists()


# ---- paths and waivers


def test_paths_are_the_users(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """setup.sh and nox change the folder, and say where the user was; without them, it is this one."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "bad").write_bytes(program(ef.AVX))
    monkeypatch.chdir(elsewhere)
    assert run("bad", "--model", "R620")[0] == 4
    assert run(str(elsewhere / "bad"), "--model", "R620")[0] == 0
    (elsewhere / "matrix.yaml").write_bytes((project / "matrix.yaml").read_bytes())
    monkeypatch.delenv("PIKAFORGE_CWD")
    assert run("bad", "--model", "R620")[0] == 0


def test_the_waivers_of_the_matrix_hold(run: Run, project: Path) -> None:
    matrix(project, waivers=[WAIVER])
    status, out, err = run("bad", "--model", "R620")
    assert (status, err) == (0, "")
    assert "waived (avx2): it asks the CPU first (until 2026-12-31)" in out


def test_waivers_of_an_image_or_allocator_hold_for_files_of_that(run: Run, project: Path) -> None:
    matrix(project, waivers=[{**WAIVER, "image": "el7", "allocator": "system"}])
    status, out, _ = run("bad", "--model", "R620")
    assert status == 4
    assert "is for other files, unless this one is of --os el7 and --allocator system: if so, say that" in out
    assert run("bad", "--model", "R620", "--os", "el7", "--allocator", "system")[0] == 0
    assert run("bad", "--model", "R620", "--os", "el8", "--allocator", "system")[0] == 4
    matrix(project, waivers=[{**WAIVER, "target": "nehalem"}])
    assert run("bad", "--model", "R620")[0] == 4


def test_waivers_need_not_be_used(run: Run, project: Path) -> None:
    matrix(project, waivers=[{**WAIVER, "file": "other"}])
    assert run("good", "--model", "R620")[0] == 0
    assert run("bad", "--model", "R620")[0] == 4


def test_waivers_come_from_files_too(run: Run, project: Path) -> None:
    (project / "more.yaml").write_text(yaml.safe_dump({"waivers": [WAIVER]}), encoding="utf-8")
    assert run("bad", "--model", "R620")[0] == 4
    assert run("bad", "--model", "R620", "--waivers", "more.yaml")[0] == 0
    for text, words in (
        ("waivers: [{}]\n", "is missing"),
        ("- 1\n", "wants a mapping"),
        ("hardware: {}\n", "unknown key"),
    ):
        (project / "more.yaml").write_text(text, encoding="utf-8")
        status, out, err = run("bad", "--model", "R620", "--waivers", "more.yaml")
        assert (status, out) == (2, "")
        assert words in err
    assert run("bad", "--model", "R620", "--waivers", "nowhere.yaml")[0] == 2


def test_old_waivers_by_address_say_what_to_write_instead(run: Run, project: Path) -> None:
    matrix(project, waivers=[{**WAIVER, "function": "range@0x401000"}])
    status, out, err = run("bad", "--model", "R620")
    assert (status, out) == (2, "")
    assert "add the file's build_id or sha256, as `nox -s audit -- FILE --draft-waivers` prints it" in err


# ---- drafts


HOSTILE = [
    "work\n- file: '*'",
    'a"b\\c',
    "\x1b[31mred",
    "x\u2028y",
    "##[error]",
    "go[shape]*?",
    "\U0001f4a3",
    "ä" * 600,
]


def test_drafts_can_be_fed_back(run: Run, project: Path) -> None:
    folder = project / "tree/bin"
    folder.mkdir(parents=True)
    note = {".build_id": ef.note("5" * 40)}
    symbol = ef.make(ef.Elf(text=ef.AVX2 + ef.RET, symbols=[("work", 0, 5, ef.FUNC)], debug=note))
    (folder / "pinned").write_bytes(ef.build_id(symbol, "5" * 40))
    (folder / "stripped").write_bytes(ef.make(ef.Elf(text=ef.FMA + ef.RET)))
    (folder / "silent").write_bytes(program(ef.TZCNT + ef.BAD))
    status, draft, err = run("tree", "good", "--model", "R620", "--draft-waivers")
    assert (status, err) == (4, "")
    made = yaml.safe_load(draft)["waivers"]
    assert [(w["file"], w["function"], w["features"]) for w in made] == [
        ("bin/pinned", "work", ["avx2"]),
        ("bin/silent", "work", ["invalid"]),
        ("bin/stripped", "gap@0x401000", ["fma"]),
    ]
    assert (made[0]["build_id"], len(made[2]["sha256"])) == ("5" * 40, 64)
    (project / "draft.yaml").write_text(draft, encoding="utf-8")
    status, out, _ = run("tree", "--model", "R620", "--waivers", "draft.yaml")
    assert status == 0
    assert out.count("draft: not examined") == 3
    status, out, _ = run("tree", "--model", "R620", "--waivers", "draft.yaml", "--strict")
    assert (status, out.count("is a draft that nobody has examined")) == (4, 3)
    (folder / "stripped").write_bytes(ef.make(ef.Elf(text=ef.FMA * 2 + ef.RET)))
    assert run("tree", "--model", "R620", "--waivers", "draft.yaml")[0] == 4, "another file at the same place"


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_names_in_drafts(name: str, run: Run, project: Path) -> None:
    (project / "bad").write_bytes(program(ef.AVX2, name=name))
    status, draft, _ = run("bad", "--model", "R620", "--draft-waivers")
    assert status == 4
    [entry] = yaml.safe_load(draft)["waivers"]
    assert entry["file"] == "bad"
    (project / "draft.yaml").write_text(draft, encoding="utf-8")
    status, out, _ = run("bad", "--model", "R620", "--waivers", "draft.yaml")
    assert status == (4 if "##[" in name else 0), out


def test_a_draft_of_nothing_is_empty(run: Run, project: Path) -> None:
    status, draft, _ = run("good", "--model", "R620", "--draft-waivers")
    assert (status, yaml.safe_load(draft)) == (0, {"waivers": []})


# ---- the last lines


def test_the_last_line_of_each_file_has_its_verdict(run: Run, project: Path) -> None:
    (project / "doubtful").write_bytes(program(ef.TZCNT))
    status, out, _ = run("good", "bad", "doubtful", "--model", "R620")
    assert status == 4
    lines = [re.sub(" and .* of data", "", line) for line in out.splitlines() if line.startswith("  file: ")]
    numbers = "5 bytes decoded, 0 functions dispatched, 0 waived, 0 unproven; 0 bytes not judged"
    assert lines == [
        f"  file: good: passed; {numbers}",
        f"  file: bad: refused; {numbers}",
        f"  file: doubtful: not proven; {numbers.replace('0 unproven', '1 unproven')}",
    ]
    assert out.splitlines()[-1].startswith("  file: doubtful: ")
    found = json.loads(run("doubtful", "--model", "R620", "--json")[1])[0]
    assert {**found["summaries"][0], "data": {}} == {
        "file": "doubtful", "verdict": "not proven", "decoded": 5, "data": {}, "unclassified": 0, "dispatched": 0,
        "waived": 0, "unproven": 1,
    }  # fmt: skip
    assert (found["passed"], len(found["unproven"]), found["not_judged"]) == (True, 1, [])


def test_strict_refuses_what_is_not_proven(run: Run, project: Path) -> None:
    (project / "doubtful").write_bytes(program(ef.TZCNT))
    assert run("doubtful", "--model", "R620")[0] == 0
    assert run("good", "--model", "R620", "--strict")[0] == 0
    status, out, _ = run("doubtful", "--model", "R620", "--strict")
    assert status == 4
    assert "violation: doubtful: not proven: work: tzcnt x1" in out
    (project / "w.yaml").write_text(
        yaml.safe_dump({"waivers": [{**WAIVER, "file": "doubtful", "features": ["tzcnt"]}]})
    )
    assert run("doubtful", "--model", "R620", "--strict", "--waivers", "w.yaml")[0] == 0


def test_strict_refuses_what_is_not_judged(run: Run, project: Path) -> None:
    folder = project / "tree"
    folder.mkdir()
    (project / "good").rename(folder / "good")
    (folder / "arm").write_bytes(ef.make(ef.Elf(machine=183)))
    status, out, _ = run("tree", "--model", "R620")
    assert status == 0
    assert "  file: arm: not judged: it is for AArch64, so these CPUs never run it" in out.splitlines()
    status, out, _ = run("tree", "--model", "R620", "--strict")
    assert status == 4
    assert "violation: arm: not judged: it is for AArch64" in out


# ---- files that others built


@pytest.mark.parametrize(
    ("elf", "words"),
    [
        (ef.Elf(runpath="/usr/lib/private"), "its RUNPATH has /usr/lib/private"),
        (ef.Elf(rpath="relative"), "its RPATH has relative"),
        (ef.Elf(stack=None), "has no PT_GNU_STACK"),
        (ef.Elf(stack=7), "asks for an executable stack"),
        (ef.Elf(needed=["/opt/liba.so"]), "by its path"),
    ],
)
def test_linkage_of_files_of_others_is_noted(elf: ef.Elf, words: str, run: Run, project: Path) -> None:
    (project / "theirs").write_bytes(ef.make(elf))
    status, out, _ = run("theirs", "--model", "R620", "--strict")
    assert status == 0
    assert any(line.startswith("  note: theirs: ") and words in line for line in out.splitlines())


def test_code_that_can_be_written_to_is_not_proven(run: Run, project: Path) -> None:
    (project / "theirs").write_bytes(ef.make(ef.Elf(text_flags=7)))
    status, out, _ = run("theirs", "--model", "R620")
    assert (status, "theirs: not proven" in out) == (0, True)
    assert run("theirs", "--model", "R620", "--strict")[0] == 4


def test_an_expired_waiver_lets_nothing_pass(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix(project, waivers=[WAIVER])
    monkeypatch.setattr(audit_result, "today", lambda: date(2027, 1, 1))
    status, out, _ = run("bad", "--model", "R620")
    assert status == 4
    assert "expired on 2026-12-31" in out


def test_a_broken_matrix_is_told_before_anything_is_judged(run: Run, project: Path) -> None:
    matrix(project, waivers=[{**WAIVER, "file": "*"}])
    status, out, err = run("good", "--target", "sandybridge")
    assert (status, out) == (2, "")
    assert "not everything" in err


# ---- packages of our own


def guarded(entry: Sequence[Part] = (code.LEAF_7, code.CPUID, code.HAS_AVX2)) -> bytes:
    """A library that runs AVX2 code after a question to the CPU."""
    functions = {"sum": (*entry, code.jne("yes"), code.RET, "yes:", code.jmp("fast")), "fast": (code.AVX2, code.RET)}
    return code.library(functions, exports=["sum"], soname="liba.so.1")


def delivered(project: Path, data: bytes, name: str = "demo.tar.gz", **claim: Any) -> Path:
    """A package with a library of the distribution in it, as a build leaves it."""
    place = project / "in-the-package"
    place.write_bytes(data)
    entry = {
        "soname": "liba.so.1",
        "path": "lib/liba.so.1",
        "package": "liba1",
        "version": "1.2-3",
        "sha256": "5" * 64,
        "code": code_digest(place),
        **claim,
    }
    return artifacts.deliver(
        project / "dist",
        name,
        tree={**artifacts.TREE, "lib/liba.so.1": data},
        bundled_libraries=[entry],
        image__baseline="x86_64",
    )


@pytest.mark.parametrize("name", ["demo.tar.gz", "demo.deb", "demo.whl"])
def test_a_package_tells_which_libraries_are_the_distributions(run: Run, project: Path, name: str) -> None:
    delivered(project, guarded(), name)
    status, out, err = run(f"dist/{name}", "--model", "R620")
    assert (status, err) == (0, "")
    assert "lib/liba.so.1, liba1 1.2-3 as its distribution has it: avx2 in fast; only by sum, which asks the CPU" in out


def test_what_the_library_does_is_found_out_anew(run: Run, project: Path) -> None:
    delivered(project, guarded((code.TEST_EDI,)))
    status, out, _ = run("dist/demo.tar.gz", "--model", "R620")
    assert status == 4
    assert "reached without a question to the CPU: sum" in out


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.with_name("demo.tar.gz.intoto.json").unlink(),
        lambda path: path.with_name("SHA256SUMS").write_text(f"{'0' * 64}  demo.tar.gz\n"),
        lambda path: artifacts.flip(path.with_name("demo.tar.gz.sbom.json")),
    ],
)
def test_a_package_that_is_not_verified_tells_nothing(
    run: Run, project: Path, damage: Callable[[Path], object]
) -> None:
    damage(delivered(project, guarded()))
    status, out, _ = run("dist/demo.tar.gz", "--model", "R620")
    assert status == 4
    assert "lib/liba.so.1: not taken for the distribution's own: the package is not verified: " in out


def test_where_a_key_is_configured_the_package_must_be_signed_by_it(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(project, guarded())
    (project / "key.asc").write_text("no key")
    monkeypatch.setenv("PIKAFORGE_VERIFY_KEYS", "key.asc")
    status, _, err = run("dist/demo.tar.gz", "--model", "R620")
    assert (status, err.splitlines()[0]) == (3, "error: the program `gpgv` is missing on this machine")


@pytest.mark.parametrize("claim", [{"code": "0" * 64}, {"code": ""}])
def test_a_manifest_that_does_not_fit_the_library(run: Run, project: Path, claim: dict[str, str]) -> None:
    delivered(project, guarded(), **claim)
    assert run("dist/demo.tar.gz", "--model", "R620")[0] == 4


def test_a_baseline_that_nobody_knows_tells_nothing(run: Run, project: Path) -> None:
    data = guarded()
    (project / "x").write_bytes(data)
    entry = {"path": "lib/liba.so.1", "soname": "x", "package": "a", "version": "1", "sha256": "5" * 64,
             "code": code_digest(project / "x")}  # fmt: skip
    artifacts.deliver(
        project / "dist", "demo.tar.gz", tree={**artifacts.TREE, "lib/liba.so.1": data},
        bundled_libraries=[entry], image__baseline="pdp11",
    )  # fmt: skip
    status, out, _ = run("dist/demo.tar.gz", "--model", "R620")
    assert (status, "as its distribution has it" in out) == (0, False), "it is judged as a file of others"


def test_a_library_alone_is_nobodys(run: Run, project: Path) -> None:
    (project / "liba.so.1").write_bytes(guarded())
    status, out, _ = run("liba.so.1", "--model", "R620")
    assert status == 0, "in files of others evidence counts"
    assert "dispatched: liba.so.1: dispatched: 1 functions: avx2 in fast; only by sum, which asks the CPU" in out
