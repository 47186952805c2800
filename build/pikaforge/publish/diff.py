"""The diff of a repository: what publishing would change, from its state and the packages that are to be published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from pikaforge.formats.format import of
from pikaforge.publish.state import HISTORY, ROLLBACK, Artifact, File, Generation, State

DAY = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A package on its way into a repository."""

    product: str
    image: str
    model: str
    artifact: Artifact
    """Its paths are those that it gets if the repository is empty; in a diff, those that it gets."""
    transfers: tuple[tuple[File, File], ...] = ()
    """In a diff, the files to be transferred: with the path that the item has for it, and with the one that it gets."""

    @property
    def place(self) -> str:
        """Return its repository's folder below the root."""
        return f"{self.image}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An item that has the name of a published artifact, and other bytes."""

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
    placed: tuple[Item, ...] = ()
    """Items that are new, or that bring files which are not beside the published artifact yet."""
    same: tuple[Artifact, ...] = ()
    """Artifacts that are listed, and stay as they are."""
    relisted: tuple[Artifact, ...] = ()
    """Artifacts whose files are kept, and which are listed again."""
    unlisted: tuple[Artifact, ...] = ()
    """Artifacts that the new metadata does not list any more."""
    conflicts: tuple[Conflict, ...] = ()
    listed: tuple[Artifact, ...] = ()
    """All artifacts that the new metadata lists."""
    restores: Generation | None = None
    redated: bool = False
    """Whether the metadata is to be made again because of its dates: clients refuse it now, or would soon."""
    resigned: bool = False
    """Whether the metadata is to be signed by another key than before."""
    history: int = HISTORY

    @property
    def place(self) -> str:
        """Return the repository's folder below the root."""
        return f"{self.image}/{self.model}"

    @property
    def nothing(self) -> bool:
        """Return whether nothing would change."""
        return not (self.placed or self.relisted or self.unlisted or self.restores or self.resigned or self.redated)


def compare(
    items: Sequence[Item], before: State | None, *, key: str, keep: int | None = None, replace: bool = False
) -> RepositoryDiff:
    """Return what would change if some items were published.

    Args:
        items: of one repository; at least one.
        before: its state.
        key: fingerprint of the key that signs; empty: nothing is signed.
        keep: versions of each package that stay listed, and generations that stay; None: all, and `HISTORY`.
        replace: let an item take the place of one with the same name and other bytes. The other one stays where it is
            as long as a kept generation names it, so the new one gets a folder of its own.
    """
    first = items[0]
    found = _Comparison(before)
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


def redated(diff: RepositoryDiff, *, now: int, valid_days: int | None) -> RepositoryDiff:
    """Return a diff that says whether its metadata needs other dates.

    Args:
        diff: of a repository.
        now: seconds since 1970.
        valid_days: days for which clients accept metadata; None: for ever.
    """
    current = diff.before.current if diff.before else None
    if current is None:
        return diff
    until = current.valid_until
    stale = (until is None) != (valid_days is None) or (
        until is not None and valid_days is not None and until - now < valid_days * DAY // 2
    )
    return replace(diff, redated=current.revision > now or stale)


class _Comparison:
    """Items compared with a state, one after the other."""

    def __init__(self, before: State | None) -> None:
        self.number = before.current.number + 1 if before else 1
        self.listed = {artifact.path: artifact for artifact in (before.listed() if before else ())}
        self.placed: list[Item] = []
        self.same: list[Artifact] = []
        self.relisted: list[Artifact] = []
        self.conflicts: list[Conflict] = []
        self._known = _by_name(before)

    def add(self, item: Item, *, replace: bool) -> None:
        """Place an item, keep the artifact that it is, or note a conflict."""
        namesakes = self._known.get((item.artifact.format, item.artifact.name), [])
        alike = next((other for other in namesakes if _alike(item.artifact, other)), None)
        if alike is None and namesakes and not replace:
            self.conflicts.append(Conflict(item=item, there=namesakes[0]))
            return
        for other in namesakes:
            if alike is None or other.path != alike.path:
                self.listed.pop(other.path, None)
        if alike is None:
            placed = _placed(item, self.number, aside=bool(namesakes))
            self.placed.append(placed)
            self.listed[placed.artifact.path] = placed.artifact
        else:
            self._keep(item, alike)

    def _keep(self, item: Item, there: Artifact) -> None:
        """List an artifact that is there already, with the files that the item brings and that are not beside it."""
        completed = _completed(item, there)
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
    """Return what would change if a kept generation were published again."""
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
    """Return the artifacts by format and file name, the newest first."""
    found: dict[tuple[str, str], list[Artifact]] = {}
    artifacts = before.artifacts.values() if before else ()
    for artifact in sorted(artifacts, key=attrgetter("since"), reverse=True):
        found.setdefault((artifact.format, artifact.name), []).append(artifact)
    return found


def _alike(artifact: Artifact, there: Artifact) -> bool:
    """Return whether two are one package: the same bytes, or the same but for a signature inside the file.

    A signature has the time in it, so the bytes differ when a package is signed again.
    """
    if artifact.sha256 == there.sha256:
        return True
    return bool(artifact.body) and artifact.body == there.body and there.signed


def _placed(item: Item, number: int, *, aside: bool) -> Item:
    """Return an item with the paths that it gets; `aside` if it gets a folder of its own generation."""
    artifact, folder = item.artifact, of(item.artifact.format).folder

    def at(file: File) -> str:
        return f"{folder}/r{number}/{file.name}" if aside else f"{folder}/{file.name}"

    beside = tuple(file.model_copy(update={"path": at(file)}) for file in artifact.beside)
    there = artifact.model_copy(update={"path": at(artifact), "since": number, "beside": beside})
    return replace(item, artifact=there, transfers=tuple(zip(artifact.files(), there.files(), strict=True)))


def _completed(item: Item, there: Artifact) -> Item | None:
    """Return the published artifact with the files that an item brings in addition; None if there are none.

    Files that are beside the artifact already are not changed: another build of the same bytes may have another
    provenance.
    """
    folder = there.path.rpartition("/")[0]
    known = {file.path for file in there.beside}
    files = [
        (file, file.model_copy(update={"path": path}))
        for file in item.artifact.beside
        if (path := f"{folder}/{file.name}") not in known
    ]
    if not files:
        return None
    beside = tuple(sorted((*there.beside, *(new for _, new in files)), key=lambda file: file.path))
    return replace(item, artifact=there.model_copy(update={"beside": beside}), transfers=tuple(files))


def _newest(artifacts: Iterable[Artifact], keep: int) -> list[Artifact]:
    """Return the artifacts of the `keep` versions of each package that were published last."""
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
