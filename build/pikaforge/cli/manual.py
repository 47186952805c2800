"""The man page, made from the same parser as the help pages."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from pikaforge import __version__
from pikaforge.cli.arguments import WIDTH, Help, parser
from pikaforge.cli.completion import COMMAND, shown
from pikaforge.cli.verbs import ABOUT, statuses
from pikaforge.host import extras

NAME = "docs/pikaforge.1"
"""Its file, below the checkout."""
HEAD = re.compile(r'\.TH (\S+) "1" "([^"]*)"')
SUMMARY = "build one package for each hardware model and OS image, and check that it runs there"
QUOTES = {"'": r"\(aq", "`": r"\(ga"}
"""Quotes that shells know: as letters, troff may print typographic ones, which nobody can paste (groff_char(7))."""


def page(before: str = "") -> str:
    """Return the man page.

    Args:
        before: the page that there is. Its date stays, unless something else has changed.

    Raises:
        HostError: argparse-manpage is not installed.
    """
    manpage = extras.load("argparse_manpage.manpage", package="argparse-manpage", extra="shell")
    top = parser()
    top.prog, top.description, top.epilog = COMMAND, ABOUT, None
    for name, verb in shown(top).items():
        verb.prog = f"{COMMAND} {name}"
        verb.description = f"{verb.description}\n\n{verb.epilog}"  # a page of one command would have both
    for each in (top, *shown(top).values()):
        each.formatter_class = functools.partial(Help, width=WIDTH)
    data = {"description": SUMMARY, "project_name": COMMAND, "version": __version__, "manual_title": "User Commands"}
    made = manpage.Manpage(top, _data=data)
    made.add_section("exit status", ">", statuses().partition("\n")[2].replace("-", r"\-"))
    head, *lines = str(made).splitlines()
    text = "".join(f"{line}\n" for line in (head.replace(r"\-", "-"), *map(_plain_quotes, lines)))
    return before if HEAD.sub("", before, count=1) == HEAD.sub("", text, count=1) else text


def _plain_quotes(line: str) -> str:
    for quote, name in QUOTES.items():
        line = line.replace(quote, name)
    return line


def written(path: Path) -> str:
    """Return the text of a page that was written before; "" if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
