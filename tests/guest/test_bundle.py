"""docker/guest/bundle.sh: a tree that finds its libraries wherever it is unpacked."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import BASE_LIBS, GUEST, clean_env, need, sh

SONAMES = ("libinner.so.1", "libouter.so.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A made-up product: bin/app needs libouter, which needs libinner, in ``libs``."""

    root: Path
    libs: Path

    @property
    def tree(self) -> Path:
        return self.root / "out" / "tree"

    @property
    def app(self) -> Path:
        return self.tree / "bin" / "app"

    def compile(self, name: str, text: str, *flags: str) -> None:
        target = Path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        words: list[str | Path] = [
            "gcc",
            "-x",
            "c",
            "-",
            "-x",
            "none",
            "-Wl,--no-as-needed",
            "-o",
            target,
            *flags,
        ]
        done = sh(*words, env=clean_env(), text=text)
        assert done.returncode == 0, done.stderr

    def bundle(self, *verbs: str, **env: str) -> CompletedProcess[str]:
        values = {"PIKAFORGE_ROOT": str(self.root), "PIKAFORGE_BASE_LIBS": BASE_LIBS, **env}
        return sh("sh", GUEST / "bundle.sh", *verbs, env=clean_env(**values))

    def bundled(self) -> list[list[str]]:
        lines = (self.root / "out/facts/bundled.tsv").read_text().splitlines()
        return [line.split("\t") for line in lines]


def run_path(file: Path) -> list[str]:
    """The run path entries of an ELF file, as readelf prints them."""
    listing = sh("readelf", "-dW", file, env=clean_env(LC_ALL="C")).stdout
    return [line.split(maxsplit=1)[1] for line in listing.splitlines() if "PATH" in line]


def library(tree: Tree, name: str, text: str, *flags: str, folder: Path | None = None) -> Path:
    """A shared library with the soname lib<name>.so.1, and its link-time name."""
    folder = folder or tree.libs
    real = folder / f"lib{name}.so.1.0.0"
    tree.compile(str(real), text, "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so.1", *flags)
    (folder / f"lib{name}.so.1").symlink_to(real.name)
    (folder / f"lib{name}.so").symlink_to(f"lib{name}.so.1")
    return real


@pytest.fixture
def made(tmp_path: Path) -> Tree:
    need("gcc", "patchelf", "readelf", "ldd")
    tree = Tree(root=tmp_path / "root", libs=tmp_path / "allocator" / "lib")
    library(tree, "inner", "int inner(void) { return 42; }")
    library(tree, "outer", "int inner(void); int outer(void) { return inner(); }", f"-L{tree.libs}", "-linner")
    tree.compile(
        str(tree.app),
        "int outer(void); int main(void) { return outer(); }",
        f"-L{tree.libs}",
        "-louter",
        f"-Wl,-rpath-link,{tree.libs}",
    )
    return tree


def with_libs(tree: Tree) -> dict[str, str]:
    return {"PIKAFORGE_ALLOCATOR_DIR": str(tree.libs.parent)}


def test_program_runs_from_anywhere(made: Tree, tmp_path: Path) -> None:
    raw = {name: hashlib.sha256((made.libs / f"{name}.0.0").read_bytes()).hexdigest() for name in SONAMES}
    done = made.bundle(**with_libs(made))
    assert done.returncode == 0, done.stderr
    # The digests are those of the files as they were found, not of what patchelf has made of them.
    assert made.bundled() == [[name, f"lib/{name}", "allocator", "-", raw[name]] for name in SONAMES]
    assert hashlib.sha256((made.tree / "lib/libouter.so.1").read_bytes()).hexdigest() != raw["libouter.so.1"]
    assert run_path(made.app) == ["(RUNPATH)            Library runpath: [$ORIGIN/../lib]"]
    assert run_path(made.tree / "lib/libouter.so.1")[0].endswith("[$ORIGIN]")
    assert run_path(made.tree / "lib/libinner.so.1") == []
    assert (made.tree / "lib/libouter.so.1").stat().st_mode & 0o7777 == 0o644
    assert not (made.tree / "lib/libouter.so.1").is_symlink()
    shutil.rmtree(made.libs)
    moved = shutil.move(made.tree, tmp_path / "else where")
    assert sh(Path(moved) / "bin/app", env={}).returncode == 42


@pytest.mark.parametrize("lacking", ["libc", "libm"])
def test_parts_of_glibc_that_base_libraries_lacks_are_named(made: Tree, lacking: str) -> None:
    """They would travel, and not fit the host's loader."""
    made.compile(str(made.app), "double cos(double); int main(int c, char **v) { return cos(c); }", "-lm")
    base = " ".join(glob for glob in BASE_LIBS.split() if not glob.startswith(f"{lacking}.so"))
    done = made.bundle(PIKAFORGE_BASE_LIBS=base)
    assert done.returncode == 65
    assert f"bin/app needs {lacking}.so.6, a part of glibc, which cannot travel: add '{lacking}.so.*' to" in done.stderr
    assert "defaults.base_libraries" in done.stderr
    assert not (made.tree / "lib").exists()
    assert made.bundle().returncode == 0, "the control"


