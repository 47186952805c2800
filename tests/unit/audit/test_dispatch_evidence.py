"""Evidence of dispatch: what is proven to run only where the CPU has said so, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from unit import code as c
from unit import elf_files as ef
from unit.code import Part

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.elf.layout import PT_DYNAMIC, read_layout
from pikaforge.audit.elf.pointers import DT_HASH
from pikaforge.audit.isa import piece_scan, ranges
from pikaforge.audit.isa.decode import CodeSource, Hit, scan
from pikaforge.audit.isa.dispatch.known import known

BASELINE = of_baseline("x86_64")
FAST: Sequence[Part] = (c.AVX2, c.RET)
SLOW: Sequence[Part] = (c.RET,)
ASK_AVX2: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.RESTORE_RBX)
"""Leaves ZF clear where the CPU has AVX2: pop changes no flags."""


def look(data: bytes, tmp_path: Path, *, version: str = "") -> dict[tuple[str, str], Hit]:
    path = tmp_path / "library"
    path.write_bytes(data)
    source = CodeSource(file="lib/x.so.1", path=path, known=known("libzstd1", version, "libzstd.so.1"))
    [found] = scan([source], BASELINE, workers=1)
    return {(h.function, h.feature): h for h in found.hits}


def proven(data: bytes, tmp_path: Path, *, function: str = "fast", feature: str = "avx2", version: str = "") -> bool:
    hit = look(data, tmp_path, version=version)[function, feature]
    assert bool(hit.evidence) != bool(hit.doubt)
    return bool(hit.evidence)


def test_a_function_that_is_called_after_a_question(tmp_path: Path) -> None:
    data = c.library(
        {"sum": (*ASK_AVX2, c.jne("yes"), c.jmp("slow"), "yes:", c.jmp("fast")), "fast": FAST, "slow": SLOW},
        exports=["sum"],
    )
    assert look(data, tmp_path)["fast", "avx2"].evidence == "only by sum, which asks the CPU"


def test_a_function_that_is_called_without_one(tmp_path: Path) -> None:
    data = c.library({"sum": (c.jmp("fast"),), "fast": FAST}, exports=["sum"])
    hit = look(data, tmp_path)["fast", "avx2"]
    assert (hit.evidence, hit.doubt) == ("", "reached without a question to the CPU: sum")


def test_one_caller_that_asks_and_one_that_does_not(tmp_path: Path) -> None:
    functions = {
        "sum": (*ASK_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("fast")),
        "other": (c.call("middle"), c.RET),
        "middle": (c.jmp("fast"),),
        "fast": FAST,
    }
    assert proven(c.library(functions, exports=["sum"]), tmp_path) is False  # nobody calls `other`: who knows why
    assert proven(c.library(functions, exports=["sum", "other"]), tmp_path) is False
    del functions["other"], functions["middle"]
    assert proven(c.library(functions, exports=["sum"]), tmp_path) is True


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((c.LEAF_7, c.CPUID, c.HAS_AVX2), True),
        ((c.LEAF_1, c.CPUID, c.HAS_AVX2), False),  # the bit of another leaf
        ((c.LEAF_7, c.CPUID, c.HAS_BMI2), False),  # another bit
        ((c.LEAF_1, c.CPUID, c.HAS_SSE42), False),
        ((c.CPUID, c.HAS_AVX2), False),  # whatever was in %eax
        ((c.LEAF_7, c.HAS_AVX2, c.CPUID), False),  # asked too late
        ((c.LEAF_7, c.CPUID, c.TEST_EDI), False),  # asked, and not looked at
    ],
)
def test_only_the_right_question_counts(asked: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    data = c.library({"sum": (*asked, c.jne("yes"), c.RET, "yes:", c.jmp("fast")), "fast": FAST}, exports=["sum"])
    assert proven(data, tmp_path) is expected


def test_the_wrong_way_round(tmp_path: Path) -> None:
    data = c.library({"sum": (*ASK_AVX2, c.je("no"), c.RET, "no:", c.jmp("fast")), "fast": FAST}, exports=["sum"])
    assert proven(data, tmp_path) is False


def test_a_question_whose_answer_decides_something_else(tmp_path: Path) -> None:
    functions = {"sum": (*ASK_AVX2, c.jne("yes"), c.ZERO_EAX, "yes:", c.jmp("fast")), "fast": FAST}
    assert proven(c.library(functions, exports=["sum"]), tmp_path) is False


def test_code_within_the_function_that_asks(tmp_path: Path) -> None:
    guarded = (*ASK_AVX2, c.je("no"), c.AVX2, "no:", c.RET)
    early = (c.AVX2, *guarded)
    late = (*ASK_AVX2, c.je("no"), c.AVX2, "no:", c.AVX2, c.RET)
    assert proven(c.library({"sum": guarded}, exports=["sum"]), tmp_path, function="sum") is True
    assert proven(c.library({"sum": early}, exports=["sum"]), tmp_path, function="sum") is False
    assert proven(c.library({"sum": late}, exports=["sum"]), tmp_path, function="sum") is False


def test_what_no_cpu_has_without_the_feature(tmp_path: Path) -> None:
    """Who asks for BMI2 may use LZCNT; who asks for AVX may not use AVX2."""
    lzcnt = {"sum": (c.LEAF_7, c.CPUID, c.HAS_BMI2, c.jne("yes"), c.RET, "yes:", c.jmp("fast")),
             "fast": (bytes.fromhex("f30fbdc7"), c.RET)}  # fmt: skip
    assert proven(c.library(lzcnt, exports=["sum"]), tmp_path, feature="lzcnt") is True
    asks_avx = (c.LEAF_1, c.CPUID, bytes.fromhex("f7c100000010"))  # test $0x10000000,%ecx
    avx2 = {"sum": (*asks_avx, c.jne("yes"), c.RET, "yes:", c.jmp("fast")), "fast": FAST}
    assert proven(c.library(avx2, exports=["sum"]), tmp_path) is False


@pytest.mark.parametrize("way", ["branch", "conditional move"])
@pytest.mark.parametrize("asks", [True, False])
def test_a_table_that_is_filled_at_the_start(way: str, asks: bool, tmp_path: Path) -> None:
    question = ASK_AVX2 if asks else (c.TEST_EDI,)
    by_branch = (*question, c.lea_rax("slow"), c.je("no"), c.lea_rax("fast"), "no:", c.store_rax("table"), c.RET)
    by_move = (c.lea_rdx("fast"), c.lea_rax("slow"), *_keeping_rdx(question), c.CMOVNE_RDX, c.store_rax("table"), c.RET)
    functions = {
        "init": by_branch if way == "branch" else by_move,
        "sum": (c.through("table"),),
        "fast": FAST,
        "slow": SLOW,
    }
    data = c.library(functions, exports=["sum"], data={"table": bytes(8)}, starters=["init"])
    hit = look(data, tmp_path)["fast", "avx2"]
    assert bool(hit.evidence) is asks
    assert "init" in (hit.evidence or hit.doubt)


def _keeping_rdx(question: Sequence[Part]) -> Sequence[Part]:
    """cpuid writes to %edx and %eax: what is in there is put aside."""
    if c.CPUID not in question:
        return question
    save, restore = bytes.fromhex("4989d04989c1"), bytes.fromhex("4c89c24c89c8")  # by %r8 and %r9
    return (save, *question, restore)


def test_a_table_that_is_stored_all_the_same(tmp_path: Path) -> None:
    functions = {
        "init": (*ASK_AVX2, c.lea_rax("fast"), c.je("no"), c.store_rax("table"), "no:", c.store_rax("other"), c.RET),
        "sum": (c.through("table"),),
        "fast": FAST,
    }
    data = c.library(
        functions,
        exports=["sum"],
        data={"table": bytes(8), "other": bytes(8)},
        starters=["init"],
    )
    assert proven(data, tmp_path) is False


def test_a_table_that_is_there_from_the_start(tmp_path: Path) -> None:
    functions = {"sum": (*ASK_AVX2, c.through("table")), "fast": FAST}
    data = c.library(functions, exports=["sum"], data={"table": bytes(8)}, pointers={"table": "fast"})
    assert proven(data, tmp_path) is False


def test_a_table_that_only_who_asks_takes(tmp_path: Path) -> None:
    functions = {
        "init": (*ASK_AVX2, c.lea_rax("slowly"), c.je("no"), c.lea_rax("quickly"), "no:", c.store_rax("chosen"), c.RET),
        "sum": (c.through("chosen"),),
        "fast": FAST,
        "slow": SLOW,
    }
    data = c.library(
        functions,
        exports=["sum"],
        data={"chosen": bytes(8), "slowly": bytes(8), "quickly": bytes(8)},
        pointers={"slowly": "slow", "quickly": "fast"},
        starters=["init"],
    )
    assert proven(data, tmp_path) is True


@pytest.mark.parametrize("asks", [True, False])
def test_an_ifunc(asks: bool, tmp_path: Path) -> None:
    asking = (*ASK_AVX2, c.lea_rax("slow"), c.je("no"), c.lea_rax("fast"), "no:", c.RET)
    resolver = asking if asks else (c.lea_rax("fast"), c.RET)
    data = c.library({"resolve": resolver, "fast": FAST, "slow": SLOW}, data={"got": bytes(8)}, resolvers=["resolve"])
    hit = look(data, tmp_path)["fast", "avx2"]
    assert hit.evidence == ("chosen by the ifunc resolver resolve" if asks else "")


DETECT: Sequence[Part] = (*ASK_AVX2, c.SETNE_EAX, c.RET)
"""Returns 1 where the CPU has AVX2."""


def test_a_question_in_a_function_of_its_own(tmp_path: Path) -> None:
    functions = {
        "sum": (c.call("detect"), c.TEST_EAX, c.jne("yes"), c.RET, "yes:", c.jmp("fast")),
        "detect": DETECT,
        "fast": FAST,
    }
    hit = look(c.library(functions, exports=["sum"]), tmp_path)["fast", "avx2"]
    assert hit.evidence == "only by sum, which looks at what the CPU has said"
    # The same, but that something else may be returned as well.
    functions["detect"] = (c.TEST_EDI, c.je("ask"), bytes.fromhex("b801000000"), c.RET, "ask:", *DETECT)
    assert proven(c.library(functions, exports=["sum"]), tmp_path) is False


def _cached(**more: Sequence[Part]) -> dict[str, Sequence[Part]]:
    return {
        "sum": (c.load_eax("flag"), c.TEST_EAX, c.jne("yes"), c.RET, "yes:", c.jmp("fast")),
        "init": (*ASK_AVX2, c.SETNE_EAX, c.store_eax("flag"), c.RET),
        "fast": FAST,
        **more,
    }


@pytest.mark.parametrize(
    ("first", "more", "exports", "expected"),
    [
        (0, {}, (), True),
        (1, {}, (), False),  # set before anybody has asked
        (0, {"force": (c.store_eax("flag"), c.RET)}, ("force",), False),  # somebody else writes to it
        (0, {"leak": (c.lea_rax("flag"), c.RET)}, ("leak",), False),  # others get its address
        (0, {}, ("flag",), False),  # other files may write to it
    ],
)
def test_an_answer_that_is_kept(
    first: int, more: dict[str, Sequence[Part]], exports: Sequence[str], expected: bool, tmp_path: Path
) -> None:
    data = c.library(
        _cached(**more),
        exports=["sum", *exports],
        data={"flag": first.to_bytes(8, "little")},
        starters=["init"],
    )
    assert proven(data, tmp_path) is expected


@pytest.mark.parametrize(
    ("sum_", "expected"),
    [
        ("0500010000", True),  # add $0x100,%eax: a flag of its own, as Rust's compiler_builtins has
        ("83c01f", False),  # add $0x1f,%eax: bit 0, which is unknown, gets into bit 5
    ],
)
def test_an_answer_that_is_added_up(sum_: str, expected: bool, tmp_path: Path) -> None:
    bits = bytes.fromhex("89d883e021")  # mov %ebx,%eax; and $0x21,%eax: FSGSBASE and AVX2
    functions: dict[str, Sequence[Part]] = {
        **_cached(),
        "init": (c.SAVE_RBX, c.LEAF_7, c.CPUID, bits, bytes.fromhex(sum_), c.store_eax("flag"), c.RESTORE_RBX, c.RET),
        "sum": (c.load_eax("flag"), bytes.fromhex("a820"), c.jne("yes"), c.RET, "yes:", c.jmp("fast")),
    }
    data = c.library(functions, exports=["sum"], data={"flag": bytes(8)}, starters=["init"])
    assert proven(data, tmp_path) is expected


@pytest.mark.parametrize("own", [False, True])
def test_who_uses_only_what_lies_before_the_answer_is_not_followed(own: bool, tmp_path: Path) -> None:
    """A function that stores near the answer, and then leads to more functions than are followed."""
    stir = (c.ZERO_EAX, c.store_eax("flag" if own else "before"), c.store_eax("wide"), c.RET)
    many: dict[str, Sequence[Part]] = {f"f{n}": (c.load_eax("wide"), c.RET) for n in range(600)}
    data = c.library(
        _cached(stir=stir, **many),
        exports=["sum", "stir"],
        data={"before": bytes(8), "flag": bytes(8), "wide": bytes(8)},
        starters=["init"],
    )
    assert proven(data, tmp_path) is not own


def test_an_answer_that_is_asked_for_at_first_use(tmp_path: Path) -> None:
    functions: dict[str, Sequence[Part]] = {
        "sum": (c.load_eax("flag"), c.TEST_EAX, c.js("ask"), "known:", c.TEST_EAX, c.jne("yes"), c.RET,
                "yes:", c.jmp("fast"), "ask:", c.call("detect"), c.store_eax("flag"), c.jmp("known")),
        "detect": DETECT,
        "fast": FAST,
    }  # fmt: skip
    minus_one = (0xFFFFFFFF).to_bytes(8, "little")
    assert proven(c.library(functions, exports=["sum"], data={"flag": minus_one}), tmp_path) is True
    functions["force"] = (bytes.fromhex("b801000000"), c.store_eax("flag"), c.RET)
    data = c.library(functions, exports=["sum", "force"], data={"flag": minus_one})
    assert proven(data, tmp_path) is False


def test_what_nothing_leads_to_is_not_proven(tmp_path: Path) -> None:
    hit = look(c.library({"sum": ASK_AVX2 + SLOW, "fast": FAST}, exports=["sum"]), tmp_path)["fast", "avx2"]  # type: ignore[operator]
    assert not hit.evidence
    assert hit.doubt


def test_a_feature_that_cpuid_does_not_tell(tmp_path: Path) -> None:
    xstore = bytes.fromhex("0fa7c0")
    data = c.library(
        {"sum": (*ASK_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("fast")), "fast": (xstore, c.RET)}, exports=["sum"]
    )
    assert proven(data, tmp_path, feature="padlock_rng") is False


def test_a_broken_dynamic_section_proves_nothing(tmp_path: Path) -> None:
    data = c.library({"sum": (*ASK_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("fast")), "fast": FAST}, exports=["sum"])
    good = look(data, tmp_path)["fast", "avx2"]
    assert good.evidence
    place = read_layout(data, "x").segment(PT_DYNAMIC)
    assert place is not None
    tags = range(place.offset, place.offset + place.file_size, 16)
    at = next(i for i in tags if int.from_bytes(data[i : i + 8], "little") == DT_HASH)
    bad = data[: at + 8] + (1 << 40).to_bytes(8, "little") + data[at + 16 :]
    hit = look(bad, tmp_path)["fast", "avx2"]
    assert hit.doubt.startswith("its references cannot be read")


# ---- known dispatchers

FLAGGED: Sequence[Part] = (c.TEST_EDI, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
FAST_BMI2: Sequence[Part] = (c.BMI2, c.RET)
ASKS: Sequence[Part] = (c.LEAF_7, c.CPUID, c.RET)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.5.4+dfsg2-5", True), ("1.4.4-1.el8", True), ("0:1.5.7-1", True), ("1.5.8-1", False), ("1.4.3-1", False),
     ("1.5.7~rc1-1", False), ("2", False), ("", False), ("unknown", False)],
)  # fmt: skip
def test_a_known_dispatcher_of_a_known_version(version: str, expected: bool, tmp_path: Path) -> None:
    data = c.library({"sum": FLAGGED, "ask": ASKS, "fast": FAST_BMI2}, exports=["sum", "ask"])
    hit = look(data, tmp_path, version=version)["fast", "bmi2"]
    assert bool(hit.evidence) is expected
    assert not hit.evidence or hit.evidence.startswith("known dispatcher (libzstd.so.1 1.4.4 to 1.5.7): ")


@pytest.mark.parametrize(
    ("functions", "why"),
    [
        ({"sum": (c.jmp("fast"),)}, "no flag"),
        ({"sum": FLAGGED, "other": (c.call("fast"), c.RET)}, "no flag for another one"),
        ({"sum": (c.TEST_RDI, *FLAGGED[1:])}, "a pointer and no flag"),
        ({"sum": (bytes.fromhex("83ff03"), *FLAGGED[1:])}, "a level and no flag"),  # cmp $3,%edi
        ({"sum": (c.TEST_EDI, c.jne("yes"), c.ZERO_EAX, "yes:", c.jmp("fast"))}, "the flag decides something else"),
        ({"sum": (c.TEST_EDI, c.jne("yes"), c.jmp("fast"), "yes:", c.call("fast"), c.RET)}, "both ways"),
    ],
)
def test_the_table_does_not_vouch_for_what_no_flag_decides(
    functions: dict[str, Sequence[Part]], why: str, tmp_path: Path
) -> None:
    data = c.library({**functions, "ask": ASKS, "fast": FAST_BMI2}, exports=[*functions, "ask"])
    assert proven(data, tmp_path, feature="bmi2", version="1.5.4") is False, why


@pytest.mark.parametrize(("before", "expected"), [*((n, False) for n in range(36, 46)), (None, True)])
def test_a_jump_over_a_cut_into_what_looks_like_data(
    before: int | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long gap is cut into pieces, here within or near a jump to bytes that the same piece loads, too."""
    for module in (ranges, piece_scan):
        monkeypatch.setattr(module, "PIECE_LIMIT", 64)
    around: Sequence[Part] = () if before is None else (ef.NOP * before, c.jmp("blob"))
    functions: dict[str, Sequence[Part]] = {
        "sum": SLOW,
        "use": (c.load_eax("blob"), *around, ef.NOP * 60, c.RET),
        "next": SLOW,
        "blob": FAST,
    }
    [hit] = look(c.library(functions, exports=["sum", "next"], nameless=["use", "blob"]), tmp_path).values()
    assert hit.evidence.startswith("data, which gap@") is expected


def test_the_table_vouches_for_its_features_only(tmp_path: Path) -> None:
    data = c.library({"sum": FLAGGED, "ask": ASKS, "fast": FAST}, exports=["sum", "ask"])
    assert proven(data, tmp_path, version="1.5.4") is False


def test_the_table_does_not_vouch_for_a_library_that_never_asks(tmp_path: Path) -> None:
    data = c.library({"sum": FLAGGED, "fast": FAST_BMI2}, exports=["sum"])
    assert proven(data, tmp_path, feature="bmi2", version="1.5.4") is False
