"""The identity of a library's code: a digest of what the CPU may execute in it.

strip and patchelf do not change it (tried on the 409 libraries of the build images of Debian 11, 12 and 13). So a file
in a tree can be compared with the file in the distribution's package.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from pikaforge.audit.elf.executable import executable_sections
from pikaforge.audit.elf.layout import PF_W, PF_X, PT_LOAD, mapped, read_layout


def code_digest(path: Path) -> str:
    """Return a SHA-256 over the places of executable segments, and over address and bytes of all code in them.

    It is empty if the code has no identity: there is none, it can be written to, or a section is not loaded from the
    place in the file that its header gives.

    Raises:
        AuditError: the file is no ELF file, truncated, or corrupt.
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
        found = sorted((s.address, s.offset, s.size) for s in executable_sections(data, layout, str(path)))
        found = found or [(s.address, s.offset, s.file_size) for s in segments if s.file_size]
        if not found:
            return ""
        for address, offset, size in found:
            inside = any(
                s.address <= address
                and address + size <= s.address + s.file_size
                and address - s.address == offset - s.offset
                for s in segments
            )
            if not inside:
                return ""
            digest.update(struct.pack("<QQ", address, size))
            digest.update(data[offset : offset + size])
        return digest.hexdigest()
