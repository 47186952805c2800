"""A real load on a small server of this test: all is counted, delays are seen, and a server that fails is told."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from limits import within

from pikaforge.bench import load as load_module
from pikaforge.bench.figures import draw
from pikaforge.bench.histogram import Histogram, bucket
from pikaforge.bench.load import Interval, Samples, run
from pikaforge.bench.summary import LoadRun, compare
from pikaforge.bench.workload import Workload
from pikaforge.errors import ConfigError, ForgeError, HostError

SMALL = Workload(connections=4, processes=2, pipeline=8, seconds=0.6)
Words = list[bytes]


def store(seen: list[Words]) -> Callable[[Words], bytes]:
    """Answers like a key-value store."""
    held: dict[bytes, bytes] = {}

    def answer(words: Words) -> bytes:
        seen.append(words)
        if words[0] == b"SET":
            held[words[1]] = words[2]
            return b"+OK\r\n"
        value = held[words[1]]
        return b"$%d\r\n%b\r\n" % (len(value), value)

    return answer


@dataclass(slots=True)
class Server:
    """A server in a thread of this process."""

    answer: Callable[[Words], bytes]
    """The reply to a request; empty closes the connection."""
    delay: float = 0.0
    """Seconds before each packet's replies."""
    cut: int = 0
    """Bytes of replies per packet; 0: all at once."""
    port: int = 0
    connections: list[list[Words]] = field(default_factory=list)
    """Requests by connection."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _ready: threading.Event = field(default_factory=threading.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()

    _thread: threading.Thread = field(init=False)
    _over: asyncio.Event = field(init=False)

    def end(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._over.set)

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        asked: list[Words] = []
        self.connections.append(asked)
        try:
            while (words := await self._request(reader)) is not None:
                asked.append(words)
                if self.delay:
                    await asyncio.sleep(self.delay)
                reply = self.answer(words)
                if not reply:
                    break
                for start in range(0, len(reply), self.cut or len(reply)):
                    writer.write(reply[start : start + (self.cut or len(reply))])
                    if self.cut:
                        await writer.drain()
                        await asyncio.sleep(0)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> Words | None:
        head = await reader.readline()
        if not head:
            return None
        words = []
        for _ in range(int(head[1:])):
            size = int((await reader.readline())[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        return words


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """However a load ends, its processes are gone."""
    yield
    assert multiprocessing.active_children() == []


def put(server: Server, workload: Workload = SMALL, resident: Callable[[], int | None] = lambda: None) -> Samples:
    """A load on the server, which this test calls `mine`."""
    return run("127.0.0.1", server.port, workload, resident=resident, interval=0.2, name="mine")


def ok(_: Words) -> bytes:
    return b"+OK\r\n"


def test_all_requests_are_counted_and_memory_is_sampled() -> None:
    memory = iter(range(1000, 2000))
    with Server(ok) as server:
        samples = within(60, lambda: put(server, resident=lambda: next(memory)))
    seen = [words for asked in server.connections for words in asked]
    assert len(server.connections) == SMALL.connections
    assert samples.requests == len(seen) > 0
    assert samples.requests == sum(i.requests for i in samples.intervals) + samples.late.total
    assert samples.late.total <= SMALL.connections * SMALL.pipeline
    assert {(words[0], len(words[1]), len(words[2])) for words in seen} == {(b"SET", 50, 40)}
    assert len({words[1] for words in seen}) == len(seen), "every key is new, over all processes"
    assert [round(i.start, 6) for i in samples.intervals] == [0, 0.2, 0.4]
    assert any(i.requests > 0 for i in samples.intervals)
    assert samples.resident_before == 1000
    held = [i.resident for i in samples.intervals if i.resident is not None]
    assert held == sorted(held)
    assert samples.intervals[-1].resident is not None
    assert 0 < samples.busy <= 1.1  # the kernel counts CPU time in ticks


def test_the_last_interval_may_be_shorter() -> None:
    with Server(ok) as server:
        samples = put(server, Workload(connections=1, processes=1, pipeline=1, seconds=0.5))
    assert [round(i.seconds, 6) for i in samples.intervals] == [0.2, 0.2, 0.1]
    assert samples.late.total == 1, "the one on its way at the end is in no interval"


def test_two_loads_of_one_seed_ask_the_same() -> None:
    asked = []
    for _ in range(2):
        with Server(ok) as server:
            put(server)
        asked.append({requests[0][1]: requests for requests in server.connections})
    assert asked[0].keys() == asked[1].keys()
    for key, requests in asked[0].items():
        shared = min(len(requests), len(asked[1][key]))
        assert shared > 0
        assert requests[:shared] == asked[1][key][:shared]


def test_a_delay_is_seen() -> None:
    load = Workload(connections=2, processes=1, pipeline=1, seconds=0.6)
    with Server(ok, delay=0.04) as server:
        slow = put(server, load)
    median = slow.latency.quantile(500)
    assert median is not None
    assert median >= 40_000
    assert slow.requests <= 2 * (0.6 / 0.04 + 1)


def test_a_later_reply_of_a_batch_has_waited_longer() -> None:
    load = Workload(connections=1, processes=1, pipeline=4, seconds=0.6)
    with Server(ok, delay=0.03) as server:  # before each request's reply
        samples = put(server, load)
    low, high = samples.latency.quantile(1), samples.latency.quantile(1000)
    assert low is not None
    assert high is not None
    assert low >= 30_000
    assert high >= 120_000


def test_reads_get_what_was_written() -> None:
    seen: list[Words] = []
    load = Workload(connections=3, processes=1, pipeline=8, seconds=0.4, read_share=0.5)
    with Server(store(seen)) as server:  # a key that it does not know ends its connection
        samples = put(server, load)
    reads = sum(words[0] == b"GET" for words in seen)
    assert samples.requests == len(seen)
    assert reads == len(seen) / 2 > 0


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"$12\r\nhello\r\nworld\r\n", b"*2\r\n:1\r\n$-1\r\n"])
def test_replies_that_come_in_pieces_are_whole_ones(reply: bytes) -> None:
    load = Workload(connections=2, processes=1, pipeline=5, seconds=0.3)
    with Server(lambda _: reply, cut=3) as server:
        samples = put(server, load)
    assert samples.requests == sum(map(len, server.connections)) > 0


def test_batches_larger_than_the_sockets_buffers_arrive() -> None:
    load = Workload(connections=2, processes=1, pipeline=400, value_bytes=20_000, seconds=0.3)
    with Server(ok) as server:
        samples = put(server, load)
    seen = [words for asked in server.connections for words in asked]
    assert samples.requests == len(seen) >= 2 * 400
    assert {len(words[2]) for words in seen} == {20_000}


def after(count: int, reply: bytes) -> Callable[[Words], bytes]:
    """Answers as it should so many times."""
    left = iter(range(count))
    return lambda _: reply if next(left, None) is None else b"+OK\r\n"


def failure(server: Server, workload: Workload = SMALL) -> ForgeError:
    """How a load of at most a minute ended."""
    with pytest.raises(ForgeError) as caught:
        within(30, lambda: put(server, workload))
    assert caught.value.message.startswith(f"the server `mine` at 127.0.0.1:{server.port} ")
    return caught.value


LONG = Workload(connections=4, processes=2, pipeline=8, seconds=60)


def test_a_server_that_closes_ends_the_load_at_once() -> None:
    with Server(after(100, b"")) as server:
        assert "closed a connection" in failure(server, LONG).message


def test_an_error_ends_the_load_with_the_request_and_the_reply() -> None:
    with Server(after(100, b"-ERR disk is full\r\n")) as server:
        error = failure(server, LONG)
    assert error.message.endswith("answered `SET {key} {value}` with an error: ERR disk is full")
    assert error.hint


def test_an_error_of_a_read_names_the_read() -> None:
    load = Workload(connections=1, processes=1, pipeline=4, seconds=60, read_share=0.5)
    with Server(lambda words: b"+OK\r\n" if words[0] == b"SET" else b"-WRONGTYPE no\r\n") as server:
        assert "answered `GET {key}` with an error: WRONGTYPE no" in failure(server, load).message


def test_what_is_not_the_protocol_ends_the_load() -> None:
    with Server(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        assert "no reply of the protocol: b'HTTP/1.1 400" in failure(server, LONG).message


@pytest.mark.parametrize(("pipeline", "delay"), [(1, 0.0), (3, 0.02)], ids=["in one packet", "two by two"])
def test_more_replies_than_requests_end_the_load(pipeline: int, delay: float) -> None:
    load = Workload(connections=1, processes=1, pipeline=pipeline, seconds=10)
    with Server(lambda _: b"+OK\r\n+OK\r\n", delay=delay) as server:
        assert "more replies than it was asked for" in failure(server, load).message


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.socket() as probe:  # bound and not listening, so nobody else takes the port
        probe.bind(("127.0.0.1", 0))
        server = Server(ok, port=probe.getsockname()[1])
        message = failure(server).message
        assert re.search(r"refused connection [12]: Connection refused$", message)
    server._loop.close()


def test_a_server_that_does_not_answer_is_told_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "GRACE", 0.3)
    with Server(ok, delay=300) as server:
        assert "still owes replies on 2 connections 0.3 s after the end" in failure(server).message


def test_the_server_is_blamed_before_the_memory_that_cannot_be_read() -> None:
    with Server(ok) as server:
        calls = iter(range(100))

        def gone() -> int:
            if next(calls) < 2:
                return 1
            server.end()
            raise HostError("no such process")

        with pytest.raises(ForgeError, match=r"the server `mine` at .* closed a connection"):
            put(server, LONG, resident=gone)


def test_memory_that_cannot_be_read_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "LEAVING", 60.0)  # processes leave by themselves; none waits to be killed
    calls = iter(range(100))

    def broken() -> int:
        if next(calls) < 2:
            return 1
        raise HostError("the engine is gone")

    with Server(ok) as server, pytest.raises(HostError, match="the engine is gone"):
        within(30, lambda: put(server, LONG, resident=broken))


def test_memory_that_takes_long_to_read_is_left_out_between() -> None:
    with Server(ok) as server:
        pause = threading.Event()
        samples = put(
            server,
            Workload(connections=1, processes=1, pipeline=1, seconds=1.0),
            resident=lambda: int(pause.wait(0.25)) + 7,
        )
    held = [i.resident for i in samples.intervals]
    assert held[0] == held[-1] == 7
    assert None in held


def test_a_load_process_that_is_killed_is_told() -> None:
    calls = iter(range(100))

    def kill() -> int:
        if next(calls) == 1:
            multiprocessing.active_children()[0].kill()
        return 1

    with Server(ok) as server, pytest.raises(HostError, match=r"a load process for the server `mine`.* was killed"):
        put(server, LONG, resident=kill)


def test_only_private_addresses_are_put_under_load() -> None:
    with pytest.raises(ConfigError, match=r"9\.9\.9\.9 is on a public network"):
        run("9.9.9.9", 6379, SMALL, resident=lambda: None)


@pytest.mark.parametrize("interval", [0.0, 5.0])
def test_an_interval_that_makes_no_sense_is_refused(interval: float) -> None:
    with pytest.raises(ConfigError, match="the interval is "):
        run("127.0.0.1", 1, SMALL, resident=lambda: None, interval=interval)


# -- pictures; here, because matplotlib asks fc-list for fonts when it runs first --


def made(rates: list[int], latency: int, mib: int | None, number: int) -> Samples:
    """Samples of intervals of half a second."""
    return Samples(
        intervals=tuple(
            Interval(
                start=n / 2,
                seconds=0.5,
                latency=Histogram.of({bucket(latency + 10 * n): rate}),
                resident=None if mib is None else (mib + n + number) << 20,
            )
            for n, rate in enumerate(rates)
        ),
        late=Histogram(),
        resident_before=None,
    )


def picture(folder: Path, runs: list[LoadRun]) -> tuple[str, bytes]:
    """The SVG's text and the PNG's bytes."""
    svg, png = draw(runs, compare(runs), title="Product 1.0", subtitle="the load", folder=folder, stem="bench")
    assert sorted(path.name for path in folder.iterdir()) == ["bench.png", "bench.svg"], "nothing half-made is left"
    return svg.read_text(encoding="utf-8"), png.read_bytes()


def two(rounds: int = 3) -> list[LoadRun]:
    """Two servers over some rounds."""
    return [
        LoadRun(name=name, round=number, samples=made([rate + number, rate, rate + 9], latency, 40, number))
        for number in range(rounds)
        for name, rate, latency in (("none", 50_000, 4000), ("frame-pointers", 60_000, 3000))
    ]


def test_a_picture_is_drawn_and_the_same_twice(tmp_path: Path) -> None:
    svg, png = picture(tmp_path / "a", two())
    # matplotlib draws letters as paths and leaves the text as a comment.
    for text in ("Product 1.0", "the load", "none", "frame-pointers", "Throughput (1000 requests/s)", "1.20"):
        assert f"<!-- {text} -->" in svg
    for text in ("p99 latency (ms)", "Resident memory (MiB)", "seconds since the load's start"):
        assert f"<!-- {text} -->" in svg
    assert "<dc:date>" not in svg
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(png[16:20], "big") == 1200, "pixels wide"
    assert len(png) > 20_000
    assert picture(tmp_path / "b", two()) == (svg, png)
    assert picture(tmp_path / "c", two(2))[0] != svg


def test_a_picture_without_figures_says_so(tmp_path: Path) -> None:
    runs = [
        LoadRun(name="none", round=0, samples=made([0, 0], 1, None, 0)),
        LoadRun(name="a", round=0, samples=made([0, 0], 1, None, 0)),
    ]
    svg, _ = picture(tmp_path, runs)
    assert svg.count("<!-- no figure -->") == 5, "three ratios, and no latency nor memory over time"


def test_a_pause_does_not_flatten_the_rest(tmp_path: Path) -> None:
    def latencies(last: int) -> list[LoadRun]:
        samples = made([10] * 9, 1000, 10, 0)
        paused = Interval(start=4.5, seconds=0.5, latency=Histogram.of({bucket(last): 10}), resident=None)
        return [LoadRun(name="none", round=0, samples=Samples(
            intervals=(*samples.intervals, paused), late=Histogram(), resident_before=None))]  # fmt: skip

    power = "$\\mathdefault{10^{"  # how labels of a logarithmic axis begin
    assert power in picture(tmp_path / "paused", latencies(5_000_000))[0]
    assert power not in picture(tmp_path / "steady", latencies(1500))[0]


def test_drawing_changes_no_setting_of_the_library(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    picture(tmp_path, two(1))
    assert dict(matplotlib.rcParams) == before


def test_without_the_library_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(HostError, match="the Python package matplotlib cannot be imported") as caught:
        draw(two(), compare(two()), title="", subtitle="", folder=tmp_path, stem="x")
    assert "pikaforge[bench]" in caught.value.hint
