"""The face for GitHub Actions: a folded group with the log of each node, annotations, and the summary of the job.

Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pikaforge.cli import github, output
from pikaforge.cli.faces import lines
from pikaforge.cli.faces.blocks import Blocks
from pikaforge.cli.faces.ending import Ending
from pikaforge.cli.faces.events import FailureText, NodeEnded, RunClosed, RunEvent, RunOpened
from pikaforge.host.logs import last_lines
from pikaforge.host.text import one_line

MARKUP = re.compile(r"[\\`*_~\[\]<>|&$#!]")
"""The characters that GitHub's Markdown may take for markup. Each may have a backslash before it (GFM, 2.4)."""
LOG_LINES = 200
"""Lines of a log in a group; the whole one is in out/logs/."""
SUMMARY_LIMIT = 900_000
"""Bytes of a summary. GitHub drops one of more than 1 MiB, and other steps may add to it."""


class GithubLog(Blocks):
    """Writes blocks as on other machines, with logs in groups; it adds annotations and the summary."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        super().__init__(stream, environ)
        self._environ = environ
        self._opened: RunOpened | None = None
        self._failed: list[NodeEnded] = []

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        super().take(event)
        if isinstance(event, RunOpened):
            self._opened = event

    def _ended(self, event: NodeEnded) -> None:
        super()._ended(event)
        if event.error is not None:
            self._failed.append(event)
            self._annotate(event, event.error)
        log = Path(event.log)
        if event.log and log.is_file():
            output.write_command(
                "group", f"log of {' '.join(lines.name(event.stage, event.label).split())}", self._stream
            )
            output.write("\n".join(last_lines(log)[-LOG_LINES:]), self._stream)
            output.write_command("endgroup", "", self._stream)

    def _annotate(self, event: NodeEnded, error: FailureText) -> None:
        """Write an annotation: on the line of the configuration that has what failed, if the repository has it."""
        path = Path(error.file) if error.file else None
        root = Path(self._environ.get("GITHUB_WORKSPACE") or "/nowhere")
        inside = path is not None and path.is_relative_to(root)
        output.write_command(
            "error",
            "\n".join([error.message, *error.reasons[:3], *error.hints]),
            self._stream,
            file=str(path.relative_to(root)) if path is not None and inside else "",
            line=str(error.line) if inside else "",
            title=f"{event.stage} {event.label}",
        )

    def _closed(self, event: RunClosed) -> None:
        super()._closed(event)
        if self._opened is not None:
            github.add_summary(self._environ, summary(self._opened, self.ending, self._failed))


def summary(opened: RunOpened, ending: Ending, failed: Sequence[NodeEnded]) -> str:
    """Return the summary of a run as Markdown: the verdicts, notes, and folded: errors, options and files."""
    cells, files = ending.cells, ending.files
    parts = [f"### {plain(f'{opened.product} {opened.version}')}", "", *_table(lines.VERDICTS, lines.verdicts(cells))]
    parts += ["", *(f"- {plain(note.text)}" for note in ending.notes)] if ending.notes else []
    for event in failed:
        if event.error is not None:
            said = lines.failure(event.error, event.reproduce)
            parts += _folded(f"{event.stage} {event.label}: {event.error.message}", _code(said))
    options = [f"{cell.cell}: {' '.join(cell.flags)}" for cell in cells]
    parts += _folded("Options", _code([*opened.options, *options]))
    rows = [(f.cell, f.file, output.size(f.bytes), f"{f.seconds:.1f}", f.made, f.sha256) for f in files]
    listed = _folded(output.count(len(files), "file"), _table(lines.ARTIFACTS, rows)) if files else []
    text = "\n".join([*parts, *listed])
    return (
        text
        if len(text.encode()) <= SUMMARY_LIMIT
        else "\n".join(parts).encode()[:SUMMARY_LIMIT].decode("utf-8", "ignore")
    )


def plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is.

    Reasons hold file names, replies of servers and messages of compilers.
    """
    return MARKUP.sub(r"\\\g<0>", one_line(" ".join(text.split())))


def _table(header: Iterable[str], rows: Sequence[Iterable[str]]) -> list[str]:
    head = list(header)
    body = [[plain(word) for word in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def _folded(title: str, content: Sequence[str]) -> list[str]:
    return ["", f"<details><summary>{html.escape(one_line(title))}</summary>", "", *content, "", "</details>"]


def _code(text: Sequence[str]) -> list[str]:
    """Return lines as they are, in HTML: a fence of Markdown could be closed by one of them."""
    return ["<pre>", *(html.escape(one_line(line)) or "&#8203;" for line in text), "</pre>"] if text else ["none"]
