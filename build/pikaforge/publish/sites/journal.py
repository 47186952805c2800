"""The log of a switch on a server, by which whoever comes after a killed publisher finishes what that one began."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pikaforge.errors import PublishError
from pikaforge.publish.transaction import Transaction

PENDING = ".pending.json"
"""At the root, because there is one publisher at a time, who makes one change after the other."""
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """Paths are relative to the root."""

    place: str
    """The repository that is switched."""
    pointers: tuple[tuple[str, bytes], ...]
    """What is written, one after the other: first those that are fit for the old ones and the new."""
    removals: tuple[str, ...]

    @classmethod
    def of(cls, change: Transaction) -> Journal:
        """The switch of a change."""
        return cls(
            place=change.place,
            pointers=tuple(
                (f"{change.place}/{path}", data)
                for pointers in (change.transitional, change.pointers)
                for path, data in pointers.items()
            ),
            removals=tuple(f"{change.place}/{file.path}" for file in change.removals),
        )

    @classmethod
    def of_uploads(cls, place: str, temporary: Iterable[str]) -> Journal:
        """What is to be done if nobody comes to the switch: temporary files are removed."""
        return cls(place=place, pointers=(), removals=tuple(temporary))

    def text(self) -> bytes:
        """As it is written: JSON that holds the digest of itself."""
        content = {
            "format": FORMAT,
            "place": self.place,
            "pointers": [
                {
                    "path": path,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "base64": base64.b64encode(data).decode("ascii"),
                }
                for path, data in self.pointers
            ],
            "removals": list(self.removals),
        }
        return (json.dumps({**content, "sha256": _checksum(content)}) + "\n").encode()

    @classmethod
    def parse(cls, text: bytes) -> Journal | None:
        """The inverse of `text`; None for one that is damaged or incomplete: the switch had not begun then.

        Raises:
            PublishError: it is whole, but of another version.
        """
        try:
            content = json.loads(text)
            told = content.pop("sha256")
            if told != _checksum(content):
                return None
            if content["format"] != FORMAT:
                raise PublishError(
                    "a switch that another version of this tool has begun is not finished",
                    where=PENDING,
                    hint="finish it with that version: publish again",
                )
            pointers = tuple(
                (str(item["path"]), base64.b64decode(item["base64"], validate=True)) for item in content["pointers"]
            )
            for item, (_, data) in zip(content["pointers"], pointers, strict=True):
                if hashlib.sha256(data).hexdigest() != item["sha256"]:
                    return None
            return cls(place=str(content["place"]), pointers=pointers, removals=tuple(map(str, content["removals"])))
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            return None


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
