"""Twins: a target that is run in place of one that this machine can run neither natively nor emulated. Pure.

The same source, recipe and allocator are compiled for the twin, and the twin's smoke test counts for both. So the twin
proves that the product works, and the audit of the tree itself proves its instructions. The report, the manifest and
the page say so.
"""

from __future__ import annotations

from collections.abc import Collection

from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine

FAMILIES = (("avx512", "AVX-512"),)
"""Beginning of the names of a group's features, and the name of the group."""
NAMED = 3
"""The most features that a sentence names."""


def twin_of(target: str, *, gcc: str, machine: Machine, usual: Collection[str]) -> str:
    """Return the target that is run in place of `target`; empty if `target` itself can be run, or nothing can.

    It is an ancestor of `target` with no feature that `target` lacks. One of `usual` is preferred, because its nodes
    serve other cells, too; among several the one with the most features wins. So the twin of a target depends on the
    matrix, and not on what else is selected.

    Args:
        target: archspec name.
        gcc: version of the compiler; a target that it cannot produce is no twin.
        machine: where the smoke tests run.
        usual: the targets of the matrix on the same image.
    """
    if machine.runs(target):
        return ""
    possible = [
        name
        for name in microarch.ancestors(target)
        if microarch.features(name) <= microarch.features(target)
        and machine.runs(name)
        and microarch.resolve(name, gcc).possible
    ]
    chosen = [name for name in possible if name in usual] or possible
    return microarch.best(chosen) if chosen else ""


def beyond(target: str, tried: str) -> str:
    """Return the features that `target` has and `tried` lacks, for people: `AVX-512`, or single features.

    A group is named as a whole only if `tried` has no part of it. What compiled code does not use (AMX) is not named.
    """
    has = microarch.kernel_flags(tried)
    rest = microarch.kernel_flags(target) - has
    names: list[str] = []
    for start, family in FAMILIES:
        new = sorted(feature for feature in rest if feature.startswith(start))
        if new:
            names += new if any(feature.startswith(start) for feature in has) else [family]
    names = names or sorted(rest)
    return ", ".join(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def sentence(target: str, tried: str) -> str:
    """Return what was tried in place of a target: `function tried as haswell; AVX-512 code audited, not run`.

    It is empty if the target itself was run, or nothing.
    """
    if tried in ("", target):
        return ""
    return f"function tried as {tried}; {beyond(target, tried)} code audited, not run"
