"""Benchmarks: what is asked is the same by the seed, what is counted is exact, and ratios say what they can."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from pikaforge.bench.histogram import Histogram, bounds, bucket
from pikaforge.bench.load import Interval, Samples
from pikaforge.bench.summary import METRICS, NO_FIGURE, Comparison, LoadRun, compare
from pikaforge.bench.worker import REPLY_LIMIT, Failure, replies
from pikaforge.bench.workload import RECENT, Requests, Workload, key_table
from pikaforge.errors import ConfigError

MIB = 1 << 20


def counted(values: Sequence[int]) -> Histogram:
    """A histogram of values."""
    return Histogram.of(*({bucket(value): 1} for value in values))


# -- histogram --


def test_buckets_leave_no_value_out_and_are_narrow() -> None:
    indices = [bucket(value) for value in range(70_000)]
    assert all(after - before in (0, 1) for before, after in pairwise(indices)), "indices grow one by one"
    for value in [*range(3000), 65_535, 65_536, 1_000_003, 60_000_000, (1 << 40) + 12_345]:
        low, high = bounds(bucket(value))
        assert low <= value <= high
        assert (bucket(low), bucket(high), bucket(high + 1)) == (bucket(value), bucket(value), bucket(value) + 1)
        assert high - low <= low / 128
    assert bounds(bucket(200)) == (200, 200), "small values are exact"


@pytest.mark.parametrize("count", [1, 2, 3, 10, 999, 1000, 1001, 20_000])
def test_quantiles_are_the_exact_ones_buckets(count: int) -> None:
    source = random.Random(count)
    values = [int(source.lognormvariate(7, 1.5)) for _ in range(count)]
    histogram = counted(values)
    assert histogram.total == count
    ordered = sorted(values)
    for per_thousand in (1, 500, 900, 990, 999, 1000):
        # By the definition, without division: the least value that enough do not exceed.
        exact = next(v for n, v in enumerate(ordered, 1) if n * 1000 >= count * per_thousand)
        found = histogram.quantile(per_thousand)
        assert found == bounds(bucket(exact))[1]
        assert exact <= found <= exact * 129 / 128


def test_processes_counts_add_up_exactly() -> None:
    source = random.Random(5)
    values = [source.randrange(1_000_000) for _ in range(3000)]
    parts = [counted(values[start::3]) for start in range(3)]
    assert Histogram.of(*parts) == counted(values)
    assert Histogram.of(parts[0], {3: 0}, {}) == parts[0], "what was never seen leaves no trace"


def test_nothing_has_no_quantile() -> None:
    assert Histogram().quantile(990) is None
    assert Histogram.of({}, {}) == Histogram()


# -- requests --


def decoded(data: bytes) -> Iterator[list[bytes]]:
    """The requests in some bytes, by the protocol's definition."""
    while data:
        head, data = data.split(b"\r\n", 1)
        assert head[:1] == b"*"
        words = []
        for _ in range(int(head[1:])):
            size, data = data.split(b"\r\n", 1)
            assert size[:1] == b"$"
            length = int(size[1:])
            assert data[length : length + 2] == b"\r\n"
            words.append(data[:length])
            data = data[length + 2 :]
        yield words


def asked(workload: Workload, number: int = 0, batches: int = 50) -> list[list[bytes]]:
    """The first requests of a connection."""
    requests = Requests(workload, number, key_table(workload))
    return [request for _ in range(batches) for request in decoded(requests.batch())]


@pytest.mark.parametrize("pipeline", [1, 7, 500])
def test_writes_have_new_random_keys_of_the_size_asked_for(pipeline: int) -> None:
    requests = asked(Workload(pipeline=pipeline))
    assert len(requests) == 50 * pipeline
    assert {(words[0], len(words[1]), len(words[2])) for words in requests} == {(b"SET", 50, 40)}
    assert len({words[1] for words in requests}) == len({words[2] for words in requests}) == len(requests)
    assert len({words[1][0] for words in requests}) > min(20, pipeline * 2), "keys begin anyhow, not with a prefix"


def test_the_seed_decides_everything() -> None:
    load = Workload(read_share=0.3)
    assert asked(load) == asked(load)
    assert asked(load)[:100] == asked(replace(load, seconds=7, connections=999))[:100], "not the load's size"
    first = {words[1] for words in asked(load)}
    assert not first & {words[1] for words in asked(load, number=1)}, "connections do not write the same keys"
    assert not first & {words[1] for words in asked(replace(load, seed=2))}


