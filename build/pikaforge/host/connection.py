"""The connection to a container engine, through the docker SDK: the one module that imports it."""

from __future__ import annotations

import importlib
import os
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from pikaforge.errors import EngineError, FullDiskError, HostError, ProgramError
from pikaforge.host import docker_context, engine_socket, podman, replies, watch
from pikaforge.host.confinement import Abilities
from pikaforge.host.disk import SAID, has_no_room

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models import containers

    from pikaforge.host.engine_calls import EngineCalls

    Container = containers.Container

LABEL = "org.pikaforge"
"""Prefix of labels: `.owner` (a `RunId`) is on what must not outlive its run, `.kind` on everything."""

SOCKETS = ("/var/run/docker.sock", "{user}/docker.sock", "/run/podman/podman.sock", "{user}/podman/podman.sock")
"""Sockets of engines on this machine, in the order of setup.sh; {user} is XDG_RUNTIME_DIR."""
NO_ENGINE = (
    "start the engine (`systemctl start docker`, or podman.socket), or let `bash setup.sh` install and start one\n"
    "set DOCKER_HOST to reach an engine on another machine\n"
    "or build on this machine without containers: --engine host"
)
AGAIN = "run this again: it goes on where it was"
ENDED = (
    "its own log says why (`journalctl -u docker`, or -u podman)\n"
    "`bash setup.sh` starts it; run this again then: it goes on where it was"
)
ROOM = "`invoke images.remove` removes this tool's images, `docker system df` shows what else takes space there"
SECONDS = re.compile(r"read timeout=([0-9.]+)")
"""In urllib3's words for an answer that did not come."""
OK = 200
"""HTTP status of an answer that is what was asked for."""
ANSWERED = (404, 409)
"""HTTP statuses of errors that have nothing to do with a disk: something is not there, or is there already."""
RUNS = "/run"
"""Where engines note what runs (docker/ and containers/ below it)."""
PROBE = 5.0
"""Seconds for an engine to say that it is there: after a call without an answer, and before the SDK is imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """Facts about an engine."""

    cores: int
    podman: bool
    rootless: bool
    abilities: Abilities = field(default_factory=Abilities)


def load_sdk() -> ModuleType:
    """Return the SDK's module.

    Raises:
        HostError: it is not installed.
    """
    try:
        import docker  # noqa: PLC0415  # 0.3 s that a plan must not cost
        import docker.errors  # noqa: PLC0415
    except ImportError as error:
        raise ProgramError(
            f"the docker SDK for Python cannot be imported: {error}", hint="run `bash setup.sh`"
        ) from error
    if not hasattr(docker, "from_env"):
        # Without the SDK, this project's own docker/ folder imports as an empty namespace package.
        raise ProgramError("the docker SDK for Python is not installed", hint="run `bash setup.sh`")
    return docker


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return variables that lead to an engine.

    These are those that are given, or DOCKER_HOST of the docker context in use or of podman's CONTAINER_HOST, or else
    for the first usable socket.

    Raises:
        HostError: the context cannot be read, or podman's variables name an engine that cannot be used.
    """
    given = docker_context.with_context(given)
    if given.get("DOCKER_HOST"):
        return dict(given)
    if address := podman.named(given):
        return {**given, "DOCKER_HOST": address}
    paths = sockets(given)
    found = next((path for path in paths if engine_socket.usable(str(path))), None)
    return {**given, "DOCKER_HOST": f"unix://{found}" if found else ""}


def sockets(given: Mapping[str, str]) -> list[Path]:
    """Return the sockets of this machine at which an engine may be, for some variables; the first choice first."""
    user = given.get("XDG_RUNTIME_DIR", "")
    return [Path(place.format(user=user)) for place in SOCKETS if user or "{user}" not in place]


def address() -> str:
    """Return where the engine is: the URL that this process uses; "" if there is none."""
    return environment(os.environ)["DOCKER_HOST"]


def _ssh_errors(url: str) -> tuple[type[Exception], ...]:
    """Return what the SDK lets through when it cannot connect to an engine over ssh; nothing for other engines.

    Raises:
        HostError: what the SDK needs for ssh is not installed.
    """
    if not url.startswith("ssh://"):
        return ()
    try:
        paramiko = importlib.import_module("paramiko")
    except ImportError as error:
        raise ProgramError(
            "an engine over ssh needs the Python package paramiko, which is not installed",
            hint=f"{sys.executable} -m pip install 'docker[ssh]'\n"
            "or set DOCKER_HOST to an address of that engine that needs no ssh (tcp://HOST:PORT, with TLS)",
        ) from error
    return (paramiko.SSHException, OSError, EOFError)


