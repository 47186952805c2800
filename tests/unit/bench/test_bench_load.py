"""The load test's command: what it asks the server, what it makes of that, and how it shows how far it is."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from unit.helpers import FakeServer

from pikaforge.bench.key_load import KeyLoad, permanent
from pikaforge.bench.load_test import Progress
from pikaforge.bench.room import Room
from pikaforge.cli.commands import bench_questions, bench_trial
from pikaforge.cli.commands.bench_load import WATCH, describe, watching
from pikaforge.cli.commands.bench_questions import Expected
from pikaforge.cli.output import ProgressLine, duration
from pikaforge.config.load_checks import AllocatorQuestion, LoadChecks, LoadQuestion
from pikaforge.errors import ForgeError, FullDiskError
from pikaforge.pipeline.smoke.resp import Connection, ErrorReply, Reply

REPLY = "# Keyspace\r\ndb0 Strings_keys=1000, expires=200, invalid_keys=0\r\ndb0 Hashes_keys=7, expires=3\r\n"


class Asked:
    """A connection to a server that answers what a function says."""

    def __init__(self, answer: Callable[[Sequence[str | int]], Reply]) -> None:
        self.requests: list[Sequence[str | int]] = []
        self._answer = answer

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        self.requests += requests
        return [self._answer(request) for request in requests]

    def connection(self) -> Connection:
        """It, as what takes its place."""
        return cast("Connection", self)


# -- keys


def test_the_servers_keys_are_found_by_the_products_own_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_questions, "POLL", 0.0)
    scans = iter(["scanning:Yes", "scanning:Yes", "scanning:No"])
    asked = Asked(lambda request: next(scans) if request == ("STATS",) else REPLY)
    questions = [
        LoadQuestion(send=("SCAN", 1)),
        LoadQuestion(send=("STATS",), match="scanning:No", within=60),
        LoadQuestion(send=("KEYS",), match="Strings_keys=(?P<keys>[0-9]+), expires=(?P<expires>[0-9]+)"),
    ]
    assert bench_questions.counted(questions, asked.connection()) == {"keys": 1000, "expires": 200}
    assert asked.requests == [("SCAN", 1), *[("STATS",)] * 3, ("KEYS",)]


@pytest.mark.parametrize("reply", ["nothing", ErrorReply("keys=5"), 7, None])
def test_an_answer_without_a_number_is_told(reply: Reply) -> None:
    question = LoadQuestion(send=("INFO", "KEYSPACE"), match="keys=(?P<keys>[0-9]+)")
    with pytest.raises(ForgeError, match=r"sent INFO KEYSPACE; wanted a match of .*; got ") as caught:
        bench_questions.counted([question], Asked(lambda _: reply).connection())
    assert caught.value.where == "product.bench.counted"


EXPECTED = Expected(written=1000, expiring=200, ttl=100, seconds=5.0)


@pytest.mark.parametrize(
    ("expected", "found", "problem"),
    [
        (EXPECTED, {"keys": 1000, "expires": 200}, ""),
        (EXPECTED, {"keys": 1000}, ""),
        (EXPECTED, {}, ""),
        (EXPECTED, {"keys": 999, "expires": 200}, "999 keys instead of 1,000"),
        (EXPECTED, {"keys": 1001, "expires": 199}, "1,001 keys instead of 1,000, 199 expires instead of 200"),
        (replace(EXPECTED, seconds=100.0), {"keys": 800, "expires": 0}, ""),
        (replace(EXPECTED, seconds=100.0), {"keys": 799, "expires": 0}, "799 keys, which is not from 800 to 1,000"),
        (replace(EXPECTED, seconds=100.0), {"keys": 1001}, "1,001 keys, which is not from 800 to 1,000"),
        (replace(EXPECTED, expiring=0, seconds=1e6), {"keys": 999, "expires": 0}, "999 keys instead of 1,000"),
    ],
)
def test_what_the_server_has_is_compared_with_what_was_written(
    expected: Expected, found: dict[str, int], problem: str
) -> None:
    assert expected.problem(found) == problem


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([{"send": ["A"], "match": "("}], "no regular expression"),
        ([{"send": ["A"], "match": "x"}], "no regular expression with the group (?P<keys>…)"),
        ([{"send": ["A"], "match": "(?P<keys>.)"}, {"send": ["B"], "match": "(?P<keys>.)"}], "finds keys twice"),
        ([{"send": []}], "at least 1 item"),
        ([{"send": ["A"], "match": "(?P<keys>.)", "within": -1}], "greater than or equal to 0"),
    ],
)
def test_questions_that_make_no_sense_are_refused(wrong: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        LoadChecks.model_validate({"counted": wrong}, strict=False)


def test_keys_that_the_server_has_lost_are_found() -> None:
    load = KeyLoad(keys=300, connections=3, pipeline=4)
    done = [50, 0, 100]
    held = {
        key.decode(): value.decode() for number in (0, 2) for key, value in permanent(load, number, done[number], 999)
    }
    asked = Asked(lambda request: held.get(str(request[1])))
    assert bench_questions.lost(load, done, asked.connection()) == ""
    assert len(asked.requests) > 64
    assert {request[0] for request in asked.requests} == {"GET"}
    gone = next(iter(key.decode() for key, _ in permanent(load, 2, 100, 1)))
    held[gone] = "another"
    assert bench_questions.lost(load, done, asked.connection()) == f"{gone}: 'another'"
    del held[gone]
    assert bench_questions.lost(load, done, asked.connection()) == f"{gone}: (nil)"


# -- the allocator


def test_the_allocator_is_asked_as_the_product_says() -> None:
    questions = [
        AllocatorQuestion(send=("TC", "STATS"), allocators=("system",)),
        AllocatorQuestion(send=("ALL",)),
        AllocatorQuestion(send=("LIST",)),
    ]
    answers: dict[str, Reply] = {
        "TC": "MALLOC: 5\r\nMALLOC: \x1b[31m6\r\n", "ALL": ErrorReply("no such command"), "LIST": ["a", 7, None],
    }  # fmt: skip
    asked = Asked(lambda request: answers[str(request[0])])
    found = bench_questions.statistics(questions, "system", asked.connection())
    assert [(text.title, text.text) for text in found] == [
        ("TC STATS", "MALLOC: 5\nMALLOC:  [31m6"),
        ("ALL", "(error) no such command"),
        ("LIST", "a\n7"),
    ]
    assert [text.title for text in bench_questions.statistics(questions, "none", asked.connection())] == ["ALL", "LIST"]


# -- the disk


def test_the_servers_disk_is_looked_at_where_it_is() -> None:
    server = FakeServer()
    server.executed = [replace(server.executed[0], output=b"4096 10 200\n")]
    look = bench_questions.looking_at(server, "the disk")
    assert look() == Room(name="the disk", free=40_960, total=819_200)
    assert server.commands[0][-1].endswith("/data")
    server.executed = [replace(server.executed[0], output=b"stat: command not found")]
    assert look() is None


def test_the_disk_is_looked_at_now_and_then() -> None:
    now, looks = [0.0], [0]
    free = [1 << 40]

    def look() -> Room:
        looks[0] += 1
        return Room(name="the disk", free=free[0], total=1 << 40)

    watch = watching(ProgressLine(io.StringIO()), look, lambda: now[0])
    for step in range(100):
        now[0] = step * WATCH / 10
        watch(Progress(done=5, keys=10, rate=1.0))
    assert looks[0] == 9
    free[0] = 5
    with pytest.raises(FullDiskError, match="stopped after 7 keys"):
        for _ in range(20):
            now[0] += WATCH / 10
            watch(Progress(done=7, keys=10, rate=1.0))
    watch(Progress(done=10, keys=10, rate=1.0))  # all is written


# -- how far it is


def test_how_far_it_is_in_one_line() -> None:
    half = Progress(done=226_100_000, keys=500_000_000, rate=98_213.4)
    assert describe(half) == " 45.22%  226,100,000 of 500,000,000 keys, 98,213 requests/s, 46 min 29 s left"
    assert describe(replace(half, rate=0.0)) == " 45.22%  226,100,000 of 500,000,000 keys, 0 requests/s"
    assert describe(replace(half, done=500_000_000)).endswith("500,000,000 keys, 98,213 requests/s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h"), (10**9, "11574 d 1 h")],
)
def test_a_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    now, stream = [0.0], io.StringIO()
    line = ProgressLine(stream, clock=lambda: now[0], every=30)
    for step in range(100):
        now[0] = float(step)
        line.show(f"{step} of 100")
    line.show("100 of 100", last=True)
    line.close()
    assert stream.getvalue() == "30 of 100\n60 of 100\n90 of 100\n100 of 100\n"


def test_on_a_terminal_the_line_is_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "21")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        line = ProgressLine(stream, clock=lambda: 0.0)
        line.show("one")
        line.show("two, which is longer than the terminal")
        line.close()
        line.close()
        line.show("three\x1b[31m", last=True)
        line.close()
        shown = ""
        while "three" not in shown or not shown.endswith("\n"):
            shown += os.read(ours, 4096).decode()
    os.close(ours)
    assert shown == "\rone\x1b[K\rtwo, which is longer\x1b[K\r\n\rthree\\x1b[31m\x1b[K\r\n"


@pytest.mark.parametrize(
    ("rate", "seconds", "keys"),
    [(83_210.4, 60, 4_900_000), (9.9, 60, 590), (0.0, 60, 1), (0.05, 60, 3), (123_456_789.0, 10, 1_200_000_000)],
)
def test_a_test_without_a_number_of_keys_takes_some_time(rate: float, seconds: float, keys: int) -> None:
    assert bench_trial.keys_for(rate, seconds) == keys
