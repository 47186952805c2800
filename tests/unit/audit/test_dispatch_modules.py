"""Modules of Python that ask the CPU: known by the function that initialises them, and looked at as any other file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from unit import code as c
from unit.code import Part

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.elf.layout import Buffer, Layout
from pikaforge.audit.isa.dispatch import graph_edges, known
from pikaforge.audit.isa.dispatch.library import NAMED

ALLOWED = from_macros(["#define __SSE3__ 1"], "sandybridge")
INIT = "PyInit__multiarray_umath"
FAST: Sequence[Part] = (c.AVX2, c.RET)
ASK: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.store_eax("have"), c.RESTORE_RBX, c.RET)
HAVE: Sequence[Part] = (c.load_eax("have"), c.RET)
GUARDED: Sequence[Part] = (c.call("have_feature"), c.TEST_EAX, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
LENGTH: Sequence[Part] = (c.TEST_RDI, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))


def module(
    functions: Mapping[str, Sequence[Part]],
    *,
    init: str = INIT,
    starting: Sequence[Part] = (),
    exports: Sequence[str] = ("sum",),
    data: Sequence[str] = (),
    pointers: Mapping[str, str] | None = None,
) -> bytes:
    """A module with functions of its own; `init` calls what asks the CPU, and then does what `starting` says."""
    every = {init: (c.call("ask"), *starting, c.RET), "ask": ASK, "have_feature": HAVE, **functions}
    kept = {"have": bytes(8), **{name: bytes(8) for name in data}}
    return c.library(every, exports=[init, *exports], data=kept, pointers=pointers)


def audited(data: bytes, tmp_path: Path) -> AuditResult:
    path = tmp_path / "module.so"
    path.write_bytes(data)
    [result] = audit_paths(
        [path], tmp_path / "scratch", target="sandybridge", today=date(2026, 1, 1), allowed=ALLOWED, workers=1
    )
    return result


@pytest.mark.parametrize(
    ("init", "way", "expected"),
    [
        (INIT, GUARDED, True),
        ("PyInit__simd", GUARDED, True),
        (INIT, LENGTH, False),  # it tests a length, and not what the CPU has said
        (INIT, (c.jmp("fast"),), False),
        (INIT, (c.TEST_RDI, c.jne("more"), *GUARDED, "more:", c.jmp("fast")), False),  # one of two ways asks
        (INIT, (c.call("have_feature"), c.TEST_EAX, c.jne("yes"), c.jmp("fast"), "yes:", c.jmp("faster")), False),
        ("PyInit_other", GUARDED, False),
        ("_multiarray_umath", GUARDED, False),
    ],
)
def test_what_a_module_calls_itself_is_not_enough(
    init: str, way: Sequence[Part], expected: bool, tmp_path: Path
) -> None:
    more = {"faster": (c.jmp("fast"),)} if c.jmp("faster") in way else {}
    result = audited(module({"sum": way, "fast": FAST, **more}, init=init), tmp_path)
    assert result.passed is expected
    if expected:
        [told] = result.isa.dispatched
        assert told.line().startswith(f"module.so: dispatched: 1 functions: avx2 in fast; known dispatcher ({init}): ")


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ((c.call("have_feature"), c.TEST_EAX, c.jne("yes"), c.RET, "yes:", c.call("stub"), c.RET), True),
        ((c.call("have_feature"), c.TEST_EAX, c.jne("yes"), c.call("stub"), "yes:", c.call("stub"), c.RET), False),
        ((c.call("have_feature"), c.TEST_EAX, c.jne("yes"), c.through("place"), "yes:", c.call("stub"), c.RET), False),
        ((c.TEST_RDI, c.jne("yes"), c.RET, "yes:", c.call("stub"), c.RET), False),
    ],
)
@pytest.mark.parametrize("stubs", [True, False])
def test_a_call_by_a_stub_needs_a_test_as_well(
    way: Sequence[Part], expected: bool, stubs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module calls what it exports by stubs; the jump by the place of the same address is another name for it."""
    functions = {"sum": way, "sort_AVX2": FAST, "stub": (c.through("place"), bytes(10))}
    data = module(functions, exports=["sum", "sort_AVX2"], data=["place"], pointers={"place": "sort_AVX2"})
    monkeypatch.setattr(graph_edges, "_stubs", lambda data, layout: _stubs_of(data, layout) if stubs else {})
    assert audited(data, tmp_path).passed is expected


