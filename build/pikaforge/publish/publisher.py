"""Publishing to one site: what would change, the changes, and the pages of the root that tell of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from pikaforge.errors import PublishError
from pikaforge.model import Format, Spec
from pikaforge.publish import clients, compose, outline
from pikaforge.publish.change import Site
from pikaforge.publish.outline import Item, Outline
from pikaforge.publish.page import page
from pikaforge.publish.records import (
    CATALOGUE,
    STATE,
    Artifact,
    Catalogue,
    File,
    Key,
    Repository,
    State,
    entry,
    read_catalogue,
    read_state,
    text,
)
from pikaforge.signing import Signer

INDEX = "index.html"
DEBS = ("debian", "ubuntu")
"""Systems (ID of /etc/os-release) whose own packages are DEBs."""
Source = Callable[[str, File], Path]
"""Where a file of an item is on this machine, by the item's place and the file as the item has it."""


def moment() -> str:
    """Now, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to become of a root."""

    items: tuple[Item, ...] = ()
    """To be published."""
    rollback: tuple[str, ...] = ()
    """Places of repositories that are to be switched to the generation before."""
    keep: int | None = None
    replace: bool = False


@dataclass(slots=True, kw_only=True)
class Done:
    """What publishing to a site did, or would do."""

    outlines: tuple[Outline, ...]
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
    signer: Signer | None
    product: str

    def look(self, wish: Wish) -> Done:
        """What would change; nothing is written, and no lock is taken.

        Raises:
            PublishError: the site cannot be read.
        """
        return Done(outlines=tuple(self._outlines(wish)))

    def publish(self, wish: Wish, source: Source) -> Done:
        """Make it so.

        Raises:
            PublishError: the site refuses, an item would change what is there, or the signing key is missing.
        """
        with self.site.locked(), tempfile.TemporaryDirectory(prefix="pikaforge-publish-") as scratch:
            outlines = tuple(self._outlines(wish))
            refuse(outlines, self.site.where)
            done = Done(outlines=outlines)
            for each in outlines:
                if not each.nothing:
                    change = compose.compose(each, self._means(each, source, Path(scratch)))
                    done.transferred += self.site.commit(change)
            done.pages = list(self._pages(sorted({each.place for each in outlines})))
        return done

    def _outlines(self, wish: Wish) -> Iterator[Outline]:
        catalogue = self._catalogue()
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
        for item in wish.items:
            groups.setdefault(item.place, []).append(item)
        key = self.signer.fingerprint if self.signer else ""
        for place, items in sorted(groups.items()):
            yield outline.outline(items, self._state(place), key=key, keep=wish.keep, replace=wish.replace)
        for place in wish.rollback:
            yield self._rollback(place, keep=wish.keep)

    def _rollback(self, place: str, *, keep: int | None) -> Outline:
        state = self._state(place)
        before = state.before() if state else None
        if state is None or before is None:
            raise PublishError(
                "there is no generation before the current one" if state else "there is no such repository",
                where=f"{self.site.where}: {place}",
                hint=f"kept is only {state.current.number}" if state else "publish to it first",
            )
        return outline.rollback(state, before, keep=keep)

    def _state(self, place: str) -> State | None:
        path = f"{place}/{STATE}"
        return read_state(self.site.read(path), where=f"{self.site.where}: {path}")

    def _catalogue(self) -> Catalogue | None:
        return read_catalogue(self.site.read(CATALOGUE), where=f"{self.site.where}: {CATALOGUE}")

    def _means(self, of: Outline, source: Source, scratch: Path) -> compose.Means:
        def fetch(file: File) -> Path:
            into = scratch / f"{file.sha256}-{file.path.rpartition('/')[2]}"
            if not into.exists():
                self.site.fetch(file, of.place, into)
            return into

        return compose.Means(
            read=self.site.read,
            fetch=fetch,
            obtain=lambda file: source(of.place, file),
            signer=self.signer,
            now=moment(),
            stepwise=self.site.stepwise,
        )

    def _pages(self, places: Sequence[str]) -> Iterator[str]:
        """Write the files of the root, from the states as they are now; the names of those that changed.

        They are written at every publication, so that one that was killed before them is made good by the next.
        """
        old = self._catalogue()
        known = {repository.path: repository for repository in (old.repositories if old else ())}
        known |= {place: entry(state) for place in places if (state := self._state(place)) is not None}
        key, public = self._key()
        catalogue = Catalogue(
            product=self.product,
            summary=self.spec.product.summary if self.product == self.spec.product.name else "",
            url=self.url,
            key=key,
            repositories=tuple(known[path] for path in sorted(known)),
        )
        for path, data in {**public, **self._client_files(catalogue), CATALOGUE: text(catalogue)}.items():
            if self.site.write(path, data):
                yield path
        if self.site.write(INDEX, self._page(catalogue).encode()):
            yield INDEX

    def _key(self) -> tuple[Key | None, dict[str, bytes]]:
        """The public key that clients need, after those that earlier packages were signed with."""
        if self.signer is None:
            return None, {}
        path = f"{self.product}.asc"
        there = (self.site.read(path) or b"").decode("utf-8", "replace")
        public = self.signer.public.strip()
        whole = there if public in there else f"{there}{public}\n"
        return Key(path=path, fingerprint=self.signer.fingerprint), {path: whole.encode()}

    def _key_url(self, catalogue: Catalogue) -> str | None:
        return f"{self.url}/{catalogue.key.path}" if catalogue.key else None

    def _client_files(self, catalogue: Catalogue) -> dict[str, bytes]:
        """Configuration for package managers, and the script that finds a machine's model."""
        found: dict[str, bytes] = {}
        key_url = self._key_url(catalogue)
        for repository in catalogue.repositories:
            formats = {artifact.format for artifact in repository.artifacts}
            image, model = repository.image, repository.model
            if "rpm" in formats:
                found[clients.fleet_repo_path(self.product, image)] = clients.fleet_repo_file(
                    product=self.product, image=image, base_url=self.url, key_url=key_url
                ).encode()
                found[clients.model_repo_path(self.product, image, model)] = clients.model_repo_file(
                    product=self.product, image=image, model=model, base_url=self.url, key_url=key_url
                ).encode()
            if "deb" in formats:
                found[clients.apt_list_path(self.product, image, model)] = clients.apt_list(
                    product=self.product,
                    image=image,
                    model=model,
                    base_url=self.url,
                    keyring=clients.keyring(catalogue.key.path) if catalogue.key else None,
                ).encode()
        published: dict[str, list[str]] = {}
        apt: set[str] = set()
        for repository in catalogue.repositories:
            formats = {artifact.format for artifact in repository.artifacts}
            if formats & {"rpm", "deb"}:
                published.setdefault(repository.image, []).append(repository.model)
            if "deb" in formats:
                apt.add(repository.image)
        found[clients.SCRIPT_PATH] = clients.detect_script(
            self.spec,
            published,
            base_url=self.url,
            key_name=catalogue.key.path if catalogue.key else "",
            key=self.signer.public if self.signer else None,
            apt=apt,
        )
        return found

    def _page(self, catalogue: Catalogue) -> str:
        key_url = self._key_url(catalogue)

        def install(repository: Repository, artifact: Artifact) -> tuple[str, ...]:
            return clients.install_lines(
                artifact.format,
                product=self.product,
                image=repository.image,
                model=repository.model,
                package_name=artifact.package,
                version=artifact.version,
                base_url=self.url,
                path=f"{repository.path}/{artifact.path}",
                key_url=key_url,
                installer=clients.installer(self.spec, repository.image),
            )

        def fleet(image: str) -> tuple[str, ...]:
            of = [repository for repository in catalogue.repositories if repository.image == image]
            formats = {artifact.format for repository in of for artifact in repository.artifacts}
            if not formats & {"rpm", "deb"}:
                return ()
            own: Format = "deb" if image in self.spec.images and self.spec.images[image].os.id in DEBS else "rpm"
            kind: Format = own if own in formats else "rpm" if "rpm" in formats else "deb"
            return clients.install_lines(
                kind,
                product=self.product,
                image=image,
                model=None,
                package_name=self.product,
                version="",
                base_url=self.url,
                path=image,
                key_url=key_url,
                installer=clients.installer(self.spec, image),
            )

        return page(catalogue, install, fleet)


