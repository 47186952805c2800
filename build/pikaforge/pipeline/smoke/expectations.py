"""Expectations of smoke checks: whether the reply to a step is the one that it expects."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from pikaforge.config.smoke_checks import Check, Step
from pikaforge.pipeline.smoke.record import CheckRecord
from pikaforge.pipeline.smoke.resp import Closed, Connection, ErrorReply, Reply

POLL = 0.05
"""Seconds between two tries of a step with `within`. A server does not say when it has reached a state."""


def show(value: object) -> str:
    """Return a reply or request for people, cut to one line."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    elif value is None:
        text = "(nil)"
    else:
        text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}…"


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _holds(step: Step, reply: Reply) -> bool:
    if "error" in step.model_fields_set:
        return isinstance(reply, ErrorReply) and re.search(step.error or "", reply.text) is not None
    if isinstance(reply, ErrorReply):
        return False
    if "unordered" in step.model_fields_set:
        return isinstance(reply, list) and sorted(map(repr, reply)) == sorted(map(repr, step.unordered or ()))
    if "match" in step.model_fields_set:
        text = reply if isinstance(reply, str) else show(reply)
        return re.search(step.match or "", text) is not None
    return _plain(reply) == _plain(step.expect)


def _wanted(step: Step) -> str:
    for name in ("error", "match"):
        if name in step.model_fields_set:
            kind = "an error that matches" if name == "error" else "a match of"
            return f"{kind} {getattr(step, name)!r}"
    if "unordered" in step.model_fields_set:
        return f"{show(step.unordered)} in any order"
    return show(step.expect)


def _requests(step: Step) -> Sequence[Sequence[str | int]]:
    if step.pipeline is not None:
        return step.pipeline
    assert step.send is not None  # the model sees to it
    return [step.send]


def run_step(step: Step, connection: Connection) -> str:
    """Run a step; return "" if it holds, else the exchange as text.

    Raises:
        Closed: the server went away or did not answer.
    """
    requests = _requests(step)
    deadline = time.monotonic() + step.within
    while True:
        replies = connection.exchange(requests)
        reply: Reply = replies if step.pipeline is not None else replies[0]
        if _holds(step, reply):
            return ""
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL)
    return f"{describe(step)}; got {show(reply)}"


def describe(step: Step) -> str:
    """Return a step with requests in words: what is sent, and what is wanted."""
    sent = " | ".join(" ".join(str(word) for word in request) for request in _requests(step))
    waited = f" within {step.within:g} s" if step.within else ""
    return f"sent {sent}; wanted {_wanted(step)}{waited}"


def run_check(check: Check, connect: Callable[[], Connection]) -> CheckRecord:
    """Run a check on a connection of its own."""
    start = time.monotonic()
    detail = ""
    try:
        with connect() as connection:
            for number, step in enumerate(check.steps):
                try:
                    detail = run_step(step, connection)
                except Closed as error:
                    sent = " | ".join(" ".join(str(word) for word in r) for r in _requests(step))
                    detail = f"sent {sent}; wanted {_wanted(step)}; got no reply: {error}"
                if detail:
                    detail = f"step {number + 1}: {detail}"
                    break
    except Closed as error:
        detail = f"no connection: {error}"
    if detail and check.why:
        detail = f"{detail} ({check.why})"
    return CheckRecord(
        name=check.check, passed=not detail, seconds=time.monotonic() - start, detail=detail, required=check.required
    )
