"""What a waiver covered in a build holds in `verify` and `audit` of its stripped package, and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit import artifacts
from unit import elf_files as ef
from unit.helpers import BASE

from pikaforge.audit import audit_result
from pikaforge.audit.audit import audit_compiled
from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.audit_result import Rules
from pikaforge.cli import main
from pikaforge.config.waiver import Waiver
from pikaforge.formats.manifest import ManifestAudit
from pikaforge.host import process

TODAY = date(2026, 6, 15)
BUILD_ID = "78dd9b6b9133e38a75e2898742f6c5db95dfd018"
WAIVER: dict[str, Any] = {
    "file": "bin/demo", "function": "work_avx2", "features": ["avx2"], "image": "debian12", "allocator": "none",
    "reason": "it asks the CPU first", "expires": "2026-12-31",
}  # fmt: skip
WORK = ef.AVX2 + ef.RET
Run = Callable[..., tuple[int, str]]


def elf(text: bytes, *, symbols: bool) -> bytes:
    named = [("work_avx2", 0, len(WORK), ef.FUNC), ("main", len(WORK), len(text) - len(WORK), ef.FUNC)]
    made = ef.Elf(text=text, symbols=named if symbols else [], debug={".build_id": ef.note(BUILD_ID)})
    return ef.build_id(ef.make(made), BUILD_ID)


def judged(folder: Path, text: bytes = WORK + ef.RET) -> AuditRecord:
    """The verdict of a build on a stripped program with its debug information."""
    folder.mkdir()
    (folder / "tree.tar").write_bytes(artifacts.tar_bytes({"./bin/demo": elf(text, symbols=False)}))
    (folder / "debug.tar").write_bytes(artifacts.tar_bytes({"./bin/demo.debug": elf(text, symbols=True)}))
    rules = Rules(
        waivers=(Waiver.model_validate({**WAIVER, "features": ("avx2",)}),), image="debian12", allocator="none"
    )
    found = audit_compiled(
        folder / "tree.tar", [folder / "debug.tar"], folder / "scratch", label="x", target="sandybridge",
        flags_used=("-march=sandybridge",), macros=["#define __AVX__ 1"], bundled=(), dropped=(), rules=rules,
        today=TODAY, workers=1,
    )  # fmt: skip
    assert found.passed, found.lines()
    return found.record()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb on a package, with some waivers: exit status and output."""
    monkeypatch.setenv("PIKAFORGE_CWD", str(tmp_path))
    monkeypatch.setattr(audit_result, "today", lambda: TODAY)
    monkeypatch.setattr(process, "find", lambda _name: None)  # neither gcc nor c++filt

    def run(verb: str, package: Path, **change: Any) -> tuple[int, str]:
        waivers = [{**WAIVER, **change}] if change.pop("use", True) else []
        matrix = tmp_path / "matrix.yaml"
        matrix.write_text(yaml.safe_dump({**BASE, "waivers": waivers}, sort_keys=False), encoding="utf-8")
        more = ["--target", "sandybridge"] if verb == "audit" else ["--unsigned"]
        status = main.main([verb, str(package), *more, "--matrix", "matrix.yaml"])
        return status, capsys.readouterr().out

    return run


def packed(folder: Path, record: AuditRecord, text: bytes = WORK + ef.RET, name: str = "demo.tar.gz") -> Path:
    waived = ManifestAudit.model_validate(record, from_attributes=True).waived
    return artifacts.deliver(
        folder / "dist",
        name,
        tree={**artifacts.TREE, "bin/demo": elf(text, symbols=False)},
        audit__waived=[entry.model_dump(mode="json") for entry in waived or ()],
    )


@pytest.mark.parametrize("verb", ["verify", "audit"])
@pytest.mark.parametrize("name", ["demo.tar.gz", "demo.deb", "demo.whl"])
def test_a_waiver_of_the_build_holds_in_the_package(verb: str, name: str, run: Run, tmp_path: Path) -> None:
    package = packed(tmp_path, judged(tmp_path / "build"), name=name)
    status, out = run(verb, package)
    assert status == 0, out
    for change in ({"use": False}, {"image": "el7"}, {"allocator": "system"}, {"function": "main"},
                   {"file": "demo"}, {"expires": "2026-06-14"}):  # fmt: skip
        assert run(verb, package, **change)[0] == 4, change


@pytest.mark.parametrize("verb", ["verify", "audit"])
def test_code_beside_the_function_is_not_covered(verb: str, run: Run, tmp_path: Path) -> None:
    """The manifest names the function of the build; the program in the package has such code in another one, too."""
    record = judged(tmp_path / "build")
    status, out = run(verb, packed(tmp_path, record, WORK + ef.AVX2 + ef.RET))
    assert status == 4
    assert "gap@0x401005: avx2 x1" in out


def test_a_manifest_without_waivers_stays_as_it_was(tmp_path: Path) -> None:
    record = judged(tmp_path / "build")
    plain = ManifestAudit.model_validate(record.model_copy(update={"waived": None}), from_attributes=True)
    assert "waived" not in plain.model_dump(mode="json", exclude_none=True)
    assert record.waived is not None
    assert [(w.file, w.function, w.build_id, w.code) for w in record.waived] == [
        ("bin/demo", "work_avx2", BUILD_ID, ((0x401000, 0x401000 + len(WORK)),))
    ]
