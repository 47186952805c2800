"""Load tests of so many keys: the same keys by the seed wherever they begin, and exact numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pikaforge.bench import room
from pikaforge.bench.acknowledged import Acknowledged
from pikaforge.bench.histogram import Histogram
from pikaforge.bench.journal import HEAD, INTERVALS, NOTED, JournalHead, LoadJournal
from pikaforge.bench.key_load import BLOCK_KEYS, KeyLoad, KeyRequests, expiring_among, permanent
from pikaforge.bench.load import Interval
from pikaforge.bench.load_picture import joined
from pikaforge.bench.load_test import interval_for
from pikaforge.errors import ConfigError, FullDiskError, HostError

GIB = 1 << 30
SMALL = KeyLoad(keys=1000, connections=3, pipeline=7)


def decoded(data: bytes) -> Iterator[list[bytes]]:
    """The requests in some bytes, by the protocol's definition."""
    while data:
        head, data = data.split(b"\r\n", 1)
        words = []
        for _ in range(int(head[1:])):
            size, data = data.split(b"\r\n", 1)
            words.append(data[: int(size[1:])])
            assert data[int(size[1:]) :][:2] == b"\r\n"
            data = data[int(size[1:]) + 2 :]
        yield words


def asked(load: KeyLoad, number: int, done: int = 0) -> list[list[bytes]]:
    """All requests of a connection after the first `done` keys, each batch acknowledged as a whole."""
    noted: list[int] = []
    requests = KeyRequests(load, number, done, noted.append)
    found: list[list[bytes]] = []
    while data := requests.batch():
        batch = list(decoded(data))
        assert len(batch) == requests.asked <= load.pipeline
        requests.answered(len(batch))
        found += batch
    assert noted == [] or noted[-1] == load.keys_of(number)
    return found


def test_each_key_is_written_once_and_is_random() -> None:
    requests = [words for number in range(SMALL.connections) for words in asked(SMALL, number)]
    assert len(requests) == SMALL.keys
    assert len({words[1] for words in requests}) == len({words[2] for words in requests}) == SMALL.keys
    assert {(words[0], len(words[1]), len(words[2])) for words in requests} == {(b"SET", 50, 40)}
    assert len({words[1][:1] for words in requests}) == 64, "all of base64's letters begin one"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.333, 1.0])
@pytest.mark.parametrize("pipeline", [1, 7, 16])
def test_a_share_of_the_keys_has_a_time_to_live(share: float, pipeline: int) -> None:
    load = replace(SMALL, expire_share=share, ttl=77, pipeline=pipeline)
    total = 0
    for number in range(load.connections):
        requests = asked(load, number)
        late = [words for words in requests if len(words) == 5]
        assert [words[3:] for words in late] == [[b"EX", b"77"]] * len(late)
        assert len(late) == expiring_among(load, number, len(requests))
        assert abs(len(late) - len(requests) * share) < 1
        total += len(late)
    assert total == int(load.keys * share + 1e-9), "exactly, over all connections"


@pytest.mark.parametrize("number", range(3))
def test_what_is_left_is_the_same_wherever_it_begins(number: int) -> None:
    whole = asked(SMALL, number)
    for done in range(len(whole) + 1):
        assert asked(SMALL, number, done) == whole[done:], done
        late = sum(len(words) == 5 for words in whole[:done])
        assert expiring_among(SMALL, number, done) == late, done


def test_the_parts_of_a_long_sequence_are_made_one_by_one() -> None:
    load = KeyLoad(keys=3 * BLOCK_KEYS, connections=1, pipeline=100)
    whole = asked(load, 0)
    assert len({words[1] for words in whole}) == 3 * BLOCK_KEYS
    for done in (BLOCK_KEYS - 1, BLOCK_KEYS, 2 * BLOCK_KEYS + 55):
        assert asked(load, 0, done) == whole[done:]
    large = KeyLoad(keys=5, connections=1, pipeline=2, value_bytes=1 << 20)
    assert [len(words[2]) for words in asked(large, 0)] == [1 << 20] * 5


def test_the_seed_decides_the_keys_and_the_number_of_keys_does_not() -> None:
    keys = [words[1] for words in asked(SMALL, 0)]
    assert [words[1] for words in asked(replace(SMALL, keys=10_000), 0)][: len(keys)] == keys
    assert not {words[1] for words in asked(replace(SMALL, seed=2), 0)} & set(keys)
    # The same with every version of Python: a test that was interrupted may go on with another one.
    assert keys[0] == b"XSzgZh052o/3F+JYgN7d4Lpoet5/UCOqDRQPRvqGj8JCJKsAyk"


