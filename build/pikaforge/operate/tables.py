"""Tables that the scripts read: one row a line, columns with tabs between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pikaforge.config.operate import Operate

RECOMMENDED = "utils/operate/recommended.tsv"
STALE = "utils/operate/stale.tsv"


def table(rows: Iterable[Sequence[str]]) -> bytes:
    """Return the text of a table.

    Raises:
        ValueError: a value holds a tab or a line end.
    """
    lines = []
    for row in rows:
        if any("\t" in value or "\n" in value for value in row):
            raise ValueError(f"a tab or a line end in {row!r}")
        lines.append("\t".join(row) + "\n")
    return "".join(lines).encode()


def of_operate(operate: Operate) -> dict[str, bytes]:
    """Return the tables of the section itself: recommended settings, and pid files that may be stale.

    There is no empty one: rpmlint refuses files without content.
    """
    tables = {
        RECOMMENDED: table(operate.settings.items()),
        STALE: table((pid.path, pid.program) for pid in operate.stale_pids),
    }
    return {path: text for path, text in tables.items() if text}


def of_parts(operate: Operate) -> dict[str, bytes]:
    """Return the tables of the parts that have one: utils/operate/PART.tsv."""
    parts = {
        "memory": operate.memory,
        "status": operate.status,
        "snapshot": operate.snapshot,
        "logs": operate.logs,
    }
    return {f"utils/operate/{name}.tsv": table(part.rows()) for name, part in parts.items() if part is not None}
