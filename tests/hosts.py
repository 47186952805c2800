"""Hosts for tests of operating: containers with systemd as their first process, or without it, on one network.

    with hosts.together(engine) as group:
        one = group.start("one")                       # Debian 12, systemd
        two = group.start("two", system="debian13")
        bare = group.start("bare", systemd=False)
        one.put("/opt", {"pika/bin/pika": (program, 0o755)})
        one.ok("systemctl", "start", "pika@9221")
        assert one.ask(9221, "PING") == "PONG"         # over the network, from outside
        one.power_off()                                # as when the power fails; one.power_on() boots it again
        one.reboot()                                   # in good order; files stay, /run and /tmp are empty

One host takes about a second, so a module starts few and its tests share them. Images are made once and stay in the
engine as other images of tests do (`engine_images`).
"""

from __future__ import annotations

import io
import os
import secrets
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from execs import run_in
from integration.images import image_of

from pikaforge.pipeline.smoke.resp import Closed, Connection, NoConnection, Reply

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

RUN = "org.pikaforge.test.hosts"
"""Label of hosts and networks: the pid of the test process that has made them."""
PACKAGES = ("systemd-sysv", "dbus", "rsync", "logrotate", "procps", "iproute2", "netcat-openbsd", "busybox")
QUIET = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer")
"""Timers of the system that would work while tests run."""
BASES = ("pikaforge/base:{system}-", "pikaforge/{system}-runtime:")
"""Images of a minimal system, made by builds; the newest of the first kind that the engine has."""
SYSTEMD: dict[str, Any] = {
    "cap_add": ["SYS_ADMIN"],
    "tmpfs": {"/run": "", "/tmp": "exec"},
    "volumes": {"/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "ro"}},
    "environment": {"container": "docker"},
    "stop_signal": "SIGRTMIN+3",  # halt.target; SIGTERM only lets it start anew (systemd(1), "Signals")
}
BARE: dict[str, Any] = {"init": True, "cap_add": ["SYS_ADMIN"]}
"""For `small_disk`, as there is nothing else that needs it."""
NO_DNS: dict[str, Any] = {"dns": ["127.0.0.1"], "dns_opt": ["timeout:1", "attempts:1"]}
"""Names that are not of the network are unknown after a second; libc's own patience is ten (resolv.conf(5))."""
BOOTED = """
n=0
while [ $n -lt 600 ]; do
    state=$(systemctl is-system-running --wait 2>/dev/null) || :
    case $state in running | degraded) echo "$state" && exit ;; esac
    n=$((n + 1)) && sleep 0.05
done
exit 1
"""
"""`--wait` waits for the end of the boot, but fails before systemd's bus is there."""

Contents = Mapping[str, bytes | tuple[bytes, int]]
"""Files by path: their content, or content and mode."""


def archive(contents: Contents, uid: int = 0) -> bytes:
    """Return a tar archive of files that a user owns; their mode is 0644 unless given."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, entry in contents.items():
            content, mode = entry if isinstance(entry, tuple) else (entry, 0o644)
            member = tarfile.TarInfo(name.lstrip("/"))
            member.size, member.mode, member.uid, member.gid = len(content), mode, uid, uid
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@dataclass(slots=True, kw_only=True)
class Host:
    """A container that stands for a host."""

    container: Container
    name: str = ""
    """By which the other hosts of its network reach it."""
    systemd: bool = False

    # ---- programs and files

    def run(self, *argv: str, user: str = "root", **env: str) -> tuple[int, str]:
        """Run a program; exit status and both outputs."""
        status, output = run_in(self.container, argv, user=user, env=env)
        return status, output.decode("utf-8", "replace")

    def ok(self, *argv: str, user: str = "root", **env: str) -> str:
        """Run a program that must succeed; its output."""
        status, output = self.run(*argv, user=user, **env)
        assert status == 0, f"{self.name}: {argv}: exit status {status}\n{output}"
        return output

    def sh(self, script: str, *args: str, user: str = "root", **env: str) -> str:
        """Run a script of the shell that must succeed; its output."""
        return self.ok("sh", "-ec", script, "sh", *args, user=user, **env)

    def put(self, folder: str, contents: Contents, uid: int = 0) -> None:
        """Put files below a folder, which is made. Not below /run and /tmp, which the engine does not see."""
        self.unpack(archive(contents, uid), folder)

    def unpack(self, tar: bytes | Path, folder: str = "/opt") -> None:
        """Unpack a tar archive, compressed or not, below a folder, which is made."""
        assert not folder.startswith(("/run", "/tmp")), "the engine does not see these"
        self.ok("mkdir", "-p", folder)
        data = tar.read_bytes() if isinstance(tar, Path) else tar
        assert self.container.put_archive(folder, data)

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.ok("cat", path)

    def exists(self, path: str) -> bool:
        """Whether there is a file, folder or link."""
        return self.run("sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "sh", path)[0] == 0

    def state(self, *folders: str) -> list[str]:
        """Owner, mode and content of all below the folders, and the users: what must not change."""
        script = (
            'for f in "$@"; do [ ! -e "$f" ] || find "$f" -printf "%p %u:%g %m %y\\n"; done | sort; cat /etc/passwd'
        )
        sums = 'for f in "$@"; do [ ! -e "$f" ] || find "$f" -type f -exec sha256sum {} +; done | sort'
        return self.ok("sh", "-c", f"{{ {script}; {sums}; }} 2>&1", "sh", *folders).splitlines()

    def small_disk(self, folder: str, size: str) -> None:
        """Mount an empty file system (tmpfs) of a size on a folder; it lasts until the host stops."""
        self.ok("mkdir", "-p", folder)
        self.ok("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder)

    # ---- power

    def wait_booted(self) -> str:
        """Wait for the end of the boot, half a minute at most: `running`, or `degraded` if units have failed."""
        if not self.systemd:
            return "running"
        return self.ok("sh", "-c", BOOTED).strip()

    def power_off(self) -> None:
        """Let all its processes end at once, by SIGKILL. Files stay, but those in /run and /tmp."""
        self.container.kill()
        self.container.wait(timeout=60)

    def power_on(self) -> str:
        """Start it again, and wait until it has booted; what `wait_booted` says."""
        self.container.start()
        return self.wait_booted()

    def shut_down(self) -> None:
        """Stop it in good order, with a minute for its services."""
        self.container.stop(timeout=60)

    def reboot(self) -> str:
        """Stop it in good order and start it again; what `wait_booted` says."""
        self.shut_down()
        return self.power_on()

    # ---- systemd

    def failed_units(self) -> list[str]:
        """The units that systemd lists as failed."""
        lines = self.ok("systemctl", "list-units", "--failed", "--plain", "--no-legend").splitlines()
        return [line.split()[0] for line in lines if line.strip()]

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.ok("systemctl", "show", unit, "-p", ",".join(properties)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_unit(
        self,
        unit: str,
        properties: Sequence[str],
        wanted: Callable[[dict[str, str]], bool],
        *,
        within: float = 20.0,
    ) -> dict[str, str]:
        """Wait until properties of a unit are as wanted; return them."""
        deadline = time.monotonic() + within
        while not wanted(state := self.show(unit, *properties)):
            assert time.monotonic() < deadline, f"{self.name}: {unit} after {within:g} s: {state}"
            time.sleep(0.1)
        return state

    def cursor(self) -> str:
        """Where the journal ends now, for `journal`."""
        self.ok("journalctl", "--sync")
        lines = self.ok("journalctl", "-n", "1", "-o", "cat", "--show-cursor").splitlines()
        return lines[-1].removeprefix("-- cursor: ")

    def journal(self, unit: str, after: str = "") -> str:
        """What a unit has said, since a cursor.

        Not by its invocation, which journald does not learn of a process that has ended before it looks.
        """
        self.ok("journalctl", "--sync")
        since = ("--after-cursor", after) if after else ()
        return self.ok("journalctl", "-o", "cat", "-u", unit, *since)

    # ---- the network

    @property
    def address(self) -> str:
        """Its address on the network of its group; another one after each start."""
        self.container.reload()
        networks: dict[str, dict[str, str]] = self.container.attrs["NetworkSettings"]["Networks"]
        (address,) = (entry["IPAddress"] for entry in networks.values())
        assert address, f"{self.name} is on no network, or does not run"
        return address

    def connect(self, port: int, *, password: str = "", timeout: float = 10.0) -> Connection:
        """Connect to a server of RESP on the host, from outside; the caller closes it.

        Raises:
            NoConnection: nothing listens there.
        """
        connection = Connection(self.address, port, timeout=timeout)
        if password:
            (said,) = connection.exchange([["AUTH", password]])
            assert said == "OK", f"{self.name}:{port} refuses the password: {said}"
        return connection

    def ask(self, port: int, *words: str | int, password: str = "", timeout: float = 10.0) -> Reply:
        """Send one command to a server of RESP on the host, from outside; its reply. An error is an `ErrorReply`.

        Raises:
            NoConnection: nothing listens there.
            Closed: the server went away, or did not answer in time.
        """
        with self.connect(port, password=password, timeout=timeout) as connection:
            return connection.exchange([words])[0]

    def info(self, port: int, section: str, *, password: str = "") -> dict[str, str]:
        """The fields of a section of INFO, by name."""
        text = self.ask(port, "INFO", section, password=password)
        assert isinstance(text, str), text
        pairs = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
        return {name: value for name, _, value in pairs}

    def serves(self, port: int, *, password: str = "") -> bool:
        """Whether a server answers PING with PONG at this moment."""
        try:
            return self.ask(port, "PING", password=password, timeout=2.0) == "PONG"
        except (NoConnection, Closed, AssertionError):
            return False

    def wait_serving(self, port: int, *, password: str = "", within: float = 30.0) -> None:
        """Wait until a server answers PING."""
        wait(lambda: self.serves(port, password=password), f"{self.name}:{port} answers", within=within)


Found = TypeVar("Found")


def wait(look: Callable[[], Found], what: str, *, within: float = 30.0) -> Found:
    """Look again and again until what is found is true; return it. The test fails if it is not within some seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what}")
        time.sleep(0.05)
    return found


