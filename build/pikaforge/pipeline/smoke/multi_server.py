"""Multi-server checks: their own servers are started, filled, killed, restarted, copied, and follow each other."""

from __future__ import annotations

import contextlib
import fnmatch
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.config.smoke_checks import MAIN, PEER, Check, Data, Probe, Reading, Step
from pikaforge.host.archives import tar_entries
from pikaforge.host.confinement import NOBODY
from pikaforge.host.job import CannotServe, RunningServer, files
from pikaforge.pipeline.smoke import allocator_in_use, bulk_writes
from pikaforge.pipeline.smoke.endings import describe_end, signal_of
from pikaforge.pipeline.smoke.expectations import POLL, run_step
from pikaforge.pipeline.smoke.record import CheckRecord
from pikaforge.pipeline.smoke.server import ServerPlace, log_tail
from pikaforge.pipeline.smoke.session import EXCHANGES, Session
from pikaforge.pipeline.smoke.wire import Closed, NoConnection

LOOPBACK = "over this machine's loopback interface, not a private network"
WILD = re.compile(r"[*?\[]")
LOOK = 0.05
"""Seconds to look whether a server has ended."""
END = 1.0
"""Seconds to look after a step that failed. An engine takes a moment to see that a container has ended."""


@dataclass(slots=True, kw_only=True)
class _Running:
    """An instance that was started at least once."""

    server: RunningServer
    log: Path
    day: str
    """The server's date when it was started; empty if no step needs it."""
    up: bool = True
    """Whether it should be running."""
    session: Session | None = None
    acknowledged: list[int] = field(default_factory=list)

    def down(self) -> None:
        """Note that it has ended, or is about to; close the connections."""
        self.up = False
        if self.session is not None:
            self.session.close()
        self.session = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckVerdict:
    """The record of a multi-server check."""

    record: CheckRecord
    tail: tuple[str, ...] = ()
    """If it failed, the last lines of its servers' logs."""


class StepFailed(Exception):
    """A step did not hold; the text says what was wanted and what came."""


def run_multi_server_check(check: Check, place: ServerPlace) -> CheckVerdict:
    """Run a check on servers of its own; all of them are gone afterwards.

    Raises:
        HostError: the engine failed, which is not the product's fault.
    """
    start = time.monotonic()
    run = _MultiServerRun(check, place)
    detail, skipped = "", ""
    try:
        with contextlib.ExitStack() as stack:
            detail = run.steps(stack)
    except CannotServe as error:
        skipped = error.message
    if detail and check.why:
        detail = f"{detail} ({check.why})"
    record = CheckRecord(
        name=check.check,
        passed=not detail and not skipped,
        seconds=time.monotonic() - start,
        detail=detail,
        required=check.required,
        skipped=skipped,
        note="; ".join(run.notes),
        exchanges=tuple(run.exchanges[:EXCHANGES]),
    )
    return CheckVerdict(record=record, tail=run.tails() if detail else ())


