"""Reporters for calls: with the face that fits the reader."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from pikaforge.cli.context import Context
from pikaforge.cli.faces.face import choose, open_face
from pikaforge.cli.faces.places import ConfigPlaces
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.cli.faces.reproduce import exact_lines


def reporting(context: Context) -> Reporter:
    """Return the reporter of a run. The configuration need not be readable yet."""

    def series() -> Path | None:
        path = context.spec.product.patches
        return None if path is None else context.base / path

    face = open_face(choose(context.arguments, os.environ, sys.stdout), os.environ)
    places = ConfigPlaces(matrix=context.matrix, series=series)
    return Reporter(face, again=partial(exact_lines, context.arguments, home=context.home), places=places)


def part_reporting(context: Context) -> Reporter:
    """Return a reporter for a few nodes that another verb needs. Where that verb prints JSON, nothing else is there."""
    name = choose(context.arguments, os.environ, sys.stdout)
    return Reporter(open_face("quiet" if name == "json" else name, os.environ))
