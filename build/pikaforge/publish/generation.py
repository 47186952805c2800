"""The next generation of a repository: its metadata, sums and signatures, made from a diff."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS, sums_text
from pikaforge.errors import PublishError
from pikaforge.formats.format import Format, Pool, RepositoryIndex, every
from pikaforge.publish.diff import DAY, RepositoryDiff
from pikaforge.publish.state import STATE, Artifact, File, Generation, State, text
from pikaforge.publish.transaction import Addition, Transaction, file_of


class Signing(Protocol):
    """The signer of metadata (`attest.signing.Signer`)."""

    fingerprint: str
    public: str

    def detached(self, data: bytes, *, armor: bool = True) -> bytes:
        """Return a signature of some bytes."""

    def clearsigned(self, data: bytes) -> bytes:
        """Return a text with its signature in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInputs:
    """What a generation is made with."""

    read: Callable[[str], bytes | None]
    """Returns a file of the site by its path below the root; None if it is not there."""
    fetch: Callable[[File], Path]
    """Copies a file of the repository to this machine; returns its path."""
    obtain: Callable[[File], Path]
    """Returns the path of an item's file on this machine."""
    signer: Signing | None
    now: str
    """ISO 8601 in UTC."""
    valid_days: int | None = None
    """Days for which clients accept the metadata; None: for ever."""
    stepwise: bool = False
    """Whether readers may see new pointers before all of them are there."""


def seconds(moment: str) -> int:
    """Return a moment in ISO 8601 as seconds since 1970."""
    return int(datetime.fromisoformat(moment).timestamp())


def verify(diffs: Iterable[RepositoryDiff]) -> None:
    """Import what makes the metadata that diffs change, before anything is written.

    Raises:
        HostError: it is missing, or cannot be loaded.
    """
    changed = [each for each in diffs if not each.nothing]
    names = {artifact.format for each in changed for artifact in (*each.listed, *each.unlisted)}
    for kind in every():
        if kind.name in names and kind.index is not None:
            kind.index.verify()


def transaction(diff: RepositoryDiff, inputs: GenerationInputs) -> Transaction:
    """Return the transaction that makes the generation of a diff.

    Raises:
        PublishError: a package cannot be read, or what the site has is damaged.
    """
    return _Generation(diff, inputs).transaction()


