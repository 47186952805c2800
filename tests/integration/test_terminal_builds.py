"""Whole builds on a pseudo-terminal, and their events: what is seen, Ctrl-C, and the lines that reproduce a failure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from terminals import Terminal

if TYPE_CHECKING:
    from conftest import Engine, Project

    from .conftest import Shop

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
GROUP = "debian12-sandybridge-none"
HALF = "echo '[ 42%] Building C object tiny.o'"
TERMINAL = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def tiny(shop: Shop, ready: Project) -> Project:
    """A project with images and source of the finished build; a test shrinks it."""
    shop.take(ready, "source")
    return ready


def _argv(project: Project, *words: str) -> list[str]:
    return [sys.executable, "-m", "pikaforge", *map(str, project.arguments("build", *words))]


def _events(text: str) -> list[dict[str, Any]]:
    """The events of a run, each by the schema."""
    import jsonschema  # its formats take four seconds to import

    check = jsonschema.Draft202012Validator(json.loads((ROOT / "events.schema.json").read_text(encoding="utf-8")))
    found: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for event in found:
        check.validate(event)
    return found


def test_a_whole_build_and_ctrl_c(tiny: Project, shrink: Callable[..., None], engine: Engine) -> None:
    """The compilation waits for Ctrl-C in the first run, and ends in the second, which goes on where the first was."""
    env = tiny.tool.environment(TERMINAL)
    shrink(tiny, prologue=f"{HALF}; sleep 600")
    with Terminal(columns=100) as terminal:
        with terminal.running(_argv(tiny, "R620"), env, cwd=tiny.folder) as child:
            rows = terminal.until(lambda rows: any(row.startswith("  compile") and " 42%" in row for row in rows))
            assert re.fullmatch(r"\d+/\d+ \(\d+ % cached\), 1 running, \d+:\d\d.*", [row for row in rows if row][-1])
            terminal.write("\x03")
            terminal.ended(child)
        rows = [row for row in terminal.rows() if row]
        assert child.returncode == 130, rows
        assert not [row for row in rows if "42%" in row or "░" in row], "the board is gone"
        text = "".join(row.ljust(100) for row in rows)
        kept = re.search(r"stopped: (\d+) of (\d+) results kept", text)
        assert kept is not None and int(kept[1]) >= 2
        assert "to go on: env" in text and "error: interrupted; what was running is removed" in text
        assert engine.containers(child.pid) == []
    shrink(tiny)
    with Terminal(columns=100) as terminal:
        with terminal.running(_argv(tiny, "R620"), env, cwd=tiny.folder) as child:
            terminal.ended(child)
        rows = [row for row in terminal.rows() if row]
        assert child.returncode == 0, rows
        assert re.match(r"1 cell, 1 compilation: \d+ nodes, \d+ of them stored", next(r for r in rows if "cell" in r))
        assert "= source   v3.4.0 is up to date" in rows
        assert [row for row in rows if re.fullmatch(rf"✓ compile  {GROUP} done in \d+\.\d s", row)]
        (line,) = [row for row in rows if "R620.tar.gz" in row]
        assert re.search(r" [KM]iB  +\d+\.\d  +built  +[0-9a-f]{12}$", line)


def test_a_terminal_that_goes_away(tiny: Project, shrink: Callable[..., None], engine: Engine) -> None:
    """As when an ssh session ends: nothing of the run stays."""
    shrink(tiny, prologue=f"{HALF}; sleep 600")
    terminal = Terminal(columns=100)
    with terminal.running(_argv(tiny, "R620"), tiny.tool.environment(TERMINAL), cwd=tiny.folder, hangup=True) as child:
        terminal.until(lambda rows: any(" 42%" in row for row in rows))
        terminal.__exit__()
        assert child.wait(120) == 129
    assert engine.containers(child.pid) == []
    assert tiny.half_done() == []


def test_the_events_of_a_build_that_fails_and_the_lines_that_reproduce_it(
    tiny: Project, shrink: Callable[..., None], tmp_path: Path
) -> None:
    shrink(tiny, prologue=f"{HALF}; echo 'tiny.c:3:1: error: no such thing'; exit 1")
    done = tiny.tool(*tiny.arguments("build", "R620", "--json"), check=4)
    events = _events(done.stdout)
    assert [e["event"] for e in events if e["event"] in ("opened", "closed")] == ["opened", "closed"]
    (bad,) = [e for e in events if e["event"] == "ended" and e["status"] == "failed"]
    assert bad["error"]["reasons"] == ["tiny.c:3:1: error: no such thing"]
    assert Path(bad["log"]).is_file()
    lines = tiny.matrix.read_text(encoding="utf-8").splitlines()
    assert (bad["error"]["file"], lines[bad["error"]["line"] - 1].strip()) == (str(tiny.matrix), "R620:")
    (line,) = bad["reproduce"]
    again = subprocess.run(["sh", "-c", line], cwd="/", capture_output=True, text=True, check=False)
    assert again.returncode == 4, again.stderr
    assert "source   v3.4.0 is up to date" in again.stdout, "only what failed is run again"
    assert "  reason: tiny.c:3:1: error: no such thing" in again.stdout
    assert f"    {line}" in again.stdout.splitlines()
    shrink(tiny)
    events = _events(tiny.tool(*tiny.arguments("build", "R620", "--json"), check=0).stdout)
    assert {e["event"] for e in events} >= {"opened", "started", "ended", "cell", "artifact", "closed"}
    assert [e["made"] for e in events if e["event"] == "artifact"][:1] == ["built"]
    assert [(e["exit_status"], e["built"], e["failed"]) for e in events if e["event"] == "closed"] == [(0, 1, 0)]
    quiet = tiny.tool(*tiny.arguments("build", "R620", "--quiet"), check=0)
    assert quiet.stdout == ""


def test_an_error_before_the_run_is_an_event_and_an_exit_status(tiny: Project) -> None:
    done = tiny.tool(*tiny.arguments("build", "R99", "--json"), check=2)
    (event,) = _events(done.stdout)
    assert (event["event"], event["error"]["exit_status"]) == ("failed", 2)
    assert "R99" in event["error"]["message"] and "R99" in done.stderr
