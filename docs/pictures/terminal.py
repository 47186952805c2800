"""Draws pictures of the terminal: a run is replayed on a pseudo-terminal, and its screen becomes an SVG and a PNG.

    python docs/pictures/terminal.py [DIR]      # terminal-80.svg, terminal-120.svg, ...; .png where there is a Chromium

It needs pyte (the extra `tests`). `screens` and `svg` are for other scripts.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build"), str(ROOT / "tests")]

from pyte.screens import Char  # noqa: E402
from run_events import (  # noqa: E402
    CELLS,
    GROUP,
    artifact,
    cell,
    closed,
    ended,
    failed,
    opened,
    progressed,
    started,
)
from terminals import Terminal  # noqa: E402

WIDTHS = (80, 120)
FONT, LETTER, LINE, EDGE = 14, 8.43, 19, 14
"""Size of letters, width of one, height of a line, and the space around them, in pixels."""
BACK, FRONT = "#1b1e24", "#d5d8de"
COLOURS: Mapping[str, str] = {
    "default": FRONT,
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
}
"""By pyte's names; brown is yellow."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A screen that is to be drawn."""

    name: str
    rows: list[list[Char]]
    columns: int


def screens(columns: int) -> Iterator[Picture]:
    """Yield the screens of a run on a terminal of a width: in its middle, after a failure, and at its end."""
    with Terminal(columns=columns, lines=44) as terminal, terminal.replay("board") as run:
        run.take(opened(), ended("source", "v3.4.0", "cached"), ended("image", "debian12", "done", 31.0))
        run.take(started("compile", GROUP, 150.0), started("image", "debian13", 48.0), started("image", "el9"))
        run.clock(63.0)
        run.take(progressed(f"compile:{GROUP}", 42))
        terminal.until(lambda rows: any("42%" in row for row in rows))
        yield _picture(f"terminal-{columns}", terminal, columns)
        run.take(failed(), ended("smoke", GROUP, "blocked", blocked_by=f"compile:{GROUP}"))
        terminal.until(lambda rows: any("1 failed" in row for row in rows))
        yield _picture(f"terminal-failure-{columns}", terminal, columns)
    with Terminal(columns=columns, lines=44) as terminal:
        with terminal.replay("board") as run:
            run.take(opened(), ended("source", "v3.4.0", "cached"), started("compile", GROUP, 150.0))
            run.take(ended("compile", GROUP, "done", 93.4), ended("package", CELLS[0], "done", 4.2))
            run.take(cell(), cell(CELLS[1]), artifact(file="dist/debian12/pika-v3.4.0-R620.tar.gz"))
            second: dict[str, Any] = {
                "file": "dist/debian12/pika-v3.4.0-R720.tar.gz",
                "seconds": 4.2,
                "made": "packed only",
            }
            run.take(artifact(CELLS[1], **second), closed())
        yield _picture(f"terminal-end-{columns}", terminal, columns)


def _picture(name: str, terminal: Terminal, columns: int) -> Picture:
    rows = [[line[column] for column in range(columns)] for line in map(terminal.screen.buffer.__getitem__, range(44))]
    while rows and not "".join(letter.data for letter in rows[-1]).strip():
        rows.pop()
    return Picture(name=name, rows=rows, columns=columns)


def svg(picture: Picture) -> str:
    """Return a screen as SVG. Each word is a text of its own, at its column."""
    wide, high = round(picture.columns * LETTER + 2 * EDGE), len(picture.rows) * LINE + 2 * EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}">',
        f'<rect width="100%" height="100%" rx="8" fill="{BACK}"/>',
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{FONT}">',
    ]
    for number, row in enumerate(picture.rows):
        for start, letters in _words(row):
            look, text = letters[0], "".join(letter.data for letter in letters)
            weight = ' font-weight="bold"' if look.bold else ""
            x, y, length = EDGE + start * LETTER, EDGE + (number + 0.75) * LINE, len(letters) * LETTER
            colour = COLOURS.get(look.fg, f"#{look.fg}")
            where = f'x="{x:.1f}" y="{y:.1f}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs"'
            parts.append(f'<text {where} fill="{colour}"{weight}>{html.escape(text)}</text>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _words(row: list[Char]) -> Iterator[tuple[int, list[Char]]]:
    """Yield the words of a row, of one look each, with the column of their first letter."""
    start = 0
    for column in range(1, len(row) + 1):
        same = column < len(row) and (row[column].fg, row[column].bold) == (row[start].fg, row[start].bold)
        if not same or (row[column].data == " ") != (row[start].data == " "):
            if row[start].data != " ":
                yield start, row[start:column]
            start = column


def png(image: Path, browser: str) -> Path:
    """Draw an SVG by a Chromium; return the PNG beside it."""
    made = image.with_suffix(".png")
    head = image.read_text(encoding="utf-8").split('"')
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", f"--window-size={head[3]},{head[5]}"),
                *(f"--screenshot={made}", image.resolve().as_uri()),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    return made


def main(folder: Path) -> list[Path]:
    """Draw all pictures into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    browser = next((found for name in BROWSERS if (found := shutil.which(name)) is not None), None)
    made = []
    for columns in WIDTHS:
        for picture in screens(columns):
            path = folder / f"{picture.name}.svg"
            path.write_text(svg(picture), encoding="utf-8")
            made += [path, *([png(path, browser)] if browser is not None else [])]
    return made


if __name__ == "__main__":
    for each in main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"):
        sys.stdout.write(f"{each}\n")
