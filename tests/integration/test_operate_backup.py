"""Memory, state, backup and restore of real instances: the sample's and redis's, on a host with systemd."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hosts
import pytest
from integration.trees import Tree

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(90)]

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Two instances on a host, the first one with keys."""

    host: hosts.Host
    tree: Tree
    first: int
    second: int

    def verb(self, port: int, *words: str) -> tuple[int, str]:
        """Run a verb of instance.sh: exit status and both outputs."""
        return self.host.run(f"/opt/{self.tree.top}/utils/instance.sh", str(port), *words)

    def ok(self, port: int, *words: str) -> str:
        status, output = self.verb(port, *words)
        assert status == 0, output
        return output

    def data(self, port: int) -> str:
        return f"/data/{self.tree.top}_{port}"

    def status(self, port: int) -> dict[str, Any]:
        found = json.loads(self.ok(port, "status", "--json"))
        assert isinstance(found, dict)
        return found

    def conf(self, port: int, key: str) -> str:
        """What the configuration sets a key to."""
        text = self.host.sh(f"cat {self.data(port)}/conf/*.conf")
        found = re.findall(rf"^{key} *:? +(\S+)$", text, re.MULTILINE)
        assert found, key
        return str(found[-1])

    def write(self, port: int, *commands: tuple[str, ...]) -> None:
        with self.host.connect(port) as connection:
            assert not [reply for reply in connection.exchange(list(commands)) if isinstance(reply, Exception)]


@pytest.fixture(scope="module")
def group(engine: Engine) -> Iterator[hosts.Group]:
    with hosts.together(engine) as group:
        yield group


