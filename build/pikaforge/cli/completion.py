"""Completion for shells: shtab makes the scripts from the parser, and a list of names comes from matrix.yaml.

A shell must not wait for Python at each TAB, so it reads the names from a file that is written when matrix.yaml is
younger. What is in that file is data: the shell functions in `assets/` take only words of letters, digits, `.`, `_` and
`-`, and never evaluate them.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from pikaforge.cli.arguments import parser
from pikaforge.cli.verbs import VERBS
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.host import extras
from pikaforge.plan.matrix import combinations

COMMAND = "pikaforge"
"""The name that is completed, beside that of nox."""
ASSETS = Path(__file__).with_name("assets")
SHELLS = ("bash", "zsh")
FILES = {"FILE": "files", "PATH": "files", "SPEC": "files", "PUBLISHED": "files", "DIR": "folders"}
"""What an argument takes, by its name in help pages, if that is a path."""
KINDS = {
    "SELECTOR": "selector",
    "CELL": "cell",
    "MODEL": "model",
    "IMAGE": "image",
    "TARGET": "target",
    "allocator": "allocator",
    "to": "destination",
}
"""Kinds of names, by an argument's name in help pages, or by that of its value where it is `NAME`."""
OTHER_SESSIONS = ("tool", "tests", "lint", "docs")
"""Those of nox that are no verb."""
FREE = frozenset({"N", "S", "F", "K/N", "LIST", "SIZE", "URL", "VERSION", "FROM→TO"})
"""Arguments that nobody can complete: numbers, sizes, versions, lists and addresses."""


def kind_of(action: argparse.Action) -> str:
    """Return what completes an argument: a kind of names, `files`, `folders`, or "" for nothing.

    Raises:
        KeyError: that is not known.
    """
    name = str(action.metavar or "")
    if action.nargs == 0 or action.choices or name in FREE:
        return ""
    # `--to` is also a folder, of `sweep`.
    return FILES[name] if name in FILES else KINDS[action.dest if name == "NAME" else name]


def shown(top: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs, and let those who read the parser see them: help pages list them by headings."""
    (action,) = (action for action in top._actions if isinstance(action.choices, dict))
    action.help = "what to do"
    return cast("Mapping[str, argparse.ArgumentParser]", action.choices)


def script(shell: str, *, matrix: Path, names: Path) -> str:
    """Return the script that a shell reads.

    Args:
        shell: bash or zsh.
        matrix: whose names are completed.
        names: the file in which they are kept.

    Raises:
        HostError: shtab is not installed.
    """
    shtab = extras.load("shtab", package="shtab", extra="shell")
    top = parser()
    top.prog = COMMAND
    for name, page in shown(top).items():
        page.description = VERBS[name].summary
        for action in page._actions:
            if kind := kind_of(action):
                vars(action)["complete"] = dict.fromkeys(SHELLS, f"_{COMMAND}_{kind}")
    values = {
        "python": sys.executable,
        "source": str(Path(__file__).resolve().parents[2]),
        "matrix": str(matrix),
        "names": str(names),
    }
    settings = "\n".join(f"_{COMMAND}_{name}_path={shlex.quote(value)}" for name, value in values.items())
    sessions = [name for name, verb in VERBS.items() if verb.examples[0][1].startswith("nox ")]
    settings += f"\n_{COMMAND}_sessions=({' '.join((*sessions, *OTHER_SESSIONS))})"
    functions = (ASSETS / f"completion.{shell}").read_text(encoding="utf-8")
    made: str = shtab.complete(top, shell=shell, preamble=f"{settings}\n{functions}")
    # For zsh, shtab completes the first of several arguments only: `(*):` excludes those behind it (zshcompsys(1)).
    return re.sub(r'^(\s*")\(\*\)::?', r"\1*:", made, flags=re.MULTILINE) if shell == "zsh" else made


def lines(spec: Spec) -> Iterator[str]:
    """Yield the names of a specification, each behind its kind."""
    triples = combinations(spec).triples
    every = {
        "model": spec.hardware,
        "image": (*spec.images, "all"),
        "allocator": (*spec.allocators, "all"),
        "destination": spec.publish,
        "cell": ["-".join(triple) for triple in triples],
        "target": sorted(microarch.known()),
    }
    for kind, names in every.items():
        yield from (f"{kind} {name}" for name in names)