def refuse(outlines: Sequence[Outline], where: str) -> None:
    """Raise a PublishError with every package that would get other bytes."""
    conflicts = [conflict for each in outlines for conflict in each.conflicts]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What another site offers, to be published as it is."""

    items: tuple[Item, ...]
    origin: Site

    @contextmanager
    def source(self) -> Iterator[Source]:
        """Fetches files from the other site as they are needed."""
        with tempfile.TemporaryDirectory(prefix="pikaforge-promote-") as scratch:

            def fetch(place: str, file: File) -> Path:
                into = Path(scratch) / file.sha256
                if not into.exists():
                    self.origin.fetch(file, place, into)
                return into

            yield fetch


def promotion(origin: Site, wanted: Callable[[Artifact], bool], *, product: str) -> Promotion:
    """The packages of another site's current generations that are wanted.

    Raises:
        PublishError: there is nothing.
    """
    catalogue = read_catalogue(origin.read(CATALOGUE), where=f"{origin.where}: {CATALOGUE}")
    if catalogue is None:
        raise PublishError("there is nothing to promote", where=origin.where, hint="publish to it first")
    now = moment()
    items = []
    for repository in catalogue.repositories:
        # The state decides: the catalogue may be behind, if a publisher was killed between the two.
        path = f"{repository.path}/{STATE}"
        state = read_state(origin.read(path), where=f"{origin.where}: {path}")
        items += [
            Item(
                product=catalogue.product,
                image=repository.image,
                model=repository.model,
                artifact=artifact.model_copy(update={"published": now}),
            )
            for artifact in (state.listed() if state else ())
            if wanted(artifact)
        ]
    if not items:
        raise PublishError(
            "nothing that is published there is selected", where=origin.where, hint="see its index page, or repo.json"
        )
    return Promotion(items=tuple(items), origin=origin)


def from_folder(sources: Mapping[tuple[str, str], Path]) -> Source:
    """Files as `collect` found them."""

    def find(place: str, file: File) -> Path:
        return sources[place, file.path]

    return find
