"""Evidence within one function: its instructions run only where a test just before has said that the CPU can.

These tests ask no CPUID, so `library_run` does not see them: what they look at is zero on every CPU (and under every
kernel) that lacks the feature.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from pikaforge.audit.isa.dispatch.game import Decisive, forced, setter, starts_of
from pikaforge.audit.isa.dispatch.steps import NONE, RIP, Body
from pikaforge.audit.isa.opcodes import features_by_code

FEATURE_1 = 0x48
"""Offset of `feature_1` in glibc's thread control block (glibc sysdeps/x86_64/nptl/tls.h, tcbhead_t)."""
SHADOW_STACK = 2
"""Its bit for shadow stacks (glibc sysdeps/x86/cet-control.h, X86_FEATURE_1_SHSTK)."""


@dataclass(frozen=True, slots=True)
class LocalTest:
    """A kind of test, and what it shows."""

    features: frozenset[str]
    decisive: Decisive
    text: str


def _asks_rdssp(code: Body, index: int) -> bool:
    """Return whether a block ends with: rdssp to a register, and a branch on whether that is zero."""
    step = setter(code, index)
    if step is None or step.name != "TEST" or step.operands[0] != step.operands[1] or step.operands[0].kind != "r":
        return False
    register = step.operands[0].register
    block = code.blocks[index]
    before = [s for s in code.steps[block.first : block.last] if s.address < step.address and register in s.writes]
    return bool(before) and before[-1].name in ("RDSSPD", "RDSSPQ")


def _asks_thread(code: Body, index: int) -> bool:
    """Return whether a block ends with a branch on the bit for shadow stacks in the thread control block."""
    step = setter(code, index)
    if step is None or step.name != "TEST" or len(step.operands) != 2:
        return False
    place, bit = step.operands
    plain = place.kind == "m" and place.segment and place.index_register == NONE and place.register in (RIP, NONE)
    return plain and place.value == FEATURE_1 and bit.kind == "i" and bit.value == SHADOW_STACK


TESTS = (
    LocalTest(
        frozenset({"cet_ss"}),
        _asks_rdssp,
        "only where rdssp has answered, which leaves its register zero without shadow stacks "
        "(Intel SDM vol. 2B RDSSP; gcc libgcc/config/i386/shadow-stack-unwind.h)",
    ),
    LocalTest(
        frozenset({"cet_ss"}),
        _asks_thread,
        "only where the thread's control block says that the kernel has switched shadow stacks on (glibc tcbhead_t)",
    ),
)


TESTED = frozenset(feature for test in TESTS for feature in test.features)
"""The features for which there is such a test: for others no function needs to be decoded."""


def local_evidence(code: Body, feature: str, entries: Set[int], *, loose: bool) -> str:
    """Return the evidence within a function that its instructions do not run without a feature; empty without any.

    Args:
        code: the function.
        feature: the feature.
        entries: addresses in it, beside its start, at which other code enters it.
        loose: whether other code may enter blocks without a visible predecessor (exception handlers).
    """
    fitting = [test for test in TESTS if feature in test.features]
    if not code.sound or not fitting:
        return ""
    by_code = features_by_code()
    needing = {
        index
        for index, block in enumerate(code.blocks)
        if any(feature in by_code[step.code] for step in code.steps[block.first : block.last])
    }
    texts = dict.fromkeys(test.text for test in fitting)

    def decisive(body: Body, index: int) -> bool:
        return any(test.decisive(body, index) for test in fitting)

    if needing and not starts_of(code, entries, loose=loose) & forced(code, needing, decisive):
        used = [t.text for t in fitting if any(t.decisive(code, i) for i in range(len(code.blocks)))]
        return "; ".join(text for text in texts if text in used)
    return ""


def reached_codes(raw: bytes, start: int, entries: Set[int]) -> set[int] | None:
    """Return iced's codes of the instructions that direct control flow leads to; None if it cannot be followed.

    Args:
        raw: the bytes of a function.
        start: its address.
        entries: addresses in it, beside its start, at which other code enters it.
    """
    from iced_x86 import Decoder, FlowControl  # noqa: PLC0415

    ending = {FlowControl.RETURN, FlowControl.EXCEPTION, FlowControl.UNCONDITIONAL_BRANCH}
    codes: set[int] = set()
    seen: set[int] = set()
    waiting = [start, *entries]
    while waiting:
        at = waiting.pop()
        if at in seen or not start <= at < start + len(raw):
            continue
        for step in Decoder(64, raw[at - start :], ip=at):
            if step.ip in seen:
                break
            seen.add(step.ip)
            codes.add(step.code)
            if step.code == 0 or step.flow_control == FlowControl.INDIRECT_BRANCH:
                return None
            if step.near_branch_target and step.flow_control != FlowControl.CALL:
                waiting.append(step.near_branch_target)
            if step.flow_control in ending:
                break
    return codes


def skipped(raw: bytes, start: int, feature: str, entries: Set[int]) -> str:
    """Return the evidence that a function jumps over all bytes which would need a feature; empty without any."""
    codes = reached_codes(raw, start, entries)
    if codes is None or any(feature in features_by_code()[code] for code in codes):
        return ""
    return "bytes that the function jumps over: no way through it leads there"
