"""The matrix: which cells exist, and with which target."""

from __future__ import annotations

from unit.helpers import make_spec, the_cell

from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells, combinations
from pikaforge.plan.plan import expand
from pikaforge.plan.selectors import Selection, select

NEAREST = "gcc 4.8.5 cannot produce code for skylake_avx512"


def test_exclude_rules_take_cells_away_and_include_rules_give_them_back() -> None:
    spec = make_spec(
        matrix__axes={"model": ["R620"], "image": ["debian12"]},
        matrix__exclude=[{"allocator": "system"}],
        matrix__include=[{"model": "R640", "image": "el?", "allocator": "none"}, {"model": "R620", "image": "el7"}],
    )
    assert [cell.id for cell in all_cells(spec)] == [
        "R620-el7-none",
        "R620-el7-system",
        "R620-debian12-none",
        "R640-el7-none",
    ]


def test_the_combinations_of_some_models_are_those_that_the_whole_matrix_has() -> None:
    spec = make_spec(matrix__exclude=[{"allocator": "system"}], matrix__include=[{"model": "R640", "image": "el?"}])
    whole = combinations(spec)
    for models in ({"R640"}, {"R620", "R640"}, set[str]()):
        some = combinations(spec, of=models)
        assert list(some.triples) == [triple for triple in whole.triples if triple[0] in models]
        assert some.excluded == {triple: rule for triple, rule in whole.excluded.items() if triple[0] in models}


# ---- targets that a compiler cannot produce


def test_a_target_that_the_compiler_cannot_produce_is_a_problem_of_the_cell() -> None:
    spec = make_spec()
    cell = the_cell(spec, "R640-el7-none")
    assert cell == Cell(
        model="R640",
        image="el7",
        allocator="none",
        wanted="skylake_avx512",
        target="skylake_avx512",
        flags=(),
        problem=f"{NEAREST}; the nearest it can produce is haswell (`fallback: nearest` at images.el7 accepts it)",
    )
    plan = expand(spec, select(spec, Selection(selectors=("R640-el7-none", "R620-el7-none"))))
    assert plan.problems == (cell,)
    assert [c.id for c in plan.cells] == ["R620-el7-none", "R640-el7-none"]
    assert all(c.id != cell.id for node in plan.nodes for c in node.cells)
    assert expand(spec, [cell]).nodes == ()


def test_the_nearest_target_is_taken_where_the_image_allows_it() -> None:
    spec = make_spec(images__el7__fallback="nearest", hardware__R630={"cpus": ["haswell"]})
    cell = the_cell(spec, "R640-el7-none")
    assert (cell.wanted, cell.target, cell.problem) == ("skylake_avx512", "haswell", "")
    assert cell.flags == ("-march=core-avx2", "-mtune=core-avx2", "-mno-fsgsbase", "-mno-rtm")
    assert cell.remark == f"{NEAREST}; built for the nearest, haswell"
    plan = expand(spec, [cell, the_cell(spec, "R630-el7-none"), the_cell(spec, "R640-debian12-none")])
    assert plan.warnings == (f"R640-el7-none: {cell.remark}",)
    # A model with that very target shares the compilation.
    shared = next(node for node in plan.nodes if node.id == "compile:el7-haswell-none")
    assert [c.id for c in shared.cells] == ["R640-el7-none", "R630-el7-none"]
