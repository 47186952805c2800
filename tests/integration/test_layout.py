"""The traps of a folder called build/, and what must not be in the package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "build" / "pikaforge"


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _files() -> set[str]:
    """What belongs to the package, by path in the wheel."""
    made = {"__pycache__", ".mypy_cache", ".ruff_cache"}
    return {
        path.relative_to(ROOT / "build").as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and not made & set(path.parts)
    }


@pytest.mark.parametrize("folder", ["build", "docker", "tests"])
def test_folders_that_must_not_be_packages(folder: str) -> None:
    """With an __init__.py in build/ or docker/, ours would shadow the packages of those names."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_folder_of_modules_is_a_package() -> None:
    for folder in {path.parent for path in _sources()}:
        assert (folder / "__init__.py").is_file(), folder


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    argv = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *args]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def test_the_source_root_is_not_ignored() -> None:
    """A build backend that follows .gitignore would ship an empty wheel without a word."""
    paths = sorted(f"build/{name}" for name in _files())
    done = _git(
        "check-ignore",
        "--no-index",
        "--",
        *paths,
        "build/pikaforge/new.py",
        "build/pikaforge/new/__init__.py",
        "build/recipes/x.sh",
    )
    assert (done.returncode, done.stdout) == (1, ""), f"ignored: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    "path",
    ["build/lib/x.py", "build/bdist.linux-x86_64/x", "out/store/x", "dist/x", "build/pikaforge/__pycache__/x.pyc"],
)
def test_what_is_made_is_ignored(path: str) -> None:
    assert _git("check-ignore", "--no-index", "-q", path).returncode == 0


def test_the_wheel_has_exactly_the_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed here")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet",
         "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        everything = archive.namelist()
    names = {name for name in everything if not re.match(r"[^/]*\.(dist-info|data)/", name)}
    assert names == _files()
    shared = [name for name in everything if ".data/" in name]
    assert [name.partition(".data/")[2] for name in shared] == ["data/share/man/man1/pikaforge.1"]
    assert {"pikaforge/operate/assets/deploy.sh", "pikaforge/cli/main.py", "pikaforge/host/job.py"} <= names


def test_the_package_names_no_product() -> None:
    """What is built is data: matrix.yaml and a recipe. Only the client of a protocol may say whose it is."""
    named = []
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix not in (".py", ".sh", ".service", ".csv", ".jinja"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.search(r"pika(?!forge)", line, re.IGNORECASE)
            if path != PACKAGE / "pipeline" / "smoke" / "resp.py":
                found = found or re.search(r"redis", line, re.IGNORECASE)
            if found:
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert named == []


TAR_WRITERS = {
    "bundle/listing.py",
    "host/confinement.py",
    "host/container_inputs.py",
    "host/job.py",
    "host/no_container.py",
    "host/source_tarball.py",
    "pipeline/source/submodules.py",
}
IMPORT = r"^\s*(import|from)\s+{}\b"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("subprocess", {"host/process.py"}),
        # One module makes the client; the others take it, and name its type.
        (
            "docker",
            {
                "host/connection.py",
                "host/container.py",
                "host/engine_calls.py",
                "host/memory_watch.py",
                "host/sweeping.py",
            },
        ),
        # The second one bounds the calls of the engine's SDK, which is a session of requests.
        ("requests", {"host/http_session.py", "host/http_sockets.py", "host/engine_calls.py"}),
        ("urllib3", {"host/http_session.py", "host/http_sockets.py"}),
        # The second one reads the answers of a server under test; it makes no connections.
        (r"http\.client", {"host/http_session.py", "pipeline/smoke/probes/http_probe.py"}),
        (r"urllib\.request", set()),
        ("redis", set()),
        # One module reads archives; the others make some. zlib also has sections of ELF files, and lists in memory.
        # Bundles are read before there are libraries, and images as streams.
        ("tarfile", {"host/archives.py", "bundle/reader.py", "host/image_archive.py", *TAR_WRITERS}),
        ("zipfile", {"host/archives.py", "host/zips.py", "formats/wheel/wheel.py", "bundle/wheels.py"}),
        ("gzip", {"host/streams.py", "formats/deb/apt.py", "bundle/reader.py", "bundle/writer.py"}),
        ("bz2", {"host/streams.py"}),
        ("lzma", {"host/archives.py", "host/streams.py"}),
        (
            "zlib",
            {
                "host/archives.py",
                "bundle/reader.py",
                "audit/elf/dwarf.py",
                "audit/isa/areas.py",
                "audit/isa/doubtful.py",
                "formats/rpm/yum.py",
            },
        ),
    ],
)
def test_effects_have_one_door(module: str, allowed: set[str]) -> None:
    pattern = re.compile(IMPORT.format(module), re.MULTILINE)
    users = {
        path.relative_to(PACKAGE).as_posix() for path in _sources() if pattern.search(path.read_text(encoding="utf-8"))
    }
    # What ships in packages runs on hosts, where the tool is not.
    users = {name for name in users if not name.startswith("formats/wheel/runtime/")}
    assert users == allowed
