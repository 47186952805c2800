"""The hosts of operating tests (tests/hosts.py) boot, see each other, keep their files, and are removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import hosts
import pytest

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(20)]

PONG = """\
use IO::Socket::INET;
$| = 1;
my $listener = IO::Socket::INET->new(LocalPort => 9221, Listen => 5, ReuseAddr => 1) or die;
print "listens\\n";
while (my $client = $listener->accept) {
    sysread $client, my $request, 4096 and print $client "+PONG\\r\\n";
}
"""
"""Answers whatever it is asked."""
UNIT = """\
[Service]
ExecStart=/usr/bin/perl /opt/pong.pl
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def group(engine: Engine) -> Iterator[hosts.Group]:
    with hosts.together(engine) as group:
        group.start("one")
        group.start("two", system="debian13")
        group.start("bare", systemd=False)
        yield group


@pytest.mark.parametrize(("name", "version"), [("one", "12"), ("two", "13")])
def test_boots_without_failed_units(group: hosts.Group, name: str, version: str) -> None:
    host = group.hosts[name]
    assert host.wait_booted() == "running"
    assert host.failed_units() == []
    assert host.read("/proc/1/comm") == "systemd\n"
    assert f'VERSION_ID="{version}"' in host.read("/etc/os-release")
    host.run("systemd-run", "--unit=broken", "false")
    hosts.wait(lambda: host.failed_units() == ["broken.service"], "the unit has failed")
    host.ok("systemctl", "reset-failed")


def test_hosts_reach_each_other_by_name_and_nobody_else(group: hosts.Group) -> None:
    one, two = group.hosts["one"], group.hosts["two"]
    for host in (one, two, group.hosts["bare"]):
        for other in group.hosts.values():
            assert host.ok("getent", "ahostsv4", other.name).split()[0] == other.address
    assert one.run("getent", "ahostsv4", "host.invalid")[0] != 0
    two.sh("nohup nc -l -p 7000 >/root/heard 2>/dev/null & sleep 0.2")
    one.sh("echo hello | nc -N two 7000")
    hosts.wait(lambda: two.read("/root/heard") == "hello\n", "the other host has heard it")


def test_a_service_answers_from_outside_and_after_each_boot(group: hosts.Group) -> None:
    one = group.hosts["one"]
    one.put("/", {"etc/systemd/system/pong.service": UNIT.encode(), "opt/pong.pl": PONG.encode()})
    one.put("/srv/data", {"a/kept": b"v", "program": (b"#!/bin/sh\n", 0o755)}, uid=7)
    assert one.ok("stat", "-c", "%u %a", "/srv/data/a/kept", "/srv/data/program") == "7 644\n7 755\n"
    mark = one.cursor()
    one.ok("systemctl", "enable", "--now", "pong")
    one.wait_serving(9221)
    assert one.ask(9221, "PING") == "PONG"
    assert "listens" in one.journal("pong", mark)
    assert one.show("pong", "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    before = one.state("/srv")
    one.ok("touch", "/run/gone", "/tmp/gone")

    assert one.reboot() == "running"
    one.wait_serving(9221)
    assert one.state("/srv") == before
    assert not one.exists("/run/gone")
    assert not one.exists("/tmp/gone")
    assert one.failed_units() == []

    one.power_off()
    assert one.power_on() == "running"
    one.wait_serving(9221)
    assert one.state("/srv") == before
    one.ok("systemctl", "stop", "pong")
    assert not one.serves(9221)


def test_a_disk_may_be_small_and_files_few(group: hosts.Group) -> None:
    low = group.start("low", open_files=2048)
    assert low.sh("ulimit -Hn") == "2048\n"
    low.small_disk("/data", "1m")
    assert low.run("dd", "if=/dev/zero", "of=/data/full", "bs=64k")[0] == 1
    assert low.ok("systemd-run", "--quiet", "--pipe", "--wait", "df", "--output=avail", "/data").split() == [
        "Avail",
        "0",
    ]
    group.remove(low)


def test_nothing_is_left(engine: Engine) -> None:
    with hosts.together(engine) as group:
        group.start("brief", systemd=False)
        name = group.network
        assert len(engine.client.networks.list(names=[name])) == 1
    assert engine.client.networks.list(names=[name]) == []