INDEX = """\
cd "$1"
for file in *.deb; do
    dpkg-deb -f "$file"
    echo "Filename: ./$file"
    echo "Size: $(stat -c %s "$file")"
    echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
    echo
done >Packages
rm -rf /etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:$1 ./" >/etc/apt/sources.list
apt-get update
"""


def offer_packages(host: Host, folder: str) -> None:
    """Let apt find the packages of a folder of the host, and no others."""
    host.sh(INDEX, folder)


# ---- images


def base(engine: Engine, system: str = "debian12") -> str:
    """The tag of a minimal Debian, made by an earlier build; the test is skipped if the engine has none."""
    kinds = [kind.format(system=system) for kind in BASES]
    images = sorted(engine.client.api.images(), key=lambda image: -int(image["Created"]))
    tags: list[str] = [tag for image in images for tag in image["RepoTags"] or ()]
    found = [tag for kind in kinds for tag in tags if tag.startswith(kind)]
    if not found:
        pytest.skip(f"the engine has no image {' or '.join(kinds)}: run a build first")
    return found[0]


def image(engine: Engine, system: str = "debian12", packages: tuple[str, ...] = ()) -> str:
    """The tag of an image with systemd and what an operator's host has, made of Debian's packages unless it is there.

    Args:
        engine: the engine.
        system: an image of matrix.yaml with this base: debian12 or debian13.
        packages: further packages of Debian's.
    """
    names = " ".join((*PACKAGES, *packages))
    text = (
        f"FROM {base(engine, system)}\n"
        "RUN apt-get update \\\n"
        f" && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {names}\n"
        f"RUN systemctl mask {' '.join(QUIET)}\n"
    )
    return image_of(engine, text, "-".join(("host", system, *packages)))


