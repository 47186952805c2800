"""Pieces that are decoded many at once give what they give one by one."""

from __future__ import annotations

import random
from array import array
from itertools import pairwise
from pathlib import Path

import iced_x86
import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.isa import chunk_scan, decode
from pikaforge.audit.isa import taken as taken_module
from pikaforge.audit.isa.chunk_scan import scan_pieces
from pikaforge.audit.isa.dispatch import nearby
from pikaforge.audit.isa.dispatch import references as references_module
from pikaforge.audit.isa.dispatch.nearby import references_to
from pikaforge.audit.isa.dispatch.references import packed, references, references_at_once
from pikaforge.audit.isa.ranges import FRAME, FUNCTION, GAP
from pikaforge.audit.isa.scan_facts import Given, Scanned
from pikaforge.audit.isa.stretches import stretches
from pikaforge.audit.isa.swept.blocks import kinds_for
from pikaforge.audit.isa.taken import Wanted, _pieces, _pieces_at_once, taken
from pikaforge.audit.isa.worker_pool import Chunk, chunks

MODULE = next(Path(iced_x86.__file__).parent.glob("*.so"))
BASES = (0x1000, 0x401003, 0x7FFF_FFFF_F000, 0xFFFF_FFFF_8000_0000)
PLANTED = tuple(map(bytes.fromhex, (
    "c5fdfec0",  # vpaddd %ymm0,%ymm0,%ymm0
    "62f17c4858c1",  # vaddps %zmm1,%zmm0,%zmm0
    "f30fbcc1", "f30fbdc1",  # tzcnt, lzcnt
    "06", "0f04", "c4e27949c0",  # no instructions, and one of AMX
    "0fa2", "0f01d0",  # cpuid, xgetbv
    "66e800000000", "660f8410000000", "66e910000000",  # branches with the prefix of an operand size
    "eb01", "7403", "ebfd", "e8fbffffff", "e2fe", "c7f800000000",  # jumps into instructions, xbegin
    "e800000000", "e900000000", "0f8400000000", "e8ffffffff",  # branches to what follows, or into themselves
    "f00fb10f", "67a100000000", "0f20c0", "666690", "6690", "f390", "c3", "cc", "90",
    "0000", "000000000000", "00000000000000000000c5fdfec0", "f30f1efa", "4190", "488c c0".replace(" ", ""),
)))  # fmt: skip


def hostile(chance: random.Random, path: Path, *, base: int, size: int = 16_000) -> Chunk:
    """Write code with planted bytes, and return pieces of it: of all sizes, with holes, cuts and padding."""
    code = MODULE.read_bytes()
    at = chance.randrange(200_000, 900_000)
    raw = bytearray(code[at : at + size])
    for _ in range(chance.choice((0, 20, 400))):
        plant = chance.choice(PLANTED)
        place = chance.randrange(len(raw) - 20)
        raw[place : place + len(plant)] = plant
    bounds = [0]
    while bounds[-1] < size:
        bounds.append(min(bounds[-1] + chance.choice((1, 2, 5, 15, 16, 40, 200, 3000)) * chance.randint(1, 3), size))
    starts, ends, kinds, cuts = array("Q"), array("Q"), bytearray(), set[int]()
    for low, high in pairwise(bounds):
        if chance.random() < 0.05:
            continue  # a hole
        kind = chance.choice((FUNCTION, FRAME, GAP, GAP))
        if kind == GAP and chance.random() < 0.2:
            raw[low:high] = chance.choice((b"\0", b"\x90", b"\xcc")) * (high - low)
        if kind == GAP and kinds and kinds[-1] == GAP and ends[-1] == base + low and chance.random() < 0.6:
            cuts.add(7 + len(kinds))
        starts.append(base + low)
        ends.append(base + high)
        kinds.append(kind)
    path.write_bytes(b"head" + raw + chance.choice((b"", bytes(3), code[:40])))
    offsets = array("Q", (start - base + 4 for start in starts))
    return Chunk(str(path), 7, starts, ends, offsets, bytes(kinds), frozenset(cuts))


