"""What is compressed by zstd, with the module of Python 3.14: errors are ours, and memory is bounded."""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace

import pytest

from pikaforge.errors import AuditError
from pikaforge.host.archives import archive_errors
from pikaforge.host.streams import BLOCK, DECODER_MEMORY, decompressed

MAGIC = b"\x28\xb5\x2f\xfd"
WINDOW = "window_log_max"


class ZstdError(Exception):
    """As the module has it: of no other kind."""


class _Decoder:
    """A stand-in for ZstdDecompressor: a frame is the magic number, and what zlib makes."""

    def __init__(self, options: Mapping[str, int]) -> None:
        assert 1 << options[WINDOW] <= DECODER_MEMORY
        self._zlib, self._head, self._held = zlib.decompressobj(), b"", b""

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._held and not self.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        assert 0 < max_length <= BLOCK
        assert len(data) <= BLOCK
        self._held += data
        if len(self._head) < len(MAGIC):
            more = len(MAGIC) - len(self._head)
            self._head, self._held = self._head + self._held[:more], self._held[more:]
        if not MAGIC.startswith(self._head):
            raise ZstdError("Unknown frame descriptor")
        try:
            done = self._zlib.decompress(self._held, max_length)
        except zlib.error as error:
            raise ZstdError("Data corruption detected") from error
        self._held = self._zlib.unconsumed_tail
        return done


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("compression.zstd")
    vars(fake).update(
        ZstdError=ZstdError,
        ZstdDecompressor=_Decoder,
        DecompressionParameter=SimpleNamespace(window_log_max=WINDOW),
    )
    monkeypatch.setitem(sys.modules, "compression.zstd", fake)


def _frame(content: bytes) -> bytes:
    return MAGIC + zlib.compress(content)


def _read(packed: bytes) -> bytes:
    with archive_errors("x.deb"), decompressed(io.BytesIO(packed), "x.deb") as plain:
        return b"".join(iter(lambda: plain.read(1000), b""))


@pytest.mark.parametrize("size", [0, 1, BLOCK, 3 * BLOCK + 7])
def test_control_frames_are_read_one_after_the_other(size: int) -> None:
    content = os.urandom(size)
    assert _read(_frame(content) + _frame(b"more")) == content + b"more"


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        (lambda: MAGIC + b"no frame at all", "truncated or corrupt: Data corruption detected"),
        (lambda: _frame(b"x" * 9) + b"tail", "truncated or corrupt: Unknown frame descriptor"),
        (lambda: _frame(os.urandom(2 * BLOCK))[:BLOCK], "truncated or corrupt: the compressed data end too early"),
        (lambda: _frame(b"\0" * (65 << 20)), "unpacks to more than"),
    ],
    ids=["damaged", "something behind it", "cut", "too large"],
)
def test_what_cannot_be_read_is_an_error_of_ours(pack: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(AuditError, match=reason) as caught:
        _read(pack())
    assert caught.value.where == "x.deb"
