"""The source stage: clone a commit, apply the series, add the submodules, and pack one normalised tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pikaforge.config import schema
from pikaforge.config.patch_series import Series
from pikaforge.errors import ConfigError, ForgeError, HostError, StageError, UnreachableError, UpstreamError
from pikaforge.host.git_cache import drop_damaged
from pikaforge.host.git_urls import COMMIT
from pikaforge.host.job import Input, Job, files
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import Workspace, failure, guest_digests, read_facts, run_job
from pikaforge.pipeline.source import patch_state, patches, pointers, submodules
from pikaforge.pipeline.source.facts import PatchFacts, SeriesFacts, SourceFacts
from pikaforge.pipeline.source.origin import WAYS_ROUND, Origin, Pinned, describe, pin, tag_of
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

STAGE_NAME = submodules.STAGE
SCRIPTS = ("source.sh", "series.sh", "fit.sh", submodules.SCRIPT)
FAILED = "the source tree could not be made"


def identify(
    origin: Origin, series: Series | None, *, workspace: Workspace, folder: Path, offline: bool
) -> Pinned | None:
    """Return the pinned source with its patches; None if that needs the network and `offline` is set.

    Args:
        origin: the source.
        series: the patches, or None.
        workspace: its lock has the pins of both.
        folder: the folder of the series file.
        offline: do not use the network.

    Raises:
        HostError: the network is needed and out of reach.
        ConfigError: a pin says otherwise, or the source has no such tag.
    """
    identity = pin(origin, workspace.lock, offline=offline)
    if identity is None:
        return None
    if series is None:
        return Pinned(origin=origin, identity=identity, patches={})
    known = patches.pinned_digests(series, origin, folder=folder, lock=workspace.lock)
    if known is None or workspace.lock.refresh:
        if offline:
            return None
        sources = _patch_sources(workspace, origin, identity, folder)
        known = patches.digests_of(patches.resolve(series, sources))
    refused = tuple(patches.entry_name(e) for e in series.patches if e.enabled and e.already == "refuse")
    return Pinned(origin=origin, identity=identity, patches=known, refused=refused)


def _patch_sources(workspace: Workspace, origin: Origin, commit: str, folder: Path) -> patches.PatchSources:
    return patches.PatchSources(
        origin=origin,
        commit=commit,
        folder=folder,
        lock=workspace.lock,
        downloads=workspace.out / "downloads",
        cache=submodules.fetched(workspace, origin),
    )


def material(pinned: Pinned, home: Path) -> dict[str, object]:
    """Return the key material: the commit or digest, the patches in order, and the scripts."""
    origin = pinned.origin
    return {
        "source": pinned.identity,
        # These do not change the tree. But they are in the facts, and so in packages.
        "origin": [origin.spec, "" if origin.local else origin.url, origin.ref, origin.own],
        "patches": list(pinned.patches.items()),
        "refused": list(pinned.refused),
        "scripts": guest_digests(home, SCRIPTS),
    }


def unresolved_material(origin: Origin, home: Path) -> dict[str, object]:
    """Return key material for a plan that is made without network: what was asked for, not what it is."""
    return {"unresolved": origin.entry, "scripts": guest_digests(home, SCRIPTS)}


def make(
    workspace: Workspace, pinned: Pinned, series: Series | None, *, key: str, label: str, folder: Path, image: str
) -> Result:
    """Make the source tree; store `SourceFacts` with the file `source.tar`.

    Raises:
        StageError: a patch neither applies nor is in the source, or is there and must not be; nothing is kept then.
        HostError: a repository cannot be reached.
    """
    try:
        return _made(workspace, pinned, series, key=key, label=label, folder=folder, image=image)
    except StageError as error:
        # The git of a job looks at each object that it gets.
        if not error.failure.status or not drop_damaged(workspace.out / "git", workspace.lock.notices.append):
            raise
    return _made(workspace, pinned, series, key=key, label=label, folder=folder, image=image)


def _made(
    workspace: Workspace, pinned: Pinned, series: Series | None, *, key: str, label: str, folder: Path, image: str
) -> Result:
    """Make the source tree from what is fetched, or was."""
    origin = pinned.origin
    sources = _patch_sources(workspace, origin, pinned.identity, folder)
    wanted = patches.resolve(series, sources) if series is not None else ()
    log = workspace.log_path(label, STAGE_NAME)
    with workspace.store.scratch() as scratch:
        work = _SourceRun(
            workspace=workspace,
            pinned=pinned,
            sources=sources,
            wanted=wanted,
            label=label,
            image=image,
            log=log,
            scratch=scratch,
        )
        made = work.patched()
        filler = submodules.SubmoduleFiller(
            workspace=workspace, origin=origin, image=image, label=label, log=log, epoch=made.epoch
        )
        links = submodules.links(made.lines, {}, origin.relative_to)
        try:
            tree = filler.fill(made.tree, links, scratch)
        except ForgeError as error:
            error.facts = SeriesFacts(patches=made.patches)  # `patches check` shows them nevertheless
            raise
        _pin_submodules(workspace, origin, filler.commits)
        return workspace.store.put(
            STAGE_NAME,
            key,
            identity=sha256(tree),
            facts=SourceFacts(
                **describe(origin, pinned.identity, _tag(origin, workspace)).model_dump(),
                origin=origin.spec,
                head=made.lines["head"][0][0] if origin.kind == "git" else "",
                epoch=made.epoch,
                patches=made.patches,
                submodules=filler.commits,
            ),
            files={"source.tar": tree},
        )


def _tag(origin: Origin, workspace: Workspace) -> str:
    try:
        return tag_of(origin, workspace.lock)
    except UnreachableError as error:
        raise UpstreamError(error.message, where=f"source {origin.spec}", hint=WAYS_ROUND) from error


def remarks(facts: SourceFacts, *, version: str) -> tuple[str, ...]:
    """Return what a user should know of a source, whether it was made now or before.

    Args:
        facts: of the source.
        version: of the product.
    """
    found = []
    if facts.kind in schema.FOREIGN:
        of = f" of {facts.url}" if facts.url else ""
        found.append(
            f"the source is {facts.version}{of} ({facts.commit}), not product.source; "
            f"packages keep the version {version}"
        )
    if present := patch_state.remark(facts.patches):
        found.append(present)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patched:
    """The tree after the series, without its submodules."""

    tree: Path
    epoch: int
    lines: patch_state.GuestLines
    patches: tuple[PatchFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceRun:
    """One run of the stage."""

    workspace: Workspace
    pinned: Pinned
    sources: patches.PatchSources
    wanted: tuple[patches.Patch, ...]
    label: str
    image: str
    log: Path
    scratch: Path

    def patched(self) -> _Patched:
        """Apply the series.

        The history of the source is fetched only if a patch is in conflict with the tree, because it may be large.
        """
        moves = {patch: pointers.moves(self._content(patch), patch.strip) for patch in self.wanted}
        repository = self._repository()
        known = self._pointers(moves, repository)
        made = self._look(repository, known)
        more: list[str] = []
        if repository is not None and any(patch.state == "conflict" for patch in made.patches):
            deep, problem = self._history()
            if deep is not None:
                made = self._look(deep, known, history=True)
            more += [problem] if problem else []
        findings = self._findings(made.patches)
        if findings:
            for patch in findings:
                more += [known.unknown[m.path] for m in moves[patch] if m.path in known.unknown]
                more += patches.oddities(patch, self._content(patch))
            raise self._error(made.patches, [*chain.from_iterable(findings.values()), *more])
        return made

    def _findings(self, states: tuple[PatchFacts, ...]) -> dict[patches.Patch, tuple[str, ...]]:
        """Return the reasons why the stage fails, by patch; {} if it does not."""
        found = {
            patch: patch_state.findings(state, patch.already) for patch, state in zip(self.wanted, states, strict=True)
        }
        return {patch: reasons for patch, reasons in found.items() if reasons}

    def _content(self, patch: patches.Patch) -> bytes:
        return (self.sources.downloads / patch.sha256).read_bytes()

    def _repository(self) -> Path | None:
        """Fetch the source's commit; return its repository, or None for a tarball."""
        origin = self.pinned.origin
        if origin.kind != "git":
            return None
        where = f"source {origin.spec}"
        return submodules.fetch(self.sources.cache, origin.url, self.pinned.identity, ref=origin.ref, where=where)

    def _pointers(
        self, moves: Mapping[patches.Patch, list[pointers.Move]], repository: Path | None
    ) -> pointers.SubmodulePointers:
        origin, cache = self.pinned.origin, self.sources.cache
        if repository is not None:
            return pointers.look_up(moves, origin, repository=repository, commit=self.pinned.identity, cache=cache)
        assert origin.tarball is not None  # what is no repository is one
        return pointers.look_up_trees(moves, origin.tarball, cache=cache)

    def _history(self) -> tuple[Path | None, str]:
        """Fetch the history of the source's commit; return the repository, and what is wrong with it."""
        origin = self.pinned.origin
        try:
            repository, whole = self.sources.cache.history(origin.url, self.pinned.identity, origin.ref)
        except (HostError, ConfigError) as error:
            return None, f"the history of the source could not be looked at: {error.message}"
        return repository, "" if whole else f"the history of the source ends early: {origin.spec} is a shallow clone"

    def _look(self, repository: Path | None, known: pointers.SubmodulePointers, *, history: bool = False) -> _Patched:
        folder = self.scratch / ("history" if history else "look")
        folder.mkdir()
        job = Job(
            label=f"{STAGE_NAME}-{self.label}{'-history' if history else ''}",
            image=self.image,
            argv=("sh", "guest/run.sh", "source", "source"),
            env={**_environment(self.pinned), **({"PIKAFORGE_HISTORY": "1"} if history else {})},
            inputs=(
                self.workspace.guest(*SCRIPTS),
                _source_input(self.pinned, repository, folder),
                _patch_input(self.sources.downloads, self.wanted, known),
            ),
            outputs=("packed/source.tar",),
            facts=("out/facts", "out/epoch"),
            log=self.log,
        )
        done = run_job(self.workspace, job, folder, stage=STAGE_NAME, label=self.label, failed=FAILED)
        lines = read_facts(done.outputs["out/facts"])
        try:
            return _Patched(
                tree=done.outputs["packed/source.tar"],
                epoch=int(done.outputs["out/epoch"].read_text(encoding="ascii")),
                lines=lines,
                patches=patch_state.read(lines, self.wanted),
            )
        except ValueError as error:  # names in a patch or a source are among the facts
            found = replace(failure(stage=STAGE_NAME, label=self.label, log=self.log), findings=(str(error),))
            raise StageError(f"{FAILED}: what it says of itself cannot be read", found) from error

    def _error(self, states: tuple[PatchFacts, ...], findings: list[str]) -> StageError:
        hints = []
        if any(state.state == "conflict" for state in states):
            hints.append("disable the entry in the series (enabled: false), or replace it with a rebased patch (file:)")
            if self.pinned.origin.kind == "tarball":
                hints.append("a tarball cannot carry submodule pointer moves: take a clone for series that have one")
        if any(patch_state.refused(state, patch.already) for patch, state in zip(self.wanted, states, strict=True)):
            hints.append("if the source may have it, remove `already: refuse` from the entry, or disable it")
        found = replace(
            failure(stage=STAGE_NAME, label=self.label, log=self.log),
            findings=tuple(dict.fromkeys(findings)),
            facts=SeriesFacts(patches=states),
        )
        return StageError(FAILED, found, hint="\n".join(hints))