def result(scanned: Scanned) -> dict[str, object]:
    """Return what a scan has found, with what has no order sorted."""
    return {
        "codes": scanned.codes,
        "found": sorted(scanned.found, key=repr),
        "order": [index for index, _ in scanned.found],
        "detecting": sorted(set(scanned.detecting)),
        "mixed": scanned.mixed,
        "outward": scanned.outward,
        "tables": scanned.tables,
    }


@pytest.mark.parametrize("number", range(16))
def test_hostile_pieces(number: int, tmp_path: Path) -> None:
    chance = random.Random(number)
    allowed = of_baseline(chance.choice(("x86_64", "sandybridge", "skylake_avx512")))
    chunk = hostile(chance, tmp_path / "code", base=chance.choice(BASES))
    for amd in (False, True):
        at_once = result(scan_pieces(chunk, Given(allowed, amd, True)))
        one_by_one = result(scan_pieces(chunk, Given(allowed, amd, False)))
        for key, value in one_by_one.items():
            if key != "order":
                assert at_once[key] == value, key
        assert at_once["order"] == sorted(at_once["order"])  # type: ignore[call-overload]


HIDDEN = bytes.fromhex("48b8c5fdfec0c3909090")
"""movabs $…,%rax, in which there is vpaddd %ymm0,%ymm0,%ymm0."""
BRANCHES = ("e8", "e9", "0f84", "eb", "74", "e2", "e3", "c7f8", "3e0f85", "f2e8", "48e9", "2e74")


@pytest.mark.parametrize("first", ["next", "last byte", "zero", "same byte", "far"])
@pytest.mark.parametrize("opcode", BRANCHES)
def test_a_branch_is_known_whatever_the_first_one_leads_to(opcode: str, first: str, tmp_path: Path) -> None:
    """A process asks iced once for each kind of instructions: it must not keep what only the first one has.

    `call $+5` has the distance 0, which is 0 in its last byte, too. A weak function that is missing has the address 0.
    """
    raw, base = bytes.fromhex(opcode), 0x40
    size = 1 if opcode in ("eb", "74", "e2", "e3", "2e74") else 4
    after = base + len(raw) + size
    distance = {"next": 0, "last byte": -1, "zero": -after, "same byte": -0x01010102 if size == 4 else -2, "far": 100}
    begin = raw + distance[first].to_bytes(size, "little", signed=True)
    # The second one leads into an instruction, where AVX2 is.
    code = begin + raw + (2).to_bytes(size, "little", signed=True) + HIDDEN + b"\x90" * 40
    path = tmp_path / "code"
    path.write_bytes(code)
    start, end, offset = (array("Q", [number]) for number in (base, base + len(code), 0))
    chunk = Chunk(str(path), 0, start, end, offset, bytes([FUNCTION]))
    given = Given(of_baseline("sandybridge"), False, True)
    kinds_for.cache_clear()
    at_once = result(scan_pieces(chunk, given))
    assert at_once == result(scan_pieces(chunk, given._replace(quick=False)))
    assert "avx2" in repr(at_once["found"])


def test_the_order_of_chunks_changes_nothing(tmp_path: Path) -> None:
    given = Given(of_baseline("sandybridge"), False, True)
    parts = [hostile(random.Random(n), tmp_path / f"code{n}", base=BASES[n % 4], size=4_000) for n in range(12)]
    found = []
    for seed in range(4):
        kinds_for.cache_clear()
        order = random.Random(seed).sample(range(len(parts)), len(parts))
        found.append({number: result(scan_pieces(parts[number], given)) for number in order})
    assert all(one == found[0] for one in found)


def test_a_library(tmp_path: Path) -> None:
    code = decode._code_map(decode.CodeSource(file="x", path=MODULE))
    for target in ("x86_64", "skylake_avx512"):
        given = Given(of_baseline(target), True, True)
        for chunk in chunks(MODULE, code):
            assert result(scan_pieces(chunk, given)) == result(scan_pieces(chunk, given._replace(quick=False)))


