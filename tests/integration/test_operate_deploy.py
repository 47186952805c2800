"""deploy.sh, run.sh and instance.sh on hosts with systemd and without, with the sample and with redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import documented
import hosts
import pytest
from hosts import Host
from integration.trees import Tree
from writer import Writer

from pikaforge.pipeline.smoke.resp import ErrorReply

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(180)]

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = "/opt/pika/utils/deploy.sh"
INSTANCE = "/opt/pika/utils/instance.sh"
KEPT = ("/etc", "/opt", "/data", "/srv")
ACCOUNTS = re.compile(r"/etc/(g?shadow|passwd|group|sub[ug]id)-?( |$)|^/etc |^/data |/\.updated")
"""Files that useradd and userdel touch, and the time of folders."""
PASSWORD = "opensesame"
EXPOSURE = 3.0
"""The most that `systemd-analyze security` may say."""


@pytest.fixture(scope="module")
def group(engine: Engine, sample_tree: Tree) -> Iterator[hosts.Group]:
    """Debian 12 and 13 with systemd, and one without; the sample's package is unpacked on each."""
    with hosts.together(engine) as group:
        for name, system in (("one", "debian12"), ("two", "debian13"), ("bare", "debian12")):
            group.start(name, system=system, systemd=name != "bare").unpack(sample_tree.tar())
        yield group


@pytest.fixture(params=["one", "two", "bare"])
def any_host(group: hosts.Group, request: pytest.FixtureRequest) -> Iterator[Host]:
    host = group.hosts[request.param]
    yield host
    clear(host)


@pytest.fixture
def one(group: hosts.Group) -> Iterator[Host]:
    yield group.hosts["one"]
    clear(group.hosts["one"])


def clear(host: Host) -> None:
    """Remove all instances with their data."""
    host.sh(
        "for env in /etc/*/[0-9]*.env; do [ -f $env ] || continue; port=$(basename $env .env); "
        "sh $(sed -n s/^TREE=//p $env)/utils/instance.sh $port remove --purge $port; done"
    )


def state(host: Host) -> list[str]:
    """All that a deployment may change; caches of systemd's generators aside."""
    return host.state(*KEPT)


def process(host: Host, port: int) -> int:
    code = f"utils=/opt/pika/utils; for f in common service; do . $utils/lib/$f.sh; done; service_pid {port}"
    return int(host.sh(code))


def test_an_instance_from_its_first_start_to_its_end(any_host: Host) -> None:
    host = any_host
    clean = state(host)
    said = host.ok("sh", DEPLOY, "9221", "/data")
    assert said.endswith("deploy: instance 9221 answers; it is new, in /data/pika_9221\n")
    assert host.ask(9221, "PING") == "PONG"
    # What is written where, and by whom.
    owners = host.sh("find /data/pika_9221 -maxdepth 1 -printf '%f %u:%g %m\\n'; stat -c '%n %U:%G %a' /data").split(
        "\n"
    )
    folders = ("pika_9221", "conf", "db", "log", "dump", "dbsync")
    assert {f"{name} pika:pika 750" for name in folders} <= set(owners)
    assert "/data root:root 755" in owners
    assert host.sh("stat -c '%U:%G %a' /data/pika_9221/conf/pika.conf") == "pika:pika 640\n"
    conf = host.read("/data/pika_9221/conf/pika.conf")
    for line in ("dump-prefix : pika9221_", "dump-expire : 7", "port : 9221"):
        assert f"\n{line}\n" in conf
    # The server writes its own configuration.
    assert host.ask(9221, "CONFIG", "SET", "timeout", "77") == "OK"
    assert host.ask(9221, "CONFIG", "REWRITE") == "OK"
    assert "\ntimeout : 77\n" in host.read("/data/pika_9221/conf/pika.conf")
    assert host.ask(9221, "SET", "key", "value") == "OK"
    # Again: nothing happens.
    before, number = state(host), process(host, 9221)
    assert host.ok("sh", DEPLOY, "9221", "/data") == "deploy: instance 9221 answers: nothing to do\n"
    assert (state(host), process(host, 9221)) == (before, number)
    # Open files for its clients, and 10000 more; clients are lowered where the engine allows fewer.
    clients, limit = (
        re.search(pattern, text, re.MULTILINE)
        for pattern, text in (
            (r"^maxclients : (\d+)$", conf),
            (r"^Max open files +(\d+) ", host.read(f"/proc/{number}/limits")),
        )
    )
    assert clients is not None
    assert limit is not None
    assert int(limit[1]) == int(clients[1]) + 10000
    # It comes back when it is killed, and keeps its data.
    host.ok("kill", "-9", str(number))
    hosts.wait(lambda: host.serves(9221) and process(host, 9221) != number, "it is started again")
    assert host.ask(9221, "GET", "key") == "value"
    assert host.ok("sh", INSTANCE, "9221", "restart") == "instance 9221 answers\n"
    assert host.ok("sh", INSTANCE, "9221", "stop") == "instance 9221 is stopped\n"
    assert not host.serves(9221)
    assert host.ok("sh", INSTANCE, "9221", "start") == "instance 9221 answers\n"
    assert host.ask(9221, "GET", "key") == "value"
    # A second one beside it; not at 10221, where the first has its rsync.
    status, said = host.run("sh", DEPLOY, "10221", "/data")
    assert (status, "port 10221 of this instance is also one of instance 9221" in said) == (1, True)
    host.ok("sh", DEPLOY, "9321", "/srv")
    assert host.ask(9321, "PING") == "PONG"
    if not host.systemd:
        # What a boot of sysvinit calls, and then what its end calls.
        host.reboot()
        assert not host.serves(9221)
        host.sh("for script in /etc/rc2.d/S*pika; do $script start; done")
        for port in (9221, 9321):
            host.wait_serving(port)
        assert host.ask(9221, "GET", "key") == "value"
        host.ok("/etc/init.d/pika", "status")
        host.sh("for script in /etc/rc0.d/K*pika; do $script stop; done")
        assert not host.serves(9221)
        assert host.run("/etc/init.d/pika", "status")[0] == 1
        host.ok("/etc/init.d/pika", "start")
    # Gone, and nothing is left but what was there before, and the user.
    host.ok("sh", INSTANCE, "9321", "remove", "--purge", "9321")
    assert "its data is kept in /data/pika_9221" in host.ok("sh", INSTANCE, "9221", "remove")
    assert not host.serves(9221)
    host.ok("sh", DEPLOY, "9221", "/data")
    assert host.ask(9221, "GET", "key") == "value"
    host.ok("sh", INSTANCE, "9221", "remove", "--purge", "9221")
    host.sh("userdel pika; rmdir /data /etc/pika 2>/dev/null || :")
    left = [line for line in state(host) if line not in clean and not ACCOUNTS.search(line)]
    assert left == []


