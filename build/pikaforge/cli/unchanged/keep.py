"""Keeps the answer of a build that had nothing to do, with all that the build has looked at."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pikaforge.cli.faces.events import NodeEnded, NodeStarted, RunClosed, RunEvent
from pikaforge.cli.faces.face import open_face
from pikaforge.cli.unchanged import answer, request, state
from pikaforge.errors import FullDiskError
from pikaforge.host import engine_socket, leftovers
from pikaforge.host.connection import sockets
from pikaforge.host.store import write_atomically
from pikaforge.host.watch import Reads, covered

if TYPE_CHECKING:
    from pikaforge.host.workspace import Workspace

FACES = ("blocks", "board", "quiet", "json")
"""Faces that print the same for the same events."""
MOST = 32
"""Answers in a folder. Of more, those that were kept first are removed."""
RECENT, COARSE = 50_000_000, 2_000_000_000
"""Nanoseconds before the begin of a run in which a change may have the time of it: on file systems with fine times, and
on those with whole seconds."""


def keep(workspace: Workspace, watch: Reads, events: Sequence[RunEvent], *, face: str, argv: Sequence[str]) -> str:
    """Keep the answer of a build that has ended well and in which nothing was made; return why not, "" if it is kept.

    Args:
        workspace: of the run.
        watch: what it has looked at.
        events: what it has shown.
        face: what has shown them.
        argv: the arguments of the call.
    """
    why = _objection(workspace, watch, events, face, argv)
    if why:
        return why
    dist = [workspace.dist, *(path for path in workspace.dist.iterdir() if path.is_dir())]
    with covered():
        files, folders = dict(watch.files), watch.folders | {str(path) for path in dist}
        modules = sorted({file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))})
        found = {
            "format": answer.FORMAT,
            "request": request.request(argv, os.environ),
            "cpu": state.of_cpu(),
            "module_files": modules,
            "modules": state.of_modules(modules),
            "files": {path: state.of_file(path) for path in sorted(files)},
            "folders": {path: state.of_folder(path) for path in sorted(folders)},
            "swept": [str(folder) for folder in (*workspace.swept(), workspace.store.root)],
            "temporary": list(leftovers.places()),
            "locks": [str(workspace.dist / ".lock")],
            "engine": _engine(watch),
            "shown": _shown(events, face),
        }
        if changed := next(_changed(files, [*folders, *modules], watch.began), ""):
            return f"{changed} has changed during the run"
        _write(Path(request.path_of(argv, os.environ)), found)
    return ""


def _objection(workspace: Workspace, watch: Reads, events: Sequence[RunEvent], face: str, argv: Sequence[str]) -> str:
    """Return why the answer of a run cannot be kept; "" if it can."""
    made = any(isinstance(e, NodeStarted) or (isinstance(e, NodeEnded) and e.status != "cached") for e in events)
    well = isinstance(events[-1], RunClosed) and events[-1].exit_status == 0
    here = workspace.engine.kind == "host" or watch.address
    objections = {
        "such a call does something each time": not request.may_be_kept(list(argv), os.environ) or face not in FACES,
        "the folder of --out is not clear": Path(request.out(argv, os.environ)) != workspace.out,
        "something was made": made,
        "the run has not ended well": not well,
        "the engine is not one of this machine": not here,
        **{f"it {doubt}": True for doubt in watch.doubts},
    }
    return next((why for why, holds in objections.items() if holds), "")


def _engine(watch: Reads) -> dict[str, object]:
    """Return what is known of the engine: where it is, where others could be, and what it was asked."""
    if not watch.address:
        return {}
    return {
        "address": watch.address,
        "sockets": {str(path): engine_socket.usable(str(path)) for path in sockets(os.environ)},
        "asked": {path: [status, list(names), chosen] for path, (status, names, chosen) in watch.asked.items()},
    }


def _changed(files: Mapping[str, bool], others: Iterable[str], began: int) -> Iterator[str]:
    """Yield paths that may have changed since a moment: what the run has read may be another state than that of now."""
    for path in (*files, *others):
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError:
            if files.get(path):
                yield path
            continue
        room = COARSE if found.st_ctime_ns % 1_000_000_000 == 0 else RECENT
        if found.st_ctime_ns >= began - room or files.get(path) is False:
            yield path


def _shown(events: Sequence[RunEvent], face: str) -> dict[str, object]:
    """Return what a face shows of events, where the run takes no time."""
    told = [event.model_copy(update={"seconds": 0.0}) if isinstance(event, RunClosed) else event for event in events]
    if face == "json":
        return {"events": [event.model_dump(mode="json") for event in told]}
    stream = _Copy(sys.stdout)
    errors = io.StringIO()
    with redirect_stderr(errors):
        shown = open_face(face, os.environ, stream)
        for event in told:
            shown.take(event)
        shown.close()
    return {"stdout": stream.getvalue(), "stderr": errors.getvalue()}


class _Copy(io.TextIOWrapper):
    """What would be written to a stream: faces see its encoding, and whether it is a terminal of which width."""

    def __init__(self, stream: TextIO) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding=stream.encoding, errors="replace", newline="\n")
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def getvalue(self) -> str:
        """Return what was written."""
        self.flush()
        return self._bytes.getvalue().decode(self.encoding)


def _write(path: Path, found: Mapping[str, object]) -> None:
    """Write an answer. It is no harm if that cannot be done."""
    body = json.dumps(found, separators=(",", ":")).encode()
    with suppress(OSError, FullDiskError):
        write_atomically(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        path.chmod(0o600)
        kept = sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[:-MOST]:
            old.unlink(missing_ok=True)
