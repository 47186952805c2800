"""The command line: a kept answer, if there is one that holds; else a verb is run (`call`)."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from pikaforge.cli.unchanged.answer import replay
from pikaforge.cli.unchanged.request import may_be_kept


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; the exit status is 0, 2, 3, 4 or 5 (see `errors`), or 128 + N after signal N."""
    given = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that has no arrow gets a question mark, not a traceback
        sys.stdout.reconfigure(errors="replace")
    if not may_be_kept(given, os.environ):
        return _call(given)
    if (status := replay(given, os.environ)) is not None:
        return status
    from pikaforge.host.watch import watching  # noqa: PLC0415

    with watching():
        return _call(given)


def _call(given: Sequence[str]) -> int:
    """Run a verb. What it needs is imported here, so that a kept answer needs none of it."""
    from pikaforge.cli.call import call  # noqa: PLC0415

    return call(given)
