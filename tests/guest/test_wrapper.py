"""docker/guest/cc: what the compiler is told, whatever the tree asks for."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from guest.helpers import TARGET_FLAGS, Wrapper, install_wrapper, need

ADDED = [*TARGET_FLAGS]


def test_drops_what_the_tree_asks_for_and_counts_it(spied: Wrapper) -> None:
    seen = spied.seen("-O2", "-march=native", "-c", "-mtune=generic", "a.c", "-mcpu=native")
    assert seen == ["-O2", "-c", "a.c", *ADDED]
    assert spied.dropped == ["-march=native", "-mtune=generic", "-mcpu=native"]


def test_keeps_feature_flags_of_single_files(spied: Wrapper) -> None:
    flags = ["-mavx2", "-msse4.2", "-mno-avx", "-m32", "-mcmodel=large", "-Wa,-march=generic64"]
    assert spied.seen(*flags) == [*flags, *ADDED]
    assert spied.dropped == []


def test_what_the_target_switches_off_comes_before_what_the_tree_asks_for(spied: Wrapper) -> None:
    flags = "-march=haswell -mtune=haswell -mno-fsgsbase -mno-pku"
    words = ["-mpku", "-march=native", "-c", "a.c"]
    seen = spied.seen(*words, PIKAFORGE_TARGET_FLAGS=flags)
    assert seen == ["-mno-fsgsbase", "-mno-pku", "-mpku", "-c", "a.c", "-march=haswell", "-mtune=haswell"]


def test_a_file_switches_on_again_what_the_target_switches_off(wrapped: Wrapper) -> None:
    """And -march does not, which stands behind it."""
    flags = "-march=haswell -mtune=haswell -mno-fsgsbase -mno-bmi2"
    ask = ("-dM", "-E", "-")
    plain = wrapped.call(*ask, text="", PIKAFORGE_TARGET_FLAGS=flags).stdout
    assert "__AVX2__" in plain
    assert "__FSGSBASE__" not in plain
    assert "__BMI2__" not in plain
    asked = wrapped.call("-mfsgsbase", *ask, text="", PIKAFORGE_TARGET_FLAGS=flags).stdout
    assert "__FSGSBASE__" in asked
    assert "__BMI2__" not in asked


@pytest.mark.parametrize("with_drop", [False, True])
def test_keeps_the_boundaries_of_arguments(spied: Wrapper, with_drop: bool) -> None:
    words = [
        "-DA=two words",
        "",
        '-DB="quoted"',
        "-DC='x'",
        "-DD=$HOME `id` $(id) \\n %s",
        "-DE=line\nbreak\n",
        "*",
        "-DF=tab\there",
        "--",
        "",
    ]
    seen = spied.seen(*words, *(["-march=native"] if with_drop else []))
    assert seen == [*words, *ADDED]


@pytest.mark.parametrize(
    "words",
    [
        ("-Xassembler", "-march=generic64"),
        ("-Xlinker", "-march=x"),
        ("-o", "-march=x"),
        ("-D", "-mtune=x"),
        ("-MF", "-mcpu=x"),
        ("-include", "@x"),
    ],
)
def test_leaves_the_operands_of_other_options_alone(spied: Wrapper, words: tuple[str, ...]) -> None:
    assert spied.seen(*words, "-march=native") == [*words, *ADDED]
    assert spied.dropped == ["-march=native"]


def test_appends_maps_frame_pointers_and_extra_flags(spied: Wrapper) -> None:
    root = spied.root
    seen = spied.seen(
        "-c",
        "a.c",
        PIKAFORGE_FRAME_POINTERS="1",
        PIKAFORGE_MAP_FLAG="-ffile-prefix-map",
        PIKAFORGE_EXTRA_CFLAGS="-DX -DGLOB=*",
        PIKAFORGE_EXTRA_CXXFLAGS="-include cstdint",
        name="gcc",
    )
    assert seen == [
        "-c",
        "a.c",
        *ADDED,
        "-fno-omit-frame-pointer",
        f"-ffile-prefix-map={root}=/usr/src/forge",
        f"-ffile-prefix-map={root}/src=/usr/src/sample-1.0",
        "-DX",
        "-DGLOB=*",
    ]


def test_gives_an_old_compiler_its_date(spied: Wrapper) -> None:
    seen = spied.seen("-c", "a.c", PIKAFORGE_DATE="Jan  1 1970", PIKAFORGE_TIME="00:00:00")
    assert seen[-2:] == ['-D__DATE__="Jan  1 1970"', '-D__TIME__="00:00:00"']


LANGUAGES: list[tuple[str, tuple[str, ...], str]] = [
    ("g++", ("-c", "a.cc"), "c++"),
    ("gcc", ("-c", "a.cc"), "c++"),
    ("gcc", ("-c", "dir/a.cpp", "b.cxx", "c.C", "d.c++", "e.cp", "f.CPP", "g.ii"), "c++"),
    ("g++", ("a.hpp", "b.hh", "c.H", "d.tcc", "-o", "a.gch"), "c++"),
    ("c++", ("-x", "c++", "-"), "c++"),
    ("c++", ("-xc++", "-"), "c++"),
    ("gcc", ("-x", "c++-header", "a.h"), "c++"),
    ("gcc", ("--language=c++", "-"), "c++"),
    ("gcc", ("--language", "c++", "-"), "c++"),
    ("g++", ("-S", "a.cc", "-o", "a.s"), "c++"),
    ("g++", ("-E", "a.cc", "-MF", "a.c", "-MT", "b.S"), "c++"),
    ("g++", ("a.cc", "b.o", "libc.a", "libd.so", "libe.so.6", "-o", "a"), "c++"),
    ("g++", ("-include", "a.c", "-I", "b.c", "-D", "c.c", "d.cc"), "c++"),
    ("g++", ("-c", "a.c"), "c++"),  # g++ takes it for C++
    ("g++", ("-c", "a.h"), "c++"),
    ("g++", ("-x", "c", "-x", "none", "a.cc"), "c++"),
    ("gcc", ("-c", "a.c"), "c"),
    ("gcc", ("-c", "a.i"), "c"),
    ("gcc", ("-E", "a.h"), "c"),
    ("c++", ("-x", "c", "a.cc"), "c"),
    ("g++", ("-xc", "a.cc"), "c"),
    ("gcc", ("-x", "c-header", "a"), "c"),
    ("gcc", ("-x", "cpp-output", "-"), "c"),
    ("g++", ("-E", "-"), "c"),  # even g++ takes standard input for C
    ("g++", ("a.o", "-o", "a"), ""),
    ("g++", ("-shared", "a.o", "-lb", "libc.a", "-o", "x.cc"), ""),
    ("g++", ("-c", "a.S"), ""),
    ("g++", ("-E", "a.S"), ""),
    ("gcc", ("-c", "a.s", "b.sx"), ""),
    ("g++", ("-x", "assembler-with-cpp", "a.cc"), ""),
    ("gcc", ("a.f90", "b.m"), ""),
    ("g++", ("a.cc", "b.S"), ""),  # what is right for one file is wrong for the other
    ("gcc", ("a.cc", "b.c"), ""),
    ("g++", ("a.cc", "-xc", "b"), ""),
    ("g++", ("-v",), ""),
    ("g++", ("-print-file-name=a.cc",), ""),
]
ADDED_FOR = {"c": ["-fcommon"], "c++": ["-include", "cstdint"], "": []}
EXTRA = {"PIKAFORGE_EXTRA_CFLAGS": "-fcommon", "PIKAFORGE_EXTRA_CXXFLAGS": "-include cstdint"}


@pytest.mark.parametrize(("name", "words", "language"), LANGUAGES)
def test_extra_flags_go_where_their_language_alone_is_compiled(
    spied: Wrapper, name: str, words: tuple[str, ...], language: str
) -> None:
    assert spied.seen(*words, name=name, **EXTRA) == [*words, *ADDED, *ADDED_FOR[language]]
    # The same where words have to go, and where the files are named in a response file.
    assert spied.seen("-Werror", *words, name=name, **EXTRA) == [*words, *ADDED, *ADDED_FOR[language]]
    spied.root.joinpath("args").write_text("\n".join(words))
    assert spied.seen("@args", name=name, **EXTRA) == ["@args", *ADDED, *ADDED_FOR[language]]


def test_response_file_and_command_line_are_one_list(spied: Wrapper) -> None:
    """An option at the end of one may have its operand in the other; -x holds on."""
    spied.root.joinpath("args").write_text("-x c++ -o")
    assert spied.seen("@args", "a.c", "b.c", **EXTRA)[-2:] == ["-include", "cstdint"]
    spied.root.joinpath("args").write_text("a.c -march=native")
    assert spied.seen("-o", "@args", **EXTRA)[2:] == ADDED
    assert spied.response == "a.c\n"
    spied.root.joinpath("args").write_text("-march=native a.c")
    assert spied.seen("-o", "@args", **EXTRA) == ["-o", "@args", *ADDED, "-fcommon"]


def test_flags_of_a_language_are_single_words(spied: Wrapper) -> None:
    seen = spied.seen("-c", "a.c", PIKAFORGE_EXTRA_CFLAGS="-DX=* -DY=$HOME  -DZ=`id`")
    assert seen == ["-c", "a.c", *ADDED, "-DX=*", "-DY=$HOME", "-DZ=`id`"]


def test_response_file_loses_the_flags_and_nothing_else(spied: Wrapper) -> None:
    spied.root.joinpath("args").write_text(
        '-O2 "-march=native" \'-DA=two words\'\n-DB=\\"x\\"\t-mt\'une\'=generic\n"" -mavx2 a\\ b.c\n'
        "-Xassembler -march=generic64 '-DC=line\nbreak' -mcpu=native"
    )
    seen = spied.seen("-c", "@args", "-march=core2")
    assert seen[0] == "-c"
    assert seen[1].startswith("@/")
    assert seen[2:] == ADDED
    assert spied.response.splitlines() == [
        "-O2",
        "'-DA=two words'",
        '-DB=\\"x\\"',
        '""',
        "-mavx2",
        "a\\ b.c",
        "-Xassembler",
        "-march=generic64",
        "'-DC=line",
        "break'",
    ]
    assert Counter(spied.dropped) == Counter(["-march=native", "-mtune=generic", "-mcpu=native", "-march=core2"])


def test_nested_response_files_are_followed(spied: Wrapper) -> None:
    spied.root.joinpath("inner file").write_text("-mtune=native -DIN\n")
    spied.root.joinpath("outer").write_text("-DA '@inner file' @absent -march=native")
    spied.seen("@outer")
    assert spied.response.split() == ["-DA", "-DIN", "@absent"]
    assert spied.dropped == ["-mtune=native", "-march=native"]


def test_response_files_that_include_one_another_end(spied: Wrapper) -> None:
    spied.root.joinpath("loop").write_text("@loop")
    done = spied.call("@loop")
    assert done.returncode != 0
    assert "include one another" in done.stderr


def test_response_file_copies_are_removed_and_the_status_kept(spied: Wrapper, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    spied.root.joinpath("args").write_text("-c")
    done = spied.call("@args", TMPDIR=str(scratch), SPY_STATUS="3")
    assert done.returncode == 3
    assert list(scratch.iterdir()) == []


def test_name_that_is_no_response_file_stays(spied: Wrapper) -> None:
    assert spied.seen("@absent", "@") == ["@absent", "@", *ADDED]


def test_parallel_calls_lose_no_count(spied: Wrapper) -> None:
    calls = 60
    running = [
        subprocess.Popen(
            [spied.root / "wrap" / "gcc", "-march=native", "-mtune=native", "-c", "a.c"],
            env=spied.env(SPY="/dev/null"),
        )
        for _ in range(calls)
    ]
    assert [process.wait() for process in running] == [0] * calls
    assert Counter(spied.dropped) == {"-march=native": calls, "-mtune=native": calls}


def test_off_only_passes_the_call_on(spied: Wrapper) -> None:
    assert spied.seen("-march=native", PIKAFORGE_WRAPPER="off") == ["-march=native"]


def test_refuses_an_emptied_environment(spied: Wrapper) -> None:
    env = {"PATH": spied.path, "SPY": str(spied.root / "spy")}
    done = subprocess.run(
        [spied.root / "wrap" / "gcc", "-c", "a.c"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "PIKAFORGE_TARGET_FLAGS" in done.stderr


def test_never_calls_itself_by_another_spelling(spied: Wrapper) -> None:
    wrap = spied.root / "wrap"
    spied.root.joinpath("link").symlink_to(wrap)
    path = f"{wrap}//:{spied.root}/link:{spied.path}"
    assert spied.seen("a.c", PATH=path) == ["a.c", *ADDED]


def test_says_when_there_is_no_compiler(tmp_path: Path) -> None:
    wrap = install_wrapper(tmp_path)
    done = Wrapper(root=tmp_path, path=str(wrap)).call("-c", "a.c", PATH=f"{wrap}")
    assert done.returncode == 127
    assert "no real gcc" in done.stderr


def test_ccache_stands_behind_the_wrapper(spied: Wrapper) -> None:
    ccache = spied.root / "behind" / "ccache"
    ccache.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >"$SPY.ccache"\nexec "$@"\n')
    ccache.chmod(0o755)
    assert spied.seen("-march=native", "-c", "a.c", PIKAFORGE_CCACHE="1") == ["-c", "a.c", *ADDED]
    line = (spied.root / "spy.ccache").read_text()
    assert line == f"{spied.root}/behind/gcc -c a.c {' '.join(ADDED)}\n"


# --- with a real compiler ----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("-v",),
        ("--version",),
        ("-dumpversion",),
        ("-dumpmachine",),
        ("-print-libgcc-file-name",),
        ("-print-search-dirs",),
        ("-print-multi-directory",),
        ("-print-prog-name=cc1",),
    ],
)
@pytest.mark.parametrize("name", ["gcc", "g++"])
def test_questions_get_the_real_answer(wrapped: Wrapper, name: str, words: tuple[str, ...]) -> None:
    ours = wrapped.call(*words, name=name, PIKAFORGE_EXTRA_CXXFLAGS="-include cstdint")
    real = wrapped.call(*words, name=name, PIKAFORGE_WRAPPER="off")
    assert (ours.returncode, ours.stdout) == (real.returncode, real.stdout) == (0, real.stdout)
    # The answer to -v names the options of the call.
    assert [line for line in ours.stderr.splitlines() if "version" in line] == [
        line for line in real.stderr.splitlines() if "version" in line
    ]


def test_standard_input_assembly_and_link_calls_work(wrapped: Wrapper) -> None:
    root = wrapped.root
    done = wrapped.call("-march=native", "-dM", "-E", "-", text="")
    assert "#define __AVX__ 1" in done.stdout
    assert "__AVX2__" not in done.stdout
    assert "int x;" in wrapped.call("-E", "-", text="int x;\n").stdout
    assert wrapped.call("-x", "c++", "-c", "-o", "in.o", "-", name="g++", text="class A;").returncode == 0
    (root / "a.S").write_text('#ifdef __AVX__\n.globl f\nf: ret\n#endif\n.section .note.GNU-stack,""\n')
    (root / "m.c").write_text("void f(void); int main(void) { f(); return 0; }\n")
    assert wrapped.call("-c", "a.S", PIKAFORGE_FRAME_POINTERS="1").returncode == 0
    assert wrapped.call("-Werror", "-Wall", "-Wextra", "-c", "m.c", PIKAFORGE_FRAME_POINTERS="1").returncode == 0
    linked = wrapped.call("m.o", "a.o", "-o", "m")
    assert (linked.returncode, linked.stderr) == (0, "")


def test_old_compilers_date_replaces_the_macro_without_a_warning(wrapped: Wrapper) -> None:
    done = wrapped.call(
        "-Werror", "-Wall", "-E", "-P", "-",
        text="__DATE__ __TIME__", PIKAFORGE_DATE="Jan  1 1970", PIKAFORGE_TIME="00:00:01",
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, '"Jan  1 1970" "00:00:01"')


def test_real_response_file_with_spaces_compiles(wrapped: Wrapper) -> None:
    (wrapped.root / "two words.c").write_text("const char *s = TEXT;\n")
    (wrapped.root / "args").write_text('-march=native -c "two words.c" \'-DTEXT="a b"\' -o out.o')
    assert wrapped.call("@args").returncode == 0
    assert b"a b" in (wrapped.root / "out.o").read_bytes()
    assert wrapped.dropped == ["-march=native"]


def test_source_names_do_not_tell_the_folder(wrapped: Wrapper) -> None:
    source = wrapped.root / "src" / "a.c"
    source.write_text("const char *name(void) { return __FILE__; }\n")
    assert wrapped.call("-g", "-c", str(source), "-o", "a.o", cwd=source.parent).returncode == 0
    content = (wrapped.root / "src" / "a.o").read_bytes()
    assert os.fsencode(wrapped.root) not in content
    assert b"/usr/src/sample-1.0/a.c" in content


def test_real_ccache_hits_on_what_the_target_decides(wrapped: Wrapper) -> None:
    need("ccache")
    root = wrapped.root
    (root / "a.c").write_text("int a;\n")
    (root / "ccache").mkdir()
    env = {"PIKAFORGE_CCACHE": "1", "CCACHE_DIR": str(root / "ccache"), "CCACHE_COMPILERCHECK": "content"}
    for flag in ("-march=native", "-march=haswell"):
        assert wrapped.run([flag, "-c", "a.c", "-o", "a.o"], env).returncode == 0
    stats = subprocess.run(
        ["ccache", "--print-stats"], env={**os.environ, **env}, capture_output=True, text=True, check=False
    ).stdout
    if "direct_cache_hit" not in stats:
        pytest.skip("this ccache cannot print its statistics")
    assert "direct_cache_hit\t1" in stats
