"""The smoke stage: the tree in the clean runtime image answers, over a real connection from outside, and stops."""

from __future__ import annotations

import re
import signal
import tarfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pikaforge import keys
from pikaforge.errors import ForgeError, HostError, StageError, StageFailure
from pikaforge.host.engine import signal_of
from pikaforge.host.job import Input, Job, RunningServer, ServerJob, files
from pikaforge.host.local import HostEngine
from pikaforge.host.resp import Closed, Connection, ErrorReply
from pikaforge.host.store import Result
from pikaforge.model import Conf, Spec
from pikaforge.plan import Cell
from pikaforge.stages.exchange import Outcome, run_check
from pikaforge.workshop import TAIL_LINES, Workshop

STAGE = "smoke"
CONF = "server.conf"
VERSION_TIMEOUT = 60.0
PROBE = 0.1
"""Seconds to wait for the server's end between two tries to reach it."""
FORMAT = 1


def material(spec: Spec) -> dict[str, Any]:
    """Key material: how the server is started, the checks, and this module's own version."""
    return {
        "format": FORMAT,
        "server": spec.product.server.model_dump(mode="json"),
        "checks": [check.model_dump(mode="json", exclude_unset=True) for check in spec.product.smoke],
    }


def settle(conf: Conf, text: str, values: Mapping[str, str]) -> str:
    """The configuration with the entry's settings in place of those of the same name; others are appended.

    Args:
        conf: syntax and settings.
        text: the configuration that the tree brings.
        values: what {port} and {data} stand for.
    """
    settings = {**conf.settings, **conf.testing}
    pending = {key: _fill(value, values) for key, value in settings.items()}
    lines = []
    for line in text.splitlines():
        word = re.split(r"[\s:=]", line.strip(), maxsplit=1)[0]
        if word in settings:
            if word in pending:
                lines.append(_line(conf, word, pending.pop(word)))
            continue
        lines.append(line)
    lines.extend(_line(conf, key, value) for key, value in pending.items())
    return "\n".join(lines) + "\n"


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _line(conf: Conf, key: str, value: str) -> str:
    return conf.line.replace("{key}", key).replace("{value}", value)


def _read_conf(tree: Path, path: str) -> str:
    with tarfile.open(tree) as tar:
        content = tar.extractfile(f"./{path}")
        assert content is not None  # the compile stage made sure of product.files
        return content.read().decode("utf-8", "replace")


def run(workshop: Workshop, spec: Spec, cell: Cell, compiled: Result, image: Result, *, key: str) -> Result:
    """Run the stage; its facts are the checks with their times in seconds.

    Raises:
        StageError: a check failed or the server died; the exchange and the log's tail are in it.
    """
    session = _Session(workshop, spec, cell, compiled, str(image.facts["runtime"]))
    outcomes = session.run()
    return workshop.store.put(
        STAGE,
        key,
        identity=keys.digest(" ".join(outcome.name for outcome in outcomes)),
        facts={"checks": [asdict(outcome) for outcome in outcomes]},
        files={},
    )


