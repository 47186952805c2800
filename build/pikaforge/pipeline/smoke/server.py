"""Servers of a tree for smoke checks: how they are configured, started, and waited for, natively or emulated."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from pikaforge.config.product import Conf, Server
from pikaforge.config.smoke_checks import Instance
from pikaforge.errors import HostError
from pikaforge.host.archives import tar_entries
from pikaforge.host.confinement import USUAL, Bounds
from pikaforge.host.job import Engine, Executed, Input, RunningServer, ServerJob, files
from pikaforge.host.logs import last_lines
from pikaforge.host.no_container import HostEngine
from pikaforge.pipeline.smoke.endings import describe_end
from pikaforge.pipeline.smoke.probes import probe
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.session import Session
from pikaforge.pipeline.smoke.wire import Closed, Garbled, Wire

CONF = "server.conf"
PROBE = 0.1
"""Seconds to wait for the server's end between two tries to reach it."""
ANSWER, STARTING, EMULATED = 10.0, 5.0, 30.0
"""Seconds for one answer: natively, while a server starts, and under emulation, which is many times slower."""
LOG_LINES = 15
COMMAND_TIMEOUT = 60.0
"""Seconds for a command of a check."""
RAW_LIMIT = 1 << 20
"""Bytes of one answer that is not RESP. With each block that comes, all of it is searched."""
IDLE = ("/bin/sleep", "86400")
"""The command that holds a place for commands. It ends by itself if nobody ends it."""


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


def read_conf(tree: Path, conf: Conf | None) -> str:
    """Read the configuration file that a tree brings; return "" if the server has none."""
    if conf is None:
        return ""
    path = conf.path
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


def log_tail(log: Path, lines: int = LOG_LINES) -> tuple[str, ...]:
    """Return the last lines of a log, each cut to 300 characters."""
    if not log.is_file():
        return ()
    return tuple(line[:300] for line in last_lines(log)[-lines:])


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlace:
    """Where and how programs of a tree run."""

    engine: Engine
    image: str
    stem: str
    """The start of all labels, such as `smoke`."""
    group: str
    """The group of cells that share the tree."""
    tree: Input
    log_path: Path
    """The log of the shared server. Others are beside it, with the name of the server in theirs."""
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

    def of_server(self, server: Server, conf: str, connect: Connect) -> ServerPlace:
        """Return it as the place of a server.

        Args:
            server: what is started.
            conf: the configuration that the tree brings; empty if there is none.
            connect: makes connections in RESP.
        """
        return ServerPlace(
            engine=self.engine,
            image=self.image,
            stem=self.stem,
            group=self.group,
            tree=self.tree,
            log_path=self.log_path,
            emulator=self.emulator,
            inputs=self.inputs,
            allocator=self.allocator,
            bounds=self.bounds,
            server=server,
            conf=conf,
            connect=connect,
        )

    def hold(self) -> AbstractContextManager[RunningServer]:
        """Make a place for commands: the tree and a folder `data` to write to, without network and without a server."""
        return self.engine.serve(
            ServerJob(
                label=self.label,
                image=self.image,
                argv=IDLE,
                inputs=(self.tree, *self.inputs),
                port=0,
                log=self.log_path,
                unprivileged=True,
                bounds=self.bounds,
            )
        )

    def program(self, path: str, root: str) -> Sequence[str]:
        """Return the words that start a program of the tree."""
        # The emulator runs the program itself, and no shell: a program that an emulated one executes is not emulated.
        return (*self.emulator, f"{root}/tree/{path}") if self.emulator else (f"tree/{path}",)

    def execute(self, server: RunningServer, argv: Sequence[str]) -> Executed:
        """Run a command of the tree beside a server, or in a place for commands.

        Raises:
            Closed: the server has ended.
            HostError: the engine failed.
        """
        root = server.root
        values = {"tree": f"{root}/tree", "data": f"{root}/data", "port": str(server.port)}
        name, *arguments = argv
        words = (*self.program(name, root), *(_fill(word, values) for word in arguments))
        try:
            return server.execute(words, timeout=COMMAND_TIMEOUT)
        except HostError as error:
            if server.wait(PROBE) is None:
                raise
            raise Closed(f"{name} could not be run: the server has ended") from error

    def commands(self, server: RunningServer) -> Session:
        """Return a session for commands alone."""
        return Session(_no_server, execute=partial(self.execute, server))


