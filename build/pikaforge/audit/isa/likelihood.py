"""How much likelier a run of instructions is in code than in random bytes.

An instruction has a weight: the binary logarithm of the ratio of its frequency in compiled code to that in random
bytes. The weights were measured on 91,000 instructions of libstdc++, sqlite, Python, libcrypto and libm of Debian 12,
and on 500,000 random bytes. Where such code has too few of an instruction, the weight is that of its kind of encoding.

The sum of the weights of a run is the logarithm of a likelihood ratio. So in random bytes, the probability that the
sum from one start ever comes to T is at most 2^-T (Ville's inequality), and with N starts at most N times that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iced_x86 import OpCodeInfo

RARE = -10
"""Weight of an instruction that compiled code does not have: privileged, a port's, of a stack of the eighties."""
OUTSIDE, HUGE, INSIDE, KNOWN = -10, -6, 5, 12
"""Weights of a target outside of the file, of a displacement above `FAR`, of a far target inside, and of one that is a
function's start."""
FAR = 1 << 24
SURE = 9
"""The logarithm of how much likelier code must be, beside that of the number of starts."""
REFERRED = 7
"""The same for a start that code or a pointer names, which may name data, too."""

_WEIGHTS = {
    4: "call lea",
    3: "cdqe fld",
    2: "je jne jmp",
    1: "mov test ret movsxd fstp fxch fmul",
    0: "nop cmp xor add shr shl pop jle jg ja js jae jbe jb rol ror sub push neg sar fadd fsub fdiv fmulp faddp fild",
    -1: "and or jp jns dec inc not",
    -2: "jge jl adc sbb fsubp fdivp fsubrp fdivrp fucomip fcomip fucomi fcomi fchs fabs fldz fld1 fnstcw fldcw fnstsw",
    -3: "imul mul div idiv cwd cqo cdq cwde leave xchg lock movsb movsq stosq stosd movsd",
}
_SETTING = re.compile(r"(movzx|movsx|set[a-z]+|cmov[a-z]+|movaps|movups|bt|shld|shrd|bswap|cmpxchg|xadd)$")


@lru_cache(maxsize=1)
def weights() -> list[int]:
    """Return the weight of each opcode, indexed by iced's Code."""
    from iced_x86 import Code, Mnemonic, OpCodeInfo  # noqa: PLC0415

    names = {number: name.lower() for name, number in vars(Mnemonic).items() if isinstance(number, int)}
    given = {name: weight for weight, words in _WEIGHTS.items() for name in words.split()}
    codes = [number for name, number in vars(Code).items() if name[0].isupper() and isinstance(number, int)]
    out = [RARE] * (max(codes) + 1)
    for code in codes:
        out[code] = _weight(OpCodeInfo(code), names, given)  # type: ignore[arg-type]  # an IntEnum for mypy
    return out


def _weight(info: OpCodeInfo, names: dict[int, str], given: dict[str, int]) -> int:
    from iced_x86 import EncodingKind, OpCodeTableKind  # noqa: PLC0415

    name = names[info.mnemonic]
    if name == "invalid" or info.is_privileged or (info.cpl0 and not info.cpl3) or info.is_input_output:
        return RARE
    if info.encoding == EncodingKind.LEGACY:
        if name in given and (info.table == OpCodeTableKind.NORMAL or name == "nop" or name.startswith("j")):
            return given[name]
        return _weight_of_table(info, name)
    # A prefix of two bytes is possible for the first table without W.
    short = info.encoding == EncodingKind.VEX and info.table == OpCodeTableKind.T0F and info.w == 0
    return 6 if short else {EncodingKind.VEX: 9, EncodingKind.EVEX: 9, EncodingKind.XOP: 9}.get(info.encoding, RARE)


def _weight_of_table(info: OpCodeInfo, name: str) -> int:
    """Return the weight of an instruction by its legacy opcode table."""
    from iced_x86 import MandatoryPrefix, OpCodeTableKind  # noqa: PLC0415

    if info.table == OpCodeTableKind.NORMAL:
        return RARE
    long = info.table in (OpCodeTableKind.T0F38, OpCodeTableKind.T0F3A)
    if long or info.mandatory_prefix in (MandatoryPrefix.P66, MandatoryPrefix.PF2, MandatoryPrefix.PF3):
        return 12
    return 7 if _SETTING.match(name) else 4
