"""The mapping table, the allow-lists made from it, and the guards."""

from __future__ import annotations

import re

import pytest
from iced_x86 import Code, CpuidFeature, Decoder
from unit import elf_files as ef

from pikaforge.audit import allowed_features
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.cpu.features import guarded, guards, kernel_flags, table
from pikaforge.errors import HostError
from pikaforge.host import process

SANDYBRIDGE = [f"#define {m} 1" for m in (
    "__AVX__", "__SSE3__", "__SSSE3__", "__SSE4_1__", "__SSE4_2__", "__POPCNT__", "__PCLMUL__", "__XSAVE__",
    "__XSAVEOPT__", "__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16")]  # fmt: skip


def names(holder: object) -> set[str]:
    return {n for n in dir(holder) if n[0].isupper() and isinstance(getattr(holder, n), int)}


def test_every_feature_that_iced_knows_is_in_the_table() -> None:
    assert {f.iced for f in table().values()} == names(CpuidFeature)


def test_every_opcode_has_features_of_the_table() -> None:
    known = {*table(), "invalid"}
    by_code = features_by_code()
    assert len(by_code) == len(names(Code))
    assert all(ids and known.issuperset(ids) for ids in by_code)


def test_every_line_has_a_reason() -> None:
    for feature in table().values():
        assert feature.reason, feature.id
        if feature.policy in ("ignored", "dangerous"):
            assert re.search(r"SDM|APM", feature.reason), feature.id


def test_every_judged_feature_that_compilers_use_has_a_macro() -> None:
    for feature in table().values():
        assert re.fullmatch(r"__[A-Za-z0-9_]+", feature.gcc) or feature.gcc == "", feature.id
        if feature.archspec and feature.policy not in ("baseline",):
            assert feature.gcc, feature.id


def test_the_spelling_of_the_kernel() -> None:
    wanted = {"sse3": "pni", "lzcnt": "abm", "cmpxchg16b": "cx16", "sha": "sha_ni", "avx512_ifma": "avx512ifma",
              "avx512_vbmi": "avx512vbmi", "monitorx": "mwaitx", "d3now": "3dnow", "cet_ss": "user_shstk",
              "prefetchw": "3dnowprefetch", "avx512_vnni": "avx512_vnni", "tzcnt": "bmi1"}  # fmt: skip
    assert {i: table()[i].kernel for i in wanted} == wanted
    assert kernel_flags(["avx2", "bmi1", "tzcnt", "lzcnt", "ptwrite", "invalid"]) == ("abm", "avx2", "bmi1")


@pytest.mark.parametrize(
    ("code", "ids"),
    [
        (ef.LZCNT, ("lzcnt",)),
        (ef.TZCNT, ("tzcnt",)),
        (ef.RDSSP, ("rdssp",)),
        (ef.INCSSP, ("cet_ss",)),
        (ef.XGETBV, ("xgetbv",)),
        (ef.BROADCAST_REGISTER, ("avx2",)),
        (ef.BROADCAST_MEMORY, ("avx",)),
        (ef.AVX512, ("avx512f",)),
        (ef.FMA, ("fma",)),
        (ef.BAD, ("invalid",)),
        (ef.ENDBR, ("cet_ibt",)),
        (ef.LONG_NOP, ("multibytenop",)),
        (ef.PREFETCHW, ("prefetchw",)),
        (bytes.fromhex("c4e270f3c9"), ("bmi1",)),  # blsr %ecx,%ecx
        (bytes.fromhex("0fbdc7"), ("intel386",)),  # bsr, what old CPUs make of lzcnt
        (bytes.fromhex("9f"), ("lahf",)),
        (bytes.fromhex("9e"), ("sahf",)),
    ],
)
def test_instructions(code: bytes, ids: tuple[str, ...]) -> None:
    (instruction,) = Decoder(64, code)
    assert features_by_code()[instruction.code] == ids


def test_the_allow_list_of_sandybridge() -> None:
    found = allowed_features.from_macros(SANDYBRIDGE, "sandybridge")
    assert {"avx", "sse4_2", "xsave", "xgetbv", "cmpxchg16b", "rdtscp"} <= found.sure
    assert {"cet_ibt", "rdssp", "multibytenop", "prefetchw", "cldemote", "sse2"} <= found.sure
    assert not found.sure & {"avx2", "lzcnt", "tzcnt", "fma", "bmi1", "bmi2", "movbe", "avx512f", "cet_ss", "rdrand"}
    assert found.doubtful == {"aes"}
    assert not found.warning


def test_what_runs_as_another_instruction_is_never_doubtful() -> None:
    found = allowed_features.from_macros(SANDYBRIDGE, "haswell")
    assert {"avx2", "movbe", "bmi1"} <= found.doubtful
    assert not found.doubtful & {"lzcnt", "tzcnt"}


def test_the_lineage_counts_where_no_macro_tells() -> None:
    assert "rdtscp" in allowed_features.from_macros(SANDYBRIDGE, "nehalem").sure
    assert "rdtscp" not in allowed_features.from_macros(SANDYBRIDGE, "x86_64_v3").sure


def test_no_macros_allow_only_what_is_free_and_warn() -> None:
    found = allowed_features.from_macros([], "x86_64")
    assert found.sure == allowed_features.free()
    assert found.warning


def test_without_gcc_archspec_answers_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda _name: None)
    found = allowed_features.from_gcc("haswell")
    assert {"avx2", "bmi2", "movbe", "lzcnt"} <= found.sure
    assert "no gcc" in found.warning
    assert "archspec" in found.source


def test_a_gcc_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> process.Completed:
        raise HostError("it hangs")

    monkeypatch.setattr(process, "find", lambda _name: "/usr/bin/gcc")
    monkeypatch.setattr(process, "run", broken)
    assert "it hangs" in allowed_features.from_gcc("haswell").warning


def test_a_gcc_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(argv: list[str], **_: object) -> process.Completed:
        asked.append(argv)
        text = "12.2.0\n" if "-dumpversion" in argv else "\n".join(SANDYBRIDGE)
        return process.Completed(argv=tuple(argv), status=0, stdout=text.encode(), stderr=b"")

    monkeypatch.setattr(process, "find", lambda _name: "/usr/bin/gcc")
    monkeypatch.setattr(process, "run", run)
    found = allowed_features.from_gcc("sandybridge")
    assert asked[1][:3] == ["gcc", "-march=sandybridge", "-mtune=sandybridge"]
    assert "avx" in found.sure
    assert found.source == "macros of gcc 12.2.0 -march=sandybridge -mtune=sandybridge"


def test_guards_name_guarded_features() -> None:
    for guard in guards():
        assert guard.reason
        for feature in guard.features:
            assert table()[feature].policy == "guarded", (guard.function, feature)


@pytest.mark.parametrize(
    ("function", "feature", "yes"),
    [
        ("__cpu_indicator_init", "xgetbv", True),
        ("__cpu_indicator_init", "avx2", False),
        ("_ZNSt12_GLOBAL__N_112__x86_rdrandEPv", "rdrand", True),
        ("_Unwind_Resume", "cet_ss", True),
        ("main", "cet_ss", False),
        ("range@0x1000", "xgetbv", False),
    ],
)
def test_guards(function: str, feature: str, yes: bool) -> None:
    assert bool(guarded(function, feature)) is yes
