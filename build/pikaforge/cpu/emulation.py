"""Targets that a machine can run, natively or by emulation. Data with reasons; pure.

What user-mode emulation proves, measured with qemu-user 10.0 of Debian 13:

- An instruction of a feature that the CPU model lacks ends the program with SIGILL, for AES, PCLMULQDQ, AVX, AVX2, FMA,
  F16C, BMI1, BMI2, MOVBE, ADX, RDRAND, FSGSBASE, XSAVE, SSSE3, SSE4 and POPCNT.
- LZCNT and TZCNT do **not** trap on older models. They run as BSR and BSF, as on the hardware, with other results.
- The register form of AVX2's vbroadcastss does not trap on Sandy and Ivy Bridge.
- AVX-512 is not emulated at all.

So a program that runs under emulation is a witness only. The audit is the judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pikaforge.cpu import microarch

CPUS: Mapping[str, str] = {
    # Exactly the psABI levels: a named CPU has more than its level, so a wrong build would pass.
    "x86_64": "qemu64,-pni,-cx16,-lahf-lm",
    "x86_64_v2": "Nehalem",  # SSE4.2 and POPCNT are its last features
    "x86_64_v3": "Haswell-noTSX,-aes,-pclmulqdq,-rdrand,-fsgsbase",
    "core2": "Conroe",  # archspec's core2 is Merom, before SSE4.1
    "nehalem": "Nehalem",
    "westmere": "Westmere",
    "sandybridge": "SandyBridge",
    "ivybridge": "IvyBridge",
    # TSX was turned off by microcode on all of these; gcc's -march=haswell does not use it.
    "haswell": "Haswell-noTSX",
    "broadwell": "Broadwell-noTSX",
    "skylake": "Skylake-Client-noTSX-IBRS",
    "zen": "EPYC",
    "zen2": "EPYC-Rome",
    # Without VAES and VPCLMULQDQ, which the emulator lacks and compilers do not emit by themselves.
    "zen3": "EPYC-Milan",
}
"""The emulator's CPU model (`-cpu`) by target, with the names of `qemu-x86_64 -cpu help`."""

SINCE: Mapping[str, str] = {"debian": "13", "ubuntu": "25.10"}
"""The first release, by os-release's ID, whose qemu-user is one that was measured (10.0 or later)."""

NO_AVX512 = "it has AVX-512, which the emulator cannot execute"
NO_MODEL = "no CPU model of the emulator is known for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedCpu:
    """The emulator's CPU model for a target, or why there is none."""

    cpu: str = ""
    reason: str = ""


@lru_cache(maxsize=256)
def stand_for(target: str) -> EmulatedCpu:
    """Return the emulator's CPU model for `target`."""
    if any(name.startswith("avx512") for name in microarch.features(target)):
        return EmulatedCpu(reason=f"{target}: {NO_AVX512}")
    cpu = CPUS.get(target, "")
    return EmulatedCpu(cpu=cpu) if cpu else EmulatedCpu(reason=f"{target}: {NO_MODEL}")


def too_old(id: str, version: str) -> str:
    """Return the first release of a system whose emulator proves enough, if this one is older; "" if it is not."""
    since = SINCE.get(id, "")
    numbers = [tuple(int(part) for part in re.findall("[0-9]+", text)) for text in (version, since)]
    return since if since and numbers[0] and numbers[0] < numbers[1] else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that runs the smoke tests."""

    flags: frozenset[str]
    """Features of all its CPUs, as /proc/cpuinfo spells them."""
    emulates: bool = True
    """Whether it has the emulator."""
    others: frozenset[str] = frozenset()
    """Targets whose code other machines run, to which a smoke test may go."""

    def runs(self, target: str) -> bool:
        """Return whether code for `target` can be run on it, natively or emulated."""
        return (
            target in self.others or not lacking(target, self.flags) or (self.emulates and not stand_for(target).reason)
        )


@lru_cache(maxsize=256)
def lacking(target: str, flags: frozenset[str]) -> tuple[str, ...]:
    """Return the features of `target` that a machine with these /proc/cpuinfo flags lacks, as the kernel names them."""
    return tuple(sorted(microarch.kernel_flags(target) - flags))


def flags_of(cpuinfo: str) -> frozenset[str]:
    """Return the flags that all CPUs of a machine have, from the text of its /proc/cpuinfo."""
    found: frozenset[str] | None = None
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == "flags":
            flags = frozenset(value.split())
            found = flags if found is None else found & flags
    return found or frozenset()


def model_of(cpuinfo: str) -> str:
    """Return how the CPUs of a machine call themselves, from the text of its /proc/cpuinfo; "" if they do not say it.

    The microarchitecture stands behind it: the best one whose code all of them run.
    """
    names = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("model name")]
    said = " ".join(names[0])[:100] if names and names[0] else ""
    flags = flags_of(cpuinfo)
    runs = [name for name in microarch.known() if not lacking(name, flags)] if flags else []
    return " ".join(filter(None, [said, f"({microarch.best(runs)})" if runs else ""]))
