"""How an instance is, for people, scripts and monitoring systems: also when the server replies nonsense."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from guest.helpers import SHELLS, need
from guest.operated_host import OperatedHost
from guest.resp_server import Answer, serving
from guest.watched_host import runs_as, watched_host

MASTER = """\
# Server
pika_version:3.4.0
uptime_in_seconds:93784
# Data
used_memory:12345
db_fatal:0
db_fatal_msg:NULL
# Clients
connected_clients:7
# Replication(MASTER)
role:master
connected_slaves:2
slave0:ip=192.0.2.7,port=9221,conn_fd=88,lag=(db0:0)
slave1:ip=192.0.2.8,port=9222,conn_fd=89,lag=(db0:12)(db1:1048576)
"""
SLAVE = """\
role:slave
master_host:192.0.2.1
master_port:9221
master_link_status:{link}
"""
PERFORMANCE = re.compile(r"[a-z]+=[0-9]+(s|%|B)?;[0-9]*;[0-9]*;[0-9]*;[0-9]*")
"""'label'=value[UOM];[warn];[crit];[min];[max], of the Monitoring Plugins' guidelines."""


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> OperatedHost:
    need(SHELLS[request.param][0])
    return watched_host(tmp_path, SHELLS[request.param])


@pytest.fixture
def fast(tmp_path: Path) -> OperatedHost:
    """Under one shell."""
    return watched_host(tmp_path, SHELLS["dash"])


def info(text: str) -> Answer:
    """What answers INFO with a text, and refuses all else."""
    return lambda words: text.replace("\n", "\r\n") if words[0] == "INFO" else b"-ERR no\r\n"


@contextmanager
def instance(host: OperatedHost, answer: Answer, conf: str = "maxclients : 1000\n") -> Iterator[int]:
    """An instance whose server is this process."""
    with serving(answer) as port:
        data = host.add_instance(port, conf)
        for name in ("log", "dump", "db"):
            (data / name).mkdir()
        with (data / "conf/demo.conf").open("a") as file:
            file.write("".join(f"{key}-path : {data}/{key}/\n" for key in ("log", "dump", "db")))
            file.write(f"dump-prefix : demo{port}_\n")
        runs_as(host, port)
        yield port