def test_keys_without_a_time_to_live_can_be_read_back() -> None:
    for number in range(SMALL.connections):
        whole = asked(SMALL, number)
        for done in (0, 1, 6, 7, 8, 200, len(whole)):
            lasting = {(words[1], words[2]) for words in whole[:done] if len(words) == 3}
            found = permanent(SMALL, number, done, 20)
            assert set(found) <= lasting
            assert len(set(found)) == len(found) == min(20, len(lasting))
    assert permanent(replace(SMALL, expire_share=1.0), 0, 50, 20) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"keys": 0}, "`keys` is 0; it must be from 1 to 1e+12"),
        ({"keys": -1}, "`keys` is -1"),
        ({"ttl": 0}, "`ttl` is 0"),
        ({"expire_share": 1.5}, "`expire_share` is 1.5; it must be from 0 to 1"),
        ({"expire_share": float("nan")}, "`expire_share` is nan"),
        ({"connections": 2, "processes": 3}, "3 processes, but only 2 connections"),
        ({"keys": 500_000_000, "key_bytes": 8}, "random keys of 8 bytes are not all different"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        KeyLoad(**{"keys": 10, **wrong})


def test_the_articles_load_in_one_line() -> None:
    assert KeyLoad(keys=500_000_000).describe() == (
        "SET; 500,000,000 random keys of 50 bytes, 20 % with a time to live of 86,400 s; values of 40 bytes; "
        "32 connections, pipeline 16"
    )


# -- journal --


def head_of(load: KeyLoad = SMALL) -> JournalHead:
    return JournalHead(load=load, server="abc", interval=0.1, data="bench-x", began=1.5)


def interval(start: float, resident: int | None = 5) -> Interval:
    return Interval(start=start, seconds=0.1, latency=Histogram(((3, 4), (9, 1))), resident=resident)


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "load"
    assert LoadJournal.open(folder) is None
    journal = LoadJournal.begin(folder, head_of())
    journal.add(interval(0.0))
    journal.add(interval(0.1, None))
    noted = Acknowledged(journal.noted)
    noted.note(0, 9)
    noted.note(2, 333)
    noted.close()
    again = LoadJournal.open(folder)
    assert again is not None
    assert (again.head, list(again.acknowledged()), again.session) == (head_of(), [9, 0, 333], 2)
    assert [line.interval() for line in again.lines] == [interval(0.0), interval(0.1, None)]
    assert again.seconds == pytest.approx(0.2)
    assert again.written() == (342, expiring_among(SMALL, 0, 9) + expiring_among(SMALL, 2, 333))
    again.remove()
    assert not folder.exists()


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    journal = LoadJournal.begin(tmp_path / "load", head_of())
    journal.add(interval(0.0))
    path = tmp_path / "load" / INTERVALS
    path.write_bytes(path.read_bytes()[:-30])
    again = LoadJournal.open(tmp_path / "load")
    assert again is not None
    assert again.lines == []
    again.add(interval(0.0))
    third = LoadJournal.open(tmp_path / "load")
    assert third is not None
    assert [line.interval() for line in third.lines] == [interval(0.0)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (HEAD, b"{", "load.json cannot be read"),
        (HEAD, b'{"format": 2}', "load.json cannot be read"),
        (HEAD, b"\xff\xff", "is damaged"),
        (NOTED, b"", "acknowledged cannot be read"),
        (NOTED, b"x" * 24, "acknowledged is of another test"),
        (NOTED, bytes(8), "acknowledged is of another test"),
    ],
)
def test_a_damaged_journal_is_told_with_the_way_out(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    LoadJournal.begin(tmp_path / "load", head_of())
    (tmp_path / "load" / name).write_bytes(content)
    with pytest.raises(HostError, match=told) as caught:
        LoadJournal.open(tmp_path / "load")
    assert caught.value.hint.startswith("--anew ")


def test_a_load_of_figures_that_make_no_sense_is_a_damaged_journal(tmp_path: Path) -> None:
    LoadJournal.begin(tmp_path / "load", head_of())
    path = tmp_path / "load" / HEAD
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "load": {**facts["load"], "ttl": -1}}), encoding="utf-8")
    with pytest.raises(HostError, match="is damaged"):
        LoadJournal.open(tmp_path / "load")


# -- room --


def a_room(free: int, total: int = 100 * GIB) -> room.Room:
    return room.Room(name="the disk", free=free, total=total)


def test_a_test_for_which_there_is_no_room_is_refused() -> None:
    need = room.needed(500_000_000, 90, 4.0)
    assert need == 500_000_000 * 154 * 4
    room.check_before(a_room(need + GIB), need)
    with pytest.raises(FullDiskError) as caught:
        room.check_before(a_room(need + GIB - 1), need)
    # The load of the article, and a volume of 16 GiB: a twentieth of it must stay free.
    small = r"^the disk has 15 GiB free; this load test may need 286 GiB, and 819 MiB must stay free$"
    with pytest.raises(FullDiskError, match=small):
        room.check_before(a_room(15 * GIB, 16 * GIB), need)
    less = room.needed(20_000_000, 90, 4.0)
    room.check_before(a_room(15 * GIB, 16 * GIB), less)
    assert caught.value.message.startswith("the disk has 287 GiB free; this load test may need 286 GiB, and 1 GiB must")
    assert "disk_factor" in caught.value.hint


def test_a_load_ends_before_a_disk_is_full() -> None:
    room.check_while(a_room(GIB), 7)
    with pytest.raises(FullDiskError, match="only 1023 MiB left: the load was stopped after 1,234 keys"):
        room.check_while(a_room(GIB - 1), 1234)
    small = 64 << 20
    room.check_while(a_room(small // 20, small), 7)
    with pytest.raises(FullDiskError):
        room.check_while(a_room(small // 20 - 1, small), 7)


# -- plot --


def test_a_long_test_has_as_many_points_as_a_plot_can_show() -> None:
    intervals = [interval(n * 0.1, n) for n in range(1003)]
    points = joined(intervals, 100)
    assert len(points) <= 100
    assert sum(point.requests for point in points) == sum(each.requests for each in intervals)
    assert points[0].resident == 10, "the greatest"
    assert points[-1].start + points[-1].seconds == pytest.approx(100.3)
    assert joined(intervals[:100], 100) == intervals[:100]


def test_a_long_test_is_read_less_often() -> None:
    steps: Sequence[float] = [interval_for(keys) for keys in (1, 100_000, 100_001, 20_000_000, 500_000_000)]
    assert steps == [0.1, 0.1, 0.5, 0.5, 2.0]
