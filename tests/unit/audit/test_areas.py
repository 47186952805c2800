"""Instructions in bytes that may be data: what is taken for code, and what stays in doubt."""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import pytest

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.isa.area_facts import AreaGiven
from pikaforge.audit.isa.areas import judge_areas
from pikaforge.audit.isa.ranges import FUNCTION, GAP
from pikaforge.audit.isa.worker_pool import Chunk

START = 0x1000
LEA = bytes.fromhex("488d0500000000")  # lea 0(%rip),%rax
ADD = bytes.fromhex("c5f5fe0590909090")  # vpaddd -0x6f6f6f70(%rip),%ymm1,%ymm0: it ends with four times nop
TEXT = 6 * LEA + ADD + 6 * LEA + b"\x06"
WITHIN = START + 6 * len(LEA) + 4


@pytest.mark.parametrize(("referred", "suspect"), [((), False), ((WITHIN,), True), ((WITHIN + 8,), False)])
def test_an_instruction_in_which_another_run_begins_is_not_lost(
    referred: tuple[int, ...], suspect: bool, tmp_path: Path
) -> None:
    """A pointer names an address within an instruction, from which on other instructions are likely, too."""
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    ends = array("Q", [START + len(TEXT)])
    held = ((START, ends[0]),)
    given = AreaGiven(of_baseline("x86_64"), array("Q"), array("Q", referred), 20, 8, held, held)
    [judged] = judge_areas(Chunk(str(path), 0, array("Q", [START]), ends, array("Q", [0]), bytes([GAP])), given)
    assert [(hit.feature, hit.count, hit.suspect) for hit in judged.hits] == [("avx2", 1, suspect)]


SYMBOLS = struct.pack("<IBBHQQ", 0x008B67D1, 0x11, 0, 23, 0xA2C3780, 0) + struct.pack(
    "<IBBHQQ", 0x021DE2C4, 0x12, 0, 14, 0x000008A1E8, 0x1000
)
"""Two symbols. The second one's name and type are an instruction of AVX2 by their bytes, and its value is a call."""


@pytest.mark.parametrize(("formed", "led", "hits"), [(False, False, 1), (True, False, 0), (True, True, 1)])
def test_tables_of_the_loader_are_code_only_where_something_leads(
    formed: bool, led: bool, hits: int, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(24) + SYMBOLS + bytes(24))
    end = START + 96
    place = START + 24 + SYMBOLS.index(b"\xc4\xe2")
    loaded = ((0, 1 << 24),)
    certain = array("Q", [place] if led else [])
    given = AreaGiven(of_baseline("x86_64"), certain, array("Q"), 34, 17, loaded, loaded, ((START, end),) * formed)
    chunk = Chunk(str(path), 0, array("Q", [START]), array("Q", [end]), array("Q", [0]), bytes([FUNCTION]))
    [judged] = judge_areas(chunk, given)
    assert [hit.feature for hit in judged.hits] == ["avx2"] * hits