def test_most_pieces_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(chunk_scan, "scan_units", lambda *_, only: left.extend(only))
    code = decode._code_map(decode.CodeSource(file="x", path=MODULE))
    for chunk in chunks(MODULE, code):
        scan_pieces(chunk, Given(of_baseline("sandybridge"), False, True))
    assert len(left) < len(code) // 50


def test_a_whole_scan_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "code.so"
    text = ef.NOP * 16 + ef.AVX2 + ef.RET + bytes.fromhex("06") + ef.CPUID + ef.RET
    symbols = [("f", 0, 16, ef.FUNC), ("g", 16, len(ef.AVX2) + 1, ef.FUNC)]
    path.write_bytes(ef.make(ef.Elf(text=text, symbols=symbols)))
    sources = [decode.CodeSource(file="x", path=file) for file in (path, MODULE)]
    allowed = of_baseline("x86_64")
    one_by_one = decode.scan(sources, allowed, workers=1)
    assert "avx2" in {hit.feature for hit in one_by_one[0].hits}
    for module in (decode, references_module, nearby, taken_module):
        monkeypatch.setattr(module, "QUICK_BYTES", 0)
    assert decode.scan(sources, allowed, workers=1) == one_by_one


@pytest.mark.parametrize("number", range(4))
def test_fields_that_lead_to_some_ranges(number: int, tmp_path: Path) -> None:
    chance = random.Random(number)
    base = BASES[number % 4]
    chunk = hostile(chance, tmp_path / "code", base=base, size=80_000)
    lows = sorted(chance.randrange(max(base - 3_000_000, 0), base + 3_000_000) for _ in range(6))
    lows[-1] = base + (1 << 31) + 5
    ranges = tuple(
        (low, min(low + chance.choice((1, 40, 9000)), following))
        for low, following in zip(lows, [*lows[1:], 1 << 64], strict=True)
    )
    for fixed in (False, True):
        sought = nearby.Sought(ranges, fixed, (), False)
        assert references_to(chunk, sought) == references_to(chunk, sought._replace(quick=True))
        for stretch in stretches(chunk, (tmp_path / "code").read_bytes()):
            assert set(nearby._fields(stretch, sought)) == set(nearby._fields_at_once(stretch, sought))


@pytest.mark.parametrize("number", range(6))
def test_pieces_that_may_name_an_address(number: int, tmp_path: Path) -> None:
    chance = random.Random(number)
    base = BASES[number % 4]
    chunk = hostile(chance, tmp_path / "code", base=base, size=60_000)
    lows = sorted(chance.randrange(max(base - 3_000_000, 0), base + 3_000_000) for _ in range(40))
    spans = tuple((low, min(low + 9000, following)) for low, following in zip(lows, [*lows[1:], 1 << 64], strict=True))
    sought = Wanted(spans, False, (chunk.starts[0], chunk.ends[-1]), ((base, base + 60_000, 4),))
    data = (tmp_path / "code").read_bytes()
    assert _pieces_at_once(chunk, data, sought) == _pieces(chunk, data, sought)
    assert taken(chunk, sought._replace(quick=True)) == taken(chunk, sought)


@pytest.mark.parametrize("number", range(10))
def test_what_hostile_pieces_refer_to(number: int, tmp_path: Path) -> None:
    chance = random.Random(number)
    base = BASES[number % 4]
    chunk = hostile(chance, tmp_path / "code", base=base)
    bounds = ((max(base - 5_000_000, 0), base + 10_000), (base + 20_000, base + 900_000))
    assert references_at_once(chunk, bounds) == packed(references(chunk, bounds))


def test_what_a_library_refers_to() -> None:
    code = decode._code_map(decode.CodeSource(file="x", path=MODULE))
    for chunk in chunks(MODULE, code):
        assert references_at_once(chunk, ((0, 1 << 30),)) == packed(references(chunk, ((0, 1 << 30),)))
