"""Which allocator programs use: what is needed, what is built in, and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from unit import elf_files as ef

from pikaforge.audit.elf.facts import ElfFacts, facts_of
from pikaforge.audit.elf.layout import EM_X86_64
from pikaforge.audit.judge_allocator import AllocatorRules, AllocatorVerdict, is_allocator, judge
from pikaforge.plan.allocators.gperftools import TCMALLOC as PRESENCE

TCMALLOC = "libtcmalloc.so.4"
UNUSED = PRESENCE.unused
OURS, OTHER = "a1" * 20, "b2" * 20
Kind = Literal["none", "system", "gperftools"]
BUILT: tuple[Kind, ...] = ("system", "gperftools")


def elf(name: str, *needed: str, **more: Any) -> ElfFacts:
    """A file of a tree; a library has its name as soname."""
    soname = {"soname": name.rpartition("/")[2]} if ".so" in name else {}
    return ElfFacts(name=name, bits=64, machine=EM_X86_64, kind="dyn", needed=needed, **{**soname, **more})


PROGRAM = elf("bin/demo", "libstdc++.so.6", TCMALLOC, "libc.so.6")
PLAIN = elf("bin/demo", "libstdc++.so.6", "libc.so.6")
LIBRARY = elf(f"lib/{TCMALLOC}", "libunwind.so.8", "libc.so.6", build_id=OURS)
FRAMES = replace(LIBRARY, needed=("libc.so.6",))


def rules(kind: Kind, unwinder: str = "", **more: Any) -> AllocatorRules:
    ours = {TCMALLOC: OURS} if kind == "gperftools" else {}
    return AllocatorRules(**{"kind": kind, "programs": ("bin/demo",), "unwinder": unwinder, "ours": ours, **more})


def said(verdict: AllocatorVerdict) -> list[str]:
    return [f"{line.where}: {line.what}" for line in verdict.violations]


# ---- names


@pytest.mark.parametrize(
    ("name", "takes_over", "whole"),
    [
        ("libtcmalloc.so.4", True, True),
        ("libtcmalloc.so", True, True),
        ("/forge/tree/lib/libtcmalloc.so.4.5.9", True, True),
        ("/usr/lib/libtcmalloc_and_profiler.so.4", True, True),
        ("libtcmalloc_minimal.so.4", True, False),
        ("libtcmalloc_debug.so.4", True, False),
        ("libtcmalloc_minimal_debug.so.4", True, False),
        ("libjemalloc.so.2", True, False),
        ("libmimalloc.so.2.1", True, False),
        ("libmimalloc-secure.so", True, False),
        ("libprofiler.so.0", False, False),
        ("libc.so.6", False, False),
        ("libtcmalloc.a", False, False),
        ("libtcmalloc.so.4.debug/readme", False, False),
        ("mylibtcmalloc.so.4", False, False),
        ("/libtcmalloc.so.4/libc.so.6", False, False),
        ("", False, False),
    ],
)
def test_names_of_allocators(name: str, takes_over: bool, whole: bool) -> None:
    assert (is_allocator(name), PRESENCE.is_whole(name)) == (takes_over, whole)


# ---- none


def test_a_program_without_any() -> None:
    # A library that merely lies in the tree serves nobody.
    assert judge([PLAIN, LIBRARY], rules("none")) == AllocatorVerdict()


NONE = "leave the allocator out of the recipe's link, or choose another allocator for the cell"


@pytest.mark.parametrize("name", [TCMALLOC, "libtcmalloc_minimal.so.4", "libjemalloc.so.2", "libmimalloc.so.2"])
def test_none_is_no_allocator_that_is_needed(name: str) -> None:
    verdict = judge([elf("bin/demo", name)], rules("none"))
    assert said(verdict) == [f"bin/demo: uses {name}, though the allocator is none"]
    assert [line.do for line in verdict.violations] == [NONE]
    assert (verdict.library, verdict.unwinder) == ("", "")


def test_none_is_no_allocator_that_a_library_needs() -> None:
    tree = [elf("bin/demo", "liba.so.1"), elf("lib/liba.so.1", "libb.so.2"), elf("lib/libb.so.2", TCMALLOC)]
    wanted = [f"bin/demo: uses {TCMALLOC}, though the allocator is none"]
    assert said(judge([*tree, LIBRARY], rules("none"))) == wanted
    assert said(judge(tree, rules("none"))) == wanted, "from the host it is no better"
    assert said(judge([*tree[:2], LIBRARY], rules("none"))) == [], "what is not in the tree is not known"


def test_a_library_that_is_known_by_its_file_name_alone() -> None:
    nameless = elf("lib/liba.so.1", TCMALLOC, soname="")
    assert said(judge([elf("bin/demo", "liba.so.1"), nameless], rules("none")))
    renamed = elf("lib/file.bin", TCMALLOC, soname="liba.so.1")
    assert said(judge([elf("bin/demo", "liba.so.1"), renamed], rules("none")))


@pytest.mark.parametrize("tool", ["tcmalloc", "jemalloc", "mimalloc"])
def test_none_is_no_allocator_that_is_built_in(tool: str) -> None:
    verdict = judge([replace(PLAIN, allocators=(tool,))], rules("none"))
    assert said(verdict) == [f"bin/demo: has {tool} built in, though the allocator is none"]
    assert [line.do for line in verdict.violations] == [NONE]


def test_all_that_is_wrong_is_told() -> None:
    program = elf("bin/demo", TCMALLOC, "libjemalloc.so.2", allocators=("mimalloc",))
    assert said(judge([program], rules("none"))) == [
        f"bin/demo: uses {TCMALLOC}, though the allocator is none",
        "bin/demo: uses libjemalloc.so.2, though the allocator is none",
        "bin/demo: has mimalloc built in, though the allocator is none",
    ]


def test_other_programs_are_no_matter() -> None:
    helper = elf("bin/helper", TCMALLOC, allocators=("tcmalloc",))
    assert judge([PLAIN, helper], rules("none")).violations == ()
    assert said(judge([PLAIN, helper, LIBRARY], rules("system"))) == [f"bin/demo: {UNUSED}: it needs no libtcmalloc.so"]
    assert len(judge([PLAIN, helper], rules("none", programs=("bin/demo", "bin/helper"))).violations) == 2


def test_libraries_that_need_one_another_end() -> None:
    tree = [elf("bin/demo", "liba.so.1"), elf("lib/liba.so.1", "libb.so.1"), elf("lib/libb.so.1", "liba.so.1")]
    assert judge(tree, rules("none")).violations == ()


# ---- one that is wanted


@pytest.mark.parametrize(("library", "unwinder"), [(LIBRARY, "libunwind"), (FRAMES, "none")])
@pytest.mark.parametrize("kind", BUILT)
def test_a_program_that_uses_it(kind: Kind, library: ElfFacts, unwinder: str) -> None:
    expected = AllocatorVerdict(library=f"lib/{TCMALLOC}", unwinder=unwinder)
    assert judge([PROGRAM, library], rules(kind)) == expected
    assert judge([library, PROGRAM], rules(kind)) == expected, "the order is no matter"


@pytest.mark.parametrize("kind", BUILT)
def test_it_may_be_used_by_way_of_a_library(kind: Kind) -> None:
    tree = [elf("bin/demo", "liba.so.1"), elf("lib/liba.so.1", TCMALLOC), LIBRARY]
    assert judge(tree, rules(kind)) == AllocatorVerdict(library=f"lib/{TCMALLOC}", unwinder="libunwind")


LINK = "link the product with -ltcmalloc in the recipe (PIKAFORGE_ALLOCATOR), and keep the linker from dropping it"


@pytest.mark.parametrize("kind", BUILT)
def test_what_is_compiled_and_not_used_is_refused_with_that_sentence(kind: Kind) -> None:
    assert UNUSED == "Compiled, but tcmalloc not used", "the user's own words (issue 4)"
    verdict = judge([PLAIN, LIBRARY], rules(kind, "libunwind"))
    assert said(verdict) == ["bin/demo: Compiled, but tcmalloc not used: it needs no libtcmalloc.so"]
    assert [line.do for line in verdict.violations] == [LINK]
    assert (verdict.library, verdict.unwinder) == ("", "")


@pytest.mark.parametrize("kind", BUILT)
def test_what_is_built_into_a_program_is_not_the_library(kind: Kind) -> None:
    program = replace(PLAIN, allocators=("tcmalloc",))
    assert said(judge([program, LIBRARY], rules(kind))) == [f"bin/demo: {UNUSED}: it needs no libtcmalloc.so"]


@pytest.mark.parametrize("kind", BUILT)
def test_the_small_library_is_not_enough(kind: Kind) -> None:
    small = elf("lib/libtcmalloc_minimal.so.4", build_id=OURS)
    verdict = judge([elf("bin/demo", small.soname), small], rules(kind))
    assert said(verdict) == [
        f"bin/demo: also uses {small.soname}: two allocators in one process",
        f"bin/demo: {UNUSED}: it needs no libtcmalloc.so",
    ]


@pytest.mark.parametrize("other", ["libtcmalloc_minimal.so.4", "libjemalloc.so.2"])
@pytest.mark.parametrize("kind", BUILT)
def test_a_second_allocator_beside_it(kind: Kind, other: str) -> None:
    what = f"bin/demo: also uses {other}: two allocators in one process"
    direct = replace(PROGRAM, needed=(*PROGRAM.needed, other))
    assert said(judge([direct, LIBRARY], rules(kind))) == [what]
    far = [replace(PROGRAM, needed=(*PROGRAM.needed, "liba.so.1")), elf("lib/liba.so.1", other)]
    verdict = judge([*far, LIBRARY], rules(kind))
    assert said(verdict) == [what]
    assert [line.do for line in verdict.violations] == ["link one of them only"]
    assert verdict.library == f"lib/{TCMALLOC}"


@pytest.mark.parametrize("kind", BUILT)
def test_a_library_of_the_host_is_not_the_one_that_travels(kind: Kind) -> None:
    verdict = judge([PROGRAM], rules(kind, "libunwind"))
    assert said(verdict) == [f"bin/demo: takes {TCMALLOC} from the host and not from the tree"]
    assert [line.do for line in verdict.violations] == [LINK]
    assert (verdict.library, verdict.unwinder) == ("", "")


@pytest.mark.parametrize("kind", BUILT)
def test_each_program_must_use_it(kind: Kind) -> None:
    tree = [replace(PROGRAM, name="bin/good"), replace(PLAIN, name="bin/bad"), LIBRARY]
    verdict = judge(tree, rules(kind, programs=("bin/good", "bin/bad")))
    assert said(verdict) == [f"bin/bad: {UNUSED}: it needs no libtcmalloc.so"]
    assert verdict.library == f"lib/{TCMALLOC}"
    assert judge(tree, rules(kind, programs=("bin/good",))).violations == ()


# ---- is it ours?

FOREIGN = (
    f"lib/{TCMALLOC}: is not the one that was built for the target: the recipe has linked the image's own",
    "give the recipe's link $PIKAFORGE_ALLOCATOR_DIR/lib before all other folders",
)


@pytest.mark.parametrize(
    ("build_id", "ours", "refused"),
    [
        (OURS, {TCMALLOC: OURS}, False),
        (OURS, {TCMALLOC: OURS, "libprofiler.so.0": OTHER}, False),
        (OTHER, {TCMALLOC: OURS}, True),
        ("", {TCMALLOC: OURS}, True),
        # Two files without any are not one.
        ("", {TCMALLOC: ""}, True),
        (OURS, {}, True),
        (OURS, {"libtcmalloc_and_profiler.so.4": OURS}, True),
    ],
)
def test_the_library_is_known_by_its_build_id(build_id: str, ours: dict[str, str], refused: bool) -> None:
    tree = [PROGRAM, replace(LIBRARY, build_id=build_id)]
    verdict = judge(tree, rules("gperftools", "libunwind", ours=ours))
    assert [(f"{line.where}: {line.what}", line.do) for line in verdict.violations] == [FOREIGN] * refused
    assert (verdict.library, verdict.unwinder) == (f"lib/{TCMALLOC}", "libunwind"), "it is told all the same"


def test_the_image_s_own_is_known_by_nothing() -> None:
    assert judge([PROGRAM, replace(LIBRARY, build_id="")], rules("system")).violations == ()


BOTH = "libtcmalloc_and_profiler.so.4"


def test_the_library_of_each_program_is_judged() -> None:
    tree = [
        replace(PROGRAM, name="bin/one"),
        elf("bin/two", BOTH),
        replace(LIBRARY, build_id=OTHER),
        elf(f"lib/{BOTH}", "libunwind.so.8", build_id=OURS),
    ]
    ours = {TCMALLOC: OURS, BOTH: OURS}
    verdict = judge(tree, rules("gperftools", "libunwind", programs=("bin/one", "bin/two"), ours=ours))
    assert said(verdict) == [FOREIGN[0]]


@pytest.mark.parametrize("kind", BUILT)
def test_tcmalloc_twice_is_two_allocators(kind: Kind) -> None:
    program = replace(PROGRAM, needed=(*PROGRAM.needed, BOTH))
    ours = {TCMALLOC: OURS, BOTH: OURS} if kind == "gperftools" else {}
    verdict = judge([program, LIBRARY, elf(f"lib/{BOTH}", build_id=OURS)], rules(kind, ours=ours))
    assert any("two allocators in one process" in line for line in said(verdict))


@pytest.mark.parametrize("kind", BUILT)
def test_another_one_built_in_is_two_allocators(kind: Kind) -> None:
    verdict = judge([replace(PROGRAM, allocators=("jemalloc",)), LIBRARY], rules(kind))
    assert any("jemalloc" in line for line in said(verdict))


def test_none_is_no_allocator_that_is_built_into_a_library() -> None:
    tree = [elf("bin/demo", "librocksdb.so.6"), elf("lib/librocksdb.so.6", allocators=("jemalloc",))]
    assert any("jemalloc" in line for line in said(judge(tree, rules("none"))))


# ---- the unwinder


@pytest.mark.parametrize(
    ("library", "unwinder", "what"),
    [
        (LIBRARY, "libunwind", []),
        (FRAMES, "frame-pointers", []),
        (LIBRARY, "frame-pointers", ["needs libunwind, though the unwinder is frame-pointers"]),
        (FRAMES, "libunwind", ["does not need libunwind, though the unwinder is libunwind"]),
        (LIBRARY, "", []),
        (FRAMES, "", []),
        # A name that only begins alike.
        (replace(FRAMES, needed=("libunwind-x86_64.so.8",)), "frame-pointers", []),
    ],
)
@pytest.mark.parametrize("kind", BUILT)
def test_the_library_walks_the_stack_as_asked(kind: Kind, library: ElfFacts, unwinder: str, what: list[str]) -> None:
    verdict = judge([PROGRAM, library], rules(kind, unwinder))
    assert said(verdict) == [f"lib/{TCMALLOC}: {each}" for each in what]
    assert [line.do for line in verdict.violations] == [
        "see the log of the allocator stage: configure has chosen another one" for _ in what
    ]


def test_a_foreign_library_with_another_unwinder_is_told_both() -> None:
    verdict = judge([PROGRAM, replace(FRAMES, build_id=OTHER)], rules("gperftools", "libunwind"))
    assert [line.where for line in verdict.violations] == [f"lib/{TCMALLOC}"] * 2


# ---- what makes the facts


def markers(*symbols: str) -> tuple[str, ...]:
    text = ef.NOP * 16
    named = [(name, 0, 1, ef.FUNC) for name in ("main", *symbols)]
    return facts_of(ef.make(ef.Elf(text=text, symbols=named)), "bin/demo").allocators


@pytest.mark.parametrize(
    ("symbols", "found"),
    [
        ([], ()),
        (["malloc", "free", "operator_new"], ()),
        (["tc_malloc"], ("tcmalloc",)),
        (["mallocx"], ("jemalloc",)),
        (["je_malloc", "mallocx"], ("jemalloc",)),
        (["mi_malloc"], ("mimalloc",)),
        (["mi_malloc", "tc_malloc"], ("tcmalloc", "mimalloc")),
        # Longer names are other names.
        (["tc_malloc_size", "my_tc_malloc", "xmallocx", "mallocx2", "semi_malloc", "mi_mallocn"], ()),
    ],
)
def test_an_allocator_that_is_built_in_is_known_by_its_own_functions(
    symbols: list[str], found: tuple[str, ...]
) -> None:
    assert markers(*symbols) == found


def test_names_elsewhere_in_a_file_are_no_functions() -> None:
    program = ef.Elf(extra=b"\0tc_malloc\0", symbols=[("main", 0, 1, ef.FUNC)])
    assert facts_of(ef.make(program), "x").allocators == ()
    assert facts_of(ef.make(replace(program, sections=False)), "x").allocators == ()


def test_bytes_of_files_come_to_the_same_verdict() -> None:
    text = ef.NOP * 8
    program = facts_of(
        ef.make(ef.Elf(text=text, needed=[TCMALLOC, "libc.so.6"], symbols=[("main", 0, 8, ef.FUNC)])), "bin/demo"
    )
    library = facts_of(
        ef.make(ef.Elf(text=text, soname=TCMALLOC, needed=["libunwind.so.8"], symbols=[("tc_malloc", 0, 8, ef.FUNC)])),
        f"lib/{TCMALLOC}",
    )
    assert (program.allocators, library.allocators) == ((), ("tcmalloc",))
    assert judge([program, library], rules("system", "libunwind")) == AllocatorVerdict(
        library=f"lib/{TCMALLOC}", unwinder="libunwind"
    )
    static = facts_of(
        ef.make(ef.Elf(text=text, needed=["libc.so.6"], symbols=[("tc_malloc", 0, 8, ef.FUNC)])), "bin/demo"
    )
    assert said(judge([static], rules("none"))) == ["bin/demo: has tcmalloc built in, though the allocator is none"]
