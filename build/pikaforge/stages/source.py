"""The source stage: clone at a commit, apply the series, fill in the submodules, write one normalised tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pikaforge.host import git
from pikaforge.host.job import Input, Job, files
from pikaforge.host.store import Result, sha256
from pikaforge.model import Series
from pikaforge.stages import patches, submodules
from pikaforge.stages.origin import Origin, Pinned, pin
from pikaforge.workshop import Workshop, guest_digests, read_facts, run_job

STAGE = submodules.STAGE
SCRIPTS = ("source.sh", submodules.SCRIPT)


def identify(
    origin: Origin, series: Series | None, *, workshop: Workshop, folder: Path, offline: bool
) -> Pinned | None:
    """What the source is, exactly; None if that is not known without the network and `offline` forbids it.

    Args:
        origin: the source.
        series: the patches, or None.
        workshop: whose lock pins both.
        folder: of the series file.
        offline: look only at what is here.

    Raises:
        HostError: the network is needed and out of reach.
        ConfigError: a pin says otherwise, or the source has no such tag.
    """
    identity = pin(origin, workshop.lock, offline=offline)
    if identity is None:
        return None
    if series is None:
        return Pinned(origin=origin, identity=identity, patches={})
    known = patches.pinned_digests(series, origin, folder=folder, lock=workshop.lock)
    if known is None or workshop.lock.refresh:
        if offline:
            return None
        shelf = _shelf(workshop, origin, identity, folder)
        known = patches.digests_of(patches.resolve(series, shelf))
    return Pinned(origin=origin, identity=identity, patches=known)


def _shelf(workshop: Workshop, origin: Origin, commit: str, folder: Path) -> patches.Shelf:
    return patches.Shelf(
        origin=origin,
        commit=commit,
        folder=folder,
        lock=workshop.lock,
        downloads=workshop.out / "downloads",
        cache=git.Cache(workshop.out / "git"),
    )


def material(pinned: Pinned, home: Path) -> dict[str, Any]:
    """Key material: the commit or digest, the patches in order, and the scripts."""
    origin = pinned.origin
    return {
        "source": pinned.identity,
        # Nothing of the tree, but the facts tell it, and packages their readers.
        "told": [origin.spec, "" if origin.local else origin.url, origin.ref],
        "patches": list(pinned.patches.items()),
        "scripts": guest_digests(home, SCRIPTS),
    }


def unresolved_material(origin: Origin, home: Path) -> dict[str, Any]:
    """Stand-in key material for a plan made without the network: what was asked for, not what it is."""
    return {"unresolved": origin.entry, "scripts": guest_digests(home, SCRIPTS)}


def run(
    workshop: Workshop, pinned: Pinned, series: Series | None, *, key: str, label: str, folder: Path, image: str
) -> Result:
    """Run the stage.

    The result has the file `source.tar`, and as facts the epoch (seconds, time of the commit), the patched commit,
    patches and submodules.

    Raises:
        StageError: a patch does not apply; nothing is kept then.
        HostError: a repository cannot be reached.
    """
    log = workshop.log_path(label, STAGE)
    origin = pinned.origin
    shelf = _shelf(workshop, origin, pinned.identity, folder)
    applied = patches.resolve(series, shelf) if series is not None else ()
    with workshop.store.scratch() as scratch:
        job = Job(
            label=f"{STAGE}-{label}",
            image=image,
            argv=("sh", "guest/run.sh", "source", "source"),
            env=_environment(pinned),
            inputs=(
                workshop.guest(*SCRIPTS),
                _source_input(shelf.cache, pinned, scratch),
                _patch_input(shelf.downloads, applied),
            ),
            outputs=("out/source.tar", "out/facts", "out/epoch"),
            log=log,
        )
        failed = "the source tree could not be made"
        done = run_job(workshop, job, scratch, stage=STAGE, label=label, failed=failed, hint=_hint(origin))
        facts = read_facts(done.outputs["out/facts"])
        epoch = int(done.outputs["out/epoch"].read_text(encoding="ascii"))
        filler = submodules.Filler(workshop=workshop, origin=origin, image=image, label=label, log=log, epoch=epoch)
        wanted = submodules.links(facts, {}, origin.relative_to)
        tree = filler.fill(done.outputs["out/source.tar"], wanted, scratch)
        if not origin.sample:
            for path, commit in filler.commits.items():
                workshop.lock.check("sources", origin.entry, f"submodule {path}", commit)
        return workshop.store.put(
            STAGE,
            key,
            identity=sha256(tree),
            facts={
                "origin": origin.spec,
                "url": "" if origin.local else origin.url,
                "ref": origin.ref,
                "commit": pinned.identity,
                "head": facts["head"][0][0] if origin.kind == "git" else "",
                "epoch": epoch,
                "patches": [{"name": p.name, "sha256": p.sha256, "url": p.url, "why": p.why} for p in applied],
                "submodules": filler.commits,
            },
            files={"source.tar": tree},
        )


def _hint(origin: Origin) -> str:
    hint = "disable the entry in the series (enabled: false), or replace it with a rebased patch (file:)"
    if origin.kind == "tarball":
        hint += "\na tarball cannot carry submodule pointer moves: take a clone for series that have one"
    return hint


def _environment(pinned: Pinned) -> dict[str, str]:
    if pinned.origin.tarball is not None:
        return {"FORGE_TARBALL": pinned.origin.tarball.name}
    return {"FORGE_COMMIT": pinned.identity}


def _source_input(cache: git.Cache, pinned: Pinned, scratch: Path) -> Input:
    origin = pinned.origin
    if origin.tarball is not None:
        return Input(folder="tarball", archive=files({origin.tarball.name: origin.tarball}))
    where = f"source {origin.spec}"
    repository = submodules.fetch(cache, origin.url, pinned.identity, ref=origin.ref, where=where)
    return Input(folder="git/0", archive=submodules.repository_tar(repository, scratch))


def _patch_input(downloads: Path, applied: tuple[patches.Patch, ...]) -> Input:
    lines: list[str] = []
    contents: dict[str, bytes | Path] = {}
    for number, patch in enumerate(applied):
        name = f"{number:04}"
        contents[name] = downloads / patch.sha256
        lines.append(f"{patch.kind}\t{name}\t{patch.strip}\t{patch.name}\n")
    contents["list"] = "".join(lines).encode()
    return Input(folder="patches", archive=files(contents))
