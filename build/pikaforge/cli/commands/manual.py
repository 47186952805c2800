"""`manual`: write the man page."""

from __future__ import annotations

from pikaforge.cli import manual as pages
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE
from pikaforge.host.durable import write_atomically


def manual(context: Context) -> int:
    """Run `manual`; return the exit status."""
    path = context.home / pages.NAME
    before = pages.written(path)
    made = pages.page(before)
    if made != before:
        write_atomically(path, made)
    output.show(f"{'wrote' if made != before else 'nothing changed:'} {pages.NAME}; man -l {pages.NAME} shows it")
    return EXIT_DONE
