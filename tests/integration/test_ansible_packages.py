"""The Ansible collection with a published repository: apt and dnf, the model of each host, a wrong key, new releases.

The repository is what `publish` makes of packages that the pipeline has made and signed. It is served on the network of
the hosts, which have no other source. The host with dnf is a Debian that calls itself Rocky Linux; see rpm_host.py.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import hosts
import pytest
from hosts import Host
from integration.ansible_hosts import PORT, Hosts, control_node
from integration.builds import ALL_FORMATS, ENDED, SampleBuild
from integration.keys import Key, new_key
from integration.rpm_host import STUB
from integration.test_ansible import changed, counts, program
from writer import Writer

if TYPE_CHECKING:
    from conftest import Engine, Project

    from .conftest import Shop

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("fleet"),
    pytest.mark.long(150),
    pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg"),
]
URL = "http://packages"
APT, OTHER, DNF, OLD = "apt", "other", "dnf", "old"
"""Hosts: two with apt, of two models; one with dnf; one whose CPUs are too old."""
INSTANCE = "/opt/pika/utils/instance.sh"
ROCKY = {
    "redhat-release": b"Rocky Linux release 9.4 (Blue Onyx)\n",
    "os-release": b'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n',
    "dnf/vars/releasever": b"9\n",
}
CALLED = """
mount -t tmpfs tmpfs /sys/class
mkdir -p /sys/class/dmi/id
echo "$1" >/sys/class/dmi/id/product_name
"""
"""Lets a host say what machine it is: its DMI product name."""
OLD_CPU = b"processor : 0\nflags : fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm\n"
SOURCES = ("/etc/apt", "/etc/yum.repos.d", "/etc/pki/rpm-gpg", "/opt", "/etc/pika", f"/data/pika_{PORT}/conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet(Hosts):
    """Hosts that get their programs from a repository."""

    project: Project
    key: Key
    stranger: Path

    def publish(self, release: str) -> None:
        """Publish a release, and serve it."""
        dist = self.project.dist.with_name(f"dist-{release}")
        words = ("publish", "all", "--to", "site", "--yes", "--matrix", str(self.project.matrix))
        self.project.tool(
            *words, "--out", str(self.project.out), "--dist", str(dist), env=self.key.environment, check=0
        )
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            tar.add(self.top / "site", "new")
        server = self.group.hosts["packages"]
        server.unpack(stream.getvalue(), "/srv")
        server.sh("rm -rf /srv/site; mv /srv/new /srv/site")

    def play_on(
        self,
        names: tuple[str, ...],
        name: str,
        *words: str,
        wrong_key: tuple[str, ...] = (),
        settings: dict[str, int] | None = None,
        restart: tuple[str, ...] = (),
    ) -> CompletedProcess[str]:
        """Run a playbook."""
        values = {
            "server_site": URL,
            "server_key": str(self.key.public),
            "server_detect_model": str(self.top / "site/utils/detect-model.sh"),
            "server_image": "debian12",
            "server_instances": [
                {"port": PORT, "base": "/data", "settings": {"maxclients": 1000, **(settings or {})}},
            ],
        }
        on: dict[str, dict[str, object]] = {host: {} for host in names}
        for host in wrong_key:
            on[host]["server_key"] = str(self.stranger)
        for host in restart:
            on[host]["server_restart"] = True
        return self.play(name, *words, on=on, values=values)

    def state(self) -> dict[str, list[str]]:
        """What must not change."""
        return {name: self.group.hosts[name].state(*SOURCES) for name in (APT, OTHER, DNF)}

    def release(self, name: str) -> str:
        """What the package manager of a host has installed."""
        query = (
            ["rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}\n", "pika"]
            if name == DNF
            else ["dpkg-query", "-W", "-f", "${Version}\n", "pika"]
        )
        return self.group.hosts[name].ok(*query).splitlines()[-1]

    def setting(self, name: str, key: str) -> str:
        """A setting of the server that runs on a host."""
        reply = self.group.hosts[name].ask(PORT, "CONFIG", "GET", key)
        assert isinstance(reply, list), reply
        return str(reply[1])


@pytest.fixture(scope="module")
def fleet(
    engine: Engine, shop: Shop, sample_build: Callable[..., SampleBuild], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Four hosts and a server, with two releases of which the first is published."""
    program("ansible-playbook")
    top = control_node(tmp_path_factory.mktemp("packages"))
    project = shop.ready(top)
    shop.take(project, *ENDED, build=sample_build("R620", "--formats", ALL_FORMATS))
    with new_key(top / "key") as key, new_key(top / "stranger") as stranger, hosts.together(engine) as group:
        for release in ("1", "2"):

            def edit(matrix: dict[str, Any], release: str = release) -> None:
                matrix["product"]["release"] = release
                matrix["publish"]["site"] = {"kind": "directory", "path": str(top / "site"), "clients": URL}

            project.change(edit)
            project.dist = top / f"dist-{release}"
            project.build("R620", "--formats", "rpm,deb", check=0, env=key.environment)
            project.build("R720", "--formats", "deb", check=0, env=key.environment)
        server = group.start("packages", systemd=False, packages=("python3",))
        fleet = Fleet(top=top, group=group, project=project, key=key, stranger=stranger.public)
        fleet.publish("1")
        server.container.exec_run(
            ["python3", "-m", "http.server", "80", "-d", "/srv/site"], detach=True, workdir="/srv"
        )
        for name, machine in {APT: "PowerEdge R620", OTHER: "PowerEdge R720"}.items():
            prepared(group.start(name, packages=("python3", "python3-apt")), machine)
        rpm = prepared(group.start(DNF, packages=("python3", "dnf", "rpm", "gnupg")), "PowerEdge R620")
        rpm.sh(STUB.replace("cd /srv", "mkdir -p /srv && cd /srv"))
        rpm.sh("rm -f /etc/os-release")
        rpm.put("/etc", ROCKY)
        old = group.start(OLD, systemd=False, packages=("python3",))
        old.put("/root", {"cpuinfo": OLD_CPU})
        old.sh("mount --bind /root/cpuinfo /proc/cpuinfo")
        yield fleet


