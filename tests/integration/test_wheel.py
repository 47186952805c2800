"""Wheels as operators meet them: pip installs one from a folder, and its command runs the server and deploys it."""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from described import conf_of, server_of
from guest.operated_host import moved

from pikaforge.config import load
from pikaforge.config.product import Product
from pikaforge.formats.wheel import wheel, wheel_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.conftest import Warm

pytestmark = pytest.mark.xdist_group("wheel-host")  # one worker: it is installed once
ROOT = Path(__file__).resolve().parents[2]
GONE = ("PYTHONPATH", "PYTHONHOME", "PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE", "LD_LIBRARY_PATH")
STUBS = {
    "id": 'case "$*" in -u*) echo 0 ;; esac',
    "useradd": 'echo "useradd $*" >>"$SPY"',
    "chown": 'echo "chown $*" >>"$SPY"',
    "systemctl": 'echo "systemctl $*" >>"$SPY"',
    "runuser": 'echo "runuser $*" >>"$SPY"',  # the user may pass every folder
    "rsync": "",
    "setpriv": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
}
"""What of deploy.sh would change this machine, as programs that only take down how they were called."""
AS_ROOT = "import os, sys; os.geteuid = lambda: 0; from {package}.cli import command; sys.exit(command(sys.argv[1:]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A Python environment with a wheel in it."""

    product: Product
    tarball: Path
    wheel: Path
    python: Path

    @property
    def command(self) -> Path:
        return self.python.parent / f"{self.product.name}-server"

    @property
    def package(self) -> Path:
        (found,) = self.python.parents[1].glob(f"lib/python3*/site-packages/{wheel_version.module(self.product)}")
        return found

    def run(self, *words: str | Path, argv: Sequence[str | Path] = (), **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [str(word) for word in (*(argv or [self.command]), *words)],
            env={**clean(), **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def packed(self) -> dict[str, tuple[bytes, bool]]:
        """Content and executable bit of the tarball's files."""
        found = {}
        with tarfile.open(self.tarball) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    found[member.name.partition("/")[2]] = (content.read(), bool(member.mode & 0o111))
        return found


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in GONE}


def files_of(folder: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file()
    }


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def host(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The wheel of the finished build, installed by pip from a folder."""
    product = load.load(ROOT / "matrix.yaml").product
    folder = tmp_path_factory.mktemp("wheel")
    (packed,) = (warm.store / "package" / warm.keys["package"][0]).glob(f"{product.name}-*-R620.tar.gz")
    tarball = for_testing(packed, product, folder / "package.tar.gz")
    manifest = wheel.read_tree(tarball, top=product.name).manifest
    needed = (manifest.audit.symbol_versions or {})["GLIBC"]
    if _numbers(platform.libc_ver()[1]) < _numbers(needed):
        pytest.skip(f"this machine's glibc is older than {needed}, which the sample for debian12 needs")
    made = wheel.pack(tarball, product=product, into=folder / "index")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    host = Host(product=product, tarball=tarball, wheel=made, python=folder / "env" / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--python", host.python, "install", "--disable-pip-version-check")
    wanted = f"{product.name}-server=={wheel_version.version_of(manifest, release=product.release)}"
    done = host.run("--no-index", "--no-cache-dir", "--find-links", made.parent, wanted, argv=pip)
    assert done.returncode == 0, done.stdout + done.stderr
    return host


def for_testing(packed: Path, product: Product, path: Path) -> Path:
    """A package whose conf has the settings of test runs: this machine may not grant as many open files as it wants."""
    with tarfile.open(packed) as tar, tarfile.open(path, "w:gz") as changed:
        for member in tar:
            file = tar.extractfile(member)
            content = file.read() if file is not None else b""
            if member.name == f"{product.name}/utils/lib/common.sh":
                # This machine stays as it is.
                text = moved(content.decode(), path.parent / "machine")
                (path.parent / "machine/run").mkdir(parents=True)
                content = text.encode()
            if member.name == f"{product.name}/{conf_of(product).path}":
                text = content.decode()
                for key, value in conf_of(product).testing.items():
                    line = conf_of(product).line.format(key=key, value=value)
                    text, count = re.subn(rf"(?m)^{re.escape(key)}\b.*$", line, text)
                    assert count == 1, key
                content = text.encode()
            member.size = len(content)
            changed.addfile(member, io.BytesIO(content))
    return path


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.fixture
def port(host: Host) -> int:
    """A port that is free on the loopback interface, with those that belong to it."""
    for _ in range(50):
        with ExitStack() as stack:
            first = 0
            try:
                for offset in server_of(host.product).offsets:
                    probe = stack.enter_context(closing(socket.socket()))
                    probe.bind(("127.0.0.1", first + offset))
                    first = first or int(probe.getsockname()[1])
            except (OSError, OverflowError):
                continue
            return first
    pytest.skip("no ports are free here")


def test_twine_accepts_it(host: Host) -> None:
    pytest.importorskip("twine", reason="the extra `tests` has it")
    done = host.run("check", "--strict", host.wheel, argv=(sys.executable, "-m", "twine", "--no-color"))
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 1), done.stdout + done.stderr


def test_pip_puts_the_files_of_the_tarball_there(host: Host) -> None:
    assert files_of(host.package / "tree") == host.packed()
    done = host.run("path")
    assert (done.returncode, done.stdout) == (0, f"{host.package / 'tree'}\n")


def test_pip_lists_it_and_finds_it_whole(host: Host) -> None:
    """pip's own view: name and version, and every file of RECORD."""
    pip = (sys.executable, "-m", "pip", "--python", host.python)
    done = host.run("show", "--files", f"{host.product.name}-server", argv=pip)
    assert done.returncode == 0, done.stderr
    listed = {line.strip() for line in done.stdout.partition("Files:\n")[2].splitlines()}
    assert {f"{host.package.name}/tree/{name}" for name in host.packed()} <= listed
    assert f"../../../bin/{host.command.name}" in listed


def test_what_the_command_tells(host: Host) -> None:
    done = host.run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    name, version, _, *_ = host.wheel.name.split("-")
    assert done.stdout.startswith(
        f"{host.product.name}-server {version}: {host.product.name} {host.product.version} for "
    )
    assert name == host.package.name
    done = host.run("manifest")
    assert done.stdout.encode() == host.packed()["manifest.json"][0]
    again = host.run("--version", argv=(host.python, "-m", host.package.name))
    assert again.stdout.startswith(f"{host.product.name}-server {version}: ")


def test_check_cpu_is_the_gate_of_the_package(host: Host, tmp_path: Path) -> None:
    done = host.run("check-cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cpu-gate: this machine can run ")
    poor = tmp_path / "cpuinfo"
    poor.write_text("processor\t: 0\nmodel name\t: Poor\nflags\t\t: fpu lm sse2\n\n")
    done = host.run("check-cpu", "--cpuinfo", poor)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cpu-gate: error: the machine of {poor} cannot run " in done.stderr
    assert host.run("check-cpu", "--cpuinfo", tmp_path / "gone").returncode == 2
    for name in ("PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE"):
        done = host.run("check-cpu", "--cpuinfo", poor, **{name: "1"})
        assert (done.returncode, done.stdout) == (0, "")
        assert "cpu-gate: WARNING: going on all the same" in done.stderr
        assert done.stderr.count("cpu-gate: notice: ") == (name == "FORGE_SKIP_CPU_GATE")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def running(host: Host, port: int, data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server, started by the command in an empty folder."""
    with (tmp_path / "log").open("wb") as log:
        argv = [str(host.command), "run", "--port", str(port), "--data", str(data)]
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp_path, env=clean())
    try:
        yield server
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def ping(port: int) -> bytes:
    """What the server answers; nothing if there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"*1\r\n$4\r\nPING\r\n")
            return client.recv(100)
    except OSError:
        return b""


class TestRun:
    def test_serves_until_it_is_told_to_stop(
        self, host: Host, running: subprocess.Popen[bytes], port: int, data: Path, until: Callable[..., None]
    ) -> None:
        before = state_of(host.package)
        log = data.parent / "log"
        until(lambda: running.poll() is not None or ping(port) == b"+PONG\r\n", "the server answers", 30)
        assert running.poll() is None, log.read_text()
        # The command has become the server: whoever started it can signal it.
        exe = Path(f"/proc/{running.pid}/exe").readlink()
        assert exe == host.package / "tree" / server_of(host.product).command[0]
        status = Path(f"/proc/{running.pid}/status").read_text()
        ignored = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), 16)
        assert not ignored >> (signal.SIGTERM - 1) & 1
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == server_of(host.product).stop.status, log.read_text()
        assert {path.name for path in data.iterdir()} >= {"conf", "log", "db", "dump", "dbsync"}
        assert [path.name for path in (data / "conf").iterdir()] == [Path(conf_of(host.product).path).name]
        assert any((data / "db").iterdir())
        assert {path.name for path in data.parent.iterdir()} == {"data", "log"}
        assert state_of(host.package) == before

    def test_a_conf_is_made_as_deployment_makes_it(self, host: Host, tmp_path: Path) -> None:
        """The real deploy.sh, with stubs for what would change this machine."""
        if Path("/run/systemd/system").exists():
            pytest.skip("deploy.sh would write units here; the guest tests have containers")
        done = deploy(host, tmp_path)
        assert done.returncode == 0, done.stderr
        name = host.product.name
        instance = tmp_path / "base" / f"{name}_9221"
        conf = Path("conf") / Path(conf_of(host.product).path).name
        deployed = (instance / conf).read_bytes()
        shutil.rmtree(instance)
        # A program that only exits takes the server's place, in a copy of the installation.
        site = tmp_path / "site"
        shutil.copytree(host.package, site / host.package.name)
        program = site / host.package.name / "tree" / server_of(host.product).command[0]
        program.write_text('#!/bin/sh\necho "$@"\n')
        done = host.run(
            *("run", "--port", "9221", "--data", str(instance)),
            argv=(host.python, "-m", host.package.name),
            PYTHONPATH=str(site),
        )
        assert (done.returncode, done.stdout) == (0, f"-c {instance / conf}\n"), done.stderr
        assert (instance / conf).read_bytes() == deployed


