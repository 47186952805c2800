"""The sample server has what operators meet in the product: INFO, files, limits, passwords, and what a crash leaves.

Facts of the product that it follows are in tests/sample/README.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hosts
import pytest
from writer import Writer

from pikaforge.pipeline.smoke.resp import ErrorReply

if TYPE_CHECKING:
    from conftest import Engine
    from integration.trees import Tree

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(60)]

PORT = 9221
STALE = "/data/dbsync/rsync/slash_rsync.pid"
FIELDS = {
    "Server": "pika_version pika_git_sha pika_build_compile_date os arch_bits process_id tcp_port thread_num "
    "sync_thread_num uptime_in_seconds uptime_in_days config_file server_id",
    "Data": "db_size db_size_human log_size log_size_human compression used_memory used_memory_human "
    "db_memtable_usage db_tablereader_usage db_fatal db_fatal_msg",
    "Clients": "connected_clients",
    "Stats": "total_connections_received instantaneous_ops_per_sec total_commands_processed is_bgsaving "
    "is_scaning_keyspace is_compact compact_cron compact_interval",
    "Command_Exec_Count": "PING",
    "CPU": "used_cpu_sys used_cpu_user used_cpu_sys_children used_cpu_user_children",
    "Replication(MASTER)": "role connected_slaves",
    "Keyspace": "",
}
"""Names by section, in the order of the product's 3.3."""


class Server:
    """The sample on a host without systemd, started by hand."""

    def __init__(self, host: hosts.Host) -> None:
        self.host = host

    def configure(self, **settings: str) -> None:
        """Write its configuration anew, and remove its data."""
        own = {"port": str(PORT), "maxclients": "1000", "pidfile": "/data/pika.pid"}
        own |= {f"{name}-path": f"/data/{name}/" for name in ("log", "db", "dump")} | {"db-sync-path": "/data/dbsync/"}
        own |= {name.replace("_", "-"): value for name, value in settings.items()}
        lines = "".join(f"{name} : {value}\n" for name, value in own.items())
        self.host.sh("rm -rf /data/*")
        self.host.put("/etc/pika", {"pika.conf": lines.encode()})

    def start(self, password: str = "") -> None:
        self.host.sh("cd /; nohup /opt/pika/bin/pika -c /etc/pika/pika.conf >/root/out 2>&1 & echo $! >/root/pid")
        self.host.wait_serving(PORT, password=password)

    def refuses(self) -> str:
        """Start it, which must fail; what it says."""
        status, said = self.host.run("timeout", "20", "/opt/pika/bin/pika", "-c", "/etc/pika/pika.conf")
        assert status not in (0, 124), said
        return said

    def end(self, signal: str = "TERM") -> None:
        """End it; nothing if it does not run."""
        script = "kill -$1 $(cat /root/pid) && while kill -0 $(cat /root/pid); do sleep 0.05; done; rm -f /root/pid"
        self.host.run("sh", "-c", script, "sh", signal)

    def ask(self, *words: str | int, password: str = "") -> object:
        return self.host.ask(PORT, *words, password=password)

    def info(self, section: str) -> dict[str, str]:
        return self.host.info(PORT, section)


@pytest.fixture(scope="module")
def servers(engine: Engine, sample_tree: Tree) -> Iterator[tuple[Server, Server]]:
    with hosts.together(engine) as group:
        for name in ("one", "two"):
            group.start(name, systemd=False).unpack(sample_tree.tar())
        yield Server(group.hosts["one"]), Server(group.hosts["two"])


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Iterator[Server]:
    """One that was not started yet."""
    servers[0].configure()
    yield servers[0]
    for each in servers:
        each.end("KILL")


def test_info_has_the_sections_of_the_product(server: Server) -> None:
    server.start()
    text = server.ask("INFO", "all")
    assert isinstance(text, str)
    assert text.count("\n") == text.count("\r\n")
    found: dict[str, list[str]] = {}
    for line in text.split("\r\n"):
        if re.fullmatch(r"# [A-Z][A-Za-z_]*([(][A-Z]+[)])?", line):
            fields = found[line.removeprefix("# ")] = []
        elif ":" in line and not line.startswith("#"):
            fields.append(line.partition(":")[0])
    assert found == {section: names.split() for section, names in FIELDS.items()}
    assert "\r\ndb0 binlog_offset=0 0,safety_purge=none\r\n" in text
    assert "\r\n# Time:1970-01-01 " in text
    for name in ("Strings", "Hashes", "Lists", "Zsets", "Sets"):
        assert f"\r\ndb0 {name}_keys=0, expires=0, invaild_keys=0\r\n" in text
    assert server.info("server")["config_file"] == "/etc/pika/pika.conf"
    assert server.info("data")["db_fatal_msg"] == "NULL"


