"""docker/guest/specs.sh: no host detection, even for a compiler called by its path.

The specs go into a private folder that gcc is given with -B: the compiler of this
machine stays as it is. In a build image the script writes into gcc's own folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from guest.helpers import GUEST, clean_env, need, sh


@pytest.fixture
def gcc() -> str:
    need("gcc", "g++")
    path = shutil.which("gcc", path=clean_env()["PATH"])
    assert path is not None
    specs = sh(path, "-dumpspecs", env=clean_env()).stdout
    if "local_cpu_detect" not in specs:
        pytest.skip("this gcc has no host detection to take out (or specs.sh ran here)")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "specs folder"
    folder.mkdir()
    return folder


def run_specs(folder: Path, *compilers: str) -> str:
    done = sh("sh", GUEST / "specs.sh", *compilers, env=clean_env(PIKAFORGE_SPECS_FOLDER=str(folder)))
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_native_means_the_default(gcc: str, folder: Path) -> None:
    assert "-march=native is the default now" in run_specs(folder, gcc)
    for driver in (gcc, gcc.replace("gcc", "g++")):
        macros = [
            sh(driver, "-B", f"{folder}/", *flags, "-dM", "-E", "-", env=clean_env()).stdout
            for flags in ((), ("-march=native",), ("-mtune=native",), ("-march=native", "-mtune=native"))
        ]
        assert "__SSE2__" in macros[0]
        assert len(set(macros)) == 1


def test_other_targets_still_count(gcc: str, folder: Path) -> None:
    run_specs(folder, gcc)
    for flags in (("-march=haswell",), ("-march=native", "-march=haswell")):
        done = sh(gcc, "-B", f"{folder}/", *flags, "-dM", "-E", "-", env=clean_env())
        assert "__AVX2__" in done.stdout


def test_programs_link_as_before(gcc: str, folder: Path, tmp_path: Path) -> None:
    run_specs(folder, gcc)
    source = tmp_path / "a.cc"
    source.write_text('#include <cstdio>\nint main() { try { throw 1; } catch (int) { std::printf("7"); } }\n')
    program = tmp_path / "a"
    gxx = gcc.replace("gcc", "g++")
    done = sh(gxx, "-B", f"{folder}/", "-march=native", source, "-o", program, env=clean_env())
    assert done.returncode == 0, done.stderr
    assert sh(program, env={}).stdout == "7"


def test_second_run_changes_nothing(gcc: str, folder: Path) -> None:
    run_specs(folder, gcc)
    first = (folder / "specs").read_bytes()
    run_specs(folder, gcc)
    assert (folder / "specs").read_bytes() == first
    assert [path.name for path in folder.iterdir()] == ["specs"]


def test_only_the_one_section_differs(gcc: str, folder: Path) -> None:
    run_specs(folder, gcc)
    before = sh(gcc, "-dumpspecs", env=clean_env()).stdout.splitlines()
    after = (folder / "specs").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert "local_cpu_detect" in changed[0][0]
    assert "local_cpu_detect" not in changed[0][1]


def test_unknown_form_of_the_specs_fails_loudly(gcc: str, folder: Path, tmp_path: Path) -> None:
    strange = tmp_path / "gcc"
    strange.write_text(
        f'#!/bin/sh\n[ "$1" != -dumpspecs ] || {{ echo "%:local_cpu_detect(other)"; exit 0; }}\nexec {gcc} "$@"\n'
    )
    strange.chmod(0o755)
    done = sh("sh", GUEST / "specs.sh", strange, env=clean_env(PIKAFORGE_SPECS_FOLDER=str(folder)))
    assert done.returncode == 1
    assert "local_cpu_detect in a form" in done.stderr


def test_an_edit_without_effect_fails_loudly(gcc: str, folder: Path, tmp_path: Path) -> None:
    deaf = tmp_path / "gcc"
    deaf.write_text(
        f'#!/bin/sh\ncase $1 in -B) shift 2 ;; esac\nexec {gcc} "$@"\n'  # ignores our folder
    )
    deaf.chmod(0o755)
    done = sh("sh", GUEST / "specs.sh", deaf, env=clean_env(PIKAFORGE_SPECS_FOLDER=str(folder)))
    assert done.returncode == 1
    assert "native still" in done.stderr


def test_says_when_there_is_no_compiler(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "mktemp", "rm", "tr", "uname", "ls"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    if list(Path("/opt").glob("rh/*/root/usr/bin/gcc")):
        pytest.skip("this machine has a tool set in /opt/rh")
    done = sh("sh", GUEST / "specs.sh", env={"PATH": str(tools)})
    assert done.returncode == 66
    assert "no gcc found" in done.stderr