@pytest.mark.parametrize("name", ["one", "bare"])
def test_the_commands_of_the_page(group: hosts.Group, name: str) -> None:
    host = group.hosts[name]
    lines = documented.commands("docs/operating.md", "Deploy")
    if name == "bare":
        lines += documented.commands("docs/operating.md", "Hosts without systemd")
    for command in (*lines, *documented.commands("docs/operating.md", "Remove")):
        assert command.startswith("sh /opt/pika/utils/"), command
        host.sh(command)
    assert not host.exists("/data/pika_9221")
    assert not host.exists("/etc/pika/9221.env")


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_unit_is_hardened_and_plain(group: hosts.Group, name: str) -> None:
    host = group.hosts[name]
    host.ok("sh", DEPLOY, "9221", "/data")
    try:
        assert host.run("systemd-analyze", "verify", "--man=no", "pika@9221.service") == (0, "")
        said = host.ok("systemd-analyze", "security", "--no-pager", "pika@9221.service")
        exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert exposure is not None
        assert float(exposure[1]) <= EXPOSURE
        found = host.show("pika@9221", "OOMScoreAdjust", "TimeoutStartUSec", "StartLimitBurst")
        wanted = {"OOMScoreAdjust": "-500", "TimeoutStartUSec": "30min", "StartLimitBurst": "5"}
        assert found == wanted
        # It cannot write outside of its data, nor see what others have in /tmp.
        number = process(host, 9221)
        mounts = host.read(f"/proc/{number}/mountinfo")
        assert re.search(r" / / ro[, ]", mounts)
        assert re.search(r" /data/pika_9221 rw[, ]", mounts)
    finally:
        clear(host)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("dies", "the instance has ended"), ("dies-later", ""), ("fills", "no space left on device")],
)
def test_a_server_that_does_not_serve_leaves_nothing(any_host: Host, sample_tree: Tree, fault: str, words: str) -> None:
    host = any_host
    if fault == "fills" and not host.systemd:
        pytest.skip("these containers cannot mount a small disk")
    host.sh("mkdir -p /opt/bad /data && rm -rf /opt/bad/pika")
    host.unpack(sample_tree.broken(fault).tar(), "/opt/bad")  # type: ignore[arg-type]
    if fault == "fills":
        host.small_disk("/data", "70m")
    try:
        before = state(host)
        status, said = host.run("sh", "/opt/bad/pika/utils/deploy.sh", "9221", "/data")
        if fault == "dies-later" and status == 0:
            return  # it answered, within its two seconds
        assert (status, words in said) == (1, True), said
        assert "deploy: error: not finished (see above); what it made is removed again" in said
        assert [line for line in set(state(host)) ^ set(before) if not ACCOUNTS.search(line)] == []
    finally:
        host.run("umount", "/data")
        clear(host)


