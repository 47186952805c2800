"""The wheel that the pipeline made, from a real index: pip finds it by name and version, and its command works."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pikaforge.describe.contents import packed_mode, read_package

if TYPE_CHECKING:
    from .conftest import Shop

pytest.importorskip("pypiserver", reason="the extra `tests` has it")
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("wheel")]

NAME = "pika-server"
VERSION = "3.4.0+r620.debian12"
GONE = ("PYTHONPATH", "PYTHONHOME", "FORGE_SKIP_CPU_GATE", "LD_LIBRARY_PATH")


def clean() -> dict[str, str]:
    """This process's environment without what changes what is run, and without pip's settings, which name indexes."""
    env = {name: value for name, value in os.environ.items() if name not in GONE and not name.startswith("PIP_")}
    # A loopback address is no proxy's business.
    return {**env, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "PIP_CONFIG_FILE": os.devnull}


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(word) for word in argv], env=clean(), capture_output=True, text=True, check=False, timeout=120
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A package index on this machine's loopback interface."""

    url: str
    log: Path

    def get(self, path: str) -> str:
        """What it answers; nothing while there is no answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


@pytest.fixture(scope="module")
def built(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the pipeline leaves it in dist/."""
    project = shop.ready(tmp_path_factory.mktemp("wheel-index"))
    shop.take(project, "source", "compile", "audit", "smoke")
    project.build("R620", "--formats", "wheel", check=0)
    (found,) = (project.dist / "debian12").glob("*.whl")
    return found


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
    log = tmp_path_factory.mktemp("index") / "log"
    for _ in range(20):  # the port may be taken between the two lines
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        index = Index(url=f"http://127.0.0.1:{port}", log=log)
        with serving(built.parent, port, log) as server:

            def ended_or_answers(server: subprocess.Popen[bytes] = server, index: Index = index) -> bool:
                return server.poll() is not None or bool(index.get("/simple/"))

            until(ended_or_answers, "the index answers", 30)
            if server.poll() is None:
                yield index
                return
        if "Address already in use" not in log.read_text():
            break
    pytest.fail(f"the index does not start:\n{log.read_text()}")


@contextmanager
def serving(folder: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A pypiserver that runs while the block does."""
    options = ["--interface", "127.0.0.1", "--port", str(port), "--disable-fallback", "-a", ".", "-P", ".", "-v"]
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "pypiserver", "run", *options, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=clean(),
            start_new_session=True,
        )
    try:
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def install(environment: Path, index: Index, wanted: str) -> subprocess.CompletedProcess[str]:
    """Let pip of this environment install something into another one, from the index alone."""
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check")
    options = ("--no-deps", "--no-cache-dir", "--index-url", f"{index.url}/simple/")
    return run(*pip, "install", *options, wanted)


@pytest.fixture(scope="module")
def environment(index: Index, manifest: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment into which pip put the wheel."""
    needed = manifest["audit"]["symbol_versions"]["GLIBC"]
    if numbers(platform.libc_ver()[1]) < numbers(needed):
        pytest.skip(f"this machine's glibc is older than {needed}, which the sample for debian12 needs")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    done = install(folder, index, f"{NAME}=={VERSION}")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{index.log.read_text()}"
    assert f"Successfully installed {NAME}-{VERSION}" in done.stdout
    return folder


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


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
    done = install(tmp_path / "env", index, f"{NAME}==3.4.0+r720.debian12")
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
