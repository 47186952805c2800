"""Jobs of a continuous integration service that build a plan in parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pikaforge.host import hashing
from pikaforge.plan.cells import Cell

GITHUB_JOB_LIMIT = 256
"""Jobs of one matrix that GitHub Actions accepts (docs: Usage limits for workflows)."""


def github_matrix(
    cells: Sequence[Cell], compilations: Mapping[str, str], *, limit: int = GITHUB_JOB_LIMIT
) -> dict[str, list[dict[str, str]]]:
    """Return the `matrix` of a GitHub Actions job: one entry per compilation, at most `limit` of them.

    Above the limit, neighbouring compilations share jobs. Those of one image are neighbours, and no job has more than
    one compilation more than another.

    Args:
        cells: what is to be built; those with a problem are left out.
        compilations: by group, a hash of what decides its compilation; an entry's `key` is made of those of its groups.
        limit: how many jobs there may be.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.problem:
            groups.setdefault(cell.group, []).append(cell)
    jobs = min(len(groups), limit)
    entries: list[dict[str, str]] = []
    members = list(groups.items())
    if len(members) > limit:
        order = {image: number for number, image in enumerate(dict.fromkeys(cell.image for cell in cells))}
        members.sort(key=lambda member: order[member[1][0].image])
    for number in range(jobs):
        part = members[number * len(members) // jobs : (number + 1) * len(members) // jobs]
        of = [cell for _, group in part for cell in group]
        entries.append(
            {
                "name": part[0][0] if len(part) == 1 else f"{part[0][0]}+{len(part) - 1}",
                "image": " ".join(dict.fromkeys(cell.image for cell in of)),
                "target": " ".join(dict.fromkeys(cell.target for cell in of)),
                "allocator": " ".join(dict.fromkeys(cell.allocator for cell in of)),
                "cells": " ".join(cell.id for cell in of),
                "key": hashing.digest("\n".join(compilations[label] for label, _ in part))[:16],
            }
        )
    return {"include": entries}
