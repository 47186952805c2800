"""Expectations of smoke checks: whether the reply to a step is the one that it expects."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from pikaforge.config.smoke_checks import Check, Probe, Step
from pikaforge.pipeline.smoke.probes import probe
from pikaforge.pipeline.smoke.record import CheckRecord
from pikaforge.pipeline.smoke.resp import ErrorReply, Reply
from pikaforge.pipeline.smoke.session import Session
from pikaforge.pipeline.smoke.wire import Closed, NoConnection

POLL = 0.05
"""Seconds between two tries of a step with `within`. A server does not say when it has reached a state."""

LETTERS = 400
"""Of a reply or an exchange, for people."""


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
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


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


def run_step(step: Step, session: Session) -> str:
    """Run a step that asks; return "" if it holds, else the exchange as text.

    Raises:
        NoConnection: there is no connection.
    """
    deadline = time.monotonic() + step.within
    while True:
        try:
            got = _probed(step.probe, session) if step.probe is not None else _exchanged(step, session)
        except NoConnection:
            if step.probe is None or time.monotonic() >= deadline:
                raise
            got = "no connection"
        except Closed as error:
            got = f"no reply: {error}"
            if step.probe is None:
                break
        if not got:
            return ""
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL)
    return f"{describe(step)}; got {got}"


def _exchanged(step: Step, session: Session) -> str:
    """Exchange once; return "" if the reply is the one that is expected, else what it is."""
    replies = session.connection().exchange(_requests(step))
    reply: Reply = replies if step.pipeline is not None else replies[0]
    if not _holds(step, reply):
        return show(reply)
    session.note(_cut(f"{_sent(step)} → {show(reply)}"))
    return ""


def _probed(asked: Probe, session: Session) -> str:
    try:
        wrong = probe.of(asked).ask(asked, session)
    except Closed:
        session.hang_up()
        raise
    if wrong:
        session.hang_up()
    else:
        session.note(_cut(f"{probe.of(asked).describe(asked)}: it came"))
    return wrong


def describe(step: Step) -> str:
    """Return a step that asks in words: what is sent, and what is wanted."""
    waited = f" within {step.within:g} s" if step.within else ""
    if step.probe is not None:
        return f"{probe.of(step.probe).describe(step.probe)}{waited}"
    return f"sent {_sent(step)}; wanted {_wanted(step)}{waited}"


def _sent(step: Step) -> str:
    return " | ".join(" ".join(str(word) for word in request) for request in _requests(step))


def run_check(check: Check, session: Session) -> CheckRecord:
    """Run the steps of a check; the session is closed afterwards."""
    start = time.monotonic()
    detail = ""
    with session:
        for number, step in enumerate(check.steps):
            try:
                detail = run_step(step, session)
            except NoConnection as error:
                detail = f"no connection: {error}"
                break
            if detail:
                detail = f"step {number + 1}: {detail}"
                break
    if detail and check.why:
        detail = f"{detail} ({check.why})"
    return CheckRecord(
        name=check.check,
        passed=not detail,
        seconds=time.monotonic() - start,
        detail=detail,
        required=check.required,
        exchanges=tuple(session.noted()),
    )
