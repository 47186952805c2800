"""A face that notes what a run shows, for another face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pikaforge.cli.faces.events import RunEvent

if TYPE_CHECKING:
    from pikaforge.cli.faces.face import Face


class HeardFace:
    """Gives events to a face, and keeps them."""

    def __init__(self, name: str, face: Face) -> None:
        self.name, self._face = name, face
        self.live = face.live
        self.events: list[RunEvent] = []

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        self.events.append(event)
        self._face.take(event)

    def tick(self) -> None:
        """As `Face.tick`."""
        self._face.tick()

    def close(self) -> None:
        """As `Face.close`."""
        self._face.close()
