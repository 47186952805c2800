"""Keeps the answer of a build that had nothing to do, with all that the build has looked at."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pikaforge.cli import output
from pikaforge.cli.unchanged import answer, request, state
from pikaforge.host import engine_socket, leftovers, own_files
from pikaforge.host.connection import sockets
from pikaforge.host.watch import Reads, covered

if TYPE_CHECKING:
    from pikaforge.cli.faces.events import RunEvent
    from pikaforge.host.workspace import Workspace

FACES = ("blocks", "board", "quiet", "json")
"""Faces that print the same for the same events."""
MOST = 32
"""Answers in a folder. Of more, those that were kept first are removed."""
RECENT, COARSE = 50_000_000, 2_000_000_000
"""Nanoseconds before the begin of a run in which a change may have the time of it: on file systems with fine times, and
on those with whole seconds."""


def keep_build(
    workspace: Workspace, watch: Reads, events: Sequence[RunEvent], *, face: str, argv: Sequence[str]
) -> str:
    """Keep the answer of a build that has ended well and in which nothing was made; return why not, "" if it is kept.

    Args:
        workspace: of the run.
        watch: what it has looked at.
        events: what it has shown.
        face: what has shown them.
        argv: the arguments of the call.
    """
    from pikaforge.cli.faces.events import NodeEnded, NodeStarted, RunClosed  # noqa: PLC0415  # plans have none

    made = any(isinstance(e, NodeStarted) or (isinstance(e, NodeEnded) and e.status != "cached") for e in events)
    well = isinstance(events[-1], RunClosed) and events[-1].exit_status == 0
    if face not in FACES or made or not well:
        return "something was made, or cannot be shown again"
    with covered():
        dist = [workspace.dist, *(path for path in workspace.dist.iterdir() if path.is_dir())]
        for path in dist:
            watch.listed(str(path))
        more = {
            "swept": [str(folder) for folder in (*workspace.swept(), workspace.store.root)],
            "temporary": list(leftovers.places()),
            "locks": [str(workspace.dist / ".lock")],
        }
        return _keep(workspace, watch, _shown(events, face), argv=argv, status=0, more=more)


def keep_text(workspace: Workspace, watch: Reads, text: str, *, argv: Sequence[str], status: int) -> str:
    """Keep the text that a verb has printed which changes nothing; return why not, "" if it is kept.

    Args:
        workspace: of the call.
        watch: what it has looked at.
        text: what it has printed on standard output; on standard error it has printed nothing.
        argv: the arguments of the call.
        status: its exit status.
    """
    with covered():
        stream = _Copy(sys.stdout)
        output.write(text, stream)
        shown = {"stdout": stream.getvalue(), "stderr": ""}
        more: dict[str, object] = {"swept": [], "temporary": [], "locks": []}
        return _keep(workspace, watch, shown, argv=argv, status=status, more=more)


def _keep(
    workspace: Workspace,
    watch: Reads,
    shown: Mapping[str, object],
    *,
    argv: Sequence[str],
    status: int,
    more: Mapping[str, object],
) -> str:
    why = _objection(workspace, watch, argv)
    if why:
        return why
    earlier = _earlier(workspace, watch)
    modules = sorted({file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))})
    found = {
        "format": answer.FORMAT,
        "request": request.request(argv, os.environ),
        "cpu": state.of_cpu(),
        "module_files": modules,
        "modules": state.of_modules(modules),
        "files": {path: state.of_file(path) for path in sorted({**watch.files, **earlier.files})},
        "folders": {path: state.of_folder(path) for path in sorted({*watch.folders, *earlier.folders})},
        "engine": _engine(watch),
        "shown": shown,
        "status": status,
        **more,
    }
    changed = chain(
        _changed(watch.files, watch.folders, watch.began),
        _changed(earlier.files, [*earlier.folders, *modules], earlier.began),
    )
    if path := next(changed, ""):
        return f"{path} has changed during the run"
    body = json.dumps(found, separators=(",", ":")).encode()
    own_files.write(request.path_of(argv, os.environ), body, most=MOST)
    return ""


def _earlier(workspace: Workspace, watch: Reads) -> Reads:
    """Return what this process has looked at before the run, and in the run no more because it remembers it.

    Nothing that builds make is remembered: results, packages, what is in the cache of git. Temporary files are gone.
    """
    earlier = watch.after
    if earlier is None:
        return watch
    made = tuple(f"{folder}/" for folder in (workspace.out, workspace.dist))

    def counts(path: str) -> bool:
        return not f"{path}/".startswith(made) and (os.path.lexists(path) or not _temporary(path))

    left = Reads()
    left.began = earlier.began
    left.files = {path: there for path, there in earlier.files.items() if path not in watch.files and counts(path)}
    left.folders = set(filter(counts, earlier.folders - watch.folders))
    return left


def _temporary(path: str) -> bool:
    """Return whether a file was below a folder for temporary files."""
    return any(path.startswith(f"{place}/") for place in leftovers.places())


def _objection(workspace: Workspace, watch: Reads, argv: Sequence[str]) -> str:
    """Return why the answer of a run cannot be kept; "" if it can."""
    objections = {
        "such a call does something each time": not request.may_be_kept(list(argv), os.environ),
        "the folder of --out is not clear": Path(request.out(argv, os.environ)) != workspace.out,
        "the engine is not one of this machine": workspace.engine.kind != "host" and not watch.address,
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
    from pikaforge.cli.faces.events import RunClosed  # noqa: PLC0415
    from pikaforge.cli.faces.face import open_face  # noqa: PLC0415

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