def test_second_run_touches_nothing(made: Tree) -> None:
    made.bundle(**with_libs(made))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in made.tree.rglob("*.*")}
    app = made.app.stat().st_mtime_ns
    assert made.bundle(**with_libs(made)).returncode == 0
    assert made.app.stat().st_mtime_ns == app
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_file_that_needs_nothing_is_not_touched(made: Tree) -> None:
    plain = made.tree / "bin" / "plain"
    made.compile(str(plain), "int main(void) { return 0; }")
    static = made.tree / "bin" / "static"
    made.compile(str(static), "int main(void) { return 0; }", "-static")
    (made.tree / "bin" / "script").write_text("#!/bin/sh\n")
    before = [path.read_bytes() for path in (plain, static)]
    done = made.bundle(**with_libs(made))
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in (plain, static)] == before


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_other_run_paths_go_with_their_text(made: Tree, tags: str) -> None:
    folder = "/home/builder/some/very/long/path/of/the/build/lib"
    for name, text, flags in (
        ("stray", "int main(void) { return 0; }", []),
        ("app", "int outer(void); int main(void) { return outer(); }", [f"-L{made.libs}", "-louter"]),
    ):
        made.compile(
            str(made.tree / "bin" / name),
            text,
            *flags,
            f"-Wl,-rpath-link,{made.libs}",
            f"-Wl,-rpath,{folder}",
            f"-Wl,{tags}",
        )
    assert made.bundle(**with_libs(made)).returncode == 0
    assert run_path(made.tree / "bin/stray") == []
    assert run_path(made.app) == ["(RUNPATH)            Library runpath: [$ORIGIN/../lib]"]
    for name in ("stray", "app"):
        assert b"/home/builder" not in (made.tree / "bin" / name).read_bytes()


def test_depth_of_a_file_decides_its_run_path(made: Tree) -> None:
    places = ("tool", "libexec/a/tool", "lib/plugins/tool")
    for place in places:
        (made.tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.app, made.tree / place)
    assert made.bundle(**with_libs(made)).returncode == 0
    found = [run_path(made.tree / p)[0].partition("[")[2] for p in places]
    assert found == ["$ORIGIN/lib]", "$ORIGIN/../../lib]", "$ORIGIN/..]"]
    assert sh(made.tree / "libexec/a/tool", env={}).returncode == 42


def test_missing_library_is_named(made: Tree) -> None:
    done = made.bundle()
    assert done.returncode == 65
    assert "bin/app needs libouter.so.1 => not found" in done.stderr


def test_library_named_by_its_path_is_refused(made: Tree) -> None:
    nameless = made.libs / "libnameless.so"
    made.compile(str(nameless), "int f(void) { return 1; }", "-shared", "-fPIC")
    made.compile(str(made.app), "int f(void); int main(void) { return f(); }", str(nameless))
    done = made.bundle(**with_libs(made))
    assert done.returncode == 65
    assert f"bin/app names {nameless} by its path" in done.stderr


def test_link_step_alone_proves_that_the_tree_is_closed(made: Tree) -> None:
    need("patchelf")
    system = Path("/usr/lib/x86_64-linux-gnu/libz.so.1")
    if not system.exists():
        pytest.skip("no libz here to be found outside of the tree")
    made.compile(str(made.app), "const char *zlibVersion(void); int main(void) { return !zlibVersion(); }", str(system))
    done = made.bundle("link")
    assert done.returncode == 65
    assert "bin/app finds libz.so.1 outside of the tree" in done.stderr
    assert made.bundle().returncode == 0
    [[soname, path, package, version, digest]] = made.bundled()
    assert (soname, path) == ("libz.so.1", "lib/libz.so.1")
    assert digest == hashlib.sha256(system.read_bytes()).hexdigest()
    if shutil.which("dpkg-query"):
        assert package == "zlib1g"
        assert version.startswith("1:")


def test_package_of_a_library_on_rpm_systems(made: Tree, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    names = "bash sh od tr find sort mktemp rm mkdir sed grep readelf ldd readlink cp chmod cat patchelf sha256sum"
    for name in (*names.split(), "printenv"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    # rpm complains on its output stream; the name is known by the real path only.
    (tools / "rpm").write_text(
        "#!/bin/sh\ncase $4 in */libouter.so.1.0.0) printf 'outer\\t1-2.el7\\n' ;;\n*) echo not owned; exit 1 ;; esac\n"
    )
    (tools / "rpm").chmod(0o755)
    shutil.copytree(made.libs, made.tree / "lib", symlinks=True)
    for name in ("libouter.so.1", "libouter.so.1.0.0", "libinner.so.1.0.0", "libinner.so.1"):
        (made.tree / "lib" / name).unlink()
    for file in [made.app, *made.libs.glob("lib*.so.1.0.0")]:
        assert sh("patchelf", "--set-rpath", made.libs, file, env=clean_env()).returncode == 0
    done = made.bundle(PATH=str(tools))
    assert done.returncode == 0, done.stderr
    assert [row[2:4] for row in made.bundled()] == [["unknown", "-"], ["outer", "1-2.el7"]]


def test_no_patchelf_is_its_own_status(made: Tree, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "od", "tr", "find", "sort", "mktemp", "rm", "mkdir", "printenv"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    done = made.bundle(PATH=str(tools))
    assert done.returncode == 66
    assert "patchelf is not installed" in done.stderr
