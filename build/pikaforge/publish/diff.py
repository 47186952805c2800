"""What publishing would change in a repository: decided from its state and what is to be put there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pikaforge.formats import format as formats
from pikaforge.publish.state import HISTORY, ROLLBACK, Artifact, File, Generation, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A package that is to be published; its paths are those that it gets if nothing else is there."""

    product: str
    image: str
    model: str
    artifact: Artifact

    @property
    def place(self) -> str:
        """Its repository's folder below the root."""
        return f"{self.image}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedItem:
    """An item with the paths that it gets."""

    artifact: Artifact
    files: tuple[tuple[File, File], ...]
    """What is to be transferred: as the item has it, and as it is placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The same name with other bytes."""

    item: Item
    there: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryDiff:
    """What would change in one repository."""

    product: str
    image: str
    model: str
    before: State | None
    number: int
    """Of the generation that would be made."""
    placed: tuple[PlacedItem, ...] = ()
    """What is new, or was there without some of what lies beside it."""
    same: tuple[Artifact, ...] = ()
    relisted: tuple[Artifact, ...] = ()
    """What is there still, and is named again."""
    unlisted: tuple[Artifact, ...] = ()
    """What the new metadata does not name any more."""
    conflicts: tuple[Conflict, ...] = ()
    listed: tuple[Artifact, ...] = ()
    """What the new metadata names."""
    restores: Generation | None = None
    resigned: bool = False
    """Whether the metadata is to be signed by another key than before."""
    history: int = HISTORY

    @property
    def place(self) -> str:
        """The repository's folder below the root."""
        return f"{self.image}/{self.model}"

    @property
    def nothing(self) -> bool:
        """Whether all is there already."""
        return not (self.placed or self.relisted or self.unlisted or self.restores or self.resigned)


def outline(
    items: Sequence[Item], before: State | None, *, key: str, keep: int | None = None, replace: bool = False
) -> RepositoryDiff:
    """What would change if some items were published.

    Args:
        items: of one repository; at least one.
        before: its state.
        key: fingerprint of the key that signs; empty: nothing is signed.
        keep: versions of each package that stay listed, and generations that stay; None: all, and some.
        replace: let an item take the place of one with the same name and other bytes. The other one stays where it is
            as long as a kept generation names it, so the new one gets a folder of its own.
    """
    first = items[0]
    found = _Diff(before)
    for item in items:
        found.add(item, replace=replace)
    listed = found.listed
    if keep is not None:
        listed = {artifact.path: artifact for artifact in _newest(listed.values(), keep)}
    old = before.listed() if before else ()
    return RepositoryDiff(
        product=first.product,
        image=first.image,
        model=first.model,
        before=before,
        number=found.number,
        placed=tuple(found.placed),
        same=tuple(found.same),
        relisted=tuple(found.relisted),
        unlisted=tuple(artifact for artifact in old if artifact.path not in listed),
        conflicts=tuple(found.conflicts),
        listed=tuple(listed[path] for path in sorted(listed)),
        resigned=before is not None and before.current.key != key,
        history=_history(keep),
    )


class _Diff:
    """What becomes of items, one after the other."""

    def __init__(self, before: State | None) -> None:
        self.number = before.current.number + 1 if before else 1
        self.listed = {artifact.path: artifact for artifact in (before.listed() if before else ())}
        self.placed: list[PlacedItem] = []
        self.same: list[Artifact] = []
        self.relisted: list[Artifact] = []
        self.conflicts: list[Conflict] = []
        self._known = _by_name(before)

    def add(self, item: Item, *, replace: bool) -> None:
        """Decide what becomes of an item."""
        namesakes = self._known.get((item.artifact.format, item.artifact.name), [])
        alike = next((other for other in namesakes if _alike(item.artifact, other)), None)
        if alike is None and namesakes and not replace:
            self.conflicts.append(Conflict(item=item, there=namesakes[0]))
            return
        for other in namesakes:
            if alike is None or other.path != alike.path:
                self.listed.pop(other.path, None)
        if alike is None:
            put = _placed(item.artifact, self.number, aside=bool(namesakes))
            self.placed.append(put)
            self.listed[put.artifact.path] = put.artifact
        else:
            self._keep(item, alike)

    def _keep(self, item: Item, there: Artifact) -> None:
        """List what is there already, completed by what lies beside the item and not beside it."""
        completed = _completed(item.artifact, there)
        if completed is not None:
            self.placed.append(completed)
            there = completed.artifact
        if there.path not in self.listed:
            there = there.model_copy(update={"since": self.number})
            self.relisted.append(there)
        elif completed is None:
            self.same.append(there)
        self.listed[there.path] = there


