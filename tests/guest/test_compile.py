"""docker/guest/compile.sh from end to end, with a tiny tree and a recipe of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import BASE_LIBS, GUEST, clean_env, need, sh

RECIPE = """#!/bin/sh
set -eu
make -j"$JOBS"
mkdir -p "$OUT/bin" "$OUT/conf"
cp app "$OUT/bin/app"
echo 'port : 1' >"$OUT/conf/app.conf"
"""
# Absolute include paths, __FILE__, __DATE__, a static constructor without a global
# name and link-time folders: all that commonly tells where or when a build ran.
MAKEFILE = """
CXXFLAGS = -g -O2 -march=native -I$(CURDIR)/include
OBJECTS = main.o $(patsubst %.cc,%.o,$(sort $(wildcard part*.cc)))
app: $(OBJECTS)
\tg++ -o $@ $(OBJECTS) -lz
%.o: %.cc
\tg++ $(CXXFLAGS) -c $(CURDIR)/$< -o $@
"""


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    need("gcc", "g++", "make", "patchelf", "objcopy", "readelf")


def make_root(root: Path, recipe: str = RECIPE) -> Path:
    """A PIKAFORGE_ROOT as the caller lays it out."""
    source = root / "src"
    (source / "include").mkdir(parents=True)
    shutil.copytree(GUEST, root / "guest")
    (root / "recipe.sh").write_text(recipe)
    (source / "Makefile").write_text(MAKEFILE)
    (source / "include" / "part.h").write_text("inline const char *where() { return __FILE__ __DATE__ __TIME__; }\n")
    for number in range(6):
        (source / f"part{number}.cc").write_text(
            f'#include <cstdio>\n#include "part.h"\nstatic struct S {{ S() {{ std::fputs(where(), stdout); }} }} s;\n'
            f"int part{number}() {{ return __builtin_popcount({number}); }}\n"
        )
    (source / "main.cc").write_text(
        '#include "part.h"\nextern "C" const char *zlibVersion();\n'
        "int main() { return __builtin_puts(where()) < 0 || !zlibVersion(); }\n"
    )
    return root


def compile_env(root: Path, **values: str) -> dict[str, str]:
    return clean_env(
        **{
            "PIKAFORGE_ROOT": str(root),
            "PIKAFORGE_JOBS": "2",
            "PIKAFORGE_TARGET_FLAGS": "-march=sandybridge -mtune=sandybridge",
            "PIKAFORGE_FRAME_POINTERS": "0",
            "PIKAFORGE_ALLOCATOR": "none",
            "PIKAFORGE_PRODUCT": "app",
            "PIKAFORGE_VERSION": "1.0",
            "PIKAFORGE_BINARIES": "bin/app",
            "PIKAFORGE_FILES": "conf/app.conf",
            "PIKAFORGE_BASE_LIBS": BASE_LIBS,
            "PIKAFORGE_CCACHE": "0",
            "SOURCE_DATE_EPOCH": "1600000000",
            **values,
        }
    )


def run_compile(root: Path, **values: str) -> CompletedProcess[str]:
    return sh("sh", root / "guest/compile.sh", env=compile_env(root, **values), cwd=Path("/"))


def contents(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    """Mode, time stamp and bytes of every file below ``folder``."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.stat().st_mtime, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def zlib() -> None:
    words = ("gcc", "-x", "c", "-", "-lz", "-o", "/dev/null")
    done = sh(*words, env=clean_env(), text="int main(void) { return 0; }")
    if done.returncode != 0:
        pytest.skip("no zlib development files here")