def _environment(pinned: Pinned) -> dict[str, str]:
    if pinned.origin.tarball is not None:
        return {"PIKAFORGE_TARBALL": pinned.origin.tarball.name}
    return {"PIKAFORGE_COMMIT": pinned.identity}


def _source_input(pinned: Pinned, repository: Path | None, scratch: Path) -> Input:
    tarball = pinned.origin.tarball
    if tarball is not None:
        return Input(folder="tarball", archive=files({tarball.name: tarball}))
    assert repository is not None  # what is no tarball is one
    return Input(folder="git/0", archive=submodules.repository_tar(repository, scratch))


def _patch_input(downloads: Path, wanted: tuple[patches.Patch, ...], known: pointers.SubmodulePointers) -> Input:
    lines: list[str] = []
    contents: dict[str, bytes | Path] = {}
    for number, patch in enumerate(wanted):
        name = f"{number:04}"
        contents[name] = downloads / patch.sha256
        lines.append(f"{patch.kind}\t{name}\t{patch.strip}\t{patch.name}\n")
    contents["list"] = "".join(lines).encode()
    contents.update(known.inputs())
    return Input(folder="patches", archive=files(contents))


def _pin_submodules(workspace: Workspace, origin: Origin, commits: Mapping[str, str]) -> None:
    """Pin the commits of submodules.

    Raises:
        ConfigError: one is pinned to another commit, or has no pin under `--locked`.
    """
    if not origin.sample:
        for path, commit in commits.items():
            workspace.lock.check("sources", origin.entry, f"submodule {path}", commit)


