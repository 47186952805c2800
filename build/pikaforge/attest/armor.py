"""OpenPGP's text form: what its checksum says, without any key (RFC 4880, section 6)."""

from __future__ import annotations

import base64
import binascii
import re

BEGIN, END = b"-----BEGIN PGP SIGNATURE-----", b"-----END PGP SIGNATURE-----"
ARMOR = re.compile(
    BEGIN
    + rb"\r?\n(?:[A-Za-z]+: [^\n]*\n)*\r?\n(?P<data>[A-Za-z0-9+/=\r\n]+?)(?:\n=(?P<sum>[A-Za-z0-9+/]{4})\r?)?\n"
    + END
)
CRC_INIT, CRC_POLY = 0xB704CE, 0x1864CFB


def is_damaged(armored: bytes) -> bool:
    """Return whether a detached signature in text form is certainly damaged.

    What has no checksum may be good, and so may be what is in binary form: only a key can tell then.
    """
    if not armored.startswith(BEGIN[:5]) and BEGIN not in armored and END not in armored:
        return False
    found = ARMOR.search(armored)
    if found is None:
        return True
    text = found["data"].replace(b"\r", b"").replace(b"\n", b"")
    try:
        data = base64.b64decode(text, validate=True)
        said = base64.b64decode(found["sum"], validate=True) if found["sum"] else None
    except binascii.Error:
        return True
    if base64.b64encode(data) != text:  # of the last letter, some bits count nothing
        return True
    return said is not None and int.from_bytes(said, "big") != _crc24(data)


def _crc24(data: bytes) -> int:
    crc = CRC_INIT
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= CRC_POLY
    return crc
