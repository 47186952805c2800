"""DEBs that the pipeline made, as an operations team meets them: apt installs, upgrades, rolls back and removes them.

All of it in one clean container, whose apt fetches from the system's own mirror what the package asks for; the server
answers after each step.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from execs import run_in

from pikaforge.attest.contents import read_package
from pikaforge.host.job import files
from pikaforge.host.store import sealed

if TYPE_CHECKING:
    from conftest import Engine, Project
    from docker.models.containers import Container

    from .conftest import Shop, Warm

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("deb"), pytest.mark.long(60)]

TOP = "/opt/pika"
CONF = f"{TOP}/conf/pika.conf"
INSTANCE = "/data/pika_9221"
INSTANCE_CONF = f"{INSTANCE}/conf/pika.conf"
INSTALL = ("apt-get", "install", "--yes", "-o", "Dpkg::Options::=--force-confold")
"""As in a script: nobody is asked, and an edited conf is kept."""
AS_PIKA = ("setpriv", "--reuid=pika", "--regid=pika", "--init-groups")
NEW_LINE = b"# of release 2\n"
ABSENT = "no_such_flag"
"""A CPU feature that no machine has."""
SENTENCE = "cpu-gate: error: this machine cannot run pika v3.4.0 for R620 (sandybridge, debian12)\n"
RELEASES = (("1", ""), ("2", "conf"), ("3", "gate"))
"""Releases, and what is planted in what their packages are made from."""


def name_of(release: str) -> str:
    return f"pika_3.4.0-{release}.R620.debian12_amd64.deb"


def version_of(release: str) -> str:
    """What dpkg says of it, installed as it should be."""
    return f"install ok installed 3.4.0-{release}.R620.debian12"


def planted(folder: Path, edit: Callable[[dict[str, Any]], object], **contents: bytes) -> None:
    """Change an entry of a project's store; its files are links to those of the warm store, so new ones are written."""
    path = folder / "result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    edit(record["facts"])
    for name, content in contents.items():
        file = folder / name.replace("_", ".")
        file.unlink()
        file.write_bytes(content)
        record["files"][file.name] = hashlib.sha256(content).hexdigest()
    path.unlink()
    path.write_text(json.dumps(sealed(record)), encoding="utf-8")


def with_line(tree: Path) -> bytes:
    """The tree, with one more line in its conf."""
    buffer = io.BytesIO()
    count = 0
    with tarfile.open(tree) as tar, tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as changed:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            content = file.read() if file is not None else b""
            if member.name.removeprefix("./") == "conf/pika.conf":
                content += NEW_LINE
                member.size = len(content)
                count += 1
            changed.addfile(member, io.BytesIO(content) if file is not None else None)
    assert count == 1
    return buffer.getvalue()


