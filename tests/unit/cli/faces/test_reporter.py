"""From what a run does to events: the reporter, the lines that reproduce, and places in the configuration."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_events import TIME
from unit.helpers import make_spec, the_cell

from pikaforge.cli.arguments import parser
from pikaforge.cli.faces import reproduce
from pikaforge.cli.faces.events import NodeEnded, NodeProgressed, RunEvent, RunFailed, RunInterrupted, RunOpened
from pikaforge.cli.faces.places import ConfigPlaces
from pikaforge.cli.faces.reporter import Reporter, failure_text
from pikaforge.cli.faces.reproduce import exact_lines
from pikaforge.cli.signals import SignalInterrupt
from pikaforge.errors import ConfigError, HostError, StageError, StageFailure
from pikaforge.pipeline.expected import EarlierTimes
from pikaforge.pipeline.outcomes import NodeOutcome
from pikaforge.pipeline.source.facts import PatchFacts, SeriesFacts
from pikaforge.plan.plan import Node, Plan, expand


class Seen:
    """A face that keeps what it gets."""

    live = True

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.closed = 0

    def take(self, event: RunEvent) -> None:
        self.events.append(event)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class Gone(Seen):
    """A face whose terminal is gone."""

    def take(self, event: RunEvent) -> None:
        raise OSError(5, "Input/output error")

    def close(self) -> None:
        super().close()
        raise OSError(5, "Input/output error")


SPEC = make_spec()
PLAN = expand(SPEC, [the_cell(SPEC, "R620-debian12-none")])


def _node(stage: str) -> Node:
    return next(node for node in PLAN.nodes if node.stage == stage)


def _failed(node: Node, **more: Any) -> NodeOutcome:
    error = StageError("the build failed", StageFailure(stage=node.stage, label=node.label, findings=("x",), **more))
    return NodeOutcome(node=node, status="failed", seconds=1.0, error=error)


def _reporter(seen: Seen, **more: Any) -> Reporter:
    return Reporter(seen, now=lambda: TIME, every=600.0, **more)


def test_a_log_is_watched_from_its_beginning_to_the_end_of_its_node(tmp_path: Path) -> None:
    seen, log = Seen(), tmp_path / "compile.log"
    node = _node("compile")
    with _reporter(seen, again=lambda cell="": (f"build {cell}",)) as reporter:
        reporter.opened(SPEC.product, PLAN, [], EarlierTimes(nodes={}, stages={"compile": 7.0}), ["--locked"])
        reporter.started(node)
        reporter.log_begun(node.label, "compile", log)
        reporter.log_begun("another", "compile", tmp_path / "other.log")
        log.write_text("[ 42%] a\n", encoding="utf-8")
        reporter.look()
        reporter.look()
        reporter.ended(_failed(node))
        log.write_text("[ 43%] a\n", encoding="utf-8")
        reporter.look()
    opened, started, *rest = seen.events
    assert isinstance(opened, RunOpened) and opened.options == ("--locked",)
    assert started.model_dump()["expected_seconds"] == 7.0
    (progress, end) = rest
    assert isinstance(progress, NodeProgressed) and (progress.node, progress.text) == (node.id, "42%")
    assert isinstance(end, NodeEnded) and (end.log, end.reproduce) == (str(log), ("build R620-debian12-none",))
    assert end.error is not None and end.error.reasons == ("x",)
    assert seen.closed == 1


def test_a_stage_may_have_several_logs(tmp_path: Path) -> None:
    seen, node = Seen(), _node("smoke")
    with _reporter(seen) as reporter:
        reporter.started(node)
        reporter.log_begun(node.label, "smoke-native", tmp_path / "a.log")
        reporter.log_begun(node.label, "smokey", tmp_path / "b.log")
        reporter.ended(NodeOutcome(node=node, status="done"))
    assert [event.log for event in seen.events if isinstance(event, NodeEnded)] == [str(tmp_path / "a.log")]


def test_an_interrupt_says_what_is_kept_and_goes_on() -> None:
    seen = Seen()
    with pytest.raises(SignalInterrupt), _reporter(seen, again=lambda cell="": (f"again {cell}",)) as reporter:
        reporter.opened(SPEC.product, PLAN, [], EarlierTimes(nodes={}, stages={}))
        reporter.ended(NodeOutcome(node=_node("source"), status="failed"))
        raise SignalInterrupt(15)
    last = seen.events[-1]
    assert isinstance(last, RunInterrupted)
    assert (last.exit_status, last.kept, last.nodes, last.next) == (143, 0, len(PLAN.nodes), ("again ",))
    assert seen.closed == 1


def test_an_error_that_ends_the_run_is_an_event() -> None:
    seen = Seen()
    with pytest.raises(HostError), _reporter(seen):
        raise HostError("no engine", where="docker", hint="start it\nor another")
    (event,) = seen.events
    assert isinstance(event, RunFailed)
    assert event.error == failure_text(HostError("no engine", where="docker", hint="start it\nor another"))
    assert (event.error.exit_status, event.error.hints) == (3, ("start it", "or another"))


@pytest.mark.parametrize("error", [SignalInterrupt(15), HostError("x"), OSError(32, "Broken pipe")])
def test_a_terminal_that_is_gone_does_not_hide_why_a_run_ends(error: BaseException) -> None:
    seen = Gone()
    with pytest.raises(type(error)) as caught, _reporter(seen, again=lambda cell="": ()) as reporter:
        reporter.stopping()
        raise error
    assert caught.value is error
    assert seen.closed == 1


def test_a_part_of_another_verb_says_nothing_of_an_interrupt() -> None:
    seen = Seen()
    with pytest.raises(KeyboardInterrupt), _reporter(seen):
        raise KeyboardInterrupt
    assert seen.events == []


# ---- the lines that reproduce


def _parsed(*words: str) -> argparse.Namespace:
    return parser().parse_args(list(words))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reproduce, "cwd", lambda: tmp_path)
    return tmp_path


def test_the_line_calls_this_python_from_any_folder(here: Path) -> None:
    (here / "a clone").mkdir()
    given = _parsed("build", "R620", "--source", "a clone#v1", "--out", "o ut", "--locked", "--formats", "tar,rpm")
    (line,) = exact_lines(given, "R620-el7-none", home=Path("/home/x y"), environ={"DOCKER_HOST": "ssh://a@b"})
    assert shlex.split(line) == [
        *("env", "DOCKER_HOST=ssh://a@b", "PYTHONPATH=/home/x y/build", sys.executable, "-m", "pikaforge", "build"),
        *("R620-el7-none", "--out", f"{here}/o ut", "--source", f"{here}/a clone#v1", "--formats", "tar,rpm"),
        "--locked",
    ]


def test_the_line_calls_nox_if_nox_was_called(here: Path) -> None:
    nox = ("nox", "-f", f"{here}/noxfile.py", "-s")
    environ = {"PIKAFORGE_CWD": str(here)}
    (line,) = exact_lines(_parsed("build", "all", "--os", "el7"), home=here, environ=environ)
    assert shlex.split(line) == [*nox, "build", "--", "all", "--os", "el7"]
    (line,) = exact_lines(_parsed("sweep", "--slice", "1/4", "--to", "docs"), home=here, environ=environ)
    assert shlex.split(line) == [*nox, "sweep", "--", "--slice", "1/4", "--to", f"{here}/docs"]
    (here / ".venv/bin").mkdir(parents=True)
    (here / ".venv/bin/nox").touch()
    (line,) = exact_lines(_parsed("build", "all"), home=here, environ=environ)
    assert shlex.split(line)[0] == f"{here}/.venv/bin/nox"


@pytest.mark.parametrize(
    "source",
    [
        "https://user:hunter2@example.org/x.git",
        "https://hunter2@example.org/x.git#v1",
        "https://example.org/x.git?token=hunter2",
        "https://user:hunt#er2@example.org/x.git",
        "user:hunter2@example.org:x.git",
    ],
)
def test_no_line_repeats_what_may_be_a_secret(source: str, here: Path) -> None:
    given = _parsed("build", "R620", "--source", source)
    assert exact_lines(given, "R620-el7-none", home=here, environ={}) == ()
    (line,) = exact_lines(_parsed("build", "R620"), home=here, environ={"DOCKER_HOST": source})
    assert "hunter2" not in line and "DOCKER_HOST" not in line


def test_a_shell_takes_every_word_as_it_was(here: Path) -> None:
    (line,) = exact_lines(_parsed("build", "$(x)'`;", "--source", "sample#a b"), home=here, environ={})
    assert shlex.split(line)[-3:] == ["$(x)'`;", "--source", "sample#a b"]


# ---- places in the configuration

MATRIX = """\
product:
  name: x