def test_memory_is_that_of_the_configuration(server: Server) -> None:
    server.configure(**{"write-buffer-size": "64K", "max-cache-files": "3"})
    server.start()
    for _ in range(72):
        assert server.ask("SET", "key", "v" * 10000) == "OK"
    data = {name: int(value) for name, value in server.info("data").items() if value.isdigit()}
    assert 0 < data["db_memtable_usage"] <= 64 << 10
    assert data["db_tablereader_usage"] == 3 * (64 << 10), "of at least ten, three are open"
    assert data["used_memory"] == data["db_memtable_usage"] + data["db_tablereader_usage"]
    assert server.ask("CONFIG", "GET", "write-buffer-size") == ["write-buffer-size", "65536"]
    server.end()
    server.configure(**{"write-buffer-size": "1K", "cache-index-and-filter-blocks": "yes", "max-cache-files": "-1"})
    server.start()
    for _ in range(20):
        server.ask("SET", "key", "v" * 2000)
    assert server.info("data")["db_tablereader_usage"] == str(20 * (4 << 10))


def test_logs_and_binlogs_are_in_one_folder(server: Server) -> None:
    server.configure(**{"binlog-file-size": "1024"})
    server.start()
    for number in range(30):
        server.ask("SET", f"key{number}", "v" * 1000)
    assert server.info("replication")["role"] == "master"
    text = server.ask("INFO", "replication")
    assert isinstance(text, str)
    assert re.search(r"db0 binlog_offset=29 10\d\d,safety_purge=write2file19\r\n", text), text
    names = server.host.sh("cd /data/log && find . -type f -o -type l | sort").split()
    assert [name for name in names if "write2file" in name] == sorted(f"./log_db0/write2file{n}" for n in range(20, 30))
    assert "./pika.INFO" in names
    [log] = [name for name in names if ".log." in name]
    assert re.fullmatch(r"./pika[.]one[.]root[.]log[.]INFO[.]\d{8}-\d{6}[.]\d+", log)
    size = server.host.sh("cat $(find /data/log -type f) | wc -c").strip()
    assert server.info("data")["log_size"] == size
    # Without its newest binlog the server does not start.
    server.end()
    server.host.ok("rm", "/data/log/log_db0/write2file29")
    assert "open the binlog: /data/log/log_db0/write2file29: No such file" in server.refuses()


def test_a_dump_takes_the_place_of_that_of_the_day(server: Server) -> None:
    server.configure(**{"dump-prefix": "pika9221_", "dump-expire": "7"})
    server.host.sh("mkdir -p /data/dump/pika9221_20200101/db0 /data/dump/other_20200101")
    server.start()
    hosts.wait(lambda: not server.host.exists("/data/dump/pika9221_20200101"), "the old dump is removed")
    assert server.host.exists("/data/dump/other_20200101")
    today = server.host.ok("date", "+%Y%m%d").strip()
    for value in ("first", "second"):
        server.ask("SET", "key", value)
        assert server.ask("BGSAVE") == "Background saving started"
        hosts.wait(lambda: server.info("stats")["is_bgsaving"] == "No", "it is saved")
        assert server.host.exists(f"/data/dump/pika9221_{today}/db0/info")
    assert server.host.ok("ls", "/data/dump").split() == ["other_20200101", f"pika9221_{today}"]
    assert server.ask("CONFIG", "SET", "dump-prefix", "new_") == "OK"
    assert server.ask("CONFIG", "REWRITE") == "OK"
    assert "dump-prefix : new_\n" in server.host.read("/etc/pika/pika.conf")


