"""A load test of so many keys on a small server: each is written once, also over interruptions and full disks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from integration.test_bench_load import Server, Words, after, ok
from limits import within
from own_engine import fill, small_disk

from pikaforge.bench import load_test
from pikaforge.bench.histogram import Histogram, bucket
from pikaforge.bench.journal import AllocatorText, JournalHead, LoadJournal
from pikaforge.bench.key_load import KeyLoad, KeyRequests, expiring_among
from pikaforge.bench.load import Interval
from pikaforge.bench.load_picture import LoadPicture, draw_load
from pikaforge.bench.load_test import Progress
from pikaforge.bench.worker import replies
from pikaforge.cli import output
from pikaforge.cli.commands import bench_load, bench_questions
from pikaforge.errors import ForgeError, FullDiskError
from pikaforge.host import process
from pikaforge.host.job import Input, ServerJob, files
from pikaforge.host.no_container import HostEngine

ROOT = Path(__file__).resolve().parents[2]
LOAD = KeyLoad(keys=3000, connections=4, processes=2, pipeline=8)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """However a load ends, its processes are gone."""
    yield
    assert multiprocessing.active_children() == []


def begun(folder: Path, load: KeyLoad = LOAD) -> LoadJournal:
    """The journal of a new test."""
    head = JournalHead(load=load, server="x", interval=0.1, data="bench-x", began=time.time())
    return LoadJournal.begin(folder / "load", head)


def put(server: Server, journal: LoadJournal, watch: Callable[[Progress], None] = lambda _: None) -> float:
    return within(
        60, lambda: load_test.run("127.0.0.1", server.port, journal, resident=lambda: 7, watch=watch, name="mine")
    )


def again(journal: LoadJournal) -> LoadJournal:
    """The journal as the next run finds it."""
    found = LoadJournal.open(journal.folder)
    assert found is not None
    return found


def requests_after(load: KeyLoad, done: Sequence[int]) -> list[list[Words]]:
    """All requests that are left on each connection."""
    found = []
    for number, keys in enumerate(done):
        requests, words = KeyRequests(load, number, keys, lambda _: None), list[Words]()
        while data := requests.batch():
            count, used, _ = replies(data, load.pipeline)  # a request is a list, as a reply may be
            assert (count, used) == (requests.asked, len(data))
            for text in data.split(b"\r\n*"):
                words.append(text.removesuffix(b"\r\n").split(b"\r\n")[2::2])
            requests.answered(requests.asked)
        found.append(words)
    return found


def seen(server: Server) -> list[Words]:
    return [words for asked in server.connections for words in asked]


def test_every_key_is_written_once_and_all_is_counted(tmp_path: Path) -> None:
    journal, told = begun(tmp_path), list[Progress]()
    with Server(ok) as server:
        busy = put(server, journal, told.append)
    asked = seen(server)
    assert len(asked) == len({words[1] for words in asked}) == LOAD.keys
    assert sorted(server.connections) == sorted(requests_after(LOAD, [0] * 4))
    assert sum(len(words) == 5 for words in asked) == 600 == journal.written()[1]
    assert (journal.written()[0], list(journal.acknowledged())) == (3000, [750] * 4)
    found = load_test.samples(again(journal), busy)
    assert found.requests == LOAD.keys
    assert [round(i.seconds, 6) for i in found.intervals[:-1]] == [0.1] * (len(found.intervals) - 1)
    assert found.intervals[-1].resident == 7
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert (told[-1].done, told[-1].keys) == (3000, 3000)
    assert told[-1].rate > 0
    assert 0 < busy <= 1.1


class Stop(KeyboardInterrupt):
    """As Ctrl-C."""


def stopping(least: int) -> Callable[[Progress], None]:
    """Interrupts when so many keys were acknowledged."""

    def watch(progress: Progress) -> None:
        if progress.done >= least:
            raise Stop

    return watch


@pytest.mark.parametrize("pipeline", [1, 8])
def test_an_interrupted_test_goes_on_with_the_next_key(tmp_path: Path, pipeline: int) -> None:
    load = replace(LOAD, pipeline=pipeline)
    journal = begun(tmp_path, load)
    with Server(ok, delay=0.0005) as first, pytest.raises(Stop):
        put(first, journal, stopping(500))
    for _ in range(2):
        journal = again(journal)
        done = journal.acknowledged()
        assert 500 <= sum(done) < load.keys
        with Server(ok, delay=0.0005) as second, pytest.raises(Stop):
            put(second, journal, stopping(sum(done) + 500))
        for left, asked in zip(sorted(requests_after(load, done)), sorted(second.connections), strict=True):
            assert asked == left[: len(asked)], "what was acknowledged is not written again"
    journal = again(journal)
    done, lost = journal.acknowledged(), journal.written()[0] - sum(line.interval().requests for line in journal.lines)
    assert 0 <= lost < load.keys
    with Server(ok) as last:
        put(last, journal)
    assert sorted(last.connections) == sorted(requests_after(load, done))
    assert journal.written() == (3000, 600)
    assert {line.session for line in journal.lines} == {1, 2, 3, 4}
    assert len(bench_load.pauses_of(journal)) == 3
    starts = [line.start for line in journal.lines]
    assert starts == sorted(starts)


def test_a_batch_that_was_acknowledged_in_part_is_not_written_again(tmp_path: Path) -> None:
    load = KeyLoad(keys=100, connections=1, pipeline=10, expire_share=0.5)
    journal = begun(tmp_path, load)
    with Server(after(23, b"-ERR disk is full\r\n")) as first, pytest.raises(ForgeError) as caught:
        put(first, journal)
    assert caught.value.message.endswith("answered `SET {key} {value} EX {ttl}` with an error: ERR disk is full")
    journal = again(journal)
    assert list(journal.acknowledged()) == [23]
    assert expiring_among(load, 0, 23) == 5 + 5 + 3
    with Server(ok) as second:
        put(second, journal)
    assert seen(second) == requests_after(load, [23])[0]
    assert [len(words) for words in seen(second)[:7]] == [5, 5, 3, 3, 3, 3, 3], "those of the same keys expire"
    assert journal.written() == (100, 50)


KILLED = """
import sys
from pathlib import Path
from pikaforge.bench import load_test
from pikaforge.bench.histogram import Histogram, bucket
from pikaforge.bench.load import Interval
from pikaforge.bench.load_picture import LoadPicture, draw_load
from pikaforge.bench.journal import LoadJournal
if __name__ == "__main__":
    journal = LoadJournal.open(Path(sys.argv[1]))
    load_test.run("127.0.0.1", int(sys.argv[2]), journal, resident=lambda: 7, watch=lambda _: None)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_loses_no_acknowledgement(tmp_path: Path, number: signal.Signals) -> None:
    journal = begun(tmp_path)
    script = tmp_path / "run.py"
    script.write_text(KILLED, encoding="utf-8")
    with Server(ok, delay=0.001) as server:
        argv = [sys.executable, str(script), str(journal.folder), str(server.port)]
        running = subprocess.Popen(
            argv,
            env={**os.environ, "PYTHONPATH": str(ROOT / "build")},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while sum(map(len, server.connections)) < 700:
                assert time.monotonic() < deadline
                assert running.poll() is None
                time.sleep(0.01)
        finally:
            running.send_signal(number)
            running.wait(30)
        # Its processes notice that it is gone, and end.
        count = -1
        while count != (count := sum(map(len, server.connections))):
            time.sleep(0.3)
        answered = sum(map(len, server.connections))
    journal = again(journal)
    done = journal.acknowledged()
    in_flight = LOAD.connections * LOAD.pipeline
    assert answered - in_flight <= sum(done) <= answered < LOAD.keys
    with Server(ok) as second:
        put(second, journal)
    assert sorted(second.connections) == sorted(requests_after(LOAD, done))
    assert journal.written() == (3000, 600)


def test_a_server_that_is_silent_ends_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_test, "STALL", 0.3)
    journal = begun(tmp_path)
    with Server(ok, delay=300) as server, pytest.raises(ForgeError, match=r"has not answered for 0\.3 s"):
        put(server, journal)
    assert sum(journal.acknowledged()) == 0


