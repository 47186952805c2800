"""Specs of RPMs: texts that are not taken for syntax; and what is in the product's and the allocator's packages."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import replace
from typing import Any

import pytest
from unit.helpers import about
from unit.product_packages import DEBUG, EPOCH, TOP, TREE, archive, changes_of, package, patch, rendered, without

from pikaforge.audit import judge_linkage
from pikaforge.audit.elf.facts import ElfFacts
from pikaforge.config import families
from pikaforge.config.schema import OsRelease
from pikaforge.formats import debuginfo
from pikaforge.formats.layout import Entry, PackingError, layout_text, tree_entries, with_folders
from pikaforge.formats.product_package import GATE, ChangelogEntry
from pikaforge.formats.rpm import allocator, spec_file
from pikaforge.formats.rpm import product as rpm_product
from pikaforge.formats.rpm.allocator import AllocatorPackage
from pikaforge.formats.rpm.spec_file import Profile, RpmBuild

DEBIAN = OsRelease(id="debian", version="12")
EL7, EL8, EL9 = (OsRelease(id="rocky", version=number) for number in ("7.9", "8", "9"))
NEEDS = ("libc.so.6(GLIBC_2.34)(64bit)", "rsync")


def product(*, requires: tuple[str, ...] = NEEDS, profile: Profile = spec_file.ZSTD, **changes: Any) -> RpmBuild:
    return rpm_product.product(package(**changes), requires=requires, profile=profile)


def spec(**changes: Any) -> str:
    return spec_file.spec_text(product(**changes).rpm)


def section(text: str, head: str) -> list[str]:
    """The lines of a part of a spec, up to the next one."""
    lines = text.splitlines()
    start = lines.index(head) + 1
    ends = [n for n in range(start, len(lines)) if re.match(r"%(?!attr|%)[a-z]+( |$)", lines[n])]
    return [line for line in lines[start : ends[0] if ends else None] if line]


# --- systems and file names


@pytest.mark.parametrize(
    ("family", "os", "tag", "payload_", "zstd"),
    [
        ("el7", EL7, "el7", "w6.gzdio", False),
        ("el", EL8, "el8", "w6.gzdio", False),
        ("el", EL9, "el9", "w9.zstdio", True),
        ("el", OsRelease(id="rhel", version="10.1"), "el10", "w9.zstdio", True),
        ("debian", DEBIAN, "debian12", "w6.gzdio", False),
        ("debian", OsRelease(id="ubuntu", version="22.04"), "ubuntu2204", "w6.gzdio", False),
    ],
)
def test_each_system_gets_what_its_rpm_reads(family: str, os: OsRelease, tag: str, payload_: str, zstd: bool) -> None:
    profile = spec_file.profile(family, os)
    assert families.of(family).dist_tag(os.id, os.version) == tag
    assert profile.payload == payload_
    assert ("PayloadIsZstd" in profile.features) == zstd
    assert not {"CaretInVersions", "RichDependencies", "LargeFiles"} & set(profile.features)
    assert f"%global _binary_payload {payload_}" in spec(profile=profile).splitlines()


def test_file_names() -> None:
    made = product(debug=debuginfo.debug_entries(DEBUG, folder="debug", prefix=TOP))
    assert made.names == ("demo-1.0-1.R620.el9.x86_64.rpm", "demo-debuginfo-1.0-1.R620.el9.x86_64.rpm")
    assert made.pack()["names"].decode().split() == list(made.names)


# --- texts


def test_percent_signs_and_control_characters_are_text() -> None:
    text = spec(summary="100% of\x1b[31m it\nall", description="One %{lua:os.exit()}\x00 two")
    assert "Summary: 100%% of [31m it all" in text.splitlines()
    assert "One %%{lua:os.exit()} two" in text.splitlines()


def test_a_change_cannot_begin_an_entry_or_a_section() -> None:
    changes = changes_of(patch("fix", "\n* Mon Jan 01 2024 me\n%files\n/etc/shadow"))
    lines = section(spec(changes=changes), "%changelog")
    assert lines == [
        "* Mon Nov 02 2020 pikaforge <pikaforge@users.noreply.github.com> - 1.0-1.R620.el9",
        "- v1.0 from v1.0",
        "- fix: * Mon Jan 01 2024 me %%files /etc/shadow",
    ]


@pytest.mark.parametrize("text", ["first\n\n%files\n/etc/shadow", "first\n\n  %if 1", "%%prep"])
def test_descriptions_that_would_be_sections_are_refused(text: str) -> None:
    with pytest.raises(PackingError, match="read as spec syntax"):
        spec(description=text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("echo 1\n%files\n", "line 2 of a scriptlet"), ("cat <<E\n  %if 0\nE\n", "line 2"), ("a\rb\n", "control")],
)
def test_scriptlets_that_would_be_sections_are_refused(text: str, words: str) -> None:
    with pytest.raises(PackingError, match=words):
        spec_file.script(text)


def test_scriptlets_come_out_as_they_went_in() -> None:
    text = 'x=${y%%.*}\n\tprintf "%s\\n" "$x"\n'
    assert spec_file.script(text).replace("%%", "%") == text.rstrip("\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"requires": ("(a or b)",)},
        {"requires": ("a\nProvides: b",)},
        {"requires": ("a = 1^2",)},
        {"requires": ("a => 1",)},
        {"provides": ("%{name}",)},
        {"name": "a b"},
        {"summary": " \n"},
    ],
    ids=str,
)
def test_what_no_rpm_or_not_every_rpm_takes_is_refused(changes: dict[str, object]) -> None:
    made = product().rpm
    with pytest.raises(PackingError):
        spec_file.spec_text(replace(made, packages=(replace(made.packages[0], **changes),)))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["version", "release"])
def test_versions_are_checked_once_more(field: str) -> None:
    with pytest.raises(PackingError, match=f"no {field} that rpm takes"):
        spec_file.spec_text(replace(product().rpm, **{field: "1-2"}))  # type: ignore[arg-type]


def test_two_packages_of_one_name_are_refused() -> None:
    made = product().rpm
    with pytest.raises(PackingError, match="a name of its own"):
        spec_file.spec_text(replace(made, packages=(*made.packages, made.packages[0])))


# --- entries


def test_entries_of_a_tree() -> None:
    entries = tree_entries(TREE, folder="tree", prefix="/opt/demo")
    assert [(e.kind, f"{e.mode:o}", e.path, e.source or e.target) for e in entries] == [
        ("file", "644", "/opt/demo/LICENSE", "tree/LICENSE"),
        ("dir", "755", "/opt/demo/bin", ""),
        ("file", "644", "/opt/demo/bin/LICENSE", "tree/bin/LICENSE"),
        ("file", "755", "/opt/demo/bin/demo", "tree/bin/demo"),
        ("file", "644", "/opt/demo/conf/demo.conf", "tree/conf/demo.conf"),
        ("link", "777", "/opt/demo/lib/libx.so", "libx.so.1"),
        ("file", "755", "/opt/demo/lib/libx.so.1", "tree/lib/libx.so.1"),
    ]
    assert [e.path for e in with_folders(entries, below="/opt/demo") if e.kind == "dir"] == [
        "/opt/demo", "/opt/demo/bin", "/opt/demo/conf", "/opt/demo/lib",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a b", "a\tb", "a\nb", 'a"b', "a*", "a%{x}", "a[b]", "a{b,c}", "../etc/passwd", "ä", "a\\b", "a;b"]
)
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(PackingError, match="cannot be written into a package"):
        tree_entries(archive((name, b"", 0o644)), folder="tree", prefix="/opt/demo")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "../..", "a b", "../lib/a%b"])
def test_links_out_of_the_tree_are_refused(target: str) -> None:
    with pytest.raises(PackingError, match=r"leaves the tree|cannot be written"):
        tree_entries(archive(("lib/x", target, 0o777)), folder="tree", prefix="/opt/demo")


def test_devices_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("null")
        info.type = tarfile.CHRTYPE
        tar.addfile(info)
    with pytest.raises(PackingError, match="neither file, folder nor link"):
        tree_entries(buffer.getvalue(), folder="tree", prefix="/opt/demo")


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "opt/x", "source": "x"},
        {"path": "/opt/x", "source": "../x"},
        {"path": "/opt/x"},
        {"path": "/opt/x", "source": "x", "mode": 0o4755},
        {"path": "/opt/x", "source": "x", "owner": "root) %attr("},
        {"path": "/opt/x", "kind": "dir", "config": True},
        {"path": "/opt/x", "kind": "link"},
        {"path": "/opt/x", "source": "x", "target": "y"},
    ],
    ids=str,
)
def test_entries_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(PackingError):
        Entry(**wrong)  # type: ignore[arg-type]


def test_the_layout_lists_folders_first_and_every_path_once() -> None:
    entries = [
        Entry(path="/a/b", source="x/b", mode=0o755),
        Entry(path="/a", kind="dir", mode=0o755),
        Entry(path="/a", kind="dir", mode=0o755),
        Entry(path="/a/c", kind="link", target="b", mode=0o777),
    ]
    assert layout_text(entries) == "dir\t755\t/a\t\nfile\t755\t/a/b\tx/b\nlink\t777\t/a/c\tb\n"
    with pytest.raises(PackingError, match="twice"):
        layout_text([*entries, Entry(path="/a/b", source="y/b", mode=0o755)])


# --- the product


def test_files_of_the_product() -> None:
    files = section(spec(), "%files -n demo")
    assert files == sorted(files, key=lambda line: line.split('"')[1])
    assert '%attr(0755, root, root) "/opt/demo/bin/demo"' in files
    assert '%attr(0644, root, root) %config(noreplace) "/opt/demo/conf/demo.conf"' in files
    assert '%attr(0644, root, root) %license "/opt/demo/LICENSE"' in files
    assert '%attr(-, root, root) "/opt/demo/lib/libx.so"' in files
    assert '%attr(0755, root, root) %dir "/opt/demo"' in files
    assert '%attr(0755, root, root) %dir "/etc/demo"' in files
    assert '%attr(0644, root, root) "/usr/lib/systemd/system/demo@.service"' in files
    assert '%attr(0644, root, root) "/usr/lib/sysusers.d/demo.conf"' in files
    assert sum("%config" in line for line in files) == 1


def test_a_system_without_sysusers_gets_none() -> None:
    files = section(spec(dist="el7", services=families.of("el7").services("7")), "%files -n demo")
    assert not any("sysusers" in line for line in files)
    assert any("tmpfiles.d" in line for line in files)


def test_the_header_tells_the_model_and_what_is_needed() -> None:
    lines = spec().splitlines()
    assert [line for line in lines if line.startswith(("Requires", "Provides", "Conflicts", "Auto"))] == [
        "Requires: libc.so.6(GLIBC_2.34)(64bit)",
        "Requires: rsync",
        "Requires: /bin/sh",
        "Requires(pre): /bin/sh",
        "Requires(pre): coreutils",
        "Requires(post): /bin/sh",
        "Requires(post): shadow-utils",
        "Provides: demo(model) = R620",
        "Provides: demo(target) = sandybridge",
        "Conflicts: demo(model) < R620",
        "Conflicts: demo(model) > R620",
        "AutoReq: no",
        "AutoProv: no",
    ]


def test_licences_are_where_the_system_looks() -> None:
    tree = archive(
        ("./licenses/demo/COPYING", b"own", 0o644),
        ("./licenses/demo/deps/x/NOTICE", b"own", 0o644),
        ("./licenses/zlib/README", b"zlib", 0o644),
    )
    entries = (*package().tree, *tree_entries(tree, folder="tree", prefix=TOP))
    debug = debuginfo.debug_entries(DEBUG, folder="debug", prefix=TOP)
    text = spec(tree=entries, debug=debug)
    files = section(text, "%files -n demo")
    for name in ("demo/COPYING", "demo/deps/x/NOTICE", "zlib/README"):
        assert f'%attr(0644, root, root) %license "/opt/demo/licenses/{name}"' in files
    assert '%attr(-, root, root) "/usr/share/licenses/demo"' in files
    assert '%attr(0644, root, root) %doc "/usr/share/doc/demo/README"' in files
    [link] = [e for e in product(tree=entries).rpm.packages[0].entries if e.path == "/usr/share/licenses/demo"]
    assert link.target == "../../../opt/demo/licenses"
    of_debug = [line for line in section(text, "%files -n demo-debuginfo") if "licenses" in line]
    assert of_debug == [
        '%attr(0755, root, root) %dir "/usr/share/licenses/demo-debuginfo"',
        '%attr(0644, root, root) %license "/usr/share/licenses/demo-debuginfo/COPYING"',
        '%attr(0755, root, root) %dir "/usr/share/licenses/demo-debuginfo/deps"',
        '%attr(0755, root, root) %dir "/usr/share/licenses/demo-debuginfo/deps/x"',
        '%attr(0644, root, root) %license "/usr/share/licenses/demo-debuginfo/deps/x/NOTICE"',
    ]
    assert "/usr/share/licenses" not in spec(debug=debug)


def test_the_readme_says_how_an_instance_is_made() -> None:
    text = product(port=7000).extra["doc/README"].decode()
    assert text.startswith("It serves.\n\nThis build is for R620 (sandybridge);")
    assert "    bash /opt/demo/utils/deploy.sh 7000 /data\n" in text
    assert "/opt/demo/licenses" not in text
    tree = (*package().tree, *tree_entries(archive(("./licenses", None, 0o755)), folder="tree", prefix=TOP))
    assert "/opt/demo/licenses has the licences" in product(tree=tree).extra["doc/README"].decode()


def test_another_allocator_has_a_name_of_its_own() -> None:
    made = product(variant="libunwind")
    assert made.names == ("demo-libunwind-1.0-1.R620.el9.x86_64.rpm",)
    text = spec_file.spec_text(made.rpm)
    assert "Conflicts: demo" in text.splitlines()
    assert '%attr(0755, root, root) "/opt/demo/bin/demo"' in section(text, "%files -n demo-libunwind")


def test_the_gate_travels_in_the_scriptlet() -> None:
    made = product()
    script = made.rpm.packages[0].scripts["pre"]
    gate, features, targets = (rendered("el9").contents[f"utils/{name}"].decode().strip() for name in GATE)
    start, _, end = gate.partition("given_features='' given_targets=''")
    assert end
    assert f"{start}given_features='{features}'\ngiven_targets='{targets}'{end}" in script
    assert "@GATE@" not in script
    assert not any(word in text for text in made.rpm.packages[0].scripts.values() for word in ("@PRODUCT@", "@TOP@"))


@pytest.mark.parametrize("name", ["utils/cpu-features", "utils/cpu-gate.sh"])
def test_no_package_without_the_gate(name: str) -> None:
    with pytest.raises(PackingError, match=f"the tree has no {name}"):
        product(tree=without(package(), name))
    contents = rendered("el9").contents
    with pytest.raises(PackingError, match="cannot be embedded"):
        product(payload={key: value for key, value in contents.items() if key != name})


def test_no_package_without_its_conf() -> None:
    with pytest.raises(PackingError, match=r"the tree has no conf/other\.conf"):
        product(conf=("conf/other.conf",))


def test_the_unit_is_in_its_place_and_in_the_target() -> None:
    extra = product().extra
    unit = extra["demo@.service"].decode().splitlines()
    assert "PartOf=demo.target" in unit
    assert "WantedBy=multi-user.target demo.target" in unit
    assert "ExecStartPre=/opt/demo/utils/cpu-gate.sh --quiet" in unit
    assert not any("@TOP@" in text.decode() for text in extra.values())
    assert b"WantedBy=multi-user.target" in extra["demo.target"]


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(PackingError, match=r"demo@\.service is not as expected"):
        product(payload={**rendered("el9").contents, "systemd/demo@.service": b"[Service]\n"})


def test_the_changelog_is_the_series() -> None:
    patches = (patch("pull-1", url="https://x/1"), patch("file a.patch"))
    assert changes_of(*patches)[0].lines == ("v1.0 from v1.0", "pull-1: https://x/1", "file a.patch")
    present = patch("file a.patch", state="present")
    assert changes_of(present)[0].lines[1:] == ("file a.patch (in the source already)",)
    before = present.model_copy(update={"state": None})
    assert changes_of(before)[0].lines[1:] == ("file a.patch",), "as earlier versions wrote it"


def test_needs_are_the_highest_versions_of_each_library() -> None:
    facts = [
        ElfFacts(
            name="bin/demo",
            bits=64,
            machine=62,
            kind="dyn",
            version_needs=(
                ("libc.so.6", ("GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4", "GLIBC_ABI_DT_RELR", "GLIBC_PRIVATE")),
                ("libm.so.6", ("GLIBC_2.35",)),
                ("libx.so.1", ("X_1",)),
            ),
        ),
        ElfFacts(
            name="lib/libx.so.1",
            bits=64,
            machine=62,
            kind="dyn",
            version_needs=(("libstdc++.so.6", ("GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "CXXABI_1.3")),),
        ),
    ]
    versions = judge_linkage.library_versions(facts, ["libc.so.6", "libm.so.6", "libstdc++.so.6", "librt.so.1"])
    assert "libx.so.1" not in versions
    assert rpm_product.needs(versions) == (
        "libc.so.6()(64bit)",
        # It came with 2.36, so 2.34 follows from it.
        "libc.so.6(GLIBC_ABI_DT_RELR)(64bit)",
        "libc.so.6(GLIBC_PRIVATE)(64bit)",
        "libm.so.6()(64bit)",
        "libm.so.6(GLIBC_2.35)(64bit)",
        "librt.so.1()(64bit)",
        "libstdc++.so.6()(64bit)",
        "libstdc++.so.6(CXXABI_1.3)(64bit)",
        "libstdc++.so.6(GLIBCXX_3.4.30)(64bit)",
    )


# --- debug information


def test_debug_information_is_where_debuggers_look() -> None:
    entries = debuginfo.debug_entries(
        archive(("./", None, 0o755), ("./bin", None, 0o755), ("./bin/demo.debug", b"x", 0o755)),
        folder="debug",
        prefix="/opt/demo",
        build_ids={"bin/demo": "0123456789abcdef", "lib/libx.so.1": "ffff", "bin/other": ""},
    )
    assert [(e.kind, f"{e.mode:o}", e.path, e.source or e.target) for e in entries if e.kind != "dir"] == [
        ("link", "777", "/usr/lib/debug/.build-id/01/23456789abcdef.debug", "../../opt/demo/bin/demo.debug"),
        ("file", "644", "/usr/lib/debug/opt/demo/bin/demo.debug", "debug/bin/demo.debug"),
    ]
    assert [e.path for e in entries if e.kind == "dir"] == [
        "/usr/lib/debug/.build-id",
        "/usr/lib/debug/.build-id/01",
        "/usr/lib/debug/opt",
        "/usr/lib/debug/opt/demo",
        "/usr/lib/debug/opt/demo/bin",
    ]
    assert debuginfo.debug_tarball(entries)["layout.tsv"].decode() == layout_text(entries)


def test_without_debug_information_there_is_no_package_of_it() -> None:
    entries = debuginfo.debug_entries(archive(("./", None, 0o755)), folder="debug", prefix="/opt/demo")
    assert entries == ()
    assert len(product(debug=entries).names) == 1


# --- the allocator


def gperftools(**changes: Any) -> RpmBuild:
    top = allocator.allocator_top("demo", "gperftools")
    prefix = tree_entries(
        archive(
            ("lib/libtcmalloc.so.4.5.9", b"x", 0o755),
            ("lib/libtcmalloc.so.4", "libtcmalloc.so.4.5.9", 0o777),
            ("lib/libtcmalloc.so", "libtcmalloc.so.4.5.9", 0o777),
            ("lib/libtcmalloc.a", b"x", 0o644),
            ("lib/pkgconfig/libtcmalloc.pc", b"x", 0o644),
            ("include/gperftools/tcmalloc.h", b"x", 0o644),
            ("share/doc/gperftools/COPYING", b"x", 0o644),
            ("share/doc/gperftools/README", b"x", 0o644),
            ("bin/pprof", b"x", 0o755),
        ),
        folder="prefix",
        prefix=top,
    )
    plain = AllocatorPackage(
        about=about(version="2.7", dist="el7"),
        what="gperftools",
        unwinder="frame-pointers",
        target="sandybridge",
        prefix=prefix,
        requires=("libc.so.6(GLIBC_2.17)(64bit)",),
        changes=(ChangelogEntry(epoch=EPOCH, lines=("2.7",)),),
    )
    return allocator.packages(replace(plain, **changes), profile=spec_file.OLD)


def test_the_allocator_cannot_be_taken_for_the_distributions() -> None:
    made = gperftools()
    assert made.names == (
        "demo-gperftools-libs-2.7-1.frame+pointers.sandybridge.el7.x86_64.rpm",
        "demo-gperftools-devel-2.7-1.frame+pointers.sandybridge.el7.x86_64.rpm",
    )
    text = spec_file.spec_text(made.rpm)
    assert [line for line in text.splitlines() if line.startswith("Provides")] == [
        "Provides: demo-gperftools(unwinder) = frame+pointers",
        "Provides: demo-gperftools(target) = sandybridge",
    ]
    files = section(text, "%files -n demo-gperftools-libs") + section(text, "%files -n demo-gperftools-devel")
    assert all('"/opt/demo-gperftools' in line for line in files)
    assert text.count("AutoProv: no") == 2


def test_libraries_and_what_builds_with_them_are_apart() -> None:
    text = spec_file.spec_text(gperftools().rpm)
    names = {
        part: [line.split('"')[1].removeprefix("/opt/demo-gperftools/") for line in section(text, f"%files -n {part}")]
        for part in ("demo-gperftools-libs", "demo-gperftools-devel")
    }
    assert names["demo-gperftools-libs"] == [
        "/opt/demo-gperftools", "lib", "lib/libtcmalloc.so.4", "lib/libtcmalloc.so.4.5.9", "share", "share/doc",
        "share/doc/gperftools", "share/doc/gperftools/COPYING", "share/doc/gperftools/README",
    ]  # fmt: skip
    assert names["demo-gperftools-devel"] == [
        "bin", "bin/pprof", "include", "include/gperftools", "include/gperftools/tcmalloc.h", "lib/libtcmalloc.a",
        "lib/libtcmalloc.so", "lib/pkgconfig", "lib/pkgconfig/libtcmalloc.pc",
    ]  # fmt: skip
    assert '%attr(0644, root, root) %doc "/opt/demo-gperftools/share/doc/gperftools/README"' in text
    assert '%attr(0644, root, root) %license "/opt/demo-gperftools/share/doc/gperftools/COPYING"' in text
    assert "Requires: demo-gperftools-libs = 2.7-1.frame+pointers.sandybridge.el7" in text.splitlines()


def test_an_allocator_without_libraries_is_refused() -> None:
    with pytest.raises(PackingError, match=r"no library lib/\*\.so\.N"):
        gperftools(prefix=(Entry(path="/opt/demo-gperftools/include/x.h", source="prefix/include/x.h"),))


# --- the same inputs


def test_the_same_description_is_the_same_text() -> None:
    assert product().pack() == product().pack()
    entries = product().rpm.packages[0].entries
    turned = replace(product().rpm, packages=(replace(product().rpm.packages[0], entries=entries[::-1]),))
    assert spec_file.spec_text(turned) == spec_file.spec_text(product().rpm)
    assert spec_file.inputs(turned) == product().pack()
