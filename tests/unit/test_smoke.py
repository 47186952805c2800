"""The smoke stage: the server's conf, how its end is told, and which errors a run comes to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from unit.helpers import Ending, FakeEngine, make_spec, members, tar_of, the_cell

from pikaforge.errors import EXIT_STAGE, StageError
from pikaforge.host.resp import Closed, ErrorReply, Reply
from pikaforge.host.store import Result
from pikaforge.model import Conf
from pikaforge.stages import smoke
from pikaforge.stages.smoke import describe_end, settle
from pikaforge.workshop import Workshop

CELL = "R620-debian12-none"
GROUP = "debian12-sandybridge-none"
WHERE = f"stage smoke, {GROUP}"

# ---- the conf

VALUES = {"port": "7001", "data": "/forge/data", "conf": "/forge/server.conf"}


def _conf(line: str, **more: Any) -> Conf:
    return Conf(path="conf/x.conf", line=line, settings={"port": "{port}", "dir": "{data}/db/"}, **more)


@pytest.mark.parametrize(
    ("line", "text", "settled"),
    [
        (
            "{key} : {value}",
            "# port : 1\nport : 9221\nthreads : 4\ndir : ./db\n",
            "# port : 1\nport : 7001\nthreads : 4\ndir : /forge/data/db/\n",
        ),
        ("{key} : {value}", "port:9221\ndir: x\n", "port : 7001\ndir : /forge/data/db/\n"),
        (
            "{key} {value}",
            "# a comment\nport 6379\n\ndir ./\nsave 900 1\nsave 300 10\n",
            "# a comment\nport 7001\n\ndir /forge/data/db/\nsave 900 1\nsave 300 10\n",
        ),
        ("{key}={value}", "port=1\n  dir=2\n", "port=7001\ndir=/forge/data/db/\n"),
        # What the base has not is added; what it has twice is set once.
        ("{key} {value}", "", "port 7001\ndir /forge/data/db/\n"),
        ("{key} {value}", "port 1\nport 2\ndir x", "port 7001\ndir /forge/data/db/\n"),
        # A longer name is another setting.
        ("{key} {value}", "port-x 1\nports 2\n", "port-x 1\nports 2\nport 7001\ndir /forge/data/db/\n"),
        ("{key} {value}", "port 1\r\ndir 2\r\n", "port 7001\ndir /forge/data/db/\n"),
    ],
)
def test_settings_replace_those_of_the_conf(line: str, text: str, settled: str) -> None:
    assert settle(_conf(line), text, VALUES) == settled


def test_what_tests_need_comes_on_top() -> None:
    conf = _conf("{key} {value}", testing={"maxclients": "10", "port": "1"})
    assert settle(conf, "maxclients 20000\n", VALUES) == "maxclients 10\nport 1\ndir /forge/data/db/\n"


# ---- how it ended


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (128, "exit status 128"),
        (128 + signal.SIGSEGV, "killed by SIGSEGV"),
        (128 + signal.SIGKILL, "killed by SIGKILL"),
        (128 + signal.SIGILL, "killed by SIGILL (illegal instruction: built for a CPU that this one is not)"),
        (128 + 33, "killed by signal 33"),
        (255, "exit status 255"),
    ],
)
def test_the_end_of_a_server_in_words(status: int, text: str) -> None:
    assert describe_end(status) == text


# ---- the stage


class Wire:
    """Connections to a server that answers PING, and else what the test says."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply | Exception] = {"PING": "PONG"}
        self.opened = 0

    def connect(self, host: str, port: int, *, timeout: float = 10.0) -> Wire:
        assert (host, port) == ("server.invalid", 7000)
        self.opened += 1
        return self

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        replies: list[Reply] = []
        for request in requests:
            reply = self.replies[str(request[0])]
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(smoke, "Connection", wire.connect)
    return wire


CHECKS = [
    {"check": "ping", "steps": [{"send": ["PING"], "expect": "PONG"}]},
    {"check": "info", "why": "#988", "steps": [{"send": ["INFO"], "match": "role:master"}]},
]


@pytest.fixture
def run(workshop: Workshop, fake: FakeEngine, wire: Wire) -> Callable[..., Result]:
    """Run the stage; arguments change the specification."""
    fake.endings["smoke-version"] = Ending(log="demo 1.0\n")
    fake.server.statuses = [None, None, 0]  # while it starts, after the checks, after the signal
    wire.replies["INFO"] = "role:master"

    def run(**changes: Any) -> Result:
        spec = make_spec(product__smoke=CHECKS, **changes)
        with workshop.store.scratch() as scratch:
            (scratch / "tree.tar").write_bytes(tar_of({"conf/demo.conf": "port : 1\nthreads : 4\n", "bin/demo": "x"}))
            made = {"tree.tar": scratch / "tree.tar"}
            compiled = workshop.store.put("compile", "0" * 32, identity="i", facts={}, files=made)
        image = Result(stage="image", key="k", identity="i", facts={"runtime": "image:runtime"}, files={})
        return smoke.run(workshop, spec, the_cell(spec, CELL), compiled, image, key="1" * 32)

    return run


