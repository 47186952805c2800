"""Signs that a function runs only where the CPU can: names, ifuncs, and who calls it. Hints, never proofs."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from pathlib import Path

from pikaforge.elf.layout import mapped
from pikaforge.isa.crew import Chunk, Team, chunks
from pikaforge.isa.ranges import CodeMap

HINT_LIMIT = 64 << 20
"""Bytes of code above which callers are not looked for: it costs another two passes."""
DISPATCH_NAME = re.compile(
    r"(^|[._0-9])(sse[0-9]*(_[0-9])?|ssse3|avx[0-9a-z]*|evex[0-9]*|bmi[12]?|fma[34]?|adx|lzcnt|popcnt|aesni|shani|"
    r"vaes|haswell|skylake\w*|icelake\w*|zen[0-9]?|znver[0-9]|arch_[a-z0-9_-]+|x86_64_v[234]|x86-64-v[234]|erms|rtm|"
    r"rdrand|rdseed|clmul|pclmul\w*)(?=$|[._0-9])"
)


def _references(chunk: Chunk, wanted: frozenset[int]) -> list[tuple[int, frozenset[int]]]:
    """Which of the wanted addresses the pieces of a chunk branch to or take, by index of the piece."""
    from iced_x86 import Decoder  # noqa: PLC0415

    places = attrgetter("near_branch_target", "ip_rel_memory_address")
    out = []
    with mapped(Path(chunk.path)) as data:
        for index, (start, end, offset) in enumerate(
            zip(chunk.starts, chunk.ends, chunk.offsets, strict=True), chunk.first
        ):
            decoder = Decoder(64, data[offset : offset + end - start], ip=start)
            met = wanted.intersection(chain.from_iterable(map(places, decoder)))
            if met:
                out.append((index, met))
    return out


def find_hints(
    path: Path, code: CodeMap, found: Sequence[int], detecting: Set[int], team: Team
) -> dict[int, tuple[str, ...]]:
    """Signs of run-time dispatch for pieces with findings, as far as names, calls and addresses taken show.

    Args:
        path: the file.
        code: its pieces.
        found: indexes of the pieces to look at.
        detecting: indexes of pieces that run cpuid or xgetbv.
        team: does the work.
    """
    signs = _Signs(code=code, detecting=detecting, starts={code.starts[i]: i for i in found})
    for index in found:
        if code.starts[index] in code.resolvers:
            signs.add(index, "is an ifunc resolver")
        if (match := DISPATCH_NAME.search(code.name(index))) is not None:
            signs.add(index, f"named for a CPU: {match.group(2)}")
        if index in detecting:
            signs.add(index, "runs cpuid or xgetbv itself")
    if code.size <= HINT_LIMIT:
        wanted = frozenset(signs.starts) | code.detectors
        for part in team.each(_references, ((chunk, wanted) for chunk in chunks(path, code))):
            for caller, met in part:
                signs.note_caller(caller, met)
    return {index: tuple(texts) for index, texts in signs.texts.items()}


@dataclass(slots=True, kw_only=True)
class _Signs:
    code: CodeMap
    detecting: Set[int]
    starts: dict[int, int]
    """Index of each piece with a finding, by its address."""
    texts: dict[int, dict[str, None]] = field(default_factory=dict)

    def add(self, index: int, sign: str) -> None:
        self.texts.setdefault(index, {})[sign] = None

    def note_caller(self, caller: int, met: frozenset[int]) -> None:
        """What a piece tells about those that it calls or takes the address of."""
        name = self.code.name(caller)
        asks = bool(met & self.code.detectors)
        if asks and caller in self.starts.values():
            self.add(caller, "looks at __cpu_model itself")
        for target in (self.starts[address] for address in met if address in self.starts):
            if target == caller:
                continue
            if self.code.starts[caller] in self.code.resolvers:
                self.add(target, "chosen by an ifunc resolver")
            elif caller in self.detecting:
                self.add(target, f"used by {name}, which runs cpuid or xgetbv")
            elif asks:
                self.add(target, f"used by {name}, which looks at __cpu_model")
