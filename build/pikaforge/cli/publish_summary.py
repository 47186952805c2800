"""What is said of a publication, or of what it would do: for people, and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pikaforge.cli import output
from pikaforge.publish.diff import RepositoryDiff
from pikaforge.publish.root_files import INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSummary:
    """What is to be said of one destination."""

    name: str
    where: str
    done: bool
    outlines: tuple[RepositoryDiff, ...] = ()
    transferred: int = 0
    pages: tuple[str, ...] = ()
    wheels: tuple[tuple[str, str], ...] = ()
    """Name and what became of it, for an index."""

    @property
    def changes(self) -> bool:
        """Whether there is something to do, or was."""
        return any(not each.nothing for each in self.outlines) or any(what != "same" for _, what in self.wheels)

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.name} ({self.where})"]
        for each in self.outlines:
            lines += [f"  {line}" for line in _outline_lines(each)]
        lines += [f"  {what:<12} {name}" for name, what in self.wheels]
        if self.done and not self.changes:
            lines.append("  everything is there already: nothing was uploaded")
            if self.pages:
                lines.append(f"  written anew: {', '.join(self.pages)}")
        elif self.done and self.outlines:
            lines.append(f"  done: {self.transferred} files were written; see {self.where.rstrip('/')}/{INDEX}")
        return lines

    def facts(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "to": self.name,
            "where": self.where,
            "done": self.done,
            "changes": self.changes,
            "transferred": self.transferred,
            "pages": list(self.pages),
            "wheels": [{"name": name, "what": what} for name, what in self.wheels],
            "repositories": [
                {
                    "path": each.place,
                    "generation": each.before.current.number if each.before else 0,
                    "next": each.number if not each.nothing else None,
                    "restores": each.restores.number if each.restores else None,
                    "added": [put.artifact.path for put in each.placed],
                    "same": [artifact.path for artifact in each.same],
                    "listed_again": [artifact.path for artifact in each.relisted],
                    "not_listed_any_more": [artifact.path for artifact in each.unlisted],
                }
                for each in self.outlines
            ],
        }


def _outline_lines(of: RepositoryDiff) -> list[str]:
    now = of.before.current.number if of.before else 0
    if of.nothing:
        return [f"{of.place}: generation {now}, {count(len(of.same), 'package')} there already"]
    why = f" (again what {of.restores.number} was)" if of.restores else ""
    lines = [f"{of.place}: generation {now or 'none'} → {of.number}{why}"]
    lines += [f"  + {put.artifact.path} ({output.size(put.artifact.bytes)})" for put in of.placed]
    lines += [f"  + {artifact.path}, which is there still" for artifact in of.relisted]
    lines += [f"  - {artifact.path}" for artifact in of.unlisted]
    if of.same:
        lines.append(f"  = {count(len(of.same), 'package')} there already")
    if of.resigned:
        lines.append("  ~ the metadata is signed by another key than before")
    return lines


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
