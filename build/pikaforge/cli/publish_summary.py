"""The summary of a publication, or of what it would change: for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass

from pikaforge.cli.output import count, size
from pikaforge.config.scalars import Strict
from pikaforge.publish.diff import RepositoryDiff
from pikaforge.publish.root_files import INDEX

SAME = "same"
"""The outcome of a file that an index has already."""

# ---- the document for scripts: the fields of these models, in this order, are what is printed


class RepositoryDocument(Strict):
    """A repository in the output of `publish --json`."""

    path: str
    generation: int
    """The current generation; 0: there is none yet."""
    next: int | None
    """The generation that is made; None: nothing changes."""
    restores: int | None
    """The generation whose contents the next one has; None: it is no rollback."""
    added: tuple[str, ...]
    same: tuple[str, ...]
    listed_again: tuple[str, ...]
    not_listed_any_more: tuple[str, ...]


class IndexedFile(Strict):
    """A file in the output of `publish --json` to an index."""

    name: str
    what: str
    """The outcome."""


class DestinationDocument(Strict):
    """A destination in the output of `publish --json`."""

    to: str
    where: str
    done: bool
    changes: bool
    transferred: int
    pages: tuple[str, ...]
    wheels: tuple[IndexedFile, ...]
    repositories: tuple[RepositoryDocument, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSummary:
    """What was changed, or would be, at one destination."""

    name: str
    where: str
    done: bool
    """Whether the changes were made, and not only looked at."""
    diffs: tuple[RepositoryDiff, ...] = ()
    transferred: int = 0
    """Number of files that were written."""
    pages: tuple[str, ...] = ()
    """Files of the root that were written."""
    wheels: tuple[tuple[str, str], ...] = ()
    """Name and outcome of each file, at an index."""

    @property
    def changes(self) -> bool:
        """Whether anything changes."""
        return any(not diff.nothing for diff in self.diffs) or any(what != SAME for _, what in self.wheels)

    def lines(self) -> list[str]:
        """Return the summary for people."""
        lines = [f"{self.name} ({self.where})"]
        for diff in self.diffs:
            lines += [f"  {line}" for line in _diff_lines(diff)]
        lines += [f"  {what:<12} {name}" for name, what in self.wheels]
        if self.done and not self.changes:
            lines.append("  everything is there already: nothing was uploaded")
            if self.pages:
                lines.append(f"  written again: {', '.join(self.pages)}")
        elif self.done and self.diffs:
            lines.append(f"  done: {self.transferred} files were written; see {self.where.rstrip('/')}/{INDEX}")
        return lines

    def document(self) -> DestinationDocument:
        """Return the summary for scripts."""
        return DestinationDocument(
            to=self.name,
            where=self.where,
            done=self.done,
            changes=self.changes,
            transferred=self.transferred,
            pages=self.pages,
            wheels=tuple(IndexedFile(name=name, what=what) for name, what in self.wheels),
            repositories=tuple(map(_repository_document, self.diffs)),
        )


def _repository_document(diff: RepositoryDiff) -> RepositoryDocument:
    return RepositoryDocument(
        path=diff.place,
        generation=diff.before.current.number if diff.before else 0,
        next=None if diff.nothing else diff.number,
        restores=diff.restores.number if diff.restores else None,
        added=tuple(put.artifact.path for put in diff.placed),
        same=tuple(artifact.path for artifact in diff.same),
        listed_again=tuple(artifact.path for artifact in diff.relisted),
        not_listed_any_more=tuple(artifact.path for artifact in diff.unlisted),
    )


def _diff_lines(diff: RepositoryDiff) -> list[str]:
    """Return a heading with the generations, and a line for each package that comes or goes."""
    now = diff.before.current.number if diff.before else 0
    if diff.nothing:
        return [f"{diff.place}: generation {now}, {count(len(diff.same), 'package')} there already"]
    why = f" (the contents of {diff.restores.number} again)" if diff.restores else ""
    lines = [f"{diff.place}: generation {now or 'none'} → {diff.number}{why}"]
    lines += [f"  + {put.artifact.path} ({size(put.artifact.bytes)})" for put in diff.placed]
    lines += [f"  + {artifact.path}, which is stored there still" for artifact in diff.relisted]
    lines += [f"  - {artifact.path}" for artifact in diff.unlisted]
    if diff.same:
        lines.append(f"  = {count(len(diff.same), 'package')} there already")
    if diff.redated:
        lines.append("  ~ the metadata gets new dates: clients refuse it, or would soon")
    if diff.resigned:
        lines.append("  ~ the metadata is signed by another key than before")
    return lines
