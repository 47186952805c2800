"""A kept answer is given again only while all that it was made of is as it was."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from unit.helpers import FakeEngine, make_workspace

from pikaforge.cli.faces.events import NodeEnded, NodeStarted, RunClosed, RunEvent, RunNotice, RunOpened
from pikaforge.cli.unchanged import again, answer, keep, request, state
from pikaforge.cli.unchanged.heard import HeardFace
from pikaforge.errors import HostError
from pikaforge.host import ended_runs, engine_socket, leftovers, watch
from pikaforge.host.run_id import RunId
from pikaforge.host.watch import Reads
from pikaforge.host.workspace import Workspace

TIME = "2026-01-01T00:00:00.000+00:00"
EVENTS: tuple[RunEvent, ...] = (
    RunNotice(time=TIME, level="warning", text="old"),
    RunOpened(
        time=TIME, product="demo", version="v1", options=(), cells=("R620-x-none",), compilations=1, nodes=1, cached=1,
        expected_seconds=0.0, unknown=0,
    ),
    NodeEnded(
        time=TIME, node="image:x", stage="image", label="x", cells=("R620-x-none",), status="cached", seconds=0.0,
        blocked_by="", log="", error=None, reproduce=(),
    ),
    RunClosed(time=TIME, exit_status=0, built=1, failed=0, seconds=7.5, report="", page="", next=()),
)  # fmt: skip


class Call:
    """A build whose answer is kept in a folder of its own."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.folder = folder
        self.out, self.dist = folder / "out", folder / "dist"
        self.input = folder / "input"
        self.missing = folder / "missing"
        self.package = self.dist / "debian12" / "package"
        self.stored = self.out / "store" / "package" / "key" / "package"
        self.argv = ["build", "R620", "--out", str(self.out)]
        for path in (self.input, self.package, self.stored):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"same" if path != self.input else b"input")
        (self.dist / ".lock").touch()
        os.utime(self.folder)
        self.workspace: Workspace = replace(make_workspace(folder, engine), out=self.out, dist=self.dist, base=folder)

    def keep(
        self,
        *,
        face: str = "blocks",
        events: tuple[RunEvent, ...] = EVENTS,
        doubts: tuple[str, ...] = (),
        after: Reads | None = None,
    ) -> str:
        """Keep the answer of a run that has looked at some files; why it is not kept."""
        seen = Reads(after)
        seen.began = time.time_ns() + 10**10  # what the fixture has written was there long before
        seen.address = "unix:///run/engine.sock"
        seen.asked = {"/info": (200, ("NCPU",), engine_socket.chosen({"NCPU": 2}, ("NCPU",)))}
        seen.doubts += doubts
        for path in (self.input, self.missing, self.package, self.stored):
            seen.read(str(path))
        return keep.keep_build(self.workspace, seen, events, face=face, argv=self.argv)

    def replay(self) -> int | None:
        """Ask for the answer again."""
        return answer.replay(self.argv, os.environ)

    @property
    def file(self) -> Path:
        """The kept answer."""
        return Path(request.path_of(self.argv, os.environ))