@pytest.mark.usefixtures("zlib")
def test_builds_a_tree_with_its_facts(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    done = run_compile(root)
    assert done.returncode == 0, done.stdout + done.stderr
    out = root / "out"
    facts = {path.name: path.read_text() for path in (out / "facts").iterdir()}
    assert sorted(facts) == ["bundled.tsv", "compiler.txt", "dropped.tsv", "licences.tsv", "macros.txt"]
    assert facts["dropped.tsv"] == "7\t-march=native\n"
    macros = facts["macros.txt"].splitlines()
    assert "#define __AVX__ 1" in macros
    assert not any(line.startswith("#define __AVX2__") for line in macros)
    assert macros == sorted(macros)
    assert len(facts["compiler.txt"].splitlines()) == 3
    assert facts["bundled.tsv"].startswith("libz.so.1\tlib/libz.so.1\t")
    ran = sh(out / "tree/bin/app", env={})
    assert (ran.returncode, ran.stdout) == (0, "/usr/src/app-1.0/include/part.hSep 13 202012:26:40" * 7 + "\n")
    assert {path.stat().st_mtime for path in (out / "tree").rglob("*")} == {1600000000.0}


@pytest.mark.usefixtures("zlib")
def test_debug_information_stands_apart_and_symbols_stay(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    assert run_compile(root).returncode == 0
    app, debug = root / "out/tree/bin/app", root / "out/debug/bin/app.debug"
    sections = sh("readelf", "-SW", app, env=clean_env()).stdout
    assert ".symtab" in sections
    assert ".gnu_debuglink" in sections
    assert ".debug_info" not in sections
    assert ".debug_info" in sh("readelf", "-SW", debug, env=clean_env()).stdout
    assert "part3" in sh("readelf", "-sW", app, env=clean_env()).stdout
    notes = [sh("readelf", "-nW", file, env=clean_env()).stdout for file in (app, debug)]
    assert "Build ID" in notes[0]
    assert notes[0].split("Build ID")[1].split()[1] == notes[1].split("Build ID")[1].split()[1]
    # Libraries of the base system carry no debug information: not touched, none made.
    assert [path.name for path in (root / "out/debug").rglob("*") if path.is_file()] == ["app.debug"]


def test_shared_libraries_are_not_executable(tmp_path: Path) -> None:
    """As linkers leave them, they are."""
    need("gcc", "readelf")
    runs = 'const char loader[] __attribute__((section(".interp"))) = "/lib64/ld-linux-x86-64.so.2";'
    texts = {
        "bin/app": ("int main(void) { return 0; }", ()),
        "lib/libx.so.1.2": ("int x;", ("-shared", "-fPIC", "-nostdlib")),
        "lib/plugin.so": ("int x;", ("-shared", "-fPIC", "-nostdlib")),
        "lib/runs.so.1": (runs, ("-shared", "-fPIC", "-nostdlib")),
        "bin/static.so": ("int main(void) { return 0; }", ("-nostdlib", "-no-pie", "-Wl,-e,main")),
    }
    for name, (text, flags) in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        done = sh("gcc", "-x", "c", "-", "-o", tmp_path / name, *flags, env=clean_env(), text=text)
        assert done.returncode == 0, name
    (tmp_path / "lib/script.so").write_text("#!/bin/sh\n")
    for path in tmp_path.rglob("*.*"):
        path.chmod(0o755)
    done = sh("sh", "-c", '. "${0%/*}/toolchain.sh"; plain_libraries "$1"', GUEST / "x", tmp_path, env=clean_env())
    assert done.returncode == 0, done.stderr
    plain = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.stat().st_mode & 0o777 == 0o644}
    assert plain == {"lib/libx.so.1.2", "lib/plugin.so"}


@pytest.mark.usefixtures("zlib")
def test_same_bytes_from_another_folder_with_other_jobs(tmp_path: Path) -> None:
    roots = [make_root(tmp_path / "a"), make_root(tmp_path / "another-folder")]
    for root, jobs in zip(roots, ("1", "7"), strict=True):
        done = run_compile(root, PIKAFORGE_JOBS=jobs)
        assert done.returncode == 0, done.stdout + done.stderr
    for part in ("tree", "debug", "facts"):
        first, second = (contents(root / "out" / part) for root in roots)
        if part == "facts":  # their times are of no concern
            assert {n: v[2] for n, v in first.items()} == {n: v[2] for n, v in second.items()}
        else:
            assert first == second
    for data in contents(roots[1] / "out").values():
        assert os.fsencode(tmp_path) not in data[2]


@pytest.mark.usefixtures("zlib")
def test_same_bytes_with_link_time_optimisation(tmp_path: Path) -> None:
    """Such objects hold random names; the program linked from them must not."""
    recipe = RECIPE.replace("make -j", "make CXXFLAGS='-g -O2 -flto -Iinclude' -j")
    roots = [make_root(tmp_path / name, recipe) for name in ("a", "another")]
    for root in roots:
        done = run_compile(root)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = (contents(root / "out/tree") for root in roots)
    assert first == second


def packed(root: Path, *, most: int | None = None) -> Path:
    """The same root, whose source the job has to unpack; only so many bytes of the archive."""
    (root / "unpack").mkdir()
    archive = root / "unpack" / "src.tar"
    assert sh("tar", "-cf", archive, "-C", root / "src", ".", env=clean_env()).returncode == 0
    archive.write_bytes(archive.read_bytes()[:most])
    shutil.rmtree(root / "src")
    return root


@pytest.mark.usefixtures("zlib")
def test_a_source_that_comes_packed_leaves_the_same_bytes(tmp_path: Path) -> None:
    roots = [make_root(tmp_path / "plain"), packed(make_root(tmp_path / "packed"))]
    for root in roots:
        done = run_compile(root)
        assert done.returncode == 0, done.stdout + done.stderr
    assert contents(roots[0] / "out/tree") == contents(roots[1] / "out/tree")
    assert list((roots[1] / "unpack").iterdir()) == [], "it takes no room twice"


def test_a_source_that_cannot_be_unpacked_is_not_compiled(tmp_path: Path) -> None:
    root = packed(make_root(tmp_path / "root"), most=1300)
    done = run_compile(root)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "forge: reason: the source cannot be unpacked" in done.stderr.splitlines()
    assert not (root / "out/tree/bin").exists()


@pytest.mark.usefixtures("zlib")
def test_a_stage_leaves_what_it_has_packed_and_nothing_else(tmp_path: Path) -> None:
    """The rest would have to be removed by the engine, which takes longer."""
    root = packed(make_root(tmp_path / "root"))
    sealed = sorted(path.name for path in (root / "guest").iterdir())
    done = sh("sh", root / "guest/run.sh", "compile", "tree", "debug", "facts", env=compile_env(root), cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in root.iterdir()) == ["guest", "out", "packed"]
    assert sorted(path.name for path in (root / "packed").iterdir()) == ["debug.tar", "facts.tar", "tree.tar"]
    assert [path.name for path in (root / "out").iterdir() if path.is_dir()] == []
    assert sorted(path.name for path in (root / "guest").iterdir()) == sealed


@pytest.mark.usefixtures("zlib")
def test_ccache_keeps_hashes_of_files_in_the_job_alone(tmp_path: Path) -> None:
    """Inodes of one job mean nothing in another, and whoever can write there decides what is a hit."""
    need("ccache")
    cache = tmp_path / "cache"
    given = {"CCACHE_TEMPDIR": str(tmp_path / "shared"), "CCACHE_INODECACHE": "1"}
    root = make_root(tmp_path / "root")
    done = run_compile(root, PIKAFORGE_CCACHE="1", CCACHE_DIR=str(cache), **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "shared").exists()
    assert not [path for path in cache.rglob("*") if path.name.startswith("inode-cache")]
    assert (root / "wrap/.ccache").is_dir()


@pytest.mark.usefixtures("zlib")
def test_ccache_changes_the_time_and_not_the_bytes(tmp_path: Path) -> None:
    need("ccache")
    plain = make_root(tmp_path / "plain")
    assert run_compile(plain).returncode == 0
    cache = {"PIKAFORGE_CCACHE": "1", "CCACHE_DIR": str(tmp_path / "cache")}
    for name in ("cold", "warm"):
        root = make_root(tmp_path / name)
        done = run_compile(root, **cache)
        assert done.returncode == 0, done.stdout + done.stderr
        for part in ("tree", "debug"):
            assert contents(root / "out" / part) == contents(plain / "out" / part), name


@pytest.mark.usefixtures("zlib")
def test_a_changed_source_leaves_the_same_bytes_with_the_cache_of_the_one_before(tmp_path: Path) -> None:
    """As with --share-compiler-cache: a patch has changed one file, and moved the lines of another."""
    need("ccache")
    cache = {"PIKAFORGE_CCACHE": "1", "CCACHE_DIR": str(tmp_path / "cache")}
    before = make_root(tmp_path / "before")
    assert run_compile(before, **cache).returncode == 0
    found = []
    for name, given in (("warm", cache), ("without", {})):
        root = make_root(tmp_path / name)
        for file, more in (("part3.cc", "int changed() { return 7; }\n"), ("part4.cc", "")):
            path = root / "src" / file
            path.write_text(f"// a line\n{path.read_text()}{more}")
        done = run_compile(root, **given)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append([contents(root / "out" / part) for part in ("tree", "debug")])
    assert found[0] == found[1]
    assert found[0] != [contents(before / "out" / part) for part in ("tree", "debug")], "the control"


@pytest.mark.usefixtures("zlib")
def test_ccache_obeys_no_file_in_its_folder_and_no_variable(tmp_path: Path) -> None:
    """An earlier build may have left the file there: it names a program that is run in the place of the compiler."""
    need("ccache")
    cache, evil = tmp_path / "cache", tmp_path / "evil"
    cache.mkdir()
    evil.write_text('#!/bin/sh\necho planted >>"${0%/*}/called"\nexec "$@"\n')
    evil.chmod(0o755)
    (cache / "ccache.conf").write_text(f"prefix_command = {evil}\nprefix_command_cpp = {evil}\n")
    root = make_root(tmp_path / "root")
    given = {"CCACHE_PREFIX": str(evil), "CCACHE_CONFIGPATH": str(cache / "ccache.conf"), "CCACHE_RECACHE": "1"}
    done = run_compile(root, PIKAFORGE_CCACHE="1", CCACHE_DIR=str(cache), **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "called").exists()
    assert any(path.name != "ccache.conf" for path in cache.rglob("*") if path.is_file()), "it is used nevertheless"


def test_what_cannot_travel_ends_it_with_its_name(tmp_path: Path) -> None:
    """Before strip makes new files of those with special bits, and tar leaves sockets out."""
    socket = "import socket; socket.socket(socket.AF_UNIX).bind('s')"
    recipe = (
        'mkdir -p "$OUT/bin" "$OUT/conf" "$OUT/var"\n: >"$OUT/conf/app.conf"\n'
        ': >"$OUT/bin/su"\nchmod 4755 "$OUT/bin/su"\n'
        f'chmod 1777 "$OUT/var"\nmkfifo "$OUT/pipe"\ncd "$OUT" && {sys.executable} -c "{socket}"\n'
        'ln -s bin/su "$OUT/link"\n'
    )
    done = run_compile(make_root(tmp_path / "root", recipe))
    assert done.returncode == 65, done.stderr
    for line in ("-rwsr-xr-x bin/su", "drwxrwxrwt var", "prw-r--r-- pipe", "srwxr-xr-x s"):
        assert line in done.stderr
    assert "conf" not in done.stderr
    assert "link" not in done.stderr.partition("there is ")[2]


@pytest.mark.usefixtures("zlib")
def test_second_run_starts_clean(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    assert run_compile(root).returncode == 0
    (root / "out/tree/stale").write_text("")
    assert run_compile(root).returncode == 0
    assert not (root / "out/tree/stale").exists()


@pytest.mark.usefixtures("zlib")
def test_surrounding_settings_do_not_leak_in(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    settings = {"CXXFLAGS": "-nonsense", "MAKEFLAGS": "-n", "CPATH": "/nowhere", "TZ": "Asia/Tokyo"}
    done = run_compile(root, **settings, LC_ALL="de_DE")
    assert done.returncode == 0, done.stdout + done.stderr


def test_failed_recipe_is_64_and_nothing_more_is_said(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", "echo the compiler said no >&2\nexit 7\n")
    done = run_compile(root)
    assert (done.returncode, done.stdout, done.stderr) == (64, "", "the compiler said no\n")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (":", "the recipe made no bin/app"),
        ('mkdir -p "$OUT/bin/app"', "bin/app is not a regular file"),
        ('mkdir "$OUT/bin"; echo "#!/bin/sh" >"$OUT/bin/app"', "bin/app is not an ELF file"),
        ('mkdir "$OUT/bin"; : >"$OUT/bin/app"', "bin/app is not an ELF file"),
        (
            # e_machine 0xb7 (octal 267) is AArch64.
            'mkdir "$OUT/bin"; printf "\\177ELF\\2\\1\\1%9s\\3\\0\\267\\0" "" >"$OUT/bin/app"',
            "bin/app is an ELF file for another machine",
        ),
        (
            'mkdir "$OUT/bin"; echo "int a;" | gcc -x c -c -o "$OUT/bin/app" -',
            "neither a program nor a shared object",
        ),
        (
            'mkdir "$OUT/bin"; echo "int main(void){return 0;}" | gcc -x c -o "$OUT/bin/app" -',
            "the recipe made no conf/app.conf",
        ),
    ],
)
def test_tree_without_what_is_owed_is_65(tmp_path: Path, recipe: str, message: str) -> None:
    done = run_compile(make_root(tmp_path / "root", recipe))
    assert done.returncode == 65
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_target_that_the_compiler_does_not_know_is_66(tmp_path: Path) -> None:
    done = run_compile(make_root(tmp_path / "root"), PIKAFORGE_TARGET_FLAGS="-march=z80")
    assert done.returncode == 66
    assert "cannot make code for: -march=z80" in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PIKAFORGE_PRODUCT": ""}, "not set: PIKAFORGE_PRODUCT"),
        ({"PIKAFORGE_JOBS": "-1"}, "must be numbers"),
        ({"PIKAFORGE_ALLOCATOR": "own"}, "PIKAFORGE_ALLOCATOR_DIR"),
        ({"PIKAFORGE_ALLOCATOR": "jemalloc"}, "not none, system or own"),
    ],
)
def test_wrong_environment_is_2(tmp_path: Path, values: dict[str, str], message: str) -> None:
    done = run_compile(make_root(tmp_path / "root"), **values)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.usefixtures("zlib")
