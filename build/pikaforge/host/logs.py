"""Names of logs, so that two runs or two configurations in one out/ do not write to one file.

A log is `<label>/<stage>.log`. A record beside it says which configuration and which run have it. Another configuration
gets a name of its own, with a digest of its path. A run that meets the log of one that still runs gets a name with its
process id.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pikaforge.host.run_id import RunId
from pikaforge.host.store import locked

LOCK = ".lock"
RECORD = ".{}.by"
"""Name of the record of a log, by the log's name."""


def claimed(folder: Path, label: str, stage: str, *, matrix: Path) -> Path:
    """Return the path of an empty log, which no other run and no other configuration writes to.

    Args:
        folder: of all logs.
        label: of the node.
        stage: the log's name without its suffix.
        matrix: the configuration.
    """
    place, run, owner = folder / label, RunId.current(), str(matrix.resolve())
    place.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK):
        name = f"{stage}.log"
        other = _record(place, name)[0]
        if other not in ("", owner) and Path(other).exists():
            name = f"{stage}.{hashlib.sha256(owner.encode()).hexdigest()[:8]}.log"
        _sweep(place, name)
        by = RunId.parse(_record(place, name)[1])
        if by is not None and by != run and not by.gone():
            name = f"{name.removesuffix('.log')}.{run.pid}.log"
        (place / RECORD.format(name)).write_text(f"{run.text} {owner}\n", encoding="utf-8", errors="surrogateescape")
        path = place / name
        path.unlink(missing_ok=True)  # whoever still has the old one open does not write into the new one
        path.write_bytes(b"")
    return path


def last_lines(log: Path, size: int = 1 << 16) -> list[str]:
    """Return the lines in the last bytes of a log."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
        return stream.read().decode("utf-8", "replace").splitlines()


def _record(place: Path, name: str) -> tuple[str, str]:
    """Return configuration and run of a log; empty texts if it has no record."""
    try:
        text = (place / RECORD.format(name)).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return "", ""
    run, _, owner = text.rstrip("\n").partition(" ")
    return owner, run


def _sweep(place: Path, name: str) -> None:
    """Remove logs that runs which have ended have written beside one, with their records."""
    stem = name.removesuffix(".log")
    for log in place.glob(f"{stem}.*.log"):
        by = RunId.parse(_record(place, log.name)[1])
        if by is not None and log.name == f"{stem}.{by.pid}.log" and by.gone():
            log.unlink(missing_ok=True)
            (place / RECORD.format(log.name)).unlink(missing_ok=True)
