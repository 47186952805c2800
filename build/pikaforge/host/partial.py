"""A download that is not complete: the bytes that came, and how a server is asked for the rest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pikaforge.host.durable import write_atomically
from pikaforge.host.http import redacted

if TYPE_CHECKING:
    from pikaforge.host.http_session import Answer

STRONG = re.compile(r'"[\x21\x23-\x7e]*"')
"""An ETag that promises the same bytes (RFC 9110, section 8.8.1). Weak ones begin with W/; a resumption needs a strong
one."""
DATE = re.compile(r"[A-Za-z0-9:, +-]+")
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class PartialFile:
    """A file in the making, and beside it a record of where its bytes came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record = path.with_name(f"{path.name}.json")

    def held(self, url: str) -> tuple[int, str]:
        """Return the size of what came from a URL, and its validator; (0, "") if it cannot be resumed."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            source, validator = record["url"], record["validator"]
            size = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0, ""
        good = isinstance(validator, str) and (STRONG.fullmatch(validator) or DATE.fullmatch(validator))
        return (size, validator) if good and source == redacted(url) else (0, "")

    def begin(self, url: str, validator: str) -> IO[bytes]:
        """Open it, empty. The order keeps old bytes from being beside a new validator.

        Args:
            url: where the bytes come from.
            validator: see `validator_of`.
        """
        stream = self.path.open("wb")
        try:
            if validator:
                write_atomically(self._record, json.dumps({"url": redacted(url), "validator": validator}))
            else:
                self._record.unlink(missing_ok=True)
        except BaseException:
            stream.close()
            raise
        return stream

    def append(self) -> IO[bytes]:
        """Open it at its end."""
        return self.path.open("ab")

    def drop(self) -> None:
        """Remove it."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def keep(self, path: Path) -> Path:
        """Rename it to the complete file, and return that."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.path.chmod(0o644)
        self.path.replace(path)
        self._record.unlink(missing_ok=True)
        return path


def validator_of(headers: Mapping[str, str]) -> str:
    """Return what a later request can name the same file by (RFC 9110, section 13.1.5); "" if nothing can."""
    etag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if STRONG.fullmatch(etag):
        return etag
    return date if DATE.fullmatch(date) else ""


def range_of(offset: int, validator: str) -> dict[str, str]:
    """Return the headers that ask for the rest of a file, or all of it if it has changed."""
    return {"Range": f"bytes={offset}-", "If-Range": validator}


def remaining(answer: Answer, offset: int, validator: str) -> int | None:
    """Return how many bytes are still to come; None unless the answer continues the same file at the offset."""
    found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != HTTPStatus.PARTIAL_CONTENT or found is None or int(found[1]) != offset:
        return None
    etag = answer.headers.get("ETag", validator)
    if STRONG.fullmatch(validator) and etag != validator:  # the server does not know If-Range
        return None
    return (int(found[2]) + 1 if found[3] == "*" else int(found[3])) - offset
