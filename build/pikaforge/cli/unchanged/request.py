"""What identifies a call: arguments, folder, environment, Python, user, day, and who reads what it prints."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

HOME = __file__.rsplit("/", 5)[0]
"""The checkout, as `host.workspace` has it."""
VERBS = ("build", "plan")
IGNORED = frozenset({"_", "SHLVL", "OLDPWD", "PWD"})
"""Variables that differ from call to call and that nothing reads; all others count."""
NEVER = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "PIKAFORGE_SIGNING_KEY", "PIKAFORGE_OFFLINE")
"""Variables that make a build do something each time: outputs for a CI system, signatures, caches from a bundle."""
FOLDER = "answers"


def may_be_kept(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a call is one whose answer may be kept."""
    return bool(argv) and argv[0] in VERBS and not any(environ.get(name) for name in NEVER)


def folder_here(environ: Mapping[str, str]) -> str:
    """Return the folder that relative paths in arguments are relative to."""
    return environ.get("PIKAFORGE_CWD") or os.getcwd()  # noqa: PTH109


def out(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the folder of --out. Where this reads arguments in another way than the parser, no answer is kept."""
    given = ""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--out":
            given = following
        elif word.startswith("--out="):
            given = word.removeprefix("--out=")
    return os.path.join(folder_here(environ), given) if given else f"{HOME}/out"  # noqa: PTH118


def path_of(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the path of the answer to a call.

    Each user, environment and reader has answers of their own: a call by nox, in a terminal or into a file is not in
    the way of another one.
    """
    text = json.dumps(request(argv, environ))
    return f"{out(argv, environ)}/{FOLDER}/{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def request(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, object]:
    """Return what identifies a call, as JSON values."""
    given = sorted(f"{name}={value}" for name, value in environ.items() if name not in IGNORED)
    now = time.time()
    return {
        "argv": list(argv),
        "folder": folder_here(environ),
        # One digest of all: of a secret in it nothing can be found out.
        "environment": hashlib.sha256("\0".join(given).encode("utf-8", "surrogateescape")).hexdigest(),
        "python": [sys.version, sys.executable, sys.prefix, *sys.path],
        "user": [os.geteuid(), os.getegid(), *sorted(os.getgroups())],
        # Waivers end with a day.
        "days": [list(time.gmtime(now)[:3]), list(time.localtime(now)[:3])],
        "reader": _reader(),
    }


def _reader() -> list[object]:
    """Return what the faces know of standard output: whether it is a terminal, how wide, in which encoding."""
    terminal = sys.stdout.isatty()
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns if terminal else 0
    except (OSError, ValueError):
        columns = 0
    return [terminal, columns, sys.stdout.encoding]
