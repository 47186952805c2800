"""Faces off a terminal: blocks, GitHub's log, JSON lines, quiet; and which one is chosen."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_events import (
    CELLS,
    COMMAND,
    DIGEST,
    GROUP,
    REASON,
    TIME,
    artifact,
    cell,
    closed,
    ended,
    failed,
    failure,
    interrupted,
    notice,
    opened,
    progressed,
    started,
)

from pikaforge.cli.faces import events, lines
from pikaforge.cli.faces.events import EventBase, EventLine, RunFailed, RunStopping, TableShown
from pikaforge.cli.faces.face import NAMES, choose, open_face
from pikaforge.cli.output import table
from pikaforge.cli.verbs import STATUSES
from pikaforge.host.text import width

ROOT = Path(__file__).resolve().parents[4]
HOSTILE = "lib\x1b[2J\n::error::x\n##[group]\u202e\x9b%0A"


class Tty(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(face: str, *given: EventBase, **environ: str) -> list[str]:
    """The lines that a face writes."""
    stream = io.StringIO()
    opened_face = open_face(face, environ, stream)
    for event in given:
        opened_face.take(EventLine.model_validate(event.model_dump()).root)
    opened_face.close()
    return stream.getvalue().splitlines()


RUN = (
    notice("something new"),
    opened(),
    ended("source", "v1.0", "cached"),
    started("compile", GROUP, 150.0),
    progressed(f"compile:{GROUP}", 42),
    ended("image", "debian12", "done", 12.345),
    failed(),
    ended("smoke", GROUP, "blocked", blocked_by=f"compile:{GROUP}"),
    RunStopping(time=TIME),
    cell(),
    cell(CELLS[1], status="failed", package="-", reason="it was not built", command="nox -s build -- R720"),
    notice("beyond the CPU gate"),
    artifact(),
    closed(),
)


def test_blocks_have_one_line_for_each_end_and_errors_whole() -> None:
    assert shown("blocks", *RUN) == [
        "note: something new",
        "2 cells, 1 compilation: 12 nodes, 3 of them stored (25 %)",
        "expected time: about 4 min 10 s, as in earlier runs",
        "source   v1.0 is up to date",
        f"compile  {GROUP} ...",
        "image    debian12 done in 12.3 s",
        f"compile  {GROUP} FAILED after 64.0 s",
        "error: the build failed",
        f"  where: stage compile, {GROUP}",
        f"  reason: {REASON}",
        "  last lines of the log:",
        "    | make: *** [Makefile:7: table.o] Error 1",
        "  log: out/logs/compile.log",
        "  hint: see the recipe",
        "  to reproduce it on this machine:",
        f"    {COMMAND}",
        f"smoke    {GROUP} not run: it needs compile:{GROUP}",
        "1 of 2 cells built, 1 refused",
        f"  {CELLS[1]}: it was not built",
        "    to try it alone: nox -s build -- R720",
        *table(lines.VERDICTS, lines.verdicts([cell(), cell(CELLS[1], package="-")])).split("\n"),
        "note: beyond the CPU gate",
        "CELL                FILE                                 SIZE      SECONDS  MADE   SHA-256",
        f"{CELLS[0]}  dist/debian12/demo-v1.0-R620.tar.gz  11.8 MiB  93.4     built  {DIGEST}",
        "took 2 min 10 s",
        "report: dist/report.html",
        "next: nox -s publish -- R620",
    ]


@pytest.mark.parametrize(
    ("more", "second"),
    [
        ({"expected_seconds": None, "unknown": 9}, "expected time: not known, because no earlier run is recorded"),
        ({"unknown": 1}, "expected time: more than 4 min 10 s; nothing is known of 1 node"),
    ],
)
def test_the_opening_says_what_is_not_known(more: dict[str, Any], second: str) -> None:
    assert lines.opening(opened(**more))[1].startswith(second)


def test_an_opening_without_anything_to_do_expects_no_time() -> None:
    assert lines.opening(opened(cached=12)) == ["2 cells, 1 compilation: 12 nodes, 12 of them stored (100 %)"]
    assert lines.opening(opened(cached=0))[0].endswith("12 nodes, none stored")


def test_quiet_says_what_failed_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("quiet", *RUN, notice("look", level="warning"), interrupted()) == []
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0] == f"compile  {GROUP} FAILED after 64.0 s"
    assert said.err.splitlines()[-3:] == ["warning: look", "stopped: 5 of 12 results kept", f"to go on: {COMMAND}"]


def validator(schema: dict[str, Any]) -> Any:
    """What checks events by their schema."""
    from jsonschema import Draft202012Validator  # its formats take four seconds to import

    return Draft202012Validator(schema)


def test_json_has_one_event_a_line_by_the_schema() -> None:
    more = (RunFailed(time=TIME, error=failure()), TableShown(time=TIME, header=("A",), rows=(("b",),), remarks=()))
    given = (*RUN, *more, interrupted(), notice(HOSTILE))
    found = [json.loads(line) for line in shown("json", *given)]
    assert [line["event"] for line in found] == [event.model_dump()["event"] for event in given]
    assert found[-1]["text"] == HOSTILE
    schema = json.loads((ROOT / "events.schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(events.schema()))
    check = validator(schema)
    for line in found:
        check.validate(line)
    assert {line["event"] for line in found} == set(schema["discriminator"]["mapping"])
    assert not check.is_valid({**found[0], "more": 1})


def test_github_has_groups_annotations_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("cc -c a.c\n::set-env name=X::y\n", encoding="utf-8")
    bad = failed().model_copy(update={"log": str(tmp_path / "log")})
    assert bad.error is not None
    place = {"file": str(tmp_path / "matrix.yaml"), "line": 12, "message": "50% of it: no, none"}
    bad = bad.model_copy(update={"error": bad.error.model_copy(update=place)})
    summary = tmp_path / "summary"
    environ = {"GITHUB_WORKSPACE": str(tmp_path), "GITHUB_STEP_SUMMARY": str(summary)}
    found = shown("github", opened(), bad, cell(), artifact(), closed(), **environ)
    message = f"50%25 of it: no, none%0A{REASON}%0Asee the recipe"
    assert f"::error file=matrix.yaml,line=12,title=compile {GROUP}::{message}" in found
    start = found.index(f"::group::log of compile {GROUP}")
    assert found[start + 1 : start + 4] == ["cc -c a.c", ": :set-env name=X::y", "::endgroup::"]
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("### demo v1.0\n\n| CELL | TARGET |")
    assert text.count("<details>") == text.count("</details>") == 3
    assert "<summary>Options</summary>\n\n<pre>\n--source sample\n" in text
    assert "&#x27;Slot&#x27; was not declared" in text


def test_an_annotation_is_on_no_file_outside_of_the_repository() -> None:
    event = ended("image", "a,b:c", "failed", 1.0, error=failure(file="/etc/matrix.yaml", line=3))
    assert f"::error title=image a%2Cb%3Ac::the build failed%0A{REASON}%0Asee the recipe" in shown("github", event)


@pytest.mark.parametrize("face", ["blocks", "github", "quiet", "json"])
def test_nothing_from_outside_is_a_control_or_a_command(
    face: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = failure(message=HOSTILE, reasons=(HOSTILE,), hints=(HOSTILE,), lines=(HOSTILE,))
    given = (
        notice(HOSTILE),
        opened(),
        started("image", HOSTILE),
        ended("image", HOSTILE, "failed", 1.0, error=error, reproduce=(HOSTILE,), blocked_by=HOSTILE),
        cell(audit=HOSTILE),
        artifact(file=HOSTILE),
        closed(report=HOSTILE),
    )
    summary = tmp_path / "summary"
    text = "\n".join(shown(face, *given, GITHUB_STEP_SUMMARY=str(summary))) + capsys.readouterr().err
    assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    ours = ("::error title=image ", "::group::log of", "::endgroup::")
    assert not [row for row in text.splitlines() if row.lstrip().startswith("::") and not row.startswith(ours)]
    assert "##[" not in text
    if face == "github":
        assert not [letter for letter in summary.read_text() if letter != "\n" and not letter.isprintable()]


@pytest.mark.parametrize(
    ("arguments", "environ", "stream", "name"),
    [
        ({}, {"TERM": "xterm"}, Tty, "board"),
        ({}, {"TERM": "dumb"}, Tty, "blocks"),
        ({}, {}, Tty, "blocks"),
        ({}, {"TERM": "xterm"}, io.StringIO, "blocks"),
        ({}, {"TERM": "xterm", "GITHUB_ACTIONS": "true"}, io.StringIO, "github"),
        ({"quiet": True}, {"TERM": "xterm", "GITHUB_ACTIONS": "true"}, Tty, "quiet"),
        ({"json": True}, {"TERM": "xterm", "GITHUB_ACTIONS": "true"}, Tty, "json"),
    ],
)
def test_the_face_fits_the_reader(
    arguments: dict[str, bool], environ: dict[str, str], stream: Callable[[], io.StringIO], name: str
) -> None:
    assert choose(argparse.Namespace(**arguments), environ, stream()) == name
    assert name in NAMES


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 100, 120, 250])
def test_files_have_one_line_each_that_fits(columns: int) -> None:
    files = [artifact(), artifact(file="dist/debian12/模型-" + "x" * 60 + ".tar.gz", made="packed only")]
    found = lines.artifacts(files, columns)
    assert max(map(width, found)) <= columns
    assert (DIGEST in found[1]) == (columns >= 250)
    assert "FILE" in found[0]
    named = [row for row in found if ".gz" in row]
    assert len(named) == 2
    if columns < 250:
        assert found[1] == "dist/debian12/" and named[0].startswith("  demo-v1.0-R620.tar.gz")
        assert (CELLS[0] in named[0], "93.4" in named[0], "0123456789ab" in named[0]) == {
            30: (False, False, False),
            40: (False, False, False),
            60: (False, False, False),
            80: (False, True, True),
            100: (False, True, True),
            120: (False, True, True),
        }[columns]


def test_verdicts_on_a_narrow_terminal_are_paragraphs_of_cells_with_the_same() -> None:
    assert lines.verdict_table([cell(), cell(CELLS[1])], 60) == [
        ", ".join(CELLS),
        "  target: sandybridge",
        "  audit: passed",
        "  native: 9 of 9 checks passed in 2.1 s",
        "  emulated: 9 of 9 checks passed in 8.4 s",
        "  package: yes",
    ]


def test_the_page_about_the_terminal_names_all_events_faces_and_exit_statuses() -> None:
    page = (ROOT / "docs/terminal.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "events.schema.json").read_text(encoding="utf-8"))
    rows = page.partition("## Events")[2].partition("```")[0]
    assert set(re.findall(r"`(\w+)`", rows)) >= set(schema["discriminator"]["mapping"])
    assert set(NAMES) == set(re.findall(r"^\| (\w+) \|", page.partition("## The lines")[0], re.MULTILINE)) - {"face"}
    listed = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page.partition("## Exit statuses")[2], re.MULTILINE))
    assert set(listed) == set(map(str, STATUSES))
    (line,) = [line for line in page.splitlines() if line.startswith('{"time"')]
    validator(schema).validate(json.loads(line))
