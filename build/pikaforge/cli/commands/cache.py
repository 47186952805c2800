"""`cache`: stored results, downloads, git repositories and compiler caches."""

from __future__ import annotations

import shutil
from pathlib import Path

from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE, HostError
from pikaforge.host.compiler_cache import FOLDER
from pikaforge.host.docker import DockerEngine


def cache(context: Context) -> int:
    """Run `cache`: list or remove stored results, downloads, git repositories and compiler caches."""
    folders = [context.out / name for name in ("store", "downloads", "git", "sample", "wheels", "bundles", FOLDER)]
    engine = context.engine()
    if context.arguments.action == "list":
        lines = [(output.readable(f, context.home), output.size(_size(f))) for f in folders if f.is_dir()]
        output.show(output.table(("FOLDER", "SIZE"), lines))
        if isinstance(engine, DockerEngine):
            _list_volumes(engine)
        return EXIT_DONE
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if isinstance(engine, DockerEngine):
        engine.verify()
        used = [name for name, _ in engine.caches() if not engine.remove_cache(name)]
        if used:
            output.show(f"in use, and kept: {', '.join(used)}")
    output.show("removed stored results, downloads and compiler caches; images are kept (invoke images.remove)")
    return EXIT_DONE


def _list_volumes(engine: DockerEngine) -> None:
    """Print the volumes of compiler caches and of load tests; without an engine, that there may be some."""
    try:
        engine.verify()
        found, kept = engine.caches(), engine.kept_volumes()
    except HostError as error:
        output.show(f"compiler caches in the engine are not listed: {error.message}")
        return
    if found:
        output.show(output.table(("VOLUME OF A COMPILER CACHE", "MADE"), found))
    if kept:
        output.show(output.table(("VOLUME OF A LOAD TEST THAT WAS INTERRUPTED", "MADE"), kept))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
