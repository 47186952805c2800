"""`publish`: put packages into repositories, roll back, or promote. Without --yes it only shows the changes."""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pikaforge.attest import signing
from pikaforge.attest.signing import Signer
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.cli.faces.opening import part_reporting
from pikaforge.cli.output import count
from pikaforge.cli.publish_summary import PublishSummary
from pikaforge.config.nearest import did_you_mean
from pikaforge.config.schema import Destination
from pikaforge.errors import EXIT_DONE, PublishError, UsageError
from pikaforge.formats.embedded_signature import Insert, Insertion, insert_here, insert_in
from pikaforge.host import process
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.workspace import GUEST
from pikaforge.pipeline import dist
from pikaforge.pipeline.report_page import merge
from pikaforge.pipeline.report_record import CellRecord
from pikaforge.plan.selectors import Selection, nothing_selected, select_existing
from pikaforge.publish import collect
from pikaforge.publish.collect import CollectedPackages
from pikaforge.publish.promote import promotion
from pikaforge.publish.publisher import Publisher, PublishRequest, Source, from_folder, moment
from pikaforge.publish.sites.site import PackageIndex, Site, SiteOptions, Upload, kind_of
from pikaforge.publish.state import CATALOGUE, STATE_LIMIT, Artifact, read_catalogue

ARROW = re.compile(r"→|->|:")
Chosen = tuple[merge.FoundReport, CellRecord]
"""A cell, with the build report that has it."""


def publish(context: Context) -> int:
    """Run `publish`: show what would change, or change it."""
    arguments = context.arguments
    with ExitStack() as stack:
        scratch = stack.enter_context(temporary_folder("sign"))
        signer = stack.enter_context(dist.configured_signer(scratch))
        run = _PublishRun(context=context, signer=signer, scratch=scratch, yes=_confirmed(arguments))
        if arguments.promote:
            summaries = [run.promote(arguments.promote)]
        elif arguments.rollback:
            summaries = [run.rollback(name) for name in run.destinations()]
        else:
            summaries = list(run.publish(run.destinations()))
        notices = signer.notices if signer is not None else ()
    if arguments.json:
        output.show_json(json.dumps([summary.document().model_dump(mode="json") for summary in summaries], indent=2))
        return EXIT_DONE
    for notice in notices:
        output.note(notice)
    if signer is None:
        output.note(f"nothing is signed: there is no key ({signing.KEY})")
    for summary in summaries:
        output.show("\n".join(summary.lines()))
    if not run.yes and any(summary.changes for summary in summaries):
        output.show("nothing was changed: this was a dry run; --yes makes the changes")
    return EXIT_DONE


