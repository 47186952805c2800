"""The flags that debug information records."""

from __future__ import annotations

import pytest
from unit import elf_files as ef

from pikaforge.audit.elf.facts import ElfFacts, facts_of
from pikaforge.audit.judge_flags import FlagVerdict, judge, march_of

GOOD = "GNU C++11 12.2.0 -msse4.2 -march=sandybridge -mtune=sandybridge -g -O2"
# What gcc 12 and gcc 4.8 record of -march=native.
NATIVE = "GNU C17 12.2.0 -march=haswell -mmmx -mno-avx512f --param=l1-cache-size=32 -mtune=haswell -g"
NATIVE_48 = "GNU C 4.8.5 -march=core-avx2 -mcx16 --param l1-cache-line-size=64 -mtune=core-avx2 -g"


def facts(name: str, *producers: str) -> ElfFacts:
    debug = ef.dwarf([(text, f"{i}.c") for i, text in enumerate(producers)]) if producers else {}
    return facts_of(ef.make(ef.Elf(debug=debug)), name)


def verdict(*producers: str, own: bool = True, march: str = "sandybridge") -> FlagVerdict:
    mine = frozenset({"bin/x"} if own else ())
    return judge([facts("bin/x", *producers)], own=mine, march=march, dropped=[(3, "-march=native")])


def test_units_for_the_target_pass() -> None:
    found = verdict(GOOD, GOOD, GOOD + " -O3", "GNU AS 2.40")
    assert not found.violations
    [units] = found.units
    assert (units.march, units.mtune, units.native, units.count, units.example) == (
        "sandybridge", "sandybridge", False, 3, "0.c")  # fmt: skip
    assert found.dropped == ((3, "-march=native"),)


@pytest.mark.parametrize(
    "producer", [NATIVE, NATIVE_48, "GNU C17 -march=native", "GNU C17 -mtune=native -march=x86-64"]
)
def test_native_fails(producer: str) -> None:
    [line] = verdict(GOOD, producer).violations
    assert "compiled for the machine that built them" in line.what
    assert "1.c" in line.what


def test_native_fails_whatever_was_expected() -> None:
    assert verdict(NATIVE, march="").violations
    assert verdict(NATIVE, march="haswell").violations


def test_another_march_fails() -> None:
    [line] = verdict(GOOD, "GNU C17 -march=haswell").violations
    assert "-march=haswell instead of sandybridge" in line.what
    assert not verdict("GNU C17 -march=haswell", march="").violations


def test_units_for_any_cpu_are_noted() -> None:
    found = verdict(GOOD, "GNU C17 12.2.0 -mtune=generic -march=x86-64 -O2")
    assert not found.violations
    assert "-march=x86-64 instead of sandybridge" in found.notes[0]


def test_the_last_march_holds() -> None:
    assert not verdict("GNU C17 -march=haswell -march=sandybridge").violations
    assert march_of(["-march=a", "-O2", "-march=b", "-mtune=c"]) == "b"
    assert march_of([]) == ""


def test_prebuilt_libraries_are_only_noted() -> None:
    found = verdict(NATIVE, own=False)
    assert not found.violations
    assert "built elsewhere" in found.notes[0]


def test_own_files_without_debug_information_are_noted() -> None:
    assert "no debug information" in verdict().notes[0]
    assert not verdict(own=False).notes