class _MultiServerRun:
    """One run of one check."""

    def __init__(self, check: Check, place: ServerPlace) -> None:
        self._check = check
        self._place = place
        self._running: dict[str, _Running] = {}
        self._network = ""
        self.notes: list[str] = []
        self.exchanges: list[str] = []
        self._uses_dates = any("{today}" in (s.files or "") + (s.data.folder if s.data else "") for s in check.steps)
        self._statistics = allocator_in_use.environment() if any(s.kind == "served" for s in check.steps) else {}
        self._stack = contextlib.ExitStack()

    def steps(self, stack: contextlib.ExitStack) -> str:
        """Run all steps; return "" if they hold, else the first that does not."""
        self._stack = stack
        if len(self._check.instances) > 1:
            self._network = stack.enter_context(self._place.engine.network(f"{self._place.label}-{self._check.check}"))
            if not self._network:
                self.notes.append(LOOPBACK)
        for number, step in enumerate(self._check.steps):
            try:
                self._step(step)
            except StepFailed as error:
                return f"step {number + 1}: {error}{self._ended(END)}"
        ended = self._ended(LOOK).removeprefix("; ")
        return f"after the last step: {ended}" if ended else ""

    def tails(self) -> tuple[str, ...]:
        """Return the last lines of each server's log, under its name. They are complete when the servers are gone."""
        lines: list[str] = []
        for name, running in self._running.items():
            lines += [f"{self._check.check}, {name} ({running.log}):", *log_tail(running.log)]
        return tuple(lines)

    def _ended(self, within: float) -> str:
        """Return which servers have ended that should run."""
        ended = []
        for name, running in self._running.items():
            status = running.server.wait(within) if running.up else None
            if status is not None:
                running.down()
                ended.append(f"; the server {name} has ended: {describe_end(status)}")
        return "".join(ended)

    def _get(self, name: str) -> _Running:
        running = self._running.get(name)
        if running is None or not running.up:
            raise StepFailed(f"the server {name} is not running: it takes a `start` step first")
        return running

    def _step(self, step: Step) -> None:
        kind = step.kind
        if kind == "start":
            self._start(step)
        elif kind == "stop":
            self._stop(step)
        elif kind == "write":
            self._write(step)
        elif kind == "verify":
            assert step.verify is not None  # its kind
            self._verify(step.at, step.verify)
        elif kind == "files":
            self._files(step)
        elif kind == "served":
            self._served(step)
        else:
            self._exchange(step)

    # ---- exchanges

    def _session(self, name: str) -> Session:
        running = self._get(name)
        if running.session is None:
            try:
                running.session = self._place.session(running.server)
            except OSError as error:  # its port is gone
                raise StepFailed(f"no connection to the server {name}: {error}") from error
        return running.session

    def _address(self, name: str) -> tuple[str, int]:
        try:
            return self._get(name).server.address()
        except OSError as error:  # its port is gone
            raise StepFailed(f"no connection to the server {name}: {error}") from error

    def _reach(self, found: re.Match[str]) -> str:
        server = self._get(found.group(2)).server
        return server.peer() if found.group(1) == "ip" else str(server.port)

    def _filled(self, words: Sequence[str | int]) -> tuple[str | int, ...]:
        return tuple(PEER.sub(self._reach, word) if isinstance(word, str) else word for word in words)

    def _aimed(self, probe: Probe) -> Probe:
        """Return a probe with the addresses of other instances filled in."""
        filled: dict[str, object] = {}
        for name in ("send", "path"):
            if (text := getattr(probe, name)) is not None:
                filled[name] = PEER.sub(self._reach, text)
        if probe.argv is not None:
            filled["argv"] = self._filled(probe.argv)
        return probe.model_copy(update=filled)

    def _exchange(self, step: Step) -> None:
        if step.send is not None:
            step = step.model_copy(update={"send": self._filled(step.send)})
        if step.pipeline is not None:
            step = step.model_copy(update={"pipeline": tuple(self._filled(words) for words in step.pipeline)})
        if step.probe is not None:
            step = step.model_copy(update={"probe": self._aimed(step.probe)})
        asked = "" if step.at == MAIN else f"at {step.at}: "
        session = self._session(step.at)
        try:
            wrong = run_step(step, session)
        except NoConnection as error:
            raise StepFailed(f"no connection to the server {step.at}: {error}") from error
        if wrong:
            raise StepFailed(f"{asked}{wrong}")
        self.exchanges += [f"{asked}{exchange}" for exchange in session.noted()]

    def _write(self, step: Step) -> None:
        running = self._get(step.at)
        assert step.write is not None  # its kind
        ended: list[int | None] = []

        def kill() -> None:
            running.server.signal("KILL")
            ended.append(running.server.wait(self._place.server.stop.within))

        address = self._address(step.at)
        written = bulk_writes.write(step.write, lambda: self._place.connect(*address), kill)
        running.acknowledged = written.acknowledged
        if written.problem:
            raise StepFailed(f"of {step.write.count} writes: {written.problem}")
        killed = " when it was killed" if step.write.kill_at is not None else ""
        self.notes.append(f"{len(written.acknowledged)} of {step.write.count} writes were acknowledged{killed}")
        if step.write.kill_at is not None:
            if ended == [None]:
                raise StepFailed(f"sent SIGKILL; it still runs after {self._place.server.stop.within:g} s")
            running.down()

    def _verify(self, name: str, reading: Reading) -> None:
        session = self._session(name)
        written = next((r.acknowledged for r in self._running.values() if r.acknowledged), [])
        try:
            lost = bulk_writes.verify(reading, written, session.connection())
        except NoConnection as error:
            raise StepFailed(f"no connection to the server {name}: {error}") from error
        except Closed as error:
            raise StepFailed(f"while {len(written)} acknowledged writes were read back: {error}") from error
        if lost:
            raise StepFailed(lost)

    # ---- servers

    def _start(self, step: Step) -> None:
        name = step.start or ""
        running = self._running.get(name)
        if running is None:
            running = self._first(name, step.data)
        elif running.up:
            raise StepFailed(f"the server {name} is already running")
        elif step.data is not None:
            raise StepFailed(f"the server {name} has data already: only its first start takes `data`")
        else:
            running.server.restart()
            running.up = True
        status, wrong = self._place.ready(running.server)
        if step.refused is None:
            if wrong:
                running.up = status is None
                raise StepFailed(f"start {name}: {wrong}")
            return
        self._refused(step, running, status, wrong)

    def _first(self, name: str, data: Data | None) -> _Running:
        instance = self._check.instances[name]
        held = None
        if data is not None:
            held = self._copied(data, owner=NOBODY if instance.unprivileged or self._place.server.unprivileged else 0)
        label = f"{self._check.check}-{name}"
        log = self._place.log(label)
        log.write_bytes(b"")
        server = self._stack.enter_context(
            self._place.serve(label, instance=instance, log=log, data=held, network=self._network, env=self._statistics)
        )
        running = _Running(server=server, log=log, day=server.today() if self._uses_dates else "")
        self._running[name] = running
        return running

    def _refused(self, step: Step, running: _Running, status: int | None, wrong: str) -> None:
        refused = step.refused
        assert refused is not None  # the caller has looked
        wanted = f"start {step.start}: wanted a refusal with a match of {refused.match!r}"
        if status is None:
            raise StepFailed(f"{wanted}; {wrong or 'it runs, and answers'}")
        running.down()
        text = running.server.log_text()
        if status != refused.status if refused.status is not None else status == 0:
            kind = "another than 0" if refused.status is None else str(refused.status)
            raise StepFailed(f"{wanted} and exit status {kind}; {describe_end(status)}")
        if re.search(refused.match, text) is None:
            raise StepFailed(f"{wanted}; it printed {text[-300:]!r} ({describe_end(status)})")

    def _stop(self, step: Step) -> None:
        name = step.stop or ""
        running = self._get(name)
        stop = self._place.server.stop
        sent = step.signal or stop.signal
        if (status := running.server.wait(LOOK)) is not None:
            running.down()
            raise StepFailed(f"stop {name}: it had ended before: {describe_end(status)}")
        running.server.signal(sent)
        status = running.server.wait(stop.within)
        if status is None:
            raise StepFailed(f"stop {name}: sent SIG{sent}; it still runs after {stop.within:g} s")
        running.down()
        if signal_of(status) not in (0, signal.Signals[f"SIG{sent}"]):
            raise StepFailed(f"stop {name}: sent SIG{sent}; {describe_end(status)}")

    def _served(self, step: Step) -> None:
        assert step.served is not None  # its kind
        server = self._get(step.at).server
        self._stop(step.model_copy(update={"stop": step.at, "signal": None}))
        text = server.log_text()
        wrong = allocator_in_use.served_wrong(text, kind=self._place.allocator, at_least=step.served.at_least)
        if wrong:
            raise StepFailed(f"the memory of {step.at}: {wrong}")
        if (found := allocator_in_use.served(text)) is not None:
            title, count = found
            self.notes.append(f"{title} served {count / (1 << 20):.1f} MiB")

    # ---- files

    def _dated(self, running: _Running, text: str) -> list[str]:
        """Return a text with {today} filled in; two texts if the date has changed since the server was started."""
        if "{today}" not in text:
            return [text]
        days = dict.fromkeys([running.server.today(), running.day])
        return [text.replace("{today}", day) for day in days]

    def _contents(self, running: _Running, folder: str) -> dict[str, bytes]:
        """Return the regular files of a folder below a server's data, by path below the data."""
        archive = running.server.fetch(f"data/{folder}" if folder else "data")
        return {} if archive is None else dict(_regular_files(archive, folder))

    def _files(self, step: Step) -> None:
        running = self._get(step.at)
        deadline = time.monotonic() + step.within
        while True:
            wrong = ""
            for glob in self._dated(running, step.files or ""):
                wrong = _judge(step, glob, self._contents(running, WILD.split(glob, maxsplit=1)[0].rpartition("/")[0]))
                if not wrong:
                    return
            if time.monotonic() >= deadline:
                raise StepFailed(f"files of {step.at}: {wrong}")
            time.sleep(POLL)

    def _copied(self, data: Data, *, owner: int) -> bytes:
        running = self._get(data.of)
        folders = self._dated(running, data.folder)
        for folder in folders:
            held = self._contents(running, folder)
            if held:
                moved = {f"{data.to}/{path.removeprefix(folder).lstrip('/')}": c for path, c in held.items()}
                moved = {path.lstrip("/"): content for path, content in moved.items()}
                return files(moved, owner=owner)
        where = " or ".join(folders)
        raise StepFailed(
            f"there are no files in {where} below the data of {data.of}" if where else f"{data.of} has no data"
        )


def _regular_files(archive: bytes, fixed: str) -> Iterator[tuple[str, bytes]]:
    """Yield path below the data folder and content of each regular file. Hard links count as files."""
    for member in tar_entries(archive):
        if member.kind in ("file", "hardlink"):
            below = member.name.partition("/")[2]
            yield f"{fixed}/{below}" if fixed else below, member.read()


def _judge(step: Step, glob: str, held: dict[str, bytes]) -> str:
    found = {path: content for path, content in held.items() if fnmatch.fnmatchcase(path, glob)}
    if len(found) < step.at_least:
        there = ", ".join(sorted(held)[:20]) or "nothing"
        return f"wanted {step.at_least} or more that match {glob}, found {len(found)}; there is: {there}"
    if step.match is not None:
        for path, content in found.items():
            if re.search(step.match, content.decode("utf-8", "replace")) is None:
                return f"wanted a match of {step.match!r} in {path}; it holds {content[:200]!r}"
    return ""
