"""A draft of waivers covers what it was written for, whatever names it has; and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from unit import elf_files as ef
from unit.package_files import tar

from pikaforge.audit import drafts
from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.config import load

ALLOWED = from_macros(["#define __AVX__ 1"], "sandybridge")
TODAY = date(2026, 6, 15)
CODE = ef.AVX2 + ef.RET
NAMES = [
    "a\nwaivers: []", "a: b", 'a"b', "a'b", "- x", "x # y", "{a}", "[a]", "*", "?", "[", "a*b", "[!a]", "[a-z]", "a]b",
    "!x", "&x", "%x", "\u2028x", "\x85x", "\ufeffx", "\U0001f600", "a\tb", "\x1b[31m", "e\u0301", "null", "1e3", "~",
    "\ufffe", "x\\y", "<<", "--- x", "...", "| x", "draft: x", " x", "x ", "pkg.F[go.shape.int]", "range@0x10", "",
]  # fmt: skip
KINDS = {
    "AVX2": CODE,
    "TZCNT": ef.TZCNT + ef.RET,
    "LZCNT": ef.LZCNT + ef.RET,
    "no instruction": ef.BAD + ef.RET,
    "several": ef.AVX2 + ef.AVX512 + ef.LZCNT + ef.FMA + ef.RET,
    "what no gate sees": ef.RDSSP + ef.RET,
}


def audited(path: Path, scratch: Path, rules: Rules) -> AuditResult:
    [result] = audit_paths([path], scratch, target="sandybridge", today=TODAY, allowed=ALLOWED, workers=1, rules=rules)
    return result


def with_draft(path: Path, tmp_path: Path, *, strict: bool = False) -> AuditResult:
    first = audited(path, tmp_path / "first", Rules(strict=strict))
    written = tmp_path / "waivers.yaml"
    written.write_text(drafts.draft([first], today=TODAY), encoding="utf-8")
    rules = Rules(waivers=tuple(load.load_waivers(written)))
    again = audited(path, tmp_path / "again", rules)
    assert all(
        finding.level not in ("fail", "unproven") for finding in again.isa.findings if strict or not again.passed
    )
    return again


def program(name: str, code: bytes = CODE) -> bytes:
    return ef.make(ef.Elf(text=code, symbols=[(name, 0, len(code), ef.FUNC)]))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_draft_names_a_function(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(program(name))
    result = with_draft(tmp_path / "x", tmp_path)
    assert result.passed
    assert [finding.level for finding in result.isa.findings] == ["waived"]


@pytest.mark.parametrize("name", [name for name in NAMES if name], ids=ascii)
def test_a_draft_names_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({f"d/{name}": program("f"), "d/other": ef.make(ef.Elf())}, {}, prefix=""))
    assert with_draft(tmp_path / "x.tar", tmp_path).passed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symbols", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_a_draft_covers_each_kind(kind: str, symbols: bool, strict: bool, tmp_path: Path) -> None:
    code = KINDS[kind]
    (tmp_path / "x").write_bytes(program("f", code) if symbols else ef.make(ef.Elf(text=code)))
    assert with_draft(tmp_path / "x", tmp_path, strict=strict).passed


@pytest.mark.parametrize(("name", "other"), [("*", "f"), ("a*b", "axb"), ("[a-z]", "b"), ("?", "f"), ("[!a]", "b")])
def test_a_draft_covers_nothing_else(name: str, other: str, tmp_path: Path) -> None:
    """The names are globs by their letters. The file is another one: the draft pins it, so the pins are left out."""
    (tmp_path / "x").write_bytes(program(name))
    first = audited(tmp_path / "x", tmp_path / "first", Rules())
    written = tmp_path / "waivers.yaml"
    written.write_text(drafts.draft([first], today=TODAY), encoding="utf-8")
    waivers = tuple(
        waiver.model_copy(update={"sha256": None, "build_id": None}) for waiver in load.load_waivers(written)
    )
    (tmp_path / "x").write_bytes(program(other))
    rules = replace(Rules(), waivers=waivers)
    assert not audited(tmp_path / "x", tmp_path / "again", rules).passed