@pytest.fixture(scope="module", params=["sample", "redis"])
def fleet(group: hosts.Group, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    tree: Tree = request.getfixturevalue(f"{request.param}_tree")
    first = 9221 if request.param == "sample" else 6379
    fleet = Fleet(host=group.start(request.param), tree=tree, first=first, second=first + 5)
    fleet.host.unpack(tree.tar())
    deploy = ["--memory", "1G", "--set", "maxclients=500"]
    if request.param == "redis":  # which serves others only with a password
        deploy += ["--set", "protected-mode=no"]
    for port in (fleet.first, fleet.second):
        fleet.host.ok(f"/opt/{tree.top}/utils/deploy.sh", str(port), "/data", *deploy)
    keys = [("SET", f"key:{n}", f"value {n}") for n in range(200)]
    fleet.write(first, *keys, ("SETEX", "brief", "10000", "v"), ("HSET", "hash", "f", "v"), ("RPUSH", "list", "a"))
    yield fleet
    group.remove(fleet.host)


KEYS = 203


def test_memory_is_planned_and_compared(fleet: Fleet) -> None:
    text = fleet.host.sh(f"cat {fleet.data(fleet.first)}/conf/*.conf")
    assert f"# planned for {GIB} bytes (1.0G):\n" in text
    assert fleet.conf(fleet.first, "maxclients") == "500"
    if fleet.tree.top == "redis":
        planned = int(fleet.conf(fleet.first, "maxmemory"))
        assert fleet.host.ask(fleet.first, "CONFIG", "GET", "maxmemory") == ["maxmemory", str(planned)]
        assert 0 < 2 * planned < GIB
    said = fleet.ok(fleet.first, "memory")
    assert re.search(r"^ +1\.0G  planned for$", said, re.MULTILINE)
    assert "VmRSS of the kernel" in said
    # CONFIG REWRITE leaves the plan where it is found again.
    assert fleet.host.ask(fleet.first, "CONFIG", "REWRITE") == "OK"
    memory = fleet.status(fleet.first)["memory"]
    assert memory["planned"] == GIB
    assert 10**6 < memory["resident"] < GIB


def test_state_and_check(fleet: Fleet) -> None:
    found = fleet.status(fleet.first)
    assert (found["answers"], found["role"], found["gate"]) == (True, "master", "pass")
    assert found["pid"] == int(fleet.host.show(f"{fleet.tree.top}@{fleet.first}", "MainPID")["MainPID"])
    assert found["server_version"] in found["version"]
    assert found["clients"]["most"] == 500
    off = ("--disk", "0,0", "--snapshot", "0,0")
    status, line = fleet.verb(fleet.first, "check", *off)
    assert (status, line.startswith(f"{fleet.tree.top.upper()} OK - {fleet.first} is master, serves | ")) == (0, True)
    # Its user may ask; others cannot read the configuration, with the password, and are told so.
    instance = (f"/opt/{fleet.tree.top}/utils/instance.sh", str(fleet.first))
    status, line = fleet.host.run(*instance, "check", *off, user=fleet.tree.top)
    assert (status, line.startswith(f"{fleet.tree.top.upper()} OK - ")) == (0, True), line
    status, line = fleet.host.run(*instance, "check", *off, user="nobody")
    assert (status, f"only root and {fleet.tree.top} can" in line) == (3, True), line
    assert fleet.host.run(*instance, "status", "--json", user="nobody")[0] == 1
    assert "only root" in fleet.host.run(*instance, "backup", user="nobody")[1]
    listed = fleet.host.ok(f"/opt/{fleet.tree.top}/utils/instance.sh", "list", "--json")
    assert [one["port"] for one in json.loads(listed)] == [fleet.first, fleet.second]
    # One process that is stopped answers no more.
    pid = str(found["pid"])
    fleet.host.ok("kill", "-STOP", pid)
    try:
        status, line = fleet.verb(fleet.first, "check", *off)
        assert (status, f"{fleet.first} runs, and does not answer" in line) == (2, True)
    finally:
        fleet.host.ok("kill", "-CONT", pid)
    fleet.host.wait_serving(fleet.first)


def test_a_replica_tells_of_its_link(fleet: Fleet) -> None:
    command = "SLAVEOF" if fleet.tree.top != "redis" else "REPLICAOF"
    assert fleet.host.ask(fleet.second, command, "127.0.0.1", fleet.first) == "OK"
    hosts.wait(lambda: fleet.status(fleet.second)["replication"]["link"] == "up", "the replica follows")
    assert fleet.status(fleet.second)["replication"]["master"] == f"127.0.0.1:{fleet.first}"
    hosts.wait(lambda: len(fleet.status(fleet.first)["replication"]["replicas"]) == 1, "the master knows it")
    assert fleet.host.ask(fleet.second, command, "NO", "ONE") == "OK"
    fleet.write(
        fleet.second, *[("DEL", f"key:{n}") for n in range(200)], ("DEL", "brief"), ("DEL", "hash"), ("DEL", "list")
    )


def test_backup_and_restore(fleet: Fleet) -> None:
    host, first, second = fleet.host, fleet.first, fleet.second
    made = fleet.ok(first, "backup").partition(": ")[0]
    assert "linked" in fleet.ok(first, "backup", "--list") or made.startswith(f"{fleet.data(first)}/backup/{first}-")
    assert f"keys_after={KEYS}\n" in host.read(f"{made}/backup.info")
    fleet.write(first, ("DEL", "key:0"), ("SET", "late", "v"), ("SET", "later", "v"))
    copied = fleet.ok(first, "backup", "--copy", "--sums").partition(": ")[0]
    assert fleet.status(first)["last_snapshot"]["age_seconds"] < 100
    # Into a new instance, which runs and has no keys.
    said = fleet.ok(second, "restore", made)
    assert f"{KEYS} keys, as the backup says" in said
    assert [host.ask(second, "GET", key) for key in ("key:0", "key:199", "late")] == ["value 0", "value 199", None]
    assert host.ask(second, "HGET", "hash", "f") == "v"
    # What it writes from now on is not in the backup.
    fleet.write(second, ("SET", "new", "v"))
    # It has keys now, so it has to be stopped first.
    status, said = fleet.verb(second, "restore", copied)
    assert (status, "instance.sh" in said) == (1, True)
    assert host.ask(second, "GET", "new") == "v"
    fleet.ok(second, "stop")
    fleet.ok(second, "restore", copied)
    assert [host.ask(second, "GET", key) for key in ("key:0", "late", "new")] == [None, "v", None]
    # A backup whose counts are wrong: what was there comes back.
    host.sh(f"cp -a {copied} /data/wrong && sed -i 's/^keys_.*=/&9/' /data/wrong/backup.info")
    fleet.ok(second, "stop")
    status, said = fleet.verb(second, "restore", "/data/wrong")
    assert (status, "the instance has its data of before" in said) == (1, True)
    fleet.ok(second, "start")
    assert host.ask(second, "GET", "late") == "v"
    # The first one was left alone, and the backup is as it was.
    assert host.ask(first, "GET", "later") == "v"
    host.sh(f"cd {copied}/snapshot && sha256sum -c --status ../backup.sums")


def test_rsync_takes_backups_elsewhere(fleet: Fleet) -> None:
    host, hook = fleet.host, f"/opt/{fleet.tree.top}/utils/backup-rsync.sh"
    host.sh(f"mkdir -p /far && printf '# where to\\n/far\\n' >/etc/{fleet.tree.top}/backup-rsync")
    names = [
        fleet.ok(fleet.first, "backup", "--to", "/data/near", "--hook", hook).partition(": ")[0].rpartition("/")[2]
        for _ in range(2)
    ]
    host.ok(hook, f"/data/near/{names[1]}")
    for name in names:
        host.sh(f"cmp /far/{name}/backup.info /data/near/{name}/backup.info")
        host.sh(f"diff -r /far/{name} /data/near/{name}")
    # One that came back from there is as good.
    fleet.ok(fleet.second, "stop")
    assert "keys, as the backup says" in fleet.ok(fleet.second, "restore", f"/far/{names[0]}")
    refused = ("", "-e sh", "host:/x; id", "$(id)", "--rsh=id")
    for line in refused:
        host.sh(f"printf '%s\\n' \"$1\" >/etc/{fleet.tree.top}/backup-rsync", line)
        assert host.run(hook, f"/data/near/{names[0]}")[0] == 1, line
    host.sh(f"echo /far >/etc/{fleet.tree.top}/backup-rsync; chmod 666 /etc/{fleet.tree.top}/backup-rsync")
    assert "written by others" in host.run(hook, f"/data/near/{names[0]}")[1]
    host.sh(f"rm /etc/{fleet.tree.top}/backup-rsync /data/near/{names[0]}/backup.info")
    assert "no whole backup" in host.run(hook, f"/data/near/{names[0]}")[1]


def test_a_full_disk_leaves_no_half_backup(fleet: Fleet) -> None:
    host = fleet.host
    host.small_disk("/small", "64k")
    host.sh("dd if=/dev/zero of=/small/fill bs=1k count=56 2>/dev/null")
    status, said = fleet.verb(fleet.first, "backup", "--to", "/small/backups", "--no-count")
    assert (status, "error: " in said) == (1, True)
    assert host.sh("find /small -name '*-*' -o -name '.*part'") == ""
    assert host.serves(fleet.first)


def test_log_files_have_rules_until_the_instance_is_removed(fleet: Fleet) -> None:
    rules = f"/etc/tmpfiles.d/{fleet.tree.top}-{fleet.second}.conf"
    if fleet.tree.top == "redis":
        assert not fleet.host.exists(rules)
        return
    log = f"{fleet.data(fleet.second)}/log"
    # Changes of status cannot be made old, so the rule is taken with the age of contents alone.
    fleet.host.sh(
        'cd "$1" && touch -d "30 days ago" pika.h.pika.log.INFO.20240101-000000.1 write2file0 manifest'
        " && mkdir -p log_db0 && touch -d '30 days ago' log_db0/write2file7"
        ' && sed "s/- 7d/- m:7d/" "$2" >/root/rules.conf && systemd-tmpfiles --clean /root/rules.conf',
        log,
        rules,
    )
    left = fleet.host.sh(f"cd {log} && find . -type f").split()
    assert "./pika.h.pika.log.INFO.20240101-000000.1" not in left
    assert {"./write2file0", "./manifest", "./log_db0/write2file7"} <= set(left)
    assert [name for name in left if ".log.INFO." in name], "the current one"
    fleet.ok(fleet.second, "remove")
    assert not fleet.host.exists(rules)
