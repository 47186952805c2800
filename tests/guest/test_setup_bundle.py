"""`setup.sh --bundle` on machines that exist only as stubs: what is missing is said at once, nothing is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from guest.test_setup import TOUCHES, Machine, machine

from pikaforge.bundle import reader, writer
from pikaforge.bundle.listing import Listing
from pikaforge.bundle.writer import MemberFile
from pikaforge.errors import BundleError

__all__ = ["machine"]

REPO = Path(__file__).resolve().parents[2]
INNER = """#!/bin/bash
{ printf '%s\\n' "$@"; echo "offline=$PIKAFORGE_OFFLINE index=$PIP_NO_INDEX links=$PIP_FIND_LINKS python=$PYTHON"
  echo "keys=${PIKAFORGE_VERIFY_KEYS-}"; } >"$SANDBOX/inner-saw"
"""
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def bundle(machine: Machine, *, python: str = HERE, engine: str = "docker", name: str = "x.tar.gz") -> Path:
    """A bundle whose setup.sh only writes down what it gets; and the reader, which a checkout has."""
    shutil.copytree(REPO / "build/pikaforge", machine.repo / "build/pikaforge", dirs_exist_ok=True)
    contents = {"tool/setup.sh": INNER, "keys/0.asc": "key", "wheels/a.whl": ""}
    sources = {}
    for member, text in contents.items():
        path = machine.path / member.replace("/", "-")
        path.write_text(text)
        sources[member] = MemberFile(path=path)
    listing = Listing(
        cells=("R620-debian12-none",),
        pythons=(python,),
        arguments=("--matrix", "{folder}/tool/matrix.yaml", "--source", "sample"),
        engine=engine,
        members=writer.members_of(sources),
        contents={},
    )
    writer.write(machine.path / name, listing, sources)
    return machine.path / name


@pytest.fixture
def real(machine: Machine) -> Machine:
    """A machine whose Python runs the reader."""
    text = (machine.path / "bin/python3").read_text()
    branch = f'    "-m pikaforge.bundle.reader"|"-c import sys; sys.exit("*) exec {sys.executable} "$@" ;;\nesac'
    (machine.path / "bin/python3").write_text(text.replace("esac", branch))
    return machine


def saw(machine: Machine) -> list[str]:
    return (machine.path / "inner-saw").read_text().splitlines()


def test_the_tool_of_the_bundle_builds(real: Machine) -> None:
    real.engine()
    done = real.run("--bundle", "x.tar.gz", "R620", "--jobs", "2", cwd=bundle(real).parent)
    assert done.returncode == 0, done.stderr
    (folder,) = (real.repo / "out/bundles").iterdir()
    *arguments, settings, keys = saw(real)
    assert arguments == [
        *("--matrix", f"{folder}/tool/matrix.yaml", "--source", "sample"),
        *("--out", f"{real.repo}/out", "--dist", f"{real.repo}/dist", "R620", "--jobs", "2"),
    ]
    links = folder.as_uri() + "/wheels"
    assert settings == f"offline={folder} index=1 links={links} python={real.path}/bin/python3"
    assert keys == f"keys={folder}/keys/0.asc"
    assert real.calls(*TOUCHES) == []


def test_all_that_is_missing_is_said_at_once_and_nothing_is_installed(real: Machine) -> None:
    file = bundle(real)
    real.remove("git", "tar")
    done = real.run("--bundle", str(file), "R620")
    assert done.returncode == 3
    assert "error: offline, and this machine lacks: git tar docker.io" in done.stderr
    assert "needs docker.io: it runs containers, and no bundle can carry an engine" in done.stderr
    assert "a bundle carries no packages of the system, no Python and no container engine" in done.stderr
    assert real.calls(*TOUCHES) == []
    assert not (real.repo / "out").exists()


def test_a_bundle_for_the_host_engine_needs_no_engine(real: Machine) -> None:
    done = real.run("--bundle", str(bundle(real, engine="host")), "R620")
    assert done.returncode == 0, done.stderr


def test_a_python_without_wheels_is_named(real: Machine) -> None:
    real.engine()
    done = real.run("--bundle", str(bundle(real, python="3.99")), "R620")
    assert done.returncode == 3
    assert "lacks: python3.99" in done.stderr
    assert "PYTHON=/path/to/python3 names one" in done.stderr


def test_zstd_is_needed_for_a_bundle_that_it_has_packed(real: Machine) -> None:
    real.engine()
    real.remove("zstd")
    file = bundle(real).rename(real.path / "x.tar.zst")
    done = real.run("--bundle", str(file), "R620")
    assert done.returncode == 3
    assert "lacks: zstd" in done.stderr


def test_a_damaged_bundle_ends_it_and_leaves_nothing(real: Machine) -> None:
    real.engine()
    file = bundle(real)
    file.write_bytes(file.read_bytes()[:-200])
    done = real.run("--bundle", str(file), "R620")
    assert done.returncode == 4
    assert "error: the bundle is truncated or damaged" in done.stderr
    assert not (real.path / "inner-saw").exists()
    assert list((real.repo / "out/bundles").glob("*")) == []


@pytest.mark.parametrize("words", [("--bundle",), ("--bundle", "/none", "R620")])
def test_no_bundle(real: Machine, words: tuple[str, ...]) -> None:
    done = real.run(*words)
    assert done.returncode == 3
    assert "bundle" in done.stderr


def test_offline_nothing_is_installed(machine: Machine) -> None:
    """As the setup.sh in a bundle runs."""
    machine.engine()
    machine.remove("gzip", "gpg", "mmdebstrap")
    done = machine.run("R620", env={"PIKAFORGE_OFFLINE": "/x"})
    assert done.returncode == 3
    assert "lacks: gzip\n" in done.stderr
    assert machine.calls(*TOUCHES) == []


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.zst"])
def test_each_way_to_pack(machine: Machine, name: str) -> None:
    """Here with the real program zstd."""
    first = bundle(machine, name=name)
    data = first.read_bytes()
    assert bundle(machine, name=name).read_bytes() == data
    folder, listing = reader.unpack(first, machine.path / "root")
    assert (folder / "tool/setup.sh").read_text() == INNER
    assert [member.name for member in listing.members] == ["keys/0.asc", "tool/setup.sh", "wheels/a.whl"]
    for cut in (10, 100, len(data) - 3):
        first.write_bytes(data[:cut])
        with pytest.raises(BundleError):
            reader.unpack(first, machine.path / "other")
    assert list((machine.path / "other").glob("*")) == []


def test_the_reader_needs_no_library(tmp_path: Path) -> None:
    """Before there is an environment, Python has its own modules alone."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w"):
        pass
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pikaforge.bundle.reader", "unpack", str(tmp_path / "x.tar"), str(tmp_path)],
        env={"PYTHONPATH": str(REPO / "build"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: the bundle ends before manifest.json")
