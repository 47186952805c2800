"""Jobs of a continuous integration service: how compilations share them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from unit.helpers import make_spec, refusal, the_cell

from pikaforge.errors import ConfigError
from pikaforge.plan.cells import Cell
from pikaforge.plan.jobs import LIMITS, TEMPLATE, chunks, github_matrix, gitlab_pipeline, job_limit, one_chunk
from pikaforge.plan.matrix import all_cells


def _cells(count: int, images: int = 1) -> list[Cell]:
    return [
        Cell(model=f"M{n}", image=f"i{n % images}", allocator="none", wanted=f"t{n}", target=f"t{n}", flags=())
        for n in range(count)
    ]


def _compilations(cells: Iterable[Cell]) -> dict[str, str]:
    """A hash by group; here it is the group itself."""
    return {cell.group: cell.group for cell in cells}


def _github(
    cells: list[Cell], limit: int = LIMITS["github"], runners: Mapping[str, tuple[str, ...]] | None = None
) -> list[dict[str, Any]]:
    return github_matrix(cells, _compilations(cells), limit=limit, runners=runners or {})["include"]


def test_github_gets_one_job_a_compilation() -> None:
    spec = make_spec()
    cells = all_cells(spec)
    include = _github(list(cells))
    assert {**include[0], "key": ""} == {
        "name": "el7-sandybridge-none",
        "runs-on": ["ubuntu-24.04"],
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


def test_a_model_or_a_target_has_machines_of_its_own() -> None:
    cells = [cell for cell in all_cells(make_spec()) if cell.image == "debian12" and cell.allocator == "none"]
    runners = {"skylake_avx512": ("self-hosted", "avx512"), "R720": ("r720",), "sandybridge": ("old",)}
    found = {entry["target"]: entry["runs-on"] for entry in _github(cells, runners=runners)}
    assert found == {"sandybridge": ["r720"], "skylake_avx512": ["self-hosted", "avx512"]}


@pytest.mark.parametrize(("most", "shares"), [(2, [1, 1]), (4, [1, 3]), (10, [1, 9]), (40, [1, 20])])
def test_no_job_is_for_two_kinds_of_machines(most: int, shares: list[int]) -> None:
    entries = _github(_cells(21), most, {"t0": ("other",)})
    kinds = [entry["runs-on"] for entry in entries]
    assert [kinds.count(["other"]), kinds.count(["ubuntu-24.04"])] == shares
    assert sorted(cell for entry in entries for cell in entry["cells"].split()) == sorted(c.id for c in _cells(21))


def test_more_kinds_of_machines_than_jobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 kinds of machines cannot share 1 jobs"):
        _github(_cells(3), 1, {"t0": ("other",)})


def test_github_gets_an_empty_list_for_nothing() -> None:
    spec = make_spec()
    assert github_matrix([the_cell(spec, "R640-el7-none")], {}) == {"include": []}


@pytest.mark.parametrize(("count", "jobs"), [(1, 1), (255, 255), (256, 256), (257, 256), (511, 256), (10_000, 256)])
def test_github_accepts_256_jobs_and_they_are_even(count: int, jobs: int) -> None:
    cells = _cells(count)
    include = _github(cells)
    assert len(include) == jobs <= LIMITS["github"]
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


# ---- chunks


@pytest.mark.parametrize("most", [1, 2, 3, 5, 6, 7, 1000])
def test_chunks_hold_every_cell_once_and_divide_no_compilation(most: int) -> None:
    cells = all_cells(make_spec())
    found = chunks(cells, most)
    assert len(found) == min(most, 6)
    listed = [cell.id for chunk in found for cell in chunk.cells]
    assert sorted(listed) == sorted(cell.id for cell in cells if not cell.problem)
    groups = [label for chunk in found for label in chunk.groups]
    assert len(groups) == len(set(groups)) == 6
    assert all({cell.group for cell in chunk.cells} == set(chunk.groups) for chunk in found)


@pytest.mark.parametrize(("count", "most"), [(7, 3), (7, 7), (7, 100), (500, 200), (500, 256), (1, 1)])
def test_one_chunk_is_that_of_the_list(count: int, most: int) -> None:
    cells = _cells(count, images=3)
    found = chunks(cells, most)
    for number, chunk in enumerate(found, 1):
        assert one_chunk(cells, f"{number}/{most}") == chunk.cells
        assert one_chunk(cells, f"{number}/{len(found)}") == chunk.cells, "GitLab's jobs get the number that there is"


def test_a_chunk_behind_the_last_one_is_empty() -> None:
    assert one_chunk(_cells(3), "4/9") == ()
    assert one_chunk([], "1/9") == ()


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3x", " 1/3", "1/3\n", "²/3", "1/9999999"])
def test_what_is_no_chunk_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        one_chunk(_cells(3), text)
    assert refusal(caught) == (f"{text!r} is no chunk", "--chunk", "K/N: the K-th of at most N jobs, as in 3/40")


@pytest.mark.parametrize(("service", "limit"), [("github", 256), ("gitlab", 200)])
def test_a_service_gets_no_more_jobs_than_it_accepts(service: str, limit: int) -> None:
    assert (job_limit(service, None), job_limit(service, 7), job_limit(service, limit)) == (limit, 7, limit)
    with pytest.raises(ConfigError, match=f"{service} accepts {limit} jobs of one matrix, not {limit + 1}"):
        job_limit(service, limit + 1)


@pytest.mark.parametrize(("count", "jobs"), [(1, 1), (200, 200), (201, 200), (1000, 200)])
def test_gitlab_gets_a_job_for_each_chunk(count: int, jobs: int) -> None:
    cells = _cells(count, images=3)
    pipeline = gitlab_pipeline(cells)
    [job] = pipeline.values()
    assert isinstance(job, dict)
    assert job["extends"] == TEMPLATE
    matrix = job["parallel"]["matrix"]
    assert len(matrix) == jobs <= LIMITS["gitlab"]
    built = [cell.id for entry in matrix for cell in one_chunk(cells, entry["PIKAFORGE_CHUNK"])]
    assert sorted(built) == sorted(cell.id for cell in cells)
    names = [f"pikaforge-build: [{entry['PIKAFORGE_JOB']}, {entry['PIKAFORGE_CHUNK']}]" for entry in matrix]
    assert len(set(names)) == jobs
    assert max(map(len, names)) <= 255, "GitLab accepts no longer names of jobs"


def test_gitlab_gets_a_job_if_there_is_nothing_to_build() -> None:
    [job] = gitlab_pipeline([the_cell(make_spec(), "R640-el7-none")]).values()
    assert isinstance(job, dict)
    assert "parallel" not in job


@pytest.mark.parametrize(
    ("runners", "said"),
    [
        ({"R999": ["x"]}, "R999"),
        ({"R640": []}, "must not be empty"),
        ({"R640": ["a,b"]}, "may hold only letters, digits, blanks"),
        ({"R640": ["${{ x }}"]}, "may hold only letters, digits, blanks"),
        ({"skylake": "x"}, "list"),
    ],
)
def test_the_schema_refuses_labels_that_are_none(runners: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        make_spec(runners=runners)
    assert said in "\n".join(found.value.lines())


def test_a_model_and_a_target_have_labels() -> None:
    spec = make_spec(runners={"R640": ["self-hosted", "linux x64"], "icelake": ["ice"]})
    assert spec.runners == {"R640": ("self-hosted", "linux x64"), "icelake": ("ice",)}