class _Generation:
    """A generation in the making."""

    def __init__(self, diff: RepositoryDiff, inputs: GenerationInputs) -> None:
        self._diff = diff
        self._inputs = inputs
        self._before = diff.before
        self._additions: list[Addition] = []
        self._pointers: dict[str, bytes] = {}
        self._transitional: dict[str, bytes] = {}
        self._metadata: list[File] = []
        current = self._before.current if self._before else None
        newest = max((artifact.epoch for artifact in diff.listed), default=0)
        now = seconds(inputs.now)
        # A clock or a commit from the future must not date the metadata: apt refuses what is "not valid yet".
        self._revision = min(now, max(newest, current.revision + 1) if current else newest)
        self._valid_until = None if inputs.valid_days is None else now + inputs.valid_days * DAY
        self._known = self._before.by_path() if self._before else {}
        self._base = diff.restores or current
        """The generation whose metadata has the entries of packages that are listed again."""

    def transaction(self) -> Transaction:
        """Return the transaction."""
        for item in self._diff.placed:
            for source, file in item.transfers:
                self._additions.append(Addition(file=file, content=self._inputs.obtain(source)))
        for kind in every():
            if kind.index is not None:
                self._index(kind, kind.index)
        state = self._state()
        self._sums(state.artifacts.values())
        self._pointers[STATE] = text(state)
        named, old = state.by_path(), self._known
        kept = old.keys() & named.keys()
        kept.difference_update(addition.file.path for addition in self._additions)
        return Transaction(
            state=state,
            kept=tuple([file for path, file in old.items() if path in kept]),
            additions=tuple(self._additions),
            pointers=self._pointers,
            transitional=self._transitional,
            removals=tuple([file for path, file in old.items() if path not in named]),
        )

    def _state(self) -> State:
        diff, signer = self._diff, self._inputs.signer
        generation = Generation(
            number=diff.number,
            revision=self._revision,
            valid_until=self._valid_until,
            published=self._inputs.now,
            restores=diff.restores.number if diff.restores else None,
            key=signer.fingerprint if signer else "",
            artifacts=tuple(artifact.path for artifact in diff.listed),
            metadata=tuple(sorted(self._metadata, key=lambda file: file.path)),
        )
        older = self._before.generations[: diff.history - 1] if self._before else ()
        known = {**(self._before.artifacts if self._before else {}), **{a.path: a for a in diff.listed}}
        named = sorted({path for each in (generation, *older) for path in each.artifacts})
        return State(
            product=diff.product,
            image=diff.image,
            model=diff.model,
            generations=(generation, *older),
            artifacts={path: known[path] for path in named},
        )

    # ---- metadata of package managers

    def _index(self, kind: Format, index: RepositoryIndex) -> None:
        """Index the packages of a format, unless the repository has none of it and had none before."""
        pool = self._pool(kind)
        if pool is None:
            return
        made, folder, signer = index.update(pool), kind.folder, self._inputs.signer
        for name, data in made.immutable.items():
            self._add_immutable(f"{folder}/{name}", data)
        for name, data in made.pointers.items():
            for signature in made.signatures:
                if signature.of == name and signature.first and signer is not None:
                    self._sign_first(f"{folder}/{name}", f"{folder}/{signature.path}", data, signer)
            self._pointers[f"{folder}/{name}"] = data
        for signature in made.signatures:
            if not signature.first and signer is not None:
                data = made.pointers[signature.of]
                signed = signer.clearsigned(data) if signature.clear else signer.detached(data)
                self._pointers[f"{folder}/{signature.path}"] = signed

    def _pool(self, kind: Format) -> Pool | None:
        """Return the packages of a format; None if there are none, and no index of them from before."""
        start = f"{kind.folder}/"
        listed = {a.path.removeprefix(start): a for a in self._diff.listed if a.format == kind.name}
        old = [file for file in (self._base.metadata if self._base else ()) if file.path.startswith(start)]
        if not listed and not old:
            return None
        indexed = set(self._base.artifacts) if self._base and old else set()
        # What is to be transferred is on this machine; all else is fetched from the site.
        sources = {file.path: source for item in self._diff.placed for source, file in item.transfers}

        def file(location: str) -> Path:
            artifact = listed[location]
            source = sources.get(artifact.path)
            return self._inputs.fetch(artifact) if source is None else self._inputs.obtain(source)

        return Pool(
            product=self._diff.product,
            model=self._diff.model,
            place=self._diff.place,
            revision=self._revision,
            valid_until=self._valid_until,
            listed=listed,
            kept=frozenset(location for location, artifact in listed.items() if artifact.path in indexed),
            file=file,
            before=lambda: {file.path.removeprefix(start): self._read(file) for file in old},
        )

    def _add_immutable(self, path: str, data: bytes) -> None:
        """Add a metadata file that is called after its digest, unless an earlier generation has it."""
        file = file_of(path, data)
        self._metadata.append(file)
        if self._known.get(path) != file:
            self._additions.append(Addition(file=file, content=data))

    def _read(self, file: File) -> bytes:
        """Read a metadata file of the site.

        Raises:
            PublishError: it is missing or altered.
        """
        path = f"{self._diff.place}/{file.path}"
        data = self._inputs.read(path)
        if data is None or file_of(file.path, data) != file:
            raise PublishError(
                "a metadata file is missing or altered",
                where=path,
                hint="has somebody changed the repository by hand? put the file back, or begin with a new root",
            )
        return data

    def _sign_first(self, pointer: str, signature: str, data: bytes, signer: Signing) -> None:
        """Put the signature of a pointer before it.

        Where the two cannot be switched at once, there is a signature file for the old pointer and the new one
        meanwhile, of which gpg takes the signature that fits; the new one's alone comes after the pointer.
        """
        before = self._inputs.read(f"{self._diff.place}/{pointer}") if self._inputs.stepwise else None
        if before is not None:
            both = [signer.detached(each, armor=False) for each in (data, before)]
            self._transitional[signature] = b"".join(both)
            self._pointers[pointer] = data
        self._pointers[signature] = signer.detached(data)

    # ---- sums

    def _sums(self, artifacts: Iterable[Artifact]) -> None:
        """Write SHA256SUMS of each folder with artifacts, for `verify` and `sha256sum --check`.

        Those of earlier generations that are still there are in it, so that a folder can be verified as it is.
        """
        folders: dict[str, list[tuple[str, str]]] = {}
        for artifact in artifacts:
            for file in artifact.files():
                if not file.path.endswith(SIGNATURE_SUFFIX):  # signatures prove themselves
                    folder, _, name = file.path.rpartition("/")
                    folders.setdefault(folder, []).append((name, file.sha256))
        for folder, digests in sorted(folders.items()):
            data = sums_text(digests).encode()
            if self._inputs.signer is not None:
                self._pointers[f"{folder}/{SUMS}{SIGNATURE_SUFFIX}"] = self._inputs.signer.detached(data)
            self._pointers[f"{folder}/{SUMS}"] = data
