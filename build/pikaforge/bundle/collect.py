"""Collects what a build of some cells needs from outside: images, commits, patches, tarballs. What is missing is made.

The source stage runs once more for a bundle, because only it knows which commits of which submodules it fetches. They
come from the git cache, if they were fetched before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pikaforge.bundle.contents import BundledCommit, BundledFile, BundledImage, BundledResult
from pikaforge.bundle.writer import MemberFile
from pikaforge.errors import ConfigError, HostError
from pikaforge.host import git_packs, image_archive
from pikaforge.host.docker import DockerEngine
from pikaforge.host.download import PinnedFile
from pikaforge.host.git_urls import protocol
from pikaforge.host.store import RECORD, Store
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image import base_image
from pikaforge.pipeline.image.building import STAGE_NAME, entry_of
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.outcomes import Events, Report
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.source import source, submodules
from pikaforge.pipeline.source.patches import entry_name
from pikaforge.pipeline.stage import Request, RunContext
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import EMULATOR, TOOLS_NODE, Node, Plan


@dataclass(slots=True, kw_only=True)
class InputCollector:
    """Collects for one bundle."""

    workspace: Workspace
    request: Request
    scratch: Path
    """A folder for files that are made."""
    members: dict[str, MemberFile]
    """What was collected, by the name in the bundle."""

    def images(
        self, pipeline: Pipeline, plan: Plan, events: Events
    ) -> tuple[tuple[BundledImage, ...], tuple[BundledResult, ...], str]:
        """Collect the images of a plan; make those that are missing.

        Returns:
            The images, the results of their stage, and the engine's name of the tools image.

        Raises:
            ForgeError: one cannot be made.
        """
        engine = self.workspace.engine
        if not isinstance(engine, DockerEngine):
            return (), (), ""
        done = pipeline.execute(self._image_part(plan), events)
        if done.errors:
            raise done.errors[0]
        labels: dict[str, str] = {}
        results = []
        for outcome in done.of(STAGE_NAME):
            assert outcome.result is not None  # there are no errors
            label = outcome.node.label
            labels |= {tag: labels.get(tag, label) for tag in self._tags(label, done)}
            folder = self.workspace.store.entry(STAGE_NAME, outcome.key)
            for name in (RECORD, *outcome.result.files):
                self.members[f"store/{STAGE_NAME}/{outcome.key}/{name}"] = MemberFile(path=folder / name)
            results.append(BundledResult(label=label, key=outcome.key))
        found = self._saved(engine, labels)
        tools = done.outcomes[TOOLS_NODE].result
        return tuple(found), tuple(results), tools.read(ImageStageFacts).build if tools is not None else ""

    def _image_part(self, plan: Plan) -> Plan:
        """Return the nodes of the images, with that of the emulator, which another machine may need."""
        nodes = [node for node in plan.nodes if node.stage == STAGE_NAME]
        if self.request.spec.defaults.emulator and not any(node.label == EMULATOR for node in nodes):
            nodes.append(Node(stage=STAGE_NAME, label=EMULATOR, needs=(), cells=plan.cells))
        return replace(plan, nodes=tuple(nodes))

    def _tags(self, label: str, done: Report) -> list[str]:
        """Return the engine's names of the images of a label, and that of a base that was made here."""
        outcome = done.outcomes[f"{STAGE_NAME}:{label}"]
        assert outcome.result is not None
        facts = outcome.result.read(ImageStageFacts)
        name = entry_of(self.request.spec, label)
        entry = self.request.spec.images[name]
        base = base_image.identify(name, entry, workspace=self.workspace, offline=True)
        engine = self.workspace.engine
        assert isinstance(engine, DockerEngine)
        tags = [tag for tag in (facts.build, facts.runtime) if tag]
        # A base of a registry has no name of its own here, and of the emulator only a file is needed. The layers of a
        # base are those of the images that are made of it.
        if tags and base is not None and base.suite and engine.image(base.tag) is not None:
            tags.append(base.tag)
        return tags

    def _saved(self, engine: DockerEngine, labels: Mapping[str, str]) -> list[BundledImage]:
        """Collect images by the engine's names of them, each of which has a label."""
        folder = self.scratch / "images"
        folder.mkdir()
        image_archive.check_room(folder, max((engine.image_size(tag) for tag in labels), default=0))
        with engine.saved(list(labels)) as blocks:
            saved = image_archive.take_apart(blocks, folder)
        if missing := sorted(labels.keys() - saved.keys()):
            raise HostError(f"the engine has not saved {', '.join(missing)}", hint="run it again: they are made anew")
        for digest in (d for image in saved.values() for d in (image.config, *image.layers)):
            self.members[f"images/{digest}"] = MemberFile(path=folder / digest)
        return [
            BundledImage(tag=tag, label=label, config=saved[tag].config, layers=saved[tag].layers)
            for tag, label in sorted(labels.items())
        ]

    def commits(self, tools: str) -> tuple[BundledCommit, ...]:
        """Collect the commits that the source stage fetches; fetch those that are missing.

        Raises:
            ConfigError: the source is a branch or a local clone, which is another one at another place or time.
            ForgeError: the source cannot be made.
        """
        origin = self.request.origin
        if origin.kind == "git" and origin.local and not origin.sample:
            raise ConfigError(
                f"the source {origin.spec} is a local clone, which another machine does not have",
                where="--source",
                hint="give the URL that it was cloned from, or a source tarball (--source FILE)",
            )
        wanted: dict[tuple[str, str], None] = {}
        context = RunContext.of(
            replace(
                self.workspace,
                store=Store(self.scratch / "store"),
                git_wanted=lambda url, commit: wanted.setdefault((url, commit)),
            ),
            self.request,
        )
        self._run_source(context, tools)
        pins = self.workspace.lock.pins("sources", origin.entry)
        if origin.kind == "git" and not origin.sample and "commit" not in pins:
            raise ConfigError(
                f"{origin.ref} of {origin.spec} is a branch, which moves",
                where="--source",
                hint="name a tag or a commit",
            )
        return tuple(self._commits(sorted(wanted)))

    def _run_source(self, context: RunContext, tools: str) -> None:
        request, version = self.request, self.request.spec.product.version
        folder, series = context.series_folder, request.series
        pinned = source.identify(request.origin, series, workspace=context.workspace, folder=folder, offline=False)
        assert pinned is not None  # it is, unless it is looked up offline
        label = f"bundle-{version}"
        source.make(context.workspace, pinned, series, key="bundle", label=label, folder=folder, image=tools)

    def _commits(self, wanted: Sequence[tuple[str, str]]) -> Iterator[BundledCommit]:
        folder = self.scratch / "git"
        folder.mkdir(exist_ok=True)
        cache = submodules.fetched(self.workspace, self.request.origin)
        for url, commit in wanted:
            # The sample's repositories are made at each place from files of the tool.
            if protocol(url) == "file" or not cache.has(url, commit):
                continue
            pack, ends = git_packs.export(cache.path(url, commit), commit, folder)
            self.members[f"git/{pack.name}"] = MemberFile(path=pack)
            yield BundledCommit(url=url, commit=commit, pack=pack.name, ends=ends)

    def tarball(self) -> str:
        """Collect a source tarball; return its name in the bundle, or ""."""
        tarball = self.request.origin.tarball
        if tarball is None or self.request.origin.spec == "default":  # that is a file of the configuration
            return ""
        self.members[f"source/{tarball.name}"] = MemberFile(path=tarball)
        return f"source/{tarball.name}"

    def downloads(self, cells: Sequence[Cell], notice: Callable[[str], None]) -> tuple[BundledFile, ...]:
        """Collect the patches of pull requests, and the tarballs of allocators; fetch those that are missing."""
        found = dict(self._patches())
        spec = self.request.spec
        for cell in cells:
            kind = allocators.kind_of(spec, cell.allocator)
            for number, tarball in enumerate(allocators.sources(spec, cell.image, cell.allocator).values()):
                if tarball.file in found:
                    continue
                pinned = PinnedFile(name=tarball.file, url=tarball.url, sha256=tarball.sha256)
                given = None if number else self.workspace.given.get(kind.name)
                path = self.workspace.downloads.get(pinned, given=given)
                found[tarball.file] = (path, tarball.sha256)
        while self.workspace.lock.notices:
            notice(self.workspace.lock.notices.pop(0))
        for name, (path, _) in found.items():
            self.members[f"downloads/{name}"] = MemberFile(path=path)
        return tuple(BundledFile(name=name, sha256=digest) for name, (_, digest) in sorted(found.items()))

    def _patches(self) -> Iterator[tuple[str, tuple[Path, str]]]:
        origin, series = self.request.origin, self.request.series
        if series is None or origin.pulls is not None:  # the sample has its own
            return
        pins = self.workspace.lock.pins("sources", origin.entry)
        for entry in series.patches:
            if not entry.enabled or entry.pull is None:
                continue
            digest = pins.get(f"patch {entry_name(entry)}", "")
            path = self.workspace.out / "downloads" / digest
            if not digest or not path.is_file():
                raise HostError(f"the patch of pull request {entry.pull} is not there", hint="run it again")
            yield digest, (path, digest)