def test_a_key_space_bounds_the_keys() -> None:
    load = Workload(keyspace=100, pipeline=200)
    keys = {words[1] for words in asked(load, 0)} | {words[1] for words in asked(load, 1)}
    assert len(keys) == 100, "all of them come up, and connections share them"
    assert {len(key) for key in keys} == {50}
    assert keys != {words[1] for words in asked(replace(load, seed=9))}


def test_reads_are_of_what_was_written() -> None:
    requests = asked(Workload(read_share=0.75, pipeline=10), batches=400)
    written: set[bytes] = set()
    reads = 0
    for words in requests:
        if words[0] == b"SET":
            written.add(words[1])
        else:
            assert words[0] == b"GET"
            assert words[1] in written
            reads += 1
    assert reads == 0.75 * len(requests)


def test_what_reads_remember_is_bounded() -> None:
    load = Workload(read_share=0.01, pipeline=1000, key_bytes=8, value_bytes=1)
    requests = Requests(load, 0, None)
    for _ in range(4 * RECENT // 1000):
        requests.batch()
    assert RECENT <= len(requests._recent) <= 2 * RECENT + 1000


def test_reads_alone_need_a_key_space() -> None:
    assert {words[0] for words in asked(Workload(read_share=1, keyspace=10))} == {b"GET"}
    with pytest.raises(ConfigError, match="reads only, but has no `keyspace`"):
        Workload(read_share=1)


def test_the_request_is_data() -> None:
    load = Workload(
        request=("HSET", "h%:{key}:", "{value}-{key}", "ümlaut", "{other}"), key_bytes=5, value_bytes=3, pipeline=3
    )
    for name, hash_, pair, *rest in asked(load, batches=4):
        key = hash_[3:-1]
        assert (name, hash_, len(key)) == (b"HSET", b"h%:" + key + b":", 5)
        assert (pair[4:], pair[3:4], rest) == (key, b"-", ["ümlaut".encode(), b"{other}"])
    assert asked(Workload(request=("PING",), pipeline=2), batches=1) == [[b"PING"], [b"PING"]]
    assert asked(Workload(value_bytes=0, pipeline=1), batches=1)[0][2] == b""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"connections": 0}, "`connections` is 0; it must be from 1 to 4096"),
        ({"connections": 2, "processes": 3}, "3 processes, but only 2 connections"),
        ({"seconds": 4000.0}, "`seconds` is 4000; it must be from 0.1 to 3600"),
        ({"keyspace": 0}, "`keyspace` is 0"),
        ({"read_share": 1.5}, "`read_share` is 1.5"),
        ({"request": ()}, "a request without words"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Workload(**wrong)


def test_every_connection_belongs_to_one_process() -> None:
    load = Workload(connections=10, processes=4)
    shares = [list(load.share(process)) for process in range(4)]
    assert sorted(number for share in shares for number in share) == list(range(10))
    assert {len(share) for share in shares} == {2, 3}


def test_a_load_is_told_in_one_line() -> None:
    assert Workload().describe() == (
        "SET; keys of 50 bytes, all new; values of 40 bytes; 32 connections, pipeline 16; 30 s"
    )
    assert (
        Workload(read_share=0.2, keyspace=5000).describe().startswith("80% SET, 20% GET; keys of 50 bytes, of 5,000;")
    )


# -- replies --

WHOLE = [b"+OK\r\n", b":12\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"$7\r\na\r\nb\r\nc\r\n", b"*-1\r\n", b"*0\r\n"]
NESTED = b"*3\r\n:1\r\n*2\r\n$1\r\nx\r\n+y\r\n$-1\r\n"


def test_whole_replies_are_counted_wherever_they_are_cut() -> None:
    whole = [*WHOLE, NESTED]
    data = b"".join(whole)
    ends = [sum(map(len, whole[: n + 1])) for n in range(len(whole))]
    for cut in range(len(data) + 1):
        count = sum(end <= cut for end in ends)
        assert replies(data[:cut], 100) == (count, ends[count - 1] if count else 0, None), cut


def test_only_so_many_replies_are_counted_as_are_owed() -> None:
    assert replies(b"+OK\r\n" * 5, 3) == (3, 15, None)


def test_the_first_error_is_told_with_its_place() -> None:
    data = b"+OK\r\n$3\r\n-ER\r\n-ERR no\r\n+OK\r\n-ERR other\r\n"
    assert replies(data, 9) == (5, len(data), (2, "ERR no"))
    assert replies(b"-ERR n", 9) == (0, 0, None), "an error that is not whole is not one yet"


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"+OK\r\n\r\n", b"*2\r\n:1\r\nx", b"*1\r\n" * 9999]
)
def test_what_is_not_the_protocol_is_told(data: bytes) -> None:
    with pytest.raises(Failure, match="no reply of the protocol"):
        replies(data, 9)


