"""Twins: which target is run in the place of one that cannot be, and what is told of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from unit.helpers import ROOT, make_spec, the_cell

from pikaforge.config import load
from pikaforge.cpu import emulation, microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.plan import twins
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import Plan, expand
from pikaforge.plan.selectors import Selection, select

V2 = Machine(flags=microarch.kernel_flags("x86_64_v2"))
HASWELL = Machine(flags=microarch.kernel_flags("haswell"))
SPEC = load.load(ROOT / "matrix.yaml")
USUAL = {cell.target for cell in all_cells(SPEC) if cell.image == "debian12"}


def _twin(target: str, machine: Machine = HASWELL, gcc: str = "12.2", usual: set[str] | None = None) -> str:
    return twins.twin_of(target, gcc=gcc, machine=machine, usual=USUAL if usual is None else usual)


@pytest.mark.parametrize(
    ("target", "twin"),
    [
        ("skylake_avx512", "haswell"),
        ("icelake", "haswell"),
        ("sapphirerapids", "haswell"),
        ("zen4", "zen2"),
        *(
            (name, "")
            for name in ("nehalem", "sandybridge", "haswell", "x86_64_v2", "x86_64_v3", "zen", "zen2", "zen3")
        ),
    ],
)
def test_what_no_machine_here_runs_has_a_twin(target: str, twin: str) -> None:
    """Also where the CPU is an old one: the emulator runs what has no AVX-512."""
    assert _twin(target) == twin
    assert _twin(target, V2) == twin


def test_a_machine_that_runs_the_target_needs_no_twin() -> None:
    wide = Machine(flags=microarch.kernel_flags("icelake"), emulates=False)
    assert _twin("icelake", wide) == ""
    assert _twin("skylake_avx512", wide) == ""
    assert _twin("sapphirerapids", wide) == "icelake"


def test_a_feature_that_hypervisors_hide_is_not_missed() -> None:
    assert _twin("icelake", Machine(flags=microarch.kernel_flags("icelake") - {"pku"})) == ""


def test_without_an_emulator_the_cpu_alone_decides() -> None:
    bare = Machine(flags=V2.flags, emulates=False)
    assert _twin("haswell", bare) == "nehalem", "it has what x86_64_v2 has"
    assert _twin("zen4", bare) == "x86_64_v2"
    assert _twin("x86_64_v2", bare) == ""


def test_without_one_of_the_matrix_the_best_ancestor_is_taken() -> None:
    assert _twin("skylake_avx512", usual=set()) == "skylake"
    assert _twin("zen4", usual=set()) == "zen3"
    assert _twin("zen4", usual=set(), gcc="10.2") == "zen2", "gcc 10.2 knows no zen3"


def test_every_target_of_the_matrix_has_one_it_has_all_features_of() -> None:
    targets = defaultdict(set)
    for cell in all_cells(SPEC):
        targets[cell.image].add(cell.target)
    for machine in (V2, HASWELL):
        for image, usual in targets.items():
            for target in usual:
                tried = _twin(target, machine, SPEC.images[image].gcc, usual) or target
                assert machine.runs(tried), (image, target)
                assert microarch.features(tried) <= microarch.features(target), (image, target)


def test_the_first_x86_64_runs_on_every_machine() -> None:
    assert _twin("haswell", Machine(flags=frozenset(), emulates=False)) == "x86_64"


@pytest.mark.parametrize(
    ("target", "tried", "text"),
    [
        ("skylake_avx512", "haswell", "function tried as haswell; AVX-512 code audited, not run"),
        ("sapphirerapids", "haswell", "function tried as haswell; AVX-512 code audited, not run"),
        ("sapphirerapids", "icelake", "function tried as icelake; avx512_bf16 code audited, not run"),
        ("zen4", "zen2", "function tried as zen2; AVX-512 code audited, not run"),
        ("sandybridge", "westmere", "function tried as westmere; avx code audited, not run"),
        ("haswell", "x86_64_v2", "function tried as x86_64_v2; abm, avx, avx2 and 8 more code audited, not run"),
        ("haswell", "haswell", ""),
        ("haswell", "", ""),
    ],
)
def test_the_sentence_for_people(target: str, tried: str, text: str) -> None:
    assert twins.sentence(target, tried) == text


# ---- in a plan


def _plan(*selectors: str, machine: Machine | None = HASWELL, require_run: bool = False) -> Plan:
    cells = select(SPEC, Selection(selectors=selectors))
    return expand(SPEC, cells, machine=machine, require_run=require_run)


def _smoke_of(plan: Plan, cell: Cell) -> str:
    node = next(n for n in plan.nodes if n.stage == "smoke" and n.label == cell.group)
    return node.twin or node.id


def test_a_twin_is_compiled_and_run_but_goes_into_no_package() -> None:
    plan = _plan("R640-debian12-none")
    assert [node.id for node in plan.nodes if node.stage not in ("source", "image")] == [
        "compile:debian12-skylake_avx512-none",
        "audit:debian12-skylake_avx512-none",
        "compile:debian12-haswell-none",
        "smoke:debian12-haswell-none",
        "smoke:debian12-skylake_avx512-none",
        "package:R640-debian12-none",
    ]
    compiled = next(node for node in plan.nodes if node.id == "compile:debian12-haswell-none")
    assert (compiled.cell.target, compiled.cell.flags) == (
        "haswell", ("-march=haswell", "-mtune=haswell", "-mno-fsgsbase")
    )  # fmt: skip
    assert [cell.id for cell in compiled.cells] == ["R640-debian12-none"]
    adopted = plan.nodes[-2]
    assert adopted.needs == (
        "compile:debian12-skylake_avx512-none", "image:debian12", "smoke:debian12-haswell-none"
    )  # fmt: skip
    assert adopted.twin == "smoke:debian12-haswell-none"
    assert plan.cells[0].tried == "haswell"
    told = "R640-debian12-none: function tried as haswell; AVX-512 code audited, not run"
    assert told in plan.warnings


def test_a_twin_is_shared_with_the_cells_that_have_its_target_anyway() -> None:
    plan = _plan("R6*-debian12-none")
    nodes = {node.id: node for node in plan.nodes}
    assert len(nodes) == len(plan.nodes), "no node twice"
    assert [cell.model for cell in nodes["smoke:debian12-haswell-none"].cells] == ["R630", "R640", "R650", "R660"]
    assert [cell.model for cell in nodes["audit:debian12-haswell-none"].cells] == ["R630"]
    assert nodes["smoke:debian12-zen2-none"].cells[-1].model == "R6625"
    for cell in plan.cells:
        assert HASWELL.runs(nodes[_smoke_of(plan, cell)].cell.target)
    made: set[str] = set()
    for node in plan.nodes:
        assert made.issuperset(node.needs), f"{node.id} comes before what it needs"
        made.add(node.id)


def test_an_allocator_of_our_own_is_built_for_the_twin_too() -> None:
    ids = [node.id for node in _plan("R640-debian12-libunwind").nodes]
    assert "allocator:debian12-haswell-libunwind" in ids
    assert ids.index("allocator:debian12-haswell-libunwind") < ids.index("compile:debian12-haswell-libunwind")


def test_what_must_be_run_gets_no_twin() -> None:
    plan = _plan("R640-debian12-none", "R620-debian12-none", require_run=True)
    [bad] = plan.problems
    assert bad.model == "R640"
    assert bad.problem == (
        "skylake_avx512 can be run neither by this machine's CPU nor by the emulator; without --require-run, haswell "
        "is tried in its place"
    )
    assert {cell.model for node in plan.nodes for cell in node.cells} == {"R620"}


def test_where_the_machine_is_not_known_there_are_no_twins() -> None:
    assert all(not cell.twin for cell in _plan("all", machine=None).cells)


def test_all_of_the_shipped_matrix_can_be_planned_on_any_machine() -> None:
    """`plan -- all --os all --allocator all`: old compilers take the nearest target, old CPUs a twin."""
    for machine in (None, V2, HASWELL):
        plan = expand(SPEC, all_cells(SPEC), machine=machine)
        assert plan.problems == ()
        assert {cell.model for cell in plan.cells} == set(SPEC.hardware)
        places = {node.id: place for place, node in enumerate(plan.nodes)}
        assert all(places[need] < places[node.id] for node in plan.nodes for need in node.needs)


def test_a_fallback_and_a_twin_are_both_told() -> None:
    spec = make_spec(images__el7__fallback="nearest")
    cells = select(spec, Selection(selectors=("R640-el7-none",)))
    plan = expand(spec, cells, machine=Machine(flags=V2.flags, emulates=False))
    assert plan.cells[0].target == "haswell"
    assert plan.cells[0].tried == "nehalem"
    assert any(text.startswith("R640-el7-none: gcc 4.8.5 cannot") for text in plan.warnings)
    assert any("function tried as" in text for text in plan.warnings)


@pytest.mark.parametrize(("version", "since"), [("11", "13"), ("12", "13"), ("12.5", "13"), ("13", ""), ("14", "")])
def test_an_emulator_that_is_older_than_it_may_be_is_told(version: str, since: str) -> None:
    def plan(**more: Any) -> Plan:
        spec = make_spec(images__debian12__os={"id": "debian", "version": version}, **more)
        return expand(spec, [the_cell(spec, "R620-debian12-none")])

    told = [text for text in plan(defaults__emulator="debian12").warnings if text.startswith("defaults.emulator: ")]
    assert len(told) == bool(since)
    assert all(text.endswith(f"name an image of debian {since} or later") for text in told)
    assert plan().warnings == ()


@pytest.mark.parametrize(
    ("id", "version", "since"),
    [
        ("ubuntu", "24.04", "25.10"),
        ("ubuntu", "25.10", ""),
        ("ubuntu", "26.04", ""),
        ("rocky", "8", ""),
        ("debian", "", ""),
    ],
)
def test_releases_with_an_old_emulator(id: str, version: str, since: str) -> None:
    assert emulation.too_old(id, version) == since
