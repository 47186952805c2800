"""Tables, notes, errors and progress."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pikaforge.cli import output
from pikaforge.errors import ForgeError, StageError, StageFailure


def test_a_table_has_columns_and_no_trailing_spaces() -> None:
    text = output.table(("A", "LONG"), [("wide cell", ""), ("x", "y")])
    assert text == "A          LONG\nwide cell\nx          y"
    assert output.table(("A", "B"), []) == "A  B"


@pytest.mark.parametrize(
    ("number", "what", "many", "text"),
    [
        (0, "cell", "", "0 cells"),
        (1, "cell", "", "1 cell"),
        (2, "cell", "", "2 cells"),
        (1, "library", "libraries", "1 library"),
        (2, "library", "libraries", "2 libraries"),
    ],
)
def test_numbers_with_their_nouns(number: int, what: str, many: str, text: str) -> None:
    assert output.count(number, what, many) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 KiB"), (1536, "1.5 KiB"), ((1 << 20) - 1, "1024.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 29, "2560.0 MiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


def test_paths_are_relative_where_that_is_shorter() -> None:
    assert output.readable(Path("/a/b/c"), Path("/a")) == "b/c"
    assert output.readable(Path("/a/b/c"), Path("/x")) == "/a/b/c"


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self) -> int:
            return stand_in.fileno()

    with (tmp_path / "stdout").open("w") as stand_in:
        monkeypatch.setattr(sys, "stdout", Closed())
        output.show("text")


def test_show_prints_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.show("grüße")
    shown: Any = capsys.readouterr()
    assert (shown.out, shown.err) == ("grüße\n", "")


HOSTILE = "lib\x1b[2J\n::error::x\n##[group]\u202e"


def _harmless(text: str) -> None:
    assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert "##[" not in text


def test_nothing_from_outside_controls_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Every way to print; an error of each kind, in all its fields."""
    failure = StageFailure(
        stage=HOSTILE, label=HOSTILE, command=HOSTILE, log=HOSTILE, tail=(HOSTILE,), findings=(HOSTILE,)
    )
    output.show(HOSTILE)
    output.note(HOSTILE)
    output.warn(HOSTILE)
    output.show(output.table((HOSTILE,), [(HOSTILE,)]))
    output.show_error(ForgeError(HOSTILE, where=HOSTILE, hint=HOSTILE))
    output.show_error(StageError(HOSTILE, failure, hint=HOSTILE))
    shown = capsys.readouterr()
    assert "lib\\x1b[2J" in shown.out
    _harmless(shown.out)
    _harmless(shown.err)


def test_a_name_does_not_begin_a_line_of_an_error() -> None:
    lines = "\n".join(ForgeError("no file a\nerror: another", where="b\nhint: run this").lines()).split("\n")
    assert lines == ["error: no file a", "    error: another", "  where: b", "    hint: run this"]


def test_json_for_scripts_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_json(json.dumps([HOSTILE]))
    shown = capsys.readouterr().out
    _harmless(shown)
    assert json.loads(shown) == [HOSTILE]


def test_only_two_modules_print() -> None:
    """Whatever writes to a terminal by itself passes by `printable`; the board calls that; cli/github writes files.

    A kept answer has passed by it, and is looked at once more.
    """
    root = Path(output.__file__).parents[1]
    found = set()
    for path in root.rglob("*.py"):
        name, text = path.relative_to(root).as_posix(), path.read_text()
        inside = name.startswith("cli/") and "stream.write(" in text
        if "runtime" not in path.parts and (inside or re.search(r"\bprint\(|print_exc|sys\.std(out|err)\.write", text)):
            found.add(name)
    # The reader of bundles runs before there is an environment for the others.
    assert found == {
        "cli/output.py",
        "cli/faces/board.py",
        "cli/github.py",
        "cli/unchanged/answer.py",
        "bundle/reader.py",
    }
