"""Why a cell is what it is."""

from __future__ import annotations

import pytest
from unit.helpers import make_spec, refusal

from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import ConfigError
from pikaforge.plan.explain import Explanation, explain

OLD = Machine(flags=microarch.kernel_flags("haswell"))
WITHOUT = Machine(flags=microarch.kernel_flags("haswell"), emulates=False)
NEW = Machine(flags=microarch.kernel_flags("sapphirerapids"))


def _why(cell: str, machine: Machine = OLD, **changes: object) -> Explanation:
    return explain(make_spec(**changes), cell, machine)


def test_the_target_is_what_all_cpus_run() -> None:
    found = _why("R620-debian12-none")
    assert found.cpus == ("sandybridge", "ivybridge")
    assert found.cell.target == "sandybridge"
    ((refused,),) = (found.refused,)
    assert refused.cpu == "ivybridge"
    assert refused.lacking == (("sandybridge", ("f16c", "rdrand")),)
    assert found.left_out == found.reason == found.nearest == ""


def test_a_fallback_says_what_is_given_up() -> None:
    found = _why("R640-el7-none", images__el7__fallback="nearest")
    assert (found.cell.wanted, found.cell.target, found.nearest) == ("skylake_avx512", "haswell", "haswell")
    assert found.reason == "gcc 4.8.5 cannot produce code for skylake_avx512"
    assert "avx512f" in found.given_up
    assert found.tried == "by this machine's CPU and emulated, as Haswell-noTSX"


def test_what_is_impossible_is_not_tried() -> None:
    found = _why("R640-el7-none")
    assert found.cell.problem
    assert found.tried == "not at all: it cannot be built"


TWIN = "as its twin {}, because this machine's CPU lacks a part of skylake_avx512, and skylake_avx512: it has AVX-512, "
TWIN += "which the emulator cannot execute"


@pytest.mark.parametrize(
    ("machine", "tried"),
    [
        (NEW, "by this machine's CPU"),
        (OLD, TWIN.format("sandybridge")),
        (WITHOUT, TWIN.format("sandybridge")),
        (Machine(flags=frozenset(), emulates=False), TWIN.format("x86_64")),
    ],
)
def test_how_it_is_tried(machine: Machine, tried: str) -> None:
    assert _why("R640-debian12-none", machine).tried == tried


def test_an_exclusion_with_its_reason() -> None:
    rules = [{"model": "R6*", "image": "debian12", "reason": "nobody has it"}]
    found = _why("R620-debian12-none", matrix={"exclude": rules})
    assert found.left_out == "matrix.exclude has model R6*, image debian12: nobody has it"
    assert found.cell.target == "sandybridge", "the rest is explained nevertheless"
    assert _why("R720-debian12-none", matrix={"exclude": rules}).left_out == ""


def test_an_exclusion_without_a_reason_and_axes() -> None:
    assert _why("R620-debian12-none", matrix={"exclude": [{}]}).left_out == (
        "matrix.exclude has everything, without a reason"
    )
    axes = {"axes": {"image": ["el7"]}}
    assert _why("R620-debian12-none", matrix=axes).left_out == "matrix.axes do not have it"


@pytest.mark.parametrize(
    ("cell", "message", "hint"),
    [
        ("R620-debian21-none", "there is no cell 'R620-debian21-none'", "did you mean R620-debian12-none"),
        ("R620", "R620 is a model; a cell is MODEL-IMAGE-ALLOCATOR", "its cells: R620-el7-none"),
        ("???", "there is no cell '???'", "`nox -s matrix -- --all` lists the cells"),
    ],
)
def test_a_cell_that_does_not_exist(cell: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        _why(cell)
    said, where, advice = refusal(error)
    assert (said, where) == (message, "--why")
    assert advice.startswith(hint)


def test_the_nearest_of_very_many() -> None:
    hardware = {f"M{number}": {"cpus": ["haswell"]} for number in range(1200)}
    with pytest.raises(ConfigError) as error:
        _why("M1100-debian12-nnone", hardware=hardware)
    assert "did you mean M1100-debian12-none" in refusal(error)[2]
