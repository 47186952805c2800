"""Known dispatchers in files of others: found by soname and version, and vouched for only as far as the table says."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pytest
from unit import code as c
from unit import elf_files as ef
from unit.code import Part

from pikaforge.audit.allowed_features import from_macros, of_baseline
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.elf.executable import regions
from pikaforge.audit.elf.layout import read_layout
from pikaforge.audit.elf.pointers import import_places
from pikaforge.audit.isa.decode import CodeSource, scan
from pikaforge.audit.isa.dispatch import known
from pikaforge.audit.isa.dispatch.graph_edges import STUB_STARTS
from pikaforge.audit.isa.ranges import GAP, read_map
from pikaforge.cpu import features

BASELINE = of_baseline("x86_64")
ALLOWED = from_macros(["#define __SSE3__ 1"], "sandybridge")
FAST: Sequence[Part] = (c.AVX2, c.RET)
LOAD_GOT = c.Ref(b"\x48\x8b\x05", "got")  # mov got(%rip),%rax
TEST_BIT = bytes.fromhex("f680a501000020")  # testb $0x20,0x1a5(%rax)
RESOLVER: Sequence[Part] = (LOAD_GOT, TEST_BIT, c.lea_rax("slow"), c.je("no"), c.lea_rax("fast"), "no:", c.RET)
GLIBC = b"\0GLIBC_2.4\0GLIBC_2.36\0"


def audited(data: bytes, tmp_path: Path) -> AuditResult:
    path = tmp_path / "library.so"
    path.write_bytes(data)
    [result] = audit_paths(
        [path], tmp_path / "scratch", target="sandybridge", today=date(2026, 1, 1), allowed=ALLOWED, workers=1
    )
    return result


def glibc(
    resolver: Sequence[Part] = RESOLVER,
    *,
    more: Mapping[str, Sequence[Part]] | None = None,
    soname: str = "libc.so.6",
    version: bytes = GLIBC,
    reads: str = "_rtld_global_ro",
) -> bytes:
    functions = {"strlen": resolver, "fast": FAST, "slow": (c.RET,), **(more or {})}
    return c.library(
        functions,
        exports=["strlen", *(more or {})],
        data={"got": bytes(8), "plt": bytes(8)},
        resolvers=["strlen"],
        imports={"got": reads},
        soname=soname,
        extra=version,
    )


def test_glibc_is_known_by_its_own_resolvers(tmp_path: Path) -> None:
    result = audited(glibc(), tmp_path)
    assert result.passed
    [told] = result.isa.dispatched
    assert told.line() == (
        "library.so: dispatched: 1 functions: avx2 in fast; known dispatcher (libc.so.6 2.23 to 2.42): its ifunc "
        "resolvers read what the loader has kept of CPUID's answers; chosen by the ifunc resolver strlen"
    )


@pytest.mark.parametrize(
    "data",
    [
        glibc(soname="libother.so.6"),
        glibc(version=b"\0GLIBC_2.50\0"),
        glibc(version=b""),
        glibc(reads="something"),
        glibc((c.lea_rax("fast"), c.RET)),  # it reads nothing
        glibc(more={"strnlen": (c.call("fast"), c.RET)}),  # a way around the resolver
        glibc(more={"list": (c.lea_rax("fast"), c.RET)}),
    ],
)
def test_what_is_not_glibc_or_has_another_way(data: bytes, tmp_path: Path) -> None:
    assert not audited(data, tmp_path).passed


def test_glibc_lists_its_implementations_for_its_tests(tmp_path: Path) -> None:
    assert audited(glibc(more={"__libc_ifunc_impl_list": (c.lea_rax("fast"), c.RET)}), tmp_path).passed


def test_places_of_imports() -> None:
    data = glibc()
    layout = read_layout(data, "x")
    [place] = import_places(data, layout, "x", {"_rtld_global_ro"})
    assert any(s.name == ".data" and s.address == place for s in layout.sections)
    assert import_places(data, layout, "x", {"fast", "strlen"}) == set()


# ---- zstd, and names of exports

FLAGGED: Sequence[Part] = (c.TEST_EDI, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
ASKS: Sequence[Part] = (c.LEAF_7, c.CPUID, c.RET)


def test_the_table_is_asked_only_for_what_the_file_does_not_show(tmp_path: Path) -> None:
    """Nothing is trusted that can be shown, and the evidence says which way it was shown."""
    asks = (c.LEAF_7, c.CPUID, c.HAS_BMI2, c.je("no"), c.call("fast"), "no:", c.RET)
    weighs = (c.TEST_EDI, c.jne("yes"), c.RET, "yes:", c.jmp("wide"))
    functions = {"sum": asks, "fast": (c.BMI2, c.RET), "weigh": weighs, "wide": (c.BMI2, c.RET)}
    exports = ["sum", "weigh"]
    data = c.library(functions, exports=exports, soname="libzstd.so.1", extra=b"\x001.5.4\0")
    [told] = audited(data, tmp_path).isa.dispatched
    assert [text.partition(" ")[0] for text in told.evidence] == ["only", "known"]
    assert told.evidence[0] == "only by sum, which asks the CPU"


@pytest.mark.parametrize("used", [False, True])
def test_tables_between_functions_that_look_like_jumps(used: bool, tmp_path: Path) -> None:
    """A table between functions jumps nowhere; code there, to which something leads, may jump into an instruction."""
    asks = (c.LEAF_7, c.CPUID, c.HAS_AVX2, c.je("no"), b"\xb8\x90\x90", "into:", b"\x90\x90", c.AVX2, "no:", c.RET)
    other = (c.jmp("table"),) if used else (c.lea_rax("other"), c.RET)
    functions: dict[str, Sequence[Part]] = {"sum": asks, "table": (c.jmp("into"),), "other": other}
    data = c.library(functions, exports=["sum", "other"], soname="libzstd.so.1", extra=b"\x001.5.4\0")
    assert audited(_without_second(data), tmp_path).passed is not used


@pytest.mark.parametrize(
    ("version", "expected"), [(b"1.5.4\0", True), (b"\x001.4.3\0", False), (b"1.5.8\0", False), (b"", False)]
)
def test_the_version_is_in_the_file(version: bytes, expected: bool, tmp_path: Path) -> None:
    functions = {"sum": FLAGGED, "ask": ASKS, "fast": (c.BMI2, c.RET)}
    data = c.library(functions, exports=["sum", "ask"], soname="libzstd.so.1", extra=version)
    assert audited(data, tmp_path).passed is expected


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("ARGBAddRow_AVX2", FLAGGED, True),
        ("ARGBAddRow_AVX2", (c.jmp("fast"),), False),
        ("ARGBAddRow", FLAGGED, False),  # exported under a name for any CPU
        ("ARGBAddRow_AVX2_", FLAGGED, False),
    ],
)
def test_exports_that_are_named_for_a_cpu(name: str, entry: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    functions = {
        "ARGBAdd": tuple(c.jmp(name) if part == c.jmp("fast") else part for part in entry), "ask": ASKS, name: FAST
    }  # fmt: skip
    data = c.library(functions, exports=list(functions), soname="libyuv.so.0")
    assert audited(data, tmp_path).passed is expected


CMOVNE_RAX_RCX = bytes.fromhex("480f45c1")  # cmovne %rcx,%rax
CMOVE_RAX_RCX = bytes.fromhex("480f44c1")
LEA_RCX, SAVE_RCX = c.Ref(b"\x48\x8d\x0d", "fast"), bytes.fromhex("4889ca")  # mov %rcx,%rdx
MASK = bytes.fromhex("81e72010000081ff20100000")  # and $0x1020,%edi; cmp $0x1020,%edi
OTHER_MASK = bytes.fromhex("81e72010000081ff20000000")  # and a number that is less than the mask
ONE_BIT = bytes.fromhex("0fbae705")  # bt $5,%edi
CMOVB_RAX_RCX, CMOVB_LEVEL = bytes.fromhex("480f42c1"), bytes.fromhex("83ff03480f42c1")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((LEA_RCX, c.lea_rax("slow"), c.TEST_EDI, CMOVNE_RAX_RCX), True),
        ((c.lea_rax("slow"), MASK, LEA_RCX, CMOVE_RAX_RCX), True),
        ((c.lea_rax("slow"), ONE_BIT, LEA_RCX, CMOVB_RAX_RCX), True),
        ((c.lea_rax("slow"), OTHER_MASK, LEA_RCX, CMOVE_RAX_RCX), False),
        ((c.lea_rax("slow"), LEA_RCX, CMOVB_LEVEL), False),  # a number that is less than 3
        ((LEA_RCX, c.lea_rax("slow"), c.TEST_RDI, CMOVNE_RAX_RCX), False),  # a pointer
        ((LEA_RCX, c.lea_rax("slow"), c.TEST_EDI, CMOVNE_RAX_RCX, SAVE_RCX), False),  # taken in any case
        ((c.lea_rax("fast"), c.TEST_EDI), False),
    ],
)
def test_a_conditional_move_on_a_flag(choice: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    functions = {"sum": (*choice, c.RET), "ask": ASKS, "fast": (c.BMI2, c.RET), "slow": (c.RET,)}
    data = c.library(functions, exports=["sum", "ask"], soname="libzstd.so.1", extra=b"1.5.4\0")
    assert audited(data, tmp_path).passed is expected


USES_EDI = bytes.fromhex("21f8")  # and %edi,%eax
ONE_OF_EDI = bytes.fromhex("83e701")  # and $1,%edi
TEST_STACK = bytes.fromhex("f644240801")  # testb $1,8(%rsp)
PUSH_STACK, POP_RAX = bytes.fromhex("ff742408"), b"\x58"  # push 8(%rsp)
USES_RETURN = bytes.fromhex("030424")  # add (%rsp),%eax: what was at 8(%rsp) after a push
USES_STACK = bytes.fromhex("03442408")  # add 8(%rsp),%eax


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ((c.TEST_EDI, c.jne("yes"), USES_EDI, c.RET, "yes:", c.jmp("fast")), True),
        ((ONE_OF_EDI, c.je("no"), c.jmp("fast"), "no:", USES_EDI, c.RET), True),
        ((c.TEST_EDI, c.jne("yes"), c.RET, "yes:", USES_EDI, c.jmp("fast")), False),
        ((ONE_OF_EDI, c.je("no"), USES_EDI, c.jmp("fast"), "no:", c.RET), False),
        ((c.TEST_EDI, USES_EDI, c.jne("yes"), c.RET, "yes:", c.jmp("fast")), False),
        ((TEST_STACK, c.jne("yes"), PUSH_STACK, POP_RAX, c.RET, "yes:", c.jmp("fast")), True),
        ((TEST_STACK, c.jne("yes"), USES_STACK, c.RET, "yes:", c.jmp("fast")), False),
        ((TEST_STACK, c.jne("yes"), c.SAVE_RBX, USES_STACK, c.RESTORE_RBX, c.RET, "yes:", c.jmp("fast")), True),
        ((c.SAVE_RBX, TEST_STACK, c.RESTORE_RBX, c.jne("yes"), USES_RETURN, c.RET, "yes:", c.jmp("fast")), False),
    ],
)
def test_numbers_that_are_flags(entry: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    """gcc takes a flag that is zero for any other zero, as in Debian 13's libzstd; clang hands arguments on by push."""
    functions = {"sum": entry, "ask": ASKS, "fast": (c.BMI2, c.RET)}
    data = c.library(functions, exports=["sum", "ask"], soname="libzstd.so.1", extra=b"\x001.5.7\0")
    assert audited(data, tmp_path).passed is expected