defaults:
  image: debian12
images:
  debian12:
    base: x
hardware:
  R610: {}
  R620: {}
allocators:
  none: {}
"""


@pytest.mark.parametrize(("stage", "line"), [("image", 6), ("source", 1), ("compile", 10), ("smoke", 10)])
def test_a_failure_is_on_the_line_of_its_entry(stage: str, line: int, tmp_path: Path) -> None:
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(MATRIX, encoding="utf-8")
    node = next(n for n in PLAN.nodes if n.stage == stage and n.label not in ("tools", "emulator"))
    assert ConfigPlaces(matrix=matrix, series=lambda: None).of(_failed(node)) == (matrix, line)
    matrix.write_text("a: [", encoding="utf-8")
    assert ConfigPlaces(matrix=matrix, series=lambda: None).of(_failed(node)) is None


def test_a_conflict_is_on_the_line_of_its_patch(tmp_path: Path) -> None:
    series = tmp_path / "series.yaml"
    entries = [{"pull": 1, "url": "https://example.org/1.patch"}, {"file": "fix.patch"}]
    series.write_text(yaml.safe_dump({"patches": entries}), encoding="utf-8")
    facts = SeriesFacts(
        patches=(
            PatchFacts(name="pull-1", sha256="a", state="applied"),
            PatchFacts(name="file fix.patch", sha256="b", state="conflict"),
        )
    )
    outcome = _failed(_node("source"), facts=facts)
    assert ConfigPlaces(matrix=tmp_path / "matrix.yaml", series=lambda: series).of(outcome) == (series, 4)

    def unreadable() -> Path:
        raise ConfigError("x")

    assert ConfigPlaces(matrix=tmp_path / "matrix.yaml", series=unreadable).of(outcome) is None


def test_the_opening_counts_what_is_stored() -> None:
    seen = Seen()
    with _reporter(seen) as reporter:
        reporter.opened(SPEC.product, Plan(cells=PLAN.cells, nodes=PLAN.nodes), [], EarlierTimes(nodes={}, stages={}))
    (event,) = seen.events
    assert isinstance(event, RunOpened)
    assert (event.nodes, event.cached, event.compilations, event.expected_seconds) == (len(PLAN.nodes), 0, 1, None)
    assert event.unknown == len(PLAN.nodes)
