"""The next generation of a repository: its metadata, sums and signatures, made of an outline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS
from pikaforge.errors import PublishError
from pikaforge.formats import format as formats
from pikaforge.publish.diff import RepositoryDiff
from pikaforge.publish.state import STATE, Artifact, File, Generation, State, text
from pikaforge.publish.transaction import Addition, Transaction, file_of, sums_text


class Signing(Protocol):
    """What signs metadata (`signing.Signer`)."""

    fingerprint: str
    public: str

    def detached(self, data: bytes, *, armor: bool = True) -> bytes:
        """A signature of some bytes."""

    def clearsigned(self, data: bytes) -> bytes:
        """A text with its signature in it."""


Obtain = Callable[[File], Path]
"""Where a file of an item is on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInputs:
    """What is needed to make a generation."""

    read: Callable[[str], bytes | None]
    """A file of the site, by its path below the root."""
    fetch: Callable[[File], Path]
    """A file of the repository, copied to this machine."""
    obtain: Obtain
    signer: Signing | None
    now: str
    """ISO 8601 in UTC."""
    stepwise: bool = False
    """Whether readers may see new pointers before all of them are there."""


def verify(outlines: Iterable[RepositoryDiff]) -> None:
    """Import what makes the metadata that outlines change, before anything is written.

    Raises:
        HostError: it is missing, or cannot be loaded.
    """
    changed = [each for each in outlines if not each.nothing]
    names = {artifact.format for each in changed for artifact in (*each.listed, *each.unlisted)}
    for kind in formats.every():
        if kind.name in names and kind.index is not None:
            kind.index.verify()


def compose(outline: RepositoryDiff, means: GenerationInputs) -> Transaction:
    """Make the change of an outline.

    Raises:
        PublishError: a package cannot be read, or what the site has is damaged.
    """
    return _Composer(outline, means).change()


