"""The face for programs: one event a line, as `events.schema.json` describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TextIO

from pikaforge.cli import output
from pikaforge.cli.faces.events import RunEvent
from pikaforge.host.text import printable_json


class JsonLines:
    """Writes each event as JSON in ASCII, so that no locale can change it."""

    live = True

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        output.write(printable_json(json.dumps(event.model_dump(mode="json"))), self._stream)

    def tick(self) -> None:
        """As `Face.tick`."""

    def close(self) -> None:
        """As `Face.close`."""
