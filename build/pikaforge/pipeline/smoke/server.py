"""Servers of a tree for smoke checks: how they are configured, started, and waited for, natively or emulated."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pikaforge.config.product import Conf, Server
from pikaforge.config.smoke_checks import Instance
from pikaforge.host.archives import tar_entries
from pikaforge.host.confinement import USUAL, Bounds
from pikaforge.host.docker import signal_of
from pikaforge.host.job import Engine, Input, RunningServer, ServerJob, files
from pikaforge.host.logs import last_lines
from pikaforge.host.no_container import HostEngine
from pikaforge.pipeline.smoke.resp import Closed, Connection, ErrorReply

CONF = "server.conf"
PROBE = 0.1
"""Seconds to wait for the server's end between two tries to reach it."""
LOG_LINES = 15


class Connect(Protocol):
    """Makes connections; `Connection` itself, except in unit tests."""

    def __call__(self, host: str, port: int, *, timeout: float = ...) -> Connection:
        """Return a connection; see `Connection`."""


def settle(conf: Conf, text: str, values: Mapping[str, str]) -> str:
    """Return a configuration whose settings are replaced by those of the entry; settings that it lacks are appended.

    Args:
        conf: syntax and settings.
        text: the configuration that the tree brings.
        values: the values of {port}, {data} and {conf}.
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


def read_conf(tree: Path, path: str) -> str:
    """Read the configuration file that a tree brings."""
    for member in tar_entries(tree):
        if member.name == f"./{path}":
            return member.read().decode("utf-8", "replace")
    raise AssertionError(f"the tree has no {path}")  # the compile stage made sure of product.files


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _line(conf: Conf, key: str, value: str) -> str:
    return conf.line.replace("{key}", key).replace("{value}", value)


def describe_end(status: int) -> str:
    """Return an exit status in words; SIGILL with its usual meaning."""
    number = signal_of(status)
    if not number:
        return f"exit status {status}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = " (illegal instruction: built for a CPU that this one is not)" if number == signal.SIGILL else ""
    return f"killed by {name}{meaning}"


def log_tail(log: Path, lines: int = LOG_LINES) -> tuple[str, ...]:
    """Return the last lines of a log, each cut to 300 characters."""
    if not log.is_file():
        return ()
    return tuple(line[:300] for line in last_lines(log)[-lines:])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace:
    """Where and how servers of a tree run."""

    engine: Engine
    server: Server
    image: str
    stem: str
    """The start of all labels, such as `smoke`."""
    group: str
    """The group of cells that share the tree."""
    tree: Input
    conf: str
    """The configuration that the tree brings."""
    log_path: Path
    """The log of the shared server. Others are beside it, with the name of the server in theirs."""
    connect: Connect
    emulator: tuple[str, ...] = ()
    """The emulator and its arguments; its path is relative to the root. Empty natively."""
    inputs: tuple[Input, ...] = ()
    """The files of the emulator."""
    allocator: str = "none"
    """The kind of the allocator that the tree was built with."""
    bounds: Bounds = USUAL

    @property
    def label(self) -> str:
        """Return `smoke-debian12-sandybridge-none`, the start of every server's label."""
        return f"{self.stem}-{self.group}"

    def log(self, name: str) -> Path:
        """Return the log of a server that is not the shared one, or of a command."""
        return self.log_path.with_name(f"{self.log_path.stem}-{name}{self.log_path.suffix}")

    def serve(
        self,
        name: str = "",
        *,
        instance: Instance | None = None,
        log: Path,
        data: bytes | None = None,
        network: str = "",
        env: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[RunningServer]:
        """Start a server.

        Args:
            name: distinguishes it from other servers of the run.
            instance: its own settings and limits.
            log: the file for its output.
            data: the content of its data folder, as a tar archive.
            network: the private network that it joins.
            env: additional variables.

        Raises:
            CannotServe: the engine cannot do what the instance asks for.
        """
        label = f"{self.label}-{name}" if name else self.label
        settings = instance or Instance()
        root = self.engine.root(label)
        port = self.server.port
        if isinstance(self.engine, HostEngine):
            port = self.engine.free_port(self.server.offsets)
        values = {"port": str(port), "data": f"{root}/data", "conf": f"{root}/{CONF}"}
        entry = self.server.conf
        entry = entry.model_copy(update={"testing": {**entry.testing, **settings.settings}})
        conf = files({CONF: settle(entry, self.conf, values).encode()})
        program, *arguments = self.server.command
        held = (Input(folder="data", archive=data),) if data is not None else ()
        return self.engine.serve(
            ServerJob(
                label=label,
                image=self.image,
                argv=(*self._program(program, root), *(_fill(part, values) for part in arguments)),
                inputs=(self.tree, Input(folder="", archive=conf), *held, *self.inputs),
                port=port,
                log=log,
                network=network,
                unprivileged=settings.unprivileged,
                open_files=settings.open_files,
                env=env or {},
                bounds=self.bounds,
            )
        )

    def _program(self, path: str, root: str) -> Sequence[str]:
        # The emulator runs the server itself, and no shell: a program that an emulated one executes is not emulated.
        return (*self.emulator, f"{root}/tree/{path}") if self.emulator else (f"tree/{path}",)

    def version_command(self) -> tuple[str, ...]:
        """Return the command that shows the version, for a job."""
        program, *arguments = self.server.version.command
        return (*self.emulator, f"./tree/{program}", *arguments)

    def ready(self, server: RunningServer) -> tuple[int | None, str]:
        """Wait until a server answers.

        Returns:
            `(None, "")` if it does; else its exit status if it has ended, and what is wrong.
        """
        deadline = time.monotonic() + self.server.within
        last = "it was never reached"
        while time.monotonic() < deadline:
            status = server.wait(PROBE)
            if status is not None:
                return status, f"the server ended before it answered: {describe_end(status)}"
            try:
                with self.connect(*server.address(), timeout=5.0) as connection:
                    reply = connection.exchange([["PING"]])[0]
            except (Closed, OSError) as error:
                last = str(error)
                continue
            if isinstance(reply, ErrorReply) and reply.text.startswith("LOADING"):
                last = reply.text
                continue
            return None, ""
        return None, f"the server did not answer within {self.server.within:g} s: {last}"
