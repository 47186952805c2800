"""Gives a kept answer again, if all that the build has looked at is as it was."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

from pikaforge.cli.unchanged import request, state
from pikaforge.host import own_files

FORMAT = 2
OWNER = "org.pikaforge.owner"
"""The engine's label with the run id of what must not outlive its run; `host.sweeping` has the same."""


class KeptAnswer:
    """A kept answer. It has been read whole, and its digest is right."""

    def __init__(self, data: dict[str, object]) -> None:
        self.data = data

    def table(self, name: str) -> dict[str, object]:
        """Return one of its tables; raise TypeError if it is none."""
        found = self.data[name]
        if not isinstance(found, dict):
            raise TypeError(name)
        return found

    def texts(self, name: str) -> list[str]:
        """Return one of its lists of texts; raise TypeError if it is none."""
        found = self.data[name]
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise TypeError(name)
        return found

    def number(self, name: str) -> int:
        """Return one of its numbers; raise TypeError if it is none."""
        found = self.data[name]
        if not isinstance(found, int):
            raise TypeError(name)
        return found

    def events(self) -> list[dict[str, object]]:
        """Return what --json shows; raise TypeError if that is none."""
        found = self.table("shown")["events"]
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise TypeError("events")
        return found


def replay(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Print the kept answer to a call; return its exit status, or None if there is none that holds."""
    began = time.monotonic()
    try:
        found = read(request.path_of(argv, environ))
        if found is None or not holds(found, argv, environ):
            return None
        text, errors = _shown(found, time.monotonic() - began)
        status = found.number("status")
    except (OSError, ValueError, LookupError, TypeError):  # it is not as this version writes it
        return None
    try:
        sys.stderr.write(errors)
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        from pikaforge.cli import signals  # noqa: PLC0415

        if not signals.reader_is_gone(error):
            raise
        signals.drop_streams()
        return signals.HUNG_UP
    return status


def read(path: str) -> KeptAnswer | None:
    """Return a kept answer; None if there is none that can be believed."""
    body = own_files.read(path)
    data = json.loads(body) if body is not None else None
    return KeptAnswer(data) if isinstance(data, dict) and data.get("format") == FORMAT else None


def holds(answer: KeptAnswer, argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether all is as it was when an answer was kept. What costs least is compared first."""
    return (
        answer.data["request"] == request.request(argv, environ)
        and answer.data["cpu"] == state.of_cpu()
        and answer.data["modules"] == state.of_modules(answer.texts("module_files"))
        and nothing_left(answer)
        and _unlocked(answer.texts("locks"))
        and all(state.of_folder(path) == was for path, was in answer.table("folders").items())
        and _engine_as_it_was(answer.table("engine"))
        and state.as_they_were(answer.table("files"))
    )


def nothing_left(answer: KeptAnswer) -> bool:
    """Return whether no killed run has left anything in the folders that a build sweeps."""
    from pikaforge.host import ended_runs  # noqa: PLC0415

    if any(ended_runs.left(folder) for folder in answer.texts("swept")):
        return False
    return next(ended_runs.marks_left(answer.texts("temporary")), None) is None


def _unlocked(paths: Sequence[str]) -> bool:
    """Return whether no other run writes what this one would write: it would wait for that run."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True


def _engine_as_it_was(engine: Mapping[str, object]) -> bool:
    """Return whether the same engine answers the same, and holds nothing of killed runs."""
    if not engine:
        return True
    from pikaforge.host import engine_socket  # noqa: PLC0415

    address, sockets, asked = engine["address"], engine["sockets"], engine["asked"]
    if not (isinstance(address, str) and isinstance(sockets, dict) and isinstance(asked, dict)):
        return False
    if any(engine_socket.usable(path) != was for path, was in sockets.items()):
        return False
    for path, (status, names, chosen) in asked.items():
        now, answered = engine_socket.get(address, path)
        if (now, engine_socket.chosen(answered, names)) != (status, chosen):
            return False
    return all(_none_ended(address, path) for path in engine_socket.owned(OWNER))


def _none_ended(address: str, path: str) -> bool:
    """Return whether a list of the engine has nothing that killed runs have left."""
    from pikaforge.host import ended_runs, engine_socket  # noqa: PLC0415

    status, listed = engine_socket.get(address, path)
    if status != 200 or not isinstance(listed, list):
        return False
    return not any(ended_runs.has_ended((entry.get("Labels") or {}).get(OWNER, "")) for entry in listed)


def _shown(answer: KeptAnswer, seconds: float) -> tuple[str, str]:
    """Return what is printed on standard output and on standard error.

    Raises:
        ValueError: there are letters in it that could control a terminal.
    """
    shown = answer.table("shown")
    if "events" in shown:
        return _event_lines(answer, seconds), ""
    text, errors = str(shown["stdout"]), str(shown["stderr"])
    if not (text + errors).replace("\n", "").isprintable():
        raise ValueError("not printable")
    return text, errors


def _event_lines(answer: KeptAnswer, seconds: float) -> str:
    """Return the events of --json, with the time that it is now."""
    from datetime import datetime, timezone  # noqa: PLC0415

    from pikaforge.host.text import printable_json  # noqa: PLC0415

    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    lines = []
    for event in answer.events():
        event["time"] = now
        if event["event"] == "closed":
            event["seconds"] = seconds
        lines.append(f"{printable_json(json.dumps(event))}\n")
    return "".join(lines)