def test_a_stale_pid_of_rsync_blocks_full_syncs(servers: tuple[Server, Server], server: Server) -> None:
    one, two = servers
    two.configure()
    for each in servers:
        each.start()
        assert each.host.read(STALE) == each.host.read("/root/pid")
    one.ask("SET", "key", "value")

    def follow(*, within: float = 20.0) -> None:
        two.ask("SLAVEOF", "NO", "ONE")
        assert two.ask("SLAVEOF", one.host.address, PORT) == "OK"
        hosts.wait(lambda: two.info("replication")["master_link_status"] == "up", "it replicates", within=within)

    follow()
    assert two.ask("GET", "key") == "value"
    text = one.ask("INFO", "replication")
    assert isinstance(text, str)
    assert re.search(rf"slave0:ip={re.escape(two.host.address)},port={PORT},conn_fd=\d+,lag=\(db0:0\)\r\n", text), text
    text = two.ask("INFO", "replication")
    assert isinstance(text, str)
    assert text.startswith("# Replication(SLAVE)\r\nrole:slave\r\n")
    assert "\r\nslave_priority:100\r\nslave_read_only:1\r\n" in text

    two.end("KILL")
    assert two.host.exists(STALE)
    two.start()
    two.ask("SLAVEOF", "NO", "ONE")
    two.ask("SLAVEOF", one.host.address, PORT)
    time.sleep(3)  # the server tries again each second
    assert two.info("replication")["master_link_status"] == "down"
    assert "there is no rsync service here" in two.host.sh("cat /data/log/pika.ERROR")
    two.host.ok("rm", STALE)
    hosts.wait(lambda: two.info("replication")["master_link_status"] == "up", "it replicates")
    two.end()
    assert not two.host.exists(STALE)


def test_a_full_disk_is_overcome_by_a_restart_alone(server: Server) -> None:
    server.host.small_disk("/data/db", "1m")
    server.start()
    said: object = "OK"
    stored = 0
    while said == "OK":
        said = server.ask("SET", f"key{stored}", f"{stored:06}" * 8000)
        stored += said == "OK"
    assert isinstance(said, ErrorReply)
    assert "No space left on device" in said.text
    assert server.info("data")["db_fatal"] == "1"
    server.host.sh("mount -o remount,size=4m /data/db")
    assert isinstance(server.ask("SET", "key", "value"), ErrorReply)
    assert server.ask("GET", f"key{stored - 1}") is not None
    server.end()
    server.start()
    assert server.ask("SET", "key", "value") == "OK"
    assert server.ask("GET", f"key{stored - 1}") is not None
    server.end()
    server.host.ok("umount", "/data/db")


def test_passwords_and_rights(server: Server) -> None:
    server.configure(requirepass="secret", userpass="user", userblacklist="BGSAVE")
    server.start(password="secret")
    assert isinstance(server.ask("PING"), ErrorReply)
    assert server.ask("PING", password="user") == "PONG"
    assert isinstance(server.ask("BGSAVE", password="user"), ErrorReply)
    refused = server.ask("SHUTDOWN", password="secret")
    assert isinstance(refused, ErrorReply)
    assert "localhost" in refused.text
    server.host.sh("printf 'AUTH secret\\r\\nSHUTDOWN\\r\\n' | nc -q 2 127.0.0.1 9221 || :")
    hosts.wait(lambda: not server.host.exists(STALE), "it has ended")


def test_clients_of_the_host_have_places_of_their_own(server: Server) -> None:
    server.configure(maxclients="2", **{"root-connection-num": "1"})
    server.start()
    first, second = server.host.connect(PORT), server.host.connect(PORT)
    with first, second:
        assert first.exchange([["PING"]]) == second.exchange([["PING"]]) == ["PONG"]
        assert not server.host.serves(PORT)
        assert server.host.sh("printf 'PING\\r\\n' | nc -q 1 127.0.0.1 9221").strip() == "+PONG"


def test_a_writer_knows_what_is_lost(server: Server) -> None:
    server.start()
    with Writer(server.host, PORT) as writer:
        for _ in range(3):
            writer.more(50)
            server.end("KILL")
            server.start()
        writer.more(50)
    assert len(writer.acknowledged) >= 200
    assert (writer.lost(), writer.refused) == ([], [])
    assert server.ask("DEL", "written:00000001") == 1
    assert writer.lost() == [1]
