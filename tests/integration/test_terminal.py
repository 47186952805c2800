"""The board on a real pseudo-terminal: rows of the screen at several widths, in several locales."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from run_events import (
    CELLS,
    COMMAND,
    DIGEST,
    GROUP,
    REASON,
    artifact,
    cell,
    closed,
    ended,
    failed,
    interrupted,
    notice,
    opened,
    progressed,
    started,
)
from terminals import Replayed, Terminal

from pikaforge.host.text import width

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb[bold red]c[/]\r\x08"


def shows(text: str) -> Callable[[list[str]], bool]:
    """Whether a row has a text."""
    return lambda rows: any(text in row for row in rows)


def filled(rows: list[str]) -> list[str]:
    return [row for row in rows if row]


def begin(run: Replayed) -> None:
    """A run with one compilation at 42 %, of which something is stored already."""
    run.take(
        opened(), ended("source", "v1.0", "cached"), started("compile", GROUP, 150.0), started("image", "debian13")
    )
    run.take(ended("image", "debian12", "done", 31.0))
    run.clock(63.0)
    run.take(progressed(f"compile:{GROUP}", 42))


ABOVE = [
    "2 cells, 1 compilation: 12 nodes, 3 of them stored (25 %)",
    "expected time: about 4 min 10 s, as in earlier runs",
    "= source   v1.0 is up to date",
    "✓ image    debian12 done in 31.0 s",
]


@pytest.mark.parametrize(
    ("columns", "board"),
    [
        (
            60,
            [
                "compile  debian12-sandybridge-none   42%  1:03 end 01:49:10",
                "image    debian13                         1:03",
                "2/12 (8 % cached), 2 running, 1:03, end about 01:50:50",
            ],
        ),
        (
            80,
            [
                "  compile  debian12-sandybridge-none  █████░░░░░░░  42%  1:03 end 01:49:10",
                "  image    debian13                   ░░░░░░░░░░░░       1:03",
                "2/12 (8 % cached), 2 running, 1:03, end about 01:50:50",
            ],
        ),
        (
            120,
            [
                "  compile  debian12-sandybridge-none  █████░░░░░░░  42%  1:03 end 01:49:10",
                "  image    debian13                   ░░░░░░░░░░░░       1:03",
                "2/12 (8 % cached), 2 running, 1:03, end about 01:50:50",
            ],
        ),
    ],
)
def test_a_run_at_three_widths(columns: int, board: list[str]) -> None:
    with Terminal(columns=columns) as terminal:
        with terminal.replay("board") as run:
            begin(run)
            assert filled(terminal.until(shows("42%"))) == [*ABOVE, *board]
            run.take(failed(), ended("smoke", GROUP, "blocked", blocked_by=f"compile:{GROUP}"))
            terminal.until(shows("1 failed"))
            run.take(artifact(), artifact(CELLS[1], made="packed only"), closed())
        rows = filled(terminal.rows())
        assert rows[: len(ABOVE)] == ABOVE
        assert not [row for row in rows if "cached)" in row or "░" in row], "the board is gone"
        text = "".join(row.ljust(columns) for row in rows)
        after = text.index("FAILED after 64.0 s")
        assert after < text.index(REASON) < text.index("to reproduce it on this machine:") < text.index(COMMAND)
        assert "make: ***" not in text, "the reason is known"
        assert rows[-2:] == ["report: dist/report.html", "next: nox -s publish -- R620"]
        (line,) = [row for row in rows if "packed only" in row]
        assert ("11.8 MiB" in line, DIGEST in line) == (True, False)


def test_a_wide_terminal_has_the_whole_line_of_a_file() -> None:
    with Terminal(columns=160) as terminal:
        with terminal.replay("board") as run:
            run.take(opened(), artifact(), closed())
        assert [re.split(r"  +", row) for row in terminal.rows() if DIGEST in row] == [
            [CELLS[0], "dist/debian12/demo-v1.0-R620.tar.gz", "11.8 MiB", "93.4", "built", DIGEST]
        ]


def test_a_run_with_nothing_to_do_draws_no_board_and_does_without_rich() -> None:
    with Terminal(columns=80) as terminal:
        with terminal.replay("board", REPLAY_WITHOUT="rich") as run:
            run.take(opened(cached=12), ended("source", "v1.0", "cached"), artifact(made="up to date"), closed())
        assert shows("everything is up to date")(terminal.rows())
        assert b"\x1b[" not in terminal.raw


@pytest.mark.parametrize("face", ["blocks", "json", "quiet"])
def test_no_other_face_imports_rich(face: str) -> None:
    with Terminal(columns=80) as terminal:
        with terminal.replay(face, REPLAY_WITHOUT="rich") as run:
            begin(run)
            run.take(failed(), closed())
        assert b"\x1b" not in terminal.raw


@pytest.mark.parametrize("columns", [20, 40])
def test_a_narrow_terminal_has_no_row_that_wraps(columns: int) -> None:
    with Terminal(columns=columns) as terminal:
        with terminal.replay("board") as run:
            begin(run)
            rows = filled(terminal.until(shows("42%")))
            (node,) = [row for row in rows if "42%" in row]
            assert node.startswith("com") and "…" in node and node.endswith("1:03")
            assert rows[-1].startswith("2/12 (8 %")
            run.take(closed())
        assert not shows("42%")(terminal.rows())


def test_another_width_in_the_middle_of_a_run() -> None:
    with Terminal(columns=120) as terminal, terminal.replay("board") as run:
        begin(run)
        terminal.until(shows("42%"))
        terminal.resize(60)
        run.take(progressed(f"compile:{GROUP}", 43))
        rows = terminal.until(shows("43%"))
        assert [row for row in rows if "43%" in row] == ["compile  debian12-sandybridge-none   43%  1:03 end 01:49:10"]
        run.take(closed())


@pytest.mark.parametrize(
    ("charset", "locale"), [("ascii", "C"), ("ascii", "POSIX"), ("gbk", "zh_CN.GBK"), ("utf-8", "zh_CN.UTF-8")]
)
def test_a_locale_gets_only_what_it_can_write(charset: str, locale: str) -> None:
    """In the C locale all is ASCII; in Chinese ones no sign may be of one column or of two."""
    with Terminal(columns=80, charset=charset) as terminal:
        with terminal.replay("board", LC_ALL=locale, LANG=locale, PYTHONUTF8="0") as run:
            begin(run)
            run.take(notice("模型 debian12"))
            rows = terminal.until(shows("42%"))
            assert shows("  compile  debian12-sandybridge-none  #####.......  42%")(rows)
            run.take(closed())
        assert "\ufffd" not in "".join(terminal.rows())
        text = terminal.raw.decode(charset)
        assert "\\u6a21\\u578b debian12" in text if charset == "ascii" else "模型 debian12" in text


def test_wide_letters_are_counted_as_two_columns() -> None:
    with Terminal(columns=80) as terminal, terminal.replay("board") as run:
        run.take(opened(), started("image", "模型" * 6), started("image", "short"))
        rows = terminal.until(shows("short"))
        bars = [row for row in rows if "░░░" in row]
        assert len({width(row[: row.index("░")]) for row in bars}) == 1, bars
        run.take(closed())


def test_nothing_from_outside_reaches_the_terminal_as_it_is() -> None:
    with Terminal(columns=120) as terminal:
        with terminal.replay("board") as run:
            run.take(opened(), started("image", HOSTILE), notice(HOSTILE), ended("image", HOSTILE, "done", 1.0))
            run.take(cell(audit=HOSTILE), artifact(file=HOSTILE), closed(report=HOSTILE))
        text = terminal.raw.decode()
        assert text.count("[bold red]c[/]") >= 5, "markup of rich is text"
        assert not set("\x07\x08\x9b\u202e") & set(text)
        assert "\x1b[2J" not in text and "\x1b]" not in text
        assert shows("✓ image    a\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202eb")(terminal.rows())


def test_colours_and_no_colours() -> None:
    seen = {}
    for given in ("", "1"):
        with Terminal(columns=80) as terminal:
            with terminal.replay("board", **({"NO_COLOR": given} if given else {})) as run:
                begin(run)
                run.take(failed(), closed())
            seen[given] = set(re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw))
    assert any(b"31" in codes.split(b";") for codes in seen[""])
    assert not [codes for codes in seen["1"] for code in codes.split(b";") if code[:1] in b"34" and len(code) == 2]


def test_after_ctrl_c_it_says_what_is_kept() -> None:
    with Terminal(columns=120) as terminal:
        with terminal.replay("board") as run:
            begin(run)
            run.take(interrupted())
        assert filled(terminal.rows())[-2:] == ["stopped: 5 of 12 results kept", f"to go on: {COMMAND}"]
        assert (
            terminal.raw.endswith(b"\n") and terminal.raw.count(b"\x1b[?25l") == terminal.raw.count(b"\x1b[?25h") == 1
        )
