"""Upkeep: pins, patches, images, caches, schemas, and cleaning up. `invoke --list` shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pikaforge.cli import output
from pikaforge.cli.commands.build import status
from pikaforge.cli.context import Setting
from pikaforge.config.patch_series import Series
from pikaforge.config.schema import matrix_schema, series_schema
from pikaforge.errors import EXIT_DONE, ConfigError, StageError
from pikaforge.host.docker import DockerEngine
from pikaforge.host.process import cwd
from pikaforge.host.store import write_atomically
from pikaforge.host.workspace import Workshop
from pikaforge.pipeline import report
from pikaforge.pipeline.compile import CACHE
from pikaforge.pipeline.image import base_image
from pikaforge.pipeline.source import origin
from pikaforge.pipeline.source import series as stages_series
from pikaforge.pipeline.source.patches import entry_name
from pikaforge.plan.plan import TOOLS_NODE, common_part
from pikaforge.publish import state

MADE = ("out", "dist", ".pytest_cache", ".mypy_cache", ".ruff_cache")
"""What `clean` removes of a checkout: an allow-list, because folders named build belong to the source here."""


def lock(setting: Setting) -> int:
    """`lock`: look all inputs up anew and show what changed in sources.lock."""

    engine = setting.engine()
    workshop = setting.workshop(engine, refresh=True)
    for name in setting.arguments.image:
        if name not in setting.spec.images:
            raise ConfigError(
                f"there is no image {name!r}", where="--image", hint=f"known: {', '.join(setting.spec.images)}"
            )
        engine.verify()
        base_image.identify(name, setting.spec.images[name], workshop=workshop, offline=False)
    setting.pipeline(workshop).identify_source()
    notices = workshop.lock.notices
    output.show("\n".join(notices) if notices else f"{workshop.lock.path.name}: nothing changed")
    return EXIT_DONE


def patches(setting: Setting) -> int:
    """`patches`: list the series with its pins, or look at each entry on the source (the source stage alone)."""
    series = setting.series()
    if series is None:
        output.show("the product has no patches")
        return EXIT_DONE
    workshop = setting.workshop(setting.engine())
    if setting.arguments.action == "check":
        return _check_patches(setting, workshop, series)
    pins = workshop.lock.pins("sources", setting.origin().entry)
    rows = []
    for entry in series.patches:
        name = entry_name(entry)
        pin = pins.get(f"patch {name}", "")
        rows.append((name, "yes" if entry.enabled else "no", pin[:12] or "-", entry.url or "-", entry.why))
    output.show(output.table(("PATCH", "ENABLED", "PIN", "URL", "WHY"), rows))
    return EXIT_DONE


def _check_patches(setting: Setting, workshop: Workshop, series: Series) -> int:
    engine = workshop.engine
    engine.verify()
    engine.sweep()
    part = common_part(setting.spec, lambda node: node.stage == "source" or node.id == TOOLS_NODE, engine=engine.kind)
    done = setting.pipeline(workshop).execute(part, output.Printer())
    for outcome in done.of("source"):
        facts: Sequence[Mapping[str, Any]] | None = None
        if outcome.result is not None:
            facts = outcome.result.facts["patches"]
        elif isinstance(outcome.error, StageError):
            facts = outcome.error.failure.facts.get("patches")
        if facts is not None:
            output.show(output.table(stages_series.HEADER, stages_series.rows(series, facts)))
    return status(done)


def images(setting: Setting) -> int:
    """`images`: list or remove the images that the tool has made."""
    engine = _containers(setting)
    engine.verify()
    found = engine.owned_images()
    if setting.arguments.action == "list":
        rows = [(", ".join(tags) or "(untagged)", output.size(size), id_[7:19]) for id_, tags, size in found]
        output.show(output.table(("IMAGE", "SIZE", "ID"), rows))
        return EXIT_DONE
    for id_, tags, _ in found:
        for reference in tags or (id_,):
            engine.remove_image(reference)
    output.show(f"removed {len(found)} images; the next build makes what it needs anew")
    return EXIT_DONE


def cache(setting: Setting) -> int:
    """`cache`: show or remove stored results, downloads, git repositories and the compiler cache."""
    folders = [setting.out / name for name in ("store", "downloads", "git", "sample", CACHE)]
    if setting.arguments.action == "list":
        rows = [(output.readable(f, setting.home), output.size(_size(f))) for f in folders if f.is_dir()]
        output.show(output.table(("FOLDER", "SIZE"), rows))
        return EXIT_DONE
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    engine = setting.engine()
    if isinstance(engine, DockerEngine):
        engine.verify()
        engine.remove_cache(CACHE)
    output.show("removed stored results, downloads and the compiler cache; images are kept (invoke images.remove)")
    return EXIT_DONE


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _containers(setting: Setting) -> DockerEngine:
    engine = setting.engine()
    if not isinstance(engine, DockerEngine):
        raise ConfigError("the host engine has no images", where="--engine host")
    return engine


def sample(setting: Setting) -> int:
    """`sample`: make the sample's git repositories in a folder, to look at or to clone from."""
    target = cwd() / setting.arguments.folder
    origin.make_sample(setting.spec.product, base=setting.base, folder=target)
    output.show(f"made {output.readable(target, cwd())}: clone {setting.spec.product.name}.git there")
    return EXIT_DONE


def schema(setting: Setting) -> int:
    """`schema`: write the JSON schemas that editors use."""

    for name, text in schema_texts().items():
        path = setting.home / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)
            output.show(f"wrote {name}")
    return EXIT_DONE


def clean(setting: Setting) -> int:
    """`clean`: remove everything that the tool has made in the checkout, and its containers that are left."""
    for name in MADE:
        path = setting.home / name
        if path.exists():
            shutil.rmtree(path)
            output.show(f"removed {name}/")
    for path in (setting.home / "build" / "pikaforge").rglob("__pycache__"):
        shutil.rmtree(path, ignore_errors=True)
    return EXIT_DONE


def schema_texts() -> dict[str, str]:
    """The JSON schemas that editors and readers of the report use, by path from the repository root."""
    schemas = {
        "matrix.schema.json": matrix_schema(),
        "patches/series.schema.json": series_schema(),
        "report.schema.json": report.schema(),
        "repo.schema.json": state.schema(),
    }
    return {path: json.dumps(schema, indent=2, sort_keys=True) + "\n" for path, schema in schemas.items()}
