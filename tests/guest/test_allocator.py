"""docker/guest/allocator.sh from end to end, with small trees in the form of gperftools and libunwind.

The trees are ours: a configure script and a Makefile of a few lines with the options, targets and names that
allocator.sh counts on. tests/integration/test_allocator_build.py builds the real ones.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import GUEST, clean_env, need, sh

EPOCH = 1600000000
LIBRARIES = ("tcmalloc", "profiler", "tcmalloc_and_profiler")
WAYS = ("libunwind", "frame-pointers")

CONFIGURE = r"""#!/bin/sh
set -eu
unwind=no frames=no
for word do
    case $word in
        --enable-libunwind) unwind=yes ;;
        --disable-libunwind) unwind=never ;;
        --enable-frame-pointers) frames=yes ;;
    esac
done
# As 2.10: the header alone decides, unless it was said not to look.
if [ "$unwind" != never ] && gcc ${CPPFLAGS-} -E -include libunwind.h -x c /dev/null >/dev/null 2>&1; then
    unwind=yes
fi
: PLANTED
mkdir -p src
{
    echo '#define PACKAGE_VERSION "2.10"'
    [ NEWER = no ] || echo '/* #undef USE_LIBUNWIND */'
    if [ "$unwind" = yes ]; then
        echo '#define HAVE_LIBUNWIND_H 1'
        [ NEWER = no ] || echo '#define USE_LIBUNWIND 1'
    fi
} >src/config.h
libs=
[ "$unwind" != yes ] || libs=-lunwind
sed -e "s|@LIBS@|$libs|" -e "s|@FRAMES@|$frames|" -e "s|@CPPFLAGS@|${CPPFLAGS-}|" -e "s|@LDFLAGS@|${LDFLAGS-}|" \
    Makefile.in >Makefile
