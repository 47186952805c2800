"""What refers to some code is found in the bytes, and a proof from nearby says what the whole search says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import iced_x86
import pytest
from unit import code as c
from unit import elf_files as ef
from unit.code import Part

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.elf.executable import executable
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.elf.pointers import relative_relocations
from pikaforge.audit.isa import leads
from pikaforge.audit.isa.decode import CodeSource, Hit, scan
from pikaforge.audit.isa.dispatch import evidence
from pikaforge.audit.isa.dispatch.nearby import Nearby, Sought, references_to
from pikaforge.audit.isa.dispatch.references import references
from pikaforge.audit.isa.ranges import CodeMap, read_map
from pikaforge.audit.isa.worker_pool import chunks

BASELINE = of_baseline("x86_64")
FAST: Sequence[Part] = (c.AVX2, c.RET)
ASK_AVX2: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.RESTORE_RBX)
MODULE = next(Path(iced_x86.__file__).parent.glob("*.so"))
"""A library with a few megabytes of code that is there wherever the tests are."""
PIECES = 40


@pytest.fixture(scope="module")
def module() -> CodeMap:
    with mapped(MODULE) as data:
        layout = read_layout(data, MODULE.name)
        return read_map(data, layout, executable(data, layout, MODULE.name), MODULE.name)


@pytest.mark.parametrize("fixed", [False, True])
def test_no_reference_is_missed(module: CodeMap, fixed: bool) -> None:
    """All that the whole decoding finds into some functions of a real library is found in the bytes, too."""
    some = random.Random(14).sample(range(len(module)), PIECES)
    ranges = tuple(sorted((module.starts[n], module.ends[n]) for n in some))
    near = tuple(sorted({n for low, high in ranges for n in _between(module, low - 130, high + 130)}))
    expected, found = set(), set()
    for chunk in chunks(MODULE, module):
        expected |= {(n, a) for n, addresses, *_ in references(chunk, ranges, fixed=fixed) for a in addresses}
        sought = Sought(ranges, fixed, near)
        found |= {(n, a) for n, addresses, *_ in references_to(chunk, sought) for a in addresses}
    assert len(expected) > PIECES
    assert found == expected


def _between(code: CodeMap, low: int, high: int) -> Iterator[int]:
    return (n for n in range(len(code)) if code.starts[n] < high and code.ends[n] > low)


def look(
    functions: dict[str, Sequence[Part]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, near: bool, **more: object
) -> dict[tuple[str, str], Hit]:
    """Return the findings with their evidence, from nearby only or from the whole search only."""
    path = tmp_path / "library"
    path.write_bytes(c.library(functions, exports=["sum"], **more))  # type: ignore[arg-type]  # of the tests
    with monkeypatch.context() as patched:
        if near:
            patched.setattr(evidence, "LIMIT", 0)
        else:
            patched.setattr(Nearby, "doors", lambda *_: {})
            patched.setattr(Nearby, "local", lambda *_: "")
        [found] = scan([CodeSource(file="lib/x.so.1", path=path)], BASELINE, workers=1)
    return {(h.function, h.feature): h for h in found.hits}


ASKED = (*ASK_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
CHOICES: dict[str, tuple[dict[str, Sequence[Part]], bool]] = {
    "asks": ({"sum": ASKED, "fast": FAST}, True),
    "asks, and the function has callers": ({"sum": (c.call("middle"), c.RET), "middle": ASKED, "fast": FAST}, True),
    "does not ask": ({"sum": (c.jmp("fast"),), "fast": FAST}, False),
    "asks too late": ({"sum": (c.call("fast"), *ASKED), "fast": FAST}, False),
    "one asks, another does not": (
        {"sum": (c.call("middle"), *ASKED), "middle": (c.jmp("fast"),), "fast": FAST},
        False,
    ),
    "one asks, another only compares": (
        {
            "sum": (c.call("middle"), *ASKED),
            "middle": (c.lea_rdx("fast"), bytes.fromhex("4839fa0f94c0"), c.RET),  # cmp %rdi,%rdx; sete %al
            "fast": FAST,
        },
        True,
    ),
    "one asks, another passes it on": (
        {"sum": (c.call("middle"), *ASKED), "middle": (c.lea_rax("fast"), c.RET), "fast": FAST},
        False,
    ),
    "by a helper": (
        {"sum": (*ASK_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("help")), "help": (c.call("fast"), c.RET), "fast": FAST},
        True,
    ),
    "by a helper that others call, too": (
        {
            "sum": (c.call("other"), *ASK_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("help")),
            "other": (c.call("help"), c.RET),
            "help": (c.call("fast"), c.RET),
            "fast": FAST,
        },
        False,
    ),
    "it runs on into it": ({"sum": (*ASK_AVX2, c.je("no"), "no:"), "fast": FAST}, False),
    "a jump into the padding before it": (
        {"sum": ASKED, "other": (c.jmp("end"),), "last": (c.RET, "end:"), "fast": FAST},
        False,
    ),
    "a jump into the midst of it": (
        {"sum": ASKED, "other": (c.jmp("late"),), "fast": (c.ZERO_EAX, "late:", *FAST)},
        False,
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_both_searches_say_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions, expected = CHOICES[name]
    near = look(functions, tmp_path, monkeypatch, near=True)["fast", "avx2"]
    whole = look(functions, tmp_path, monkeypatch, near=False)["fast", "avx2"]
    assert (bool(near.evidence), bool(whole.evidence)) == (expected, expected)


def test_a_pointer_in_data_is_left_to_the_whole_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions: dict[str, Sequence[Part]] = {"sum": ASKED, "other": (c.through("table"),), "fast": FAST}
    more = {"data": {"table": bytes(8)}, "pointers": {"table": "fast"}}
    for near in (True, False):
        assert not look(functions, tmp_path, monkeypatch, near=near, **more)["fast", "avx2"].evidence


@pytest.mark.parametrize(
    "spans",
    [((0x401000, 0x401010),), tuple((0x400000 + (n << 17), 0x400008 + (n << 17)) for n in range(leads.FEW + 1))],
    ids=["few", "many"],
)
def test_words_are_found_however_many_ranges_there_are(spans: leads.Spans) -> None:
    values = [0x401000, 0x40100F, 0x401010, 0, 0x400000, 0x5E0004, 0xFFFFFFFF00401000, 0x600000]
    data = c.library({"sum": (c.RET,)}, data={"words": b"".join(v.to_bytes(8, "little") for v in values)})
    layout = read_layout(data[:16] + b"\x02\0" + data[18:], "x")
    expected = {v for v in values if any(low <= v < high for low, high in spans)}
    assert expected
    assert set(leads.words(data, layout, spans)) == expected


ENTRY = (0x1000, 8, 0x2000)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([ENTRY] * 9, 9),
        ([], 0),
        ([ENTRY] * 4 + [(0x1000, 6, 0x2000)] + [ENTRY], 4),  # of another kind
        ([(0x1000, 8 | 1 << 32, 0x2000)], 0),  # with a symbol
        ([ENTRY, (0x1000, 8, 1 << 32)], 1),  # what is no address of 32 bits
        ([ENTRY, (0x1000, 8, -0x402000)], 1),
    ],
)
def test_relocations_of_own_pointers(entries: list[tuple[int, int, int]], expected: int) -> None:
    data = ef.make(ef.Elf(relocations=entries, needed=["libc.so.6"]))
    layout = read_layout(data, "x")
    low, high = relative_relocations(data, layout, "x")
    assert high - low == 24 * expected


@pytest.mark.parametrize("led", [False, True])
def test_relocations_are_data_unless_code_leads_there(led: bool, tmp_path: Path) -> None:
    """The addend of each entry is an instruction, as far as its form allows: four bytes, and zeros behind them."""
    addend = int.from_bytes(c.AVX2[:4], "little")
    elf = ef.Elf(relocations=[(0x1000, 8, addend - 0x401000)] * 100, needed=["libc.so.6"], text=bytes(8) + c.RET)
    at = next(s.address for s in read_layout(ef.make(elf), "x").sections if s.name == ".rela.dyn")
    if led:
        elf.text = b"\xe9" + (at + 16 - elf.address - 5).to_bytes(4, "little") + c.RET
    data = bytearray(ef.make(elf))
    data[64:68] = bytes(4)  # the second segment has all of the first one, and may be executed
    data[64 + 56 + 4] = 7
    path = tmp_path / "library"
    path.write_bytes(data)
    [found] = scan([CodeSource(file="lib/x.so.1", path=path)], BASELINE, workers=1)
    assert [h.feature for h in found.hits] == (["avx2"] if led else [])
    if not led:
        assert sum(size for claim, size in found.data if ".rela.dyn" in claim) == 24 * 100