# ---- containers and networks


@contextmanager
def container_of(engine: Engine, tag: str, argv: list[str], **options: Any) -> Iterator[Container]:
    """Run a container; it is removed at the end."""
    from docker.errors import NotFound

    container = engine.client.containers.create(tag, argv, labels={RUN: str(os.getpid())}, **options)
    try:
        container.start()
        yield container
    finally:
        with suppress(NotFound):  # `Group.remove`
            container.remove(force=True, v=True)


class Group:
    """Hosts on one network, which they do not leave."""

    def __init__(self, engine: Engine, network: str, stack: ExitStack) -> None:
        self.engine = engine
        self.network = network
        self.hosts: dict[str, Host] = {}
        self._stack = stack

    def start(
        self,
        name: str,
        *,
        system: str = "debian12",
        systemd: bool = True,
        packages: tuple[str, ...] = (),
        open_files: int | None = None,
        **options: Any,
    ) -> Host:
        """Start a host and wait until it has booted.

        Args:
            name: its name, and that by which the others of the group reach it.
            system: debian12 or debian13.
            systemd: whether its first process is systemd; else it is an init that reaps.
            packages: further packages of Debian's, for which an image is made.
            open_files: the hard limit of open files of its processes; else the engine's.
            options: of docker's `containers.create`, such as `mem_limit`.
        """
        from docker.types import Ulimit

        tag = image(self.engine, system, packages)
        chosen = {**(SYSTEMD if systemd else BARE), **NO_DNS, **options}
        if open_files is not None:
            chosen["ulimits"] = [Ulimit(name="nofile", soft=min(1024, open_files), hard=open_files)]
        argv = ["/sbin/init"] if systemd else ["sleep", "infinity"]
        unique = f"pikaforge-test-{name}-{secrets.token_hex(4)}"
        named = {self.network: self.engine.client.api.create_endpoint_config(aliases=[name])}
        container = self._stack.enter_context(
            container_of(
                self.engine,
                tag,
                argv,
                name=unique,
                hostname=name,
                network=self.network,
                networking_config=named,
                **chosen,
            )
        )
        host = self.hosts[name] = Host(container=container, name=name, systemd=systemd)
        host.wait_booted()
        return host

    def remove(self, host: Host) -> None:
        """Remove a host for good, with all its files."""
        del self.hosts[host.name]
        host.container.remove(force=True, v=True)


@contextmanager
def together(engine: Engine) -> Iterator[Group]:
    """A group of hosts; they and their network are removed at the end."""
    _sweep(engine)
    network = engine.client.networks.create(
        f"pikaforge-test-{secrets.token_hex(6)}", driver="bridge", internal=True, labels={RUN: str(os.getpid())}
    )
    try:
        with ExitStack() as stack:
            yield Group(engine, str(network.name), stack)
    finally:
        network.remove()


def _sweep(engine: Engine) -> None:
    """Remove what a test process that was killed has left."""
    from docker.errors import APIError

    left: list[Any] = [
        *engine.client.containers.list(all=True, filters={"label": RUN}, ignore_removed=True),
        *engine.client.networks.list(filters={"label": RUN}),
    ]
    for thing in left:
        labels = thing.attrs.get("Labels") or thing.attrs.get("Config", {}).get("Labels") or {}
        pid = labels.get(RUN) or str(os.getpid())
        if Path("/proc", pid).exists():
            continue
        with suppress(APIError):
            thing.remove(**({"force": True, "v": True} if "Config" in thing.attrs else {}))
