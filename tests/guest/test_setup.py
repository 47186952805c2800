"""setup.sh and docker/engine.sh on machines that exist only as stubs.

A copy of the script runs with a PATH that holds nothing but plain tools and
stubs. A stub records its arguments, then does what its body says; package
managers "install" by putting the stub of a command where PATH finds it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PLAIN = [
    "bash",
    "cat",
    "chmod",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "id",
    "ln",
    "mkdir",
    "mktemp",
    "mv",
    "paste",
    "readlink",
    "rm",
    "sed",
    "setsid",
    "sh",
    "sleep",
    "sort",
    "tail",
    "test",
    "touch",
    "tr",
]
OS_RELEASE = {
    "debian12": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "ubuntu2004": 'ID=ubuntu\nVERSION_ID="20.04"\nPRETTY_NAME="Ubuntu 20.04.6 LTS"\n',
    "rocky9": 'ID="rocky"\nVERSION_ID="9.4"\nPRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)"\n',
    "centos7": 'ID="centos"\nVERSION_ID="7"\nPRETTY_NAME="CentOS Linux 7 (Core)"\n',
}

# Answers the version check with the status in NAME.status, makes environments
# of stubs, and runs everything else (the ping above all) with the real Python.
PYTHON = """
here=${{0%/*}}
case "$1 $2" in
    "-c "*"import ensurepip"*)
        [[ ! -e $SANDBOX/${{0##*/}}.status ]] || exit "$(cat "$SANDBOX/${{0##*/}}.status")" ;;
    "-c "*samefile*) [[ -e $SANDBOX/venv-python ]] ;;
    "-c "*AF_UNIX*)
        [[ ! -e $SANDBOX/denied ]] || exit 2
        exec {real} -I -S "$@" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$SANDBOX/venv-python" ;;
    "-m pip")
        [[ $3 == install ]] || exit 0
        [[ ! -e $SANDBOX/pip-fails ]] || {{ echo "ERROR: No matching distribution"; exit 1; }}
        cp "$SANDBOX/nox" "$here/nox"; cp "$SANDBOX/true" "$here/invoke" ;;
esac
"""
NOX = """
[[ $1 == --version ]] && exit
printf '%s\\n' "$PWD" "$PIKAFORGE_CWD" "${DOCKER_HOST-}" "${PIKAFORGE_EXPECT_ENGINE-}" >"$SANDBOX/nox-saw"
exit "${NOX_STATUS:-0}"
"""
# `apt-get … install a b` gives commands a and b; the map is for those called otherwise.
INSTALL = """
[[ " $* " != *" update "* ]] || exit 0
[[ ! -e $SANDBOX/install-says ]] || { cat "$SANDBOX/install-says"; exit 100; }
[[ $1 != -q || $2 != list ]] || { [[ " $(cat "$SANDBOX/offered") " == *" $3 "* ]]; exit; }
for package in "${@}"; do
    case $package in
        python3-venv) rm -f "$SANDBOX/python3.status"; cp "$SANDBOX/python" "$SANDBOX/bin/python3" ;;
        python3.11) cp "$SANDBOX/python" "$SANDBOX/bin/python3.11" ;;
        docker.io) cp "$SANDBOX/dockerd" "$SANDBOX/root/usr/sbin/dockerd" ;;
        podman) cp "$SANDBOX/podman" "$SANDBOX/bin/podman" ;;
        netavark | aardvark-dns) touch "$SANDBOX/root/usr/lib/podman/$package" ;;
        *) [[ $package == -* ]] || cp "$SANDBOX/true" "$SANDBOX/bin/$package" ;;
    esac
done
"""
SERVE = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1].removeprefix("unix://"))
server.listen()
while True:
    client = server.accept()[0]
    client.recv(200)
    client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nOK")
    client.close()
"""
DOCKERD = """
echo $$ >"$SANDBOX/dockerd.pid"
exec {real} -I -S -c {serve} "$PIKAFORGE_SETUP_ROOT/var/run/docker.sock"
"""
SERVICE = """
echo $$ >"$SANDBOX/podman.pid"
exec {real} -I -S -c {serve} "${{@: -1:1}}"
"""
DYING = """
echo "level=info msg=starting up"
echo "failed to start daemon: Devices cgroup isn't mounted"
exit 1
"""
# Gets orphans (PR_SET_CHILD_SUBREAPER, 36) and leaves them as they are.
CARELESS = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""
# Arguments end with a unit separator, calls with a record separator: both may hold lines.
RECORD = r"""printf -v call '%s\037' "${0##*/}" "$@"; printf '%s\036' "$call" >>"$SANDBOX/calls" """
PACKAGES = ["git", "tar", "gzip", "mmdebstrap", "gpg", "gpgv", "gpg-agent", "zstd", "iptables"]
JUDGES = ["lintian", "rpmlint", "rpm"]
PAGES = ["jq", "zsh", "man", "mandoc"]
TEST_PACKAGES = [
    "shellcheck", "patchelf", "ccache", "gcc", "g++", "make", "cmake", "dpkg-source", "busybox", *JUDGES, "chromium",
    *PAGES,
    "node",
]  # fmt: skip
GLIB = {"debian": "usr/lib/x86_64-linux-gnu/libgobject-2.0.so.0", "el": "usr/lib64/libgobject-2.0.so.0"}
ZLIB = "usr/include/zlib.h"
PODMAN = ["podman", "catatonit", "netavark", "aardvark-dns"]
ROOTLESS = ["uidmap", "slirp4netns"]