def test_hosts_that_cannot_have_it(one: Host) -> None:
    one.sh("mkdir -p /data")
    before = state(one)
    one.sh("mount -t tmpfs -o ro tmpfs /data")
    status, said = one.run("sh", DEPLOY, "9221", "/data")
    one.ok("umount", "/data")
    assert (status, "/data cannot be written" in said) == (1, True)
    one.small_disk("/data", "10m")
    status, said = one.run("sh", DEPLOY, "9221", "/data")
    one.ok("umount", "/data")
    assert (status, "free space" in said) == (1, True)
    one.ok("hostname", "nowhere.invalid")
    status, said = one.run("sh", DEPLOY, "9221", "/data")
    one.ok("hostname", "one")
    assert (status, "name, nowhere.invalid, does not resolve" in said, "/etc/hosts" in said) == (1, True, True)
    for base in ("/etc", "/usr/share", "/run/x"):
        status, said = one.run("sh", DEPLOY, "9221", base)
        assert (status, "folder of the system" in said) == (1, True)
    listener = "use IO::Socket::INET; $l = IO::Socket::INET->new(LocalPort => 11221, Listen => 1); sleep 600"
    one.ok("systemd-run", "--unit=other", "perl", "-e", listener)
    hosts.wait(lambda: ":2BD5 " in one.read("/proc/net/tcp"), "it listens")
    status, said = one.run("sh", DEPLOY, "9221", "/data")
    one.ok("systemctl", "stop", "other")
    assert (status, "something listens on port 11221 already" in said) == (1, True)
    one.sh("mv /usr/bin/rsync /usr/bin/rsync.away")
    status, said = one.run("sh", DEPLOY, "9221", "/data")
    one.sh("mv /usr/bin/rsync.away /usr/bin/rsync")
    assert (status, "rsync is missing" in said) == (1, True)
    assert state(one) == before


def test_a_conf_that_the_server_cannot_read_or_write(one: Host) -> None:
    one.ok("sh", DEPLOY, "9221", "/data")
    # Somebody's editor has left it to root: the server cannot read it, and is not tried for ever.
    one.sh("chown root:root /data/pika_9221/conf/pika.conf; chmod 600 /data/pika_9221/conf/pika.conf")
    status, said = one.run("sh", INSTANCE, "9221", "restart")
    assert (status, "/data/pika_9221/conf/pika.conf cannot be read by pika" in said) == (1, True)
    assert one.show("pika@9221", "ActiveState", "NRestarts") == {"ActiveState": "failed", "NRestarts": "0"}
    # deploy.sh mends it.
    one.ok("sh", DEPLOY, "9221", "/data")
    assert one.ask(9221, "CONFIG", "REWRITE") == "OK"


def test_a_server_that_fails_again_and_again_is_left_alone(one: Host) -> None:
    one.ok("sh", DEPLOY, "9221", "/data")
    one.ok("sh", INSTANCE, "9221", "stop")
    one.sh("sed -i 's/^maxclients .*/maxclients : 500000/' /data/pika_9221/conf/pika.conf")
    status, said = one.run("sh", INSTANCE, "9221", "start")
    assert (status, "the instance has ended" in said) == (1, True)
    one.wait_unit("pika@9221", ("ActiveState", "NRestarts"), lambda found: found["ActiveState"] == "failed", within=60)
    assert one.show("pika@9221", "Result")["Result"] in ("exit-code", "start-limit-hit")
    assert int(one.show("pika@9221", "NRestarts")["NRestarts"]) <= 5


def test_a_stale_pid_file_goes(any_host: Host) -> None:
    host = any_host
    host.ok("sh", DEPLOY, "9221", "/data")
    assert "of the allocator: the server has no TCMALLOC STATS" in host.ok("sh", INSTANCE, "9221", "memory")
    host.sh("mkdir -p /data/pika_9221/dbsync/rsync; echo 4194000 >/data/pika_9221/dbsync/rsync/slash_rsync.pid")
    host.sh("chown -R pika: /data/pika_9221/dbsync")
    host.ok("sh", INSTANCE, "9221", "restart")
    # The server makes one of its own.
    assert host.read("/data/pika_9221/dbsync/rsync/slash_rsync.pid").strip() != "4194000"


def test_fewer_open_files_than_clients(group: hosts.Group, sample_tree: Tree) -> None:
    """A hard limit that nobody on the host can raise."""
    host = group.start("small", open_files=16000)
    try:
        host.unpack(sample_tree.tar())
        said = host.ok("sh", DEPLOY, "9221", "/data")
        assert "maxclients is lowered from 20000 to 6000: this host's hard limit of open files is 16000" in said
        assert host.serves(9221)
    finally:
        group.remove(host)


