"""RPMs that the pipeline made and signed, taken by the real dnf from a repository, and by plain rpm.

The machine is that of rpm_host.py.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from execs import name_itself
from integration import rpm_host
from integration.images import base_of, image_of
from integration.keys import new_key
from integration.rpm_host import DATA, HOST, STUB, TOP, UNIT, full

from pikaforge.host.store import sealed

if TYPE_CHECKING:
    from conftest import Engine, Project

    from .conftest import Shop, Warm

CONF = f"{TOP}/conf/pika.conf"
EDIT = "# of this house\n"
NEW_CONF = b"# of release 3\n"
NO_FLAG = "no_such_flag"
SENTENCE = "cpu-gate: error: this machine cannot run pika v3.4.0 for R620 (sandybridge, debian12)\n"
REFUSAL = "pika: error: this machine does not run this package (see above); nothing was changed\n"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("rpm"),
    pytest.mark.long(45),
    pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg"),
]

HOUSE = r"""
mkdir /srv/house
cat >/etc/yum.repos.d/house.repo <<'END'
[house]
name=house
baseurl=file:///srv/house
gpgcheck=1
gpgkey=file:///srv/house.asc
END
"""
"""Makes /srv/house the machine's only repository."""

WHEEL = (
    "mkdir -p /opt/pika-v3.4.0-01/bin; echo of the wheel >/opt/pika-v3.4.0-01/bin/pika; ln -s pika-v3.4.0-01 /opt/pika"
)
"""What the command of a wheel leaves of its deployment."""

WHOLE = f"find {TOP} {UNIT} /etc/pika /usr/lib/sysusers.d /data -printf '%p %U %m %l\\n' | sort; rpm -qa | sort"
DIGESTS = f"find {TOP} {UNIT} /etc/pika -type f -exec sha256sum {{}} + | sort"


# --- the packages


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """What dist/ and the store have of each release."""

    folder: Path
    key: Path
    """The public key."""

    def packages(self, release: str) -> list[Path]:
        """The product and its debug information, as they are delivered."""
        found = sorted((self.folder / release / "dist" / "debian12").glob("*.rpm"))
        assert len(found) == 2
        return found

    def main(self, release: str) -> Path:
        """The product."""
        return next(path for path in self.packages(release) if "debuginfo" not in path.name)

    def unsigned(self, release: str) -> Path:
        """The product as it was before it was signed."""
        return next((self.folder / release / "out" / "store").glob(f"package/*/{self.main(release).name}"))


def rewrite(path: Path, data: bytes) -> None:
    """Write a file of a store anew; the old one is a link to that of another store."""
    path.unlink()
    path.write_bytes(data)


def plant_conf(project: Project, key: str) -> None:
    """Another conf in the tree that was compiled."""
    entry = project.out / "store" / "compile" / key
    buffer = io.BytesIO()
    planted = 0
    with tarfile.open(entry / "tree.tar") as tar, tarfile.open(fileobj=buffer, mode="w") as out:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            data = b"" if content is None else content.read()
            if member.name.removeprefix("./") == "conf/pika.conf":
                data += NEW_CONF
                planted += 1
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    assert planted == 1
    rewrite(entry / "tree.tar", buffer.getvalue())
    record = json.loads((entry / "result.json").read_text(encoding="utf-8"))
    record["files"]["tree.tar"] = sha256(buffer.getvalue()).hexdigest()
    rewrite(entry / "result.json", json.dumps(sealed(record)).encode())


def plant_feature(project: Project, key: str) -> None:
    """An audit that found in use what no CPU has."""
    path = project.out / "store" / "audit" / key / "result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["facts"]["kernel_flags"].append(NO_FLAG)
    rewrite(path, json.dumps(sealed(record)).encode())


