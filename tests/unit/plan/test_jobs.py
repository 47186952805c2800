"""Jobs of a continuous integration service: how compilations share them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from unit.helpers import make_spec, the_cell

from pikaforge.plan.cells import Cell
from pikaforge.plan.jobs import GITHUB_JOB_LIMIT, github_matrix
from pikaforge.plan.matrix import all_cells


def _cells(count: int, images: int = 1) -> list[Cell]:
    return [
        Cell(model=f"M{n}", image=f"i{n % images}", allocator="none", wanted=f"t{n}", target=f"t{n}", flags=())
        for n in range(count)
    ]


def _compilations(cells: Iterable[Cell]) -> dict[str, str]:
    """A hash by group; here it is the group itself."""
    return {cell.group: cell.group for cell in cells}


def _github(cells: list[Cell], limit: int = GITHUB_JOB_LIMIT) -> list[dict[str, str]]:
    return github_matrix(cells, _compilations(cells), limit=limit)["include"]


def test_github_gets_one_job_a_compilation() -> None:
    spec = make_spec()
    cells = all_cells(spec)
    include = _github(list(cells))
    assert {**include[0], "key": ""} == {
        "name": "el7-sandybridge-none",
        "image": "el7",
        "target": "sandybridge",
        "allocator": "none",
        "cells": "R620-el7-none R720-el7-none",
        "key": "",
    }
    assert len(include) == 6  # two of eight cannot be built
    assert len({entry["name"] for entry in include}) == 6
    listed = [cell for entry in include for cell in entry["cells"].split()]
    assert sorted(listed) == sorted(cell.id for cell in cells if not cell.problem)


def test_github_gets_an_empty_list_for_nothing() -> None:
    spec = make_spec()
    assert github_matrix([the_cell(spec, "R640-el7-none")], {}) == {"include": []}


@pytest.mark.parametrize(("count", "jobs"), [(1, 1), (255, 255), (256, 256), (257, 256), (511, 256), (10_000, 256)])
def test_github_accepts_256_jobs_and_they_are_even(count: int, jobs: int) -> None:
    cells = _cells(count)
    include = _github(cells)
    assert len(include) == jobs <= GITHUB_JOB_LIMIT
    listed = [cell for entry in include for cell in entry["cells"].split()]
    assert listed == [cell.id for cell in cells]
    sizes = {len(entry["cells"].split()) for entry in include}
    assert max(sizes) - min(sizes) <= 1
    assert len({entry["name"] for entry in include}) == jobs


def test_jobs_that_share_do_so_within_an_image() -> None:
    cells = _cells(1000, images=4)
    include = _github(cells, limit=100)
    assert len(include) == 100
    assert all(len(entry["image"].split()) == 1 for entry in include)
    assert include[0]["name"] == "i0-t0-none+9"
    listed = [cell for entry in include for cell in entry["cells"].split()]
    assert sorted(listed) == sorted(cell.id for cell in cells)


@pytest.mark.parametrize("limit", [256, 3])
def test_a_jobs_key_is_made_of_its_own_compilations_alone(limit: int) -> None:
    cells = _cells(7)
    before = {entry["name"]: entry["key"] for entry in _github(cells, limit)}
    assert len(set(before.values())) == min(7, limit)
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in before.values())
    changed = {**_compilations(cells), "i0-t5-none": "another"}
    after = {entry["name"]: entry["key"] for entry in github_matrix(cells, changed, limit=limit)["include"]}
    [job] = [entry["name"] for entry in _github(cells, limit) if "M5-i0-none" in entry["cells"].split()]
    assert {name for name in before if before[name] != after[name]} == {job}
