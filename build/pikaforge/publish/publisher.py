"""Publishing to one site: the diffs, the transactions, and the files of the root."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from pikaforge.config.schema import Spec
from pikaforge.errors import PublishError
from pikaforge.host.leftovers import temporary_folder
from pikaforge.pages import page
from pikaforge.pipeline.report_record import CellRecord
from pikaforge.publish import diff, generation
from pikaforge.publish.diff import Item, RepositoryDiff
from pikaforge.publish.generation import GenerationInputs, Signing
from pikaforge.publish.root_files import root_files
from pikaforge.publish.root_report import REPORT, REPORT_LIMIT, report_files
from pikaforge.publish.sites.site import Site
from pikaforge.publish.state import (
    CATALOGUE,
    STATE,
    STATE_LIMIT,
    Catalogue,
    File,
    Key,
    State,
    collector_paused,
    entry,
    read_catalogue,
    read_state,
)

KEYS_LIMIT = 4 << 20
"""Bytes of the file with the public keys."""

Source = Callable[[str, File], Path]
"""Returns the path of an item's file on this machine, by the item's place and the file as the item has it."""


def moment() -> str:
    """Return the time now, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """What is to be done with a root."""

    items: tuple[Item, ...] = ()
    """To be published."""
    records: tuple[CellRecord, ...] = ()
    """What the build report has of the items' cells."""
    rollback: tuple[str, ...] = ()
    """Places of repositories that are to be switched to the generation before."""
    keep: int | None = None
    """Versions of each package that stay listed, and generations that stay; None: all, and some."""
    valid_days: int | None = None
    """Days for which clients accept metadata; None: for ever."""
    replace: bool = False
    """Whether an item may take the place of one with the same name and other bytes."""