def test_a_server_that_does_all_it_should(run: Callable[..., Result], fake: FakeEngine, workshop: Workshop) -> None:
    result = run()
    assert [check["name"] for check in result.facts["checks"]] == ["version", "start", "ping", "info", "stop"]
    assert all(check["passed"] for check in result.facts["checks"])
    assert result.files == {}
    assert workshop.store.get("smoke", "1" * 32) == (result, "")
    assert fake.server.signals == ["TERM"]
    version, served = fake.jobs[0], fake.served[0]
    assert (version.argv, version.image, version.network) == (("./tree/bin/demo", "-v"), "image:runtime", "none")
    assert (served.argv, served.image) == (("tree/bin/demo", "-c", "/forge/server.conf"), "image:runtime")
    conf = members(served.inputs[1])["server.conf"][1].decode()
    assert conf == "port : 7000\nthreads : 4\ndir : /forge/data/db/\n"


def _failure(run: Callable[..., Result], **changes: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        run(**changes)
    assert (caught.value.where, caught.value.exit_code) == (WHERE, EXIT_STAGE)
    return caught.value


def test_all_checks_that_failed_are_told(run: Callable[..., Result], fake: FakeEngine, wire: Wire) -> None:
    fake.endings["smoke-version"] = Ending(status=1, log="demo 1.0\n")
    wire.replies["INFO"] = ErrorReply("LOADING")
    fake.server.statuses = [None, None, 139]
    error = _failure(run)
    assert error.message == "3 of 5 smoke checks failed: version, info, stop"
    assert error.failure.findings == (
        r"check version: bin/demo -v: wanted exit status 0, got exit status 1; it printed 'demo 1.0\n'",
        "check info: step 1: sent INFO; wanted a match of 'role:master'; got (error) LOADING (#988)",
        "check stop: sent SIGTERM; wanted exit status 0; killed by SIGSEGV",
    )


def test_a_version_that_is_another(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.endings["smoke-version"] = Ending(log="demo 2.0\n")
    error = _failure(run)
    assert error.message == "1 of 5 smoke checks failed: version"
    assert error.failure.findings == (
        r"check version: bin/demo -v: wanted a match of 'demo 1'; it printed 'demo 2.0\n'",
    )


def test_a_version_command_that_dies_of_an_illegal_instruction(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.endings["smoke-version"] = Ending(status=128 + signal.SIGILL)
    assert _failure(run).failure.findings == (
        (
            "check version: bin/demo -v: wanted exit status 0, got killed by SIGILL "
            "(illegal instruction: built for a CPU that this one is not); it printed ''"
        ),
    )


def test_a_server_that_ends_before_it_answers(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.statuses = [1]
    assert _failure(run).message == "the server ended before it answered: exit status 1"


def test_a_server_that_dies_during_the_checks(run: Callable[..., Result], fake: FakeEngine, wire: Wire) -> None:
    wire.replies["INFO"] = Closed("Connection closed by server.")
    fake.server.statuses = [None, 139]
    error = _failure(run)
    assert error.message == "the server died during the checks: killed by SIGSEGV"
    assert error.failure.findings == (
        (
            "check info: step 1: sent INFO; wanted a match of 'role:master'; "
            "got no reply: Connection closed by server. (#988)"
        ),
    )
    assert fake.server.signals == []


def test_a_server_that_will_not_stop(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.statuses = [None, None, None]
    assert _failure(run, product__server__stop={"signal": "INT", "within": 1.5}).failure.findings == (
        "check stop: sent SIGINT; it still runs after 1.5 s",
    )


def test_a_server_that_never_answers(
    run: Callable[..., Result], fake: FakeEngine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.replies["PING"] = ErrorReply("LOADING the data set")
    fake.server.statuses = []
    error = _failure(run, product__server__within=0.05)
    assert error.message == "the server did not answer within 0.05 s: LOADING the data set"


def test_a_server_that_loads_first_is_waited_for(run: Callable[..., Result], fake: FakeEngine, wire: Wire) -> None:
    replies: list[Reply] = ["PONG", "PONG", ErrorReply("LOADING")]

    def exchange(requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        return [replies.pop()] if replies else ["role:master"]

    wire.exchange = exchange  # type: ignore[method-assign]
    fake.server.statuses = [None, None, None, 0]
    assert [check["name"] for check in run().facts["checks"]][1] == "start"


def test_the_key_follows_server_and_checks() -> None:
    base = smoke.material(make_spec())
    assert smoke.material(make_spec()) == base
    assert smoke.material(make_spec(hardware__R620={"cpus": ["haswell"]})) == base
    assert smoke.material(make_spec(product__server__port=7001)) != base
    assert smoke.material(make_spec(product__smoke=CHECKS)) != base
    nil = [{"check": "ping", "steps": [{"send": ["PING"], "expect": None}]}]
    pong = [{"check": "ping", "steps": [{"send": ["PING"], "match": ""}]}]
    assert smoke.material(make_spec(product__smoke=nil)) != smoke.material(make_spec(product__smoke=pong))
