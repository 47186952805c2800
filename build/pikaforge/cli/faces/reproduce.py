"""The command lines that run something again on this machine: to be pasted into a shell, from any folder."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pikaforge.host import git_urls
from pikaforge.host.process import cwd
from pikaforge.plan import allocators

OPTIONS = (
    *("matrix", "out", "dist", "source", "engine", "formats"),
    *(name.replace("-", "_") for name in allocators.built()),
    *("farm", "jobs", "memory", "locked", "no_compiler_cache", "share_compiler_cache"),
    *("strict_targets", "require_run", "debug"),
)
"""Arguments that the command for one cell repeats. Its image and allocator are in the cell's id."""
SELECTING = ("os", "allocator", "slice", "to")
"""Those that say what a run is about, beside its selectors."""
FILES = ("to", "matrix", "out", "dist", *(name.replace("-", "_") for name in allocators.built()))
"""Those that are paths, relative to the folder of the caller."""
VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "PIKAFORGE_ENGINE")
"""Variables that decide where a build runs. None of them is a secret; a URL with one is left out."""


def options_of(arguments: argparse.Namespace, more: tuple[str, ...] = ()) -> list[tuple[str, str | None]]:
    """Return the options of a run that are not the defaults, each with its value, or None if it takes none.

    Args:
        arguments: of the run.
        more: names of options beside `OPTIONS`.
    """
    found: list[tuple[str, str | None]] = []
    for name in (*more, *OPTIONS):
        value = getattr(arguments, name, None)
        if value in (None, "", False, ()) or (name, value) == ("engine", "docker"):
            continue
        text = None if value is True else ",".join(value) if isinstance(value, tuple) else str(value)
        found.append((name, text))
    return found


def command_for(arguments: argparse.Namespace, selector: str) -> str:
    """Return the command line that builds `selector` with the options of this run, quoted for a shell.

    It is for the folder that the user is in.
    """
    words = ["nox", "-s", "build", "--", selector]
    for name, value in options_of(arguments):
        words += [f"--{name.replace('_', '-')}", *([] if value is None else [value])]
    return shlex.join(words)


def exact_lines(
    arguments: argparse.Namespace, cell: str = "", *, home: Path, environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Return the command lines that repeat a run from any folder of this machine, quoted for a shell.

    They call what was called: nox, or this Python. Paths are absolute.

    Args:
        arguments: of this run.
        cell: the id of the only cell that is to be built; "" for all that this run is about.
        home: the checkout.
        environ: the environment of this run.

    Returns:
        Nothing, if an option could hold a secret. (Such options are refused before a run; this makes sure of it.)
    """
    verb = "build" if cell else str(arguments.verb)
    words = [cell] if cell else list(arguments.selectors)
    for name, value in options_of(arguments, () if cell else SELECTING):
        words.append(f"--{name.replace('_', '-')}")
        if value is None:
            continue
        if name == "source" and secret(value):
            return ()
        words.append(absolute_source(value) if name == "source" else str(cwd() / value) if name in FILES else value)
    given = [f"{name}={environ[name]}" for name in VARIABLES if environ.get(name) and not secret(environ[name])]
    if "PIKAFORGE_CWD" in environ:  # nox has started this, or setup.sh
        own = home / ".venv" / "bin" / "nox"
        program = [str(own) if own.is_file() else "nox", "-f", str(home / "noxfile.py"), "-s", verb, "--"]
    else:
        given.append(f"PYTHONPATH={home / 'build'}")
        program = [sys.executable, "-m", "pikaforge", verb]
    return (shlex.join([*(["env", *given] if given else []), *program, *words]),)


def secret(text: str) -> bool:
    """Return whether a text has, or may have, a secret in it: a user, a password, a token in a query."""
    url = text.partition("#")[0]
    return bool(git_urls.credentials(url) or git_urls.credentials(text) or ("://" in url and git_urls.query(url)))


def absolute_source(source: str) -> str:
    """Return a source that means the same in any folder: the path of a clone or a tarball is made absolute."""
    path, mark, ref = source.partition("#")
    if path == "sample" or urlsplit(path).scheme or not (cwd() / path).exists():
        return source
    return f"{cwd() / path}{mark}{ref}"