@dataclass(slots=True, kw_only=True)
class PublishResult:
    """What publishing to a site did, or would do."""

    diffs: tuple[RepositoryDiff, ...]
    transferred: int = 0
    """Files."""
    pages: list[str] = field(default_factory=list)
    """Files of the root that were written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Publishes to one site."""

    site: Site
    spec: Spec
    url: str
    """Where clients find the root, without a slash at its end."""
    signer: Signing | None
    product: str

    def look(self, request: PublishRequest) -> PublishResult:
        """Return what would change. Nothing is written, and no lock is taken.

        Raises:
            HostError: what makes metadata is missing here.
            PublishError: the site cannot be read, or publishing would be refused.
        """
        return PublishResult(diffs=self._checked(request, self._catalogue(request)))

    def publish(self, request: PublishRequest, source: Source) -> PublishResult:
        """Publish.

        Raises:
            HostError: what makes metadata is missing here.
            PublishError: the site refuses, an item would change what is there, or the signing key is missing.
        """
        with self.site.locked(), temporary_folder("publish") as scratch, collector_paused():
            catalogue = self._catalogue(request)
            done = PublishResult(diffs=self._checked(request, catalogue))
            states = [each.before for each in done.diffs if each.nothing]
            for each in done.diffs:
                if not each.nothing:
                    change = generation.transaction(each, self._inputs(each, source, Path(scratch), request.valid_days))
                    done.transferred += self.site.commit(change)
                    states.append(change.state)
            done.pages = list(self._pages(catalogue, [state for state in states if state is not None], request.records))
        return done

    def _checked(self, request: PublishRequest, catalogue: Catalogue | None) -> tuple[RepositoryDiff, ...]:
        """Return the diffs of a request, if they can be made."""
        diffs = tuple(self._diffs(request, catalogue))
        refuse(diffs, self.site.where)
        # The page's library is imported now, and not after packages were written.
        page.library()
        generation.verify(diffs)
        return diffs

    def _diffs(self, request: PublishRequest, catalogue: Catalogue | None) -> Iterator[RepositoryDiff]:
        if catalogue is not None and catalogue.key is not None and self.signer is None:
            raise PublishError(
                "what is there is signed, and there is no key to sign with",
                where=self.site.where,
                hint=f"set PIKAFORGE_SIGNING_KEY to the key {catalogue.key.fingerprint}: clients that check signatures "
                "would refuse the repository otherwise",
            )
        if catalogue is not None and catalogue.product != self.product:
            raise PublishError(
                f"this is a repository of {catalogue.product}, not of {self.product}",
                where=self.site.where,
                hint="give each product a root of its own",
            )
        groups: dict[str, list[Item]] = {}
        for item in request.items:
            groups.setdefault(item.place, []).append(item)
        key = self.signer.fingerprint if self.signer else ""
        for place, items in sorted(groups.items()):
            found = diff.compare(items, self._state(place), key=key, keep=request.keep, replace=request.replace)
            yield diff.redated(found, now=generation.seconds(moment()), valid_days=request.valid_days)
        for place in request.rollback:
            yield self._rollback(place, keep=request.keep)

    def _rollback(self, place: str, *, keep: int | None) -> RepositoryDiff:
        state = self._state(place)
        before = state.before() if state else None
        if state is None or before is None:
            raise PublishError(
                "there is no generation before the current one" if state else "there is no such repository",
                where=f"{self.site.where}: {place}",
                hint=f"kept is only {state.current.number}" if state else "publish to it first",
            )
        return diff.rollback(state, before, keep=keep)

    def _state(self, place: str) -> State | None:
        path = f"{place}/{STATE}"
        state = read_state(self.site.read(path, limit=STATE_LIMIT), where=f"{self.site.where}: {path}")
        if state is not None and state.place != place:
            raise PublishError(
                f"this is the state of {state.place}",
                where=f"{self.site.where}: {path}",
                hint="was a repository copied or moved? put the right file back, or begin with a new root",
            )
        return state

    def _catalogue(self, request: PublishRequest) -> Catalogue | None:
        data, where = self.site.read(CATALOGUE, limit=STATE_LIMIT), f"{self.site.where}: {CATALOGUE}"
        return read_catalogue(data, where=where, anew={*(item.place for item in request.items), *request.rollback})

    def _inputs(self, of: RepositoryDiff, source: Source, scratch: Path, valid_days: int | None) -> GenerationInputs:
        def fetch(file: File) -> Path:
            into = scratch / f"{file.sha256}-{file.name}"
            if not into.exists():
                self.site.fetch(file, of.place, into)
            return into

        return GenerationInputs(
            read=self.site.read,
            fetch=fetch,
            obtain=lambda file: source(of.place, file),
            signer=self.signer,
            now=moment(),
            valid_days=valid_days,
            stepwise=self.site.stepwise,
        )

    def _pages(self, old: Catalogue | None, states: Sequence[State], records: Sequence[CellRecord]) -> Iterator[str]:
        """Write the files of the root from the old catalogue and the new states; yield the names of changed ones.

        They are written at every publication, because an earlier one may have been killed before it wrote them.
        """
        known = {repository.path: repository for repository in (old.repositories if old else ())}
        known |= {state.place: entry(state) for state in states}
        key, public = self._key()
        catalogue = Catalogue(
            product=self.product,
            summary=self.spec.product.summary if self.product == self.spec.product.name else "",
            url=self.url,
            key=key,
            repositories=tuple(known[path] for path in sorted(known)),
        )
        files = root_files(catalogue, self.spec, key=self.signer.public if self.signer else None)
        reported = report_files(catalogue, self.site.read(REPORT, limit=REPORT_LIMIT), records)
        for path, data in {**public, **reported, **files}.items():
            if self.site.write(path, data):
                yield path

    def _key(self) -> tuple[Key | None, dict[str, bytes]]:
        """Return the key and its file. The file also has the keys that earlier packages were signed with."""
        if self.signer is None:
            return None, {}
        path = f"{self.product}.asc"
        there = (self.site.read(path, limit=KEYS_LIMIT) or b"").decode("utf-8", "replace")
        public = self.signer.public.strip()
        whole = there if public in there else f"{there}{public}\n"
        return Key(path=path, fingerprint=self.signer.fingerprint), {path: whole.encode()}


def refuse(diffs: Sequence[RepositoryDiff], where: str) -> None:
    """Raise a PublishError with every package that would get other bytes."""
    conflicts = [conflict for each in diffs for conflict in each.conflicts]
    if conflicts:
        lines = [
            f"{c.item.place}/{c.there.path} is {c.there.sha256[:12]} there and {c.item.artifact.sha256[:12]} here"
            for c in conflicts
        ]
        many = len(conflicts) > 1
        raise PublishError(
            f"{len(conflicts)} packages have other bytes" if many else "a package has other bytes",
            where=where,
            hint="\n".join(
                [*lines, "give the new build another product.release; or --replace puts it in the other one's place"]
            ),
        )


def from_folder(sources: Mapping[tuple[str, str], Path]) -> Source:
    """Return a source of the files that `collect` found."""

    def find(place: str, file: File) -> Path:
        return sources[place, file.path]

    return find