@pytest.fixture(scope="module")
def packages(shop: Shop, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By release: 1; 2, whose conf differs; and 3, whose audit found a feature that no CPU has."""
    project = shop.ready(tmp_path_factory.mktemp("deb-acceptance"))
    shop.take(project, "source", "compile", "audit", "smoke")
    store = project.out / "store"
    made = {}
    for release, what in RELEASES:
        if what == "conf":
            entry = store / "compile" / warm.keys["compile"][0]
            planted(entry, lambda _: None, tree_tar=with_line(entry / "tree.tar"))
        if what == "gate":
            planted(store / "audit" / warm.keys["audit"][0], lambda facts: facts["kernel_flags"].append(ABSENT))
        made[release] = pack(project, release)
    return made


def pack(project: Project, release: str) -> Path:
    """Let the pipeline make the DEB of a release."""
    project.change(lambda matrix: matrix["product"].update(release=release))
    project.build("R620", "--formats", "deb", check=0)
    return project.dist / "debian12" / name_of(release)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine with apt, without systemd."""

    container: Container
    until: Callable[..., None]

    def run(self, *argv: str) -> tuple[int, str]:
        """Run a program where the packages are; exit status and both outputs."""
        status, output = run_in(self.container, argv, env={"LC_ALL": "C"}, workdir="/q")
        return status, output.decode("utf-8", "replace").replace("\r\n", "\n")  # dpkg gives scripts a terminal

    def ok(self, *argv: str) -> str:
        """Run a program that must succeed; its output."""
        status, output = self.run(*argv)
        assert status == 0, f"{argv}: {output}"
        return output

    def sh(self, script: str) -> str:
        return self.ok("sh", "-ec", script)

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path)[0] == 0

    def state(self, package: str = "pika") -> str:
        """What dpkg knows of a package."""
        return self.run("dpkg-query", "-W", "-f", "${Status} ${Version}", package)[1]

    def ask(self, *words: str) -> str:
        """The first line of the server's answer; nothing if there is none."""
        request = f"*{len(words)}\\r\\n" + "".join(f"${len(word)}\\r\\n{word}\\r\\n" for word in words)
        script = f"exec 3<>/dev/tcp/127.0.0.1/9221 && printf '{request}' >&3 && read -r -t 5 line <&3 && echo \"$line\""
        status, output = self.run("bash", "-c", script)
        return output.strip() if status == 0 else ""

    def start(self) -> str:
        """Start the installed program with the instance's conf, as the service's user; its process id."""
        self.sh(
            "rm -f /tmp/pid /tmp/status;"
            f"{{ {' '.join(AS_PIKA)} {TOP}/bin/pika -c {INSTANCE_CONF} >/tmp/log 2>&1 &"
            " echo $! >/tmp/pid; wait $! && echo 0 >/tmp/status || echo $? >/tmp/status; } >/tmp/shell 2>&1 &"
        )
        self.until(lambda: self.exists("/tmp/status") or self.ask("PING") == "+PONG", "the server answers", 30)
        pid = self.ok("cat", "/tmp/pid").strip()
        assert not self.exists("/tmp/status"), self.ok("cat", "/tmp/status", "/tmp/log")
        assert self.ok("stat", "-c", "%U", f"/proc/{pid}").strip() == "pika"
        self.answers(pid)
        return pid

    def answers(self, pid: str) -> None:
        """The very program that is installed answers."""
        # A container's root may not look, but the process's own user may.
        assert self.ok(*AS_PIKA, "readlink", f"/proc/{pid}/exe").strip() == f"{TOP}/bin/pika"
        assert self.ask("PING") == "+PONG"

    def stop(self, pid: str) -> None:
        """Stop it, which it must do by itself."""
        self.sh(f"kill -TERM {pid}")
        self.until(lambda: self.exists("/tmp/status"), "the server has ended", 30)
        assert self.ok("cat", "/tmp/status") == "0\n", self.ok("cat", "/tmp/log")

    def restart(self, pid: str) -> str:
        self.stop(pid)
        return self.start()

    def holds(self, package: Path) -> None:
        """What the package's manifest lists is there as it says, but for the conf, which is the operator's."""
        manifest = read_package(package).manifest
        assert manifest is not None
        listed = json.loads(manifest)["contents"]
        found = self.sh(
            f"cd {TOP}; find . -type f -exec sha256sum {{}} +; find . -type f -printf '0%m  %p\\n';"
            "find . -type l -printf '→ %l  %p\\n'"
        )
        told: dict[str, set[str]] = {}
        for line in found.splitlines():
            what, _, path = line.partition("  ")
            told.setdefault(path.removeprefix("./"), set()).add(what)
        wanted = {
            item["path"]: {f"→ {item['link']}"} if "link" in item else {item["sha256"], item["mode"]} for item in listed
        }
        assert len(wanted) > 10
        wanted["manifest.json"] = {hashlib.sha256(manifest).hexdigest(), "0644"}
        conf = CONF.removeprefix(f"{TOP}/")
        assert wanted.pop(conf)
        others = {path for path in told if path.partition(".dpkg-")[0] == conf}
        assert conf in others
        assert {path: what for path, what in told.items() if path not in others} == wanted

    def kept(self) -> str:
        """What is the operator's, as it must stay; what a running server writes is not among it."""
        return self.sh(
            f"sha256sum {INSTANCE_CONF} {INSTANCE}/kept; stat -c '%n %U %a' {INSTANCE_CONF} {INSTANCE}/kept;"
            "find /data -maxdepth 2 -type d -printf '%p %u %m\\n' | sort"
        )


