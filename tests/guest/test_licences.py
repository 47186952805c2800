"""docker/guest/licences.sh: licences and copyright notices that travel in the tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import GUEST, clean_env, need, sh

OWN = ("LICENSE", "LICENSES/MIT.txt", "deps/lua/COPYRIGHT", "third/rocksdb/COPYING", "third/rocksdb/LICENSE.Apache")
DPKG = """#!/bin/sh
[ "$1" = -W ]
"""
RPM = """#!/bin/sh
case "$*" in
'-q zlib' | '-q xz-libs' | '-q lz4') ;;
*LICENSE*zlib) echo 'zlib and Boost' ;;
*LICENSE*xz-libs) echo 'LGPLv2+' ;;
*LICENSE*lz4) echo 'BSD-2-Clause' ;;
*'%{SOURCERPM}\\n'*xz-libs) echo xz-5.2.src.rpm ;;
*'%{SOURCERPM}\\n'*) echo "$4-1.src.rpm" ;;
-qa*)
    printf 'zlib-1.src.rpm\\tzlib\\nxz-5.2.src.rpm\\txz-libs\\nxz-5.2.src.rpm\\txz\\nlz4-1.src.rpm\\tlz4\\n'
    ;;
'-ql zlib') printf '%s\\n' "$TOP/usr/share/doc/zlib-1.2.7/README" "$TOP/usr/share/doc/zlib-1.2.7/FAQ" ;;
'-ql xz') printf '%s\\n' "$TOP/usr/share/doc/xz-5.2/COPYING" "$TOP/usr/share/doc/xz-5.2/README" "$TOP/gone/COPYING" ;;
'-ql xz-libs') echo "$TOP/usr/lib64/liblzma.so.5" ;;
'-ql lz4') printf '%s\\n' "$TOP/usr/share/licenses/lz4/lib/LICENSE" "$TOP/usr/share/licenses/lz4/LICENSE" ;;
*) exit 1 ;;
esac
"""
ZLIB = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 1995-2022 Jean-loup Gailly
License: Zlib

Files: debian/*
License: GPL-2+
 The text is in /usr/share/common-licenses/GPL-2.

License: Zlib
 Do what you like.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A source, and an image of which the script sees a part only: its paths are moved below `image`."""

    top: Path

    @property
    def root(self) -> Path:
        return self.top / "root"

    @property
    def image(self) -> Path:
        return self.top / "image"

    def write(self, path: str, text: str = "text\n") -> None:
        place = self.top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def run(self, verb: str, **env: str) -> CompletedProcess[str]:
        guest = self.top / "guest"
        guest.mkdir(exist_ok=True)
        for name in ("lib.sh", "toolchain.sh", "licences.sh"):
            text = (GUEST / name).read_text().replace("/usr/share/", f"{self.image}/usr/share/")
            (guest / name).write_text(text)
        values = clean_env(PIKAFORGE_ROOT=str(self.root), PIKAFORGE_PRODUCT="demo", TOP=str(self.image), **env)
        values["PATH"] = f"{self.top}/bin:{values['PATH']}"
        return sh("sh", guest / "licences.sh", verb, env=values)

    def both(self, **env: str) -> list[str]:
        """The lines of licences.tsv, without the order of files of one package."""
        for verb in ("source", "packages"):
            done = self.run(verb, **env)
            assert done.returncode == 0, done.stderr
        return (self.root / "out/facts/licences.tsv").read_text().splitlines()

    @property
    def travelling(self) -> dict[str, str]:
        licences = self.root / "out/tree/licenses"
        return {str(p.relative_to(licences)): p.read_text() for p in sorted(licences.rglob("*")) if p.is_file()}

    def bundle(self, *packages: str) -> None:
        rows = (f"lib{name}.so.1\tlib/lib{name}.so.1\t{name}\t1\tdigest\n" for name in packages)
        self.write("root/out/facts/bundled.tsv", "".join(rows))


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A source with licences in several places, and an image without packages."""
    made = Build(top=tmp_path)
    for name in OWN:
        made.write(f"root/src/{name}", f"{name}\n")
    made.bundle()
    for name in ("dpkg-query", "rpm"):
        made.write(f"bin/{name}", "#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return made


def test_the_source_brings_what_has_the_name_of_a_licence(build: Build) -> None:
    for other in ("README", "src/a/b/c/LICENSE", "licensing.c", "my-LICENSE"):
        build.write(f"root/src/{other}")
    (build.root / "src/COPYING").symlink_to("/etc/passwd")
    rows = build.both()
    assert rows == [f"file\tdemo\tlicenses/demo/{name}" for name in OWN]
    assert build.travelling == {f"demo/{name}": f"{name}\n" for name in OWN}
    assert {p.stat().st_mode & 0o777 for p in build.root.rglob("licenses/**/*") if p.is_file()} == {0o644}


def test_a_recipe_that_changes_the_source_changes_no_licence(build: Build) -> None:
    assert build.run("source").returncode == 0
    (build.root / "src/LICENSE").write_text("mine\n")
    (build.root / "src/deps/lua/COPYRIGHT").unlink()
    assert build.run("packages").returncode == 0
    assert build.travelling["demo/LICENSE"] == "LICENSE\n"
    assert "demo/deps/lua/COPYRIGHT" in build.travelling


def test_names_that_no_package_can_hold(build: Build) -> None:
    for name in ("LICENSE (old).txt", "COPYING.\u00e4", "NOTICE.\nx"):
        build.write(f"root/src/{name}")
    rows = build.both()
    assert "file\tdemo\tlicenses/demo/LICENSE--old-.txt" not in rows, "a blank after the word is no licence's name"
    assert "file\tdemo\tlicenses/demo/COPYING.--" in rows
    assert len(rows) == len(OWN) + 1


def test_the_files_that_the_product_names(build: Build) -> None:
    build.write("root/src/legal/terms.txt")
    rows = build.both(PIKAFORGE_LICENCES="legal/terms.txt LICENSE")
    assert rows == ["file\tdemo\tlicenses/demo/LICENSE", "file\tdemo\tlicenses/demo/legal/terms.txt"]


@pytest.mark.parametrize("name", ["gone", "deps", "link"])
def test_a_file_that_is_named_and_is_none(build: Build, name: str) -> None:
    (build.root / "src/link").symlink_to("/etc/passwd")
    done = build.run("source", PIKAFORGE_LICENCES=f"LICENSE {name}")
    assert done.returncode == 65
    assert name in done.stderr
    assert "product.licence_files" in done.stderr


def test_packages_of_debian(build: Build) -> None:
    build.write("bin/dpkg-query", DPKG)
    build.write("image/usr/share/doc/zlib1g/copyright", ZLIB.replace("/usr/share", f"{build.image}/usr/share"))
    build.write("image/usr/share/doc/libold1/copyright", "License: not of the format\n")
    build.write("image/usr/share/common-licenses/GPL-2", "GNU\n")
    build.bundle("zlib1g", "libold1", "zlib1g", "unknown")
    rows = build.both()[len(OWN) :]
    assert rows == [
        "file\tlibold1\tlicenses/libold1/copyright",
        "file\tzlib1g\tlicenses/zlib1g/copyright",
        "name\tzlib1g\tGPL-2+",
        "name\tzlib1g\tZlib",
    ]
    assert build.travelling["common-licenses/GPL-2"] == "GNU\n"


def test_packages_of_enterprise_linux(build: Build) -> None:
    """Of EL 7 the licence is among the documents, in the README, or in another package of the same source."""
    need("awk")
    build.write("bin/rpm", RPM)
    for name in (
        "doc/zlib-1.2.7/README", "doc/zlib-1.2.7/FAQ", "doc/xz-5.2/COPYING", "doc/xz-5.2/README",
        "licenses/lz4/LICENSE", "licenses/lz4/lib/LICENSE",
    ):  # fmt: skip
        build.write(f"image/usr/share/{name}", f"{name}\n")
    build.bundle("zlib", "xz-libs", "lz4", "unknown")
    rows = build.both()[len(OWN) :]
    assert rows == [
        "file\tlz4\tlicenses/lz4/LICENSE",
        "file\tlz4\tlicenses/lz4/lib/LICENSE",
        "name\tlz4\tBSD-2-Clause",
        "file\txz-libs\tlicenses/xz-libs/COPYING",
        "name\txz-libs\tLGPLv2+",
        "file\tzlib\tlicenses/zlib/README",
        "name\tzlib\tzlib and Boost",
    ]
    assert build.travelling["lz4/lib/LICENSE"] == "licenses/lz4/lib/LICENSE\n"


def test_an_allocator_that_was_built(build: Build) -> None:
    build.write("prefix/share/doc/gperftools/COPYING", "Google\n")
    build.write("prefix/share/doc/libunwind/COPYING", "HP\n")
    build.bundle("allocator")
    rows = build.both(PIKAFORGE_ALLOCATOR_DIR=str(build.top / "prefix"))[len(OWN) :]
    assert rows == [f"file\t{name}\tlicenses/{name}/COPYING" for name in ("gperftools", "libunwind")]
    assert build.travelling["gperftools/COPYING"] == "Google\n"


def test_other_words_are_refused(build: Build) -> None:
    done = build.run("all")
    assert (done.returncode, done.stderr) == (2, "usage: licences.sh source|packages\n")