class _Composer:
    def __init__(self, outline: RepositoryDiff, means: GenerationInputs) -> None:
        self.outline = outline
        self.means = means
        self.before = outline.before
        self.additions: list[Addition] = []
        self.pointers: dict[str, bytes] = {}
        self.transitional: dict[str, bytes] = {}
        self.metadata: list[File] = []
        current = self.before.current if self.before else None
        newest = max((artifact.epoch for artifact in outline.listed), default=0)
        self.revision = max(newest, current.revision + 1) if current else newest
        self.known = {file.path: file for file in (self.before.files() if self.before else ())}
        self.base = outline.restores or current
        """The generation whose metadata is taken for what it knows."""

    def change(self) -> Transaction:
        self._add_files()
        for kind in formats.every():
            if kind.index is not None:
                self._index(kind, kind.index)
        self._sums()
        state = self._state()
        self.pointers[STATE] = text(state)
        new = {addition.file.path for addition in self.additions}
        named = {file.path for file in state.files()}
        old = self.known.values()
        return Transaction(
            state=state,
            kept=tuple(file for file in old if file.path in named and file.path not in new),
            additions=tuple(self.additions),
            pointers=self.pointers,
            transitional=self.transitional,
            removals=tuple(file for file in old if file.path not in named),
        )

    def _state(self) -> State:
        outline = self.outline
        generation = Generation(
            number=outline.number,
            revision=self.revision,
            published=self.means.now,
            restores=outline.restores.number if outline.restores else None,
            key=self.means.signer.fingerprint if self.means.signer else "",
            artifacts=tuple(artifact.path for artifact in outline.listed),
            metadata=tuple(sorted(self.metadata, key=lambda file: file.path)),
        )
        older = self.before.generations[: outline.history - 1] if self.before else ()
        known = {**(self.before.artifacts if self.before else {}), **{a.path: a for a in outline.listed}}
        named = sorted({path for each in (generation, *older) for path in each.artifacts})
        return State(
            product=outline.product,
            image=outline.image,
            model=outline.model,
            generations=(generation, *older),
            artifacts={path: known[path] for path in named},
        )

    def _add_files(self) -> None:
        for placed in self.outline.placed:
            for source, file in placed.files:
                self.additions.append(Addition(file=file, content=self.means.obtain(source)))

    def _immutable(self, path: str, data: bytes) -> None:
        """A metadata file that is called after its digest; it may be there from an earlier generation."""
        file = file_of(path, data)
        self.metadata.append(file)
        if self.known.get(path) != file:
            self.additions.append(Addition(file=file, content=data))

    def _index(self, kind: formats.Format, index: formats.RepositoryIndex) -> None:
        """Index the packages of a format, unless there never was one."""
        listed = [artifact for artifact in self.outline.listed if artifact.format == kind.name]
        old = [file for file in (self.base.metadata if self.base else ()) if file.path.startswith(f"{kind.folder}/")]
        if not listed and not old:
            return
        known = set(self.base.artifacts) if self.base and old else set()
        pool = formats.Pool(
            product=self.outline.product,
            model=self.outline.model,
            place=self.outline.place,
            revision=self.revision,
            listed=[self._listed(artifact, kind.folder, known=artifact.path in known) for artifact in listed],
            before=lambda: {file.path.removeprefix(f"{kind.folder}/"): self._read(file) for file in old},
        )
        made = index.update(pool)
        for name, data in made.immutable.items():
            self._immutable(f"{kind.folder}/{name}", data)
        for name, data in made.pointers.items():
            for signature in made.signatures:
                if signature.of == name and signature.first and self.means.signer is not None:
                    self._sign_first(
                        f"{kind.folder}/{name}", f"{kind.folder}/{signature.path}", data, self.means.signer
                    )
            self.pointers[f"{kind.folder}/{name}"] = data
        for signature in made.signatures:
            if not signature.first and self.means.signer is not None:
                data, signer = made.pointers[signature.of], self.means.signer
                signed = signer.clearsigned(data) if signature.clear else signer.detached(data)
                self.pointers[f"{kind.folder}/{signature.path}"] = signed

    def _listed(self, artifact: Artifact, folder: str, *, known: bool) -> formats.IndexedPackage:
        placed = {put.artifact.path: put for put in self.outline.placed}

        def file() -> Path:
            if artifact.path in placed:
                return self.means.obtain(placed[artifact.path].files[0][0])
            return self.means.fetch(artifact)

        return formats.IndexedPackage(
            location=artifact.path.removeprefix(f"{folder}/"),
            name=artifact.name,
            sha256=artifact.sha256,
            known=known,
            file=file,
        )

    def _read(self, file: File) -> bytes:
        """A metadata file of the site."""
        data = self.means.read(f"{self.outline.place}/{file.path}")
        if data is None or file_of(file.path, data) != file:
            raise PublishError(
                "a metadata file is missing or altered",
                where=f"{self.outline.place}/{file.path}",
                hint="has somebody changed the repository by hand? put the file back, or begin with a new root",
            )
        return data

    def _sign_first(self, pointer: str, signature: str, data: bytes, signer: Signing) -> None:
        """Put the signature of a pointer before it.

        Where the two cannot be switched at once, there is a signature file for the old pointer and the new one
        meanwhile, of which gpg takes the signature that fits; the new one's alone comes after the pointer.
        """
        before = self.means.read(f"{self.outline.place}/{pointer}") if self.means.stepwise else None
        if before is not None:
            both = [signer.detached(each, armor=False) for each in (data, before)]
            self.transitional[signature] = b"".join(both)
            self.pointers[pointer] = data
        self.pointers[signature] = signer.detached(data)

    def _sums(self) -> None:
        """SHA256SUMS of each folder with artifacts, for `verify` and `sha256sum --check`."""
        folders: dict[str, list[File]] = {}
        for file in _proved(self.outline.listed):
            folders.setdefault(file.path.rpartition("/")[0], []).append(file)
        for folder, files in sorted(folders.items()):
            data = sums_text(files).encode()
            if self.means.signer is not None:
                self.pointers[f"{folder}/{SUMS}{SIGNATURE_SUFFIX}"] = self.means.signer.detached(data)
            self.pointers[f"{folder}/{SUMS}"] = data


def _proved(artifacts: Iterable[Artifact]) -> Iterable[File]:
    """Artifacts with what lies beside them, but for signatures, which prove themselves."""
    for artifact in artifacts:
        yield from (file for file in artifact.files() if not file.path.endswith(SIGNATURE_SUFFIX))
