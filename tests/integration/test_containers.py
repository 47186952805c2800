"""Containers as real programs make them: what these put in is found."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from unit.nested_files import FINE, OTHERS

from pikaforge.audit.inputs import ElfTree, open_inputs

PROGRAMS = {
    *("tar", "ar", "cpio", "gzexe", "zip", "jar", "dpkg-deb", "xz", "lzma", "bzip2", "zstd", "lz4", "mkfs.ext4"),
}
OTHER, LONG = OTHERS[0], "a-name-that-is-longer-than-a-header-has-room-for.o"
CONTROL = "".join(
    f"{field}: {value}\\n"
    for field, value in {
        "Package": "x",
        "Version": "1",
        "Architecture": "amd64",
        "Maintainer": "x <x@localhost>",
        "Description": "x",
    }.items()
)
DEB = f"""mkdir -p d/DEBIAN d/bin && cp x d/DEBIAN/preinst && cp y d/bin && chmod 755 d/DEBIAN/preinst
printf '{CONTROL}' > d/DEBIAN/control && dpkg-deb -Zxz -b d out"""
MADE: dict[str, tuple[str, set[str]]] = {
    "tar --append": ("tar cf out x && cp y x && tar rf out x", {"x", "x#2"}),
    "two tars": ("tar cf out x && tar cf more y && cat more >> out", {"x", "(rest)!/y"}),
    "tar, old": ("tar cf out --format=v7 x y", {"x", "y"}),
    "tar, pax": (f"tar cf out --format=pax x {LONG}", {"x", LONG}),
    "tar.zst": ("tar cf - x y | zstd -q > out", {"x", "y"}),
    "ar": (f"ar rc out x {LONG} && ar s out", {"x", LONG}),
    "ar, one name": ("ar qc out x && cp y x && ar q out x", {"x", "x#2"}),
    **{
        f"cpio -H {form}": (f"printf '%s\\n' x {LONG} | cpio -o -H {form} > out", {"x", LONG})
        for form in ("bin", "odc", "newc", "crc", "tar", "ustar")
    },
    "initramfs": ("(ls x | cpio -o -H newc; ls y | cpio -o -H newc | gzip) > out", {"x", "(rest)!/(rest)!/y"}),
    "gzexe": ("cp x out && gzexe out && rm out~", {"out!/(rest)!/(rest)"}),
    "zip": ("zip -q out.zip x y && mv out.zip out", {"x", "y"}),
    "zip behind a program": ("zip -q a.zip y && cat x a.zip > out && zip -qA out", {"out", "out!/(rest)!/y"}),
    "jar": ("jar cf out x y", {"x", "y"}),
    "dpkg-deb": (DEB, {"control.tar.xz!/preinst", "bin/y"}),
    "xz": ("xz -c x > out", {"out"}),
    "lzma": ("lzma -c x > out", {"out"}),
    "bzip2": ("bzip2 -c x > out", {"out"}),
    "zstd": ("zstd -qc x > out", {"out"}),
}


def opened(tmp_path: Path, command: str) -> ElfTree:
    """What is in the file `out` that a command makes of two programs and one of a long name."""
    tool = tmp_path / "work"
    tool.mkdir()
    for name, content in (("x", FINE), ("y", OTHER), (LONG, OTHER)):
        (tool / name).write_bytes(content)
        (tool / name).chmod(0o755)
    missing = {word for word in re.findall(r"[\w.-]+", command) if word in PROGRAMS and shutil.which(word) is None}
    if missing:
        pytest.skip(f"there is no {missing.pop()}")
    done = subprocess.run(["sh", "-ec", command], cwd=tool, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    [tree] = open_inputs([tool / "out"], tmp_path / "scratch")
    return tree


@pytest.mark.parametrize("name", MADE)
def test_what_programs_put_in_is_found(tmp_path: Path, name: str) -> None:
    command, names = MADE[name]
    tree = opened(tmp_path, command)
    assert set(tree.elves) == names
    assert tree.not_judged == ()
    assert {file.read_bytes() for found, file in tree.elves.items() if found != "out"} <= {FINE, OTHER}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("ar rcT a x && tar cf out a y", "thin"),
        ("lz4 -q x a && tar cf out a y", "lz4"),
        ("truncate -s 1M a && mkfs.ext4 -q a && tar cf out a y", "ext file system"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path: Path, command: str, why: str) -> None:
    tree = opened(tmp_path, command)
    assert set(tree.elves) == {"y"}
    [left] = tree.not_judged
    assert (left.where, why in left.why) == ("a", True)
