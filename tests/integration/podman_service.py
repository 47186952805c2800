"""Podman services of the tests' own: storage, networks and sockets apart from everything else on the machine.

Names of folders are short, because the path of a Unix socket ends at 107 bytes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

NOFILE = 8192
"""Hard limit of open files of every service here, and none may raise it."""
MIXED = Path("/sys/fs/cgroup/unified/cgroup.controllers")
"""Where controllers are in both versions of control groups, crun refuses to work."""

CONF = """
[engine]
lock_type = "file"
cgroup_manager = "cgroupfs"
{engine}
[network]
network_config_dir = "{folder}/networks"
"""
REGISTRIES = """
[[registry]]
location = "127.0.0.1"
insecure = true
"""

ROOTLESS = """
set -eu
for name in passwd group subuid subgid; do mount --bind "$FOLDER/etc/$name" "/etc/$name"; done
if [ -e "$FOLDER/etc/tun" ]; then mount --bind "$FOLDER/etc/tun" /dev/net/tun; fi
setpriv --reuid="$ID" --regid="$ID" --clear-groups "$@"
exit $?
"""
"""In namespaces of its own: a user who exists there alone starts something.

The shell stays, because a process that becomes another user's no longer ends with its parent (prctl(2),
PR_SET_PDEATHSIG); with the shell, which is the first process of its namespace, all others end.
"""
USER = 54321
"""Their number; it is nobody's."""
TUN = (10, 200)
"""Device numbers of /dev/net/tun, which some machines open to root alone."""


class Unusable(Exception):
    """Podman cannot run here; the message says why."""


