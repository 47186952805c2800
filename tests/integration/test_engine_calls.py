"""Calls to an engine end: streams are closed before a removal, and what gets no answer has a limit."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from limits import within
from standins.engine import FILE, StandInEngine, stand_in_engine

from pikaforge.errors import ForgeError, FullDiskError, HostError
from pikaforge.host import docker, engine_calls, sweeping
from pikaforge.host.container import ContainerServer
from pikaforge.host.docker import DockerEngine
from pikaforge.host.engine_calls import limit
from pikaforge.host.images import RegistryError
from pikaforge.host.job import Job
from pikaforge.host.run_id import RunId

FULL = Path("/dev/full")
"""A file whose disk is full (full(4))."""
LIMIT = 10.0
"""Seconds for what hung before."""


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInEngine]:
    with stand_in_engine() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


@pytest.fixture
def ignored(there: StandInEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Calls that fit a pattern are not answered, and are soon given up; the others have their usual limits."""

    def ignore(pattern: str) -> None:
        there.deaf = pattern
        method, _, path = pattern.partition(" ")
        soon = re.compile(rf"{method} /v[0-9.]+{path}")
        monkeypatch.setattr(engine_calls, "LIMITS", ((soon, 0.3), *engine_calls.LIMITS))
        for place, name in ((sweeping, "ABORT"), (docker, "ENDING")):
            monkeypatch.setattr(place, name, 0.3)

    return ignore


def job(log: Path, **more: object) -> Job:
    options: dict[str, object] = {"label": "x", "image": "i", "argv": ("a",), "env": {}, "inputs": (), "log": log}
    return Job(**{**options, **more})  # type: ignore[arg-type]


def failing(engine: DockerEngine, job: Job, into: Path) -> ForgeError:
    """How a job ends."""
    with pytest.raises((HostError, FullDiskError)) as caught:
        within(LIMIT, lambda: engine.run(job, into))
    return caught.value


# ---- streams


def test_a_file_that_cannot_be_written_does_not_hold_the_container(there: StandInEngine, tmp_path: Path) -> None:
    there.ended.set()
    (tmp_path / "result").symlink_to(FULL)
    error = failing(DockerEngine(), job(tmp_path / "log", outputs=("out/result",)), tmp_path)
    assert (type(error), error.message) == (FullDiskError, f"no space left in {tmp_path}")
    assert there.removed.is_set()
    assert there.calls[-1] == "DELETE /containers/c1"


def test_control_a_file_that_can_be_written(there: StandInEngine, tmp_path: Path) -> None:
    there.ended.set()
    engine = DockerEngine()
    done = within(LIMIT, lambda: engine.run(job(tmp_path / "log", outputs=("out/result",)), tmp_path))
    engine.settle()
    assert (done.status, (tmp_path / "result").stat().st_size) == (0, FILE)
    assert (tmp_path / "log").read_bytes() == b"begun\n"
    assert there.removed.is_set()


def test_a_log_that_cannot_be_written_ends_the_job(there: StandInEngine, tmp_path: Path) -> None:
    error = failing(DockerEngine(), job(FULL), tmp_path)
    assert error.message == "no space left in /dev"
    assert there.removed.is_set()
    assert not there.ended.is_set(), "it still ran"


def test_an_image_build_whose_log_cannot_be_written(there: StandInEngine) -> None:
    there.events = [{"stream": "Step 1\n"}] * 10
    with pytest.raises(FullDiskError, match=r"^no space left in /dev$"):
        DockerEngine().build(context=b"", target="t", tag="a:b", args={}, labels={}, log=FULL)


# ---- limits


@pytest.mark.parametrize(
    ("method", "path", "seconds"),
    [
        ("GET", "/v1.41/info", engine_calls.QUESTION),
        ("GET", "/v1.41/containers/json", engine_calls.QUESTION),
        ("GET", "/version", engine_calls.QUESTION),
        ("GET", "/v1.41/containers/c1/archive", engine_calls.WORK),
        ("GET", "/v1.41/containers/c1/logs", engine_calls.WORK),
        ("POST", "/v1.41/containers/c1/kill", engine_calls.KILL),
        ("DELETE", "/v1.41/containers/c1", engine_calls.REMOVAL),
        ("DELETE", "/v1.41/images/a/b:c", engine_calls.WORK),
        ("POST", "/v1.41/build", engine_calls.STEP),
        ("POST", "/v1.41/images/create", engine_calls.STEP),
        ("PUT", "/v1.41/containers/c1/archive", engine_calls.WORK),
    ],
)
def test_every_call_has_a_limit(method: str, path: str, seconds: float) -> None:
    assert limit(method, path) == seconds


