"""docker/guest/packages.sh: what an image holds, by the package database that is in use there."""

from __future__ import annotations

import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import GUEST, clean_env, sh

NOTHING = ":"
DPKG = "printf 'libc6:amd64\\t2.36-9\\tii \\nold:amd64\\t1\\trc \\n'"
RPM = "printf 'zlib.x86_64\\t0:1.2-3\\ngpg-pubkey.(none)\\t0:1-2\\nglibc.x86_64\\t0:2.34-60.el9\\n'"
GCC_4 = "case $1 in -dumpversion) echo 4.8.5 ;; *) exit 1 ;; esac"
"""Programs of an image, as shell commands."""


def inventory(folder: Path, **programs: str) -> CompletedProcess[str]:
    """Run the script where there are these programs, and this machine's for text."""
    path = folder / "bin"
    path.mkdir()
    for name in ("awk", "cat", "grep", "sort", "sh"):
        (path / name).symlink_to(str(shutil.which(name)))
    for name, commands in programs.items():
        program = path / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{commands}\n", encoding="utf-8")
        program.chmod(0o755)
    (folder / "out").mkdir()
    return sh("sh", GUEST / "packages.sh", env=clean_env(PATH=str(path), PIKAFORGE_ROOT=str(folder)))


@pytest.mark.parametrize(
    ("programs", "wanted"),
    [
        ({"dpkg_query": DPKG}, "libc6:amd64\t2.36-9\n"),
        ({"dpkg_query": DPKG, "rpm": RPM}, "libc6:amd64\t2.36-9\n"),
        ({"rpm": RPM}, "glibc.x86_64\t0:2.34-60.el9\nzlib.x86_64\t0:1.2-3\n"),
        ({"dpkg_query": NOTHING, "rpm": RPM}, "glibc.x86_64\t0:2.34-60.el9\nzlib.x86_64\t0:1.2-3\n"),
    ],
    ids=["debian", "debian-with-rpm", "el", "el-with-dpkg"],
)
def test_packages_are_those_of_the_database_in_use(tmp_path: Path, programs: dict[str, str], wanted: str) -> None:
    done = inventory(tmp_path, **programs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "packages").read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize(
    "programs", [{}, {"dpkg_query": NOTHING}, {"dpkg_query": NOTHING, "rpm": NOTHING}, {"rpm": NOTHING}]
)
def test_an_image_whose_packages_nobody_knows_is_told(tmp_path: Path, programs: dict[str, str]) -> None:
    done = inventory(tmp_path, **programs)
    assert done.returncode == 22
    assert done.stderr == "forge: reason: neither dpkg nor rpm knows a package of this image\n"


def test_the_compiler_is_asked_as_its_age_allows(tmp_path: Path) -> None:
    """gcc before 7 does not know -dumpfullversion, and says all of its version without."""
    done = inventory(tmp_path, rpm=RPM, gcc=GCC_4)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "facts").read_text(encoding="utf-8").startswith("gcc\t4.8.5\n")


def test_the_system_is_named_as_its_os_release_does(tmp_path: Path) -> None:
    """Each in a field of its own, also where there is none."""
    assert inventory(tmp_path, rpm=RPM).returncode == 0
    script = '. /etc/os-release && printf "%s\\t%s\\t%s" "${ID:-}" "${VERSION_ID:-}" "${VARIANT_ID:-}"'
    wanted = sh("sh", "-c", script, env=clean_env()).stdout
    assert (tmp_path / "out" / "facts").read_text(encoding="utf-8") == f"os\t{wanted}\n"
