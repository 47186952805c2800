"""Decoding: pieces, findings, data in code, and hints."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.elf.executable import executable, regions
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.isa.decode import CodeSource, FileScan, scan
from pikaforge.audit.isa.dispatch.references import references
from pikaforge.audit.isa.ranges import FRAME, FUNCTION, GAP, PIECE_LIMIT, CodeMap, read_map
from pikaforge.audit.isa.worker_pool import chunks

ALLOWED = from_macros([f"#define {m} 1" for m in ("__AVX__", "__XSAVE__")], "sandybridge").sure


def code_map(elf: ef.Elf) -> CodeMap:
    data = ef.make(elf)
    layout = read_layout(data, "x")
    return read_map(data, layout, regions(data, layout, "x"), "x")


def pieces(elf: ef.Elf) -> list[tuple[int, int, int, str]]:
    code = code_map(elf)
    base = elf.address
    return [(code.starts[i] - base, code.ends[i] - base, code.kinds[i], code.name(i)) for i in range(len(code))]


def run(elf: ef.Elf, tmp_path: Path) -> FileScan:
    path = tmp_path / "x"
    path.write_bytes(ef.make(elf))
    [found] = scan([CodeSource(file="x", path=path)], ALLOWED, workers=1)
    return found


def hits(found: FileScan) -> list[tuple[str, str, int, bool]]:
    return [(h.function, h.feature, h.count, h.suspect) for h in found.hits]


def test_pieces_cover_all_code_once() -> None:
    elf = ef.Elf(
        text=ef.NOP * 64,
        symbols=[("a", 0, 8, ef.FUNC), ("alias", 0, 8, ef.FUNC), ("b", 16, 16, ef.FUNC), ("label", 40, 0, ef.NOTYPE)],
        frames=[(0, 8), (16, 16), (32, 4)],
    )
    assert pieces(elf) == [
        (0, 8, FUNCTION, "a"),
        (8, 16, GAP, "gap@0x401008"),
        (16, 32, FUNCTION, "b"),
        (32, 36, FRAME, "range@0x401020"),
        (36, 40, GAP, "gap@0x401024"),
        (40, 64, GAP, "label"),
    ]


def test_functions_within_functions() -> None:
    elf = ef.Elf(text=ef.NOP * 32, symbols=[("outer", 0, 32, ef.FUNC), ("inner", 8, 8, ef.FUNC)])
    assert pieces(elf) == [
        (0, 8, FUNCTION, "outer"),
        (8, 16, FUNCTION, "inner"),
        (16, 32, FUNCTION, "outer"),
    ]


def test_functions_that_overlap_or_leave_their_section() -> None:
    elf = ef.Elf(text=ef.NOP * 32, symbols=[("a", 0, 20, ef.FUNC), ("b", 16, 99, ef.FUNC), ("c", 99, 4, ef.FUNC)])
    assert pieces(elf) == [(0, 16, FUNCTION, "a"), (16, 32, FUNCTION, "b")]


def test_declared_data_is_left_out() -> None:
    elf = ef.Elf(text=ef.NOP * 32, symbols=[("f", 0, 32, ef.FUNC), ("table", 8, 8, ef.OBJECT)])
    assert pieces(elf) == [(0, 8, FUNCTION, "f"), (16, 32, FUNCTION, "f")]


@pytest.mark.parametrize(
    "form",
    [
        ef.Elf(symbols=[(f"f{i}", (i * 7) % 250, i % 23, (2, 2, 0, 1)[i % 4]) for i in range(60)], text=ef.NOP * 256),
        ef.Elf(frames=[(i * 11 % 250, 1 + i % 40) for i in range(40)], text=ef.NOP * 256),
        ef.Elf(text=ef.NOP * 256),
    ],
)
def test_no_byte_is_decoded_twice_or_forgotten(form: ef.Elf) -> None:
    found = [(a, b) for a, b, _, _ in pieces(form)]
    assert all(a < b for a, b in found)
    assert all(b <= c for (_, b), (c, _) in pairwise(found))
    data = {x for n, at, size, kind in form.symbols if kind == ef.OBJECT for x in range(at, at + size)}
    assert {x for a, b in found for x in range(a, b)} == set(range(256)) - data


def test_findings_name_function_feature_place_and_instruction(tmp_path: Path) -> None:
    elf = ef.Elf(
        text=ef.AVX + ef.RET + ef.NOP * 11 + ef.AVX2 * 3 + ef.LZCNT + ef.RET,
        symbols=[("good", 0, 5, ef.FUNC), ("bad", 16, 17, ef.FUNC)],
    )
    found = run(elf, tmp_path)
    assert hits(found) == [("bad", "avx2", 3, False), ("bad", "lzcnt", 1, False)]
    first = found.hits[0]
    assert (first.address, first.code, first.text) == (0x401010, ef.AVX2, "vpaddd %ymm1,%ymm0,%ymm0")
    assert "avx" in found.features
    assert (found.size, found.named) == (33, 2)


def test_a_stripped_file_is_named_by_addresses(tmp_path: Path) -> None:
    elf = ef.Elf(text=ef.AVX2 + ef.RET + ef.NOP * 11 + ef.LZCNT + ef.RET, frames=[(0, 5)])
    assert hits(run(elf, tmp_path)) == [("range@0x401000", "avx2", 1, False), ("gap@0x401005", "lzcnt", 1, False)]


def test_undecodable_bytes_in_a_function_are_a_finding(tmp_path: Path) -> None:
    elf = ef.Elf(text=ef.BAD + ef.RET, symbols=[("f", 0, 2, ef.FUNC)])
    assert hits(run(elf, tmp_path)) == [("f", "invalid", 1, False)]


def test_what_follows_an_undecodable_byte_in_a_gap_is_suspect_if_it_is_not_likely(tmp_path: Path) -> None:
    """One instruction of which two bytes are fixed is often found in data; one of which three are, is not."""
    found = run(ef.Elf(text=ef.LZCNT + ef.BAD + ef.AVX2 + ef.BAD), tmp_path)
    assert hits(found) == [("gap@0x401000", "lzcnt", 1, False), ("gap@0x401000", "avx2", 1, True)]
    found = run(ef.Elf(text=ef.AVX2 + ef.BAD + ef.LZCNT), tmp_path)
    assert hits(found) == [("gap@0x401000", "avx2", 1, False), ("gap@0x401000", "lzcnt", 1, False)]


def test_a_wrong_boundary_cuts_no_instruction(tmp_path: Path) -> None:
    # `b` begins within an instruction of `a`: no reason to call that undecodable.
    elf = ef.Elf(text=ef.AVX2 + ef.RET, symbols=[("a", 0, 5, ef.FUNC), ("b", 2, 1, ef.FUNC)])
    assert ("a", "avx2", 1, False) in hits(run(elf, tmp_path))
    assert not any(h.feature == "invalid" and h.function == "a" for h in run(elf, tmp_path).hits)


def test_padding_is_no_finding(tmp_path: Path) -> None:
    elf = ef.Elf(text=ef.RET + b"\0" * 15 + b"\xcc" * 16 + ef.LONG_NOP, symbols=[("f", 0, 1, ef.FUNC)])
    assert not run(elf, tmp_path).hits


def call(at: int, target: int) -> bytes:
    return b"\xe8" + (target - at - 5).to_bytes(4, "little", signed=True)


def test_hints_for_run_time_dispatch(tmp_path: Path) -> None:
    user = ef.CPUID + call(2, 32) + ef.RET
    text = user.ljust(16, ef.NOP) + (ef.LZCNT + ef.RET).ljust(16, ef.NOP) + (ef.AVX2 + ef.RET).ljust(16, ef.NOP)
    text += (ef.LZCNT + ef.RET).ljust(16, ef.NOP)
    elf = ef.Elf(
        text=text,
        symbols=[
            ("choose", 0, 8, ef.FUNC),
            ("plain", 16, 5, ef.FUNC),
            ("sum_avx2", 32, 5, ef.FUNC),
            ("pick", 48, 5, ef.IFUNC),
        ],
    )
    found = run(elf, tmp_path)
    assert {h.function: h.hints for h in found.hits} == {
        "plain": (),
        "sum_avx2": ("named for a CPU: avx2",),
        "pick": ("is an ifunc resolver",),
    }
    assert {h.function: h.doubt for h in found.hits}["sum_avx2"] == "reached without a question to the CPU: choose"


def test_a_function_that_asks_itself(tmp_path: Path) -> None:
    elf = ef.Elf(text=ef.CPUID + ef.AVX2 + ef.RET, symbols=[("f", 0, 7, ef.FUNC)])
    assert run(elf, tmp_path).hits[0].hints == ("runs cpuid or xgetbv itself",)


def test_a_cut_of_a_long_gap_is_within_a_call(tmp_path: Path) -> None:
    """The references of code are read over the cut, and a finding behind it names the gap from its start on."""
    call = PIECE_LIMIT - 3
    text = ef.NOP * call + b"\xe8" + (64).to_bytes(4, "little") + ef.NOP * 64 + ef.AVX2 + ef.RET
    path = tmp_path / "x"
    path.write_bytes(ef.make(ef.Elf(text=text)))
    base = 0x401000
    [found] = scan([CodeSource(file="x", path=path)], frozenset({"avx"}), workers=1)
    [hit] = [h for h in found.hits if h.feature == "avx2"]
    assert hit.pieces == ((base, base + len(text)),)
    with mapped(path) as data:
        layout = read_layout(data, "x")
        code = read_map(data, layout, executable(data, layout, "x"), "x")
    assert code.cuts == {1} and code.starts[1] == base + PIECE_LIMIT
    [chunk] = chunks(path, code)
    named = {index: set(addresses) for index, addresses, *_ in references(chunk, ((base, base + len(text)),))}
    assert base + call + 5 + 64 in named[0]
