"""The hosts of operating tests (tests/hosts.py) boot, see each other, keep their files, and are removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hosts
import pytest
from integration.trees import Fault, Tree

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(60)]

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


CONFS = {"bin/pika": "port : 9221\ndb-path : /data/\nlog-path : /data/log/\nmaxclients : 1000\n"}
CONFS["bin/redis-server"] = "port 9221\ndir /data\nprotected-mode no\n"


def serve(host: hosts.Host, tree: Tree) -> None:
    """Put a package at /opt, and start its server with a small file system for its data."""
    host.sh("umount /data 2>/dev/null || :; rm -rf /opt/*; mkdir -p /data /etc/served")
    host.small_disk("/data", "64m")
    host.unpack(tree.tar())
    host.put("/etc/served", {"conf": CONFS[tree.server].encode()})
    program = (f"/opt/{tree.top}/{tree.server}", *(("-c",) if tree.server == "bin/pika" else ()), "/etc/served/conf")
    host.ok("systemd-run", "--unit=served", "-p", "RemainAfterExit=yes", "-p", "WorkingDirectory=/data", *program)


def wait_running(host: hosts.Host, mark: str, said: str, *, listens: bool) -> None:
    """Wait until the server has said something, and listens or does not."""

    def look() -> bool:
        listening = host.ok("ss", "-Hltn", "sport = :9221") != ""
        return said in host.journal("served", mark) and listening is listens

    hosts.wait(look, "the server is as it will stay")


def end(host: hosts.Host) -> None:
    host.run("systemctl", "stop", "served")
    host.run("systemctl", "reset-failed", "served")


FAULTS: dict[Fault, tuple[str, bool, int]] = {
    "dies": ("planted by a test", False, 3),
    "dies-later": ("", False, 3),
    "silent": ("will never listen", True, 0),
    "mute": ("", True, 0),
    "fills": ("no space left on device", False, 1),
    "fills-and-frees": ("no space left on device", False, 1),
}
"""By fault: what the server says, whether it runs on, and its exit status."""
OTHERS: tuple[Fault, ...] = ("mute", "fills")
"""Faults that another product shows as well: they read its configuration."""


@pytest.mark.parametrize("product", ["sample", "redis"])
def test_trees_serve_and_broken_ones_do_not(group: hosts.Group, product: str, request: pytest.FixtureRequest) -> None:
    host = group.hosts["one"]
    tree: Tree = request.getfixturevalue(f"{product}_tree")
    serve(host, tree)
    host.wait_serving(9221)
    assert host.ask(9221, "SET", "key", "value") == "OK"
    assert host.ask(9221, "GET", "key") == "value"
    end(host)
    serve(host, tree.slow(1.5))
    assert not host.serves(9221)
    host.wait_serving(9221)
    end(host)
    for fault in FAULTS if product == "sample" else OTHERS:
        said, runs_on, status = FAULTS[fault]
        mark = host.cursor()
        serve(host, tree.broken(fault))
        if runs_on:
            wait_running(host, mark, said, listens=fault == "mute")
            assert not host.serves(9221)
            assert host.show("served", "SubState")["SubState"] == "running"
        else:
            state = host.wait_unit("served", ("SubState", "ExecMainStatus"), lambda s: s["SubState"] == "failed")
            assert int(state["ExecMainStatus"]) == status
            assert said in host.journal("served", mark)
        left = host.ok("df", "--output=avail", "/data").split()[1]
        assert (left == "0") is (fault == "fills")
        end(host)


def test_the_second_release_is_another_one(sample_tree: Tree, second_tree: Tree) -> None:
    assert second_tree.content("conf/pika.conf") == sample_tree.content("conf/pika.conf") + b"# of release 2\n"
    assert second_tree.content("bin/pika") == sample_tree.content("bin/pika")
    broken = second_tree.broken("dies")
    for item in broken.manifest["contents"]:
        assert item["sha256"] == hashlib.sha256(broken.content(item["path"])).hexdigest()
        assert int(item["mode"], 8) == broken.entries[item["path"]].info.mode
