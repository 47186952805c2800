"""Which servers are compared: their order, their names, and what a machine cannot run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pikaforge.cli.commands.bench_servers import distinct, in_order, names_of, runnable
from pikaforge.cpu import microarch
from pikaforge.errors import StageError
from pikaforge.plan.cells import Cell

TARGETS = {"x86_64_v2": "x86_64_v2", "R620": "sandybridge", "R720": "sandybridge", "R640": "skylake_avx512"}


def cell(model: str, allocator: str = "none") -> Cell:
    target = TARGETS[model]
    return Cell(model=model, image="debian12", allocator=allocator, wanted=target, target=target, flags=())


CELLS = tuple(map(cell, ("R620", "R720", "R640", "x86_64_v2")))
"""In the order of a matrix."""


@pytest.mark.parametrize(
    ("selectors", "models"),
    [
        (["x86_64_v2", "R640", "R620", "R720"], ["x86_64_v2", "R640", "R620", "R720"]),
        (["x86_64_v2-*", "R6*"], ["x86_64_v2", "R620", "R640", "R720"]),
        (["R720-debian12-none", "all"], ["R720", "R620", "R640", "x86_64_v2"]),
        ([], ["R620", "R720", "R640", "x86_64_v2"]),
    ],
)
def test_cells_are_in_the_order_in_which_they_were_named(selectors: Sequence[str], models: Sequence[str]) -> None:
    assert [each.model for each in in_order(CELLS, selectors)] == models


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([cell("R620"), cell("R620", "system")], ["none", "system"]),
        ([cell("R620"), cell("R640")], ["R620", "R640"]),
        ([cell("R620"), cell("R640", "system")], ["R620-none", "R640-system"]),
    ],
)
def test_a_name_says_what_differs(cells: Sequence[Cell], names: Sequence[str]) -> None:
    assert list(names_of(cells).values()) == names


def test_models_with_one_server_are_measured_once() -> None:
    kept, same = distinct(CELLS)
    assert [each.model for each in kept] == ["R620", "R640", "x86_64_v2"]
    assert [(out.cell.model, out.reason) for out in same] == [
        ("R720", "its server is the same as that of R620: both are built for sandybridge")
    ]


def test_what_a_machine_cannot_run_is_left_out_with_the_reason() -> None:
    flags = microarch.kernel_flags("sandybridge")
    kept, left_out = runnable(CELLS, flags)
    assert [each.model for each in kept] == ["R620", "R720", "x86_64_v2"]
    assert [out.cell.model for out in left_out] == ["R640"]
    assert "avx512f" in left_out[0].lacking
    assert left_out[0].reason.endswith("so skylake_avx512 cannot be measured here")
    assert runnable(CELLS, None) == (CELLS, ()), "not known yet"
    with pytest.raises(StageError, match=r"this machine lacks .*avx512f.*, so skylake_avx512 cannot be measured here"):
        runnable([cell("R640")], flags)
