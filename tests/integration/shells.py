"""Real shells in a pseudo-terminal, to which keys are typed."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROMPT = "ready> "
PATIENCE = 30.0
"""Seconds for something to appear, on a machine that has much to do."""
SAYS = "printf '<%s>\\n' \"$*\""
"""A shell function with this body prints the line that it was called with: what TAB has made of it."""


class Shell:
    """A shell that runs in a pseudo-terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._seen = ""

    def type(self, keys: str) -> None:
        """Type keys; a TAB is \\t."""
        os.write(self._terminal, keys.encode())

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until a pattern appears, and forget what came before its end."""
        end = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self._seen)):
            if not select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"{pattern!r} has not appeared in {self._seen!r}")
            self._seen += os.read(self._terminal, 1 << 16).decode("utf-8", "replace")
        self._seen = self._seen[found.end() :]
        return found

    def completed(self, line: str) -> str:
        """Return the arguments of a line after TAB was typed behind it; the command must print them (`SAYS`)."""
        self.type(f"{line}\t\n")
        return self.until(r"[\r\n]<([^\r\n]*)>\r\n")[1].rstrip()


@contextmanager
def shell(argv: tuple[str, ...], env: Mapping[str, str], cwd: Path) -> Iterator[Shell]:
    """Start a shell; its terminal is closed when the block is left, which ends it."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.chdir(cwd)
        os.execvpe(argv[0], argv, dict(env))  # noqa: S606
    try:
        yield Shell(terminal)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
