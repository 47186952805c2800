"""The journal of a switch on a server. With it, the next publisher can finish what a killed one has begun."""

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
"""The journal's name. It is at the root, because only one publisher at a time makes one transaction at a time."""
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What is left to be done for a switch. Paths are relative to the root."""

    place: str
    """The repository that is switched."""
    pointers: tuple[tuple[str, bytes], ...]
    """Path and content of the files that are written, in this order. Transitional ones, which fit to old and new ones,
    come first."""
    removals: tuple[str, ...]

    @classmethod
    def of(cls, transaction: Transaction) -> Journal:
        """Return the journal of a transaction's switch."""
        return cls(
            place=transaction.place,
            pointers=tuple(
                (f"{transaction.place}/{path}", data)
                for pointers in (transaction.transitional, transaction.pointers)
                for path, data in pointers.items()
            ),
            removals=tuple(f"{transaction.place}/{file.path}" for file in transaction.removals),
        )

    @classmethod
    def of_uploads(cls, place: str, temporary: Iterable[str]) -> Journal:
        """Return the journal of uploads: if the switch is never begun, temporary files are removed."""
        return cls(place=place, pointers=(), removals=tuple(temporary))

    def text(self) -> bytes:
        """Return the journal as it is written: JSON with a digest of the rest of it."""
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
        """Return the journal with this `text`; None if it is damaged or incomplete. The switch had not begun then.

        Raises:
            PublishError: it is complete, but was written by another version of this tool.
        """
        try:
            content = json.loads(text)
            checksum = content.pop("sha256")
            if checksum != _checksum(content):
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
            place, removals = str(content["place"]), tuple(map(str, content["removals"]))
            # A journal of this tool is about one repository. Another one is not obeyed.
            if not all(path.startswith(f"{place}/") for path in (*(path for path, _ in pointers), *removals)):
                return None
            return cls(place=place, pointers=pointers, removals=removals)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
            return None


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