def test_a_reply_without_end_is_refused() -> None:
    assert replies(b"$9000000000\r\n" + b"x" * 1000, 9) == (0, 0, None), "there may be more to come"
    with pytest.raises(Failure, match="longer than 16 MiB"):
        replies(b"$9000000000\r\n" + b"x" * REPLY_LIMIT, 9)


# -- comparison --


def samples(
    rates: Sequence[int], *, latency: int = 1000, memory: Sequence[int | None] = (), busy: float = 0.1
) -> Samples:
    """Intervals of a second: requests, all of one latency, and MiB of memory."""
    held = [*memory, *[None] * (len(rates) - len(memory))]
    return Samples(
        intervals=tuple(
            Interval(
                start=float(n),
                seconds=1.0,
                latency=Histogram.of({bucket(latency): rate}),
                resident=None if (mib := held[n]) is None else mib * MIB,
            )
            for n, rate in enumerate(rates)
        ),
        late=Histogram(),
        resident_before=None,
        busy=busy,
    )


def run_of(name: str, of: Samples, *, number: int = 0) -> LoadRun:
    return LoadRun(name=name, round=number, samples=of)


def ratio(comparison: Comparison, name: str, metric: str) -> float | None:
    """The median over rounds."""
    return comparison.ratios[name][metric].median


def test_ratios_are_to_the_baseline() -> None:
    found = compare(
        [
            run_of("none", samples([100, 200, 300], latency=200, memory=[10, 30, 20])),
            run_of("other", samples([400, 100, 300], latency=50, memory=[10, 15, 10])),
        ]
    )
    assert found.names == ("none", "other")
    assert found.figures["none"]["throughput"].median == 200, "the median over intervals"
    assert (ratio(found, "other", "throughput"), ratio(found, "none", "throughput")) == (1.5, 1.0)
    assert (ratio(found, "other", "p50"), ratio(found, "other", "p99")) == (0.25, 0.25)
    assert (ratio(found, "other", "resident_peak"), ratio(found, "other", "resident_end")) == (0.5, 0.5)


def test_another_baseline() -> None:
    runs = [run_of("none", samples([100])), run_of("b", samples([50]))]
    assert ratio(compare(runs, "b"), "none", "throughput") == 2.0
    with pytest.raises(ConfigError, match="no run of `c`"):
        compare(runs, "c")
    with pytest.raises(ConfigError, match="no run of `none`"):
        compare([])


def test_warming_up_does_not_count() -> None:
    cold = samples([1, 1, 1, 100], latency=100)
    cold = replace(
        cold, intervals=(*(replace(i, latency=counted([90_000])) for i in cold.intervals[:3]), cold.intervals[3])
    )
    assert compare([run_of("none", cold)]).figures["none"]["throughput"].median == 1
    found = compare([run_of("none", cold)], warm_up=3.0).figures["none"]
    assert (found["throughput"].median, found["p999"].median) == (100, 100)


def test_requests_on_their_way_at_the_end_have_a_latency_but_no_rate() -> None:
    late = replace(samples([10], latency=100), late=counted([50_000] * 5))
    found = compare([run_of("none", late)]).figures["none"]
    assert found["throughput"].median == 10
    assert found["p99"].median == bounds(bucket(50_000))[1]
    assert late.requests == 15


def test_rounds_are_compared_one_by_one_and_their_median_is_told() -> None:
    runs = []
    # The machine is 1, 10 and 2 times as fast in the three rounds; what matters are the ratios 1.5, 1.1 and 1.2.
    for number, (mood, times) in enumerate([(100, 1.5), (1000, 1.1), (200, 1.2)]):
        runs.append(run_of("none", samples([mood]), number=number))
        runs.append(run_of("a", samples([round(mood * times)]), number=number))
    spread = compare(runs).ratios["a"]["throughput"]
    assert spread.values == pytest.approx((1.5, 1.1, 1.2))
    assert (spread.low, spread.median, spread.high) == pytest.approx((1.1, 1.2, 1.5))
    assert compare(runs).rows()[1][2] == "1.20 (1.10-1.50)"


