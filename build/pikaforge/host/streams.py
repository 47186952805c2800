"""Streams of bytes that anybody may have written: a part of a stream, and a stream without its compression.

A reader holds some blocks of a stream in memory, never all of it. What a stream claims of itself is bounded: how much
memory its decompressor needs, and what it unpacks to.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Protocol, cast

from pikaforge.errors import AuditError
from pikaforge.host import process
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.raw import RawStream
from pikaforge.host.text import size_text

BLOCK = 1 << 16
"""Bytes that are read at once."""
DECODER_MEMORY = 128 << 20
"""Bytes that a decompressor may need. `xz -9` needs 65 MiB; zstd's own limit is a window of 128 MiB (zstd(1), -M)."""
TOTAL_LIMIT = 32 << 30
"""Bytes unpacked from one package."""
FREE, RATIO = 64 << 20, 250
"""A stream may unpack to `FREE` bytes, and beyond that to `RATIO` times its own bytes. Programs and debug information
shrink to a tenth at most; deflate and xz can shrink zeros to a thousandth and less."""

DIRECTORY_LIMIT = 4 << 20
"""Bytes of a zip archive's list of members."""


def unpacked_limit(packed: int) -> int:
    """Return how many bytes may be unpacked from a number of compressed ones."""
    return min(TOTAL_LIMIT, max(FREE, RATIO * packed))


def too_large(limit: int, where: str) -> AuditError:
    """Return the error for a package that unpacks to more than a limit."""
    return AuditError(
        f"the package unpacks to more than {limit} bytes",
        where=where,
        hint=f"a package may unpack to {size_text(FREE)}, or to {RATIO} times its size, but to "
        f"{size_text(TOTAL_LIMIT)} at most",
    )


class InterruptibleFile(io.BufferedReader):
    """A file whose reads end when the run is interrupted."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return some bytes; raise HostError if the run was interrupted."""
        process.pause(0)
        return super().read(size)


class Window(RawStream):
    """The next `size` bytes of a stream, as a stream. It raises EOFError if the stream has fewer bytes."""

    def __init__(self, stream: IO[bytes] | Unpacked, size: int) -> None:
        self._stream, self._left = stream, size
        self.size = size

    def some(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left))
        if not content and self._left:
            raise EOFError(f"{self._left} bytes are missing at its end")
        self._left -= len(content)
        return content


class ListBounded(io.BufferedIOBase):
    """A zip archive whose list of members, which zipfile reads at once, is refused if it is too large."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self._stream, self._where = stream, where

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        data = self._stream.read(size if 0 <= size <= DIRECTORY_LIMIT else DIRECTORY_LIMIT + 1)
        if len(data) > DIRECTORY_LIMIT:
            raise AuditError("the package has too many members: their list is too large", where=self._where)
        return data


class Unpacked(RawStream):
    """A stream without its compression, which counts its bytes.

    It can be read and moved forward. It moves back by starting anew, if the compressed stream can.
    """

    def __init__(self, start: Callable[[], IO[bytes]], limit: int, where: str) -> None:
        """Start reading.

        Args:
            start: opens the bytes at their beginning; it is called again to move back.
            limit: how many bytes may be read.
            where: for errors.
        """
        self._start, self._source = start, start()
        self._at, self._limit, self._where = 0, limit, where
        self.allowance: int | None = None
        """Bytes that the next calls of `read` may ask for together, while headers are read; None: no bound."""

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        if self.allowance is not None:
            if not 0 <= size <= self.allowance:
                raise AuditError("the package is corrupt: a header in it is too large", where=self._where)
            self.allowance -= size
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = self._source.read(size if size >= 0 else self._limit - self._at + 1)
        self._at += len(data)
        if self._at > self._limit:
            raise too_large(self._limit, self._where)
        return data

    def some(self, size: int) -> bytes:
        return self.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise io.UnsupportedOperation("only places from the start are known")
        if offset < self._at:
            self._source, self._at = self._start(), 0
        while self._at < offset and self._read(min(offset - self._at, 1 << 20)):
            pass
        return self._at


@contextmanager
def decompressed(stream: IO[bytes] | Window, where: str, *, method: str = "") -> Iterator[Unpacked]:
    """Open the rest of a stream without its compression, which its first bytes tell.

    Args:
        stream: read from its current place.
        where: for errors.
        method: of the compression, as the package names it; for the error if it is unknown here.

    Raises:
        AuditError: the method is unknown, or needs a program that this machine lacks.
    """
    packed = _size(stream)
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), BLOCK)
    place = buffered.tell() if stream.seekable() else None
    head = buffered.peek(BLOCK)[:BLOCK]
    opener = _opener(head, where, method)
    with ExitStack() as stack:
        first = True

        def start() -> IO[bytes]:
            nonlocal first
            if not first and place is None:
                raise io.UnsupportedOperation("the stream cannot be read again")
            if not first and place is not None:
                buffered.seek(place)
            first = False
            return opener(cast(IO[bytes], buffered), stack)

        stack.callback(buffered.detach)
        yield Unpacked(start, unpacked_limit(packed), where)


def _size(stream: IO[bytes] | Window) -> int:
    """Return how many bytes a stream has from its current place."""
    if isinstance(stream, Window):
        return stream.size
    if not stream.seekable():
        return 0
    at = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(at)
    return end - at


_LZMA = struct.Struct("<BIQ")
"""Properties, bytes of the dictionary, size: what a file of lzma begins with, which has no mark."""
_USUAL, _PROPERTIES, _DICTIONARY = 0x5D, 225, 4096
"""The properties that lzma's own program gives, the bound of those that can be, and the smallest dictionary."""