@pytest.fixture
def host(engine: Engine, warm: Warm, packages: Mapping[str, Path], until: Callable[..., None]) -> Iterator[Host]:
    """The runtime image without what the package is to bring; the packages are in /q."""
    facts = [
        json.loads((warm.store / "image" / key / "result.json").read_text(encoding="utf-8"))["facts"]
        for key in warm.keys["image"]
    ]
    image = next(fact["runtime"] for fact in facts if "/debian12-" in fact.get("runtime", ""))
    container = engine.client.containers.run(image, ["sleep", "3600"], detach=True, init=True)
    try:
        container.put_archive("/", files({f"q/{path.name}": path for path in packages.values()}))
        host = Host(container=container, until=until)
        host.ok("dpkg", "--purge", "rsync")
        status, output = host.run("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
        if status != 0:
            pytest.skip(f"apt cannot fetch here: {output.strip().splitlines()[-1]}")
        yield host
    finally:
        container.remove(force=True)


def test_install_upgrade_roll_back_refusal_removal_and_purge(host: Host, packages: Mapping[str, Path]) -> None:
    assert "installed" not in host.state("rsync").split()

    # A wheel's deployment has made the folder a link: its files would be overwritten, and later removed.
    host.sh("mkdir -p /opt/pika-v3-01/bin; echo of the wheel >/opt/pika-v3-01/bin/pika; ln -s pika-v3-01 /opt/pika")
    before = host.sh("find /opt -printf '%p %l\n' | sort")
    status, output = host.run("dpkg", "--force-depends", "-i", f"./{name_of('1')}")
    assert (status, "pika: error: /opt/pika is a link to /opt/pika-v3-01, which is not of this" in output) == (1, True)
    assert host.sh("find /opt -printf '%p %l\n' | sort") == before
    assert "not-installed" in host.state() or "no packages found" in host.state(), host.state()
    host.sh("rm /opt/pika")

    # Install: what it needs comes from the mirror.
    host.ok(*INSTALL, f"./{name_of('1')}")
    assert host.state() == version_of("1")
    assert host.state("rsync").startswith("install ok installed ")
    assert host.run("dpkg", "--verify", "pika") == (0, "")
    host.holds(packages["1"])

    # An instance, which answers and keeps data.
    told = host.ok("sh", f"{TOP}/utils/deploy.sh", "9221", "/data", "--no-start")
    assert f"ready to be started with conf {INSTANCE_CONF}" in told
    # Containers have a low limit of open files.
    host.sh(f"sed -i 's|^maxclients.*|maxclients : 1000|' {INSTANCE_CONF}; echo kept >{INSTANCE}/kept")
    pid = host.start()
    assert host.ask("SET", "acceptance", "7") == "+OK"
    host.sh(f"echo '# of the operator' >>{CONF}")
    edited = host.ok("cat", CONF)
    before = host.kept()

    # Upgrade: the shipped conf changed, too, so that dpkg has something to decide.
    host.ok(*INSTALL, f"./{name_of('2')}")
    assert host.state() == version_of("2")
    host.holds(packages["2"])
    assert host.ok("cat", CONF) == edited
    assert host.ok("cat", f"{CONF}.dpkg-dist").endswith(NEW_LINE.decode())
    assert host.kept() == before
    pid = host.restart(pid)
    assert host.ask("EXISTS", "acceptance") == ":1"

    # Roll back, which apt does only if it is told to.
    assert host.run(*INSTALL, f"./{name_of('1')}")[0] != 0
    assert host.state() == version_of("2")
    host.ok(*INSTALL, "--allow-downgrades", f"./{name_of('1')}")
    assert host.state() == version_of("1")
    host.holds(packages["1"])
    assert host.ok("cat", CONF) == edited
    assert host.kept() == before
    pid = host.restart(pid)
    assert host.ask("EXISTS", "acceptance") == ":1"

    # A package for other CPUs is refused; the one that is there stays whole, and its server does not notice.
    status, output = host.run(*INSTALL, f"./{name_of('3')}")
    assert status != 0
    assert SENTENCE in output, output
    assert ABSENT in output
    assert host.state() == version_of("1")
    assert host.run("dpkg", "--audit") == (0, "")
    host.holds(packages["1"])
    assert host.ok("cat", CONF) == edited
    assert host.kept() == before
    host.answers(pid)

    # Removal: the program goes, what is the operator's stays.
    host.stop(pid)
    host.ok("apt-get", "remove", "--yes", "pika")
    assert host.state().startswith("deinstall ok config-files ")
    assert not host.exists(f"{TOP}/bin")
    assert not host.exists(f"{TOP}/lib")
    assert host.ok("cat", CONF) == edited
    assert host.kept() == before
    stored = host.sh(f"find {INSTANCE}/db -type f -exec sha256sum {{}} + | sort")
    assert stored

    host.ok("apt-get", "purge", "--yes", "pika")
    assert "installed" not in host.state().split()
    assert not host.exists(TOP)
    assert host.kept() == before
    assert host.sh(f"find {INSTANCE}/db -type f -exec sha256sum {{}} + | sort") == stored
