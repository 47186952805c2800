"""The command line as Markdown, from its parser: the help page of each verb, with tables of options."""

from __future__ import annotations

import argparse
import re

from schema_page import cell

from pikaforge.cli.arguments import parser
from pikaforge.cli.verbs import HEADINGS, STATUSES, UPKEEP, Verb


def plain(text: str) -> str:
    """Return a text of the help for Markdown, to which only its backquotes mean something; options are code."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        part = re.sub(r"[*_<\[]", r"\\\g<0>", parts[index])
        parts[index] = re.sub(r"(?<!\S)--[a-z][a-z-]+", r"`\g<0>`", part)
    return "`".join(parts)


def invocation(action: argparse.Action) -> str:
    """Return how an argument is written: `--os IMAGE`."""
    value = str(action.metavar or "") if action.nargs != 0 else ""
    if action.choices and not action.metavar:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    names = action.option_strings or [value]
    return ", ".join(f"{name} {value}" if action.option_strings and value else name for name in names)


def options(page: argparse.ArgumentParser) -> list[str]:
    """Return the tables of arguments, one for each group that has some."""
    lines: list[str] = []
    formatter = page.formatter_class(prog=page.prog)
    for group in page._action_groups:  # argparse has no other way to them
        actions = [each for each in group._group_actions if each.help and each.dest != "help"]
        if actions:
            lines += [f"| {cell(str(group.title))} | meaning |", "|---|---|"]
            for action in actions:
                said = plain(formatter._expand_help(action))
                lines.append(f"| `{cell(invocation(action))}` | {cell(said)} |")
            lines.append("")
    return lines


def section(name: str, verb: Verb, page: argparse.ArgumentParser) -> str:
    """Return the section of a verb."""
    session = "tool -- " + name if name in UPKEEP else name + " --"
    usage = page.format_usage().removeprefix("usage: ").strip().replace(page.prog, f"nox -s {session}", 1)
    remarks = [line for remark, command in verb.examples for line in (f"# {remark}", command)]
    lines = [f"## {name}", "", plain(verb.description()), "", "```text", usage, "```", ""]
    lines += ["```sh", *remarks, "```", "", f"Needs: {plain(verb.needs)}", "", *options(page)]
    return "\n".join(lines)


def text() -> str:
    """Return the sections of all verbs, and the exit statuses."""
    (verbs,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    sections = [section(name, verb, verbs[name]) for below in HEADINGS.values() for name, verb in below.items()]
    statuses = [f"| {status} | {cell(plain(meaning))} |" for status, meaning in STATUSES.items()]
    return "\n\n".join([*sections, "\n".join(["## Exit status", "", "| status | meaning |", "|---|---|", *statuses])])
