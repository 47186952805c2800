"""The Ansible collection on three hosts with systemd, with the sample server from tarballs: a site without network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import hosts
import pytest
from integration.ansible_hosts import PASSWORD, PORT, Hosts, control_node
from integration.test_ansible import HOSTS, changed, counts, program
from integration.trees import Tree
from writer import Writer

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("fleet"), pytest.mark.long(150)]
FIRST, SECOND = "v3.4.0-1", "v3.4.0-2"
OLD, NEW = f"pika-{FIRST}-R620", f"pika-{SECOND}-R620"
PLANTED = "/etc/planted"
"""Where this file is, the second version ends at once."""
DIES = f"""\
[ ! -e {PLANTED} ] || {{ echo 'pika: cannot start: planted by a test' >&2; exit 3; }}
exec "$real" "$@"
"""


class Fleet(Hosts):
    """Hosts that get their programs as tarballs."""

    def tarballs(self, name: str, *words: str, version: str = FIRST) -> CompletedProcess[str]:
        """Run a playbook on the three hosts, with the packages of a version in tarballs."""
        instance = {
            "port": PORT,
            "base": "/data",
            "settings": {"maxclients": 1000},
            "password_file": str(self.top / "password"),
        }
        values = {
            "server_source": "tarball",
            "server_version": version,
            "server_model": "R620",
            "server_tarball": str(self.top / "pika-{image}-{model}.tar.gz").replace("pika", version),
            "server_instances": [instance],
            "server_metrics": True,
        }
        return self.play(name, *words, on={host: {} for host in HOSTS}, values=values)


@pytest.fixture(scope="module")
def fleet(
    engine: Engine, sample_tree: Tree, second_tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Three hosts; the data of the last is on a small disk."""
    program("ansible-playbook")
    control = control_node(tmp_path_factory.mktemp("fleet"))
    sample_tree.pack(control / f"{FIRST}-debian12-R620.tar.gz")
    second_tree.with_server(DIES).pack(control / f"{SECOND}-debian12-R620.tar.gz")
    with hosts.together(engine) as group:
        for name in HOSTS:
            host = group.start(name, packages=("python3",))
            host.ok("mkdir", "-p", "/data", "/var/lib/prometheus/node-exporter")
        group.hosts["three"].small_disk("/data", "200m")
        yield Fleet(top=control, group=group)


def test_a_host_that_fails_leaves_the_others_serving(fleet: Fleet) -> None:
    three = fleet.group.hosts["three"]
    three.ok("systemd-run", "--unit=other", "/usr/bin/python3", "-m", "http.server", str(PORT + 1000))
    hosts.wait(lambda: three.ok("ss", "-Hltn", f"sport = :{PORT + 1000}"), "the port is taken")
    before = three.state("/etc", "/data")
    foreseen = fleet.tarballs("site", "--check", "--diff")
    assert foreseen.returncode == 0, foreseen.stdout + foreseen.stderr
    assert three.state("/etc", "/data") == before
    done = fleet.tarballs("site")
    assert (done.returncode != 0, counts(done, "failed")) == (True, {"one": 0, "two": 0, "three": 1}), done.stdout
    for name in ("one", "two"):
        fleet.group.hosts[name].wait_serving(PORT, password=PASSWORD)
    assert not three.exists(f"/data/pika_{PORT}")
    assert not three.exists(f"/etc/pika/{PORT}.env")


def test_a_second_run_mends_that_host_and_changes_no_other(fleet: Fleet) -> None:
    fleet.group.hosts["three"].ok("systemctl", "stop", "other")
    one, three, two = changed(fleet.tarballs("site"))  # in the order of names
    assert (one, two, three > 0) == (0, 0, True)
    for name in HOSTS:
        host = fleet.group.hosts[name]
        assert host.ask(PORT, "SET", "key", name, password=PASSWORD) == "OK"
        assert "sesame" not in host.ok("sh", "-c", "cat /var/log/*.log /etc/pika/* 2>/dev/null; ls -R /tmp /root")
    assert changed(fleet.tarballs("site", "--check", "--diff")) == [0, 0, 0]
    assert [fleet.group.hosts[name].ask(PORT, "GET", "key", password=PASSWORD) for name in HOSTS] == [*HOSTS]


def test_a_rolling_upgrade_under_writers_stops_at_the_host_that_fails(fleet: Fleet) -> None:
    _, two, three = (fleet.group.hosts[name] for name in HOSTS)
    two.put("/", {PLANTED: b""})
    with ExitStack() as stack:
        writers = [
            stack.enter_context(Writer(fleet.group.hosts[name], PORT, password=PASSWORD, pace=0.02)) for name in HOSTS
        ]

        def all_serve() -> None:
            for writer in writers:
                writer.more(20)
                assert writer.lost() == []

        all_serve()
        processes = [fleet.process(name) for name in HOSTS]
        # The new version ends at once on the second host.
        done = fleet.tarballs("upgrade", version=SECOND)
        assert (done.returncode != 0, counts(done, "failed")) == (True, {"one": 0, "two": 1}), done.stdout
        assert "cannot start: planted by a test" in done.stdout
        assert f"instance {PORT} serves again with {FIRST}-R620" in done.stdout
        assert fleet.trees() == {"one": NEW, "two": OLD, "three": OLD}
        assert fleet.process("three") == processes[2]
        assert not three.exists(f"/opt/{NEW}")
        all_serve()
        # It is mended; the disk of the third one is full.
        two.ok("rm", PLANTED)
        three.sh("dd if=/dev/zero of=/data/filler bs=1M count=500 2>/dev/null || :")
        done = fleet.tarballs("upgrade", version=SECOND)
        assert (done.returncode != 0, counts(done, "failed")) == (True, {"one": 0, "two": 0, "three": 1}), done.stdout
        assert counts(done, "changed")["one"] == 0
        assert fleet.trees() == {"one": NEW, "two": NEW, "three": OLD}
        assert (fleet.process("three"), three.serves(PORT, password=PASSWORD)) == (processes[2], True)
        # A server that has met a full disk takes writes again after a restart (OpenAtomFoundation/pika#1843).
        three.ok("rm", "/data/filler")
        three.ok("/opt/pika/utils/instance.sh", str(PORT), "restart")
        all_serve()
        # And back, under the writers: the third one has not gone anywhere.
        one, third, second = changed(fleet.tarballs("rollback", version=SECOND))
        assert (one > 0, second > 0, third) == (True, True, 0)
        assert fleet.trees() == dict.fromkeys(HOSTS, OLD)
        all_serve()
    assert [fleet.group.hosts[name].ask(PORT, "GET", "key", password=PASSWORD) for name in HOSTS] == [*HOSTS]
