"""The wheel that the pipeline made, from a real index: pip finds it by name and version, and its command works."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.index_server import NAME, VERSION, Index, index_of, install, run, skip_unless_it_runs_here, wheel_of

from pikaforge.attest.contents import packed_mode, read_package

if TYPE_CHECKING:
    from .builds import SampleBuild

pytest.importorskip("pypiserver", reason="the extra `tests` has it")
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def built(sample_build: Callable[..., SampleBuild], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the pipeline leaves it in dist/."""
    return wheel_of(sample_build, tmp_path_factory.mktemp("wheel-index"))


@pytest.fixture(scope="module")
def manifest(built: Path) -> dict[str, Any]:
    """What the wheel says of itself."""
    text = read_package(built).manifest
    assert text is not None
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.fixture(scope="module")
def index(built: Path, until: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A pypiserver with the folder of the pipeline's packages; it has nothing else and asks no other index."""
    with index_of(built.parent, tmp_path_factory.mktemp("index") / "log", until) as index:
        yield index


@pytest.fixture(scope="module")
def environment(index: Index, manifest: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment into which pip put the wheel."""
    needed = manifest["audit"]["symbol_versions"]["GLIBC"]
    skip_unless_it_runs_here(needed)
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    done = install(folder, f"{index.url}/simple/", f"{NAME}=={VERSION}")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{index.log.read_text()}"
    assert f"Successfully installed {NAME}-{VERSION}" in done.stdout
    return folder


def test_the_index_gave_the_file_of_the_pipeline(index: Index, built: Path, environment: Path) -> None:
    assert built.name.startswith(f"pika_server-{VERSION}-py3-none-manylinux_")
    page = index.get(f"/simple/{NAME}/")
    assert f"#sha256={hashlib.sha256(built.read_bytes()).hexdigest()}" in page
    log = index.log.read_text()
    assert f"/simple/{NAME}/" in log
    assert any(built.name.partition("+")[0] in line and ".whl" in line for line in log.splitlines()), log
    assert (environment / "bin" / NAME).is_file()


def test_a_version_that_is_not_there_is_not_found(index: Index, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    done = install(tmp_path / "env", f"{index.url}/simple/", f"{NAME}==3.4.0+r720.debian12")
    assert done.returncode != 0
    assert f"No matching distribution found for {NAME}==3.4.0+r720.debian12" in done.stderr
    assert VERSION in done.stderr, "pip tells what there is"
    assert not (tmp_path / "env" / "bin" / NAME).exists()


def test_the_command_tells_its_version_and_looks_at_the_cpu(environment: Path, manifest: dict[str, Any]) -> None:
    done = run(environment / "bin" / NAME, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{NAME} {VERSION}: pika {manifest['version']} for "), done.stdout
    done = run(environment / "bin" / NAME, "check-cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cpu-gate: this machine can run pika v3.4.0 for R620 "), done.stdout


def test_the_installed_files_are_those_of_the_manifest(environment: Path, manifest: dict[str, Any]) -> None:
    done = run(environment / "bin" / NAME, "path")
    assert (done.returncode, done.stderr) == (0, "")
    tree = Path(done.stdout.strip())
    assert tree.is_relative_to(environment)
    assert json.loads((tree / "manifest.json").read_text(encoding="utf-8")) == manifest
    listed = {item["path"]: item for item in manifest["contents"]}
    assert {"bin/pika", "conf/pika.conf", "utils/cpu-gate.sh"} <= set(listed)

    def told(path: str) -> tuple[str, str]:
        """Mode and digest; a wheel has a copy where the tree has a link."""
        item = listed[path]
        if "link" in item:
            return told(os.path.normpath(Path(path).parent / item["link"]))
        return item["mode"], item["sha256"]

    found = {}
    for path in tree.rglob("*"):
        if not path.is_dir():
            state = path.lstat()
            assert stat.S_ISREG(state.st_mode), path
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(tree))] = packed_mode(state.st_mode), digest
    del found["manifest.json"]
    assert found == {path: told(path) for path in listed}