def _no_server() -> Connection:
    raise Closed("there is no server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace(TreePlace):
    """Where and how servers of a tree run."""

    server: Server
    conf: str
    """The configuration that the tree brings; empty if there is none."""
    connect: Connect

    def session(self, server: RunningServer, *, timeout: float | None = None) -> Session:
        """Return a session with a server.

        Args:
            server: runs.
            timeout: seconds for connecting and for each answer; None: the usual ones.

        Raises:
            ConnectionRefusedError: it has ended.
        """
        host, port = server.address()
        timeout = timeout or (EMULATED if self.emulator else ANSWER)
        return Session(
            partial(self.connect, host, port, timeout=timeout),
            partial(Wire, host, port, timeout=timeout, limit=RAW_LIMIT),
            partial(self.execute, server),
        )

    def serve(
        self,
        name: str = "",
        *,
        instance: Instance | None = None,
        log: Path,
        data: bytes | None = None,
        network: str = "",
        env: Mapping[str, str] | None = None,
        kept: str = "",
    ) -> AbstractContextManager[RunningServer]:
        """Start a server.

        Args:
            name: distinguishes it from other servers of the run.
            instance: its own settings and limits.
            log: the file for its output.
            data: the content of its data folder, as a tar archive.
            network: the private network that it joins.
            env: additional variables.
            kept: as in ServerJob.

        Raises:
            CannotServe: the engine cannot do what the instance asks for.
        """
        label = f"{self.label}-{name}" if name else self.label
        settings = instance or Instance()
        root = self.engine.root(label)
        unprivileged = self.server.unprivileged or settings.unprivileged
        port = self.server.port
        if isinstance(self.engine, HostEngine):
            port = self.engine.free_port(self.server.offsets)
        values = {"port": str(port), "data": f"{root}/data", "conf": f"{root}/{CONF}"}
        conf = self._settled(settings, values)
        program, *arguments = self.server.command
        held = (Input(folder="data", archive=data),) if data is not None else ()
        return self.engine.serve(
            ServerJob(
                label=label,
                image=self.image,
                argv=(*self.program(program, root), *(_fill(part, values) for part in arguments)),
                inputs=(self.tree, *conf, *held, *self.inputs),
                port=port,
                log=log,
                network=network,
                unprivileged=unprivileged,
                open_files=settings.open_files,
                env=env or {},
                kept=kept,
                bounds=self.bounds,
            )
        )

    def _settled(self, instance: Instance, values: Mapping[str, str]) -> tuple[Input, ...]:
        """Return the configuration file of an instance; nothing if the server has none."""
        entry = self.server.conf
        if entry is None:
            return ()
        entry = entry.model_copy(update={"testing": {**entry.testing, **instance.settings}})
        return (Input(folder="", archive=files({CONF: settle(entry, self.conf, values).encode()})),)

    def version_command(self) -> tuple[str, ...]:
        """Return the command that shows the version, for a job."""
        program, *arguments = self.server.version.command
        return (*self.emulator, f"./tree/{program}", *arguments)

    def ready(self, server: RunningServer) -> tuple[int | None, str]:
        """Wait until a server answers as `server.ready` says.

        Returns:
            `(None, "")` if it does; else its exit status if it has ended, and what is wrong.
        """
        deadline = time.monotonic() + self.server.within
        wanted = self.server.ready
        last = "it was never reached"
        while time.monotonic() < deadline:
            status = server.wait(PROBE)
            if status is not None:
                return status, f"the server ended before it answered: {describe_end(status)}"
            try:
                with self.session(server, timeout=STARTING) as session:
                    wrong = probe.of(wanted).ask(wanted, session)
            except Garbled as error:  # waiting does not help
                return None, f"the server does not speak what `server.ready` says ({wanted.kind}): {error}"
            except (Closed, OSError) as error:
                last = str(error)
                continue
            if not wrong:
                return None, ""
            last = wrong
        return None, f"the server did not answer within {self.server.within:g} s: {last}"