@dataclass(kw_only=True)
class Machine:
    """A folder that setup.sh takes for a machine, and what it did there."""

    path: Path
    servers: list[socket.socket] = field(default_factory=list)

    @property
    def repo(self) -> Path:
        return self.path / "check out"

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def venv(self) -> Path:
        return self.repo / ".venv"

    def stub(self, name: str, body: str = "", folder: Path | None = None) -> None:
        """Put an executable that records its arguments and runs ``body``."""
        path = (folder or self.path / "bin") / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{RECORD}\n{body}\n")
        path.chmod(0o755)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.path / "bin" / name).unlink()

    def give(self, file: str) -> None:
        """Put a file below the machine's root."""
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        (self.root / file).touch()

    def release(self, name: str) -> None:
        (self.root / "etc/os-release").write_text(OS_RELEASE[name])

    def engine(self, path: str = "var/run/docker.sock") -> None:
        """Let an engine answer at ``path`` until the test ends."""
        where = self.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(where))
        server.listen()
        self.servers.append(server)

        def serve() -> None:
            while True:
                try:
                    client = server.accept()[0]
                except OSError:
                    return
                with client:
                    client.recv(200)
                    client.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")

        threading.Thread(target=serve, daemon=True).start()

    def run(
        self,
        *arguments: str,
        script: str = "setup.sh",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        reaped: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run the script; if not `reaped`, processes that outlive their parents stay zombies when they end."""
        (self.path / "calls").write_text("")
        above = [] if reaped else [sys.executable, "-c", CARELESS]
        return subprocess.run(
            [*above, "bash", str(self.repo / script), *arguments],
            cwd=cwd or self.path,
            env={
                "PATH": str(self.path / "bin"),
                "HOME": str(self.path),
                "SANDBOX": str(self.path),
                "PIKAFORGE_SETUP_ROOT": str(self.root),
                "PIKAFORGE_SETUP_WAIT": "20",
                **(env or {}),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, *names: str) -> list[list[str]]:
        """What the named stubs (all, without names) were called with, in order."""
        lines = [line.split("\x1f")[:-1] for line in (self.path / "calls").read_text().split("\x1e")[:-1]]
        return [line for line in lines if not names or line[0] in names]

    def installed(self) -> list[list[str]]:
        """The packages of every installation, in order."""
        found = []
        for name, *arguments in self.calls("apt-get", "dnf", "yum"):
            assert name
            if "install" in arguments:
                found.append(arguments[arguments.index("install") + 1 :])
        return found

    def saw(self) -> dict[str, str]:
        """The folder and environment that nox was started with."""
        values = (self.path / "nox-saw").read_text().splitlines()
        return dict(zip(("cwd", "caller", "docker", "expect"), values, strict=True))


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A Debian 12 that lacks nothing but an engine.

    Not below tmp_path: the path of a Unix socket ends at 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="setup-") as name:
        made = Machine(path=Path(name))
        for folder in (
            "bin",
            "check out",
            *(f"root/{x}" for x in ("etc/ssl/certs", "usr/sbin", "usr/lib/podman", "var/run", "var/log")),
        ):
            (made.path / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / "setup.sh", made.repo)
        (made.repo / "docker").mkdir()
        for script in (REPO / "docker").glob("*.sh"):
            shutil.copy(script, made.repo / "docker")
        for plain in PLAIN:
            found = shutil.which(plain)
            assert found, plain
            (made.path / "bin" / plain).symlink_to(found)
        real = shlex.quote(sys.executable)
        python = PYTHON.format(real=real)
        made.stub("python", python, made.path)
        made.stub("nox", NOX, made.path)
        made.stub("true", "", made.path)
        made.stub("dockerd", DOCKERD.format(real=real, serve=shlex.quote(SERVE)), made.path)
        made.stub("podman", SERVICE.format(real=real, serve=shlex.quote(SERVE)), made.path)
        made.stub("python3", python)
        made.stub("id", 'case $1 in -u) echo "${FAKE_UID:-0}" ;; -un) echo someone ;; esac')
        made.stub("apt-get", INSTALL)
        made.stub("apt-cache", '[[ " $(cat "$SANDBOX/offered" 2>/dev/null) " == *" $3 "* ]]')
        for package in (*PACKAGES, *TEST_PACKAGES):
            made.stub(package)
        for there in ("etc/ssl/certs/ca-certificates.crt", GLIB["debian"], ZLIB):
            made.give(there)
        made.release("debian12")
        yield made
        for server in made.servers:
            server.close()
        for file in made.path.glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGKILL)


def enterprise(machine: Machine, release: str, manager: str) -> None:
    """Make the machine an Enterprise Linux whose repositories offer nothing."""
    machine.release(release)
    machine.remove("apt-get", "mmdebstrap", "dpkg-source", "iptables")
    (machine.root / "etc/ssl/certs/ca-certificates.crt").unlink()
    (machine.root / GLIB["debian"]).rename(machine.root / "elsewhere")
    machine.give(GLIB["el"])
    machine.stub(manager, INSTALL)
    (machine.path / "offered").write_text("")


PRESERVED = "LC_ALL,DEBIAN_FRONTEND,http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY"
TOUCHES = ("apt-get", "dnf", "yum", "sudo", "systemctl", "dockerd", "podman")


def test_nothing_missing_installs_nothing(machine: Machine) -> None:
    machine.engine()
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    assert machine.calls("nox")[-1] == ["nox", "-s", "build", "--", "R620"]


def test_second_run_only_starts_nox(machine: Machine) -> None:
    machine.engine()
    machine.run("R620")
    done = machine.run("R620")
    assert done.returncode == 0
    assert done.stderr == ""
    assert [call[0] for call in machine.calls() if call[0] != "id"] == ["python", "python", "nox"]


def test_debian_gets_exactly_what_is_missing(machine: Machine) -> None:
    machine.engine()
    machine.remove("git")
    (machine.path / "python3.status").write_text("3")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    update, install = machine.calls("apt-get")
    assert update[-1] == "update"
    assert {"-y", "--no-install-recommends", "--no-upgrade", "--no-remove"} <= set(install)
    assert machine.installed() == [["git", "python3-venv"]]
    assert "setup: needs git: it fetches sources" in done.stderr
    assert done.stderr.index("needs python3-venv") < done.stderr.index("setup: installs git python3-venv")


def test_bare_debian_gets_python_and_an_engine(machine: Machine) -> None:
    machine.remove("python3", "git", "mmdebstrap", "gpg", "gpg-agent", "zstd")
    for file in ("etc/ssl/certs/ca-certificates.crt", GLIB["debian"]):
        (machine.root / file).unlink()
    apparmor = machine.root / "sys/module/apparmor/parameters"
    apparmor.mkdir(parents=True)
    (apparmor / "enabled").write_text("Y\n")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == [
        ["git", "ca-certificates", "mmdebstrap", "gpg", "gpg-agent", "zstd", "libglib2.0-0", "python3-venv"],
        ["docker.io", "apparmor"],
    ]
    assert len(machine.calls("apt-get")) == 3, "the package lists are read once"
    assert machine.calls("nox")[-1][1:3] == ["-s", "build"]


def test_a_python_beside_the_systems_gets_its_own_venv_package(machine: Machine) -> None:
    machine.release("ubuntu2004")
    machine.engine()
    (machine.path / "python3.status").write_text("4")
    machine.stub("python3.12", (machine.path / "python").read_text())
    (machine.path / "python3.12.status").write_text("3")
    machine.run("R620")
    assert machine.installed() == [["python3.12-venv"]]


def test_el9_gets_python_311(machine: Machine) -> None:
    enterprise(machine, "rocky9", "dnf")
    machine.engine()
    machine.remove("git", "gpg", "zstd")
    (machine.root / GLIB["el"]).unlink()
    (machine.path / "python3.status").write_text("4")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert machine.calls("dnf") == [["dnf", "-y", "install", "git", "gnupg2", "zstd", "glib2", "python3.11"]]
    assert any(call[:3] == ["python3.11", "-m", "venv"] for call in machine.calls())


@pytest.mark.parametrize(
    ("release", "manager", "name"),
    [("centos7", "yum", "CentOS Linux 7"), ("ubuntu2004", "apt-get", "Ubuntu 20.04")],
)
def test_no_new_python_is_said_before_anything_is_installed(
    machine: Machine, release: str, manager: str, name: str
) -> None:
    if manager == "yum":
        enterprise(machine, release, manager)
    machine.release(release)
    machine.engine()
    machine.remove("git")
    (machine.path / "python3.status").write_text("4")
    done = machine.run("R620")
    assert done.returncode == 3
    assert "error: Python 3.10 or newer is needed, and " + name in done.stderr
    assert "hint: " in done.stderr
    assert "PYTHON=/path/to/python3" in done.stderr
    assert machine.calls("yum", "apt-get", "nox") == []


def test_python_variable_names_another_one(machine: Machine) -> None:
    enterprise(machine, "centos7", "yum")
    machine.engine()
    (machine.path / "python3.status").write_text("4")
    folder = machine.path / "my own"
    folder.mkdir()
    machine.stub("python", (machine.path / "python").read_text(), folder)
    done = machine.run("R620", env={"PYTHON": str(folder / "python")})
    assert done.returncode == 0, done.stderr
    done = machine.run("R620", env={"PYTHON": "/nowhere/python3"})
    assert done.returncode == 0, "an environment that is ready needs no other Python"
    shutil.rmtree(machine.venv)
    done = machine.run("R620", env={"PYTHON": "/nowhere/python3"})
    assert done.returncode == 3
    assert "error: PYTHON=/nowhere/python3 is not a Python >= 3.10" in done.stderr


def test_without_a_package_manager_the_missing_things_are_named(machine: Machine) -> None:
    machine.engine()
    machine.remove("apt-get", "git", "gzip", "mmdebstrap")
    done = machine.run("R620")
    assert done.returncode == 3
    assert "no apt-get, dnf or yum to install it: git gzip\n" in done.stderr


@pytest.mark.parametrize("option", [("--engine", "host"), ("--engine=host",)])
def test_engine_host_leaves_engines_alone(machine: Machine, option: tuple[str, ...]) -> None:
    machine.remove("mmdebstrap")
    machine.stub("dockerd")
    machine.stub("systemctl")
    done = machine.run("R620", *option)
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    assert machine.calls("nox")[-1] == ["nox", "-s", "build", "--", "R620", *option]


def test_docker_host_is_trusted(machine: Machine) -> None:
    done = machine.run("R620", env={"DOCKER_HOST": "tcp://builder:2376"})
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    assert machine.saw()["docker"] == "tcp://builder:2376"


@pytest.mark.parametrize("how", ["variable", "current", "default", "podman"])
def test_a_docker_context_is_never_silently_another_engine(machine: Machine, how: str) -> None:
    """Neither the engine that answers here is used, nor is one installed; the tool finds the context itself."""
    machine.engine("run/podman/podman.sock")
    config = machine.path / "home/.docker/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"auths": {}, "currentContext" : "%s"}' % ("default" if how == "default" else "far"))
    env = {"HOME": str(config.parent.parent)}
    if how == "variable":
        env = {"DOCKER_CONTEXT": "far", "HOME": "/nonexistent"}
    if how == "podman":
        env["PIKAFORGE_ENGINE"] = "podman"
    done = machine.run("R620", env=env)
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    context = how in ("variable", "current")
    assert ("uses the engine of docker's context far" in done.stderr) is context
    assert machine.saw()["docker"] == ("" if context else f"unix://{machine.root}/run/podman/podman.sock")


@pytest.mark.parametrize(
    ("env", "saw"),
    [
        ({"CONTAINER_HOST": "tcp://far:8080"}, "tcp://far:8080"),
        ({"CONTAINER_HOST": "ssh://far/run/podman/podman.sock"}, ""),
        ({"CONTAINER_CONNECTION": "far"}, ""),
        ({"CONTAINER_HOST": "tcp://far:8080", "PIKAFORGE_ENGINE": "docker"}, "unix://{root}/var/run/docker.sock"),
    ],
    ids=["tcp", "ssh", "connection", "docker wanted"],
)
def test_podmans_variables_are_never_silently_another_engine(machine: Machine, env: dict[str, str], saw: str) -> None:
    """What the tool cannot use it refuses itself: nothing is handed on, and the variables stay."""
    machine.engine("var/run/docker.sock")
    done = machine.run("R620", env=env)
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    assert machine.saw()["docker"] == saw.format(root=machine.root)
    assert ("uses the engine of podman's" in done.stderr) is ("PIKAFORGE_ENGINE" not in env)


def test_podman_socket_of_the_user_is_used(machine: Machine) -> None:
    machine.engine("run/user/7/podman/podman.sock")
    home = machine.root / "run/user/7"
    done = machine.run("R620", env={"XDG_RUNTIME_DIR": str(home)})
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    assert machine.saw()["docker"] == f"unix://{home}/podman/podman.sock"
    assert f"export DOCKER_HOST=unix://{home}/podman/podman.sock" in done.stderr


def test_a_docker_client_is_no_engine(machine: Machine) -> None:
    machine.stub("docker")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == [["docker.io"]]
    assert machine.calls("docker") == []


def test_dockerd_is_started_once_and_does_not_keep_the_lock(machine: Machine) -> None:
    machine.stub("dockerd", (machine.path / "dockerd").read_text(), machine.root / "usr/sbin")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert f"starts dockerd; its log is {machine.root}/var/log/pikaforge-dockerd.log" in done.stderr
    assert subprocess.run(["flock", "-n", str(machine.repo / "setup.sh"), "true"], check=False).returncode == 0
    assert machine.saw()["docker"] == ""
    machine.run("R620")
    assert machine.calls("dockerd") == []


@pytest.mark.parametrize("reaped", [True, False])
def test_dockerd_that_dies_is_reported_at_once_with_its_log(machine: Machine, reaped: bool) -> None:
    """Also where process 1 is none that reaps orphans, as in a container without an init."""
    machine.stub("dockerd", DYING)
    done = machine.run("R620", env={"PIKAFORGE_SETUP_WAIT": "3600"}, reaped=reaped)
    assert done.returncode == 3
    assert "    failed to start daemon: Devices cgroup isn't mounted\n" in done.stderr
    assert "error: dockerd died at its start" in done.stderr
    assert "--engine host" in done.stderr
    assert machine.calls("nox") == [["nox", "--version"]]


def test_dockerd_that_never_answers_is_not_awaited_for_ever(machine: Machine) -> None:
    machine.stub("dockerd", 'echo $$ >"$SANDBOX/dockerd.pid"; exec sleep 50')
    done = machine.run("R620", env={"PIKAFORGE_SETUP_WAIT": "1"})
    assert done.returncode == 3
    assert "does not answer at" in done.stderr


def test_pid_files_of_a_dead_engine_are_removed(machine: Machine) -> None:
    machine.stub("dockerd", DYING)
    files = [machine.root / "var/run" / name for name in ("docker.pid", "docker/containerd/containerd.pid")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(os.getpid()))  # alive, and not an engine
    done = machine.run("R620")
    for file in files:
        assert not file.exists()
        assert f"setup: removes {file}" in done.stderr


def test_an_engine_that_is_still_starting_is_awaited(machine: Machine) -> None:
    machine.stub("dockerd", DYING)
    copy = machine.path / "copy" / "dockerd"
    copy.parent.mkdir()
    shutil.copy(shutil.which("sleep") or "", copy)
    with subprocess.Popen([str(copy), "50"]) as other:
        (machine.root / "var/run/docker.pid").write_text(str(other.pid))
        timer = threading.Timer(1, machine.engine)
        timer.start()
        done = machine.run("R620")
        timer.join()
        other.kill()
    assert done.returncode == 0, done.stderr
    assert machine.calls("dockerd") == []


def test_systemd_starts_docker(machine: Machine) -> None:
    (machine.root / "run/systemd/system").mkdir(parents=True)
    machine.stub("dockerd")
    machine.stub("systemctl", '[[ $1 != enable ]] || { "$SANDBOX/dockerd" >/dev/null 2>&1 & }')
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert machine.calls("systemctl") == [["systemctl", "enable", "--now", "docker"]]


def test_systemd_failure_shows_the_status(machine: Machine) -> None:
    (machine.root / "run/systemd/system").mkdir(parents=True)
    machine.stub("dockerd")
    machine.stub("systemctl", 'echo "Unit docker.service is masked."; exit 1')
    done = machine.run("R620")
    assert done.returncode == 3
    assert "    Unit docker.service is masked." in done.stderr
    assert "error: docker did not start" in done.stderr


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("podman docker-ce", "docker-ce"), ("moby-engine podman", "moby-engine"), ("podman", "podman")],
)
def test_el_takes_the_engine_that_is_offered(machine: Machine, offered: str, chosen: str) -> None:
    enterprise(machine, "rocky9", "dnf")
    (machine.path / "offered").write_text(offered)
    machine.run("R620")
    assert machine.installed() == [[chosen]]


def test_el_without_an_engine_says_so(machine: Machine) -> None:
    enterprise(machine, "rocky9", "dnf")
    done = machine.run("R620")
    assert done.returncode == 3
    assert "error: there is no container engine, and no package of one in reach" in done.stderr
    assert machine.installed() == []


def test_el_with_podman_starts_its_service(machine: Machine) -> None:
    enterprise(machine, "rocky9", "dnf")
    (machine.root / "run/systemd/system").mkdir(parents=True)
    (machine.root / "run/podman").mkdir()
    machine.stub("podman")
    service = (machine.path / "dockerd").read_text().replace("var/run/docker.sock", "run/podman/podman.sock")
    machine.stub("service", service, machine.path)
    machine.stub("systemctl", '"$SANDBOX/service" >/dev/null 2>&1 &')
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert machine.calls("systemctl") == [["systemctl", "enable", "--now", "podman.socket"]]
    assert machine.installed() == []
    assert machine.saw()["docker"] == f"unix://{machine.root}/run/podman/podman.sock"


def mixed_control_groups(machine: Machine) -> None:
    """Both versions of control groups, with controllers in each."""
    folder = machine.root / "sys/fs/cgroup/unified"
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("hugetlb\n")


@pytest.mark.parametrize("mixed", [False, True])
def test_debian_gets_podman_when_it_is_asked_for(machine: Machine, mixed: bool) -> None:
    """A docker that answers is left alone; without systemd the service runs until the machine stops."""
    machine.engine()
    (machine.path / "offered").write_text("netavark aardvark-dns")
    if mixed:
        mixed_control_groups(machine)
    path = machine.root / "run/podman/podman.sock"
    done = machine.run("R620", env={"PIKAFORGE_ENGINE": "podman"})
    assert done.returncode == 0, done.stderr
    assert machine.installed() == [["podman", "catatonit", *(["runc"] if mixed else []), "netavark", "aardvark-dns"]]
    runtime = ["--runtime", "runc"] if mixed else []
    assert machine.calls("podman") == [["podman", *runtime, "system", "service", "--time=0", f"unix://{path}"]]
    assert machine.saw()["docker"] == f"unix://{path}"
    assert f"export DOCKER_HOST=unix://{path}" in done.stderr
    assert subprocess.run(["flock", "-n", str(machine.repo / "setup.sh"), "true"], check=False).returncode == 0

    again = machine.run("R620", env={"PIKAFORGE_ENGINE": "podman"})
    assert again.returncode == 0, again.stderr
    assert machine.calls("apt-get", "podman") == []
    assert machine.saw()["docker"] == f"unix://{path}"


def test_a_podman_with_plugins_for_its_networks_needs_no_netavark(machine: Machine) -> None:
    """Debian 11 and Ubuntu 22.04 have neither the package nor a use for it."""
    (machine.root / "usr/lib/cni").mkdir(parents=True)
    (machine.root / "usr/lib/cni/bridge").touch()
    shutil.copy(machine.path / "podman", machine.path / "bin")
    machine.stub("catatonit")
    done = machine.run("R620", env={"PIKAFORGE_ENGINE": "podman"})
    assert done.returncode == 0, done.stderr
    assert machine.calls("apt-get", "apt-cache") == []


def user_with_podman(machine: Machine) -> dict[str, str]:
    """An ordinary user of a machine that has podman's parts but for those without root; the environment."""
    shutil.copy(machine.path / "podman", machine.path / "bin")
    machine.stub("catatonit")
    (machine.root / "usr/lib/podman/netavark").touch()
    machine.stub("sudo", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    home = machine.root / "run/user/1000"
    home.mkdir(parents=True)
    return {"PIKAFORGE_ENGINE": "podman", "FAKE_UID": "1000", "XDG_RUNTIME_DIR": str(home)}


@pytest.mark.parametrize("entry", ["someone:100000:65536\n", "1000:100000:65536\n"])
def test_user_gets_a_podman_of_their_own(machine: Machine, entry: str) -> None:
    env = user_with_podman(machine)
    (machine.root / "etc/subuid").write_text(entry)
    done = machine.run("R620", env=env)
    assert done.returncode == 0, done.stderr
    assert machine.installed() == [ROOTLESS]
    path = f"{env['XDG_RUNTIME_DIR']}/podman/podman.sock"
    assert machine.calls("podman") == [["podman", "system", "service", "--time=0", f"unix://{path}"]]
    assert [call[1] for call in machine.calls("sudo")] == ["--preserve-env=" + PRESERVED] * 2, "packages, not podman"
    assert machine.saw()["docker"] == f"unix://{path}"


def test_user_without_ids_for_containers_is_told(machine: Machine) -> None:
    env = user_with_podman(machine)
    (machine.root / "etc/subuid").write_text("other:100000:65536\n")
    done = machine.run("R620", env=env)
    assert done.returncode == 3
    assert "error: someone has no user ids in /etc/subuid to give to containers" in done.stderr
    assert "hint: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 someone" in done.stderr
    assert machine.calls("podman") == []


def test_podman_that_dies_is_reported_at_once_with_its_log(machine: Machine) -> None:
    machine.stub("podman", 'echo "Error: overlay is not supported over tmpfs"; exit 125')
    machine.stub("catatonit")
    done = machine.run("R620", env={"PIKAFORGE_ENGINE": "podman"})
    assert done.returncode == 3
    assert "    Error: overlay is not supported over tmpfs\n" in done.stderr
    assert "error: podman died at its start" in done.stderr


@pytest.mark.parametrize(("engine", "chosen"), [("podman", "podman"), ("docker", "docker-ce")])
def test_el_takes_the_engine_that_is_asked_for(machine: Machine, engine: str, chosen: str) -> None:
    enterprise(machine, "rocky9", "dnf")
    (machine.path / "offered").write_text("podman docker-ce")
    machine.run("R620", env={"PIKAFORGE_ENGINE": engine, "PIKAFORGE_SETUP_WAIT": "1"})
    assert machine.installed() == [[chosen]]


def test_docker_that_is_not_to_be_had_is_not_replaced(machine: Machine) -> None:
    enterprise(machine, "rocky9", "dnf")
    (machine.path / "offered").write_text("podman")
    done = machine.run("R620", env={"PIKAFORGE_ENGINE": "docker"})
    assert done.returncode == 3
    assert "error: there is no container engine docker, and no package of one in reach" in done.stderr
    assert machine.installed() == []


def test_unknown_engine_is_refused(machine: Machine) -> None:
    machine.engine()
    done = machine.run("R620", env={"PIKAFORGE_ENGINE": "lxc"})
    assert done.returncode == 3
    assert "error: PIKAFORGE_ENGINE=lxc is no engine" in done.stderr
    assert machine.calls(*TOUCHES) == []


def test_socket_closed_to_the_user_names_the_group(machine: Machine) -> None:
    machine.engine()
    machine.stub("dockerd")
    (machine.path / "denied").touch()
    done = machine.run("R620", env={"FAKE_UID": "1000"})
    assert done.returncode == 3
    assert f"error: someone may not open the engine's socket {machine.root}/var/run/docker.sock" in done.stderr
    assert "hint: sudo usermod -aG docker someone, then log in again" in done.stderr
    assert machine.calls(*TOUCHES) == []


def test_user_installs_through_sudo(machine: Machine) -> None:
    machine.engine()
    machine.remove("git")
    machine.stub("sudo", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    done = machine.run("R620", env={"FAKE_UID": "1000"})
    assert done.returncode == 0, done.stderr
    assert len(machine.calls("sudo")) == 2
    assert machine.installed() == [["git"]]


def test_user_without_sudo_is_told(machine: Machine) -> None:
    machine.engine()
    machine.remove("git")
    done = machine.run("R620", env={"FAKE_UID": "1000"})
    assert done.returncode == 3
    assert "there is no sudo" in done.stderr
    assert machine.calls("apt-get", "nox") == []


def test_what_a_build_can_do_without_is_left_out_where_nothing_can_be_installed(machine: Machine) -> None:
    machine.engine()
    machine.remove("gpg", "zstd")
    (machine.root / GLIB["debian"]).unlink()
    done = machine.run("R620", env={"FAKE_UID": "1000"})
    assert done.returncode == 0, done.stderr
    assert machine.calls(*TOUCHES) == []
    machine.remove("apt-get")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr


def test_failed_installation_names_the_server_but_no_password(machine: Machine) -> None:
    machine.engine()
    machine.remove("git")
    (machine.path / "install-says").write_text(
        "Err:1 http://me:secret@mirror.example/debian bookworm InRelease\n"
        "E: Failed to fetch http://me:secret@mirror.example/debian/git.deb  Could not connect\n"
    )
    done = machine.run("R620")
    assert done.returncode == 3
    assert "error: could not install git; not reached: http://mirror.example\n" in done.stderr
    assert "hint: no network: set http_proxy" in done.stderr
    assert "secret" not in done.stderr
    assert "    E: Failed to fetch" in done.stderr


def test_failed_pip_is_reported_and_made_good_by_the_next_run(machine: Machine) -> None:
    machine.engine()
    (machine.path / "pip-fails").touch()
    done = machine.run("R620")
    assert done.returncode == 3
    assert "    ERROR: No matching distribution" in done.stderr
    assert "PIP_FIND_LINKS" in done.stderr
    (machine.path / "pip-fails").unlink()
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert not any(call[1:3] == ["-m", "venv"] for call in machine.calls()), "completed, not made again"


@pytest.mark.parametrize("damage", ["python gone", "moved", "a file"])
def test_broken_environment_is_made_again(machine: Machine, damage: str) -> None:
    machine.engine()
    machine.run()
    if damage == "python gone":
        (machine.venv / "bin/python").unlink()
    elif damage == "moved":
        (machine.venv / ".stamp").write_text("/elsewhere nox>=2024.10\n")
    else:
        shutil.rmtree(machine.venv)
        machine.venv.write_text("")
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert ".venv is broken: makes it again" in done.stderr
    assert machine.calls("nox")[-1][1:] == ["-s", "build", "--", "R620"]


def test_nox_is_added_to_an_environment_of_the_users_own(machine: Machine) -> None:
    machine.engine()
    machine.run()
    (machine.venv / ".stamp").unlink()
    (machine.venv / "theirs").touch()
    done = machine.run("R620")
    assert done.returncode == 0, done.stderr
    assert (machine.venv / "theirs").exists()
    assert [
        "python",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "nox>=2024.10",
        "invoke>=2.2",
    ] in machine.calls()


@pytest.mark.parametrize("status", [0, 2, 3, 4, 5])
def test_exit_status_passes_through(machine: Machine, status: int) -> None:
    machine.engine()
    assert machine.run("R620", env={"NOX_STATUS": str(status)}).returncode == status


def test_arguments_and_the_callers_folder_reach_nox_unchanged(machine: Machine) -> None:
    machine.engine()
    elsewhere = machine.path / "some where"
    elsewhere.mkdir()
    arguments = ["R6*-el7-*", "--source", "./my sources.tar.gz", "", "$HOME", "--", "-x"]
    done = machine.run(*arguments, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert machine.calls("nox")[-1] == ["nox", "-s", "build", "--", *arguments]
    assert machine.saw()["cwd"] == str(machine.repo)
    assert machine.saw()["caller"] == str(elsewhere)


def test_tests_get_their_tools(machine: Machine) -> None:
    machine.engine()
    machine.remove(*TEST_PACKAGES)
    (machine.root / ZLIB).unlink()
    (machine.path / "offered").write_text("netavark aardvark-dns")
    done = machine.run("tests", "-k", "one or two")
    assert done.returncode == 0, done.stderr
    tools = ["shellcheck", "patchelf", "ccache", "gcc", "g++", "make", "cmake", "dpkg-dev", "zlib1g-dev", "busybox"]
    assert machine.installed() == [
        [*tools, *JUDGES, "chromium", "jq", "zsh", "man-db", "mandoc", "nodejs", *PODMAN, *ROOTLESS]
    ]
    assert machine.calls("nox")[-1] == ["nox", "-s", "tests", "--", "-k", "one or two"]


@pytest.mark.parametrize("epel", [False, True])
def test_el_gets_test_tools_where_they_are_offered(machine: Machine, epel: bool) -> None:
    enterprise(machine, "rocky9", "dnf")
    machine.engine()
    machine.remove(*(name for name in TEST_PACKAGES if name != "dpkg-source"))
    if epel:
        (machine.root / "etc/yum.repos.d").mkdir()
        (machine.root / "etc/yum.repos.d/epel.repo").write_text("[epel]\nenabled=1\n")
    done = machine.run("tests")
    assert done.returncode == 0, done.stderr
    extra = ["ShellCheck", "patchelf", "ccache"] if epel else []
    reader = ["jq"] if epel else []
    assert machine.installed() == [[*extra, "gcc", "gcc-c++", "make", "cmake", *reader, "zsh", "man-db", "nodejs"]]


def test_ci_runs_the_tests_and_expects_an_engine(machine: Machine) -> None:
    machine.engine()
    (machine.repo / ".ci").mkdir()
    shutil.copy(REPO / ".ci/run", machine.repo / ".ci/run")
    assert os.access(REPO / ".ci/run", os.X_OK)
    done = machine.run(script=".ci/run")
    assert done.returncode == 0, done.stderr
    assert machine.calls("nox")[-1] == ["nox", "-s", "tests", "--"]
    assert machine.saw()["expect"] == "1"


def test_alone_it_says_what_to_type_next(machine: Machine) -> None:
    machine.engine()
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "bash setup.sh R620" in done.stdout
    assert machine.calls("nox") == [["nox", "--version"]]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_changes_nothing(machine: Machine, option: str) -> None:
    done = machine.run(option)
    assert done.returncode == 0
    assert "bash setup.sh tests [args]" in done.stdout
    assert machine.calls() == []
    assert not machine.venv.exists()


def test_a_second_setup_waits_for_the_first(machine: Machine) -> None:
    machine.engine()
    with subprocess.Popen(["flock", str(machine.repo / "setup.sh"), "sleep", "1"]) as first:
        time.sleep(0.3)
        done = machine.run("R620")
        first.wait()
    assert done.returncode == 0, done.stderr
    assert "setup: waits for another setup.sh" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_scripts_are_clean() -> None:
    scripts = ["setup.sh", "docker/engine.sh", "docker/machine.sh", ".ci/run"]
    checked = subprocess.run(["shellcheck", *scripts], cwd=REPO, capture_output=True, text=True, check=False)
    assert checked.stdout == ""


# ---- docker/engine.sh alone

ENGINE = "docker/engine.sh"


def test_the_engine_script_alone_finds_one_and_prints_its_address(machine: Machine) -> None:
    machine.engine()
    done = machine.run(script=ENGINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"unix://{machine.root}/var/run/docker.sock\n"
    assert machine.calls(*TOUCHES, "nox") == []
    assert not machine.venv.exists(), "it asks with the machine's own Python"


def test_the_engine_script_alone_asks_with_the_environments_python(machine: Machine) -> None:
    machine.engine()
    machine.run()
    machine.remove("python3")
    done = machine.run(script=ENGINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert [call[0] for call in machine.calls()] == ["python"]


def test_the_engine_script_alone_installs_and_starts_one(machine: Machine) -> None:
    done = machine.run(script=ENGINE)
    assert done.returncode == 0, done.stderr
    assert machine.installed() == [["docker.io"]]
    assert [call[0] for call in machine.calls("apt-get", "dockerd")] == ["apt-get", "apt-get", "dockerd"]
    assert f"setup: starts dockerd; its log is {machine.root}/var/log/pikaforge-dockerd.log" in done.stderr
    assert done.stdout == f"unix://{machine.root}/var/run/docker.sock\n"
    assert subprocess.run(["flock", "-n", str(machine.repo / "setup.sh"), "true"], check=False).returncode == 0


def test_the_engine_script_alone_names_podmans_socket(machine: Machine) -> None:
    machine.engine("run/podman/podman.sock")
    done = machine.run(script=ENGINE)
    address = f"unix://{machine.root}/run/podman/podman.sock"
    assert (done.returncode, done.stdout) == (0, f"{address}\n")
    assert f"to run nox yourself: export DOCKER_HOST={address}" in done.stderr


@pytest.mark.parametrize(
    ("env", "stdout"),
    [({"DOCKER_HOST": "tcp://builder:2376"}, "tcp://builder:2376\n"), ({"PIKAFORGE_ENGINE": "lxc"}, "")],
)
def test_the_engine_script_alone_reads_the_same_variables(machine: Machine, env: dict[str, str], stdout: str) -> None:
    done = machine.run(script=ENGINE, env=env)
    assert (done.returncode, done.stdout) == (0 if stdout else 3, stdout)
    assert machine.calls() == []


def test_the_engine_script_alone_fails_as_setup_does(machine: Machine) -> None:
    machine.stub("dockerd", DYING)
    scratch = machine.path / "scratch"
    scratch.mkdir()
    done = machine.run(script=ENGINE, env={"PIKAFORGE_SETUP_WAIT": "3600", "TMPDIR": str(scratch)})
    assert (done.returncode, done.stdout) == (3, "")
    assert "    failed to start daemon: Devices cgroup isn't mounted\n" in done.stderr
    assert "setup: error: dockerd died at its start" in done.stderr
    assert list(scratch.iterdir()) == [], "the log is removed"


def test_the_engine_script_alone_needs_a_python(machine: Machine) -> None:
    machine.engine()
    machine.remove("python3")
    done = machine.run(script=ENGINE)
    assert (done.returncode, done.stdout) == (3, "")
    assert "setup: error: a Python is needed to ask the engine, and there is none\n" in done.stderr
    assert "hint: bash setup.sh brings one" in done.stderr


def test_the_engine_script_alone_waits_for_setup(machine: Machine) -> None:
    machine.engine()
    with subprocess.Popen(["flock", str(machine.repo / "setup.sh"), "sleep", "1"]) as first:
        time.sleep(0.3)
        done = machine.run(script=ENGINE)
        first.wait()
    assert done.returncode == 0, done.stderr
    assert "setup: waits for another setup.sh" in done.stderr


@pytest.mark.parametrize(("option", "status"), [("-h", 0), ("--help", 0), ("R620", 3)])
def test_the_engine_script_takes_no_arguments(machine: Machine, option: str, status: int) -> None:
    done = machine.run(option, script=ENGINE)
    assert done.returncode == status
    assert ("bash docker/engine.sh" in done.stdout) is (status == 0)
    assert ("error: docker/engine.sh takes no arguments, and not R620" in done.stderr) is (status == 3)
    assert machine.calls() == []
