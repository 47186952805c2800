"""Calls of one thread to a container engine: each has a limit, and what is read piece by piece is closed for certain.

An engine holds the lock of a container while it sends a file of it, and a removal waits for that lock (moby,
daemon/archive.go). So an answer that is still open when its container is removed makes the removal hang, and with it
whatever else asks for that container. The SDK never closes what it has not read to its end. It leaves that to the
garbage collector, which does nothing as long as an exception has the frames.

The SDK is a session of requests, and all its calls go through adapters. `EngineCalls` puts one around each of these.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import requests
from requests.adapters import BaseAdapter

from pikaforge.host.connection import refuse_error

if TYPE_CHECKING:
    from docker import APIClient

QUESTION = 60.0
"""Seconds for an answer that only has to be looked up."""
WORK = 600.0
"""Seconds in which an engine makes, starts, imports or unpacks something, and between two pieces of an answer."""
STEP = 1800.0
"""Seconds in which a step of an image's build prints nothing, or a registry sends nothing."""
REMOVAL = 120.0
"""Seconds for the removal of a container: it may have a million files."""
KILL = 30.0
"""Seconds for a signal to a container."""
LIMITS = (
    (re.compile(r"POST \S*/(build|images/create)"), STEP),
    (re.compile(r"POST \S*/containers/[^/]+/kill"), KILL),
    (re.compile(r"DELETE \S*/(containers|networks)/[^/]+"), REMOVAL),
    (re.compile(r"GET \S*/containers/[^/]+/(archive|logs)"), WORK),
    (re.compile(r"GET \S*/images/get"), WORK),
    (re.compile(r"GET \S*"), QUESTION),
)
"""Limits by method and path, of which the first that fits counts; `WORK` for all else."""

FRAME = struct.Struct(">xxxxL")
"""What is before each piece of what a program prints: the stream, which nobody asks for here, and the size in bytes."""
PIECE = 1 << 16
"""Bytes of a frame that are read at once: the engine is not trusted with this process's memory."""

_Timeout = float | tuple[float, float] | tuple[float, None] | None
_Text = str | bytes


def limit(method: str, path: str) -> float:
    """Return the limit of a call, in seconds of silence."""
    return next((found for pattern, found in LIMITS if pattern.fullmatch(f"{method} {path}")), WORK)


class EngineCalls:
    """The calls of one client. It is used by its own thread alone, but for `cut`."""

    def __init__(self, api: APIClient) -> None:
        """Take over a client: from now on its calls have limits, unless the caller gives one."""
        self.last: requests.PreparedRequest | None = None
        """The last call, for messages."""
        self._open: list[list[requests.Response]] = []
        """Answers that are being read, by block."""
        self._lock = threading.Lock()
        self._most: float | None = None
        for prefix, adapter in list(api.adapters.items()):
            api.mount(prefix, _Adapter(adapter, self))
        # Then the SDK gives none of its own, and one that is given here is known as such.
        vars(api)["timeout"] = None

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close what was opened in the block and was not read to its end."""
        opened: list[requests.Response] = []
        with self._lock:
            self._open.append(opened)
        try:
            yield
        finally:
            with self._lock:
                self._open = [other for other in self._open if other is not opened]
            for answer in opened:
                with suppress(Exception):  # it is closed all the same
                    answer.close()

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Give the calls of the block no more than so many seconds each."""
        before, self._most = self._most, seconds
        try:
            yield
        finally:
            self._most = before

    @contextmanager
    def cut_after(self, seconds: float) -> Iterator[None]:
        """Cut what the block reads if it takes longer: for answers that the SDK reads without a limit.

        Raises:
            requests.exceptions.ReadTimeout: it took longer.
        """
        late: list[requests.exceptions.ReadTimeout] = []

        def expire() -> None:
            late.append(requests.exceptions.ReadTimeout(f"read timeout={seconds:g}", request=self.last))
            self.cut()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            if not late:
                raise
            raise late[0] from error  # it is about an answer that was cut
        finally:
            timer.cancel()
        if late:
            raise late[0]

    def cut(self) -> None:
        """End what is being read, from another thread: its reader finds the end of the answer."""
        with self._lock:
            answers = [answer for opened in self._open for answer in opened]
        for answer in answers:
            # ValueError, RuntimeError: it was read to its end meanwhile. OSError: the engine has closed it.
            with suppress(ValueError, RuntimeError, OSError):
                answer.raw.shutdown()

    def seconds(self, method: str, path: str) -> float:
        """Return the limit of a call in this moment."""
        found = limit(method, path)
        return found if self._most is None else min(found, self._most)

    def opened(self, answer: requests.Response) -> None:
        """Take note of an answer that is read piece by piece."""
        with self._lock:
            if self._open:
                self._open[-1].append(answer)


class _Adapter(BaseAdapter):
    """An adapter of the SDK, with limits."""

    def __init__(self, inner: BaseAdapter, calls: EngineCalls) -> None:
        super().__init__()
        self._inner, self._calls = inner, calls

    def send(  # noqa: PLR0917  # as requests has it
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: _Timeout = None,
        verify: bool | str = True,
        cert: _Text | tuple[_Text, _Text] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        method, path = str(request.method), request.path_url.partition("?")[0]
        self._calls.last = request
        answer = self._inner.send(
            request,
            stream=stream,
            timeout=self._calls.seconds(method, path) if timeout is None else timeout,
            verify=verify,
            cert=cert,
            proxies=dict(proxies or {}),
        )
        if stream:
            self._calls.opened(answer)
        return answer

    def close(self) -> None:
        self._inner.close()


def executed(api: APIClient, id_: str, silence: float) -> Iterator[bytes]:
    """Start a program that was made with `exec_create`, and yield what it prints, standard output and error.

    The SDK's `exec_start` reads from the socket below a buffered file that has read the headers of the answer. It loses
    what came together with these, as all of a short output does on a busy machine. So this reads the answer as HTTP.

    Args:
        api: the engine.
        id_: of the program.
        silence: seconds without a byte, after which it is an error.

    Raises:
        docker.errors.APIError: the engine refuses.
    """
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/exec/{id_}/start",
        json={"Detach": False, "Tty": False},
        stream=True,
        timeout=silence,
    )
    refuse_error(answer)
    while len(header := answer.raw.read(FRAME.size)) == FRAME.size:
        yield from _pieces(answer, *FRAME.unpack(header))


def _pieces(answer: requests.Response, size: int) -> Iterator[bytes]:
    """Yield a frame in pieces."""
    while size > 0 and (piece := answer.raw.read(min(size, PIECE))):
        size -= len(piece)
        yield piece
