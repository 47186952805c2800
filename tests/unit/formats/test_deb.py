"""DEBs: names, versions and dependencies as dpkg takes them; texts that stay in their field; what is in them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from unit import product_packages
from unit.artifacts import claimed
from unit.product_packages import EPOCH, TREE, archive, changes_of, package, patch

from pikaforge.formats import debuginfo, product_package, versions
from pikaforge.formats.deb import control_files, copyright
from pikaforge.formats.deb import product as deb_product
from pikaforge.formats.deb.control_files import BinaryPackage, Deb, DebBuild
from pikaforge.formats.layout import Entry, PackingError
from pikaforge.formats.product_package import ChangelogEntry

BUILD_ID = "ab0123"
DEBUG = debuginfo.debug_entries(
    product_packages.DEBUG, folder="debug", prefix="/opt/demo", build_ids={"bin/demo": BUILD_ID}
)


def wanted(**changes: Any) -> product_package.ProductPackage:
    return package("debian12", **{"summary": "Server", **changes})


def product(**changes: Any) -> DebBuild:
    return deb_product.product(wanted(**changes), depends=("libc6 (>= 2.34)", "rsync"))


def packed(**changes: Any) -> dict[str, str]:
    return {name: data.decode() for name, data in product(**changes).pack().items()}


def fields(control: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in control.splitlines() if not line.startswith(" "))


def small(**changes: Any) -> tuple[Deb, BinaryPackage]:
    """A package of one file."""
    plain = BinaryPackage(
        name="demo", summary="Server", description="It serves.", entries=(Entry(path="/a", source="a"),)
    )
    binary = replace(plain, **changes)
    change = ChangelogEntry(epoch=EPOCH, lines=("first",))
    return Deb(source="demo", version="1.0-1", dist="debian12", packages=(binary,), changes=(change,)), binary


# --- names and versions


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("Demo",), "demo"),
        (("demo", "frame-pointers"), "demo-frame-pointers"),
        (("demo", "x86_64_v2"), "demo-x86-64-v2"),
        (("demo", ""), "demo"),
    ],
)
def test_names_are_legal(parts: tuple[str, ...], name: str) -> None:
    assert control_files.legal_name(*parts) == name


@pytest.mark.parametrize("name", ["", "a", ".demo", "demo server", "dämon", "demo\nDepends: x"])
def test_names_that_cannot_be_made_legal(name: str) -> None:
    with pytest.raises(PackingError, match="is no name of a Debian package"):
        control_files.legal_name(name)


@pytest.mark.parametrize(
    ("version", "model", "legal"),
    [
        ("v3.4.0", "R620", "3.4.0-1.R620.debian12"),
        ("v3.4.0-rc1", "R620", "3.4.0~rc1-1.R620.debian12"),
        ("v3.4.0-1", "a-b", "3.4.0+1-1.a+b.debian12"),
        ("3.4_0", "a_b", "3.4++0-1.a++b.debian12"),
        ("unstable", "R620", "0+unstable-1.R620.debian12"),
    ],
)
def test_versions_are_legal(version: str, model: str, legal: str) -> None:
    assert (
        control_files.legal_version(versions.legal_version(version), versions.legal_release("1", model, "debian12"))
        == legal
    )


@pytest.mark.parametrize(
    ("version", "release"), [("1:2", "1"), ("1.0-1", "1"), ("1.0", ""), ("1.0", "1\n"), ("1 0", "1")]
)
def test_versions_that_cannot_be_made_legal(version: str, release: str) -> None:
    with pytest.raises(PackingError, match="is no version that dpkg takes"):
        control_files.legal_version(version, release)


def test_file_names() -> None:
    made = product(debug=DEBUG)
    assert made.names == ("demo_1.0-1.R620.debian12_amd64.deb", "demo-dbgsym_1.0-1.R620.debian12_amd64.deb")
    lines = made.pack()["names"].decode().splitlines()
    assert lines == [f"demo\t{made.names[0]}", f"demo-dbgsym\t{made.names[1]}"]


# --- what it needs


def test_depends_follow_the_symbols() -> None:
    versions = {
        "ld-linux-x86-64.so.2": ["GLIBC_2.3"],
        "libc.so.6": ["GLIBC_2.14", "GLIBC_2.4", "GLIBC_2.34", "GLIBC_PRIVATE"],
        "libm.so.6": ["GLIBC_2.29"],
        "libstdc++.so.6": ["GLIBCXX_3.4.9", "GLIBCXX_3.4.22", "GLIBCXX_3.4.29", "CXXABI_1.3.5", "CXXABI_1.3.11"],
        "libgcc_s.so.1": ["GCC_3.0", "GCC_12.0.0"],
        "libdl.so.2": [],
    }
    assert deb_product.depends(versions, ["rsync", "rsync"]) == (
        "libc6 (>= 2.34)", "libgcc-s1 (>= 12)", "libstdc++6 (>= 11)", "rsync",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (["GLIBCXX_3.4.32", "CXXABI_1.3.13"], "libstdc++6 (>= 13.1)"),
        (["GLIBCXX_3.4.21", "CXXABI_1.3.15"], "libstdc++6 (>= 14)"),
        # The higher package version counts, not the higher symbol version.
        (["GLIBCXX_3.4.9", "CXXABI_1.3.11"], "libstdc++6 (>= 10.2)"),
        ([], "libstdc++6"),
    ],
)
def test_versions_of_the_cxx_library(names: list[str], needed: str) -> None:
    assert deb_product.depends({"libstdc++.so.6": names}) == (needed,)


def test_the_abi_tag_of_a_release_counts() -> None:
    assert deb_product.depends({"libc.so.6": ["GLIBC_2.34", "GLIBC_ABI_DT_RELR"]}) == ("libc6 (>= 2.36)",)


def test_unknown_libraries_and_versions_are_refused() -> None:
    with pytest.raises(PackingError, match=r"no Debian package is known that has libz\.so\.1"):
        deb_product.depends({"libz.so.1": []})
    with pytest.raises(PackingError, match=r"libstdc\+\+\.so\.6 must have GLIBCXX_3\.4\.99"):
        deb_product.depends({"libstdc++.so.6": ["GLIBCXX_3.4.99"]})


# --- texts


def test_control() -> None:
    text = packed()["demo/control"]
    assert text == (
        "Package: demo\n"
        "Version: 1.0-1.R620.debian12\n"
        "Architecture: amd64\n"
        "Maintainer: pikaforge <pikaforge@users.noreply.github.com>\n"
        "Installed-Size: 0\n"
        "Depends: libc6 (>= 2.34), rsync, passwd\n"
        "Provides: demo-model-r620, demo-target-sandybridge\n"
        "Section: database\n"
        "Priority: optional\n"
        "Homepage: https://example.org/demo\n"
        "Description: Server\n"
        " It serves.\n"
        " .\n"
        " This build is for R620 (sandybridge); it refuses to be installed where it\n"
        " does not run.\n"
    )


def test_texts_stay_in_their_field() -> None:
    text = packed(
        summary="100% of\x1b[31m it\nDepends: evil",
        description="One\nDepends: evil\r\n\n\n\n.dot and\n more\x00\n\n" + "word " * 40,
        url="https://example.org/\nPre-Depends: evil",
    )["demo/control"]
    assert {"Pre-Depends", "Depends"} & set(fields(text)) == {"Depends"}
    assert fields(text)["Depends"] == "libc6 (>= 2.34), rsync, passwd"
    assert "Description: 100% of [31m it Depends: evil" in text.splitlines()
    rest = text.splitlines()[text.splitlines().index("Description: 100% of [31m it Depends: evil") + 1 :]
    assert rest[:4] == [" One Depends: evil", " .", "  .dot and more", " ."]
    assert all(line.startswith(" ") and len(line) <= 78 for line in rest)


@pytest.mark.parametrize("summary", ["", " \n ", "\x00"])
def test_an_empty_field_is_refused(summary: str) -> None:
    with pytest.raises(PackingError, match="a field of the package is empty"):
        packed(summary=summary)


@pytest.mark.parametrize("text", ["a b", "libc6 (>= )", "libc6 (> 1)", "x, y", "x | y", "Upper", "libc6 (>= 2)\nX: y"])
def test_relations_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PackingError, match="is no relation"):
        control_files.control_text(*small(depends=(text,)))


@pytest.mark.parametrize("person", ["me", "me <me>", "me <a@b>\nDepends: x", "a, b <a@b>", "<a@b>"])
def test_maintainers_that_are_none_are_refused(person: str) -> None:
    made, binary = small()
    with pytest.raises(PackingError, match="is no maintainer"):
        control_files.control_text(replace(made, maintainer=person), binary)


def test_changelog() -> None:
    why = "\n -- me <a@b>  Mon, 01 Jan 2024 00:00:00 +0000\n\n" + "word " * 20
    text = packed(changes=changes_of(patch("fix", why)))["demo/changelog"]
    lines = text.splitlines()
    assert lines[:4] == [
        "demo (1.0-1.R620.debian12) debian12; urgency=medium",
        "",
        "  * v1.0 from v1.0",
        "  * fix: -- me <a@b> Mon, 01 Jan 2024 00:00:00 +0000 word word word word",
    ]
    assert all(line.startswith("    word") for line in lines[4:-2])
    assert lines[-2:] == ["", " -- pikaforge <pikaforge@users.noreply.github.com>  Mon, 02 Nov 2020 12:00:00 +0000"]


def test_changes_of_several_days_are_one_entry_with_the_newest_first() -> None:
    changes = (ChangelogEntry(epoch=1, lines=("old",)), ChangelogEntry(epoch=EPOCH, lines=("new",)))
    lines = packed(changes=changes)["demo/changelog"].splitlines()
    assert (lines[2:4], lines[-1][-31:]) == (["  * new", "  * old"], "Mon, 02 Nov 2020 12:00:00 +0000")
    with pytest.raises(PackingError, match="the changelog is empty"):
        packed(changes=())


ZLIB = "Format: x\n\nFiles: *\nCopyright: 1995-2022 Jean-loup Gailly\nLicense: Zlib\n Do what you like.\n"
LICENCES = archive(
    ("./LICENSE", b"As you like.\n\n.hidden\n", 0o644),
    ("./licenses/demo/deps/x/COPYING", b"Copyright (c) 2015, One\n  (C) 2020 Other\nIf copyright works\n", 0o644),
    ("./licenses/zlib1g/copyright", ZLIB.encode(), 0o644),
    ("./licenses/gperftools/COPYING", b"(c) 2005, Google\n", 0o644),
)


def copyright_of(licences: copyright.Licences) -> str:
    return deb_product.product(wanted(), depends=(), licences=licences).extra["doc/copyright"].decode()


def test_copyright_has_the_licence_or_says_where_it_is() -> None:
    found = copyright.licences(TREE, claimed(), prefix="/opt/demo")
    assert found.own == {"/opt/demo/LICENSE": "As you like.\n\n.hidden\n"}
    made = copyright_of(replace(found, others=()))
    assert made.startswith("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n")
    assert made.endswith("License: MIT\n /opt/demo/LICENSE:\n .\n As you like.\n .\n  .hidden\n")
    assert "\nCopyright: the authors of demo\n" in made
    without = product().extra["doc/copyright"].decode()
    assert without.endswith(
        "License: MIT\n This package has no text of it: that is in the source, which /opt/demo/manifest.json names.\n"
    )


def test_copyright_tells_whose_it_is() -> None:
    text = "Copyright (c) 2015, One\n  (C) 2020 Other\nIf copyright works\n(c) the condition\n(C) 2020 Other\n"
    made = copyright_of(copyright.Licences(own={"/opt/demo/LICENSE": text}))
    assert "\nCopyright: Copyright (c) 2015, One\n (C) 2020 Other\nLicense: MIT\n" in made


def test_copyright_has_the_licences_of_the_libraries_that_travel_along() -> None:
    libraries = [
        {"soname": name, "path": f"lib/{name}", "package": package, "version": "1"}
        for name, package in (("libz.so.1", "zlib1g"), ("libtcmalloc.so.4", "allocator"), ("libq.so.1", "libq1"))
    ]
    licences = [
        {"of": "demo", "names": ["MIT"], "files": ["licenses/demo/deps/x/COPYING"]},
        {"of": "zlib1g", "names": ["Zlib"], "files": ["licenses/zlib1g/copyright"]},
        {"of": "gperftools", "names": ["BSD-3-Clause"], "files": ["licenses/gperftools/COPYING"]},
    ]
    manifest = claimed(bundled_libraries=libraries, licences=licences)
    found = copyright.licences(LICENCES, manifest, prefix="/opt/demo")
    assert list(found.own) == ["/opt/demo/LICENSE", "/opt/demo/licenses/demo/deps/x/COPYING"]
    paragraphs = [text.splitlines() for text in copyright_of(found).split("\n\n")]
    heads = [[line for line in paragraph if not line.startswith(" ")] for paragraph in paragraphs[1:]]
    assert heads == [
        ["Files: *", "Copyright: Copyright (c) 2015, One", "License: MIT"],
        ["Files: opt/demo/lib/libtcmalloc.so.4", "Copyright: (c) 2005, Google", "License: LicenseRef-allocator"],
        ["Files: opt/demo/lib/libq.so.1", "Copyright: the authors of libq1", "License: LicenseRef-libq1"],
        ["Files: opt/demo/lib/libz.so.1", "Copyright: 1995-2022 Jean-loup Gailly", "License: LicenseRef-zlib1g"],
    ]  # fmt: skip
    assert " The system on which this was built has no text of it." in paragraphs[3]
    assert "  Do what you like." in paragraphs[4]


# --- the product's packages


def test_a_deb_has_the_files_of_every_package_and_documents() -> None:
    common = product_package.assemble(wanted(), "demo")
    made = product()
    documents = {
        "/usr/share/doc/demo/copyright",
        "/usr/share/doc/demo/changelog.Debian.gz",
        "/usr/share/lintian/overrides/demo",
    }
    assert "/usr/share/doc/demo/README" in {entry.path for entry in common.entries}
    paths = {entry.path for entry in made.deb.packages[0].entries}
    assert paths - documents == {entry.path for entry in common.entries}
    assert paths >= documents
    assert {name: made.extra[name] for name in common.files} == dict(common.files)


def test_confs_are_conffiles_and_have_no_sum() -> None:
    files = packed()
    assert files["demo/conffiles"] == "/opt/demo/conf/demo.conf\n"
    summed = files["demo/summed"].splitlines()
    assert summed == sorted(summed)
    assert "opt/demo/conf/demo.conf" not in summed
    assert {"opt/demo/bin/demo", "usr/lib/systemd/system/demo@.service", "usr/share/doc/demo/copyright"} <= set(summed)
    assert "opt/demo/bin" not in summed
    assert "file\t644\t/usr/share/doc/demo/changelog.Debian.gz\tzipped/demo/changelog.gz" in files["demo/layout.tsv"]


def test_all_scripts_are_there_and_filled() -> None:
    files = packed()
    for script in ("preinst", "postinst", "prerm", "postrm"):
        text = files[f"demo/{script}"]
        assert text.startswith("#!/bin/sh\n# dpkg calls `")
        assert not re.search("@[A-Z]+@", text)
        assert text.count("#!/bin/sh") == (2 if script == "preinst" else 1)  # the gate's own
    assert "avx\n" in files["demo/preinst"]


def test_debug_information() -> None:
    made = product(debug=DEBUG)
    files = {name: data.decode() for name, data in made.pack().items()}
    told = fields(files["demo-dbgsym/control"])
    assert (told["Source"], told["Section"], told["Depends"]) == ("demo", "debug", "demo (= 1.0-1.R620.debian12)")
    assert (told["Auto-Built-Package"], told["Build-Ids"]) == ("debug-symbols", BUILD_ID)
    assert "Conflicts" not in told
    assert "link\t777\t/usr/share/doc/demo-dbgsym\tdemo\n" in files["demo-dbgsym/layout.tsv"]
    assert not [name for name in files if name.startswith("demo-dbgsym/") and name.split("/")[1] in deb_product.SCRIPTS]
    assert "demo-dbgsym/changelog" not in files


def test_variants_stand_for_the_plain_package_and_push_each_other_out() -> None:
    made = product(variant="libunwind", debug=DEBUG)
    main, info = (fields(made.pack()[f"{package.name}/control"].decode()) for package in made.deb.packages)
    assert (main["Package"], main["Source"]) == ("demo-libunwind", "demo")
    assert main["Provides"] == "demo-model-r620, demo-target-sandybridge, demo (= 1.0-1.R620.debian12)"
    assert (main["Conflicts"], main["Replaces"]) == ("demo", "demo")
    assert (info["Package"], info["Depends"]) == (
        "demo-libunwind-dbgsym", "demo-libunwind (= 1.0-1.R620.debian12)",
    )  # fmt: skip
    assert (info["Provides"], info["Conflicts"]) == ("demo-dbgsym (= 1.0-1.R620.debian12)", "demo-dbgsym")


def test_what_is_not_roots_is_refused() -> None:
    made, _ = small(entries=(Entry(path="/a", source="a", owner="demo"),))
    with pytest.raises(PackingError, match="all of a DEB is root's"):
        control_files.inputs(made)


def test_two_packages_of_one_name_are_refused() -> None:
    made, binary = small()
    with pytest.raises(PackingError, match="each with a name of its own"):
        control_files.inputs(replace(made, packages=(binary, binary)))
    with pytest.raises(PackingError, match="is no version that dpkg takes"):
        control_files.inputs(replace(made, version="1.0"))
    with pytest.raises(PackingError, match="is no name of a Debian package"):
        control_files.inputs(replace(made, packages=(replace(binary, name="Demo"),)))