COMPUTED = bytes.fromhex("8d4701")  # lea 1(%rdi),%eax


@pytest.mark.parametrize(
    ("stir", "more", "expected"),
    [
        ((c.call("has"), c.store_eax("own")), (), True),
        ((c.call("has"), COMPUTED, c.store_eax("own")), (), False),
        ((c.call("has"), c.store_eax("own"), COMPUTED, c.store_eax("own")), (), False),
        ((c.call("has"), c.store_eax("own")), (c.lea_rax("own"),), False),  # others may write there
    ],
)
def test_a_library_keeps_a_copy_of_an_answer(
    stir: Sequence[Part], more: Sequence[Part], expected: bool, tmp_path: Path
) -> None:
    """libsodium's random numbers keep what a function says that knows the answer; no build id vouches for this file."""
    ask = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.store_eax("features"), c.RESTORE_RBX, c.RET)
    functions: dict[str, Sequence[Part]] = {
        "ask": ask,
        "has": (c.load_eax("features"), c.RET),
        "stir": (*stir, c.RET),
        "random": (c.load_eax("own"), c.TEST_EAX, c.jne("yes"), *more, c.RET, "yes:", c.jmp("fast")),
        "fast": (c.BMI2, c.RET),
    }
    exports = ["ask", "has", "stir", "random"]
    data = {"features": bytes(64), "own": bytes(8)}
    library = c.library(functions, exports=exports, data=data, soname="libsodium.so.23", extra=b"\x001.0.18\0")
    assert audited(library, tmp_path).passed is expected


