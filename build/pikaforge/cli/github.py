"""Outputs of a step of GitHub Actions, the summary of a job, and keys for its caches.

The runner names a file for outputs and one for the summary in the environment, and reads them when the step has ended.
On other machines there are none, and nothing is written. Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.cli.context import Context
from pikaforge.errors import ConfigError, HostError
from pikaforge.host import hashing
from pikaforge.pipeline.image import base_image

if TYPE_CHECKING:
    from pikaforge.config.patch_series import Series
    from pikaforge.host.workspace import Workspace
    from pikaforge.pipeline.report_record import BuildReport
    from pikaforge.plan.cells import Cell

OUTPUT, SUMMARY = "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"
OUTPUT_LIMIT = 1_000_000
"""Bytes of an output, of which GitHub accepts 1 MB (docs: jobs.<job_id>.outputs)."""
ARGUMENTS = {"source": "", "engine": "docker", "locked": False}
"""Options that `matrix` lacks and keys depend on, with the defaults of a build."""


def output(environ: Mapping[str, str], **values: str) -> None:
    """Append outputs of a step, one line each, to the file that the runner names.

    Raises:
        ValueError: a value has more than one line; the runner would take the second for an output of its own.
        HostError: the file cannot be written.
    """
    if any(len(value.splitlines()) > 1 for value in values.values()):
        raise ValueError("an output of a step is one line")
    _append(environ, OUTPUT, "".join(f"{name}={value}\n" for name, value in values.items()))


def build_outputs(environ: Mapping[str, str], dist: Path, report: BuildReport, ids: Collection[str]) -> None:
    """Set the outputs of a step that builds: `dist`, `report`, and `artifacts`, a list of its packages in JSON.

    `artifacts` is empty if it would be longer than GitHub accepts; the report has all of it.

    Args:
        environ: the environment of the step.
        dist: the folder of packages.
        report: the report about them.
        ids: cells of this run; the report also has those of earlier ones.

    Raises:
        ConfigError: the folder's name has several lines.
        HostError: the file of outputs cannot be written.
    """
    from pikaforge.pipeline.report import NAME  # noqa: PLC0415  # a table of cells does not need it

    if not environ.get(OUTPUT):
        return
    if len(str(dist).splitlines()) > 1:
        raise ConfigError("the name of the folder has several lines", where="--dist", hint="name another folder")
    artifacts = [
        {"cell": cell.id, "format": each.format, "role": each.role, "path": str(dist / each.path)}
        | {"sha256": each.sha256, "bytes": each.bytes}
        for cell in report.cells
        if cell.id in ids
        for each in cell.artifacts
    ]
    text = json.dumps(artifacts)
    if len(text) > OUTPUT_LIMIT:
        text = ""
    output(environ, dist=str(dist), report=str(dist / NAME), artifacts=text)


def add_summary(environ: Mapping[str, str], markdown: str) -> None:
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
    """Return for each group of cells a hash of all that decides its compilation.

    It needs no engine, no network and no results. It is made of the key that `plan` shows on a machine where nothing
    has been built. Inputs that are not pinned have no part in that key, so they are added as they are configured.
    """
    from pikaforge.host.store import Result, Store  # noqa: PLC0415  # a table of cells needs none of these
    from pikaforge.plan.plan import expand  # noqa: PLC0415

    class Empty(Store):
        """A store without results: where there is one, its identity would take the place of its key."""

        def peek(self, stage: str, key: str) -> Result | None:
            return None

    planned = Context(argparse.Namespace(**{**ARGUMENTS, **vars(context.arguments)}))
    workspace = replace(planned.workspace(planned.engine()), store=Empty(planned.out / "store"))
    views = planned.pipeline(workspace).views(expand(planned.spec, cells), engine_answers=lambda: False)
    source = _unpinned_source(planned, workspace)
    unpinned = {
        name: {"source": source, "image": _unpinned_image(planned, workspace, name)}
        for name in dict.fromkeys(cell.image for cell in cells)
    }
    return {
        view.node.label: hashing.key("cache", unpinned[view.node.cells[0].image], {view.node.id: view.key})
        for view in views
        if view.node.stage == "compile"
    }


def _unpinned_source(context: Context, workspace: Workspace) -> Mapping[str, object] | None:
    """Return the patches as they are configured; None if the source and all patches are pinned."""
    from pikaforge.pipeline.source import source  # noqa: PLC0415

    series, path = context.series(), context.spec.product.patches
    if series is None or path is None:
        return None
    folder = (context.base / path).parent
    pinned = source.identify(context.origin(), series, workspace=workspace, folder=folder, offline=True)
    return _patches(series, folder) if pinned is None else None


def _patches(series: Series, folder: Path) -> Mapping[str, object]:
    entries = [entry for entry in series.patches if entry.enabled]
    files = [folder / entry.file for entry in entries if entry.file]
    return {
        "series": [entry.model_dump(mode="json", exclude={"why"}) for entry in entries],
        "files": [
            hashing.file_digest(path) if path.is_file() else "" for path in files
        ],  # a build refuses a missing one
        "quilts": [hashing.tree_digest(folder / entry.quilt) for entry in entries if entry.quilt],
    }


def _unpinned_image(context: Context, workspace: Workspace, name: str) -> list[str | None] | None:
    """Return what an image is made from, as it is configured; None if it is pinned."""
    entry = context.spec.images[name]
    pinned = base_image.identify(name, entry, workspace=workspace, offline=True)
    return [entry.base, entry.bootstrap, entry.mirror] if pinned is None else None
