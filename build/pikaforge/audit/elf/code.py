"""The identity of a library's code: what the CPU may execute of it, whatever was changed around that.

strip and patchelf leave it as it is (tried on the 409 libraries of Debian 11, 12 and 13's build images), so the file in
a tree can be compared with that of the distribution's package.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from pikaforge.audit.elf.facts import regions
from pikaforge.audit.elf.layout import PF_W, PF_X, PT_LOAD, mapped, read_layout


def code_digest(path: Path) -> str:
    """SHA-256 over the executable segments' places, and address and bytes of everything executable in them.

    Empty where nothing can be said: no code, code that may be written to, or sections that are loaded from elsewhere
    than they say.

    Raises:
        AuditError: no ELF file, truncated, or corrupt.
    """
    with mapped(path) as data:
        layout = read_layout(data, str(path))
        if layout.bits != 64:
            return ""
        segments = sorted((s for s in layout.segments if s.type == PT_LOAD and s.flags & PF_X), key=lambda s: s.address)
        if any(s.flags & PF_W for s in segments):
            return ""
        digest = hashlib.sha256()
        for segment in segments:
            digest.update(struct.pack("<QQ", segment.address, segment.memory_size))
        found = regions(data, layout, str(path))
        for region in found:
            inside = any(
                s.address <= region.address
                and region.address + region.size <= s.address + s.file_size
                and region.address - s.address == region.offset - s.offset
                for s in segments
            )
            if not inside:
                return ""
            digest.update(struct.pack("<QQ", region.address, region.size))
            digest.update(data[region.offset : region.offset + region.size])
        return digest.hexdigest() if found else ""