def test_one_process_may_have_less_to_do(tmp_path: Path) -> None:
    load = KeyLoad(keys=5, connections=3, processes=3, pipeline=2)
    journal = begun(tmp_path, load)
    with Server(ok) as server:
        put(server, journal)
    assert sorted(len(asked) for asked in server.connections) == [1, 2, 2]
    few = KeyLoad(keys=1, connections=4, processes=2)
    journal = begun(tmp_path, few)
    with Server(ok) as server:
        put(server, journal)
    assert (len(seen(server)), journal.written()) == (1, (1, 0))


# ---- a server whose disk is small, and whose data outlive it

WRITER = r"""#!/usr/bin/python3
import os, socketserver, sys
folder, port = sys.argv[1], int(sys.argv[2])
log = open(os.path.join(folder, "log"), "ab", buffering=0)
class Client(socketserver.StreamRequestHandler):
    def handle(self):
        while head := self.rfile.readline():
            for _ in range(int(head[1:])):
                word = self.rfile.read(int(self.rfile.readline()[1:]) + 2)
            log.write(word * 60)
            self.wfile.write(b"+OK\r\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("127.0.0.1", port), Client).serve_forever()
"""
"""Keeps 2.5 kB on disk for each request, 0.4 kB of one with a time to live."""


def job_of(engine: HostEngine, log: Path, kept: str) -> ServerJob:
    port = engine.free_port((0,))
    script = files({"server": WRITER.encode()}, executable=("server",))
    return ServerJob(
        label="writer",
        image="",
        argv=("server", f"{engine.root('writer')}/data", str(port)),
        inputs=(Input(folder="", archive=script),),
        port=port,
        log=log,
        kept=kept,
    )