def test_a_round_without_a_partner_is_left_out() -> None:
    runs = [
        run_of("none", samples([100]), number=0),
        run_of("a", samples([120]), number=0),
        run_of("a", samples([990]), number=1),
    ]
    found = compare(runs)
    assert found.ratios["a"]["throughput"].values == (1.2, None)
    assert found.figures["a"]["throughput"].values == (120, 990)
    with pytest.raises(ConfigError, match="twice in one round"):
        compare([*runs, runs[0]])


def test_where_there_is_nothing_to_divide_by_there_is_no_figure() -> None:
    found = compare([run_of("none", samples([0, 0])), run_of("a", samples([5, 5], memory=[3, 3]))])
    assert [ratio(found, "a", metric.name) for metric in METRICS] == [None] * len(METRICS)
    assert found.figures["a"]["throughput"].median == 5
    assert found.rows()[0] == ("none", "0", *[NO_FIGURE] * 7)
    assert found.rows()[1][1:3] == ("5", NO_FIGURE)
    told = json.loads(json.dumps(found.json(), allow_nan=False))
    assert told["series"]["a"]["throughput"]["ratio"]["median"] is None
    assert told["series"]["none"]["p99"]["median"] is None


def test_all_of_it_warming_up_is_no_figure() -> None:
    found = compare([run_of("none", samples([5], memory=[4]))], warm_up=10.0)
    assert found.rows() == [("none", NO_FIGURE, NO_FIGURE, NO_FIGURE, NO_FIGURE, "4.0", "1.00", "4.0", "1.00")]


def test_memory_is_compared_after_equal_work() -> None:
    """The one that is twice as fast holds twice as much at the end, for that reason alone."""
    slow = samples([100, 100], memory=[20, 30])
    fast = samples([160, 240], memory=[26, 50])
    found = compare([run_of("none", slow), run_of("fast", fast)])
    assert ratio(found, "fast", "resident_end") == pytest.approx(50 / 30)
    # 200 requests: a sixth of the way from 160 to 400, so from 26 MiB to 50.
    assert found.figures["fast"]["resident_equal"].median == pytest.approx(30 * MIB)
    assert ratio(found, "fast", "resident_equal") == pytest.approx(1.0)


def test_equal_work_is_of_the_same_round() -> None:
    runs = [
        run_of("none", samples([10], memory=[5]), number=0),
        run_of("a", samples([10], memory=[6]), number=0),
        run_of("none", samples([50, 50], memory=[50, 100]), number=1),
        run_of("a", samples([60, 60], memory=[60, 120]), number=1),
    ]
    assert compare(runs).figures["a"]["resident_equal"].values == pytest.approx((6 * MIB, 100 * MIB))


def test_memory_that_was_not_sampled_is_skipped() -> None:
    found = compare([run_of("none", samples([100, 100, 100], memory=[10, None, 30]))]).figures["none"]
    assert (found["resident_peak"].median, found["resident_end"].median) == (30 * MIB, 30 * MIB)
    ended = compare([run_of("none", samples([100, 100], memory=[10, None]))]).figures["none"]
    assert (ended["resident_peak"].median, ended["resident_end"].median, ended["resident_equal"].median) == (
        10 * MIB,
        None,
        None,
    )


def test_a_load_at_its_limit_is_told() -> None:
    runs = [run_of("none", samples([1], busy=0.5)), run_of("a", samples([1], busy=0.97))]
    [note] = compare(runs).notes()
    assert "at its limit (a): " in note
    assert compare(runs[:1]).notes() == []


def test_the_table_has_a_head_for_each_column() -> None:
    found = compare([run_of("none", samples([1234567], latency=100, memory=[3]))])
    assert len(found.header()) == len(found.rows()[0])
    assert found.header()[:3] == ("allocator", "throughput, requests/s", "x none")
    assert found.rows() == [("none", "1,234,567", "1.00", "100", "1.00", "3.0", "1.00", "3.0", "1.00")]


def test_samples_are_plain_data() -> None:
    told = json.loads(json.dumps(samples([5, 0], latency=100, memory=[1]).json()))
    assert told["requests"] == 5
    assert told["latency_us"] == {"p50": 100, "p99": 100, "p999": 100}
    assert [i["resident"] for i in told["intervals"]] == [MIB, None]
    assert told["intervals"][1]["latency_us"]["p99"] is None
