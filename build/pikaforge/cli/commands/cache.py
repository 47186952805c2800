"""`cache`: stored results, downloads, git repositories and compiler caches."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, HostError, UsageError
from pikaforge.host import store_upkeep
from pikaforge.host.compiler_cache import FOLDER
from pikaforge.host.docker import DockerEngine
from pikaforge.host.store import Store
from pikaforge.host.store_upkeep import StoredEntry
from pikaforge.host.text import one_line

DAY = 86_400
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "keep": ("prune",),
    "older_than": ("prune",),
    "yes": ("verify",),
    "json": ("info", "prune", "verify"),
}
"""The actions that each option is for."""


def cache(context: Context) -> int:
    """Run `cache`; return the exit status."""
    arguments = context.arguments
    for name, actions in OPTIONS.items():
        if getattr(arguments, name) and arguments.action not in actions:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"`cache {arguments.action}` takes no {option}", where=option)
    match arguments.action:
        case "info":
            return _info(context)
        case "prune":
            return _prune(context)
        case "verify":
            return _verify(context)
    return _folders(context)


def _store(context: Context) -> Store:
    return Store(context.out / "store")


def _info(context: Context) -> int:
    """Print the sizes of stored results by stage, and whether the shared store answers."""
    store = _store(context)
    stages: dict[str, list[StoredEntry]] = defaultdict(list)
    for entry in store_upkeep.entries(store.root):
        stages[entry.stage].append(entry)
    notices: list[str] = []
    shared = context.shared_store(notices.append)
    unreachable = shared.unreachable() if shared is not None else ""
    if context.arguments.json:
        described = None
        if shared is not None:
            described = {"url": shared.where, "unreachable": unreachable, "write": shared.writes}
            described["signed"] = shared.signed
        found = {
            "results": {stage: _figures(entries) for stage, entries in sorted(stages.items())},
            "shared": described,
            "notices": notices,
        }
        output.show_json(json.dumps(found, indent=2))
        return EXIT_DONE
    rows = [(stage, *_texts(entries)) for stage, entries in sorted(stages.items())]
    rows.append(("all", *_texts([entry for entries in stages.values() for entry in entries])))
    output.show(output.table(("STAGE", "RESULTS", "SIZE", "NOT USED FOR"), rows))
    for notice in notices:
        output.note(notice)
    if shared is not None:
        state = f"does not answer: {one_line(unreachable)}" if unreachable else "answers"
        ways = "results are taken and put there" if shared.writes else "results are taken, and none is put there"
        signed = "; only signed ones are taken" if shared.signed else ""
        output.show(f"shared store {shared.where}: {state}; {ways}{signed}")
    return EXIT_DONE


def _figures(entries: Sequence[StoredEntry]) -> dict[str, float]:
    return {
        "count": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "last_used": round(min(entry.last_used for entry in entries)),
    }


def _texts(entries: Sequence[StoredEntry]) -> tuple[str, str, str]:
    """Return number, size and the longest time without a use."""
    ages = [max(0.0, time.time() - entry.last_used) for entry in entries]
    size = output.size(sum(entry.bytes for entry in entries))
    return str(len(entries)), size, output.duration(max(ages)) if ages else "-"


def _prune(context: Context) -> int:
    """Remove results that were not used for the longest time, but none that a running build uses."""
    arguments = context.arguments
    if not (arguments.keep or arguments.older_than):
        raise UsageError(
            "say how much may stay", where="cache prune", hint="--keep 20G, or --older-than 30 (days), or both"
        )
    older = arguments.older_than * DAY if arguments.older_than else None
    done = store_upkeep.prune(_store(context), keep=arguments.keep, older=older)
    freed = sum(entry.bytes for entry in done.removed)
    if arguments.json:
        names = {"removed": _names(done.removed), "in_use": _names(done.in_use), "bytes": freed}
        output.show_json(json.dumps(names, indent=2))
        return EXIT_DONE
    for entry in done.in_use:
        output.show(f"kept, because a running build uses it: {entry.name}")
    output.show(f"removed {output.count(len(done.removed), 'result')}, {output.size(freed)}")
    return EXIT_DONE


def _verify(context: Context) -> int:
    """Compare all stored files with their digests; with --yes, remove results that are damaged."""
    store = _store(context)
    bad = dict(store_upkeep.damaged(store))
    dropped = set(store_upkeep.drop(store, bad)) if context.arguments.yes else set()
    if context.arguments.json:
        found = [{"result": entry.name, "why": why, "removed": entry in dropped} for entry, why in bad.items()]
        output.show_json(json.dumps({"damaged": found}, indent=2))
    else:
        output.show("\n".join(_damage(bad, dropped)))
    return EXIT_STAGE if bad.keys() - dropped else EXIT_DONE


def _damage(bad: Mapping[StoredEntry, str], dropped: set[StoredEntry]) -> Iterator[str]:
    for entry, why in bad.items():
        yield f"{'removed' if entry in dropped else 'damaged'}: {entry.name}: {one_line(why)}"
    left = len(bad.keys() - dropped)
    hint = "; `--yes` removes them, and a build makes them anew" if left else ""
    yield f"{output.count(len(bad), 'damaged result')}{hint}"


def _names(entries: Sequence[StoredEntry]) -> list[str]:
    return [entry.name for entry in entries]


def _folders(context: Context) -> int:
    """List or remove stored results, downloads, git repositories and compiler caches."""
    names = ("store", "downloads", "git", "sample", "wheels", "bundles", "answers", FOLDER)
    folders = [context.out / name for name in names]
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
