"""Names are exact: of guarded functions, of files and functions in waivers; and a function without one needs a pin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from unit import elf_files as ef

from pikaforge.audit.allowed_features import Allowed, from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult, Rules, TreeOrigin
from pikaforge.audit.identities import NamedCode
from pikaforge.audit.waivers import FileIdentity, Ledger, paths_of
from pikaforge.config.waiver import Waiver
from pikaforge.cpu.features import guarded, guards

TODAY = date(2026, 6, 15)
BUILD_ID = "78dd9b6b9133e38a75e2898742f6c5db95dfd018"
OTHER_ID = "4e85129b6cf711a69e656016df8275dd8170b800"


def waiver(**more: Any) -> Waiver:
    fields = {
        "file": "bin/server",
        "function": "work",
        "features": ("avx2",),
        "reason": "asks the CPU first",
        "expires": "2026-12-31",
    }
    return Waiver.model_validate({**fields, **more})


def allowed() -> Allowed:
    return from_macros(["#define __AVX__ 1"], "sandybridge", source="test")


def program(code: bytes = ef.AVX2, *, name: str = "work", build_id: str = "", **more: Any) -> bytes:
    text = code + ef.RET
    symbols = [(name, 0, len(text), ef.FUNC)] if name else []
    note = {".build_id": ef.note(build_id)} if build_id else {}
    data = ef.make(ef.Elf(text=text, symbols=symbols, debug=note, **more))
    return ef.build_id(data, build_id) if build_id else data


def tree(top: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def audited(path: Path, *waivers: Waiver, origin: TreeOrigin | None = None, image: str = "") -> AuditResult:
    [found] = audit_paths(
        [path], path.parent / f"scratch-{path.name}", target="sandybridge", today=TODAY, allowed=allowed(), workers=1,
        rules=Rules(waivers=waivers, image=image), origins={str(path): origin} if origin is not None else None,
    )  # fmt: skip
    return found


# ---- guards


@pytest.mark.parametrize(
    ("function", "feature", "yes"),
    [
        ("my__x86_rdrand_fast", "rdrand", False),
        ("__x86_rdrand", "rdrand", False),
        ("_ZNSt12_GLOBAL__N_112__x86_rdrandEPvX", "rdrand", False),
        ("_ZN2my12_GLOBAL__N_112__x86_rdrandEPv", "rdrand", False),
        ("_ZNSt13random_device4mineEv", "rdrand", False),
        ("_Unwind_Resume_fast", "cet_ss", False),
        ("__longjmp_mine", "cet_ss", False),
        ("__lll_my_elision", "rtm", False),
        ("update_active_things", "xgetbv", False),
        ("__cpu_indicator_init2", "xgetbv", False),
        ("x__cpu_indicator_init", "xgetbv", False),
        ("_Unwind_Resume.mine", "cet_ss", False),
        ("_Unwind_Resume" + ".cold" * 9000, "cet_ss", False),
        ("_ZNSt12_GLOBAL__N_112__x86_rdrandEPv", "rdrand", True),
        ("_ZNSt12_GLOBAL__N_119__x86_rdseed_rdrandEPv", "rdseed", True),
        ("_Unwind_Resume.cold", "cet_ss", True),
        ("_Unwind_Resume@@GCC_3.0", "cet_ss", True),
        ("_Unwind_Resume_or_Rethrow", "cet_ss", True),
        ("get_available_features.constprop.0", "xgetbv", True),
        ("update_active.constprop.0.isra.0", "xgetbv", True),
        ("init_cpu_features.part.12.cold", "xgetbv", True),
        ("__lll_lock_elision", "rtm", True),
    ],
)
def test_guards_are_for_functions_of_their_very_name(function: str, feature: str, yes: bool) -> None:
    assert bool(guarded(function, feature)) is yes


def test_no_guard_is_a_glob() -> None:
    assert all(not set(guard.function) & set("*?[]") for guard in guards())


# ---- waivers


@pytest.mark.parametrize("function", ["range@0x401000", "gap@0x*", "*@0x401*", "range@*"])
def test_an_address_needs_a_pin(function: str) -> None:
    with pytest.raises(ValidationError, match="build_id or sha256"):
        waiver(function=function)
    assert waiver(function=function, build_id=BUILD_ID).pinned
    assert waiver(function=function, sha256="5" * 64).pinned


@pytest.mark.parametrize(
    ("pins", "yes"),
    [
        ({}, False),
        ({"build_id": BUILD_ID}, True),
        ({"build_id": OTHER_ID}, False),
        ({"sha256": hashlib.sha256(b"file").hexdigest()}, True),
        ({"sha256": "0" * 64}, False),
        ({"sha256": hashlib.sha256(b"file").hexdigest(), "build_id": OTHER_ID}, False),
    ],
)
def test_a_function_without_a_symbol_is_covered_only_in_the_very_file(
    pins: dict[str, str], yes: bool, tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"file")
    files = {"bin/server": FileIdentity(paths=("bin/server",), build_id=BUILD_ID, place=place)}
    ledger = Ledger([waiver(function="r*e*", **pins)], today=TODAY, target="sandybridge", files=files)
    assert (ledger.covering("bin/server", "range@0x401000", "avx2") is not None) is yes
    if not yes:
        assert "does not cover it" in ledger.objection("bin/server", "range@0x401000", "avx2")


def test_a_stripped_file_needs_a_pin_and_the_error_says_which(tmp_path: Path) -> None:
    stripped = tree(tmp_path / "t", {"bin/server": program(name="", build_id=BUILD_ID, frames=[(0, 5)])})
    [line] = audited(stripped, waiver(function="r*e*")).violations
    assert f"the function has no symbol, so the waiver must pin the file: add build_id: {BUILD_ID}" in line.what
    assert audited(stripped, waiver(function="r*e*", build_id=BUILD_ID)).passed
    assert audited(stripped, waiver(function="range@0x401000", build_id=BUILD_ID)).passed
    assert not audited(stripped, waiver(function="range@0x401000", build_id=OTHER_ID)).passed


def test_a_pin_holds_for_functions_with_a_symbol_too(tmp_path: Path) -> None:
    file = tree(tmp_path / "t", {"bin/server": program(build_id=BUILD_ID)})
    assert audited(file, waiver()).passed
    assert audited(file, waiver(build_id=BUILD_ID)).passed
    [line] = audited(file, waiver(build_id=OTHER_ID)).violations
    assert f"the file's build id is {BUILD_ID}, not {OTHER_ID}" in line.what


def test_brackets_in_a_name_are_a_part_of_it(tmp_path: Path) -> None:
    """Go has them in the names of generic functions."""
    name = "slices.Sort[go.shape.int]"
    file = tree(tmp_path / "t", {"bin/server": program(name=name)})
    assert audited(file, waiver(function=name)).passed
    assert not audited(file, waiver(function="slices.Sort")).passed


@pytest.mark.parametrize(("image", "yes"), [("", False), ("el7", True), ("debian12", False)])
def test_a_waiver_of_an_image_is_for_files_of_that_image(image: str, yes: bool, tmp_path: Path) -> None:
    file = tree(tmp_path / "t", {"bin/server": program()})
    found = audited(file, waiver(image="el*"), image=image)
    assert found.passed is yes
    assert ("unless this one is of --os el*" in found.lines()[1]) is (not image)
    assert audited(file, waiver(), image=image).passed


def test_the_origin_of_a_package_says_its_image_and_allocator(tmp_path: Path) -> None:
    file = tree(tmp_path / "t", {"bin/server": program()})
    only = waiver(image="el7", allocator="none")
    assert audited(file, only, origin=TreeOrigin(image="el7", allocator="none")).passed
    assert not audited(file, only, origin=TreeOrigin(image="el7", allocator="system")).passed
    assert not audited(file, only, origin=TreeOrigin(image="el8", allocator="none")).passed


# ---- where the tree begins


@pytest.mark.parametrize(
    ("name", "top", "outside", "paths"),
    [
        ("bin/server", "bin", "", ("bin/server", "server")),
        ("bin/server", "", "", ("bin/server",)),
        ("opt/x/bin/server", "opt/x", "", ("opt/x/bin/server", "x/bin/server", "bin/server")),
        ("server", "", "/opt/x/bin", ("opt/x/bin/server", "x/bin/server", "bin/server", "server")),
        ("server", "", "/", ("server",)),
    ],
)
def test_paths_of_a_file(name: str, top: str, outside: str, paths: tuple[str, ...]) -> None:
    assert paths_of(name, top, outside) == paths


@pytest.mark.parametrize(
    "files",
    [
        ("bin/server",),
        ("bin/server", "bin/tool"),
        ("bin/server", "lib/liba.so"),
        ("opt/demo/bin/server",),
        ("opt/demo/bin/server", "opt/demo/lib/liba.so"),
    ],
)
def test_a_waiver_holds_whatever_the_top_of_the_tree_is(files: tuple[str, ...], tmp_path: Path) -> None:
    good = program(ef.AVX)
    root = tree(tmp_path / "t", {name: program() if name.endswith("server") else good for name in files})
    assert audited(root, waiver()).passed
    assert audited(root / files[0], waiver()).passed, "the file alone"
    assert not audited(root, waiver(file="sbin/server")).passed
    assert not audited(root, waiver(file="in/server")).passed, "no part of a folder's name"


def test_a_waiver_is_for_one_place_where_files_are_in_several_folders(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", {"bin/server": program(), "other/bin/server": program()})
    assert [v.where for v in audited(root, waiver()).violations] == ["other/bin/server"]


# ---- packages of our own, which are stripped


def test_a_manifest_says_where_functions_are_that_waivers_name(tmp_path: Path) -> None:
    code = ef.AVX2 + ef.RET
    two = program(code + ef.AVX2, name="", build_id=BUILD_ID)
    root = tree(tmp_path / "t", {"bin/server": two})
    named = NamedCode(file="bin/server", build_id=BUILD_ID, function="work", code=((0x401000, 0x401000 + len(code)),))
    [line] = audited(root, waiver(), origin=TreeOrigin(top="", named=(named,))).violations
    assert line.what.startswith("gap@0x401005: avx2 x1"), "code beside the function is no part of it"
    one = tree(tmp_path / "u", {"bin/server": program(name="", build_id=BUILD_ID)})
    assert audited(one, waiver(), origin=TreeOrigin(top="", named=(named,))).passed
    assert not audited(one, waiver(), origin=TreeOrigin(top="")).passed
    other = NamedCode(file="bin/server", build_id=OTHER_ID, function="work", code=named.code)
    assert not audited(one, waiver(), origin=TreeOrigin(top="", named=(other,))).passed, "another build of the file"
    assert not audited(one, origin=TreeOrigin(top="", named=(named,))).passed, "a name is no waiver"


@pytest.mark.parametrize(
    "code", [((-1, 5),), ((5, 5),), ((0, 1 << 64),), ((1 << 70, 1 << 71),), ((0x401000, 0x401001),) * 10_000]
)
def test_a_hostile_manifest_names_nothing(code: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    root = tree(tmp_path / "t", {"bin/server": program(name="", build_id=BUILD_ID)})
    named = NamedCode(file="bin/server", build_id=BUILD_ID, function="work", code=code)
    assert not audited(root, origin=TreeOrigin(top="", named=(named,))).passed
