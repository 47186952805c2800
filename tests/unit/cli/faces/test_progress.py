"""Progress of builds, expected times, and rows of the board by a clock that stands still."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from run_events import GROUP, ended, opened, progressed, started
from unit.helpers import make_spec, the_cell

from pikaforge.cli.faces.board_rows import BoardState, elapsed, rows
from pikaforge.cli.faces.build_progress import BLOCK, FollowedLog, progress_in
from pikaforge.cli.faces.events import RunStopping
from pikaforge.cli.faces.terminal import DRAWN, PLAIN, signs_for
from pikaforge.host.text import cut, width, writable
from pikaforge.pipeline.expected import EarlierTimes, run_seconds
from pikaforge.plan.budget import BESIDE, Budget
from pikaforge.plan.plan import expand


@pytest.mark.parametrize(
    ("text", "said", "fraction"),
    [
        ("[ 42%] Building CXX object a.o\n", "42%", 0.42),
        ("[  7%] a\n[100%] Built target b\n", "100%", 1.0),
        ("[12/80] c++ a.cc\n", "12/80", 0.15),
        ("Step 3/9 : RUN x\n", "3/9", 1 / 3),
        ("#12 [build 2/4] RUN y\n", "2/4", 0.5),
        ("[ 10%] a\n[2/4] b\n", "2/4", 0.5),
    ],
)
def test_what_a_build_prints_of_its_progress(text: str, said: str, fraction: float) -> None:
    found = progress_in(text)
    assert found is not None
    assert found.text == said
    assert found.fraction == pytest.approx(fraction)


@pytest.mark.parametrize("text", ["", "[142%] x", "[9/3] x", "[1/0] x", "a [ 42%]", "ratio 3/9", "[ x%]"])
def test_what_is_no_progress(text: str) -> None:
    assert progress_in(text) is None


def test_a_log_is_followed_from_where_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = FollowedLog(path=path)
    assert log.look() is None, "it is not there yet"
    path.write_text("[ 10%] a\n[ 2")
    assert (found := log.look()) is not None and found.text == "10%"
    assert log.look() is None
    with path.open("a") as stream:
        stream.write("0%] b\n")
    assert (found := log.look()) is not None and found.text == "20%", "a line that was cut is read whole"
    with path.open("a") as stream:
        stream.write("x" * 2 * BLOCK + "\n[ 30%] c\n")
    assert (found := log.look()) is not None and found.text == "30%"
    path.write_text("[ 1%] anew\n")
    assert (found := log.look()) is not None and found.text == "1%"


def _plan() -> Any:
    spec = make_spec()
    return expand(spec, [the_cell(spec, "R620-debian12-none"), the_cell(spec, "R640-debian12-none")])


def test_a_run_takes_as_long_as_its_longest_way() -> None:
    """What is stored takes no time; a median stands for what is new. On one core, compilations are made in turn."""
    plan = _plan()
    (first, second) = [node for node in plan.nodes if node.stage == "compile"]
    cached = {node.id for node in plan.nodes if node.stage in ("image", "source")}
    stages = dict.fromkeys(("audit", "smoke", "package"), 1.0)
    times = EarlierTimes(nodes={("compile", first.label): 100.0}, stages={**stages, "compile": 60.0})
    assert times.expected(second) == 60.0
    budget = Budget(cores=1, beside=BESIDE)
    seconds, unknown = run_seconds(plan, cached, times, budget)
    assert unknown == 0
    assert seconds == pytest.approx(162.0, abs=1.0)
    assert run_seconds(plan, {node.id for node in plan.nodes}, times, budget) == (0.0, 0)
    nothing = EarlierTimes(nodes={}, stages={})
    assert run_seconds(plan, cached, nothing, budget) == (None, len(plan.nodes) - len(cached))
    seconds, unknown = run_seconds(plan, cached, EarlierTimes(nodes={}, stages={"compile": 60.0}), budget)
    assert (seconds, unknown) == (120.0, len(plan.nodes) - len(cached) - 2)


def test_an_expected_time_follows_the_cores_that_a_compilation_gets() -> None:
    plan = _plan()
    (first, second) = [node for node in plan.nodes if node.stage == "compile"]
    names = [("compile", first.label), ("compile", second.label)]
    times = EarlierTimes(nodes=dict.fromkeys(names, 60.0), stages={}, jobs=dict.fromkeys(names, 2))
    cached = {node.id for node in plan.nodes if node.stage != "compile"}
    found = {cores: run_seconds(plan, cached, times, Budget(cores=cores))[0] for cores in (1, 2, 4, 8)}
    assert found == {1: 240.0, 2: 120.0, 4: 60.0, 8: 30.0}


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(os, "environ", {**os.environ, "TZ": "UTC"})
    return Clock()


def _state(clock: Clock) -> BoardState:
    return BoardState(clock=clock, wall=clock)


def _texts(state: BoardState, columns: int = 80) -> list[str]:
    return [row.text for row in rows(state, columns, PLAIN)]


def test_a_node_without_progress_is_shown_by_its_last_time(clock: Clock) -> None:
    state = _state(clock)
    state.take(opened())
    state.take(started("compile", GROUP, 200.0))
    clock.now = 50.0
    end = time.strftime("%H:%M:%S", time.localtime(200))
    assert _texts(state)[0] == f"  compile  {GROUP}  ###......... ~25%  0:50 end {end}"
    clock.now = 500.0
    assert _texts(state)[0] == f"  compile  {GROUP}  ###########. ~99%  8:20", "it takes longer than last time"


def test_a_node_that_was_never_run_ends_when_its_own_progress_says(clock: Clock) -> None:
    state = _state(clock)
    state.take(started("compile", GROUP))
    clock.now = 30.0
    assert _texts(state) == [f"  compile  {GROUP}  ............       0:30", "1 running"]
    state.take(progressed(f"compile:{GROUP}", 25))
    end = time.strftime("%H:%M:%S", time.localtime(120))
    assert _texts(state)[0] == f"  compile  {GROUP}  ###.........  25%  0:30 end {end}"


@pytest.mark.parametrize(
    ("lines", "shown", "more"), [(0, 9, 0), (24, 9, 0), (11, 9, 0), (10, 7, 2), (4, 1, 8), (1, 1, 8)]
)
def test_a_board_is_no_higher_than_its_terminal(lines: int, shown: int, more: int, clock: Clock) -> None:
    state = _state(clock)
    for number in range(9):
        state.take(started("compile", f"c{number}"))
    found = [row.text for row in rows(state, 80, PLAIN, lines)]
    assert [text.split()[1] for text in found[:shown]] == [f"c{number}" for number in range(shown)], "the oldest first"
    assert found[shown:] == [*([f"  and {more} more"] if more else []), "9 running"]


def test_totals(clock: Clock) -> None:
    state = _state(clock)
    state.take(opened(nodes=46, expected_seconds=None))
    for number in range(12):
        state.take(ended("image", str(number), "cached" if number < 11 else "failed"))
    assert _texts(state) == ["12/46 (23 % cached), 1 failed, 0 running, 0:00"]
    assert [row.style for row in rows(state, 80, DRAWN)] == ["trouble"]
    state.take(RunStopping(time="x"))
    assert _texts(state) == ["stopping: what runs is being removed"]
    state.take(opened())
    assert (state.ended, state.failed) == (0, 0), "a part that was run before is not counted"


@pytest.mark.parametrize("columns", [1, 2, 10, 20, 30, 40, 54, 55, 60, 70, 71, 80, 120, 200])
def test_no_row_is_wider_than_the_terminal(columns: int, clock: Clock) -> None:
    state = _state(clock)
    state.take(opened())
    state.take(started("compile", "模型" * 40, 10.0))
    state.take(started("image", "x\x1b[2Jy"))
    for text in _texts(state, columns):
        assert width(text) < max(2, columns)
        assert text.isprintable()


def test_times() -> None:
    assert [elapsed(s) for s in (-1.0, 7.9, 723.0, 3723.0)] == ["0:00", "0:07", "12:03", "1:02:03"]


def test_width_and_cut() -> None:
    assert [width(text) for text in ("abc", "模型", "e\u0301", "\uff48")] == [3, 4, 1, 2]
    assert cut("short", 5) == "short"
    assert cut("0123456789", 5) == "01~89"
    assert cut("模型模型", 5) == "模~型"
    assert [cut("0123", n) for n in (0, 1, 2)] == ["", "~", "0~"]
    assert writable("模a", "ascii") == "\\u6a21a"
    assert writable("模a", "gbk") == "模a"


def test_signs_are_those_of_the_locale() -> None:
    assert signs_for("utf-8", {"LANG": "en_US.UTF-8"}) is DRAWN
    assert signs_for("utf-8", {"LANG": "en_US.UTF-8", "LC_ALL": "zh_CN.UTF-8"}) is PLAIN
    assert signs_for("ascii", {"LANG": "C"}) is PLAIN
