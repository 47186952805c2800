"""Many questions at once, in bounded time: what does not answer is left alone, and does not keep the program.

Threads of a pool would be waited for at the end of the program, and the look-up of a name cannot be ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

from pikaforge.errors import ForgeError
from pikaforge.host import http
from pikaforge.host.http import HttpError, Retries

AT_ONCE = 16
"""Questions that are asked at one time."""
PATIENCE = (5.0, 5.0)
"""Seconds to connect to a server, and for its answer."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a server answered to a GET whose body nobody read."""

    status: int = 0
    """Of HTTP; 0 without an answer."""
    reason: str = ""
    """Why there is no answer; without a secret."""
    ahead: float | None = None
    """Seconds by which this machine's clock is ahead of the server's; None if it has not said its time."""


def in_time(questions: Mapping[K, Callable[[], V]], seconds: float) -> dict[K, V]:
    """Ask questions at the same time; return the answers that came in so many seconds, by the question's name.

    A question answers by returning. One that raises a ForgeError has no answer.
    """
    waiting = iter(list(questions.items()))
    answers: queue.SimpleQueue[tuple[K, V] | None] = queue.SimpleQueue()
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                question = next(waiting, None)
            if question is None:
                return
            answer = None
            try:
                answer = (question[0], question[1]())
            except ForgeError:
                continue
            finally:
                answers.put(answer)

    for _ in range(min(AT_ONCE, len(questions))):
        threading.Thread(target=work, daemon=True).start()
    found: dict[K, V] = {}
    end = time.monotonic() + seconds
    for _ in questions:
        try:
            answer = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if answer is not None:
            found[answer[0]] = answer[1]
    return found


def ask(url: str, now: Callable[[], float] = time.time) -> Answered:
    """Ask for the headers of a URL (http or https), once. Credentials are sent only if ~/.netrc has an entry."""
    from pikaforge.host.http_session import Client  # noqa: PLC0415  # imports requests

    with Client(retries=Retries(tries=1), timeout=PATIENCE, downgrade=True) as client:
        try:
            with client.open("GET", url, final=range(400, 600)) as answer:
                return Answered(status=answer.status, ahead=ahead_of(answer.headers, now()))
        except HttpError as error:
            return Answered(reason=str(error))


def ahead_of(headers: Mapping[str, str], now: float) -> float | None:
    """Return how many seconds a clock is ahead of what an answer's headers say; None if they do not say it.

    `Date` is when the answer was made. A cache adds `Age`, the seconds since then (RFC 9110, 6.6.1; RFC 9111, 5.1).
    """
    age = headers.get("Age", "0").strip()
    try:
        made = parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return now - made - (int(age) if age.isdecimal() and len(age) < 10 else 0)


def root_of(url: str) -> str:
    """Return a server's first page."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


def shown(url: str) -> str:
    """Return scheme, host and port of a URL, without secrets."""
    return http.redacted(root_of(url)).rstrip("/")
