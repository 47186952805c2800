"""`bench --keys`: the load test of one server with so many keys. It goes on where it was interrupted."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from pikaforge.bench import figures, load_test, room, summary
from pikaforge.bench.journal import ANEW, AllocatorText, JournalHead, LoadJournal
from pikaforge.bench.key_load import KeyLoad
from pikaforge.bench.load import Samples, quantiles
from pikaforge.bench.load_picture import LoadPicture, draw_load
from pikaforge.bench.load_test import Progress
from pikaforge.cli import output
from pikaforge.cli.commands import bench_questions, bench_servers, bench_trial
from pikaforge.cli.commands.bench_questions import Expected
from pikaforge.cli.commands.bench_servers import STAGE, Servers
from pikaforge.cli.commands.build import refuse_early, refuse_problems, status
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE, ForgeError, StageError, StageFailure, UsageError
from pikaforge.host.durable import write_atomically
from pikaforge.host.job import RunningServer
from pikaforge.host.process import cwd
from pikaforge.host.store import locked
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.wire import Closed
from pikaforge.plan.cells import Cell

Look = Callable[[], room.Room | None]
"""Looks at a disk."""
Watch = Callable[[Progress], None]
WATCH = 5.0
"""Seconds between two looks at the disks."""
ANSWER = 60.0
"""Seconds for one answer of a server that was under load until now."""


def load_test_of(context: Context) -> int:
    """Run `bench` as a load test; return the exit status."""
    load = _load(context)
    bench_servers.server_of(context)
    cell = _cell(context)
    refuse_problems([cell])
    refuse_early(context, [cell])
    figures.library()  # if it is missing, that is better known before an hour of writing
    engine = context.engine()
    engine.verify()
    bench_servers.runnable([cell], engine.known_cpu_flags())
    folder = context.out / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{cell.id}-load"
    waits = f"waiting for another load test of {cell.id} in {output.readable(folder, cwd())}"
    with locked(folder / f".{stem}.lock", waits=lambda: output.note(waits), remove=True):
        servers = bench_servers.compiled(context, engine, [cell])
        if status(servers.done):
            return status(servers.done)
        bench_servers.runnable([cell], servers.cpu_flags(cell))
        test = _LoadTest(context, servers, cell, _journal(context, servers, cell, load, folder / stem))
        return test.run()


def _load(context: Context) -> KeyLoad:
    """Return the load that is asked for; its keys are 1 if that number is not given."""
    arguments = context.arguments
    given = {
        name: value
        for name in ("expire_share", "ttl", "key_bytes", "value_bytes", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    return KeyLoad(
        keys=arguments.keys or 1,
        connections=arguments.connections,
        processes=arguments.processes,
        pipeline=arguments.pipeline,
        **given,
    )


def _cell(context: Context) -> Cell:
    cells = context.cells()
    if len(cells) != 1:
        raise UsageError(
            f"{len(cells)} cells are selected; a load test has one",
            where="SELECTOR",
            hint="select one model, image and allocator: nox -s bench -- R620 --os debian12 --keys 500M\n"
            "several are compared by time, without --keys",
        )
    return cells[0]


def _journal(context: Context, servers: Servers, cell: Cell, load: KeyLoad, folder: Path) -> LoadJournal:
    """Return the journal of the test that goes on, or of a new one.

    Raises:
        ConfigError: another test was interrupted, whose data would be lost.
    """
    identity = f"{servers.result(f'compile:{cell.group}').identity} {servers.runtime(cell)}"
    if context.arguments.anew:
        _forget(servers, folder)
    journal, given = LoadJournal.open(folder), context.arguments.keys
    if journal is not None and not given:
        load = replace(load, keys=journal.head.load.keys)
    if journal is None:
        if not given:
            seconds = context.arguments.lasting or bench_trial.LASTING
            load = replace(load, keys=bench_trial.keys_by_trial(servers, cell, load, seconds))
        data = f"bench-{cell.id.lower()}-{secrets.token_hex(6)}"
        head = JournalHead(
            load=load, server=identity, interval=load_test.interval_for(load.keys), data=data, began=time.time()
        )
        return LoadJournal.begin(folder, head)
    done, _ = journal.written()
    if journal.head.load != load:
        raise UsageError(
            f"another load test was interrupted here after {done:,} keys: {journal.head.load.describe()}; "
            f"seed {journal.head.load.seed}",
            where=str(folder),
            hint=f"give its figures to let it go on; {ANEW}",
        )
    if journal.head.server != identity:
        raise UsageError(
            f"the load test was interrupted after {done:,} keys, and its server was another one: it was built anew",
            where=str(folder),
            hint=ANEW,
        )
    output.note(f"the load test goes on after {done:,} of {load.keys:,} keys")
    return journal


def _forget(servers: Servers, folder: Path) -> None:
    """Remove an interrupted test with its data."""
    try:
        journal = LoadJournal.open(folder)
    except ForgeError as error:
        output.note(f"{error.message}; its data cannot be found, and are left")
        return
    if journal is not None:
        servers.workspace.engine.forget(journal.head.data)
        journal.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a load test has ended."""

    busy: float
    expected: Expected
    found: dict[str, int]
    problem: str
    after: tuple[AllocatorText, ...]
    disk: int | None
    """Bytes that the data has taken on disk; None if that is not known."""

    @property
    def text(self) -> str:
        """The comparison in one line."""
        written = f"{self.expected.written:,} keys written, {self.expected.expiring:,} with a time to live"
        if self.problem:
            return f"{written}; the server has {self.problem}"
        if not self.found:
            return f"{written}; not compared: product.bench has no `counted`"
        shown = ", ".join(f"{number:,} {name}" for name, number in self.found.items())
        expired = " (keys have expired during the load)" if self.expected.some_expired else ""
        return f"{written}; the server has {shown}{expired}"


