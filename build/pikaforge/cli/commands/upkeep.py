"""Verbs for upkeep: pins, patches, images, caches, schemas, and cleaning up. `invoke --list` shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from pikaforge.cli import output
from pikaforge.cli.commands.build import status
from pikaforge.cli.context import Context
from pikaforge.cli.faces import events
from pikaforge.cli.faces.opening import part_reporting
from pikaforge.config.patch_series import Series
from pikaforge.config.product import Product
from pikaforge.config.schema import matrix_schema, schema_of, series_schema
from pikaforge.doctor.finding import DoctorReport
from pikaforge.errors import EXIT_DONE, UsageError
from pikaforge.host.docker import DockerEngine
from pikaforge.host.durable import write_changed
from pikaforge.host.http import redacted
from pikaforge.host.process import cwd
from pikaforge.host.workspace import Workspace
from pikaforge.operate.metrics import monitoring
from pikaforge.pipeline import report
from pikaforge.pipeline.image import base_image
from pikaforge.pipeline.source import origin
from pikaforge.pipeline.source.facts import SeriesFacts, SourceFacts
from pikaforge.pipeline.source.patch_state import HEADER, rows
from pikaforge.pipeline.source.patches import entry_name
from pikaforge.plan.plan import TOOLS_NODE, common_part
from pikaforge.publish import state

MADE = ("out", "dist", ".pytest_cache", ".mypy_cache", ".ruff_cache")
"""What `clean` removes from the checkout. It is a list because folders named build are part of the source here."""


def lock(context: Context) -> int:
    """Run `lock`: look up the inputs again, and print what changed in sources.lock."""
    engine = context.engine()
    workspace = context.workspace(engine, refresh=True)
    for name in context.arguments.image:
        if name not in context.spec.images:
            raise UsageError(
                f"there is no image {name!r}", where="--image", hint=f"known: {', '.join(context.spec.images)}"
            )
        engine.verify()
        base_image.identify(name, context.spec.images[name], workspace=workspace, offline=False)
    context.pipeline(workspace).identify_source()
    notices = workspace.lock.notices
    output.show("\n".join(notices) if notices else f"{workspace.lock.path.name}: nothing changed")
    return EXIT_DONE


def patches(context: Context) -> int:
    """Run `patches`: print the series with its pins, or check each entry on the source (only the source stage runs)."""
    series = context.series()
    if series is None:
        output.show("the product has no patches")
        return EXIT_DONE
    context.check_patches()
    workspace = context.workspace(context.engine())
    if context.arguments.action == "check":
        return _check_patches(context, workspace, series)
    pins = workspace.lock.pins("sources", context.origin().entry)
    entries = []
    for entry in series.patches:
        name = entry_name(entry)
        pin = pins.get(f"patch {name}", "")
        entries.append((name, "yes" if entry.enabled else "no", pin[:12] or "-", redacted(entry.url or "-"), entry.why))
    output.show(output.table(("PATCH", "ENABLED", "PIN", "URL", "WHY"), entries))
    return EXIT_DONE


def _check_patches(context: Context, workspace: Workspace, series: Series) -> int:
    engine = workspace.engine
    engine.verify()
    engine.sweep(output.note)
    workspace.sweep()
    part = common_part(context.spec, lambda node: node.stage == "source" or node.id == TOOLS_NODE, engine=engine.kind)
    with part_reporting(context) as reporter:
        done = context.pipeline(workspace).execute(part, reporter)
    for outcome in done.of("source"):
        found = outcome.facts(SourceFacts if outcome.result is not None else SeriesFacts)
        if found is not None:
            output.show(output.table(HEADER, rows(series, found.patches)))
    return status(done)


def images(context: Context) -> int:
    """Run `images`: list or remove the images that the tool has made."""
    engine = _docker(context)
    engine.verify()
    found = engine.owned_images()
    if context.arguments.action == "list":
        lines = [(", ".join(tags) or "(untagged)", output.size(size), id_[7:19]) for id_, tags, size in found]
        output.show(output.table(("IMAGE", "SIZE", "ID"), lines))
        return EXIT_DONE
    for id_, tags, _ in found:
        for reference in tags or (id_,):
            engine.remove_image(reference)
    output.show(f"removed {output.count(len(found), 'image')}; the next build makes again what it needs")
    return EXIT_DONE


def _docker(context: Context) -> DockerEngine:
    engine = context.engine()
    if not isinstance(engine, DockerEngine):
        raise UsageError("the host engine has no images", where="--engine host")
    return engine


def sample(context: Context) -> int:
    """Run `sample`: write the git repositories of the sample server to a folder."""
    target = cwd() / context.arguments.folder
    origin.make_sample(context.spec.product, base=context.base, folder=target)
    name = context.spec.product.name
    output.show(f"made {output.readable(target, cwd())}: git clone {output.readable(target, cwd())}/{name}.git")
    return EXIT_DONE


def schema(context: Context) -> int:
    """Run `schema`: write the JSON schemas that have changed, and what is in monitoring/."""
    _write_changed(context.home, schema_texts())
    # After the schemas: these do not need a specification that can be read.
    _write_changed(context.home, monitoring_texts(context.spec.product))
    return EXIT_DONE


def _write_changed(home: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if write_changed(home / name, text):
            output.show(f"wrote {name}")


def clean(context: Context) -> int:
    """Run `clean`: remove everything that the tool has made in the checkout."""
    for name in MADE:
        path = context.home / name
        if path.exists():
            shutil.rmtree(path)
            output.show(f"removed {name}/")
    for path in (context.home / "build" / "pikaforge").rglob("__pycache__"):
        shutil.rmtree(path, ignore_errors=True)
    return EXIT_DONE


def schema_texts() -> dict[str, str]:
    """Return the JSON schemas of configuration, build report, repositories and events, by path below the checkout."""
    schemas = {
        "matrix.schema.json": matrix_schema(),
        "patches/series.schema.json": series_schema(),
        "report.schema.json": report.schema(),
        "repo.schema.json": state.schema(),
        "doctor.schema.json": schema_of(DoctorReport),
        "events.schema.json": events.schema(),
    }
    return {path: json.dumps(schema, indent=2, sort_keys=True) + "\n" for path, schema in schemas.items()}


def monitoring_texts(product: Product) -> dict[str, str]:
    """Return alert rules and dashboard of the product, by path below the checkout; packages have the same files."""
    operate = product.server.operate if product.server is not None else None
    if operate is None or operate.metrics is None:
        return {}
    files = monitoring(product, operate.metrics)
    return {f"monitoring/{name}": text.decode() for name, text in files.items()}