def _probed(read: Callable[[DockerClient], str]) -> tuple[str, str]:
    """Ask the engine now, by a connection of its own; return what was read, or else "" and why it does not answer."""
    handled = sys.exc_info()[1]
    try:
        client = load_sdk().from_env(timeout=PROBE, environment=environment(os.environ))
        try:
            return read(client), ""
        finally:
            client.close()
    except Exception as error:  # noqa: BLE001  # of HTTP, ssh or the SDK: it is asked because something is wrong
        return "", brief(error, within=handled)


def engine_full(said: str, *, folder: str = "", also: str = "", where: str = "") -> FullDiskError:
    """Return the error of an engine whose disk is full.

    Args:
        said: by the engine or by a job.
        folder: that has no room, if that was seen.
        also: where else there may be no space.
        where: as in HostError.
    """
    if not folder:
        root = _root()
        folder = _full_here(root) or root or "the folder"
    return FullDiskError(f"no space left in {folder} of the container engine{also}: {said}", where=where, hint=ROOM)


def refuse_full_engine() -> None:
    """Raise FullDiskError if a folder of an engine of this machine has no room."""
    if folder := _full_here():
        raise FullDiskError(f"no space left in {folder} of the container engine", hint=ROOM)


def _root() -> str:
    """Return the folder with all that the engine has; "" if it does not say it now."""
    return _probed(lambda client: replies.parse(replies.EngineInfo, client.info()).root or "")[0]


def _full_here(root: str | None = None) -> str:
    """Return a folder without room of an engine of this machine; "" if there is none. Others are not asked.

    Args:
        root: what `_root` returned, if it was asked already.
    """
    if not address().startswith(engine_socket.UNIX):
        return ""
    folders = (_root() if root is None else root, RUNS)
    return next((folder for folder in folders if folder and has_no_room(Path(folder))), "")


def _no_engine(error: Exception) -> HostError:
    """Return the error of an engine that does not answer the first question."""
    found = SECONDS.search(str(error))
    if found:
        return EngineError(
            f"the container engine at {address()} is silent: it gave no answer in {float(found[1]):g} s",
            hint="the load of its machine and its own log may say why\n"
            "or set DOCKER_HOST to another engine, or build on this machine without containers: --engine host",
        )
    return EngineError(f"no container engine answers: {brief(error)}", hint=NO_ENGINE)


def _lost(error: Exception, where: str) -> HostError:
    """Return what has happened to an engine, in which a call has ended without an answer."""
    from pikaforge.host.http_session import timed_out  # noqa: PLC0415

    version, reason = _probed(lambda client: client.api.api_version)
    if timed_out(error):
        request, seconds = getattr(error, "request", None), SECONDS.search(str(error))
        call = f"{request.method} {request.path_url.partition('?')[0]}" if request is not None else "a call"
        limit = f"{float(seconds[1]):g} s" if seconds else "time"
        return EngineError(
            f"the container engine is silent: {call} got no answer in {limit}; "
            + ("it does answer other calls" if version else f"it does not answer others, either: {reason}"),
            where=where,
            hint=f"the load of its machine and its own log may say why; then {AGAIN}",
        )
    if version:
        return EngineError(
            f"the connection to the container engine broke off: {brief(error)}; it answers again",
            where=where,
            hint=AGAIN,
        )
    now = "" if reason == brief(error) else f"; and now: {reason}"
    return EngineError(f"the container engine does not answer any more: {brief(error)}{now}", where=where, hint=ENDED)


def brief(error: BaseException, *, within: BaseException | None = None) -> str:
    """Return the engine's own words in an exception of the SDK, or the innermost reason, on one line.

    Args:
        error: the exception.
        within: one that was being handled when it was raised, and is no reason for it.
    """
    explanation = getattr(error, "explanation", None)
    while explanation is None and (deeper := error.__cause__ or error.__context__) not in (None, within):
        assert deeper is not None  # see the line above
        error = deeper
    if isinstance(error, OSError) and error.strerror:
        explanation = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(explanation or error).split())[:300]


class EngineAnswer(Protocol):
    """An answer of the engine, as HTTP has it."""

    def raise_for_status(self) -> None:
        """Raise an OSError if it is an error."""


def refuse_error(answer: EngineAnswer) -> None:
    """Raise the SDK's error, with the engine's own words, if an answer is one: for answers that are read by HTTP.

    Raises:
        docker.errors.APIError: it is.
    """
    try:
        answer.raise_for_status()
    except OSError as error:  # that of requests
        load_sdk().errors.create_api_error_from_http_exception(error)


