"""Judging steps: what holds, and the exact text of what does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from pikaforge.config.smoke_checks import Check, Step
from pikaforge.pipeline.smoke import expectations
from pikaforge.pipeline.smoke.expectations import run_check, run_step, show
from pikaforge.pipeline.smoke.resp import ErrorReply, Reply
from pikaforge.pipeline.smoke.session import Session
from pikaforge.pipeline.smoke.wire import Closed, NoConnection


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def _step(text: str) -> Step:
    """A step as matrix.yaml writes it."""
    return Step.model_validate({key: _tupled(value) for key, value in yaml.safe_load(text).items()})


class FakeConnection:
    """Gives scripted replies, one list a packet."""

    def __init__(self, *packets: Sequence[Reply] | Exception) -> None:
        self.packets = list(packets)
        self.sent: list[list[list[str | int]]] = []
        self.closed = 0

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        self.sent.append([list(request) for request in requests])
        packet = self.packets.pop(0) if len(self.packets) > 1 else self.packets[0]
        if isinstance(packet, Exception):
            raise packet
        return list(packet)

    def close(self) -> None:
        self.closed += 1

    @property
    def session(self) -> Session:
        """A session with this connection."""
        return Session(lambda: self)  # type: ignore[arg-type,return-value]


def _run(text: str, *packets: Sequence[Reply] | Exception) -> str:
    return run_step(_step(text), FakeConnection(*packets).session)


HOLDS: list[tuple[str, Reply]] = [
    ("{send: [PING], expect: PONG}", "PONG"),
    ("{send: [GET, k], expect: null}", None),
    ("{send: [DEL, k], expect: 1}", 1),
    ("{send: [GET, k], expect: '1'}", "1"),
    ("{send: [GET, k], expect: ''}", ""),
    ("{send: [LRANGE, k, 0, -1], expect: [a, b]}", ["a", "b"]),
    ("{send: [LRANGE, k, 0, -1], expect: []}", []),
    ("{send: [MGET, k], expect: [a, null, 3]}", ["a", None, 3]),
    ("{send: [SCAN, 0], expect: ['0', [a, b]]}", ["0", ["a", "b"]]),
    ("{send: [SMEMBERS, k], unordered: [a, b]}", ["b", "a"]),
    ("{send: [SMEMBERS, k], unordered: [a, a, null, 1]}", [1, "a", None, "a"]),
    ("{send: [SMEMBERS, k], unordered: []}", []),
    ("{send: [INFO], match: 'role:m'}", "# Replication\r\nrole:master\r\n"),
    ("{send: [DBSIZE], match: '^4[0-9]$'}", 42),
    ("{send: [CONFIG, GET, x], match: \"'x', 'y'\"}", ["x", "y"]),
    ("{send: [GET, k], match: nil}", None),
    ("{send: [BAD], error: '^unknown command'}", ErrorReply("unknown command 'BAD'")),
    ("{send: [BAD], error: 'wrong kind'}", ErrorReply("WRONGTYPE this is the wrong kind of value")),
]


@pytest.mark.parametrize(("text", "reply"), HOLDS)
def test_what_holds(text: str, reply: Reply) -> None:
    assert _run(text, [reply]) == ""


FAILS: list[tuple[str, Reply, str]] = [
    ("{send: [PING], expect: PONG}", "PANG", "sent PING; wanted 'PONG'; got 'PANG'"),
    ("{send: [PING], expect: PONG}", None, "sent PING; wanted 'PONG'; got (nil)"),
    ("{send: [PING], expect: PONG}", ["PONG"], "sent PING; wanted 'PONG'; got ['PONG']"),
    ("{send: [GET, k], expect: null}", "", "sent GET k; wanted (nil); got ''"),
    ("{send: [GET, k], expect: null}", [], "sent GET k; wanted (nil); got []"),
    ("{send: [DEL, k], expect: 1}", "1", "sent DEL k; wanted 1; got '1'"),
    ("{send: [GET, k], expect: '1'}", 1, "sent GET k; wanted '1'; got 1"),
    ("{send: [L, 0], expect: [a, b]}", ["b", "a"], "sent L 0; wanted ['a', 'b']; got ['b', 'a']"),
    ("{send: [L, 0], expect: [a, b]}", ["a", "b", "c"], "sent L 0; wanted ['a', 'b']; got ['a', 'b', 'c']"),
    ("{send: [L, 0], expect: [a, [b]]}", ["a", "b"], "sent L 0; wanted ['a', ['b']]; got ['a', 'b']"),
    ("{send: [S], unordered: [a, b]}", ["a"], "sent S; wanted ['a', 'b'] in any order; got ['a']"),
    ("{send: [S], unordered: [a, b]}", ["a", "a", "b"], "sent S; wanted ['a', 'b'] in any order; got ['a', 'a', 'b']"),
    ("{send: [S], unordered: [a]}", "a", "sent S; wanted ['a'] in any order; got 'a'"),
    ("{send: [S], unordered: ['1']}", [1], "sent S; wanted ['1'] in any order; got [1]"),
    ("{send: [INFO], match: x+}", "yyy", "sent INFO; wanted a match of 'x+'; got 'yyy'"),
    ("{send: [B], error: x}", "x", "sent B; wanted an error that matches 'x'; got 'x'"),
    ("{send: [B], error: x}", ErrorReply("y"), "sent B; wanted an error that matches 'x'; got (error) y"),
    # An error reply is no reply, whatever it says.
    ("{send: [B], expect: x}", ErrorReply("x"), "sent B; wanted 'x'; got (error) x"),
    ("{send: [B], match: x}", ErrorReply("x"), "sent B; wanted a match of 'x'; got (error) x"),
    ("{send: [B], expect: null}", ErrorReply("x"), "sent B; wanted (nil); got (error) x"),
    ("{send: [B], unordered: []}", ErrorReply("x"), "sent B; wanted [] in any order; got (error) x"),
    ("{send: [B], expect: [x]}", [ErrorReply("x")], "sent B; wanted ['x']; got [(error) x]"),
]


@pytest.mark.parametrize(("text", "reply", "exchange_text"), FAILS)
def test_what_does_not_hold_is_told_as_it_was(text: str, reply: Reply, exchange_text: str) -> None:
    assert _run(text, [reply]) == exchange_text


def test_a_pipeline_is_one_packet_and_its_replies_are_one_list() -> None:
    step = _step("{pipeline: [[SET, k, '1'], [GET, k], [PING]], expect: [OK, '1', PONG]}")
    connection = FakeConnection(["OK", "1", "PONG"])
    assert run_step(step, connection.session) == ""
    assert connection.sent == [[["SET", "k", "1"], ["GET", "k"], ["PING"]]]
    assert _run("{pipeline: [[SET, k, 1], [PING]], expect: [OK, PONG]}", ["OK", ErrorReply("no")]) == (
        "sent SET k 1 | PING; wanted ['OK', 'PONG']; got ['OK', (error) no]"
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only while the code sleeps."""
    now = [100.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            now[0] += seconds

    monkeypatch.setattr(expectations, "time", Time)
    return now


def test_a_step_with_within_is_asked_again(clock: list[float]) -> None:
    connection = FakeConnection(["Yes"], ["Yes"], ["No"])
    assert run_step(_step("{send: [INFO], expect: 'No', within: 10}"), connection.session) == ""
    assert len(connection.sent) == 3
    assert clock[0] == pytest.approx(100 + 2 * expectations.POLL)


def test_a_step_with_within_gives_up(clock: list[float]) -> None:
    assert _run("{send: [INFO], expect: 'No', within: 2.5}", ["Yes"]) == (
        "sent INFO; wanted 'No' within 2.5 s; got 'Yes'"
    )
    assert clock[0] == pytest.approx(102.5, abs=2 * expectations.POLL)


def test_a_step_without_within_is_asked_once(clock: list[float]) -> None:
    connection = FakeConnection(["x"], ["y"])
    assert run_step(_step("{send: [A], expect: y}"), connection.session) != ""
    assert len(connection.sent) == 1


# ---- checks


def _check(*steps: str, why: str = "") -> Check:
    return Check(check="name", why=why, steps=tuple(_step(text) for text in steps))


def test_a_check_that_passes() -> None:
    connection = FakeConnection(["OK"], ["v"])
    outcome = run_check(_check("{send: [SET, k, v], expect: OK}", "{send: [GET, k], expect: v}"), connection.session)
    assert (outcome.name, outcome.passed, outcome.detail) == ("name", True, "")
    assert (len(connection.sent), connection.closed) == (2, 1)


def test_a_check_ends_at_its_first_failure() -> None:
    connection = FakeConnection(["OK"], ["w"], ["OK"])
    steps = ("{send: [SET, k, v], expect: OK}", "{send: [GET, k], expect: v}", "{send: [DEL, k], expect: OK}")
    outcome = run_check(_check(*steps, why="#990"), connection.session)
    assert not outcome.passed
    assert outcome.detail == "step 2: sent GET k; wanted 'v'; got 'w' (#990)"
    assert (len(connection.sent), connection.closed) == (2, 1)


def test_a_server_that_goes_away_is_told_with_what_was_sent() -> None:
    connection = FakeConnection(["OK"], Closed("Connection closed by server."))
    steps = ("{send: [A], expect: OK}", "{pipeline: [[B, 1], [C]], expect: [x, y], within: 5}")
    outcome = run_check(_check(*steps), connection.session)
    assert outcome.detail == (
        "step 2: sent B 1 | C; wanted ['x', 'y'] within 5 s; got no reply: Connection closed by server."
    )


def test_a_server_that_is_not_there() -> None:
    def refuse() -> Any:
        raise NoConnection("Error 111 connecting to 127.0.0.1:7000")

    outcome = run_check(_check("{send: [A], expect: OK}", why="#1"), Session(refuse))
    assert (outcome.passed, outcome.detail) == (False, "no connection: Error 111 connecting to 127.0.0.1:7000 (#1)")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "(nil)"),
        ("a\r\nb", r"'a\r\nb'"),
        (["a", None, [1, ()]], "['a', (nil), [1, []]]"),
        (ErrorReply("ERR x"), "(error) ERR x"),
        ("x" * 500, "'" + "x" * 399 + "…"),
    ],
)
def test_replies_are_shown_on_one_line(value: object, text: str) -> None:
    assert show(value) == text
    assert not re.search(r"[\r\n]", text)


def test_what_held_is_kept_with_its_reply() -> None:
    check = Check.model_validate({"check": "ping", "steps": (_step("{send: [GET, k], expect: v}"),) * 50})
    record = run_check(check, FakeConnection(["v"]).session)
    assert record.passed
    assert record.exchanges == ("GET k → 'v'",) * 40
    long = Check.model_validate({"check": "long", "steps": (_step(f"{{send: [GET, {'k' * 999}], expect: v}}"),)})
    (exchange,) = run_check(long, FakeConnection(["v"]).session).exchanges
    assert len(exchange) == 401
    assert run_check(check, FakeConnection(["w"]).session).exchanges == ()