def status(host: OperatedHost, port: int) -> dict[str, Any]:
    """What `status --json` says."""
    done = host.run("instance.sh", str(port), "status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_json_of_a_master(host: OperatedHost) -> None:
    with instance(host, info(MASTER)) as port:
        found = status(host, port)
    assert found["port"] == port
    assert found["ports"] == [port, port + 1000, port + 2000]
    assert (found["product"], found["model"], found["target"], found["gate"]) == ("demo", "R620", "sandybridge", "pass")
    assert (found["answers"], found["pid"], found["server_version"]) == (True, os.getpid(), "3.4.0")
    assert (found["uptime_seconds"], found["role"], found["faults"]) == (93784, "master", None)
    assert found["replication"] == {
        "master": None, "link": None, "lag": 1048576, "lag_unit": "bytes",
        "replicas": [{"address": "192.0.2.7:9221", "lag": 0}, {"address": "192.0.2.8:9222", "lag": 1048576}],
    }  # fmt: skip
    assert found["clients"] == {"now": 7, "most": 1000}
    assert found["memory"]["reported"] == 12345
    assert found["memory"]["resident"] > 1_000_000
    assert 0 < found["disk"]["used_percent"] <= 100
    assert found["last_snapshot"] is None


def test_text_of_a_replica(host: OperatedHost) -> None:
    with instance(host, info(SLAVE.format(link="down"))) as port:
        done = host.run("instance.sh", str(port), "status")
        listed = host.run("instance.sh", "list")
    assert done.returncode == 0
    assert re.search(r"^role +slave of 192\.0\.2\.1:9221, link down$", done.stdout, re.MULTILINE)
    assert re.search(rf"^{port} +serves +slave ", listed.stdout, re.MULTILINE)


def test_stopped_and_unknown(host: OperatedHost) -> None:
    host.add_instance(7000)
    found = status(host, 7000)
    assert (found["answers"], found["pid"], found["role"], found["server_version"]) == (False, None, None, None)
    done = host.run("instance.sh", "7000", "check")
    assert (done.returncode, done.stdout[:34]) == (2, "DEMO CRITICAL - 7000 is stopped | ")
    (host.top / "etc/demo/7001.env").write_text("CONF=$(id)\n")
    (host.top / "etc/demo/7002.env").write_text("")
    for port in ("7001", "7002", "7003"):
        done = host.run("instance.sh", port, "check")
        assert (done.returncode, done.stdout.startswith("DEMO UNKNOWN - ")) == (3, True), port
    listed = host.run("instance.sh", "list", "--json")
    assert [one["port"] for one in json.loads(listed.stdout)] == [7000, 7001, 7002]
    assert host.run("instance.sh", "list").stdout.splitlines()[1:] == ["7001   unreadable", "7002   unreadable"]


EVERY_BYTE = "".join(map(chr, [*range(1, 10), 11, 12, *range(14, 256)]))
HOSTILE = {
    "bytes": f"role:{EVERY_BYTE}\npika_version:{EVERY_BYTE}\nmaster_host:{EVERY_BYTE}\nmaster_link_status:{EVERY_BYTE}",
    "shell": "role:$(touch HACKED)`touch HACKED`;touch HACKED\npika_version:'; touch HACKED; '\ndb_fatal:$((1/0))",
    "json": 'role:", "port": 1, "x": "\\\npika_version:\\",\\\\"\nmaster_host:\\u0000"}\n',
    "numbers": "uptime_in_seconds:-1\nconnected_clients:1e9\nused_memory:99999999999999999999999999\ndb_fatal:1|2;3\n",
    "octal": "uptime_in_seconds:0099\nconnected_clients:08\nused_memory:0x10\n",
    "replicas": 'role:master\nslave0:ip=",port=1",lag=("\nslave1:ip=$(id),port=9,lag=(a:99999999999999999)\nslave2:\n',
    "empty": "",
    "no lines": "x" * 100_000,
    "many replicas": "role:master\n" + "".join(f"slave{n}:ip=192.0.2.1,port=1,lag={n}\n" for n in range(3000)),
    "percent": "role:%s%n%d\npika_version:%99999999s\n",
    "twice": "role:master\nrole:slave\nuptime_in_seconds:5\nuptime_in_seconds:6\n",
}  # fmt: skip


def texts(value: object) -> Iterator[str]:
    """All strings of a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_replies(fast: OperatedHost, name: str) -> None:
    with instance(fast, info(HOSTILE[name])) as port:
        found = status(fast, port)
        if name == "bytes":
            assert found["role"] == EVERY_BYTE
            return
        shown = fast.run("instance.sh", str(port), "status")
        checked = fast.run("instance.sh", str(port), "check")
        memory = fast.run("instance.sh", str(port), "memory")
    assert found["port"] == port
    assert set(found) >= {"role", "replication", "memory", "clients", "gate"}
    assert not list(fast.top.rglob("HACKED"))
    for done in (shown, checked, memory):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout), name
        assert done.stderr == ""
    one_line(checked)
    if name == "twice":
        assert (found["role"], found["uptime_seconds"]) == ("master", 5)


RAW = [
    b"$-1\r\n",
    b"$99999999999\r\nx\r\n",
    b"*3\r\n$1\r\na\r\n",
    b"-ERR \x1b]0;x\x07\r\n",
    b"garbage",
    b":12\r\n",
    b"*-1\r\n",
]


def test_replies_that_are_none(fast: OperatedHost) -> None:
    for raw in RAW:
        with instance(fast, lambda words, raw=raw: raw) as port:  # type: ignore[misc]
            done = fast.run("instance.sh", str(port), "status", "--json", ask_seconds="1")
            assert json.loads(done.stdout)["uptime_seconds"] is None, raw
            one_line(fast.run("instance.sh", str(port), "check", ask_seconds="1"))


def one_line(done: CompletedProcess[str]) -> list[str]:
    """The figures of a line of `check`, which must have the form of a monitoring plugin's."""
    assert done.stdout.count("\n") == 1
    text, _, figures = done.stdout.strip().partition(" | ")
    word = {0: "OK", 1: "WARNING", 2: "CRITICAL", 3: "UNKNOWN"}[done.returncode]
    assert text.startswith(f"DEMO {word} - ")
    assert "|" not in figures
    assert all(PERFORMANCE.fullmatch(figure) for figure in figures.split()), figures
    return figures.split()


def test_check_judges(host: OperatedHost) -> None:
    with instance(host, info(MASTER)) as port:
        off = [f"--{name}=0,0" for name in ("disk", "files")]
        off = [part for word in off for part in word.split("=")]
        done = host.run("instance.sh", str(port), "check", *off)
        assert (done.returncode, "lag=1048576;104857600;1073741824;0;" in one_line(done)) == (0, True)
        for limits, wanted in {"1048576,0": 1, "1048577,0": 0, "0,1048576": 2, "5,6": 2, "0,0": 0}.items():
            done = host.run("instance.sh", str(port), "check", *off, "--lag", limits)
            assert done.returncode == wanted, limits
        assert host.run("instance.sh", str(port), "check", *off, "--clients", "0,0").returncode == 0
        for words in (
            ["--lag"],
            ["--lag", "x"],
            ["--lag", "1"],
            ["--lag", "1,2,3"],
            ["--nope", "1,2"],
            ["lag"],
            ["--lag", "1, 2"],
        ):
            assert host.run("instance.sh", str(port), "check", *words).returncode == 3, words


def test_check_finds_faults(fast: OperatedHost) -> None:
    off = ["--disk", "0,0", "--files", "0,0"]
    found = {}
    for text in (SLAVE.format(link="up"), SLAVE.format(link="down"), "db_fatal:1\n", "connected_clients:960\n"):
        with instance(fast, info(text)) as port:
            done = fast.run("instance.sh", str(port), "check", *off)
        one_line(done)
        found[text] = (done.returncode, done.stdout.partition(" | ")[0].partition(" - ")[2].replace(str(port), "PORT"))
    assert list(found.values()) == [
        (0, "PORT is slave, serves"),
        (2, "the link to the master 192.0.2.1:9221 is down"),
        (2, "PORT reports db_fatal is 1"),
        (2, "960 of 1000 clients"),
    ]
    (fast.top / "opt/demo/utils/cpu-gate.sh").write_text("exit 1\n")
    with instance(fast, info(MASTER)) as port:
        assert fast.run("instance.sh", str(port), "check", *off).returncode == 1
        # An old snapshot, one that is not whole, and a new backup.
        data = fast.top / f"data/demo_{port}"
        old = data / f"dump/demo{port}_20200101/db0/info"
        old.parent.mkdir(parents=True)
        old.write_text("x")
        os.utime(old, (1577836800, 1577836800))
        (data / f"dump/demo{port}_20260101/db0").mkdir(parents=True)
        assert status(fast, port)["last_snapshot"]["time"] == 1577836800
        done = fast.run("instance.sh", str(port), "check", *off)
        assert (done.returncode, "the last snapshot is" in done.stdout) == (1, True)
        whole = data / f"backup/{port}-20260101-000000/backup.info"
        whole.parent.mkdir(parents=True)
        whole.write_text("x")
        assert status(fast, port)["last_snapshot"]["path"] == str(whole.parent)


def test_memory_is_compared_with_its_plan(host: OperatedHost) -> None:
    with instance(host, info(MASTER), "# planned for 1048576 bytes (1.0M):\n") as port:
        done = host.run("instance.sh", str(port), "memory")
        assert re.search(r"^ +[0-9.]+[MG]  VmRSS of the kernel$", done.stdout, re.MULTILINE)
        assert "12.1K  used_memory of INFO\n" in done.stdout
        assert "         -  of the allocator: the server has no TCMALLOC STATS (ERR no)\n" in done.stdout
        assert (done.returncode, done.stderr) == (0, "")
        checked = host.run("instance.sh", str(port), "check", "--disk", "0,0", "--files", "0,0")
    assert (checked.returncode, "percent of the planned memory" in checked.stdout) == (2, True)


STATS = """\
------------------------------------------------
MALLOC:       12345678 (   11.8 MiB) Bytes in use by application
MALLOC: +            0 (    0.0 MiB) Bytes in page heap freelist
MALLOC: =   3221225472 ( 3072.0 MiB) Actual memory used (physical + swap)
MALLOC:             63              Spans in use
MALLOC: +      1245184 (    1.2 Mi"""
"""The reply of gperftools 2.7, cut as the server cuts it."""


def test_figures_of_the_allocator(host: OperatedHost) -> None:
    replies = {"INFO": MASTER, "TCMALLOC": STATS}
    with instance(host, lambda words: replies[words[0]].replace("\n", "\r\n")) as port:
        done = host.run("instance.sh", str(port), "memory")
        replies["TCMALLOC"] = "words\x1b \x9b\n"
        other = host.run("instance.sh", str(port), "memory")
    assert (done.returncode, done.stderr) == (other.returncode, other.stderr) == (0, "")
    assert re.findall(r"(?m)^( +\S+  .*) of TCMALLOC STATS$", done.stdout) == [
        "     11.8M  Bytes in use by application",
        "         0  Bytes in page heap freelist",
        "      3.0G  Actual memory used (physical + swap)",
    ]
    assert "TCMALLOC STATS:\n  words\\x1b \\x9b\n" in other.stdout


WORDS = (
    *("status --yaml", "status x", "memory --plan", "memory --plan 8X", "logs --lines 0", "logs --days -1", "logs x"),
    *("backup --keep 0", "backup --to rel", "backup x", "backup --to /a/../b", "backup --wait 1h"),
    *("restore", "restore a b", "restore --x"),
)


def test_arguments_that_are_wrong(fast: OperatedHost) -> None:
    fast.add_instance(7000)
    for words in WORDS:
        done = fast.run("instance.sh", "7000", *words.split())
        assert (done.returncode, done.stdout) == (2, ""), words
        assert ": error: " in done.stderr, words
    for verb in ("status", "check", "logs", "memory", "backup", "restore"):
        done = fast.run("instance.sh", "7000", verb, "--help")
        assert (done.returncode, done.stderr) == (0, ""), verb
        assert f"instance.sh PORT {verb}" in done.stdout