class _LoadTest:
    """A load test with its server."""

    def __init__(self, context: Context, servers: Servers, cell: Cell, journal: LoadJournal) -> None:
        self._context, self._servers, self._cell, self._journal = context, servers, cell, journal
        self._checks = context.spec.product.bench
        self._line = output.ProgressLine()

    def run(self) -> int:
        """Run it to its end; return the exit status."""
        journal, engine = self._journal, self._servers.workspace.engine
        output.show(f"{self._cell.id}: {journal.head.load.describe()}")
        with self._left_to_go_on(), self._servers.serve(self._cell, kept=journal.head.data) as running:
            try:
                verdict = self._measured(running)
            finally:
                self._line.close()
                self._stop(running)
        self._write(verdict)
        journal.remove()
        engine.forget(journal.head.data)
        if verdict.problem:
            raise StageError(
                f"the server does not have what was written: {verdict.text}",
                StageFailure(stage=STAGE, label=self._cell.group),
            )
        return EXIT_DONE

    @contextmanager
    def _left_to_go_on(self) -> Iterator[None]:
        """Say how a test goes on that has not come to its end; of one that has written nothing, leave nothing."""
        try:
            yield
        except BaseException:
            done, _ = self._journal.written()
            if done:
                output.warn(
                    f"the load test has stopped after {done:,} of {self._journal.head.load.keys:,} keys; "
                    f"the same command goes on there, and {ANEW}"
                )
            else:
                self._servers.workspace.engine.forget(self._journal.head.data)
                self._journal.remove()
            raise

    def _measured(self, running: RunningServer) -> Verdict:
        journal = self._journal
        load = journal.head.load
        disk = self._disk(running)
        self._check_room(disk)
        kind = self._servers.place(self._cell).allocator
        resident = bench_servers.resident(running)
        with self._asking(running) as connection:
            if journal.head.before is None:
                before = bench_questions.statistics(self._checks.statistics, kind, connection)
                journal.write_head(replace_head(journal.head, before, resident()))
            elif gone := bench_questions.lost(load, journal.acknowledged(), connection):
                raise StageError(
                    f"the server has lost a key that it had acknowledged before the interruption: {gone}",
                    StageFailure(stage=STAGE, label=self._cell.group),
                    hint=ANEW,
                )
        host, port = running.address()
        watch = watching(self._line, disk)
        busy = load_test.run(host, port, journal, resident=resident, watch=watch, name=self._cell.allocator)
        written, expiring = journal.written()
        with self._asking(running) as connection:
            after = bench_questions.statistics(self._checks.statistics, kind, connection)
            found = bench_questions.counted(self._checks.counted, connection)
        seconds = time.time() - journal.head.began
        expected = Expected(written=written, expiring=expiring, ttl=load.ttl, seconds=seconds)
        return Verdict(
            busy=busy,
            expected=expected,
            found=found,
            problem=expected.problem(found),
            after=after,
            disk=bench_questions.data_bytes(running),
        )

    @contextmanager
    def _asking(self, running: RunningServer) -> Iterator[Connection]:
        host, port = running.address()
        try:
            with Connection(host, port, timeout=ANSWER) as connection:
                yield connection
        except Closed as error:
            raise StageError(
                f"the server does not answer: {error}", StageFailure(stage=STAGE, label=self._cell.group)
            ) from error

    def _stop(self, running: RunningServer) -> None:
        """End the server as the product says, so that it keeps what it has in memory only."""
        stop = self._servers.place(self._cell).server.stop
        running.signal(stop.signal)
        running.wait(stop.within)

    def _disk(self, running: RunningServer) -> Look:
        docker = self._servers.workspace.engine.kind == "docker"
        return bench_questions.looking_at(running, "the disk of the container engine" if docker else "the disk")

    def _check_room(self, disk: Look) -> None:
        """Refuse a test for which there is no room."""
        load = self._journal.head.load
        done, _ = self._journal.written()
        need = room.needed(load.keys - done, load.key_bytes + load.value_bytes, self._checks.disk_factor)
        found = disk()
        if found is None:
            output.note("how much room the server's disk has cannot be seen: nothing is checked")
        else:
            room.check_before(found, need)

    def _write(self, verdict: Verdict) -> None:
        """Print the figures, and write them and the plot to out/bench/."""
        journal, cell, product = self._journal, self._cell, self._context.spec.product
        load = journal.head.load
        samples = load_test.samples(journal, verdict.busy)
        name = cell.allocator
        compared = summary.compare([summary.LoadRun(name=name, round=1, samples=samples)], name)
        output.show(output.table(*_table(journal, samples, verdict)))
        for note in compared.notes():
            output.note(note)
        output.show(verdict.text)
        folder, stem = self._context.out / STAGE, f"{cell.id}-load"
        pauses = pauses_of(journal)
        facts = {
            "product": product.name,
            "version": product.version,
            "model": cell.model,
            "image": cell.image,
            "target": cell.target,
            "source": self._context.arguments.source,
            "workload": load.describe(),
            "load": {
                **asdict(load),
                "seconds": round(journal.seconds, 6),
                "pauses": list(pauses),
                "expected": {"keys": verdict.expected.written, "expires": verdict.expected.expiring},
                "found": verdict.found,
                "problem": verdict.problem,
                "disk_bytes": verdict.disk,
                "allocator": {
                    "before": [text.model_dump() for text in journal.head.before or ()],
                    "after": [text.model_dump() for text in verdict.after],
                },
            },
            "comparison": compared.json(),
            "runs": [{"name": name, "round": 1, **samples.json()}],
        }
        figure = folder / f"{stem}.json"
        write_atomically(figure, json.dumps(facts, indent=1) + "\n")
        source = f" ({self._context.arguments.source})" if self._context.arguments.source else ""
        disk = "" if verdict.disk is None else f"; {output.size(verdict.disk)} on disk"
        picture = LoadPicture(
            title=f"{product.name} {product.version}{source} for {cell.target} on {cell.image}, allocator {name}",
            subtitle=load.describe(),
            footer=f"{verdict.text}{disk}.",
            intervals=samples.intervals,
            pauses=pauses,
            before=journal.head.before or (),
            after=verdict.after,
        )
        for path in (figure, *draw_load(picture, folder=folder, stem=stem)):
            output.show(output.readable(path, cwd()))


