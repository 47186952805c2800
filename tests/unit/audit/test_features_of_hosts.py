"""What compilers give to a target and its hosts lack: the audit refuses it, and a waiver admits it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.config.waiver import Waiver
from pikaforge.cpu.features import table, ungated

TODAY = date(2026, 6, 15)
MACROS = (
    "AVX AVX2 FSGSBASE PKU SGX UINTR ENQCMD TSXLDTRK PTWRITE PCONFIG WBNOINVD XSAVES AMX_TILE AVX512F "
    "AVX512VP2INTERSECT RTM KL WIDEKL HRESET SHSTK"
)
AES = bytes.fromhex("660f38dcc1")  # aesenc %xmm1,%xmm0
INSTRUCTIONS = [
    ("fsgsbase", "haswell", "f3480faec0"),  # rdfsbase %rax
    ("fsgsbase", "zen2", "f3480faed8"),  # wrgsbase %rax
    ("pku", "skylake_avx512", "0f01ee"),  # rdpkru
    ("pku", "zen4", "0f01ef"),  # wrpkru
    ("sgx1", "skylake_avx512", "0f01d7"),  # enclu
    ("uintr", "sapphirerapids", "f30f01ee"),  # clui
    ("uintr", "sapphirerapids", "f30fc7f0"),  # senduipi %rax
    ("enqcmd", "sapphirerapids", "f20f38f807"),  # enqcmd (%rdi),%rax
    ("tsxldtrk", "sapphirerapids", "f20f01e8"),  # xsusldtrk
    ("ptwrite", "sapphirerapids", "f30faee0"),  # ptwrite %eax
    ("pconfig", "icelake", "0f01c5"),
    ("wbnoinvd", "zen2", "f30f09"),
    ("xsaves", "zen", "480fc72f"),  # xsaves64 (%rdi)
    ("amx_tile", "sapphirerapids", "c4e27b49c0"),  # tilezero %tmm0
    ("avx512_vp2intersect", "sapphirerapids", "62f27f4868d1"),  # vp2intersectd %zmm1,%zmm0,%k2
    ("rtm", "haswell", "c7f800000000"),  # xbegin
    ("aeskle", "alderlake", "f30f38dd07"),  # aesdec128kl (%rdi),%xmm0
    ("hreset", "alderlake", "f30f3af0c000"),  # hreset $0
    ("cet_ss", "sapphirerapids", "f3480faee8"),  # incsspq %rax
]


def audit(tmp_path: Path, target: str, code: bytes, *, waived: tuple[str, ...] = ()) -> AuditResult:
    text = code + ef.RET
    path = tmp_path / "x"
    path.write_bytes(ef.make(ef.Elf(text=text, symbols=[("work", 0, len(text), ef.FUNC)])))
    fields = {"file": "x", "function": "work", "reason": "asks the kernel", "expires": "2026-12-31"}
    waivers = tuple(Waiver.model_validate({**fields, "features": waived}) for _ in waived[:1])
    lines = [f"#define __{name}__ 1" for name in MACROS.split()]
    [found] = audit_paths(
        [path], tmp_path / "scratch", target=target, today=TODAY, allowed=from_macros(lines, target), workers=1,
        rules=Rules(waivers=waivers),
    )  # fmt: skip
    return found


@pytest.mark.parametrize(("feature", "target", "code"), INSTRUCTIONS)
def test_what_no_gate_can_tell_needs_a_waiver(feature: str, target: str, code: str, tmp_path: Path) -> None:
    found = audit(tmp_path, target, bytes.fromhex(code))
    assert not found.passed
    [finding] = found.isa.findings
    assert [name for name, _ in finding.features] == [feature]
    assert table()[feature].kernel not in found.kernel_flags, "what is refused is nothing that the gate asks for"
    waived = audit(tmp_path, target, bytes.fromhex(code), waived=(feature,))
    assert waived.passed, waived.lines()
    assert waived.isa.findings[0].level == "waived"
    named = [line for line in waived.lines() if line.startswith(f"  beyond the CPU gate: {feature}: ")]
    assert len(named) == len(ungated([feature]))
    assert waived.record().ungated == ungated([feature])
    [line] = found.violations
    assert (f"no gate can tell whether a host runs {feature}: " in line.what) == bool(named)
    assert (f"{target} lacks {feature}" in line.what) != bool(named)
    control = audit(tmp_path, target, ef.AVX2)
    assert control.passed
    assert control.kernel_flags == ("avx2",)
    assert control.record().ungated == {}
    assert not [line for line in control.lines() if "beyond the CPU gate" in line]


def test_what_firmware_switches_off_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(ef.make(ef.Elf(text=AES + ef.RET, symbols=[("work", 0, 6, ef.FUNC)])))
    allowed = from_macros(["#define __AES__ 1"], "skylake_avx512")
    [found] = audit_paths(
        [path], tmp_path / "scratch", target="skylake_avx512", today=TODAY, allowed=allowed, workers=1
    )
    assert found.passed
    assert "not all of these CPUs have it: firmware can switch it off" in found.isa.warnings[0].what
    assert found.kernel_flags == ("aes",)
