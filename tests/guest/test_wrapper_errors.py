"""docker/guest/cc: what a newer compiler than the tree warns of is no error of the tree's."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from guest.helpers import SHELLS, TARGET_FLAGS, Wrapper, install_wrapper, need, sh

ADDED = [*TARGET_FLAGS]

#: Stands in for an old compiler: it refuses warnings that it does not know, and counts how often it was asked.
OLD = """#!/bin/sh
for word do
    case $word in
        -fsyntax-only) echo asked >>"$SPY.asked" ;;
    esac
done
for word do
    case $word in
        -Wno-error=new-*) echo "cc1: error: '$word': no such option" >&2; exit 1 ;;
    esac
done
for word do printf '%s\\0' "$word"; done >"$SPY"
"""

DROPPED = [
    "-Werror",
    "-Werror=array-bounds",
    "-Werror=array-bounds=2",
    "-Werror-implicit-function-declaration",
    "--warn-error",
    "--warn-error=unused",
    "-pedantic-errors",
    "--pedantic-errors",
]
KEPT = [
    "-Wall",
    "-Wextra",
    "-Wno-error",
    "-Wno-unused",
    "-Werrors",
    "-pedantic",
    "-Wfatal-errors",
    "-Wl,-O1",
    "-Wl,-soname,x-fatal-warnings",
    "-DWerror=-Werror",
    "src/-Werror",
]


@pytest.fixture
def old(spied_in_each_shell: Wrapper) -> Wrapper:
    """The wrapper in front of a compiler that does not know all warnings."""
    for name in ("gcc", "g++", "cc", "c++"):
        (spied_in_each_shell.root / "behind" / name).write_text(OLD)
    (spied_in_each_shell.root / "asked").mkdir()
    return spied_in_each_shell


def asked(wrapper: Wrapper) -> int:
    """How often the real compiler was asked what it knows."""
    path = wrapper.root / "spy.asked"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_every_form_is_dropped_and_counted(spied_in_each_shell: Wrapper) -> None:
    wrapper = spied_in_each_shell
    words = [word for pair in zip(KEPT, DROPPED, strict=False) for word in pair] + KEPT[len(DROPPED) :]
    assert wrapper.seen("-c", *words, "a.c") == ["-c", *KEPT, "a.c", *ADDED]
    assert wrapper.dropped == DROPPED


def test_every_form_is_dropped_from_response_files(spied_in_each_shell: Wrapper) -> None:
    wrapper = spied_in_each_shell
    wrapper.root.joinpath("inner").write_text("\n".join(DROPPED[4:]))
    wrapper.root.joinpath("args").write_text(f'"-Werror" -DA="a b" {" ".join(DROPPED[1:4])} {" ".join(KEPT)} @inner')
    seen = wrapper.seen("-c", "@args", "a.c")
    assert (seen[0], seen[2:]) == ("-c", ["a.c", *ADDED])
    assert wrapper.response.splitlines() == ['-DA="a b"', *KEPT]
    assert Counter(wrapper.dropped) == Counter(DROPPED)


def test_a_response_file_without_any_stays(spied: Wrapper) -> None:
    spied.root.joinpath("args").write_text(" ".join(KEPT))
    assert spied.seen("@args") == ["@args", *ADDED]


@pytest.mark.parametrize("option", ["-o", "-D", "-I", "-MF", "-include", "-Xassembler", "-Xlinker", "--param", "-l"])
def test_operands_are_left_alone(spied: Wrapper, option: str) -> None:
    assert spied.seen(option, "-Werror", "-Werror=x") == [option, "-Werror", *ADDED]
    assert spied.dropped == ["-Werror=x"]


def test_a_product_may_keep_them(spied: Wrapper) -> None:
    words = ["-c", *DROPPED, *KEPT, "-Wl,--fatal-warnings", "a.c"]
    assert spied.seen(*words, PIKAFORGE_KEEP_WERROR="1") == [*words, *ADDED]
    assert spied.dropped == []
    spied.root.joinpath("args").write_text("\n".join(words))
    assert spied.seen("@args", PIKAFORGE_KEEP_WERROR="1") == ["@args", *ADDED]


def test_a_flag_is_one_line_of_the_count(spied: Wrapper) -> None:
    """Whatever a tree writes into it: the count is a table with tabs."""
    spied.seen("-Werror=a\tb", "-Werror=c\nd", "-march=e\x1b[31m")
    assert spied.dropped == ["-Werror=a", "-Werror=c", "-march=e"]


# --- what assembler and linker warn of -----------------------------------------------


RELAXED = {
    "-Wl,--fatal-warnings": ("-Wl,--no-fatal-warnings", ["-Wl,--fatal-warnings"]),
    "-Wl,-O1,-fatal-warnings,-z,now": ("-Wl,-O1,--no-fatal-warnings,-z,now", ["-Wl,-fatal-warnings"]),
    "-Wa,--noexecstack,--fatal-warnings": ("-Wa,--noexecstack,--warn", ["-Wa,--fatal-warnings"]),
    "-Wp,-DX,-Werror,-Werror=x": ("-Wp,-DX,-Wno-error,-Wno-error=x", ["-Wp,-Werror", "-Wp,-Werror=x"]),
}


@pytest.mark.parametrize("word", RELAXED)
def test_lists_for_other_programs_say_the_contrary(spied_in_each_shell: Wrapper, word: str) -> None:
    """In its place and not at the end: the linker complains of some options while it reads them."""
    wrapper = spied_in_each_shell
    relaxed, counted = RELAXED[word]
    assert wrapper.seen("-v", word, "a.c", word) == ["-v", relaxed, "a.c", relaxed, *ADDED]
    wrapper.root.joinpath("args").write_text(f'-v {word} a.c "{word}"')
    assert wrapper.seen("@args")[1:] == ADDED
    assert wrapper.response.splitlines() == ["-v", relaxed, "a.c", f'"{relaxed}"']
    assert wrapper.dropped == counted * 4
    assert wrapper.seen(word, PIKAFORGE_KEEP_WERROR="1") == [word, *ADDED]


def test_real_assembler_and_linker_go_on(wrapped: Wrapper) -> None:
    root = wrapped.root
    (root / "m.c").write_text("int main(void) { return 0; }\n")
    (root / "w.s").write_text('.warning "of old age"\n.section .note.GNU-stack,""\n')
    for words in (
        ("m.c", "-Wl,--fatal-warnings", "-Wl,-z,nonsense", "-o", "m"),
        ("m.c", "-Wl,-fatal-warnings,-z,nonsense", "-o", "m"),
        ("-c", "-Wa,--fatal-warnings", "w.s"),
    ):
        done = wrapped.call(*words)
        assert (done.returncode, "arning: " in done.stderr) == (0, True), done.stderr
        assert wrapped.call(*words, PIKAFORGE_KEEP_WERROR="1").returncode == 1, words


# --- -Wno-error=NAME -------------------------------------------------------------------


def test_names_that_the_compiler_does_not_know_are_dropped(old: Wrapper) -> None:
    words = ["-Wno-error=new-a", "-Wno-error=known", "-c", "--warn-no-error=new-b", "-Wno-error", "a.c"]
    kept = ["-Wno-error=known", "-c", "-Wno-error", "a.c"]
    assert old.seen(*words) == [*kept, *ADDED]
    assert old.dropped == ["-Wno-error=new-a", "--warn-no-error=new-b"]
    # Also where errors stay, and in a probe: an old compiler refuses the names anywhere.
    assert old.seen(*words, PIKAFORGE_KEEP_WERROR="1") == [*kept, *ADDED]
    assert old.seen(*words, "conftest.c") == [*kept, "conftest.c", *ADDED]
    old.root.joinpath("args").write_text(" ".join(words))
    assert old.seen("@args")[1:] == ADDED
    assert old.dropped == ["-Wno-error=new-a", "--warn-no-error=new-b"] * 4


def test_the_compiler_is_asked_once_for_each_name(old: Wrapper) -> None:
    values = {"PIKAFORGE_ASKED": str(old.root / "asked")}
    for _ in range(3):
        assert old.seen("-Wno-error=new-a", "-Wno-error=known", **values) == ["-Wno-error=known", *ADDED]
    assert asked(old) == 2
    # Each compiler of an image answers for itself.
    assert old.seen("-Wno-error=new-a", "-Wno-error=known", name="g++", **values) == ["-Wno-error=known", *ADDED]
    assert asked(old) == 4


def test_an_answer_that_cannot_be_kept_is_asked_for_again(old: Wrapper) -> None:
    for name in ("new-" + "x" * 300, "../new-x", "", "new-\n"):
        for folder in (str(old.root / "asked"), "/nonexistent"):
            assert old.seen(f"-Wno-error={name}", "-Wno-error=a/b", PIKAFORGE_ASKED=folder)[-3:] == [
                "-Wno-error=a/b", *ADDED,
            ]  # fmt: skip
    assert sorted(path.name for path in (old.root / "asked").rglob("*")) in (
        ["gcc::yes", "gcc:new-\n:no"],
        ["gcc::no", "gcc:new-\n:no"],
    )


def test_parallel_calls_agree(old: Wrapper) -> None:
    running = [
        subprocess.Popen(
            [old.root / "wrap" / "gcc", "-Wno-error=new-a", "-Wno-error=known"],
            env=old.env(PIKAFORGE_ASKED=str(old.root / "asked"), SPY=str(old.root / f"spy{number}")),
        )
        for number in range(20)
    ]
    assert [process.wait() for process in running] == [0] * 20
    for number in range(20):
        assert (old.root / f"spy{number}").read_text().split("\0")[:-1] == ["-Wno-error=known", *ADDED]


def test_real_compiler_keeps_the_names_that_matter(wrapped: Wrapper) -> None:
    """Narrowing is an error without any -Werror, and -Wno-error=narrowing lets it pass."""
    (wrapped.root / "n.cc").write_text("int numbers[] = {3.5};\n")
    words = ("-std=c++11", "-c", "n.cc")
    assert wrapped.call(*words, name="g++").returncode == 1
    done = wrapped.call("-Werror", "-Wno-error=narrowing", "-Wno-error=no-such-warning", *words, name="g++")
    assert (done.returncode, "-Wnarrowing" in done.stderr) == (0, True), done.stderr
    assert Counter(wrapped.dropped) == Counter(["-Werror", "-Wno-error=no-such-warning"])


def test_real_compiler_warns_and_goes_on(wrapped: Wrapper) -> None:
    (wrapped.root / "w.c").write_text("int f(void) { int unused; return 0; }\n")
    for flag in DROPPED:
        done = wrapped.call("-Wall", flag, "-c", "w.c")
        assert (done.returncode, "[-Wunused-variable]" in done.stderr) == (0, True), (flag, done.stderr)
    done = wrapped.call("-Wall", "-Werror", "-c", "w.c", PIKAFORGE_KEEP_WERROR="1")
    assert (done.returncode, "[-Werror=unused-variable]" in done.stderr) == (1, True)


# --- probes ----------------------------------------------------------------------------

PROBES = [
    ("-c", "conftest.c"),
    ("-o", "conftest", "conftest.cc"),
    ("-E", "conftest.cpp"),
    ("conftest.o", "-o", "a.out"),
    ("-o", "CMakeFiles/cmTC_1a2b3.dir/src.c.o", "-c", "/b/CMakeFiles/CMakeScratch/TryCompile-AbC/src.c"),
    ("-o", "CMakeFiles/cmTC_1a2b3.dir/check.cc.o", "-c", "/src/cmake/check.cc"),
    ("CMakeFiles/cmTC_1a2b3.dir/src.c.o", "-o", "cmTC_1a2b3"),
    ("-o", "CMakeFiles/cmTryCompileExec123.dir/src.c.o", "-c", "/b/CMakeFiles/CMakeTmp/src.c"),
    ("/b/meson-private/tmpabc/testfile.c", "-o", "/b/meson-private/tmpabc/output.obj", "-c"),
]
NO_PROBES = [
    ("-c", "conftests.c"),
    ("-c", "src/myconftest.c"),
    ("-o", "CMakeFiles/server.dir/src/a.c.o", "-c", "/s/src/a.c"),
    ("-c", "/s/meson-private.c"),
    ("-x", "c", "-c", "-"),
    ("-c", "/dev/null"),
    ("-DCONF=conftest.c", "-c", "a.c"),
]


@pytest.mark.parametrize("words", PROBES, ids=" ".join)
def test_a_probe_keeps_the_question_that_it_asks(spied: Wrapper, words: tuple[str, ...]) -> None:
    flags = ["-Werror", "-Werror=attributes", "-Wl,--fatal-warnings"]
    assert spied.seen(*flags, "-march=native", *words) == [*flags, *words, *ADDED]
    assert spied.dropped == ["-march=native"]


@pytest.mark.parametrize("words", NO_PROBES, ids=" ".join)
def test_what_only_looks_like_a_probe_is_none(spied: Wrapper, words: tuple[str, ...]) -> None:
    assert spied.seen("-Werror", *words) == [*words, *ADDED]


PROBE = """
cmake_minimum_required(VERSION 3.5)
project(probe C)
include(CheckCSourceCompiles)
set(CMAKE_REQUIRED_FLAGS -Werror)
check_c_source_compiles("int main(void) { return 0; }" KNOWS_MAIN)
check_c_source_compiles("__attribute__((no_such_attribute)) int f(void); int main(void) { return 0; }" KNOWS_ATTRIBUTE)
message(STATUS "answers: main=${KNOWS_MAIN} attribute=${KNOWS_ATTRIBUTE}.")
add_library(late STATIC late.c)
target_compile_options(late PRIVATE -Wall -Werror)
"""


def test_real_cmake_learns_what_the_compiler_does_not_know(wrapped: Wrapper) -> None:
    need("cmake", "make")
    source = wrapped.root / "src"
    (source / "CMakeLists.txt").write_text(PROBE)
    (source / "late.c").write_text("int late(void) { int unused; return 0; }\n")
    env = wrapped.env(CC="gcc", CXX="g++")
    done = sh("cmake", ".", env=env, cwd=source)
    assert "answers: main=1 attribute=." in done.stdout, done.stdout + done.stderr
    assert wrapped.dropped == []
    done = sh("make", env=env, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert wrapped.dropped == ["-Werror"]


# --- cost --------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_is_forked_on_the_usual_way(tmp_path: Path, shell: str) -> None:
    """The compiler takes the place of the wrapper, so the kernel's count of its children's page faults is of both."""
    wrap = install_wrapper(tmp_path, shell=SHELLS[shell])
    behind = tmp_path / "behind"
    behind.mkdir()
    (behind / "g++").write_text('#!/bin/sh\nread -r line </proc/$$/stat\nset -- $line\necho "${11}"\n')
    (behind / "g++").chmod(0o755)
    (tmp_path / "asked").mkdir()
    wrapper = Wrapper(root=tmp_path, path=f"{wrap}:{behind}:/usr/bin:/bin")
    values = {
        "PIKAFORGE_ASKED": str(tmp_path / "asked"),
        "PIKAFORGE_EXTRA_CFLAGS": "-fcommon",
        "PIKAFORGE_EXTRA_CXXFLAGS": "-include cstdint",
        "PIKAFORGE_FRAME_POINTERS": "1",
        "PIKAFORGE_MAP_FLAG": "-ffile-prefix-map",
    }
    words = ["-Werror", "-march=native", "-Wno-error=one", "-Werror=two", "-O2", "-Wl,--fatal-warnings", "-c", "a.cc"]
    first = wrapper.run(words, values, name="g++")
    assert int(first.stdout) > 0, "the first time a name is there, the compiler is asked"
    assert wrapper.run(words, values, name="g++").stdout == "0\n"