def _table(journal: LoadJournal, samples: Samples, verdict: Verdict) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the head and the row of the table of figures."""
    memory = [interval.resident for interval in samples.intervals if interval.resident is not None]
    latency = quantiles(samples.latency)
    figures = {
        "requests": f"{samples.requests:,}",
        "time": output.duration(journal.seconds),
        "requests/s": f"{samples.requests / journal.seconds:,.0f}" if journal.seconds else summary.NO_FIGURE,
        **{
            f"{name} latency, us": summary.NO_FIGURE if value is None else f"{value:,}"
            for name, value in latency.items()
        },
        "memory at its peak": output.size(max(memory)) if memory else summary.NO_FIGURE,
        "on disk": summary.NO_FIGURE if verdict.disk is None else output.size(verdict.disk),
    }
    return tuple(figures), [tuple(figures.values())]


def watching(line: output.ProgressLine, disk: Look, clock: Callable[[], float] = time.monotonic) -> Watch:
    """Return a function that shows how far a load is, and now and then looks at the server's disk.

    It raises FullDiskError if that is about to become full.
    """
    looked = clock()

    def watch(progress: Progress) -> None:
        nonlocal looked
        last = progress.done >= progress.keys
        line.show(describe(progress), last=last)
        if last or clock() - looked < WATCH:
            return
        found = disk()
        looked = clock()
        if found is not None:
            room.check_while(found, progress.done)

    return watch


def replace_head(head: JournalHead, before: tuple[AllocatorText, ...], resident: int | None) -> JournalHead:
    """Return a head with what was read before the first request."""
    return head.model_copy(update={"before": before, "resident_before": resident})


def pauses_of(journal: LoadJournal) -> tuple[float, ...]:
    """Return the seconds of the load at which sessions have ended, but for the last one."""
    lines = journal.lines
    return tuple(line.start for before, line in pairwise(lines) if line.session != before.session)


def describe(progress: Progress) -> str:
    """Return how far a load test is, in one line."""
    share = progress.done / progress.keys
    left = "" if progress.left is None else f", {output.duration(progress.left)} left"
    if progress.done >= progress.keys:
        left = ""
    return f"{share:7.2%}  {progress.done:,} of {progress.keys:,} keys, {progress.rate:,.0f} requests/s{left}"
