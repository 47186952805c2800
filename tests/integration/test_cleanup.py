"""Runs that are ended from outside: nothing of them stays, and the next run goes on where they were."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine, Project, Running
    from docker.models.containers import Container

    from .conftest import Shop

pytestmark = pytest.mark.engine

GROUP = "debian12-sandybridge-none"
SOON = 20.0
"""Seconds in which an ended run must be gone; stopping a container without an init would take ten for each."""
MARK = "PIKAFORGE_TEST_MARK"


@pytest.fixture
def brief(ready: Project) -> Project:
    """The sample with one smoke check: here only the compilation matters."""
    ready.change(lambda matrix: matrix["product"].update(smoke=matrix["product"]["smoke"][:1]))
    return ready


@pytest.fixture
def known(ready: Project, shop: Shop) -> Project:
    """The sample. Its tree is known to all that follows the compilation: the same one is neither judged nor packed."""
    shop.take(ready, "audit", "smoke", "package")
    return ready


@contextmanager
def compiling(project: Project, engine: Engine, until: Callable[..., None]) -> Iterator[Running]:
    """A run that is in the middle of compiling: slowly, with one job and no compiler cache."""
    arguments = project.arguments("build", "R620", "--jobs", "1", "--no-compiler-cache")
    with project.tool.start(*arguments, env={MARK: str(project.folder)}) as running:
        running.wait_for(r"^compile  \S+ \.\.\.$")
        log = project.out / "logs" / GROUP / "compile.log"
        call = re.compile(r"^g\+\+ .* -c src/", re.MULTILINE)
        until(lambda: log.is_file() and call.search(log.read_text(errors="replace")), "a call of the compiler")
        assert ["pikaforge-compile-" in str(c.name) for c in engine.containers(running.pid)] == [True]
        yield running


def processes(mark: str) -> list[str]:
    """Command lines of the programs that a run has started and that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended, or is another user's
            continue
    return [line for line in found if line]


def goes_on(project: Project) -> None:
    """The next run does again only what was not finished."""
    assert project.half_done() == []
    again = project.build("R620", check=0)
    assert "removed" not in again.stdout, "an orderly end leaves nothing to remove"
    assert "source   v3.4.0 is up to date" in again.stdout
    assert again.lines(rf"^compile  {GROUP} done in ")
    assert again.lines(rf"^audit    {GROUP} is up to date$"), "the tree is another one than it always was"
    assert project.package().is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "sighup"])
def test_interrupt_during_compilation(
    number: signal.Signals, known: Project, engine: Engine, until: Callable[..., None]
) -> None:
    """Ctrl-C reaches the whole group of the terminal, a service manager's SIGTERM the tool alone."""
    with compiling(known, engine, until) as running:
        running.signal(number, group=number == signal.SIGINT)
        done = running.finish(SOON)
    assert done.returncode == 128 + number, done.text
    assert "error: interrupted; what was running is removed" in done.stderr
    assert "hint: run it again: it continues where it stopped" in done.stderr
    assert "Traceback" not in done.text
    assert engine.containers(done.pid) == []
    assert processes(str(known.folder)) == []
    assert len(known.stored("source")) == 1
    assert known.stored("compile") == {}
    assert not known.dist.exists()
    goes_on(known)


def test_interrupt_while_a_server_keeps_git_waiting(ready: Project) -> None:
    """Programs that the tool has started end with it, too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/pika.git"
        arguments = ready.arguments("build", "R620", source=url)
        with ready.tool.start(*arguments, env={MARK: str(ready.folder)}) as running:
            waiting, _ = silent.accept()
            with waiting:
                assert any("ls-remote" in line for line in processes(str(ready.folder))), "a test that tells nothing"
                running.signal(signal.SIGTERM)
                done = running.finish(SOON)
    assert done.returncode == 128 + signal.SIGTERM, done.text
    assert "error: interrupted" in done.stderr
    assert processes(str(ready.folder)) == []
    assert ready.half_done() == []


@pytest.fixture
def labelled(engine: Engine, ready: Project) -> Iterator[Callable[[str], Container]]:
    """Make a container that belongs to an owner; it is not started."""
    image = next(r["facts"]["build"] for r in ready.stored("image").values() if r["facts"]["build"])
    made: list[Container] = []

    def make(owner: str) -> Container:
        labels = {"org.pikaforge.kind": "job", "org.pikaforge.owner": owner}
        made.append(engine.client.containers.create(image, ["true"], labels=labels))
        return made[-1]

    yield make
    left = {container.id for container in engine.client.containers.list(all=True, ignore_removed=True)}
    for container in made:
        if container.id in left:
            container.remove(force=True)


@pytest.mark.serial
def test_killed_run_is_cleared_by_the_next(
    known: Project, engine: Engine, until: Callable[..., None], labelled: Callable[[str], Container]
) -> None:
    """After kill -9 its container compiles on; the next run removes it and says so, and touches nobody else's."""
    from pikaforge.host.run_id import RunId

    mine = RunId.current()  # this test is a process that lives
    living = labelled(mine.text)
    elsewhere = labelled(f"{'0' * 16}-{mine.pid}-{mine.started}")
    with compiling(known, engine, until) as running:
        running.signal(signal.SIGKILL)
        killed = running.finish(SOON)
    assert killed.returncode == -signal.SIGKILL
    ended_like = labelled(f"{mine.machine}-{mine.pid}-1")  # the same process id, given out again
    (left,) = engine.containers(killed.pid)
    assert left.status == "running"
    folders = known.half_done()
    assert folders, "the result in the making"
    assert known.stored("compile") == {}
    again = known.build("R620", check=0)
    assert f"note: removed {2 + len(folders)} leftovers of a run that was killed" in again.stdout.splitlines()
    held = {container.id for container in engine.client.containers.list(all=True, ignore_removed=True)}
    assert held & {left.id, living.id, elsewhere.id, ended_like.id} == {living.id, elsewhere.id}
    assert known.half_done() == []
    assert "source   v3.4.0 is up to date" in again.stdout
    assert again.lines(rf"^compile  {GROUP} done in ")
    assert "removed" not in known.build("R620", check=0).stdout


def test_two_runs_of_one_project_at_once(brief: Project, engine: Engine) -> None:
    """Neither disturbs the other: both end well, with the same package, and leave nothing."""
    with (
        brief.tool.start(*brief.arguments("build", "R620")) as one,
        brief.tool.start(*brief.arguments("build", "R620")) as two,
    ):
        ended = [one.finish(), two.finish()]
    assert [done.returncode for done in ended] == [0, 0], "\n".join(done.text for done in ended)
    assert [engine.containers(done.pid) for done in ended] == [[], []]
    assert len({done.lines(r" [0-9a-f]{64}$")[0].split()[-1] for done in ended}) == 1
    assert len(brief.stored("compile")) == 1
    assert brief.half_done() == []
    assert "everything is up to date" in brief.build("R620", check=0).stdout
