"""The protocol of faces, and the choice of the one that fits its reader.

A face is imported when it is chosen: rich only for a terminal on which something is shown.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping
from typing import Protocol, TextIO

from pikaforge.cli.faces.events import RunEvent

NAMES: Mapping[str, str] = {
    "board": "pikaforge.cli.faces.board:Board",
    "blocks": "pikaforge.cli.faces.blocks:Blocks",
    "github": "pikaforge.cli.faces.github:GithubLog",
    "json": "pikaforge.cli.faces.json_lines:JsonLines",
    "quiet": "pikaforge.cli.faces.quiet:Quiet",
}
"""The class of each face. It takes a stream and the environment."""
DUMB = ("dumb", "unknown")
"""Values of TERM for terminals without a movable cursor (terminfo(5))."""


class Face(Protocol):
    """What shows the events of a run. Calls come one at a time."""

    live: bool
    """Whether it changes while nodes run: it gets `NodeProgressed` from their logs, and is called now and then."""

    def take(self, event: RunEvent) -> None:
        """Show an event, or leave it out."""

    def tick(self) -> None:
        """Show the time that has passed, if it is live."""

    def close(self) -> None:
        """Leave the terminal as it was. It is called at any end of a run, and may be called again."""


class FaceKind(Protocol):
    """How a face is made."""

    def __call__(self, stream: TextIO, environ: Mapping[str, str]) -> Face:
        """Return a face that writes to a stream."""


def choose(arguments: argparse.Namespace, environ: Mapping[str, str], stream: TextIO) -> str:
    """Return the name of the face for a call.

    Args:
        arguments: of the command line.
        environ: the environment.
        stream: standard output.
    """
    if getattr(arguments, "json", False):
        return "json"
    if getattr(arguments, "quiet", False):
        return "quiet"
    if environ.get("GITHUB_ACTIONS") == "true":
        return "github"
    if stream.isatty() and environ.get("TERM", "dumb") not in DUMB:
        return "board"
    return "blocks"


def open_face(name: str, environ: Mapping[str, str], stream: TextIO | None = None) -> Face:
    """Return a face by its name; it writes to standard output unless another stream is given."""
    module, _, attribute = NAMES[name].partition(":")
    kind: FaceKind = getattr(importlib.import_module(module), attribute)
    return kind(stream or sys.stdout, environ)