@contextmanager
def engine_errors(what: str = "the engine failed", *, where: str = "", hint: str = "") -> Iterator[None]:
    """Raise HostError with the engine's own words for all that the SDK raises.

    Args:
        what: the message, before those words.
        where: as in HostError.
        hint: as in HostError, unless `podman.HINTS` has a better one.

    Raises:
        FullDiskError: the engine says that its disk is full.
        HostError: all else.
    """
    from pikaforge.host.http_session import LOST  # noqa: PLC0415  # the SDK speaks HTTP by requests

    sdk = load_sdk()
    try:
        yield
    except sdk.errors.APIError as error:
        said = brief(error)
        # What starts containers may not say why it could not write. So one looks, before anything is removed.
        told = SAID.search(said)
        folder = "" if told or error.status_code in ANSWERED else _full_here()
        if told or folder:
            raise engine_full(said, folder=folder, where=where) from error
        advice = next((advice for pattern, advice in podman.HINTS.items() if re.search(pattern, said)), hint)
        raise EngineError(f"{what}: {said}", where=where, hint=advice) from error
    # struct.error: an engine that dies in the middle of a stream leaves half a frame of it.
    except (sdk.errors.DockerException, struct.error, *LOST) as error:
        raise _lost(error, where) from error


class EngineConnection:
    """The engine behind DOCKER_HOST, that of docker's context, or the local one."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._version: str | None = None
        self._facts: EngineFacts | None = None

    def _client(self) -> DockerClient:
        """Return this thread's client: the SDK's sessions must not be shared."""
        client: DockerClient | None = getattr(self._local, "client", None)
        watch.doubt("asks the engine by the SDK")
        if client is None:
            from pikaforge.host.engine_calls import QUESTION, EngineCalls  # noqa: PLC0415  # see `load_sdk`

            sdk = load_sdk()
            variables = environment(os.environ)
            over_ssh = _ssh_errors(variables["DOCKER_HOST"])
            try:
                # Podman takes half a second to say its version, so only the first client asks.
                client = sdk.from_env(timeout=QUESTION, version=self._version, environment=variables)
            except (sdk.errors.DockerException, *over_ssh) as error:
                raise (_no_engine(error) if self._facts is None else _lost(error, "")) from error
            self._version = client.api.api_version
            self._local.calls = EngineCalls(client.api)
            self._local.client = client
        return client

    def _calls(self) -> EngineCalls:
        """Return the calls of this thread's client."""
        self._client()
        calls: EngineCalls = self._local.calls
        return calls

    @staticmethod
    def _look(path: str, model: type[replies.Reply] | None = None) -> tuple[int, object] | None:
        """Ask an engine of this machine without the SDK; None if only the SDK can ask it, or knows why it is silent.

        Args:
            path: of what is asked for.
            model: of the answer, whose fields count for what is built; None if nothing of it does.
        """
        where = address()
        if not where.startswith(engine_socket.UNIX):
            return None
        try:
            status, answer = engine_socket.get(where, path, seconds=PROBE)
        except engine_socket.EngineSilentError:
            return None
        if model is not None and (seen := watch.current()) is not None:
            names = tuple(field.alias or name for name, field in model.model_fields.items())
            seen.address, seen.asked[path] = where, (status, names, engine_socket.chosen(answer, names))
        return status, answer

    def info(self) -> replies.EngineInfo:
        """Return what the engine says of itself; raise HostError if none answers."""
        looked = self._look("/info", replies.EngineInfo)
        if looked is not None and looked[0] == OK:
            return replies.parse(replies.EngineInfo, looked[1])
        from pikaforge.host.http_session import LOST  # noqa: PLC0415

        sdk = load_sdk()
        try:
            answer = self._client().info()
        except (sdk.errors.DockerException, *LOST) as error:
            raise _no_engine(error) from error
        return replies.parse(replies.EngineInfo, answer)

    def verify(self) -> None:
        """Raise HostError unless an engine for Linux on x86-64 answers."""
        info = self.info()
        if info.system != "linux" or info.architecture not in ("x86_64", "amd64"):
            raise EngineError(
                f"the container engine is for {info.system} on {info.architecture}; x86-64 Linux is needed",
                hint="set DOCKER_HOST to an engine on an x86-64 machine",
            )
        self._facts = EngineFacts(
            cores=info.cpus or 1, podman=info.podman, rootless=info.rootless, abilities=info.abilities
        )

    def facts(self) -> EngineFacts:
        """Return the facts about the engine. It is asked once."""
        if self._facts is None:
            self.verify()
        assert self._facts is not None  # verify raises otherwise
        return self._facts

    def cores(self) -> int:
        """Return the number of CPUs of the engine's machine."""
        return self.facts().cores

    def memory(self) -> int:
        """Return the bytes of memory of the engine's machine; 0 if the engine does not say it."""
        return self.facts().abilities.memory

    @staticmethod
    def _remote_host() -> str:
        """Return the host of an engine on another machine (tcp://HOST:PORT, ssh://USER@HOST); "" for a local one."""
        url = urlsplit(address())
        local = url.scheme not in ("tcp", "ssh", "http", "https") or url.hostname in ("localhost", "127.0.0.1", "::1")
        return "" if local else str(url.hostname)