def rollback(before: State, to: Generation, *, keep: int | None = None) -> RepositoryDiff:
    """What would change if a generation that is kept were published again."""
    listed = {path: before.artifacts[path] for path in to.artifacts}
    current = set(before.current.artifacts)
    return RepositoryDiff(
        product=before.product,
        image=before.image,
        model=before.model,
        before=before,
        number=before.current.number + 1,
        relisted=tuple(artifact for path, artifact in listed.items() if path not in current),
        unlisted=tuple(artifact for artifact in before.listed() if artifact.path not in listed),
        listed=tuple(listed[path] for path in sorted(listed)),
        restores=to,
        history=_history(keep),
    )


def _history(keep: int | None) -> int:
    return HISTORY if keep is None else max(keep, ROLLBACK)


def _by_name(before: State | None) -> dict[tuple[str, str], list[Artifact]]:
    """What is there by kind and file name, the newest first."""
    found: dict[tuple[str, str], list[Artifact]] = {}
    for artifact in sorted(before.artifacts.values() if before else (), key=lambda artifact: -artifact.since):
        found.setdefault((artifact.format, artifact.name), []).append(artifact)
    return found


def _alike(artifact: Artifact, there: Artifact) -> bool:
    """Whether they are one package: the same bytes, or an RPM that was signed once more (signatures tell the time)."""
    if artifact.sha256 == there.sha256:
        return True
    return bool(artifact.body) and artifact.body == there.body and there.signed


def _placed(artifact: Artifact, number: int, *, aside: bool) -> PlacedItem:
    folder = formats.of(artifact.format).folder

    def at(file: File) -> str:
        name = file.path.rpartition("/")[2]
        return f"{folder}/r{number}/{name}" if aside else f"{folder}/{name}"

    beside = tuple(file.model_copy(update={"path": at(file)}) for file in artifact.beside)
    there = artifact.model_copy(update={"path": at(artifact), "since": number, "beside": beside})
    return PlacedItem(artifact=there, files=tuple(zip(artifact.files(), there.files(), strict=True)))


def _completed(artifact: Artifact, there: Artifact) -> PlacedItem | None:
    """What is there, with what lies beside the item and not beside it; None if that is nothing.

    What lies there is not changed: another build of the same bytes may tell another story of how it was made.
    """
    folder = there.path.rpartition("/")[0]
    known = {file.path for file in there.beside}
    files = [
        (file, file.model_copy(update={"path": path}))
        for file in artifact.beside
        if (path := f"{folder}/{file.path.rpartition('/')[2]}") not in known
    ]
    if not files:
        return None
    beside = tuple(sorted((*there.beside, *(new for _, new in files)), key=lambda file: file.path))
    return PlacedItem(artifact=there.model_copy(update={"beside": beside}), files=tuple(files))


def _newest(artifacts: Iterable[Artifact], keep: int) -> list[Artifact]:
    """Of each package the versions that were published last."""
    versions: dict[tuple[str, str], dict[str, int]] = {}
    chosen = list(artifacts)
    for artifact in chosen:
        known = versions.setdefault((artifact.format, artifact.package), {})
        known[artifact.version] = max(known.get(artifact.version, 0), artifact.since)
    kept = {
        (*package, version)
        for package, known in versions.items()
        for version in sorted(known, key=lambda version: (known[version], version))[-keep:]
    }
    return [artifact for artifact in chosen if (artifact.format, artifact.package, artifact.version) in kept]
