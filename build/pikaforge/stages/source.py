"""The source stage: clone at a commit, apply the series, fill in the submodules, write one normalised tree."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikaforge import keys
from pikaforge.errors import HostError, StageError
from pikaforge.host import git
from pikaforge.host.job import Input, Job, files
from pikaforge.host.store import Result, sha256
from pikaforge.model import Series
from pikaforge.stages import patches
from pikaforge.stages.origin import WAYS_ROUND, Origin, Pinned, pin
from pikaforge.workshop import Workshop, guest_digests, read_facts, run_job

STAGE = "source"
SCRIPTS = ("source.sh", "submodules.sh")
DEPTH_LIMIT = 8
"""Submodules within submodules; deeper than any real tree, and an end to circles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A submodule that the tree asks for."""

    path: str
    commit: str
    url: str
    relative_to: str


def identify(origin: Origin, series: Series | None, *, workshop: Workshop, folder: Path, offline: bool) -> Pinned | None:
    """What the source is, exactly; None if that is not known without the network and `offline` forbids it.

    Raises:
        HostError: the network is needed and out of reach.
        ConfigError: a pin says otherwise, or the source has no such tag.
    """
    identity = pin(origin, workshop.lock, offline=offline)
    if identity is None:
        return None
    digests: Mapping[str, str] | None = {}
    if series is not None:
        lock = workshop.lock
        digests = None if lock.refresh else patches.pinned_digests(series, origin, folder=folder, lock=lock)
        if digests is None:
            if offline:
                return None
            digests = patches.digests_of(_patches(origin, series, identity, workshop, folder))
    return Pinned(origin=origin, identity=identity, patches=digests)


def material(pinned: Pinned, home: Path) -> dict[str, Any]:
    """Key material: the commit or digest, the patches in order, and the scripts."""
    return {
        "source": pinned.identity,
        "patches": list(pinned.patches.items()),
        "scripts": guest_digests(home, SCRIPTS),
    }


def unresolved_material(origin: Origin, home: Path) -> dict[str, Any]:
    """Stand-in key material for a plan made without the network: what was asked for, not what it is."""
    return {"unresolved": origin.entry, "scripts": guest_digests(home, SCRIPTS)}


def _patches(
    origin: Origin, series: Series, commit: str, workshop: Workshop, folder: Path
) -> tuple[patches.Patch, ...]:
    return patches.resolve(
        series,
        origin,
        commit,
        folder=folder,
        lock=workshop.lock,
        downloads=workshop.out / "downloads",
        cache=git.Cache(workshop.out / "git"),
    )


def _repository_tar(repository: Path, into: Path) -> Path:
    """A bare repository as a tar archive: what git needs to fetch from it, and no hook or setting of this machine."""
    target = into / f"{repository.name}.tar"
    with tarfile.open(target, "w") as tar:
        for name in ("objects", "refs", "packed-refs", "shallow"):
            if (repository / name).exists():
                tar.add(repository / name, arcname=name)
    return target


def run(
    workshop: Workshop,
    pinned: Pinned,
    series: Series | None,
    *,
    key: str,
    label: str,
    folder: Path,
    image: str,
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
    applied = _patches(origin, series, pinned.identity, workshop, folder) if series is not None else ()
    with workshop.store.scratch() as scratch:
        job = Job(
            label=f"{STAGE}-{label}",
            image=image,
            argv=("sh", "guest/run.sh", "source", "source"),
            env=_environment(pinned),
            inputs=(
                workshop.guest(*SCRIPTS),
                _source_input(workshop, pinned, scratch),
                _patch_input(workshop, applied),
            ),
            outputs=("out/source.tar", "out/facts", "out/epoch"),
            log=log,
        )
        hint = (
            "a tarball cannot carry submodule pointer moves: take a clone for series that have one"
            if origin.kind == "tarball"
            else "disable the entry in the series (enabled: false), or replace it with a rebased patch (file:)"
        )
        done = run_job(
            workshop, job, scratch, stage=STAGE, label=label, failed="the source tree could not be made", hint=hint
        )
        tree = done.outputs["out/source.tar"]
        facts = read_facts(done.outputs["out/facts"])
        epoch = int(done.outputs["out/epoch"].read_text(encoding="ascii"))
        links = _links(facts, origin.relative_to)
        tree, modules = _fill(workshop, origin, links, tree, epoch, scratch, label, image, log)
        for path, commit in modules.items():
            if not origin.sample:
                workshop.lock.check("sources", origin.entry, f"submodule {path}", commit)
        head = facts["head"][0][0]
        return workshop.store.put(
            STAGE,
            key,
            identity=sha256(tree),
            facts={
                "origin": origin.spec,
                "url": "" if origin.local else origin.url,
                "ref": origin.ref,
                "commit": pinned.identity,
                "head": head if origin.kind == "git" else "",
                "epoch": epoch,
                "patches": [{"name": p.name, "sha256": p.sha256, "url": p.url, "why": p.why} for p in applied],
                "submodules": modules,
            },
            files={"source.tar": tree},
        )


def _environment(pinned: Pinned) -> dict[str, str]:
    if pinned.origin.tarball is not None:
        return {"FORGE_TARBALL": pinned.origin.tarball.name}
    return {"FORGE_COMMIT": pinned.identity}


def _source_input(workshop: Workshop, pinned: Pinned, scratch: Path) -> Input:
    origin = pinned.origin
    if origin.tarball is not None:
        return Input(folder="tarball", archive=files({origin.tarball.name: origin.tarball}))
    cache = git.Cache(workshop.out / "git")
    repository = _fetch(cache, origin.url, pinned.identity, origin.ref, f"source {origin.spec}")
    return Input(folder="git/0", archive=_repository_tar_with_head(repository, scratch))


def _repository_tar_with_head(repository: Path, scratch: Path) -> Path:
    archive = _repository_tar(repository, scratch)
    with tarfile.open(archive, "a") as tar:
        for name, text in (("HEAD", "ref: refs/heads/none\n"), ("config", "[core]\n\tbare = true\n")):
            (scratch / name).write_text(text, encoding="ascii")
            tar.add(scratch / name, arcname=name)
    return archive


def _fetch(cache: git.Cache, url: str, commit: str, ref: str, where: str) -> Path:
    try:
        return cache.fetch(url, commit, ref)
    except git.Unreachable as error:
        raise HostError(error.message, where=where, hint=WAYS_ROUND) from error


def _patch_input(workshop: Workshop, applied: tuple[patches.Patch, ...]) -> Input:
    lines = []
    contents: dict[str, bytes | Path] = {}
    for number, patch in enumerate(applied):
        name = f"{number:04}"
        contents[name] = workshop.out / "downloads" / patch.sha256
        lines.append(f"{patch.kind}\t{name}\t{patch.strip}\t{patch.name}\n")
    contents["list"] = "".join(lines).encode()
    return Input(folder="patches", archive=files(contents))


def _links(facts: Mapping[str, list[tuple[str, ...]]], relative_to: str) -> list[_Link]:
    return [
        _Link(path=path, commit=commit, url=url, relative_to=relative_to) for path, commit, url in facts.get("link", [])
    ]


def _fill(
    workshop: Workshop,
    origin: Origin,
    links: list[_Link],
    tree: Path,
    epoch: int,
    scratch: Path,
    label: str,
    image: str,
    log: Path,
) -> tuple[Path, dict[str, str]]:
    """Fill the submodules in, level by level; the new tree, and each one's commit by its path."""
    cache = git.Cache(workshop.out / "git")
    modules: dict[str, str] = {}
    for level in range(DEPTH_LIMIT):
        if not links:
            return tree, modules
        folder = scratch / f"level-{level}"
        folder.mkdir()
        inputs = [workshop.guest(*SCRIPTS), Input(folder="tree", archive=tree)]
        lines = []
        bases: dict[str, str] = {}
        for number, link in enumerate(links):
            url = git.join(link.relative_to, link.url)
            repository = _submodule(cache, origin, link, url)
            numbered = folder / str(number)
            numbered.mkdir()
            inputs.append(Input(folder=f"git/{number}", archive=_repository_tar_with_head(repository, numbered)))
            lines.append(f"{number}\t{link.path}\t{link.commit}\n")
            modules[link.path] = link.commit
            bases[link.path] = url
        inputs.append(Input(folder="modules", archive=files({"list": "".join(lines).encode()})))
        job = Job(
            label=f"{STAGE}-{label}-modules",
            image=image,
            argv=("sh", "guest/run.sh", "submodules", "source"),
            env={"SOURCE_DATE_EPOCH": str(epoch)},
            inputs=tuple(inputs),
            outputs=("out/source.tar", "out/facts"),
            log=log,
        )
        done = run_job(workshop, job, folder, stage=STAGE, label=label, failed="the submodules could not be checked out")
        tree = done.outputs["out/source.tar"]
        links = [
            _Link(path=path, commit=commit, url=url, relative_to=_base_of(path, bases))
            for path, commit, url in read_facts(done.outputs["out/facts"]).get("link", [])
        ]
    raise StageError(
        f"submodules are nested deeper than {DEPTH_LIMIT} levels",
        failure=_no_log(label),
        hint="is a repository its own submodule?",
    )


def _base_of(path: str, bases: Mapping[str, str]) -> str:
    """The URL of the submodule that `path` lies in."""
    return next(url for base, url in bases.items() if path.startswith(f"{base}/"))


def _submodule(cache: git.Cache, origin: Origin, link: _Link, url: str) -> Path:
    """The repository of a submodule: what a local clone already has of it, else its URL."""
    if origin.modules is not None:
        kept = origin.modules / link.path
        if git.is_repository(kept):
            try:
                return cache.fetch(git.url_of(kept), link.commit)
            except (HostError, git.ConfigError):
                pass  # it has other commits only, so the URL is asked
    return _fetch(cache, url, link.commit, "", f"submodule {link.path}")


def _no_log(label: str) -> Any:
    from pikaforge.errors import StageFailure  # noqa: PLC0415

    return StageFailure(stage=STAGE, label=label)


def describe(pinned: Pinned) -> str:
    """One line for people: what the source is."""
    count = len(pinned.patches)
    return f"{pinned.origin.spec} at {pinned.identity[:19]} with {count} patch{'es' if count != 1 else ''}"


__all__ = ["SCRIPTS", "STAGE", "describe", "identify", "keys", "material", "run", "unresolved_material"]