@pytest.mark.parametrize("deaf", ["GET /info", "POST /containers/create", "POST /build"])
def test_an_engine_that_is_silent(
    deaf: str, there: StandInEngine, ignored: Callable[[str], None], tmp_path: Path
) -> None:
    """The SDK gives a build no limit of its own, and a question the same as a build."""
    ignored(deaf)
    engine = DockerEngine()
    with pytest.raises(HostError) as caught:
        if deaf == "POST /build":
            options = {"context": b"", "target": "t", "tag": "a:b", "args": {}, "labels": {}, "log": tmp_path / "log"}
            within(LIMIT, lambda: engine.build(**options))  # type: ignore[arg-type]
        else:
            within(LIMIT, lambda: engine.run(job(tmp_path / "log"), tmp_path))
    said = caught.value.message
    if deaf == "GET /info":
        assert said == f"the container engine at {there.address} is silent: it gave no answer in 0.3 s"
    else:
        assert f"the container engine is silent: {deaf.replace(' ', ' /v1.41')} got no answer in 0.3 s" in said
        assert said.endswith("; it does answer other calls")


def server(engine: DockerEngine) -> ContainerServer:
    """The container as a server."""
    return ContainerServer(engine._client().containers.get("c1"), engine._calls(), "127.0.0.1", 1)