class Engine:
    """What answers on the engine's socket."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {"/info": (200, {"NCPU": 2, "Containers": 5})}
        self.listed: list[object] = []

    def get(self, address: str, path: str) -> tuple[int, object]:
        assert address == "unix:///run/engine.sock"
        return self.answers.get(path) or (200, self.listed)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(engine_socket, "get", engine.get)
    return engine


@pytest.fixture
def call(tmp_path: Path, fake: FakeEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Call:
    for name in request.NEVER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(leftovers, "places", lambda: (str(tmp_path / "tmp"),))
    (tmp_path / "tmp").mkdir()
    return Call(tmp_path, fake)


def test_it_is_given_as_it_was(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call.replay() is None
    assert call.keep() == ""
    assert call.replay() == 0
    out = capsys.readouterr().out
    assert out == "warning: old\n1 cell, 1 compilation: 1 node, 1 of them stored (100 %)\nimage    x is up to date\n"
    assert call.replay() == 0


def test_events_have_the_time_that_it_is_now(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call.argv.append("--json")
    assert call.keep(face="json") == ""
    assert call.replay() == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["notice", "opened", "ended", "closed"]
    assert all(event["time"] > TIME for event in events)
    assert 0 <= events[-1]["seconds"] < 7.5


def test_warnings_of_a_quiet_run_are_on_standard_error(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call.argv.append("--quiet")
    assert call.keep(face="quiet") == ""
    assert call.replay() == 0
    assert capsys.readouterr() == ("", "warning: old\n")


def _write(path: Path, data: bytes) -> int:
    return path.write_bytes(data)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Call], object]] = {
    "an input": lambda call: _write(call.input, b"another"),
    "an input is gone": lambda call: call.input.unlink(),
    "an input is a folder now": lambda call: _to_folder(call.input),
    "a file that was not there": lambda call: _write(call.missing, b""),
    "a stored result": lambda call: _write(call.stored, b"sama"),
    "a package in dist": lambda call: _write(call.package, b"sama"),
    "both alike": lambda call: [_write(path, b"sama") for path in (call.package, call.stored)],
    "a package is longer": lambda call: _write(call.package, b"same and more"),
    "a package is gone": lambda call: call.package.unlink(),
    "an input's mode": lambda call: call.input.chmod(0o755),
    "the mode of a package": lambda call: call.package.chmod(0o600),
    "a further file in dist": lambda call: _write(call.dist / "debian12" / "SHA256SUMS.asc", b""),
    "the kept answer is damaged": lambda call: _write(call.file, call.file.read_bytes().replace(b"up to", b"not to")),
    "the kept answer is cut": lambda call: _write(call.file, call.file.read_bytes()[:-9]),
    "others may write the kept answer": lambda call: call.file.chmod(0o622),
    "the kept answer is a link": lambda call: call.file.symlink_to(call.file.rename(call.folder / "elsewhere")),
    "arguments": lambda call: call.argv.append("--strict-targets"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_a_miss(call: Call, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call.keep() == ""
    CHANGES[change](call)
    assert call.replay() is None
    assert capsys.readouterr() == ("", ""), "nothing is printed before all was compared"


def test_the_same_bytes_written_anew_are_no_change(call: Call) -> None:
    assert call.keep() == ""
    for path in (call.input, call.package, call.stored):
        _write(path, path.read_bytes())
        os.utime(path, (1, 1))
    assert call.replay() == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOCKER_HOST", "tcp://elsewhere:1"),
        ("PIKAFORGE_X", "1"),
        ("PIKAFORGE_SIGNING_KEY", "key"),
        ("PIKAFORGE_OFFLINE", "1"),
        ("GITHUB_OUTPUT", "/x"),
        ("LANG", "tlh"),
        ("COLUMNS", "7"),
    ],
)
def test_another_environment_is_a_miss(call: Call, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert call.keep() == ""
    monkeypatch.setenv(name, value)
    assert call.replay() is None


def test_calls_in_two_environments_do_not_displace_each_other(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call.keep() == ""
    with monkeypatch.context() as patched:
        patched.setenv("NOX_CURRENT_SESSION", "build")
        assert call.replay() is None
        assert call.keep() == ""
        assert call.replay() == 0
    assert call.replay() == 0
    assert len(list(call.file.parent.glob("*.json"))) == 2


def test_what_nothing_reads_is_no_other_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call.keep() == ""
    monkeypatch.setenv("SHLVL", "7")
    monkeypatch.setenv("OLDPWD", "/")
    assert call.replay() == 0


def test_secrets_of_the_environment_are_not_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "geheimnis")
    assert call.keep() == ""
    assert b"geheimnis" not in call.file.read_bytes()
    assert call.file.stat().st_mode & 0o077 == 0


def test_another_day_another_user_another_cpu(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call.keep() == ""
    now, mine = time.time(), os.geteuid()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now + 86_400)
        assert call.replay() is None
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: mine + 1)
        assert call.replay() is None
    with monkeypatch.context() as patched:
        patched.setattr(state, "of_cpu", lambda: "another")
        assert call.replay() is None
    assert call.replay() == 0


def test_a_changed_module_of_the_tool_is_a_miss(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    module = call.folder / "module.py"
    module.write_text("a = 1\n")
    loaded = type(sys)("loaded")
    loaded.__file__ = str(module)
    monkeypatch.setitem(sys.modules, "loaded", loaded)
    assert call.keep() == ""
    assert call.replay() == 0
    module.write_text("a = 22\n")
    assert call.replay() is None


def test_another_engine_is_a_miss(call: Call, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "sockets", lambda _environ: [call.folder / "sock"])
    assert call.keep() == ""
    assert call.replay() == 0
    engine.answers["/info"] = (200, {"NCPU": 2, "Containers": 6})
    assert call.replay() == 0, "the number of containers is none of what counts"
    for wrong in ((200, {"NCPU": 3}), (500, None), (200, "text")):
        engine.answers["/info"] = wrong
        assert call.replay() is None
    engine.answers["/info"] = (200, {"NCPU": 2})
    assert call.replay() == 0
    with monkeypatch.context() as patched:
        patched.setattr(engine_socket, "usable", lambda _path: True)  # one that comes first has been started
        assert call.replay() is None


def test_an_engine_that_is_gone_is_a_miss(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call.keep() == ""

    def silent(*_: object) -> tuple[int, object]:
        raise engine_socket.EngineSilentError("no such socket")

    monkeypatch.setattr(engine_socket, "get", silent)
    assert call.replay() is None


@pytest.fixture
def dead() -> str:
    """A run of this machine that has ended."""
    return replace(RunId.current(), started="1").text


def test_what_killed_runs_have_left_is_a_miss(call: Call, engine: Engine, dead: str) -> None:
    assert call.keep() == ""
    places = (call.dist / f".SHA256SUMS.{dead}-x", call.out / "store" / f".new-{dead}-x", call.folder / f".a-{dead}")
    for place in places:
        place.mkdir()
        assert call.replay() is None, place
        place.rmdir()
    mark = call.folder / "tmp" / "pikaforge-sign-a.run"
    mark.write_text(dead)
    assert call.replay() is None
    mark.unlink()
    for owner, held in ((dead, None), (RunId.current().text, 0), ("0" * 16 + "-1-1", 0), ("x", 0)):
        engine.listed[:] = [{"Id": "1", "Labels": {answer.OWNER: owner}}, {"Id": "2", "Labels": None}]
        assert call.replay() == held, owner


def test_another_run_that_writes_is_waited_for(call: Call) -> None:
    assert call.keep() == ""
    with (call.dist / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call.replay() is None
    assert call.replay() == 0


def test_letters_that_control_a_terminal_are_not_printed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "_shown", lambda *_: {"stdout": "\x1b[2J\n", "stderr": ""})
    assert call.keep() == ""
    assert call.replay() is None


def _ended(status: str) -> NodeEnded:
    found = EVENTS[2]
    assert isinstance(found, NodeEnded)
    return found.model_copy(update={"status": status})


def _refused() -> Iterator[tuple[str, Callable[[Call], str]]]:
    closed = EVENTS[-1]
    assert isinstance(closed, RunClosed)
    yield "something was made", lambda call: call.keep(events=(_ended("done"), closed))
    yield "it failed", lambda call: call.keep(events=(closed.model_copy(update={"exit_status": 4}),))
    yield "it was not closed", lambda call: call.keep(events=EVENTS[:-1])
    yield "a face that writes elsewhere", lambda call: call.keep(face="github")
    yield "a program", lambda call: call.keep(doubts=("starts git",))


@pytest.mark.parametrize(("what", "kept"), list(_refused()))
def test_not_every_answer_is_kept(call: Call, what: str, kept: Callable[[Call], str]) -> None:
    assert kept(call) != "", what
    assert not call.file.exists()


def test_what_changes_during_a_run_is_not_kept(call: Call) -> None:
    seen = Reads()
    seen.address = "unix:///run/engine.sock"
    call.input.write_bytes(b"written since")
    seen.read(str(call.input))
    assert "has changed" in keep.keep_build(call.workspace, seen, EVENTS, face="blocks", argv=call.argv)
    seen = Reads()
    seen.began = time.time_ns() + 10**10
    seen.address = "unix:///run/engine.sock"
    seen.read(str(call.input))
    call.input.unlink()
    assert "has changed" in keep.keep_build(call.workspace, seen, EVENTS, face="blocks", argv=call.argv)


@pytest.fixture
def earlier(call: Call) -> Reads:
    """What the process has looked at before the run, long after it was written."""
    seen = Reads()
    seen.began = time.time_ns() + 10**10
    (call.folder / "remembered").write_text("as it was")
    seen.read(str(call.folder / "remembered"))
    seen.listed(str(call.folder / "listed"))
    return seen


def test_what_the_process_remembers_is_compared_too(call: Call, earlier: Reads) -> None:
    assert call.keep(after=earlier) == ""
    assert call.replay() == 0
    (call.folder / "remembered").write_text("as it is now")
    assert call.replay() is None
    (call.folder / "remembered").write_text("as it was")
    assert call.replay() == 0
    (call.folder / "listed").mkdir()
    assert call.replay() is None


def test_what_has_changed_since_it_was_remembered_is_not_kept(call: Call, earlier: Reads) -> None:
    earlier.began = time.time_ns()
    (call.folder / "remembered").write_text("written since")
    assert "remembered has changed" in call.keep(after=earlier)
    (call.folder / "remembered").unlink()
    assert "remembered has changed" in call.keep(after=earlier), "it is no temporary file"


def test_what_the_build_has_made_is_not_remembered(call: Call, earlier: Reads) -> None:
    earlier.began = 0
    for path in (call.out / "logs" / "a.log", call.dist, call.folder / "tmp" / "gone"):
        earlier.read(str(path))
    earlier.files = {path: True for path in earlier.files if "remembered" not in path}
    earlier.folders.clear()
    earlier.began = time.time_ns() + 10**10
    assert call.keep(after=earlier) == ""
    (call.out / "logs").mkdir()
    (call.out / "logs" / "a.log").write_text("more")
    assert call.replay() == 0


def test_a_run_that_is_watched_again_makes_nothing() -> None:
    face = again.SilentFace()
    for event in EVENTS:
        face.take(event)
    started = NodeStarted(time=TIME, node="image:x", stage="image", label="x", cells=(), expected_seconds=None)
    with pytest.raises(again.NotSettledError):
        face.take(started)
    with pytest.raises(again.NotSettledError):
        HeardFace("blocks", face).take(started)


@pytest.mark.parametrize("error", [again.NotSettledError(), HostError("gone"), OSError("full"), KeyboardInterrupt()])
def test_whatever_prevents_a_second_look_is_no_harm(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in request.NEVER:
        monkeypatch.delenv(name, raising=False)
    looked: list[HeardFace] = []

    def build(face: HeardFace) -> None:
        looked.append(face)
        seen = watch.current()
        assert seen is not None
        assert seen.after is first
        raise error

    again.build_again(["build", "R620"], "blocks", build)
    assert looked == [], "nobody watches"
    with watch.watching() as first:
        again.build_again(["build", "R620"], "blocks", build)
        assert watch.current() is first
        again.build_again(["publish"], "blocks", build)
    assert [face.name for face in looked] == ["blocks"]


def test_a_second_look_costs_little_beside_what_was_made() -> None:
    assert again.is_worth_it(1, 9)
    assert again.is_worth_it(93, 1852)
    assert not again.is_worth_it(1, 1852)
    assert not again.is_worth_it(0, 9), "it has settled already, or has put packages into dist/ only"


def test_an_out_that_the_parser_reads_in_another_way_is_not_kept(call: Call) -> None:
    call.argv = ["build", "R620", "--out", "elsewhere"]
    assert "--out" in call.keep()


def test_only_builds_and_plans_have_answers() -> None:
    assert request.may_be_kept(["build", "R620"], {})
    assert request.may_be_kept(["plan"], {})
    for argv in ([], ["publish"], ["--help"], ["R620", "build"]):
        assert not request.may_be_kept(argv, {})


def test_watching_goes_on_after_an_answer(call: Call) -> None:
    with watch.watching() as seen:
        assert call.keep() == ""
    assert seen.files == {}, "what keeping reads is none of the answer"
    assert ended_runs.left(str(call.out)) == []
