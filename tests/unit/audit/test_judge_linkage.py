"""How a tree is linked: each rule has a tree that keeps it and one that does not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from unit import elf_files as ef

from pikaforge.audit.elf.facts import facts_of
from pikaforge.audit.judge_linkage import LinkageRules, LinkageVerdict, highest, judge

RULES = LinkageRules(
    base_libraries=("ld-linux-x86-64.so.*", "libc.so.*", "libstdc++.so.*"),
    maxima={"GLIBC": "2.17", "GLIBCXX": "3.4.19"},
)
LOADER = "/lib64/ld-linux-x86-64.so.2"


def program(**more: object) -> ef.Elf:
    fields: dict[str, object] = {"interpreter": LOADER, "needed": ["libc.so.6"], **more}
    return ef.Elf(**fields)  # type: ignore[arg-type]


def verdict(
    tree: Mapping[str, ef.Elf], *, links: Mapping[str, str] | None = None, rules: LinkageRules = RULES
) -> LinkageVerdict:
    facts = [facts_of(ef.make(elf), name, forbidden=["/forge"]) for name, elf in tree.items()]
    return judge(facts, links or {}, rules)


def only(found: LinkageVerdict) -> str:
    [line] = found.violations
    assert line.do
    return str(line)


LIB = ef.Elf(soname="liba.so.1", needed=["libc.so.6"])
USER = program(needed=["liba.so.1", "libc.so.6"], runpath="$ORIGIN/../lib")


def test_a_closed_tree_passes() -> None:
    found = verdict({"bin/x": USER, "lib/liba.so.1": LIB})
    assert not found.violations
    assert found.system == ("libc.so.6",)
    assert [(h.file, h.pie) for h in found.hardening] == [("bin/x", "pie"), ("lib/liba.so.1", "library")]


def test_links_of_files_and_folders_are_followed() -> None:
    links = {"lib/liba.so.1": "lib/liba.so.1.2", "lib": "lib64"}
    assert not verdict(
        {"bin/x": USER, "lib64/liba.so.1.2": LIB}, links={**links, "lib64/liba.so.1": "lib64/liba.so.1.2"}
    ).violations
    assert "needs liba.so.1" in only(verdict({"bin/x": USER}, links={"lib/liba.so.1": "lib/liba.so.1"}))


def test_a_library_that_is_missing() -> None:
    assert "bin/x: needs liba.so.1, which is neither" in only(verdict({"bin/x": USER}))


def test_a_library_that_is_there_but_not_on_the_run_path() -> None:
    user = program(needed=["liba.so.1"])
    assert "needs liba.so.1" in only(verdict({"bin/x": user, "lib/liba.so.1": LIB}))


def test_runpath_serves_only_its_own_file_and_rpath_what_that_loads() -> None:
    middle = ef.Elf(soname="libm1.so", needed=["liba.so.1"])
    tree = {"lib/libm1.so": middle, "lib/liba.so.1": LIB}
    by_runpath = program(needed=["libm1.so"], runpath="$ORIGIN/../lib")
    by_rpath = program(needed=["libm1.so"], rpath="$ORIGIN/../lib")
    assert "lib/libm1.so: needs liba.so.1" in only(verdict({"bin/x": by_runpath, **tree}))
    assert not verdict({"bin/x": by_rpath, **tree}).violations


def test_what_is_loaded_already_serves_later_needs() -> None:
    middle = ef.Elf(soname="libm1.so", needed=["liba.so.1"])
    user = program(needed=["libm1.so", "liba.so.1"], runpath="${ORIGIN}/../lib")
    assert not verdict({"bin/x": user, "lib/libm1.so": middle, "lib/liba.so.1": LIB}).violations


def test_a_library_that_no_program_reaches_is_judged_alone() -> None:
    plugin = ef.Elf(soname="plugin.so", needed=["libgone.so"])
    assert "lib/plugin.so: needs libgone.so" in only(verdict({"bin/x": program(), "lib/plugin.so": plugin}))


def test_an_open_tree_takes_from_the_host() -> None:
    found = verdict({"bin/x": USER}, rules=LinkageRules(closed=False))
    assert (found.violations, found.system) == ((), ("liba.so.1", "libc.so.6"))


def test_a_need_by_path() -> None:
    assert "by its path" in only(verdict({"bin/x": program(needed=["/opt/liba.so"])}))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/forge/lib", "its RUNPATH has /forge/lib"),
        ("lib", "has lib"),
        ("$ORIGIN/../../lib", "leaves the tree"),
        ("$ORIGINAL/lib", "has $ORIGINAL/lib"),
        ("$ORIGIN/../lib:", "current folder"),
    ],
)
def test_run_paths(path: str, words: str) -> None:
    found = [str(v) for v in verdict({"bin/x": program(runpath=path)}).violations]
    assert any(words in line for line in found), found


def test_build_paths() -> None:
    lines = only(verdict({"bin/x": program(extra=b"\0/forge/src/main.c\0")}))
    assert "holds paths of the build: /forge/src/main.c" in lines


@pytest.mark.parametrize(("flags", "words"), [(7, "asks for an executable stack"), (None, "no PT_GNU_STACK")])
def test_an_executable_stack(flags: int | None, words: str) -> None:
    assert words in only(verdict({"bin/x": program(stack=flags)}))


def test_writable_code() -> None:
    assert "writable and executable" in only(verdict({"bin/x": program(text_flags=7)}))


def test_another_loader() -> None:
    assert "its loader is /opt/ld.so" in only(verdict({"bin/x": program(interpreter="/opt/ld.so")}))


def test_symbol_versions_compare_as_numbers() -> None:
    fits = program(versions={"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.9", "GLIBC_2.17"], "libstdc++.so.6": ["CXXABI_1.3"]})
    found = verdict({"bin/x": fits})
    assert not found.violations
    assert found.highest == {"CXXABI": "1.3", "GLIBC": "2.17"}
    newer = program(versions={"libc.so.6": ["GLIBC_2.9", "GLIBC_2.34"]})
    assert "needs GLIBC_2.34, the image has at most GLIBC_2.17" in only(verdict({"bin/x": newer}))


def test_relative_relocations_need_the_glibc_that_knows_them() -> None:
    found = verdict({"bin/x": program(versions={"libc.so.6": ["GLIBC_ABI_DT_RELR"]})})
    assert "GLIBC_2.36" in only(found)


def test_versions_of_bundled_libraries_are_looked_up_in_them() -> None:
    user = program(needed=["liba.so.1"], runpath="$ORIGIN", versions={"liba.so.1": ["A_1", "A_2"]})
    have = ef.Elf(soname="liba.so.1", defines=["liba.so.1", "A_1", "A_2"])
    less = ef.Elf(soname="liba.so.1", defines=["liba.so.1", "A_1"])
    assert not verdict({"x": user, "liba.so.1": have}).violations
    assert "needs A_2 of liba.so.1, which liba.so.1 does not have" in only(verdict({"x": user, "liba.so.1": less}))


def test_private_symbols_are_noted() -> None:
    found = verdict({"bin/x": program(versions={"libc.so.6": ["GLIBC_PRIVATE"]})})
    assert "very glibc" in found.notes[0]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], {}),
        (["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.9", "GLIBC_2.17"], {"GLIBC": "2.34"}),
        (["GLIBC_2.10", "GLIBC_2.9"], {"GLIBC": "2.10"}),
        (["GCC_4.2.0", "GCC_4.2", "GCC_12.0.0"], {"GCC": "12.0.0"}),
        (["GCC_4.2", "GCC_4.2.0"], {"GCC": "4.2.0"}),
        (
            ["GLIBCXX_3.4.9", "GLIBCXX_3.4", "CXXABI_1.3.13", "GLIBCXX_3.4.30", "CXXABI_1.3.5"],
            {"GLIBCXX": "3.4.30", "CXXABI": "1.3.13"},
        ),
        (["CXXABI_TM_1", "CXXABI_1.3"], {"CXXABI_TM": "1", "CXXABI": "1.3"}),
        (["GLIBC_PRIVATE", "CXXABI_FLOAT128", "libc.so.6", "Base", "", "glibc_2.1", "GLIBC_2.", "GLIBC_2.1-x"], {}),
        (["GLIBC_ABI_DT_RELR"], {"GLIBC": "2.36"}),
        (["GLIBC_ABI_DT_RELR", "GLIBC_2.39"], {"GLIBC": "2.39"}),
        (["GLIBC_2.2.5", "GLIBC_ABI_DT_RELR"], {"GLIBC": "2.36"}),
        (["GLIBC_2.3", "GLIBCXX_3.4"], {"GLIBC": "2.3", "GLIBCXX": "3.4"}),
    ],
)
def test_the_highest_version_of_each_namespace(names: list[str], found: dict[str, str]) -> None:
    assert highest(names) == highest(reversed(names)) == found