def reachable(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    pytest.fail("the server does not listen")


def test_a_load_ends_before_the_servers_disk_is_full_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16,000 keys take 34 MB, for which there is room only after something else was removed."""
    monkeypatch.setattr(bench_load, "WATCH", 0.0)
    journal = begun(tmp_path, KeyLoad(keys=16_000, connections=2, pipeline=8))
    with small_disk("64m") as disk:
        filler = fill(disk, leave=20 << 20)
        engine = HostEngine(disk / "work")

        def session() -> None:
            job = job_of(engine, tmp_path / "log", "data")
            with engine.serve(job) as running:
                reachable(job.port)
                look = bench_questions.looking_at(running, "the disk")
                watch = bench_load.watching(output.ProgressLine(), look)
                within(120, lambda: load_test.run("127.0.0.1", job.port, journal, resident=lambda: 7, watch=watch))

        with pytest.raises(FullDiskError, match=r"the disk has only .* left: the load was stopped after "):
            session()
        left = os.statvfs(disk)
        assert left.f_bavail * left.f_frsize > 1 << 20, "it has not become full"
        journal = again(journal)
        done = journal.written()[0]
        assert 1000 < done < 16_000
        filler.unlink()
        session()
        assert journal.written()[0] == 16_000
        size = (disk / "kept" / "data" / "log").stat().st_size
        once = 60 * (12_800 * 42 + 3_200 * len("86400\r\n"))  # it keeps the last word of a request
        assert once <= size <= once + 60 * 2 * 8 * 42, "what was under way when the load was stopped is there twice"
        engine.forget("data")
        assert list((disk / "kept").iterdir()) == []


def test_a_full_disk_of_the_journal_ends_the_test_and_it_goes_on(tmp_path: Path) -> None:
    with small_disk("1m") as disk:
        journal = begun(disk)
        filler = fill(disk)
        with Server(ok, delay=0.001) as server, pytest.raises(FullDiskError, match=f"no space left in {disk}/load"):
            put(server, journal)
        journal = again(journal)
        done = journal.acknowledged()
        assert 0 < sum(done) <= LOAD.keys
        filler.unlink()
        with Server(ok) as server:
            put(server, journal)
        assert sorted(server.connections) == sorted(requests_after(LOAD, done))
        assert journal.written() == (3000, 600)


KEEPER = """
import sys
from pathlib import Path
from integration.test_bench_keys import HostEngine, job_of, reachable
top = Path(sys.argv[1])
engine = HostEngine(top / "out" / "work")
job = job_of(engine, top / "log", "data")
with engine.serve(job) as running:
    reachable(job.port)
    print(running.pid, flush=True)
    sys.stdin.read()
"""


def test_the_server_of_a_run_that_was_killed_is_ended_before_another_gets_its_data(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'build'}:{ROOT / 'tests'}"}
    argv = [sys.executable, "-c", KEEPER, str(tmp_path)]
    run = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    run.kill()
    run.communicate()
    assert not process.ended(pid), "it is left behind"
    engine = HostEngine(tmp_path / "out" / "work")
    with engine.serve(job_of(engine, tmp_path / "log2", "data")):
        assert process.ended(pid)
    engine.forget("data")
    engine.forget("data")
    assert engine.sweep() == 1


# ---- the plot; here, because matplotlib asks fc-list for fonts when it runs first


def a_picture(count: int, texts: Sequence[AllocatorText] = (), pauses: Sequence[float] = ()) -> LoadPicture:
    """A test of so many seconds, which pauses once."""
    return LoadPicture(
        title=r"Product $\frac{$",
        subtitle="the load",
        footer="what the server has",
        intervals=tuple(
            Interval(
                start=float(n),
                seconds=1.0,
                latency=Histogram.of({bucket(5_000_000 if n == 7 else 900 + n): 50_000}),
                resident=None if n % 3 else (100 + n) << 20,
            )
            for n in range(count)
        ),
        pauses=tuple(pauses),
        before=tuple(texts),
        after=tuple(texts),
    )


def drawn(folder: Path, picture: LoadPicture) -> tuple[str, bytes]:
    svg, png = draw_load(picture, folder=folder, stem="x")
    assert sorted(path.name for path in folder.iterdir()) == ["x.png", "x.svg"], "nothing half-made is left"
    return svg.read_text(encoding="utf-8"), png.read_bytes()


def test_a_plot_of_a_load_is_drawn_and_the_same_twice(tmp_path: Path) -> None:
    texts = [AllocatorText(title="TELL ME", text=r"MALLOC: $\frac{$ 5" + "\n" + "more\n" * 30 + "the last")]
    picture = a_picture(400, texts, [100.0, 200.0])
    svg, png = drawn(tmp_path / "a", picture)
    # matplotlib draws letters as paths and leaves the text as a comment.
    for text in (
        r"Product $\frac{$",
        "the load",
        "what the server has",
        "minutes of load",
        "dotted: interrupted, and went on",
    ):
        assert f"<!-- {text} -->" in svg
    for text in ("Throughput (1000 requests/s)", "p99 latency (s)", "Resident memory (MiB)"):
        assert f"<!-- {text} -->" in svg
    assert svg.count("TELL ME") == 2
    assert r"MALLOC: $\frac{$ 5" in svg, "it is no formula"
    assert "… and 8 more lines, in the report" in svg
    assert "the last" not in svg
    assert "<dc:date>" not in svg
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(png[16:20], "big") == 1200, "pixels wide"
    assert drawn(tmp_path / "b", picture) == (svg, png)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_plot_of_a_short_load(tmp_path: Path, count: int) -> None:
    svg, _ = drawn(tmp_path, a_picture(count))
    assert "<!-- seconds of load -->" in svg
    assert svg.count("<!-- no figure -->") == (0 if count else 3)
    assert "The allocator" not in svg