def prepared(host: Host, machine: str) -> Host:
    """Let a host be a machine of some kind that has no other source of packages."""
    host.sh(CALLED, machine)
    host.sh("mkdir -p /data /etc/pki/rpm-gpg; rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*")
    return host


ALL = (APT, OTHER, DNF)


def test_the_package_of_each_hosts_model_is_installed(fleet: Fleet) -> None:
    before = fleet.state()
    # Nothing is changed by a look, and a host that nothing is published for is told so.
    done = fleet.play_on((*ALL, OLD), "site", "--check", "--diff")
    assert counts(done, "failed") == {APT: 0, OTHER: 0, DNF: 0, OLD: 1}, done.stdout
    assert all(counts(done, "changed")[name] > 0 for name in ALL)
    assert "No package suits this host" in done.stdout
    assert "these CPUs run nothing that is published for debian12" in done.stdout
    assert f"+deb [arch=amd64 signed-by=/etc/apt/keyrings/pika.asc] {URL}/debian12/R720/debs ./" in done.stdout
    assert fleet.state() == before
    # The key of somebody else: refused, and what the hosts had before is all that they have.
    done = fleet.play_on((*ALL, OLD), "site", wrong_key=(APT, DNF))
    assert counts(done, "failed") == {APT: 1, OTHER: 0, DNF: 1, OLD: 1}, done.stdout
    for name, says in {APT: "NO_PUBKEY", DNF: "GPG"}.items():
        assert re.search(rf"fatal: \[{name}\]: .*is not signed with the key in .*{says}", done.stdout), done.stdout
    assert {name: fleet.state()[name] for name in (APT, DNF)} == {name: before[name] for name in (APT, DNF)}
    fleet.group.hosts[OTHER].wait_serving(PORT)
    # The right one. The other host is as it should be.
    done = fleet.play_on(ALL, "site")
    assert counts(done, "failed") == {APT: 0, OTHER: 0, DNF: 0}, done.stdout
    assert counts(done, "changed")[OTHER] == 0, done.stdout
    assert [fleet.release(name) for name in ALL] == [
        "3.4.0-1.R620.debian12",
        "3.4.0-1.R720.debian12",
        "3.4.0-1.R620.debian12",
    ]
    for name in ALL:
        assert fleet.group.hosts[name].ask(PORT, "SET", "key", name) == "OK"