def test_a_module_is_known_by_its_build_id_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = c.library({"sum": (c.jmp("fast"),), "ask": ASKS, "fast": (c.BMI2, c.RET)}, exports=["sum", "ask"])
    entry = next(entry for entry in known.table() if not entry.soname and entry.trusts("bmi2"))
    assert not audited(data, tmp_path).passed
    monkeypatch.setattr(known, "read_build_id", lambda _: next(iter(entry.build_ids)))
    (tmp_path / "again").mkdir()
    assert audited(data, tmp_path / "again").passed


@pytest.mark.parametrize("entry", [e for e in known.table() if "*" in e.trusted and e.soname], ids=lambda e: e.soname)
def test_a_name_and_a_version_say_nothing_of_the_compiler(
    entry: known.Dispatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever compiles the library for a newer CPU keeps both; the build id of a known file is another thing."""
    text = {"libcrypto.so.3": b"OpenSSL 3.0.17 \0", "libcrypto.so.1.1": b"OpenSSL 1.1.1w \0"}.get(
        entry.soname,
        b"\0v3.6.0\0GLIBC_2.36\0Version: NSS 3.87\0libjpeg-turbo version 2.1.5 \0001.10.1\0000.5.1 (v0.5.1)\0",
    )
    functions = {"sum": (c.jmp("fast"),), "ask": ASKS, "fast": (c.BMI2, c.RET)}
    data = c.library(functions, exports=["sum", "ask"], soname=entry.soname, extra=text)
    assert not audited(data, tmp_path).passed
    if entry.build_ids:
        monkeypatch.setattr(known, "read_build_id", lambda _: next(iter(entry.build_ids)))
        monkeypatch.setattr(known.Dispatcher, "fits", lambda *_: True)
        (tmp_path / "again").mkdir()
        assert audited(data, tmp_path / "again").passed


# ---- programs with a fixed address

MOV_EAX = bytes.fromhex("b8")  # mov $address,%eax


def fixed(functions: Mapping[str, Sequence[Part]], **more: bytes) -> bytes:
    """A program with a fixed address, whose functions have no other references than those in its code and data."""
    data = c.library(functions, data=dict(more), symbols=False)
    return data[:16] + b"\x02\0" + data[18:]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((c.jne("yes"), c.RET, "yes:", c.jmp("fast")), True),
        ((c.jne("yes"), c.RET, "yes:", MOV_EAX + (0x401040).to_bytes(4, "little"), bytes.fromhex("ffe0")), True),
        ((MOV_EAX + (0x401040).to_bytes(4, "little"), bytes.fromhex("ffe0")), False),
        ((c.jmp("fast"),), False),
    ],
)
@pytest.mark.parametrize("pointer", [0, 0x401040])
def test_a_program_with_a_fixed_address(choice: Sequence[Part], expected: bool, pointer: int, tmp_path: Path) -> None:
    ask: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.RESTORE_RBX)
    padded = {"start": (*ask, *choice), "fast": FAST}
    data = fixed(padded, table=pointer.to_bytes(8, "little"))
    layout = read_layout(data, "x")
    found = read_map(data, layout, regions(data, layout, "x"), "x")
    start = [found.starts[i] for i in range(len(found)) if found.kinds[i] != GAP][1]
    data = data.replace((0x401040).to_bytes(4, "little"), start.to_bytes(4, "little"))
    path = tmp_path / "x"
    path.write_bytes(data)
    [judged] = scan([CodeSource(file="x", path=path)], BASELINE, workers=1)
    assert bool(next(h for h in judged.hits if h.feature == "avx2").evidence) is (expected and not pointer)


def test_the_table_is_sound() -> None:
    every = features.table()
    for entry in known.table():
        assert entry.pattern or entry.build_ids or entry.soname, entry.shown
        assert entry.features | entry.trusted <= every.keys() | {"*"}, entry.soname
        assert entry.since <= entry.until
        assert entry.shown
        assert entry.source
        assert bool(entry.trusted) == bool(entry.why)


# ---- data in code, and calls by stubs

LOAD_DATA = c.Ref(b"\xc5\xfa\x6f\x05", "constants")  # vmovdqu constants(%rip),%xmm0
CONSTANTS = ef.AVX2 * 4 + bytes(4)


@pytest.mark.parametrize(
    ("use", "expected"),
    [((LOAD_DATA, c.RET), True), ((c.lea_rax("constants"), c.RET), False), ((c.jmp("constants"),), False),
     ((LOAD_DATA, c.jmp("constants")), False), ((c.RET,), False)],
)  # fmt: skip
def test_constants_between_functions(use: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    data = c.library({"sum": use, "constants": (CONSTANTS,)}, exports=["sum"])
    path = tmp_path / "x"
    path.write_bytes(_without_second(data))
    [found] = scan([CodeSource(file="x", path=path)], frozenset({"avx"}) | BASELINE, workers=1)
    hits = [h for h in found.hits if h.feature == "avx2"]
    assert [h.function.startswith("gap@") for h in hits] == [True]
    assert bool(hits[0].evidence) is expected


def _without_second(data: bytes) -> bytes:
    """The file, which does not say any more that its second function is one."""
    layout = read_layout(data, "x")
    table = next(s for s in layout.sections if s.name == ".symtab")
    frames = next(s for s in layout.sections if s.name == ".eh_frame")
    changed = io.BytesIO(data)
    for at, size in ((table.offset + 48, 24), (frames.offset + 21 + 20, 4)):
        changed.seek(at)
        changed.write(bytes(size))
    return changed.getvalue()


@pytest.mark.parametrize("start", [code for _, code in STUB_STARTS])
def test_calls_by_stubs_lead_to_one_function_each(start: bytes, tmp_path: Path) -> None:
    """A library calls its exports through stubs: each leads to one function, and not to those of the other stubs."""
    stubs = {
        f"stub_{name}": (start, c.Ref(b"\xff\x25", f"place_{name}"), bytes(-(len(start) + 6) % 16))
        for name in ("sum", "fast")
    }
    ask: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.RESTORE_RBX)
    functions = {
        "other": (c.call("stub_sum"), c.RET),
        "sum": (*ask, c.jne("yes"), c.RET, "yes:", c.call("stub_fast"), c.RET),
        "fast": FAST,
        **stubs,
    }
    data = c.library(
        functions,
        exports=["other", "sum"],
        data={"place_sum": bytes(8), "place_fast": bytes(8)},
        pointers={"place_sum": "sum", "place_fast": "fast"},
    )
    path = tmp_path / "x"
    path.write_bytes(_with_section(data, ".plt.sec", "stub_sum"))
    [found] = scan([CodeSource(file="x", path=path)], BASELINE, workers=1)
    assert next(h for h in found.hits if h.function == "fast").evidence == "only by sum, which asks the CPU"


def _with_section(data: bytes, name: str, first: str) -> bytes:
    """The file, whose .text says that it is a section of another name; stubs are found in all of it."""
    del first
    layout = read_layout(data, "x")
    index = next(i for i, s in enumerate(layout.sections) if s.name == ".text")
    names = next(s for s in layout.sections if s.name == ".shstrtab")
    table = int.from_bytes(data[40:48], "little")
    raw = bytearray(data + name.encode() + b"\0")
    shift = len(data) - names.offset
    raw[table + 64 * index : table + 64 * index + 4] = shift.to_bytes(4, "little")
    at = table + 64 * layout.sections.index(names)
    raw[at + 32 : at + 40] = (len(raw) - names.offset).to_bytes(8, "little")
    return bytes(raw)
