"""Which signatures in text form are damaged, without a key."""

from __future__ import annotations

import base64
import random

import pytest

from pikaforge.attest.armor import is_damaged

DATA = random.Random(7).randbytes(119)
CHECKSUM = b"UiMC"
"""Of DATA, as `gpg --enarmor` (GnuPG 2.2) writes it."""


def armored(*, checksum: bytes = CHECKSUM, header: bytes = b"", end: bytes = b"\n") -> bytes:
    text = base64.b64encode(DATA)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    lines += [b"=" + checksum] if checksum else []
    whole = [b"-----BEGIN PGP SIGNATURE-----", *header.splitlines(), b"", *lines, b"-----END PGP SIGNATURE-----", b""]
    return end.join(whole)


def test_each_wrong_bit_is_found() -> None:
    whole = armored()
    assert not is_damaged(whole)
    for bit in range((len(whole) - 1) * 8):  # the last byte ends the last line
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        assert is_damaged(bytes(data)), f"bit {bit}: {bytes(data)!r}"


def test_each_cut_is_found() -> None:
    whole = armored()
    for length in range(30, len(whole) - 1):
        assert is_damaged(whole[:length]), length


@pytest.mark.parametrize(
    "text",
    [
        armored(header=b"Version: GnuPG v2\nComment: of a release"),
        armored(end=b"\r\n"),
        armored(checksum=b""),
        DATA,
        b"",
    ],
    ids=["headers", "other ends of lines", "no checksum", "binary", "empty"],
)
def test_what_may_be_good(text: bytes) -> None:
    assert not is_damaged(text)