def _stubs_of(data: Buffer, layout: Layout) -> dict[int, int]:
    """The stub, which the linker would have put into a section of its own."""
    text = next(s for s in layout.sections if s.name == ".text")
    at = bytes(data[text.offset : text.offset + text.size]).rfind(graph_edges.JUMP_THROUGH)
    address = text.address + at
    distance = int.from_bytes(data[text.offset + at + 2 : text.offset + at + 6], "little", signed=True)
    return {address: address + 6 + distance}


@pytest.mark.parametrize(
    ("name", "exported", "expected"),
    [
        ("__svml_cos8", True, True),
        ("QSort_X86_V4", True, True),
        ("QSort_X86_V4", False, True),  # a compiler has left it without a use
        ("cos8", True, False),  # any other file may call it, and needs to know nothing of CPUs
        ("cos8", False, False),
    ],
)
def test_functions_that_nothing_uses(name: str, exported: bool, expected: bool, tmp_path: Path) -> None:
    functions = {"sum": (c.RET,), name: FAST}
    assert audited(module(functions, exports=["sum", *([name] if exported else [])]), tmp_path).passed is expected


@pytest.mark.parametrize(
    ("starting", "expected"),
    [
        ((c.call("have_feature"), c.TEST_EAX, c.je("no"), c.call("create"), "no:"), True),
        ((c.call("create"),), False),
        ((c.call("have_feature"), c.TEST_EAX, c.je("no"), c.call("create"), "no:", c.lea_rax("methods")), False),
    ],
)
def test_methods_that_only_a_description_of_a_module_names(
    starting: Sequence[Part], expected: bool, tmp_path: Path
) -> None:
    """Code names the description, which names the table of methods, which names the function."""
    functions = {"create": (c.lea_rax("description"), c.RET), "load": FAST}
    pointers = {"description": "methods", "methods": "load"}
    data = module(functions, starting=starting, exports=[], data=["description", "methods"], pointers=pointers)
    assert audited(data, tmp_path).passed is expected


@pytest.mark.parametrize(("others", "expected"), [(0, True), (NAMED // 2, True), (NAMED, False)])
def test_what_a_large_initialisation_names_is_no_answer(others: int, expected: bool, tmp_path: Path) -> None:
    """A caller of what asks the CPU may keep the answer, but not one that initialises a whole program."""
    names = [f"other{number}" for number in range(others)]
    starting = [c.call("length"), c.store_eax("flag"), *(c.store_rax(name) for name in names)]
    way = (c.load_eax("flag"), c.TEST_EAX, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
    functions = {"sum": way, "fast": FAST, "length": (bytes.fromhex("89f8"), c.RET)}  # mov %edi,%eax
    data = module(functions, starting=starting, data=[*(f"gap{n}" for n in range(9)), "flag", *names])
    assert audited(data, tmp_path).passed is expected


def test_a_file_without_a_build_id_is_known_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for in it then; and not one byte may differ."""
    data = c.library({"sum": (c.jmp("fast"),), "fast": FAST}, exports=["sum"], soname="libblas-0123abcd.so")
    assert not audited(data, tmp_path).passed
    digest = hashlib.sha256(data).hexdigest()
    entry = next(e for e in known.table() if any(len(name) == len(digest) for name in e.build_ids))
    monkeypatch.setattr(known, "table", lambda: (replace(entry, build_ids=frozenset({digest})),))
    for change, expected in ((b"", True), (b"\0", False)):
        place = tmp_path / f"again{len(change)}"
        place.mkdir()
        assert audited(data + change, place).passed is expected