def deploy(host: Host, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Deploy below a folder, as if by root; what stubs were called with is in `spy` there."""
    stubs = folder / "stubs"
    if not stubs.exists():
        # Each test has a machine on which nothing was deployed before.
        machine = host.tarball.parent / "machine"
        shutil.rmtree(machine)
        (machine / "run").mkdir(parents=True)
    stubs.mkdir(exist_ok=True)
    for name, text in STUBS.items():
        (stubs / name).write_text(f"#!/bin/sh\n{text}\n")
        (stubs / name).chmod(0o755)
    script = AS_ROOT.format(package=host.package.name)
    return host.run(
        *("deploy", "9221", str(folder / "base"), "--prefix", str(folder / "opt" / "server"), "--no-start", *more),
        argv=(host.python, "-c", script),
        PATH=f"{stubs}:{os.environ['PATH']}",
        SPY=str(folder / "spy"),
    )


class TestDeploy:
    def test_puts_the_tree_there_and_sets_an_instance_up(self, host: Host, tmp_path: Path) -> None:
        if Path("/run/systemd/system").exists():
            pytest.skip("deploy.sh would write units here; the guest tests have containers")
        done = deploy(host, tmp_path)
        assert done.returncode == 0, done.stderr
        link = tmp_path / "opt" / "server"
        assert {path.name for path in link.parent.iterdir()} == {"server", link.readlink().name}
        assert link.readlink().name.startswith(f"server-{host.wheel.name.split('-')[1]}-")
        assert files_of(link.resolve()) == host.packed()
        instance = tmp_path / "base" / f"{host.product.name}_9221"
        assert f"ready to be started with conf {instance}/conf/" in done.stdout
        called = (tmp_path / "spy").read_text().splitlines()
        # What is root's already is left alone.
        assert (f"chown -R 0:0 {link.resolve()}" in called) is (os.geteuid() != 0)
        before = state_of(tmp_path / "opt"), files_of(tmp_path / "base")
        done = deploy(host, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (state_of(tmp_path / "opt"), files_of(tmp_path / "base")) == before

    def test_what_deploy_refuses_leaves_no_link(self, host: Host, tmp_path: Path) -> None:
        done = deploy(host, tmp_path, "--no-such-option")
        assert done.returncode == 2
        assert done.stderr.startswith("deploy: error: unknown argument '--no-such-option'")
        assert not (tmp_path / "opt" / "server").is_symlink()
        assert not (tmp_path / "base").exists()

    def test_other_users_are_refused(self, host: Host, tmp_path: Path) -> None:
        script = AS_ROOT.format(package=host.package.name).replace("lambda: 0", "lambda: 1000")
        done = host.run(
            *("deploy", "9221", tmp_path / "base", "--prefix", tmp_path / "opt" / "server"),
            argv=(host.python, "-c", script),
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "error: only root can put it on this host\n  hint: sudo " in done.stderr
        assert list(tmp_path.iterdir()) == []