@pytest.fixture(scope="module")
def releases(shop: Shop, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    """Releases 1 and 2, which are alike; 3, whose conf differs; and 4, which demands what no CPU has."""
    top = tmp_path_factory.mktemp("acceptance")
    with new_key(top / "key", passphrase="of a throw-away key") as key:
        for release in ("1", "2", "3", "4"):
            project = shop.ready(top / release)
            shop.take(project, "source", "compile", "audit", "smoke")
            if release == "3":
                plant_conf(project, warm.keys["compile"][0])
            if release == "4":
                plant_feature(project, warm.keys["audit"][0])
            number = {"release": release}
            project.change(lambda matrix, number=number: matrix["product"].update(number))  # type: ignore[misc]
            project.build("R620", "--formats", "rpm", check=0, env=key.environment)
        yield Releases(folder=top, key=key.public)


# --- the machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(rpm_host.Host):
    """A machine with a repository of its own."""

    def publish(self, *packages: Path) -> None:
        """Add packages to the repository."""
        self.put({f"house/{path.name}": path for path in packages})
        self.ok("createrepo_c", "--quiet", "--update", "/srv/house")


@pytest.fixture(scope="module")
def image(engine: Engine, warm: Warm) -> str:
    """The runtime image of Debian 12 with dnf."""
    return image_of(engine, HOST.format(base=base_of(warm)), "dnf")


@pytest.fixture
def host(engine: Engine, image: str, releases: Releases, until: Callable[..., None]) -> Iterator[Host]:
    """A machine without the product, whose repository is still empty."""
    container = engine.client.containers.run(
        image, ["sleep", "3600"], detach=True, init=True, network_mode="none", hostname="clean"
    )
    try:
        name_itself(container)
        host = Host(container=container, until=until)
        host.sh(STUB)
        host.sh(HOUSE)
        host.put({"house.asc": releases.key})
        yield host
    finally:
        container.remove(force=True)


# --- dnf


def test_the_life_of_an_installation(host: Host, releases: Releases) -> None:
    host.publish(*releases.packages("1"))
    before = set(host.ok("rpm", "-qa", "--qf", "%{NVRA}\n").split())
    host.dnf_ok("install", "pika")
    after = host.ok("rpm", "-qa", "--qf", "%{NAME} %{NVRA}\n").splitlines()
    added = {line.split()[1] for line in after if not line.startswith("gpg-pubkey ")} - before
    assert added == {full("1")}, "debug information is for those who ask for it"
    assert host.run("rpm", "-V", "pika") == (0, "")
    host.ok("test", "-x", f"{TOP}/bin/pika")

    host.deploy()
    host.start()
    assert host.talk("SET", "kept", "value") == "+OK"
    assert host.talk("GET", "kept") == "value"
    host.sh(f"printf '{EDIT}' >>{CONF}")
    edited = host.ok("cat", CONF)
    instance = host.ok("sha256sum", f"{DATA}/conf/pika.conf")

    def serves(release: str) -> None:
        """The release is whole but for the operator's edit, and a server of it has the data and the conf."""
        assert host.installed() == full(release)
        assert host.talk("PING") == "+PONG", "the running server goes on"
        host.restart()
        assert host.talk("GET", "kept") == "value"
        assert host.ok("cat", CONF) == edited
        assert host.ok("sha256sum", f"{DATA}/conf/pika.conf") == instance
        assert re.fullmatch(rf"\S+ +c {CONF}\n", host.run("rpm", "-V", "pika")[1])

    # The conf of release 2 is that of release 1: nothing new to look at.
    host.publish(*releases.packages("2"))
    process = host.process
    assert "rpmnew" not in host.dnf_ok("upgrade", "pika")
    assert host.process == process
    serves("2")
    assert host.ok("ls", f"{TOP}/conf") == "pika.conf\n"

    host.dnf_ok("downgrade", "pika")
    serves("1")
    assert host.ok("ls", f"{TOP}/conf") == "pika.conf\n"

    # That of release 3 is another one, and is put beside the operator's.
    host.publish(*releases.packages("3"))
    assert f"{CONF} created as {CONF}.rpmnew" in host.dnf_ok("upgrade")
    assert host.ok("cat", f"{CONF}.rpmnew") == edited.removesuffix(EDIT) + NEW_CONF.decode()
    serves("3")

    host.dnf_ok("history", "undo", "last")
    serves("1")
    assert host.ok("cat", f"{CONF}.rpmnew") == edited.removesuffix(EDIT)

    host.stop()
    state = f"find /data -printf '%p %u %m %T@\\n' | sort; find {DATA} -type f -exec sha256sum {{}} + | sort"
    kept = host.sh(state)
    assert f"{DATA}/db/" in kept
    assert f"{CONF} saved as {CONF}.rpmsave" in host.dnf_ok("remove", "pika")
    assert host.run("rpm", "-q", "pika")[0] == 1
    assert host.sh(f"find {TOP} ! -type d | sort") == f"{CONF}.rpmnew\n{CONF}.rpmsave\n", "the operator's alone"
    assert host.run("test", "-e", UNIT)[0] == 1
    assert host.ok("cat", f"{CONF}.rpmsave") == edited
    assert host.sh(state) == kept

    # Whoever comes back finds the data.
    host.dnf_ok("install", "pika")
    assert host.installed() == full("3")
    host.start()
    assert host.talk("GET", "kept") == "value"


def test_what_no_cpu_has_is_refused(host: Host, releases: Releases) -> None:
    host.publish(*releases.packages("4"))
    look = "find /opt /data /etc/pika /usr/lib/systemd /var/tmp 2>/dev/null | sort; cat /etc/passwd; rpm -qa"
    before = host.sh(look)
    status, output = host.dnf("install", "pika")
    assert status == 1, output
    for said in (SENTENCE, REFUSAL, f"lack: {NO_FLAG}\n", "Error: Transaction failed"):
        assert said in output.replace("lacks:", "lack:"), output
    assert [line for line in host.sh(look).splitlines() if not line.startswith("gpg-pubkey-")] == before.splitlines()

    # As an upgrade it is refused, too, and what is there stays, and runs.
    host.publish(*releases.packages("1"))
    host.dnf_ok("install", full("1"))
    host.deploy()
    host.start()
    before = host.sh(f"{WHOLE}; {DIGESTS}")
    status, output = host.dnf("upgrade", "pika")
    assert status == 1, output
    assert SENTENCE in output
    assert REFUSAL in output
    assert host.sh(f"{WHOLE}; {DIGESTS}") == before
    assert host.installed() == full("1")
    assert host.run("rpm", "-V", "pika") == (0, "")
    assert host.talk("PING") == "+PONG"
    host.restart()


def test_unsigned_and_altered_packages_are_refused(host: Host, releases: Releases) -> None:
    host.publish(releases.main("1"))
    host.dnf_ok("install", "pika")
    host.publish(releases.unsigned("2"))
    status, output = host.dnf("upgrade", "pika")
    assert (status, f"Package {full('2')}.rpm is not signed" in output) == (1, True), output
    assert host.installed() == full("1")

    # The repository's own digest is that of the altered file: the signature alone is what finds it.
    data = bytearray(releases.main("3").read_bytes())
    data[-100] ^= 1
    host.put({f"house/{releases.main('3').name}": bytes(data)})
    host.ok("rm", f"/srv/house/{full('2')}.rpm")
    host.ok("createrepo_c", "--quiet", "/srv/house")
    status, output = host.dnf("upgrade", "pika")
    assert (status, "Error: GPG check FAILED" in output) == (1, True), output
    assert host.installed() == full("1")
    assert host.run("rpm", "-V", "pika") == (0, "")


# --- rpm


def test_plain_rpm(host: Host, releases: Releases) -> None:
    host.put({f"{release}.rpm": releases.main(release) for release in "134"})
    host.ok("rpm", "--import", "/srv/house.asc")
    assert re.fullmatch(r"/srv/1\.rpm: digests signatures OK\n", host.ok("rpm", "-K", "/srv/1.rpm"))
    # A wheel's deployment has made the folder a link: its files would be overwritten, and later removed.
    host.sh(WHEEL)
    before = host.sh("find /opt -printf '%p %l\n' | sort; rpm -qa")
    status, output = host.run("rpm", "-i", "/srv/1.rpm")
    assert status == 1
    assert "pika: error: /opt/pika is a link to /opt/pika-v3.4.0-01, which is not of this" in output
    assert host.sh("find /opt -printf '%p %l\n' | sort; rpm -qa") == before
    host.sh("rm /opt/pika")
    assert host.run("rpm", "-i", "/srv/1.rpm") == (0, "")
    host.deploy()
    host.start()
    assert host.talk("SET", "kept", "value") == "+OK"
    host.sh(f"printf '{EDIT}' >>{CONF}")
    edited = host.ok("cat", CONF)
    steps: tuple[tuple[tuple[str, ...], str], ...] = (
        (("-U", "/srv/3.rpm"), "3"),
        (("-U", "--oldpackage", "/srv/1.rpm"), "1"),
    )
    for argv, release in steps:
        assert host.run("rpm", *argv) == (0, f"warning: {CONF} created as {CONF}.rpmnew\n")
        assert host.installed() == full(release)
        host.restart()
        assert host.talk("GET", "kept") == "value"
        assert host.ok("cat", CONF) == edited
    status, output = host.run("rpm", "-U", "/srv/4.rpm")
    assert (status, output.startswith(SENTENCE), REFUSAL in output) == (1, True, True), output
    assert host.installed() == full("1")
    host.restart()
    host.stop()
    kept = host.sh("find /data -type f -exec sha256sum {} + | sort")
    assert host.run("rpm", "-e", "pika") == (0, f"warning: {CONF} saved as {CONF}.rpmsave\n")
    assert host.run("test", "-e", f"{TOP}/bin")[0] == 1
    assert host.sh("find /data -type f -exec sha256sum {} + | sort") == kept
