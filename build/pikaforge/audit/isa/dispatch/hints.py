"""Hints that a function runs only on CPUs that have its features: its name, and what it is. They are no proofs."""

from __future__ import annotations

import re
from collections.abc import Set

from pikaforge.audit.isa.ranges import CodeMap

DISPATCH_NAME = re.compile(
    r"(^|[._0-9])(sse[0-9]*(_[0-9])?|ssse3|avx[0-9a-z]*|evex[0-9]*|bmi[12]?|fma[34]?|adx|lzcnt|popcnt|aesni|shani|"
    r"vaes|haswell|skylake\w*|icelake\w*|zen[0-9]?|znver[0-9]|arch_[a-z0-9_-]+|x86_64_v[234]|x86-64-v[234]|erms|rtm|"
    r"rdrand|rdseed|clmul|pclmul\w*)(?=$|[._0-9])"
)


def find_hints(code: CodeMap, piece: int, asking: Set[int]) -> tuple[str, ...]:
    """Return the hints for one piece of code.

    Args:
        code: the pieces of its file.
        piece: its index.
        asking: indexes of the pieces that run cpuid or xgetbv.
    """
    signs = []
    if code.starts[piece] in code.resolvers:
        signs.append("is an ifunc resolver")
    if (match := DISPATCH_NAME.search(code.name(piece))) is not None:
        signs.append(f"named for a CPU: {match.group(2)}")
    if piece in asking:
        signs.append("runs cpuid or xgetbv itself")
    return tuple(signs)