def port_rules() -> frozenset[str]:
    """The rules that lead a port of this machine to a container of podman's.

    One of a container that was killed stays, and takes the port from whoever gets it next: a connection to it is never
    answered.
    """
    if shutil.which("iptables") is None or os.geteuid() != 0:
        return frozenset()
    argv = ["iptables", "--wait", "-t", "nat", "-S", "NETAVARK-HOSTPORT-DNAT"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return frozenset(line.removeprefix("-A ") for line in done.stdout.splitlines() if line.startswith("-A "))


@dataclass(kw_only=True)
class Podman:
    """A podman with storage of its own, as root."""

    folder: Path
    options: tuple[str, ...]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    rules: frozenset[str] = field(default_factory=port_rules)
    """Of other podmans, from before this one."""

    @property
    def address(self) -> str:
        """Of the service that tests share."""
        return f"unix://{self.folder}/s"

    def argv(self, *args: str) -> list[str]:
        """A call of podman, with the limits of `NOFILE`."""
        return [
            *("prlimit", f"--nofile={NOFILE}:{NOFILE}"),
            *("setpriv", "--bounding-set=-sys_resource"),
            *("podman", *self.options, *args),
        ]

    def configure(self, name: str, engine: str = "") -> Path:
        """Write a containers.conf."""
        path = self.folder / name
        path.write_text(CONF.format(engine=engine, folder=self.folder), encoding="utf-8")
        return path

    def environment(self, conf: Path) -> dict[str, str]:
        """What a podman needs to leave alone what is the machine's."""
        own = {"CONTAINERS_CONF": str(conf), "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf")}
        kept = {name: value for name, value in os.environ.items() if name not in ("DOCKER_HOST", "CONTAINER_HOST")}
        return {**kept, **own}

    def call(self, *args: str) -> str:
        """Run podman itself, to the end."""
        done = subprocess.run(
            self.argv(*args),
            env=self.environment(self.folder / "containers.conf"),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise Unusable(f"podman {args[0]}: {done.stderr.strip()[-400:]}")
        return done.stdout

    @contextmanager
    def serve(self, address: str, conf: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A service at an address; it is ended when the block is left, and its containers are not."""
        with self.start(
            self.argv("system", "service", "--time=0", address),
            address,
            self.environment(conf or self.folder / "containers.conf"),
        ) as service:
            yield service

    @contextmanager
    def start(self, argv: Sequence[str], address: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a service and wait until it answers."""
        log = self.folder / "log"
        with log.open("ab") as file:
            service = subprocess.Popen(
                argv,
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 60
            while not answers(address):
                if service.poll() is not None or time.monotonic() > deadline:
                    raise Unusable(log.read_text(encoding="utf-8", errors="replace").strip()[-400:])
                time.sleep(0.05)
            yield service
        finally:
            if service.poll() is None:
                service.terminate()
                try:
                    service.wait(20)
                except subprocess.TimeoutExpired:
                    service.kill()
            service.wait()

    def close(self) -> None:
        """Remove all that it has made."""
        with contextlib.suppress(Unusable):
            self.call("rm", "--all", "--force", "--time=0", "--volumes")
        _end_all(self.folder)
        for rule in port_rules() - self.rules:
            subprocess.run(["iptables", "--wait", "-t", "nat", "-D", *shlex.split(rule)], check=False)
        # Podman mounts the folder of its layers on itself, and keeps containers' memory in files below `run`.
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder)


def _end_all(folder: Path) -> None:
    """End the processes that have the folder among their arguments.

    What was executed in a container has a monitor that stays for five minutes, and then starts a podman which would
    make the folder again.
    """
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"{folder}/".encode() in cmdline.read_bytes():
                os.kill(int(cmdline.parent.name), signal.SIGKILL)


def answers(address: str) -> bool:
    """Whether an engine answers there."""
    kind, _, place = address.partition("://")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    host, _, port = place.partition(":")
    try:
        with socket.socket(family) as connection:
            connection.settimeout(5)
            connection.connect(place if kind == "unix" else (host, int(port)))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def new_folder() -> Path:
    """A folder that every user may enter, on the file system of temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="pf-"))
    folder.chmod(0o755)
    return folder


def runtime() -> tuple[str, ...]:
    """Options that choose a runtime which works here."""
    if not (MIXED.is_file() and MIXED.read_text(encoding="ascii").strip()):
        return ()
    if shutil.which("runc") is None:
        raise Unusable("crun refuses control groups of both versions, and runc is not installed")
    return ("--runtime", "runc")


@contextmanager
def podman_as_root() -> Iterator[Podman]:
    """A podman as root with a running service."""
    if os.geteuid() != 0:
        raise Unusable("podman as root is for root")
    folder = new_folder()
    options = ("--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp", *runtime())
    podman = Podman(folder=folder, options=(*options, "--storage-driver", "overlay"))
    podman.configure("containers.conf")
    (folder / "registries.conf").write_text(REGISTRIES, encoding="ascii")
    try:
        try:
            podman.call("info")
        except Unusable:  # where temporary files are on an overlay already
            shutil.rmtree(folder / "root", ignore_errors=True)
            podman.options = (*options, "--storage-driver", "vfs")
            podman.call("info")
        with podman.serve(podman.address):
            yield podman
    finally:
        podman.close()


@contextmanager
def podman_without_root() -> Iterator[Podman]:
    """A podman of an ordinary user with a running service: this one, or for root one who exists for it alone."""
    folder = new_folder()
    podman = Podman(folder=folder, options=(*runtime(), "--storage-driver", "overlay"))
    podman.configure("containers.conf")
    (folder / "run").mkdir(mode=0o700)
    env = {"HOME": str(folder), "XDG_RUNTIME_DIR": f"{folder}/run", "PATH": os.environ["PATH"]}
    env["CONTAINERS_CONF"] = f"{folder}/containers.conf"
    argv = ["prlimit", f"--nofile={NOFILE}:{NOFILE}", "podman", *podman.options, "system", "service", "--time=0"]
    try:
        if os.geteuid() == 0:
            _make_user(folder)
            # Processes of a namespace end with its first one, whatever has become of their parents.
            spaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
            argv = [*spaces, "sh", "-c", ROOTLESS, "sh", *argv]
            env = {**env, "FOLDER": str(folder), "ID": str(USER)}
        _try_namespace()
        with podman.start([*argv, podman.address], podman.address, env) as service:
            yield podman
            if os.geteuid() == 0:
                service.kill()
    finally:
        if os.geteuid() != 0:
            _end_own(folder, env)
        shutil.rmtree(folder)


def _make_user(folder: Path) -> None:
    etc = folder / "etc"
    etc.mkdir()
    for name, line in (("passwd", f"forge:x:{USER}:{USER}::{folder}:/bin/sh"), ("group", f"forge:x:{USER}:")):
        (etc / name).write_text(f"{Path('/etc', name).read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    for name in ("subuid", "subgid"):
        (etc / name).write_text("forge:1000000:65536\n", encoding="ascii")
        if not Path("/etc", name).exists():
            Path("/etc", name).touch()  # something must be there to be covered
    if not os.access("/dev/net/tun", os.F_OK):
        raise Unusable("this kernel has no /dev/net/tun, which networks without root need")
    os.mknod(etc / "tun", 0o20666, os.makedev(*TUN))
    (etc / "tun").chmod(0o666)
    for path in (folder, folder / "run"):
        os.chown(path, USER, USER)


def _try_namespace() -> None:
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run([*user, "unshare", "--user", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unusable(f"this kernel gives ordinary users no namespaces: {done.stderr.strip()}")


def _end_own(folder: Path, env: dict[str, str]) -> None:
    """End what keeps a user's namespace, and remove files that belong to the users in it."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder / "run/libpod/tmp/pause.pid").read_text(encoding="ascii")), signal.SIGKILL)
    subprocess.run(["podman", "unshare", "rm", "-rf", f"{folder}/.local"], env=env, capture_output=True, check=False)


def small_root(*programs: str) -> bytes:
    """A root file system as a tar archive: programs of this machine in /bin, with the libraries that they load."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True, format=tarfile.GNU_FORMAT) as tar:
        added: set[str] = set()

        def add(path: str, name: str) -> None:
            if name not in added:
                added.add(name)
                info: Any = tar.gettarinfo(path, name)
                info.uid = info.gid = info.mtime = 0
                info.uname = info.gname = ""
                info.mode = 0o755
                with Path(path).open("rb") as file:
                    tar.addfile(info, file)

        for program in programs:
            path = os.path.realpath(shutil.which(program) or "")
            add(path, f"bin/{program}")
            listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            for word in listed.split():
                if word.startswith("/"):
                    add(word, word.lstrip("/"))
    return buffer.getvalue()