def test_compiler_of_2013_gets_what_it_knows(tmp_path: Path) -> None:
    """A stand-in for gcc 4.8: no -ffile-prefix-map, no SOURCE_DATE_EPOCH, no -dumpfullversion."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gcc", "g++"):
        real = shutil.which(name, path=clean_env()["PATH"])
        (tools / name).write_text(
            "#!/bin/sh\nunset SOURCE_DATE_EPOCH\n"
            "for word do case $word in -ffile-prefix-map=* | -dumpfullversion)"
            f' echo unrecognized $word >&2; exit 1 ;; esac; done\nexec {real} "$@"\n'
        )
        (tools / name).chmod(0o755)
    apps = []
    for jobs in ("1", "2"):
        root = make_root(tmp_path / "forge")
        done = run_compile(root, PIKAFORGE_JOBS=jobs, PATH=f"{tools}:{clean_env()['PATH']}")
        assert done.returncode == 0, done.stdout + done.stderr
        apps.append(contents(root / "out/tree"))
        shutil.rmtree(root)
    assert apps[0] == apps[1]
    assert b"Sep 13 202012:26:40" in apps[0]["bin/app"][2]


OLD_NAMES = r"""
for name in PRODUCT VERSION TARGET_FLAGS FRAME_POINTERS ALLOCATOR ALLOCATOR_DIR JOBS BINARIES FILES BASE_LIBS CCACHE \
    EXTRA_CFLAGS EXTRA_CXXFLAGS KEEP_WERROR ROOT; do
    [ "$(printenv "FORGE_$name")" = "$(printenv "PIKAFORGE_$name")" ] || echo "$name differs" >&2
    printenv "FORGE_$name" >/dev/null || echo "$name is not set" >&2