class _Session:
    """One smoke run of one tree."""

    def __init__(self, workshop: Workshop, spec: Spec, cell: Cell, compiled: Result, image: str) -> None:
        self._workshop = workshop
        self._server = spec.product.server
        self._checks = spec.product.smoke
        self._cell = cell
        self._image = image
        self._tree = Input(folder="tree", archive=compiled.files["tree.tar"])
        self._tree_path = compiled.files["tree.tar"]
        self._log = workshop.log_path(cell.group, STAGE)

    def run(self) -> list[Outcome]:
        outcomes = [self._version()]
        outcomes += self._served()
        failed = [outcome for outcome in outcomes if not outcome.passed]
        if failed:
            raise self._error(
                f"{len(failed)} of {len(outcomes)} smoke checks failed: {', '.join(o.name for o in failed)}",
                tuple(f"check {o.name}: {o.detail}" for o in failed),
            )
        return outcomes

    def _error(self, message: str, findings: tuple[str, ...] = (), status: int | None = None) -> StageError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.is_file() else []
        return StageError(
            message,
            StageFailure(
                stage=STAGE,
                label=self._cell.group,
                status=status,
                log=str(self._log),
                tail=tuple(line[:300] for line in lines[-TAIL_LINES:]),
                findings=findings,
            ),
        )

    def _version(self) -> Outcome:
        """The version command, in a container of its own."""
        start = time.monotonic()
        version = self._server.version
        log = self._log.with_name("smoke-version.log")
        log.write_bytes(b"")
        with self._workshop.store.scratch() as scratch:
            job = Job(
                label=f"{STAGE}-version-{self._cell.group}",
                image=self._image,
                argv=(f"./tree/{version.command[0]}", *version.command[1:]),
                env={},
                inputs=(self._tree,),
                log=log,
                timeout=VERSION_TIMEOUT,
            )
            status = self._workshop.engine.run(job, scratch).status
        output = log.read_text(encoding="utf-8", errors="replace")
        wanted = ""
        if status != version.status:
            wanted = f"wanted exit status {version.status}, got {describe_end(status)}"
        elif version.match and not re.search(version.match, output):
            wanted = f"wanted a match of {version.match!r}"
        detail = f"{' '.join(version.command)}: {wanted}; it printed {output[-300:]!r}" if wanted else ""
        return Outcome(name="version", passed=not detail, seconds=time.monotonic() - start, detail=detail)

    def _served(self) -> list[Outcome]:
        """Start, checks and stop of one server."""
        engine = self._workshop.engine
        label = f"{STAGE}-{self._cell.group}"
        root = engine.root(label)
        port = engine.free_port(self._server.offsets) if isinstance(engine, HostEngine) else self._server.port
        values = {"port": str(port), "data": f"{root}/data", "conf": f"{root}/{CONF}"}
        conf = settle(self._server.conf, _read_conf(self._tree_path, self._server.conf.path), values)
        job = ServerJob(
            label=label,
            image=self._image,
            argv=tuple(
                f"tree/{part}" if number == 0 else _fill(part, values)
                for number, part in enumerate(self._server.command)
            ),
            inputs=(self._tree, Input(folder="", archive=files({CONF: conf.encode()}))),
            port=port,
            log=self._log,
        )
        start = time.monotonic()
        problem: ForgeError | None = None
        outcomes: list[Outcome] = []
        ended: int | None = None
        with engine.serve(job) as server:
            problem = self._ready(server)
            if problem is None:
                outcomes.append(Outcome(name="start", passed=True, seconds=time.monotonic() - start))
                outcomes.extend(self._ask(server))
                ended = server.wait(0.01)
                if ended is None:
                    outcomes.append(self._stop(server))
        if problem is not None:
            raise self._error(problem.message)
        if ended is not None:
            failed = tuple(f"check {o.name}: {o.detail}" for o in outcomes if not o.passed)
            raise self._error(f"the server died during the checks: {describe_end(ended)}", failed, ended)
        return outcomes

    def _ready(self, server: RunningServer) -> ForgeError | None:
        """Wait until the server answers; an error if it ends or stays silent."""
        deadline = time.monotonic() + self._server.within
        last = "it was never reached"
        while time.monotonic() < deadline:
            status = server.wait(PROBE)
            if status is not None:
                return HostError(f"the server ended before it answered: {describe_end(status)}")
            try:
                with Connection(*server.address(), timeout=5.0) as connection:
                    reply = connection.exchange([["PING"]])[0]
            except (Closed, OSError) as error:
                last = str(error)
                continue
            if isinstance(reply, ErrorReply) and reply.text.startswith("LOADING"):
                last = reply.text
                continue
            return None
        return HostError(f"the server did not answer within {self._server.within:g} s: {last}")

    def _ask(self, server: RunningServer) -> list[Outcome]:
        outcomes = []
        for check in self._checks:
            try:
                address = server.address()
            except OSError:  # its port is gone: it died during the check before
                break
            outcomes.append(run_check(check, lambda address=address: Connection(*address)))  # type: ignore[misc]
        return outcomes

    def _stop(self, server: RunningServer) -> Outcome:
        stop = self._server.stop
        start = time.monotonic()
        server.signal(stop.signal)
        status = server.wait(stop.within)
        if status is None:
            detail = f"sent SIG{stop.signal}; it still runs after {stop.within:g} s"
        elif status != stop.status:
            detail = f"sent SIG{stop.signal}; wanted exit status {stop.status}; {describe_end(status)}"
        else:
            detail = ""
        return Outcome(name="stop", passed=not detail, seconds=time.monotonic() - start, detail=detail)


def describe_end(status: int) -> str:
    """An exit status in words; SIGILL with what it usually means."""
    number = signal_of(status)
    if not number:
        return f"exit status {status}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = " (illegal instruction: built for a CPU that this one is not)" if number == signal.SIGILL else ""
    return f"killed by {name}{meaning}"
