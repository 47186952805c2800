"""Jobs of a continuous integration service that build a plan in parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pikaforge.errors import ConfigError
from pikaforge.host import hashing
from pikaforge.plan.cells import Cell

LIMITS = {"github": 256, "gitlab": 200}
"""Jobs of one matrix that a service accepts.

GitHub Actions: 256 (docs: Usage limits for workflows). GitLab: 200 permutations of `parallel:matrix`
(gitlab-org/gitlab issues 438369 and 547976).
"""
RUNNER = ("ubuntu-24.04",)
"""Labels of GitHub's machines for what `runners` says nothing about."""
CHUNK = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
TEMPLATE = ".pikaforge-build"
"""The job of a GitLab configuration that says how a chunk is built; the generated jobs extend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChunk:
    """The cells that one job builds: those of one compilation, or of several."""

    groups: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The name of its first compilation, with the number of further ones: `el7-sandybridge-none+3`."""
        return self.groups[0] if len(self.groups) == 1 else f"{self.groups[0]}+{len(self.groups) - 1}"


def chunks(cells: Sequence[Cell], most: int) -> tuple[JobChunk, ...]:
    """Return the jobs that build cells: one for each compilation, or `most` if there are more of those.

    A compilation is never divided, so no two jobs compile the same. Compilations that share a job are neighbours. Those
    of one image are neighbours, because a job then makes that image only once. No job has more than one compilation
    more than another. The result depends on the arguments alone.

    Args:
        cells: what is to be built; those with a problem are left out.
        most: how many jobs there may be.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.problem:
            groups.setdefault(cell.group, []).append(cell)
    members = list(groups.items())
    if len(members) > most:
        order = {image: number for number, image in enumerate(dict.fromkeys(cell.image for cell in cells))}
        members.sort(key=lambda member: order[member[1][0].image])
    jobs = min(len(members), most)
    parts = [members[number * len(members) // jobs : (number + 1) * len(members) // jobs] for number in range(jobs)]
    return tuple(
        JobChunk(groups=tuple(label for label, _ in part), cells=tuple(cell for _, group in part for cell in group))
        for part in parts
    )


def one_chunk(cells: Sequence[Cell], text: str) -> tuple[Cell, ...]:
    """Return the cells of the K-th of at most N jobs, for `K/N`; none if there are fewer jobs than K.

    Raises:
        ConfigError: the text is no chunk.
    """
    match = CHUNK.fullmatch(text)
    number, most = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= most:
        raise ConfigError(f"{text!r} is no chunk", where="--chunk", hint="K/N: the K-th of at most N jobs, as in 3/40")
    found = chunks(cells, most)
    return found[number - 1].cells if number <= len(found) else ()


def job_limit(service: str, wanted: int | None) -> int:
    """Return how many jobs a service may get: what is wanted, or as many as it accepts.

    Raises:
        ConfigError: the service does not accept so many.
    """
    limit = LIMITS[service]
    if wanted is not None and wanted > limit:
        raise ConfigError(
            f"{service} accepts {limit} jobs of one matrix, not {wanted}",
            where="--chunks",
            hint=f"--chunks {limit} or less; jobs then build several compilations",
        )
    return wanted or limit


def _runner_of(group: Sequence[Cell], runners: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the labels of the machine that builds a compilation: those of a model, or of its target, or the usual."""
    of_model = next((runners[cell.model] for cell in group if cell.model in runners), None)
    return tuple(of_model or runners.get(group[0].target) or RUNNER)


def chunks_by_runner(
    cells: Sequence[Cell], runners: Mapping[str, Sequence[str]], most: int
) -> tuple[tuple[tuple[str, ...], JobChunk], ...]:
    """Return the jobs that build cells, each with the labels of its machine; see `chunks`.

    No job has compilations for two kinds of machines. If there are more compilations than jobs, each kind gets jobs in
    proportion to its compilations, and one at least.

    Args:
        cells: what is to be built; those with a problem are left out.
        runners: labels by model or target.
        most: how many jobs there may be.

    Raises:
        ConfigError: there are more kinds of machines than jobs.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.problem:
            groups.setdefault(cell.group, []).append(cell)
    kinds: dict[tuple[str, ...], list[Cell]] = {}
    for group in groups.values():
        kinds.setdefault(_runner_of(group, runners), []).extend(group)
    if len(kinds) > most:
        raise ConfigError(
            f"{len(kinds)} kinds of machines cannot share {most} jobs",
            where="runners",
            hint="allow more jobs: --chunks N",
        )
    counts = {kind: len({cell.group for cell in of_kind}) for kind, of_kind in kinds.items()}
    shares = _shares(counts, most)
    return tuple((kind, chunk) for kind, of_kind in kinds.items() for chunk in chunks(of_kind, shares[kind]))


def _shares(counts: Mapping[tuple[str, ...], int], most: int) -> dict[tuple[str, ...], int]:
    """Return the jobs of each kind of machines."""
    total = sum(counts.values())
    if total <= most:
        return dict(counts)
    shares = {kind: max(1, most * count // total) for kind, count in counts.items()}
    while sum(shares.values()) > most:
        shares[max(shares, key=lambda kind: shares[kind])] -= 1
    while sum(shares.values()) < most:
        shares[max(shares, key=lambda kind: counts[kind] / shares[kind])] += 1
    return shares


def github_matrix(
    cells: Sequence[Cell],
    compilations: Mapping[str, str],
    *,
    limit: int = LIMITS["github"],
    runners: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, list[dict[str, object]]]:
    """Return the `matrix` of a GitHub Actions job: an entry for each chunk.

    Args:
        cells: what is to be built; those with a problem are left out.
        compilations: by group, a hash of what decides its compilation; an entry's `key` is made of those of its groups.
        limit: how many jobs there may be.
        runners: labels of machines by model or target.
    """
    entries: list[dict[str, object]] = [
        {
            "name": chunk.name,
            "runs-on": list(kind),
            "image": " ".join(dict.fromkeys(cell.image for cell in chunk.cells)),
            "target": " ".join(dict.fromkeys(cell.target for cell in chunk.cells)),
            "allocator": " ".join(dict.fromkeys(cell.allocator for cell in chunk.cells)),
            "cells": " ".join(cell.id for cell in chunk.cells),
            "key": hashing.digest("\n".join(compilations[label] for label in chunk.groups))[:16],
        }
        for kind, chunk in chunks_by_runner(cells, runners, limit)
    ]
    return {"include": entries}


def gitlab_pipeline(cells: Sequence[Cell], *, limit: int = LIMITS["gitlab"]) -> dict[str, object]:
    """Return the jobs of a child pipeline of GitLab, which extend the job TEMPLATE of another file.

    GitLab writes the values of a matrix into the names of jobs, which have at most 255 characters. So a job gets the
    number of its chunk and not a list of cells.

    Args:
        cells: what is to be built; those with a problem are left out.
        limit: how many jobs there may be.
    """
    found = chunks(cells, limit)
    if not found:  # GitLab refuses a pipeline without jobs
        return {"pikaforge-nothing": {"script": ["echo 'nothing that is selected can be built'"]}}
    matrix = [
        {"PIKAFORGE_JOB": chunk.name, "PIKAFORGE_CHUNK": f"{number}/{len(found)}"}
        for number, chunk in enumerate(found, 1)
    ]
    return {"pikaforge-build": {"extends": TEMPLATE, "parallel": {"matrix": matrix}}}