def test_a_program_in_a_container_that_does_not_end(there: StandInEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits for what it prints by poll(2), for ever."""
    monkeypatch.setattr(engine_calls, "QUESTION", 0.3)
    with pytest.raises(HostError) as caught:
        within(LIMIT, server(DockerEngine()).today)
    assert "the container engine is silent: POST /v1.41/exec/e1/start got no answer in 0.3 s" in caught.value.message


@pytest.mark.parametrize("part", [b"20260101\n", b"2" * (5 << 20)], ids=["short", "long"])
def test_what_comes_with_the_headers_of_an_answer_is_read(there: StandInEngine, part: bytes) -> None:
    """The SDK's own reader loses it: 10 of 10 outputs of `echo` where the client slept before it read the headers."""
    there.executed = [(1, part), (2, b"x"), (1, b"")]
    there.ended.set()
    engine = server(DockerEngine())
    assert within(LIMIT, engine.today) == part.decode() + "x"
    executed = within(LIMIT, lambda: engine.execute(["bin/tool"], timeout=5))
    assert (executed.status, executed.output) == (0, (part + b"x")[: 4 << 20])


def test_a_program_that_an_engine_refuses_to_start(there: StandInEngine) -> None:
    there.refused["POST /exec/e1/start"] = (409, "container c1 is paused")
    with pytest.raises(HostError, match=r"`date \+%Y%m%d` cannot be run in the container.*container c1 is paused"):
        within(LIMIT, server(DockerEngine()).today)


def test_images_of_a_list_that_are_removed_meanwhile(there: StandInEngine) -> None:
    there.images = [
        {"Id": "sha256:a", "RepoTags": ["pikaforge/x:1"], "Size": 7},
        {"Id": "sha256:b", "RepoTags": ["<none>:<none>"]},
        {"Id": "sha256:c", "RepoTags": None},
    ]
    found = within(LIMIT, DockerEngine().owned_images)
    assert found == [("sha256:a", ("pikaforge/x:1",), 7), ("sha256:b", (), 0), ("sha256:c", (), 0)]


def test_a_job_that_is_not_killed_in_time_ends(
    there: StandInEngine, ignored: Callable[[str], None], tmp_path: Path
) -> None:
    """The engine does not answer the kill: then its output is not waited for."""
    ignored("POST /containers/c1/(kill|wait)")
    error = failing(DockerEngine(), job(tmp_path / "log", timeout=0.2), tmp_path)
    assert "silent: POST /v1.41/containers/c1/wait got no answer in 0.3 s" in error.message
    assert "POST /containers/c1/kill" in there.calls


def test_control_a_job_that_is_killed_in_time(there: StandInEngine, tmp_path: Path) -> None:
    done = within(LIMIT, lambda: DockerEngine().run(job(tmp_path / "log", timeout=0.2), tmp_path))
    assert (done.status, done.timed_out) == (137, True)


@pytest.mark.parametrize("deaf", ["", "POST /containers/c1/(kill|wait)"])
def test_abort_ends_what_waits(
    there: StandInEngine,
    ignored: Callable[[str], None],
    tmp_path: Path,
    until: Callable[..., None],
    deaf: str,
) -> None:
    engine, log = DockerEngine(), tmp_path / "log"
    if deaf:
        ignored(deaf)

    def abort() -> None:
        until(lambda: log.exists() and log.stat().st_size, "the container's first line")
        engine.abort()

    def run() -> None:
        threading.Thread(target=abort, daemon=True).start()
        engine.run(job(log), tmp_path)
        engine.settle()

    if deaf:
        with pytest.raises(HostError, match="silent"):
            within(LIMIT, run)
    else:
        within(LIMIT, run)
    assert there.removed.is_set()


# ---- sweeps


def left(name: str, *, dead: bool) -> dict[str, object]:
    """A container in the engine's list."""
    me = RunId.current()
    owner = RunId(machine=me.machine, pid=me.pid, started=str(int(me.started) - 1)) if dead else me
    return {"Id": name, "Labels": {sweeping.OWNER: owner.text}}


def test_a_sweep_does_not_wait_for_a_container_that_is_stuck(
    there: StandInEngine, ignored: Callable[[str], None]
) -> None:
    there.listed = [left("stuck", dead=True), left("living", dead=False), left("other", dead=True)]
    ignored("DELETE /containers/stuck")
    notices: list[str] = []
    assert within(LIMIT, lambda: DockerEngine().sweep(notices.append)) == 1
    assert [call for call in there.calls if "containers" in call] == [
        "GET /containers/json",
        "GET /containers/json",  # by the SDK, because there is something to remove
        "DELETE /containers/stuck",
        "DELETE /containers/other",
    ], "nothing is looked into, and what lives is not touched"
    assert notices == ["the engine has not removed container stuck of a run that has ended; it is left for a later run"]


def test_a_sweep_has_a_limit_as_a_whole(
    there: StandInEngine, ignored: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "ALL", 0.4)
    there.listed = [left(f"stuck{number}", dead=True) for number in range(20)]
    ignored("DELETE /containers/.*")
    notices: list[str] = []
    assert within(LIMIT, lambda: DockerEngine().sweep(notices.append)) == 0
    assert len(notices) == 20
    assert len([call for call in there.calls if call.startswith("DELETE")]) <= 3


def test_what_the_engine_refuses_to_remove_is_no_notice(there: StandInEngine) -> None:
    there.listed = [left("busy", dead=True)]
    there.refused = {"DELETE .*": (409, "removal of container busy is already in progress")}
    notices: list[str] = []
    assert (DockerEngine().sweep(notices.append), notices) == (0, [])


# ---- full disks of the engine

SAID = "write /data/engine/overlay2/x: no space left on device"


def test_an_engine_whose_disk_is_full(there: StandInEngine, tmp_path: Path) -> None:
    there.refused = {"POST /containers/create": (500, SAID)}
    error = failing(DockerEngine(), job(tmp_path / "log"), tmp_path)
    assert (type(error), error.message) == (
        FullDiskError,
        f"no space left in /data/engine of the container engine: {SAID}",
    )
    assert "invoke images.remove" in error.hint


@pytest.mark.parametrize("how", ["printed", "lost"])
def test_a_job_that_fails_because_of_the_engines_disk(
    how: str, there: StandInEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words may be lost: the engine keeps them on the same disk."""
    there.ended.set()
    there.status = 1
    if how == "printed":
        said = "cc1: fatal error: cannot write a.o: No space left on device"
        there.output = [f"{said}\n".encode(), b"make: *** [x] Error 1\n"]
    else:
        said = SAID
        there.refused = {"PUT /containers/c1/archive": (500, SAID)}
        monkeypatch.setattr(docker, "fill", lambda *_, **__: None)  # by then, there still was room
    error = failing(DockerEngine(), job(tmp_path / "log"), tmp_path)
    also = ", or of the job's memory" if how == "printed" else ""
    assert error.message == f"no space left in /data/engine of the container engine{also}: {said}"
    assert error.where == str(tmp_path / "log")


def test_control_a_job_that_fails_otherwise(there: StandInEngine, tmp_path: Path) -> None:
    there.ended.set()
    there.status = 1
    done = DockerEngine().run(job(tmp_path / "log"), tmp_path)
    assert (done.status, done.timed_out) == (1, False)


@pytest.mark.parametrize("event", ["stream", "error"])
def test_an_image_build_on_a_full_disk(event: str, there: StandInEngine, tmp_path: Path) -> None:
    there.events = [{"stream": "Step 1\n"}, {event: f"{SAID}\n"}, {"error": "returned a non-zero code: 100"}]
    with pytest.raises(FullDiskError, match="no space left in /data/engine"):
        DockerEngine().build(context=b"", target="t", tag="a:b", args={}, labels={}, log=tmp_path / "log")
    there.events[1] = {event: "another reason"}
    assert DockerEngine().build(context=b"", target="t", tag="a:b", args={}, labels={}, log=tmp_path / "log") is None


def test_a_pull_on_a_full_disk(there: StandInEngine) -> None:
    there.events = [{"status": "Pulling"}, {"error": f"failed to register layer: {SAID}"}]
    with pytest.raises(FullDiskError, match="no space left in /data/engine"):
        DockerEngine().pull("a:b")
    there.events[1] = {"error": "manifest unknown"}
    with pytest.raises(RegistryError, match="manifest unknown"):
        DockerEngine().pull("a:b")


# ---- an engine that is gone


def test_an_engine_that_ends_is_named_so(there: StandInEngine, tmp_path: Path) -> None:
    engine = DockerEngine()
    engine.verify()
    socket = Path(there.address.removeprefix("unix://"))
    socket.unlink()
    error = failing(engine, job(tmp_path / "log"), tmp_path)
    assert error.message.startswith("the container engine does not answer any more: No such file or directory")
    assert "goes on where it was" in error.hint
    assert "?" not in f"{error.message}{error.hint}", "nothing is guessed"


def test_a_connection_that_breaks_is_told_from_an_engine_that_ends(there: StandInEngine, tmp_path: Path) -> None:
    there.deaf = "POST /containers/create"
    there.closed.set()  # the connection is closed without an answer
    error = failing(DockerEngine(), job(tmp_path / "log"), tmp_path)
    assert error.message.startswith("the connection to the container engine broke off: ")
    assert error.message.endswith("; it answers again")