def is_lzma(start: bytes) -> bool:
    """Return whether a file looks like lzma, by its first bytes.

    It has possible properties, a round dictionary, and a size that is unknown or small; and its first bytes can be
    unpacked, if that does not take too much memory.
    """
    if len(start) <= _LZMA.size or start[_LZMA.size]:
        return False
    head: tuple[int, int, int] = _LZMA.unpack_from(start)
    properties, dictionary, size = head
    factor = dictionary // (dictionary & -dictionary) if dictionary else 0
    round_ = dictionary >= _DICTIONARY and (factor in (1, 3) or dictionary == (1 << 32) - 1)
    if properties >= _PROPERTIES or not round_ or (size != (1 << 64) - 1 and size >= 1 << 40):
        return False
    if dictionary >= DECODER_MEMORY:
        return properties == _USUAL
    try:
        lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=DECODER_MEMORY).decompress(start, BLOCK)
    except lzma.LZMAError:
        return False
    return True


_SKIPPED = tuple(bytes([number]) for number in range(0x50, 0x60))
"""First bytes of a frame of zstd that its readers skip (RFC 8878, 3.1.2)."""
_Opener = Callable[[IO[bytes], ExitStack], IO[bytes]]


def _opener(head: bytes, where: str, method: str) -> _Opener:
    """Return what opens a stream by its first bytes. What it opens is closed by the stack."""
    if head[:2] == b"\x1f\x8b":
        return lambda packed, stack: cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=packed)))
    if head[:6] == b"\xfd7zXZ\0" or head[:3] == b"\x5d\0\0" or is_lzma(head):
        # There may be zeros between two streams (xz-file-format, 2.2).
        return lambda packed, _: io.BufferedReader(_Bounded(packed, _xz, b"\0"), BLOCK)
    if head[:3] == b"BZh":
        # The library's own file takes what follows the last stream for nothing.
        return lambda packed, _: io.BufferedReader(_Bounded(packed, bz2.BZ2Decompressor), BLOCK)
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[:1] in _SKIPPED and head[1:4] == b"\x2a\x4d\x18"):
        return lambda packed, stack: _zstd(packed, where, stack)
    if method in ("", "gzip", "identity") or method.startswith("un"):
        return lambda packed, _: packed
    raise AuditError(f"the package is compressed by {method}, which cannot be read", where=where)


class _Decoder(Protocol):
    """What decompresses one stream, as the modules of the standard library have it."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether it can return nothing without further bytes."""

    @property
    def unused_data(self) -> bytes:
        """Bytes behind the end of the stream."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Take further bytes, and return at most so many."""


class _Bounded(RawStream):
    """Decompress by a decoder whose memory is bounded, which the files of the standard library cannot be told."""

    def __init__(self, packed: IO[bytes], new: Callable[[], _Decoder], padding: bytes = b"") -> None:
        """Start reading.

        Args:
            packed: the compressed bytes.
            new: makes the decoder of one stream. Another stream may follow.
            padding: bytes that may be between two streams.
        """
        self._packed, self._new, self._padding = packed, new, padding
        self._decoder = new()

    def some(self, size: int) -> bytes:
        while True:
            given = b""
            if self._decoder.eof:
                given = self._decoder.unused_data.lstrip(self._padding)
                while not given:
                    block = self._packed.read(BLOCK)
                    if not block:
                        return b""
                    given = block.lstrip(self._padding)
                self._decoder = self._new()
            elif self._decoder.needs_input:
                given = self._packed.read(BLOCK)
                if not given:
                    raise EOFError("the compressed data end too early")
            data = self._decoder.decompress(given, size)
            if data:
                return data


def _xz() -> _Decoder:
    return lzma.LZMADecompressor(memlimit=DECODER_MEMORY)


class _ZstdDecoder:
    """The decoder of Python 3.14, whose error is of no kind that readers of archives know."""

    def __init__(self, module: ModuleType) -> None:
        window = {module.DecompressionParameter.window_log_max: DECODER_MEMORY.bit_length() - 1}
        self._error: type[Exception] = module.ZstdError
        self._decoder: _Decoder = module.ZstdDecompressor(options=window)

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        """Whether it can return nothing without further bytes."""
        return self._decoder.needs_input

    @property
    def unused_data(self) -> bytes:
        """Bytes behind the end of the stream."""
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Take further bytes, and return at most so many."""
        try:
            return self._decoder.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from error


def _zstd(packed: IO[bytes], where: str, stack: ExitStack) -> IO[bytes]:
    """Decompress by the module of Python 3.14, or by the program zstd, whichever is there."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError:
        pass
    else:
        return io.BufferedReader(_Bounded(packed, lambda: _ZstdDecoder(module)), BLOCK)
    if process.find("zstd") is None:
        raise AuditError(
            "the package is compressed by zstd, which Python before 3.14 cannot read",
            where=where,
            hint="install the program zstd, or unpack it and name the folder",
        )
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # closed by the stack
    with full_disk_errors(Path(tempfile.gettempdir())):
        shutil.copyfileobj(packed, copy, 1 << 20)
    copy.seek(0)
    return stack.enter_context(process.output(["zstd", "-dcq", f"-M{DECODER_MEMORY >> 20}MB"], stdin=copy))
