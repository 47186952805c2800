"""The commands of docs/operating.md do what it says, section by section: on one host, and where a master dies."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import documented
import hosts
import pytest
from hosts import Host
from integration.trees import Tree

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(100)]

BACKUP = re.compile(r"(/\S+)/9221-[0-9]{8}-[0-9]{6}")
FAR = "backup.example.org:/srv/pika"
DB2 = "192.0.2.2"
NAMES = ("db1", "db2", "db3", "db4")
PATIENCE = "120"
"""Seconds for a command; some wait for the server."""
INSTANCE = "/opt/pika/utils/instance.sh"
COLLECTOR = """\
mkdir -p /srv/repo/made/DEBIAN /srv/repo/made/var/lib/prometheus/node-exporter
cd /srv/repo
printf '%s\\n' 'Package: prometheus-node-exporter' 'Version: 1' 'Architecture: all' 'Maintainer: tests' \\
    'Description: the folder of it' >made/DEBIAN/control
dpkg-deb -Znone --build made exporter.deb
"""
"""A package by that name, with its folder alone: the host has no way to Debian's."""


@pytest.fixture(scope="module")
def group(engine: Engine, sample_tree: Tree) -> Iterator[hosts.Group]:
    """Four hosts with a client; the package is installed as the page says."""
    package = gzip.compress(sample_tree.tar(), 1)
    with hosts.together(engine) as group:
        for name in NAMES:
            host = group.start(name, packages=("redis-tools",))
            host.put("/root", {"pika-v3.4.0-R620.tar.gz": package})
            run(host, documented.commands("docs/operating.md", "Install"))
        yield group


def run(host: Host, lines: list[str], replaced: Callable[[str], str] = lambda line: line) -> None:
    """Run commands of the page; `check` may warn."""
    for line in lines:
        status, output = host.run("timeout", PATIENCE, "sh", "-c", replaced(line))
        assert status == 0 or (line.endswith(" check") and status < 3), f"{line}\n{output}"


def test_the_sections_about_one_instance(group: hosts.Group, second_tree: Tree) -> None:
    host = group.hosts["db1"]

    def replaced(line: str) -> str:
        # The last backup stands for that of the page, and a folder for another host.
        line = BACKUP.sub(lambda found: host.sh(f"ls -d {found[1]}/9221-* | tail -n 1").strip(), line)
        return line.replace(FAR, "/far")

    host.sh("mkdir /far /new; sh /opt/pika/utils/deploy.sh 9221 /data")
    assert host.ask(9221, "SET", "key", "value") == "OK"
    run(host, documented.commands("docs/operating.md", "Size", "Watch by hand", "Logs", "Back up"), replaced)
    run(host, documented.commands("docs/memory.md", "In the configuration", "What runs"))
    assert host.sh("ls /far/*/backup.info")
    run(host, documented.commands("docs/operating.md", "Restore"), replaced)
    assert host.ask(9321, "GET", "key") == "value"
    host.ok("sh", INSTANCE, "9321", "remove", "--purge", "9321")
    # To another disk by a replica, and back by nothing: the old folder is as it was.
    run(host, documented.commands("docs/operating.md", "By a replica"))
    assert (host.ask(9321, "GET", "key"), host.serves(9221)) == ("value", False)
    host.ok("sh", INSTANCE, "9321", "restart")
    assert host.info(9321, "replication")["role"] == "master"
    host.ok("sh", INSTANCE, "9321", "remove", "--purge", "9321")
    host.sh("sh /opt/pika/utils/deploy.sh 9221 /data")
    assert host.ask(9221, "CONFIG", "SET", "timeout", "77") == host.ask(9221, "CONFIG", "REWRITE") == "OK"
    run(host, documented.commands("docs/operating.md", "By a copy"))
    assert host.ask(9221, "GET", "key") == "value"
    assert host.ask(9221, "CONFIG", "GET", "timeout") == ["timeout", "77"]
    assert "/data/" not in host.sh(
        "grep -v '^#' /new/pika_9221/conf/pika.conf; tr '\\0' ' ' </proc/$(pidof pika)/cmdline"
    )
    # A release later.
    host.put("/root/new", {"pika-v3.4.0-R620.tar.gz": gzip.compress(second_tree.tar(), 1)})
    host.sh("sh /opt/pika/utils/deploy.sh 9321 /data")
    run(host, documented.commands("docs/operating.md", "Upgrade"))
    assert host.sh("grep -h ^TREE= /etc/pika/*.env; readlink -f /opt/pika").split() == [
        *["TREE=/opt/pika-v3.4.0-2-R620"] * 2,
        "/opt/pika-v3.4.0-2-R620",
    ]
    run(host, documented.commands("docs/operating.md", "Roll back"))
    assert host.sh("grep -h ^TREE= /etc/pika/*.env").split() == ["TREE=/opt/pika-v3.4.0-1-R620"] * 2
    assert host.ask(9221, "GET", "key") == "value"
    host.sh(COLLECTOR)
    hosts.offer_packages(host, "/srv/repo")
    run(host, documented.commands("docs/operating.md", "Watch"))
    assert not host.exists("/etc/systemd/system/timers.target.wants/pika-metrics.timer")
    for port in ("9221", "9321"):
        host.ok("sh", INSTANCE, port, "remove", "--purge", port)


def test_another_master_in_place_of_a_dead_one(group: hosts.Group) -> None:
    db1, db2, db3, db4 = (group.hosts[name] for name in NAMES)
    for host in (db1, db2, db3):
        host.sh("sh /opt/pika/utils/deploy.sh 9221 /data")
    for replica in (db2, db3):
        assert replica.ask(9221, "SLAVEOF", db1.address, 9221) == replica.ask(9221, "CONFIG", "REWRITE") == "OK"
    assert db1.ask(9221, "SET", "key", "value") == "OK"
    for replica in (db2, db3):
        hosts.wait(lambda host=replica: host.ask(9221, "GET", "key") == "value", "it has followed")  # type: ignore[misc]
    db1.power_off()
    where: list[Host] = []
    for line in documented.commands("docs/operating.md", "Replace a dead master"):
        if line.startswith("# on "):
            where = [group.hosts[name] for name in line.split() if name in group.hosts]
            if db1 in where:
                db1.power_on()
            continue
        for host in where:
            run(host, [line], lambda line: line.replace(DB2, db2.address))
    assert not db1.serves(9221)
    assert db1.exists("/data/pika_9221/db")
    db2.ok("sh", INSTANCE, "9221", "restart")
    assert db2.info(9221, "replication")["role"] == "master"
    assert db2.ask(9221, "SET", "later", "one") == "OK"
    for replica in (db3, db4):
        hosts.wait(lambda host=replica: host.ask(9221, "GET", "later") == "one", "it follows")  # type: ignore[misc]
        assert replica.ask(9221, "GET", "key") == "value"
        replica.ok("sh", INSTANCE, "9221", "restart")
        assert replica.info(9221, "replication")["role"] == "slave"