"""

MAKEFILE = """
PARTS = libtcmalloc.la libprofiler.la libtcmalloc_and_profiler.la
LIBS_TO_WEAKEN = not-built.la
$(PARTS): src/stacktrace.cc
\tmkdir -p .libs
\tg++ -g -O2 -march=native -fPIC -DFRAMES_@FRAMES@ FORM @CPPFLAGS@ -Isrc \\
\t\t-c $(CURDIR)/src/stacktrace.cc -o .libs/$(@:.la=.o)
\tg++ -shared -Wl,-soname,$(@:.la=.so.4) -o .libs/$(@:.la=.so.4.5) .libs/$(@:.la=.o) @LDFLAGS@ @LIBS@
\tln -sf $(@:.la=.so.4.5) .libs/$(@:.la=.so.4)
\tln -sf $(@:.la=.so.4.5) .libs/$(@:.la=.so)
\tar rcU .libs/$(@:.la=.a) .libs/$(@:.la=.o)
\ttouch $@ .libs/$(@:.la=.la)
all-local: $(LIBS_TO_WEAKEN)
\ttouch weakened
install-libLTLIBRARIES: $(lib_LTLIBRARIES)
\tmkdir -p $(DESTDIR)/usr/lib
\tfor la in $(lib_LTLIBRARIES); do cp -P .libs/$${la%.la}.so* .libs/$${la%.la}.[al]* $(DESTDIR)/usr/lib/; done
install-data:
\tmkdir -p $(DESTDIR)/usr/include/gperftools $(DESTDIR)/usr/lib/pkgconfig $(DESTDIR)/usr/share/man
\techo '/* HEADER */' >$(DESTDIR)/usr/include/gperftools/tcmalloc.h
\ttouch $(DESTDIR)/usr/share/man/pprof.1
\tfor name in tcmalloc tcmalloc_minimal profiler; do \\
\t\tprintf '%s\\n' prefix=/usr 'exec_prefix=$${prefix}' libdir=/usr/lib includedir=/usr/include \\
\t\t"Libs: -L\\$${libdir} -l$$name" >$(DESTDIR)/usr/lib/pkgconfig/lib$$name.pc; done
"""

STACKTRACE = r"""
#include <config.h>
struct Walker { int (*walk)(void **, int); const char *name; };
static int by_frames(void **to, int) { *to = __builtin_frame_address(0); return 1; }
static Walker impl__generic_fp = { by_frames, "generic_fp" };
static int by_libgcc(void **, int) { return 2; }
static Walker impl__libgcc = { by_libgcc, "libgcc" };
#ifdef HAVE_LIBUNWIND_H
#include <libunwind.h>
__attribute__((used)) static Walker impl__libunwind = { unw_backtrace, "libunwind" };
#define CHOSEN impl__libunwind
#elif defined FRAMES_yes
#define CHOSEN impl__generic_fp
#else
#define CHOSEN impl__libgcc
#endif
#ifdef TABLE
static Walker *all_impls[] = { &CHOSEN, &impl__generic_fp, &impl__libgcc };
static Walker *get_stack_impl;
#else
static Walker *all_impls[] = { &impl__libgcc, &CHOSEN, &impl__generic_fp };
static Walker *get_stack_impl = &CHOSEN;
#endif
extern "C" const char *use(int n) {
    const char *was = get_stack_impl ? get_stack_impl->name : __FILE__;
    get_stack_impl = all_impls[n];
    return was;
}
"""

UNWIND_CONFIGURE = """#!/bin/sh
set -eu
printf '%s\\n' "$@" >arguments
mkdir -p include
echo '#define PACKAGE_VERSION "1.3.1"' >include/config.h
"""

# Two definitions of one variable, as releases before 1.5 had them.
UNWIND_MAKEFILE = """
all:
\tprintf '%s\\n' 'int list;' 'int unw_backtrace(void **to, int n) { *to = 0; return n + list; }' >one.c
\techo 'int list;' >two.c
\tgcc -g -O2 -fPIC -shared -Wl,-soname,libunwind.so.8 -o libunwind.so.8.0.1 one.c two.c
install:
\tmkdir -p $(DESTDIR)/usr/lib $(DESTDIR)/usr/include
\tcp libunwind.so.8.0.1 $(DESTDIR)/usr/lib/
\tln -s libunwind.so.8.0.1 $(DESTDIR)/usr/lib/libunwind.so.8
\tln -s libunwind.so.8.0.1 $(DESTDIR)/usr/lib/libunwind.so
\ttouch $(DESTDIR)/usr/lib/libunwind.la
\techo 'extern "C" int unw_backtrace(void **, int);' >$(DESTDIR)/usr/include/libunwind.h
\techo '#error not the header of the compiler' >$(DESTDIR)/usr/include/unwind.h
"""


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    need("gcc", "g++", "make", "patchelf", "objcopy", "readelf")


def make_root(
    root: Path, *, newer: bool = False, libunwind: bool = True, planted: str = "", source: str = STACKTRACE
) -> Path:
    """A PIKAFORGE_ROOT as the caller lays it out.

    Args:
        root: where.
        newer: in the form of gperftools 2.16, else of 2.10.
        libunwind: whether its source is there, too.
        planted: shell text that configure runs once it has decided.
        source: of the library.
    """
    shutil.copytree(GUEST, root / "guest")
    sources = root / "src"
    (sources / "src").mkdir(parents=True)
    configure = CONFIGURE.replace(": PLANTED", planted or ":").replace("NEWER", "yes" if newer else "no")
    (sources / "configure").write_text(configure)
    (sources / "Makefile.in").write_text(MAKEFILE.replace("FORM", "-DTABLE" if newer else ""))
    (sources / "src/stacktrace.cc").write_text(source)
    (sources / "COPYING").write_text("licence of gperftools\n")
    if libunwind:
        unwind = root / "libunwind"
        unwind.mkdir()
        (unwind / "configure").write_text(UNWIND_CONFIGURE)
        (unwind / "Makefile").write_text(UNWIND_MAKEFILE)
        (unwind / "COPYING").write_text("licence of libunwind\n")
    return root


def run_allocator(root: Path, unwinder: str, **values: str) -> CompletedProcess[str]:
    env = clean_env(
        **{
            "PIKAFORGE_ROOT": str(root),
            "PIKAFORGE_UNWINDER": unwinder,
            "PIKAFORGE_PRODUCT": "gperftools",
            "PIKAFORGE_VERSION": "2.10",
            "PIKAFORGE_TARGET_FLAGS": "-march=sandybridge -mtune=sandybridge",
            "PIKAFORGE_JOBS": "2",
            "PIKAFORGE_CCACHE": "0",
            "SOURCE_DATE_EPOCH": str(EPOCH),
            **values,
        }
    )
    return sh("sh", root / "guest/allocator.sh", env=env, cwd=Path("/"))


def stand_in(folder: Path, name: str, text: str) -> str:
    """Put a program before all others; the PATH for that. `{real}` in the text is what it stands for."""
    folder.mkdir(exist_ok=True)
    path = clean_env()["PATH"]
    (folder / name).write_text("#!/bin/sh\n" + text.format(real=shutil.which(name, path=path)))
    (folder / name).chmod(0o755)
    return f"{folder}:{path}"


def facts_of(root: Path) -> dict[str, list[str]]:
    lines = (root / "out/facts/unwinder.tsv").read_text().splitlines()
    return {key: values for key, *values in (line.split("\t") for line in lines)}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def dynamic(library: Path) -> dict[str, list[str]]:
    """Its NEEDED and RUNPATH or RPATH."""
    text = sh("readelf", "-dW", library, env=clean_env()).stdout
    found: dict[str, list[str]] = {}
    for kind, value in re.findall(r"\((NEEDED|RUNPATH|RPATH)\).*\[(.*)\]", text):
        found.setdefault(kind, []).append(value)
    return found


def everything(root: Path) -> dict[str, tuple[int, float, bytes]]:
    """Mode, time and bytes of every delivered file, and what links point to."""
    found = {}
    for part in ("prefix", "debug"):
        for path in sorted((root / "out" / part).rglob("*")):
            kind = path.lstat()
            data = os.fsencode(path.readlink()) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
            found[f"{part}/{path.relative_to(root / 'out' / part)}"] = (kind.st_mode, kind.st_mtime, data)
    return found


@pytest.mark.parametrize("newer", [False, True], ids=["2.10", "2.16"])
@pytest.mark.parametrize("unwinder", WAYS)
def test_builds_what_was_asked_for_and_says_so(tmp_path: Path, unwinder: str, newer: bool) -> None:
    root = make_root(tmp_path / "root", newer=newer)
    done = run_allocator(root, unwinder)
    assert done.returncode == 0, done.stdout + done.stderr

    facts = facts_of(root)
    assert facts["asked"] == facts["chosen"] == [unwinder]
    assert facts["gperftools"] == ["2.10"]
    arguments = facts["configure"][0].split()
    built = unwinder == "libunwind"
    if built:
        assert "--enable-libunwind" in arguments
        assert "--enable-frame-pointers" not in arguments
        assert facts["method"] == ["libunwind"]
        assert facts["compiled"] == ["generic_fp,libgcc,libunwind"]
        assert facts["libunwind"] == ["built", "-", "1.3.1"]
    else:
        assert {"--enable-frame-pointers", "--disable-libunwind"} <= set(arguments)
        assert facts["method"] == ["generic_fp"]
        assert facts["compiled"] == ["generic_fp,libgcc"]
        assert facts["libunwind"] == ["none"]
    assert "--enable-minimal" not in arguments
    assert (root / "out/facts/dropped.tsv").read_text() == "3\t-march=native\n"
    assert "#define __AVX__ 1" in (root / "out/facts/macros.txt").read_text().splitlines()
    assert len((root / "out/facts/compiler.txt").read_text().splitlines()) == 3

    prefix = root / "out/prefix"
    wanted = {f"lib/lib{name}{end}" for name in LIBRARIES for end in (".a", ".so", ".so.4", ".so.4.5")}
    wanted |= {"lib/pkgconfig/libtcmalloc.pc", "lib/pkgconfig/libprofiler.pc"}
    wanted |= {"include/gperftools/tcmalloc.h", "share/doc/gperftools/COPYING"}
    if built:
        wanted |= {"lib/libunwind.so", "lib/libunwind.so.8", "lib/libunwind.so.8.0.1", "share/doc/libunwind/COPYING"}
    assert names(prefix) == wanted
    for name in LIBRARIES:
        found = dynamic(prefix / f"lib/lib{name}.so.4")
        assert found.get("RUNPATH") == (["$ORIGIN"] if built else None)
        assert "RPATH" not in found
        assert ("libunwind.so.8" in found.get("NEEDED", [])) is built
        assert sh("ldd", prefix / f"lib/lib{name}.so.4", env=clean_env()).stdout.count("not found") == 0
    pc = (prefix / "lib/pkgconfig/libtcmalloc.pc").read_text()
    assert pc.splitlines()[0] == "prefix=${pcfiledir}/../.."
    assert "/usr" not in pc


@pytest.mark.parametrize("unwinder", WAYS)
def test_run_paths_of_the_build_are_wiped(tmp_path: Path, unwinder: str) -> None:
    root = make_root(tmp_path / "root")
    makefile = root / "src/Makefile.in"
    makefile.write_text(makefile.read_text().replace("@LIBS@", "@LIBS@ -Wl,-rpath,$(CURDIR)/.libs"))
    done = run_allocator(root, unwinder)
    assert done.returncode == 0, done.stderr
    for name in LIBRARIES:
        library = root / f"out/prefix/lib/lib{name}.so.4.5"
        assert dynamic(library).get("RUNPATH") == (["$ORIGIN"] if unwinder == "libunwind" else None)
        assert os.fsencode(root) not in library.read_bytes()


@pytest.mark.parametrize("unwinder", WAYS)
def test_frame_pointers_are_kept_when_they_are_walked(tmp_path: Path, unwinder: str) -> None:
    root = make_root(tmp_path / "root")
    assert run_allocator(root, unwinder).returncode == 0
    debug = root / "out/debug/lib/libtcmalloc.so.4.5.debug"
    flags = sh("readelf", "--debug-dump=info", debug, env=clean_env()).stdout
    assert "-march=sandybridge" in flags
    assert ("-fno-omit-frame-pointer" in flags) is (unwinder == "frame-pointers")


def test_debug_information_stands_apart_and_archives_have_none(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    assert run_allocator(root, "libunwind").returncode == 0
    apart = {f"lib/lib{name}.so.4.5.debug" for name in LIBRARIES} | {"lib/libunwind.so.8.0.1.debug"}
    assert names(root / "out/debug") == apart
    for name in ("libtcmalloc.so.4.5", "libtcmalloc.a"):
        sections = sh("readelf", "-SW", root / "out/prefix/lib" / name, env=clean_env()).stdout
        assert ".symtab" in sections
        assert ".debug_info" not in sections


def test_archives_have_their_weak_symbols_made(tmp_path: Path) -> None:
    """The target of 2.10 is asked for, with the libraries that are delivered and no others."""
    root = make_root(tmp_path / "root")
    assert run_allocator(root, "frame-pointers").returncode == 0
    assert (root / "src/weakened").exists()


@pytest.mark.parametrize("unwinder", WAYS)
def test_same_bytes_from_another_folder_and_another_unpacking(tmp_path: Path, unwinder: str) -> None:
    roots = [make_root(tmp_path / "a"), make_root(tmp_path / "another-folder")]
    for number, path in enumerate(sorted((roots[1] / "src").rglob("*"))):
        # Some of them in the wrong order for make, and some in the future.
        os.utime(path, (EPOCH + number * 10**8, EPOCH + number * 10**8))
    for root, jobs in zip(roots, ("1", "3"), strict=True):
        done = run_allocator(root, unwinder, PIKAFORGE_JOBS=jobs)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = (everything(root) for root in roots)
    assert first == second
    assert {time for _, time, _ in first.values()} == {float(EPOCH)}
    assert {stat.S_IMODE(mode) for mode, _, _ in first.values() if stat.S_ISREG(mode)} == {0o644}
    for name, (_, _, data) in first.items():
        assert os.fsencode(tmp_path) not in data, name
    said = [{p.name: p.read_bytes() for p in (root / "out/facts").iterdir()} for root in roots]
    assert said[0] == said[1]
    assert os.fsencode(tmp_path) not in b"".join(said[0].values())


def test_second_run_starts_clean(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    assert run_allocator(root, "libunwind").returncode == 0
    before = everything(root)
    (root / "out/prefix/lib/stale").write_text("")
    (root / "stage/unwind/usr/lib/libunwind.so.7.9").write_text("")
    assert run_allocator(root, "libunwind").returncode == 0
    assert everything(root) == before


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PIKAFORGE_UNWINDER": ""}, "not set: PIKAFORGE_UNWINDER"),
        ({"PIKAFORGE_VERSION": "", "PIKAFORGE_JOBS": ""}, "not set: PIKAFORGE_VERSION PIKAFORGE_JOBS"),
        ({"PIKAFORGE_UNWINDER": "libgcc"}, "PIKAFORGE_UNWINDER is libgcc, not libunwind or frame-pointers"),
        ({"PIKAFORGE_JOBS": "two"}, "must be numbers"),
    ],
)
def test_wrong_environment_is_2(tmp_path: Path, values: dict[str, str], message: str) -> None:
    root = make_root(tmp_path / "root")
    done = run_allocator(root, values.pop("PIKAFORGE_UNWINDER", "libunwind"), **values)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_source_is_2(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    # As an archive whose top folder was not stripped.
    (root / "src").rename(root / "gperftools-2.10")
    (root / "src").mkdir()
    (root / "gperftools-2.10").rename(root / "src/gperftools-2.10")
    done = run_allocator(root, "frame-pointers")
    assert done.returncode == 2
    assert "without its top folder" in done.stderr


@pytest.mark.parametrize(("hidden", "message"), [("libunwind.h", "no libunwind.h"), ("-lunwind", "to link with")])
def test_image_without_libunwind_is_66_and_says_what_to_install(tmp_path: Path, hidden: str, message: str) -> None:
    root = make_root(tmp_path / "root", libunwind=False)
    # It has the header, whatever this machine has, unless that is what is hidden.
    text = f'case " $* " in *" {hidden} "*) exit 1 ;; *" -include libunwind.h "*) exit 0 ;; esac\n'
    text += 'exec {real} "$@"\n'
    done = run_allocator(root, "libunwind", PATH=stand_in(tmp_path / "tools", "gcc", text))
    assert done.returncode == 66, done.stdout + done.stderr
    assert message in done.stderr
    assert "libunwind-dev" in done.stderr
    assert "libunwind-devel" in done.stderr
    assert not (root / "src/src/config.h").exists(), "configure would have gone on without"


def test_target_that_the_compiler_does_not_know_is_66(tmp_path: Path) -> None:
    done = run_allocator(make_root(tmp_path / "root"), "frame-pointers", PIKAFORGE_TARGET_FLAGS="-march=z80")
    assert done.returncode == 66
    assert "cannot make code for: -march=z80" in done.stderr


@pytest.mark.parametrize("newer", [False, True], ids=["2.10", "2.16"])
@pytest.mark.parametrize(
    ("unwinder", "planted", "chosen"), [("frame-pointers", "yes", "libunwind"), ("libunwind", "no", "frame-pointers")]
)
def test_configure_that_chooses_otherwise_is_65(
    tmp_path: Path, unwinder: str, planted: str, chosen: str, newer: bool
) -> None:
    root = make_root(tmp_path / "root", newer=newer, planted=f"unwind={planted}")
    done = run_allocator(root, unwinder)
    assert done.returncode == 65, done.stdout + done.stderr
    assert f"asked for {unwinder}, but configure of gperftools chose {chosen}" in done.stderr
    assert not list((root / "src").rglob("*.la")), "nothing was compiled in vain"


@pytest.mark.parametrize(
    ("unwinder", "old", "new", "message"),
    [
        # What a library would have that was configured without frame pointers.
        ("frame-pointers", "defined FRAMES_yes", "0", "uses libgcc; compiled in: generic_fp,libgcc"),
        # Linked, compiled in, but not taken: 2.7 does so with --enable-frame-pointers.
        ("libunwind", "CHOSEN impl__libunwind", "CHOSEN impl__generic_fp", "uses generic_fp"),
        (
            "frame-pointers",
            "impl__",
            "walker_",
            "uses a stack walker that is not known; compiled in: nothing that is known",
        ),
    ],
)
def test_library_that_chose_otherwise_is_65(tmp_path: Path, unwinder: str, old: str, new: str, message: str) -> None:
    assert old in STACKTRACE
    root = make_root(tmp_path / "root", source=STACKTRACE.replace(old, new))
    done = run_allocator(root, unwinder)
    assert done.returncode == 65, done.stdout + done.stderr
    assert message in done.stderr
    assert f"asked for {unwinder}, but lib" in done.stderr


def test_library_that_is_linked_with_libunwind_for_nothing_is_65(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    makefile = root / "src/Makefile.in"
    makefile.write_text(makefile.read_text().replace("@LIBS@", "-Wl,--no-as-needed libunwind.so.8"))
    (root / "src/configure").write_text(
        (root / "src/configure").read_text()
        + "echo 'int nothing;' | gcc -x c -shared -Wl,-soname,libunwind.so.8 -o libunwind.so.8 -\n"
    )
    done = run_allocator(root, "frame-pointers")
    assert done.returncode == 65, done.stdout + done.stderr
    assert "asked for frame-pointers, but libprofiler.so.4.5 is linked for libunwind" in done.stderr


def test_source_of_another_version_is_65(tmp_path: Path) -> None:
    done = run_allocator(make_root(tmp_path / "root"), "frame-pointers", PIKAFORGE_VERSION="2.7")
    assert done.returncode == 65
    assert "asked for gperftools 2.7, but the source is 2.10" in done.stderr


def test_path_of_the_build_in_a_delivered_file_is_65(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    makefile = root / "src/Makefile.in"
    makefile.write_text(makefile.read_text().replace("HEADER", "$(CURDIR)/src"))
    done = run_allocator(root, "frame-pointers")
    assert done.returncode == 65
    assert f"a path below {root} is in: include/gperftools/tcmalloc.h" in done.stderr


def test_folder_of_containers_is_told_from_where_it_is_mapped_to(tmp_path: Path) -> None:
    """What is mapped ends like the build folder of containers; only the build folder is a leak."""
    root = make_root(tmp_path / "root")
    makefile = root / "src/Makefile.in"
    makefile.write_text(makefile.read_text().replace("HEADER", f"/usr/src{root}/src {root}-other"))
    done = run_allocator(root, "frame-pointers")
    assert done.returncode == 0, done.stderr


def test_source_without_licence_is_65(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "libunwind/COPYING").unlink()
    done = run_allocator(root, "libunwind")
    assert done.returncode == 65
    assert "the source of libunwind has no COPYING" in done.stderr


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("src/configure", "exit 1\n", "configure of gperftools failed"),
        ("src/Makefile.in", "libtcmalloc.la:\n\tfalse\n", "gperftools could not be built"),
        ("libunwind/Makefile", "all:\n\tfalse\n", "libunwind could not be built"),
    ],
)
def test_failed_build_is_64_and_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    root = make_root(tmp_path / "root")
    (root / file).write_text(text)
    done = run_allocator(root, "libunwind")
    assert done.returncode == 64
    assert done.stderr.splitlines()[-1] == f"forge: reason: {message}"


@pytest.mark.parametrize("status", [0, 1])
def test_tree_without_configure_gets_one(tmp_path: Path, status: int) -> None:
    root = make_root(tmp_path / "root")
    (root / "src/configure").rename(root / "src/configure.ac")
    text = f'[ "$*" = --install ] || exit 9\nmv configure.ac configure\nchmod 755 configure\nexit {status}\n'
    stand_in(tmp_path / "tools", "automake", "")
    stand_in(tmp_path / "tools", "libtoolize", "")
    path = stand_in(tmp_path / "tools", "autoreconf", text)
    done = run_allocator(root, "frame-pointers", PATH=path)
    assert done.returncode == (64 if status else 0), done.stdout + done.stderr
    assert ("autoreconf failed in src" in done.stderr) is bool(status)
