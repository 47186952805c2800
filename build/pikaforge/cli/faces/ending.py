"""The end of a run, as all faces for people show it: verdicts, notes on them, files, and what can be done next."""

from __future__ import annotations

from dataclasses import dataclass, field

from pikaforge.cli.faces import lines
from pikaforge.cli.faces.events import ArtifactPut, CellEnded, RunClosed, RunEvent, RunNotice


@dataclass(slots=True)
class Ending:
    """What is kept until a run is closed, so that it is in one place and in one order."""

    cells: list[CellEnded] = field(default_factory=list)
    files: list[ArtifactPut] = field(default_factory=list)
    notes: list[RunNotice] = field(default_factory=list)
    """Those that come after the first verdict."""

    def keeps(self, event: RunEvent) -> bool:
        """Keep an event if it belongs to the end; return whether it does."""
        match event:
            case CellEnded():
                self.cells.append(event)
            case ArtifactPut():
                self.files.append(event)
            case RunNotice() if self.cells:
                self.notes.append(event)
            case _:
                return False
        return True

    def text(self, event: RunClosed, columns: int = 0) -> list[str]:
        """Return the lines of the end.

        Args:
            event: the end.
            columns: of the terminal, where an empty line stands before each part; 0 if the width does not matter.
        """
        verdicts = lines.verdict_table(self.cells, columns) if self.cells else []
        current = bool(self.files) and all(file.made == "up to date" for file in self.files)
        parts = [
            lines.refusals(self.cells),
            [*verdicts, *map(lines.notice, self.notes)],
            [*(["everything is up to date"] if current else []), *lines.artifacts(self.files, columns)],
            lines.closing(event),
        ]
        if not columns:
            return [line for part in parts for line in part]
        return [line for part in parts if part for line in ("", *part)]