def _confirmed(arguments: argparse.Namespace) -> bool:
    """Return whether to make the changes: with --yes, or if a CI system runs the tool and names the destination."""
    return bool(arguments.yes or (os.environ.get("CI") == "true" and (arguments.to or arguments.promote)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _PublishRun:
    context: Context
    signer: Signer | None
    scratch: Path
    yes: bool

    def destinations(self) -> list[str]:
        """Return the names of the destinations that were asked for, or of the default one."""
        spec = self.context.spec
        names = list(dict.fromkeys(name for each in self.context.arguments.to for name in each.split(",")))
        if not names:
            if spec.defaults.publish is None:
                known = ", ".join(spec.publish) or "matrix.yaml has none under `publish`"
                raise UsageError("there is no destination", where="--to", hint=f"--to NAME; known: {known}")
            names = [spec.defaults.publish]
        for name in names:
            self._destination(name)
        return names

    def _destination(self, name: str) -> Destination:
        known = self.context.spec.publish
        if name not in known:
            raise UsageError(
                f"there is no destination {name!r}",
                where="--to",
                hint=did_you_mean(name, known) or f"known: {', '.join(known) or 'none'}; see `publish` in matrix.yaml",
            )
        return known[name]

    def _site(self, name: str) -> tuple[Site, str]:
        """Return a destination as a site, and the URL under which clients find it."""
        opened, url = self._open(name)
        if isinstance(opened, PackageIndex):
            raise UsageError(
                f"{name} is {kind_of(self._destination(name)).title}, which has no generations",
                where="--to",
                hint="--rollback and --promote need a directory or an HTTP server",
            )
        return opened, url

    def _open(self, name: str) -> tuple[Site | PackageIndex, str]:
        destination = self._destination(name)
        opening = SiteOptions(
            name=name, destination=destination, base=self.context.base, environ=os.environ, notice=output.note
        )
        return kind_of(destination).open(opening)

    def _publisher(self, site: Site, url: str, product: str) -> Publisher:
        return Publisher(site=site, spec=self.context.spec, url=url, signer=self.signer, product=product)

    def _keep(self, name: str) -> int | None:
        asked: int | None = self.context.arguments.keep
        return asked or self._destination(name).keep

    def _selection(self) -> Selection:
        arguments = self.context.arguments
        return Selection(selectors=arguments.selectors, os=arguments.os, allocator=arguments.allocator)

    def publish(self, names: Collection[str]) -> Iterator[PublishSummary]:
        """Publish the packages that dist/ has of the selected cells."""
        if not self.context.arguments.selectors:
            raise nothing_selected("publish")
        opened = {name: self._open(name) for name in names}
        for site, _ in opened.values():
            if isinstance(site, PackageIndex):
                site.verify()  # before anything is put anywhere
        found = self._collected()
        for name in names:
            self._refuse_not_run(name, found)
        product = found.items[0].product
        for name in names:
            site, url = opened[name]
            if isinstance(site, PackageIndex):
                yield self._index(name, site, found)
                continue
            publisher = self._publisher(site, url, product)
            yield self._publish(
                name, publisher, PublishRequest(items=found.items, records=found.records), from_folder(found.sources)
            )

    def _refuse_not_run(self, name: str, found: CollectedPackages) -> None:
        """Raise PublishError if a destination takes only packages that were run, and some were not."""
        if self._destination(name).requires != "run":
            return
        bad = {item.artifact.cell: item.artifact.not_run for item in found.items if item.artifact.not_run}
        if bad:
            raise PublishError(
                f"{name} requires that every package was run: {count(len(bad), 'cell was', 'cells were')} not",
                where=f"publish.{name}.requires",
                hint="\n".join(
                    [*(f"{cell}: {text}" for cell, text in bad.items()), "build them where their CPU is (DOCKER_HOST)"]
                ),
            )

    def _collected(self) -> CollectedPackages:
        """Collect the packages of the selected cells from dist/; they are signed first, if there is a key."""
        known = merge.cells(self._own_reports())
        built = {
            id_: (cell.model, cell.image, cell.allocator) for id_, (_, cell) in known.items() if cell.status == "done"
        }
        failed = [id_ for id_ in known if id_ not in built]
        hint = f"build it first: nox -s build -- {' '.join(self.context.arguments.selectors)}"
        if failed:
            hint += f"\nof the last runs these failed: {', '.join(failed)}"
        selected = select_existing(self._selection(), built, what=f"in {self.context.dist}", hint=hint)
        chosen = [known[id_] for id_ in selected]
        if self.yes and self.signer is not None:
            chosen = self._signed(chosen, self.signer)
        return collect.collect(chosen, self.context.spec, now=moment())

    def _own_reports(self) -> list[merge.FoundReport]:
        """Return the reports about the matrix's product.

        Raises:
            ConfigError: there are only reports about others.
        """
        found, own = merge.reports(self.context.dist), self.context.spec.product.name
        mine = [each for each in found if each.report.product == own]
        if found and not mine:
            others = ", ".join(sorted({each.report.product for each in found}))
            raise UsageError(
                f"what was built there is {others}, and {self.context.matrix.name} is about {own}",
                where=str(self.context.dist),
                hint=f"name the configuration of {others} with --matrix, or build {own} first",
            )
        return mine

    def _refuse_other(self, product: str, where: str) -> None:
        """Raise ConfigError if a root is of another product than the matrix."""
        own = self.context.spec.product.name
        if product != own:
            raise UsageError(
                f"this is a repository of {product}, and {self.context.matrix.name} is about {own}",
                where=where,
                hint=f"name the configuration of {product} with --matrix",
            )

    def _signed(self, chosen: list[Chosen], signer: Signer) -> list[Chosen]:
        """Sign what a build without a key has left unsigned; return the chosen cells with their new records."""
        by_folder: dict[Path, tuple[merge.FoundReport, set[str]]] = {}
        for each, cell in chosen:
            by_folder.setdefault(each.folder, (each, set()))[1].add(cell.id)
        signed: dict[Path, dict[str, CellRecord]] = {}
        inserters: dict[str, Insert] = {}

        def insert(job: Insertion) -> bytes:
            if job.program not in inserters:  # not before there is a file that is signed inside
                inserters[job.program] = self._inserter(job.program)
            return inserters[job.program](job)

        for folder, (each, ids) in by_folder.items():
            new = dist.sign(folder, each.report, ids, signer, insert, logs=self.context.out / "logs")
            signed[folder] = {cell.id: cell for cell in new.cells}
        if signer.made:
            output.show(f"signed {count(len(signer.made), 'file')} that the build has left unsigned")
        return [(each, signed[each.folder][cell.id]) for each, cell in chosen]

    def _inserter(self, program: str) -> Insert:
        """Return what puts signatures into files: by this machine's program if it has it, else by the tools image's."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        if process.find(program) is not None:
            return insert_here(self.context.home / GUEST, folder)
        engine = self.context.engine()
        engine.verify()
        workspace = self.context.workspace(engine)
        with part_reporting(self.context) as reporter:
            tools = self.context.pipeline(workspace).tools_image(reporter)
        return insert_in(workspace, tools=tools, label="publish", folder=folder)

    def _index(self, name: str, index: PackageIndex, found: CollectedPackages) -> PublishSummary:
        """Upload the packages of the one format that an index takes."""
        files = [
            Upload(
                path=found.sources[item.place, item.artifact.path],
                sha256=item.artifact.sha256,
                model=item.model,
                image=item.image,
                allocator=item.artifact.allocator,
            )
            for item in found.items
            if item.artifact.format == index.format
        ]
        if not files:
            raise UsageError(
                f"none of the selected packages is a {index.format}, and an index takes nothing else",
                where=f"--to {name}",
                hint=f"build some: nox -s build -- SELECTOR --formats {index.format}",
            )
        outcomes = tuple((outcome.name, outcome.done) for outcome in index.put(files, yes=self.yes))
        return PublishSummary(name=name, where=index.where, done=self.yes, wheels=outcomes)

    def _published(self, name: str) -> tuple[Publisher, dict[str, str]]:
        """Return a destination, and by cell id the repositories that have packages of the selected cells."""
        site, url = self._site(name)
        catalogue = read_catalogue(site.read(CATALOGUE, limit=STATE_LIMIT), where=f"{site.where}: {CATALOGUE}")
        if catalogue is not None:
            self._refuse_other(catalogue.product, site.where)
        known: dict[str, tuple[str, str, str]] = {}
        places: dict[str, str] = {}
        for repository in catalogue.repositories if catalogue else ():
            for artifact in repository.artifacts:
                known[artifact.cell] = (repository.model, repository.image, artifact.allocator)
                places[artifact.cell] = repository.path
        hint = "see its index page, or repo.json"
        chosen = select_existing(self._selection(), known, what=f"published to {name}", hint=hint)
        assert catalogue is not None  # nothing could be chosen
        return self._publisher(site, url, catalogue.product), {id_: places[id_] for id_ in chosen}

    def rollback(self, name: str) -> PublishSummary:
        """Return the selected repositories of a destination to the generation before."""
        publisher, chosen = self._published(name)
        places = tuple(dict.fromkeys(chosen.values()))
        return self._publish(name, publisher, PublishRequest(rollback=places), from_folder({}))

    def promote(self, between: str) -> PublishSummary:
        """Copy packages from one destination to another (`FROM→TO`). Nothing is built or packed again."""
        origin, _, name = (part.strip() for part in ARROW.sub("\n", between, count=1).partition("\n"))
        if not origin or not name or self.context.arguments.to:
            raise UsageError(
                f"{between!r} does not name two destinations",
                where="--promote",
                hint="--promote staging→stable (or staging:stable), without --to",
            )
        offering, chosen = self._published(origin)
        found = promotion(offering.site, lambda artifact: artifact.cell in chosen)
        self._refuse_unsigned([item.artifact for item in found.items], offering.site.where)
        publisher = self._publisher(*self._site(name), offering.product)
        with found.source() as source:
            return self._publish(name, publisher, PublishRequest(items=found.items, records=found.records), source)

    def _publish(self, name: str, publisher: Publisher, request: PublishRequest, source: Source) -> PublishSummary:
        """Carry out a request at a destination, or find out what it would change."""
        request = replace(
            request,
            keep=self._keep(name),
            valid_days=self._destination(name).valid_days,
            replace=self.context.arguments.replace,
        )
        done = publisher.publish(request, source) if self.yes else publisher.look(request)
        return PublishSummary(
            name=name,
            where=publisher.site.where,
            done=self.yes,
            diffs=done.diffs,
            transferred=done.transferred,
            pages=tuple(done.pages),
        )

    def _refuse_unsigned(self, artifacts: Collection[Artifact], where: str) -> None:
        """Raise ConfigError if packages are not signed: metadata with our signature would vouch for them."""
        unsigned = [artifact.path for artifact in artifacts if not artifact.signed]
        if self.signer is not None and unsigned:
            raise UsageError(
                f"{count(len(unsigned), 'package')} there are not signed: {unsigned[0]}",
                where=where,
                hint=f"publish them there again with {signing.KEY} set and --replace, then promote",
            )