def test_a_changed_configuration_restarts_where_that_is_wanted(fleet: Fleet) -> None:
    before = {name: fleet.setting(name, "timeout") for name in ALL}
    done = fleet.play_on((APT, OTHER), "site", "--diff", settings={"timeout": 77}, restart=(APT,))
    assert counts(done, "failed") == {APT: 0, OTHER: 0}, done.stdout
    assert (fleet.setting(APT, "timeout"), fleet.setting(OTHER, "timeout")) == ("77", before[OTHER])
    assert done.stdout.count("runs with its old configuration until it is restarted") == 1, done.stdout
    assert "+timeout : 77" in done.stdout
    # Twice, and without that setting: nothing is changed, because one that is not asked for is kept.
    done = fleet.play_on(ALL, "site", "--check", restart=ALL)
    assert counts(done, "changed") == {APT: 0, OTHER: 0, DNF: 0}, done.stdout


def test_releases_come_by_the_package_manager_and_go(fleet: Fleet) -> None:
    rpm = fleet.group.hosts[DNF]
    fleet.publish("2")
    second = "pika-3.4.0-2.R620.debian12"
    # By hand, through the real dnf: a file, and a version of the repository that is older.
    (package,) = (fleet.project.dist.with_name("dist-2") / "debian12").glob(f"{second}.x86_64.rpm")
    rpm.put("/root", {package.name: package.read_bytes()})
    said = rpm.ok(INSTANCE, str(PORT), "upgrade", f"/root/{package.name}", "--settle", "1")
    assert "before: v3.4.0-1-R620" in said
    assert (fleet.release(DNF), fleet.trees()[DNF]) == ("3.4.0-2.R620.debian12", "pika")
    assert rpm.run("rpm", "-V", "pika")[0] == 0
    rpm.ok(INSTANCE, str(PORT), "upgrade", "3.4.0-1.R620.debian12", "--settle", "1")
    assert (fleet.release(DNF), fleet.trees()[DNF]) == ("3.4.0-1.R620.debian12", "pika")
    # By the play: it keeps what runs, and tells before what it would do.
    both = (APT, DNF)
    before = fleet.state()
    done = fleet.play_on(both, "upgrade", "--check")
    assert min(changed(done)) > 0, done.stdout
    assert fleet.state() == before
    with Writer(fleet.group.hosts[APT], PORT, pace=0.02) as writer:
        writer.more(20)
        done = fleet.play_on(both, "upgrade")
        assert min(changed(done)) > 0, done.stdout
        assert [fleet.release(name) for name in both] == ["3.4.0-2.R620.debian12"] * 2
        assert {fleet.trees()[name] for name in both} == {"pika"}
        before = fleet.state()
        assert changed(fleet.play_on(both, "upgrade")) == [0, 0]
        assert fleet.state() == before
        # Back to what was kept; the play for the site leaves it there.
        assert min(changed(fleet.play_on(both, "rollback"))) > 0
        assert {fleet.trees()[name] for name in both} == {"pika-v3.4.0-1-R620"}
        assert changed(fleet.play_on(both, "site")) == [0, 0]
        assert {fleet.trees()[name] for name in both} == {"pika-v3.4.0-1-R620"}
        writer.more(20)
        assert writer.lost() == []
    assert [fleet.group.hosts[name].ask(PORT, "GET", "key") for name in ALL] == [*ALL]
