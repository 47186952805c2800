"""What the tool tells GitHub Actions: outputs of a step, a summary of a job, and keys for its caches.

Both are files that the runner names in the environment and reads when the step has ended; elsewhere there are none,
and nothing is told. Facts: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikaforge.cli.context import Context
from pikaforge.errors import HostError
from pikaforge.host import hashing
from pikaforge.pipeline.image import base_image

if TYPE_CHECKING:
    from pikaforge.config.patch_series import Series
    from pikaforge.host.workspace import Workspace
    from pikaforge.plan.cells import Cell

OUTPUT, SUMMARY = "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"
ARGUMENTS = {"source": "", "engine": "docker", "locked": False}
"""What `matrix` is not asked and a build is, with the defaults of a build."""


def output(environ: Mapping[str, str], **values: str) -> None:
    """Append a step's outputs, one line each, to the file that the runner has named.

    Raises:
        ValueError: a value has more than one line; the runner would take the second for an output of its own.
        HostError: the file cannot be written.
    """
    if any(len(value.splitlines()) > 1 for value in values.values()):
        raise ValueError("an output of a step is one line")
    _append(environ, OUTPUT, "".join(f"{name}={value}\n" for name, value in values.items()))


def summarise(environ: Mapping[str, str], markdown: str) -> None:
    """Append Markdown to the summary of a job.

    Raises:
        HostError: the file cannot be written.
    """
    _append(environ, SUMMARY, f"{markdown}\n")


def _append(environ: Mapping[str, str], variable: str, text: str) -> None:
    name = environ.get(variable, "")
    if not name:
        return
    try:
        with Path(name).open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise HostError(
            f"{name} cannot be written: {error.strerror or error}",
            where=variable,
            hint=f"GitHub's runner sets {variable} to a file of its own; anywhere else, unset it",
        ) from error


def cache_keys(context: Context, cells: Sequence[Cell]) -> dict[str, str]:
    """By group of cells, a hash of all that decides their compilation; needs no engine, no network and no results.

    It is the key that `plan` shows on a machine where nothing has been built. What is not pinned yet, and thus has
    no part in that key, takes part as it is asked for.
    """
    from pikaforge.host.store import Result, Store  # noqa: PLC0415  # none of these for a table of cells
    from pikaforge.plan.plan import expand  # noqa: PLC0415

    class Empty(Store):
        """A store as a fresh machine has it: a result's identity would take the place of its key."""

        def peek(self, stage: str, key: str) -> Result | None:
            return None

    asked = Context(argparse.Namespace(**{**ARGUMENTS, **vars(context.arguments)}))
    workspace = replace(asked.workspace(asked.engine()), store=Empty(asked.out / "store"))
    views = asked.pipeline(workspace).views(expand(asked.spec, cells), engine_answers=lambda: False)
    source = _unpinned_source(asked, workspace)
    unpinned = {
        name: {"source": source, "image": _unpinned_image(asked, workspace, name)}
        for name in dict.fromkeys(cell.image for cell in cells)
    }
    return {
        view.node.label: hashing.key("cache", unpinned[view.node.cells[0].image], {view.node.id: view.key})
        for view in views
        if view.node.stage == "compile"
    }


def _unpinned_source(asked: Context, workspace: Workspace) -> dict[str, Any] | None:
    """The patches as they are asked for; None if pins say exactly what is built."""
    from pikaforge.pipeline.source import source  # noqa: PLC0415

    series, path = asked.series(), asked.spec.product.patches
    if series is None or path is None:
        return None
    folder = (asked.base / path).parent
    pinned = source.identify(asked.origin(), series, workspace=workspace, folder=folder, offline=True)
    return _patches(series, folder) if pinned is None else None


def _patches(series: Series, folder: Path) -> dict[str, Any]:
    entries = [entry for entry in series.patches if entry.enabled]
    files = [folder / entry.file for entry in entries if entry.file]
    return {
        "series": [json.loads(entry.model_dump_json(exclude={"why"})) for entry in entries],
        "files": [hashing.file_digest(path) if path.is_file() else "" for path in files],  # the build refuses it
        "quilts": [hashing.tree_digest(folder / entry.quilt) for entry in entries if entry.quilt],
    }


def _unpinned_image(asked: Context, workspace: Workspace, name: str) -> list[str | None] | None:
    """What an image is made from, as it is asked for; None if pins say exactly what it is."""

    entry = asked.spec.images[name]
    pinned = base_image.identify(name, entry, workspace=workspace, offline=True)
    return [entry.base, entry.bootstrap, entry.mirror] if pinned is None else None