class SourceStage(BaseStage):
    """Makes the source tree of a run, patched and normalised."""

    name = STAGE_NAME
    scope: Scope = "run"
    facts = SourceFacts
    seconds = 20.0

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs the tools image."""
        return Needs(ids=slot.tools)

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return the pinned source as key material; look up what is not pinned, unless `offline`."""
        request = run.request
        pinned = identify(
            request.origin, request.series, workspace=run.workspace, folder=run.series_folder, offline=offline
        )
        if pinned is None:
            return Material(facts=unresolved_material(request.origin, run.home), pinned=False)
        return Material(facts=material(pinned, run.home), pin=pinned)

    def unfit(self, result: Result, run: RunContext) -> str:
        """Return how it differs from what is pinned; pin what is not, as for a source that is fetched here."""
        if set(result.files) != {"source.tar"}:
            return "its one file is not source.tar"
        commits = result.read(SourceFacts).submodules
        if not all(COMMIT.fullmatch(commit) for commit in commits.values()):
            return "the commit of a submodule is none"
        try:
            _pin_submodules(run.workspace, run.request.origin, commits)
        except ConfigError as error:
            return error.message
        return ""

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Fetch, patch and pack the tree."""
        pinned = inputs.pin
        assert isinstance(pinned, Pinned)  # see `material`
        return make(
            run.workspace,
            pinned,
            run.request.series,
            key=key,
            label=inputs.node.label,
            folder=run.series_folder,
            image=inputs.tools,
        )

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return how the source differs from product.source and its series."""
        return remarks(result.read(SourceFacts), version=run.spec.product.version)


STAGE = SourceStage()
