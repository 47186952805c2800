"""What the modules of the command share: where the files are, refusals, and the programs that are called."""

import os
import re
import subprocess  # noqa: TID251  # on a host there is nothing of ours but these files
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TREE = HERE / "tree"
SHELL = "/bin/sh"
GATE = TREE / "utils" / "cpu-gate.sh"
PLAIN = re.compile(r"[A-Za-z0-9/._@+-]+")
"""What deploy.sh takes, too: paths go into confs and units, and what any of them takes for syntax is refused."""
EXIT_USAGE = 2


class About(NamedTuple):
    """What the server is: the content of about.json."""

    name: str
    """Of the command."""
    product: str
    version: str
    build: str
    """Tells two builds of one version apart."""
    summary: str
    command: "list[str]"
    """That starts the server; empty if there is none."""
    conf: str
    """Path of the configuration in the tree; empty if there is none."""
    separator: str
    """Between a key and its value in the configuration."""
    port: int
    highest: int
    """The last port that an instance may have."""
    files: "dict[str, tuple[str, str]]"
    """Mode and SHA-256 by path in the tree."""
    links: "dict[str, str]"
    """Where symbolic links lead, by path in the tree."""


class CommandError(Exception):
    """Something cannot be done, and why; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


def say(*lines: str) -> None:
    """Print lines for people."""
    sys.stderr.write("".join(line + "\n" for line in lines))
    sys.stderr.flush()


def become(argv: "list[str]") -> int:
    """Replace this process, so that signals and the exit status are the program's own."""
    sys.stdout.flush()
    try:
        os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted
    except OSError as error:
        raise CommandError(f"{argv[0]} cannot be started: {error.strerror}", "install the wheel again") from error


def gate() -> int:
    """Ask whether this machine's CPUs run the program, and print what they lack. Return the gate's exit status."""
    return shell_status(subprocess.call([SHELL, str(GATE), "--quiet"]))


def shell_status(status: int) -> int:
    """Return an exit status as shells have it: 128 + N of a program that signal N ended."""
    return 128 - status if status < 0 else status