done
mkdir -p "$OUT/bin"
printf 'int main(void) { return 0; }' | gcc -x c -o "$OUT/bin/app" -
"""


def test_a_recipe_gets_the_variables_under_their_old_names_too(tmp_path: Path) -> None:
    """Those that the head of compile.sh lists. They began with FORGE_ before they began with PIKAFORGE_."""
    root = make_root(tmp_path / "root", OLD_NAMES)
    values = {"EXTRA_CFLAGS": "-DX=1", "EXTRA_CXXFLAGS": "-DY", "KEEP_WERROR": "1", "FILES": "bin/app"}
    done = run_compile(root, **{f"PIKAFORGE_{name}": value for name, value in values.items()})
    assert (done.returncode, done.stderr) == (0, "")
    head = (GUEST / "compile.sh").read_text().partition("# Results in")[0]
    listed = set(re.findall(r"PIKA(FORGE_[A-Z_]+)", head))
    assert listed == set(re.findall(r"^    (FORGE_[A-Z_]+)=", (GUEST / "compile.sh").read_text(), re.MULTILINE))


@pytest.mark.usefixtures("zlib")
@pytest.mark.parametrize("name", ["PIKAFORGE_WRAPPER", "FORGE_WRAPPER"])
def test_wrapper_off_lets_native_through_and_counts_nothing(tmp_path: Path, name: str) -> None:
    root = make_root(tmp_path / "root", f"{name}=off\nexport {name}\n" + RECIPE)
    assert run_compile(root).returncode == 0
    assert (root / "out/facts/dropped.tsv").read_text() == ""


def test_compiler_behind_the_masquerade_of_ccache_is_found(tmp_path: Path) -> None:
    masquerade = tmp_path / "lib" / "ccache"
    masquerade.mkdir(parents=True)
    (masquerade / "gcc").write_text("#!/bin/sh\nexit 9\n")
    (masquerade / "gcc").chmod(0o755)
    recipe = 'mkdir "$OUT/bin"; echo "int main(void){return 0;}" | gcc -x c -o "$OUT/bin/app" -'
    root = make_root(tmp_path / "root", recipe)
    done = run_compile(root, PATH=f"{masquerade}:{clean_env()['PATH']}", PIKAFORGE_FILES="")
    assert done.returncode == 0, done.stderr