def counted(host: Host) -> int:
    """How many keys a server says that it has."""
    host.ask(9221, "INFO", "KEYSPACE", "1", password=PASSWORD)
    hosts.wait(lambda: host.info(9221, "stats", password=PASSWORD)["is_scaning_keyspace"] == "No", "they are counted")
    text = host.ask(9221, "INFO", "KEYSPACE", password=PASSWORD)
    found = re.search(r"Strings_keys=(\d+)", str(text))
    assert found is not None, text
    return int(found[1])


def follows(host: Host) -> bool:
    return host.info(9221, "replication", password=PASSWORD).get("master_link_status") == "up"


def full_syncs(host: Host) -> int:
    return int(host.sh("cat /data/pika_9221/log/*.log.INFO.* | grep -c 'files received' || :"))


def killed(host: Host) -> None:
    """Kill the server; systemd starts it again, and what it left of its rsync goes first."""
    mark, number = host.cursor(), process(host, 9221)
    host.ok("kill", "-9", str(number))
    hosts.wait(
        lambda: host.serves(9221, password=PASSWORD) and process(host, 9221) != number, "it is started again", within=60
    )
    assert f"slash_rsync.pid: process {number} is gone" in host.journal("pika@9221", mark)


def test_replication_between_two_hosts(group: hosts.Group) -> None:
    one, two = group.hosts["one"], group.hosts["two"]
    try:
        for host in (one, two):
            host.sh('umask 077; printf "%s\\n" "$1" >/root/password', PASSWORD)
            host.ok("sh", DEPLOY, "9221", "/data", "--password-file", "/root/password")
        with Writer(one, 9221, password=PASSWORD) as writer:
            writer.more(100)

            def full_sync() -> None:
                before = full_syncs(two)
                assert two.ask(9221, "SLAVEOF", "NO", "ONE", password=PASSWORD) == "OK"
                assert two.ask(9221, "SLAVEOF", one.address, 9221, password=PASSWORD) == "OK"
                hosts.wait(lambda: full_syncs(two) == before + 1 and follows(two), "a full synchronisation", within=60)

            full_sync()
            writer.more(20)
            killed(one)
            hosts.wait(lambda: follows(two), "it follows again", within=60)
            writer.more(20)
            full_sync()
            killed(two)
            full_sync()
            # The replica's host is started anew, and it follows without a word.
            assert two.ask(9221, "CONFIG", "REWRITE", password=PASSWORD) == "OK"
            syncs = full_syncs(two)
            two.reboot()
            two.wait_serving(9221, password=PASSWORD)
            hosts.wait(lambda: follows(two), "it follows after the boot", within=60)
            writer.more(20)
        hosts.wait(lambda: writer.lost(two) == [], "the replica has all that the master has acknowledged")
        assert (writer.lost(one), full_syncs(two)) == ([], syncs)
        assert counted(one) == counted(two) >= len(writer.acknowledged)
    finally:
        for host in (one, two):
            clear(host)


def test_redis_goes_through_the_same_scripts(group: hosts.Group, redis_tree: Tree) -> None:
    host = group.hosts["one"]
    host.unpack(redis_tree.tar())
    deploy, instance = "/opt/redis/utils/deploy.sh", "/opt/redis/utils/instance.sh"
    host.sh("umask 077; echo s3cret-of-9 >/root/password")
    try:
        host.ok("sh", deploy, "6379", "/data", "--password-file", "/root/password", "--set", "maxmemory=64mb")
        conf = host.read("/data/redis_6379/conf/redis.conf")
        assert "\nmaxmemory 64mb\n" in conf
        assert "\nrequirepass s3cret-of-9\n" in conf
        # It serves the network, and nobody without the password.
        assert host.ask(6379, "PING", password="s3cret-of-9") == "PONG"
        assert isinstance(host.ask(6379, "PING"), ErrorReply)
        assert host.sh("stat -c %a /data/redis_6379/conf/redis.conf") == "640\n"
        assert "s3cret" not in host.journal("redis@6379") + host.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        host.ok("sh", instance, "6379", "restart")
        number = host.show("redis@6379", "MainPID")["MainPID"]
        host.ok("kill", "-9", number)
        hosts.wait(lambda: host.show("redis@6379", "MainPID")["MainPID"] not in ("0", number), "it is started again")
        host.ok("sh", instance, "6379", "start")
        host.ok("sh", instance, "6379", "remove", "--purge", "6379")
        assert not host.exists("/data/redis_6379")
    finally:
        clear(host)
