"""Reporters for calls: with the face that fits the reader."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from pikaforge.cli.context import Context
from pikaforge.cli.faces.face import Face, choose, open_face
from pikaforge.cli.faces.places import ConfigPlaces
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.cli.faces.reproduce import exact_lines


def chosen_face(context: Context) -> tuple[str, Face]:
    """Return the face for the reader of a call, with its name."""
    name = choose(context.arguments, os.environ, sys.stdout)
    return name, open_face(name, os.environ)


def reporting(context: Context, face: Face | None = None) -> Reporter:
    """Return the reporter of a run. The configuration need not be readable yet.

    Args:
        context: the call.
        face: what shows the run; else the one that fits the reader.
    """

    def series() -> Path | None:
        path = context.spec.product.patches
        return None if path is None else context.base / path

    places = ConfigPlaces(matrix=context.matrix, series=series)
    again = partial(exact_lines, context.arguments, home=context.home)
    return Reporter(face or chosen_face(context)[1], again=again, places=places)


def part_reporting(context: Context) -> Reporter:
    """Return a reporter for a few nodes that another verb needs. Where that verb prints JSON, nothing else is there."""
    name = choose(context.arguments, os.environ, sys.stdout)
    return Reporter(open_face("quiet" if name == "json" else name, os.environ))
