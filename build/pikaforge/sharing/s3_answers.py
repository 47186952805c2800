"""Bounds on the bytes that a server of S3 may answer with.

aiobotocore reads the answers that are no objects, and those of errors, whole into memory, and s3fs does the same with a
range of an object. Neither looks at how much comes. Here each answer has a bound, which follows from its request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pikaforge.host import extras
from pikaforge.host.text import size_text
from pikaforge.sharing.objects import EXTRA, ObjectError

MESSAGE = 1 << 20
"""Bytes of an answer without an object: XML that says what was done, or why not."""
RANGE = re.compile(r"bytes=(\d+)-(\d+)")


def bounded_session() -> type:
    """Return a class for `http_session_cls` of aiobotocore's AioConfig. Its sessions read no more than they should.

    Raises:
        HostError: aiobotocore is missing.
    """
    http = extras.load("aiobotocore.httpsession", package="aiobotocore", extra=EXTRA)

    async def send(session: Any, request: Any) -> Any:
        streamed, request.stream_output = request.stream_output, True  # so that nothing is read before there is a bound
        try:
            answer = await http.AIOHTTPSession.send(session, request)
        finally:
            request.stream_output = streamed
        answer.raw.content = BoundedStream(answer.raw, most(request.headers))
        if not streamed:
            await answer.content
        return answer

    return type("BoundedSession", (http.AIOHTTPSession,), {"send": send})


def most(headers: Mapping[str, Any]) -> int:
    """Return the bytes that an answer may have.

    Args:
        headers: of the request. One for an object has a Range.
    """
    found = headers.get("Range", b"")
    asked = RANGE.fullmatch(found.decode("latin-1") if isinstance(found, bytes) else str(found))
    return max(MESSAGE, int(asked[2]) - int(asked[1]) + 1 if asked else 0)


class BoundedStream:
    """The body of an answer (aiohttp.StreamReader), as far as its bound. What else is asked for is the body's."""

    def __init__(self, answer: Any, limit: int) -> None:
        self._answer, self._stream = answer, answer.content
        self._limit = self._left = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, size: int = -1) -> bytes:
        """Return bytes as they come, `size` at most; all, if it is negative.

        Raises:
            ObjectError: there are more than there may be.
        """
        if size >= 0:
            return self._counted(bytes(await self._stream.read(size)))
        blocks = []
        while block := self._counted(bytes(await self._stream.readany())):
            blocks.append(block)
        return b"".join(blocks)

    def _counted(self, block: bytes) -> bytes:
        self._left -= len(block)
        if self._left < 0:
            self._answer.close()  # what else comes is not read
            raise ObjectError(f"the answer is larger than {size_text(self._limit)}", ends=False)
        return block
