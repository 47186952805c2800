"""Whole instructions of pieces: long gaps are cut into pieces, and a cut may lie within an instruction.

An instruction belongs to the piece in which it begins, as in `piece_scan.units`. Whoever decodes one piece by itself
must not begin at the cut: what is decoded there is not what the CPU runs.
"""

from __future__ import annotations

from collections import deque

from pikaforge.audit.elf.executable import PADDING
from pikaforge.audit.elf.layout import Buffer
from pikaforge.audit.isa.opcodes import LONGEST
from pikaforge.audit.isa.ranges import CodeMap


class Cuts:
    """Where the instructions of a file's pieces begin and end."""

    def __init__(self, data: Buffer, code: CodeMap) -> None:
        """Decode nothing yet."""
        self._data, self._code = data, code
        self._ends: dict[int, int] = {}

    def begin(self, piece: int) -> int:
        """Return the address at which the first instruction of a piece begins."""
        start = self._code.starts[piece]
        return max(start, self._end(piece - 1)) if piece in self._code.cuts else start

    def raw(self, piece: int) -> bytes:
        """Return the bytes from the first instruction of a piece to the end of its last one."""
        start, offset = self._code.starts[piece], self._code.offsets[piece]
        end = self._end(piece) if piece + 1 in self._code.cuts else self._code.ends[piece]
        return bytes(self._data[offset + self.begin(piece) - start : offset + end - start])

    def _end(self, piece: int) -> int:
        """Return the address at which the last instruction of a piece ends that is cut off another."""
        first = piece
        while first not in self._ends and first in self._code.cuts:
            first -= 1
        for number in range(first, piece + 1):
            if number not in self._ends:
                self._ends[number] = self._decoded(number)
        return self._ends[piece]

    def _decoded(self, piece: int) -> int:
        from iced_x86 import Decoder  # noqa: PLC0415

        start, end, offset = self._code.starts[piece], self._code.ends[piece], self._code.offsets[piece]
        at = max(start, self._ends[piece - 1]) if piece in self._code.cuts else start
        raw = bytes(self._data[offset + at - start : offset + end - start])
        if not raw.strip(PADDING):
            return end
        [last] = deque(Decoder(64, raw, ip=at), maxlen=1)
        if last.code:
            return end
        beyond = bytes(self._data[offset + end - start : offset + end - start + LONGEST])
        whole = Decoder(64, raw[last.ip - at :] + beyond, ip=last.ip).decode()
        return whole.next_ip if whole.code and whole.next_ip > end else end
