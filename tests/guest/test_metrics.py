"""metrics.sh: what it writes of what servers say, in several shells; the libraries that it shares are stand-ins."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from described import operate_of
from guest.helpers import SHELLS, need, sh
from guest.stubbed_host import StubbedHost
from standins.prometheus import NoPrometheus, Programs, programs

from pikaforge.config import load
from pikaforge.config.product import Product
from pikaforge.formats import payload
from pikaforge.operate import metrics as rendering

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    *(
        "awk",
        "cat",
        "cp",
        "cut",
        "date",
        "df",
        "dirname",
        "find",
        "grep",
        "head",
        "ln",
        "mkdir",
        "mktemp",
        "mv",
        "readlink",
        "rm",
        "sed",
        "sh",
    ),
    *("sort", "stat", "tail", "timeout", "tr", "wc"),
)
# A reply that is a folder stands for a server that does not answer; the file in it has the status.
STANDINS = {
    "utils/lib/resp.sh": """\
ask() {
    printf '%s\\n' "$*" >>"$HOST/asked"
    [ ! -d "$HOST/replies/$1" ] || return "$(cat "$HOST/replies/$1/status")"
    cat "$HOST/replies/$1"
}
""",
    "utils/lib/service.sh": """\
by_systemd() { [ -d "$runtime/systemd/system" ]; }
service_pid() { cat "$HOST/pid" 2>/dev/null; }
""",
    "utils/cpu-gate.sh": 'exit "$(cat "$HOST/gate")"\n',
}
PLACES = re.compile(r"^(etc|units|packaged_units|runtime|logs|collectors|cron)=(.*)$", re.MULTILINE)
"""Where scripts say what is where on a host."""
INFO = """\
# Server
pika_version:3.4.0
os:Linux 3.10.0-862.el7.x86_64 x86_64
arch_bits:64
process_id:312168
tcp_port:9223
uptime_in_seconds:83481
uptime_in_days:2
config_file:/redis/9223.conf
server_id:1

# Data
db_size:1558037767
db_size_human:1485M
compression:snappy
db_fatal_msg:NULL

# Stats
is_bgsaving:No, , 0
is_compact:No
compact_cron:
compact_interval:
a_new_number:17

# Command_Exec_Count
RPUSH:5111302
INFO:24980

# CPU
used_cpu_sys:40341.43

# Replication(MASTER)
role:master
connected_slaves:2
slave0:ip=10.200.14.148,port=9222,conn_fd=131,lag=(db0:0)(db1:17)
db0 binlog_offset=143 9122210,safety_purge=write2file133

# Keyspace
# Time:2020-07-23 14:26:33
db0 Strings_keys=83922112, expires=3, invalid_keys=1
db0 Hashes_keys=4887344, expires=0, invaild_keys=0
""".replace("\n", "\r\n")
"""Like a reply of v3.3.5 that the tests of upstream's exporter have, with old and new peculiarities."""
SLAVE = """\
# Replication(SLAVE)
role:slave
master_host:10.200.14.148
master_port:9223
master_link_status:{state}
slave_priority:100
""".replace("\n", "\r\n")
SAMPLE = re.compile(
    r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,(?!\}))?)*)\})? '
    r"([-+]?[0-9]+(?:[.][0-9]+)?(?:e[-+]?[0-9]+)?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(StubbedHost):
    """A machine with instances; what their servers say is in files."""

    def unpack(self, product: Product) -> None:
        """Put a package on the machine, with the folders of the system moved."""
        rendered = payload.render(product, model="R620", target="sandybridge", image="el9", features=("lm",))
        contents = {name: content.decode() for name, content in rendered.contents.items()} | STANDINS
        for name, text in contents.items():
            path = self.top / "opt/pika" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.moved(text) if name in ("utils/lib/common.sh", rendering.SCRIPT) else text)
        (self.top / "gate").write_text("0\n")
        for name in ("replies", "run", "etc/pika", "var/lib/prometheus/node-exporter"):
            self.folder(name)

    def moved(self, text: str) -> str:
        return PLACES.sub(lambda found: re.sub(r"(?<![\w}])/(?=[a-z])", f"{self.top}/", found.group()), text)

    def add(self, port: int) -> None:
        """Write the files of an instance, as deploy.sh does."""
        data = self.folder(f"data/pika_{port}/conf").parent
        (self.top / f"etc/pika/{port}.env").write_text(
            f"CONF={data}/conf/pika.conf\nDATA={data}\nTREE={self.top}/opt/pika\n"
        )

    def reply(self, port: int, text: str | bytes) -> None:
        """Set an instance up whose server says this."""
        self.add(port)
        (self.top / f"replies/{port}").write_bytes(text if isinstance(text, bytes) else text.encode())

    def silent(self, port: int, status: int) -> None:
        """Set an instance up that does not answer; `status` is that of `ask`."""
        self.add(port)
        (self.folder(f"replies/{port}") / "status").write_text(f"{status}\n")

    def metrics(self, *argv: str, **env: str) -> CompletedProcess[str]:
        script = self.top / "opt/pika/utils/metrics.sh"
        environment = {"PATH": str(self.top / "bin"), "HOST": str(self.top), "SPY": str(self.top / "spy"), **env}
        return sh(*self.words, script, *argv, env=environment, cwd=self.top)

    def text(self, *argv: str) -> str:
        done = self.metrics("--stdout", "--host", "db1", *argv)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout


def samples(text: str) -> dict[str, str]:
    """Return the values of a text, by name and labels without `addr` and `alias`; every line must be valid."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        labels = re.sub(r'^addr="[^"]*",alias="[^"]*",?', "", match[2] or "")
        key = f"{match[1]}{{{labels}}}" if labels else match[1]
        assert line.rsplit(" ", 1)[0] not in found
        found[key] = match[3]
    return found


@pytest.fixture(scope="module")
def product() -> Product:
    return load.load(ROOT / "matrix.yaml").product


@pytest.fixture(scope="module")
def prometheus() -> Programs:
    try:
        return programs(Path(os.environ.get("PIKAFORGE_TEST_OUT") or ROOT / "out") / "debian" / "prometheus")
    except NoPrometheus as error:
        pytest.skip(str(error))


def machine(folder: Path, product: Product, shell: str) -> Host:
    need(SHELLS[shell][0])
    (folder / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (folder / "bin" / tool).symlink_to(found)
    words = (str(shutil.which(SHELLS[shell][0])), *SHELLS[shell][1:])
    host = Host(top=folder, words=words)
    host.stub("id", "echo 0")
    host.stub("uname", "echo host-1")
    host.unpack(product)
    return host


@pytest.fixture
def host(tmp_path: Path, product: Product) -> Host:
    return machine(tmp_path, product, "dash")


@pytest.fixture(params=SHELLS)
def each(request: pytest.FixtureRequest, tmp_path: Path, product: Product) -> Host:
    return machine(tmp_path, product, request.param)


class TestNames:
    def test_are_those_of_the_exporter(self, each: Host) -> None:
        each.reply(9221, INFO)
        found = samples(each.text())
        expected = {
            'pika_build_info{os="Linux 3.10.0-862.el7.x86_64 x86_64",arch_bits="64",pika_version="3.4.0",'
            'pika_git_sha="",pika_build_compile_date=""}': "1",
            'pika_server_info{process_id="312168",tcp_port="9223",config_file="/redis/9223.conf",server_id="1",'
            'role="master"}': "1",
            "pika_uptime_in_seconds": "83481",
            'pika_db_size{compression="snappy"}': "1558037767",
            'pika_is_bgsaving{bgsave_name=""}': "0",
            'pika_compact{is_compact="No",compact_cron="",compact_interval=""}': "0",
            'pika_command_exec_count{command="RPUSH"}': "5111302",
            "pika_used_cpu_sys": "40341.43",
            "pika_connected_slaves": "2",
            'pika_slave_lag{slave_ip="10.200.14.148",slave_port="9222",slave_conn_fd="131",db="db0"}': "0",
            'pika_slave_lag{slave_ip="10.200.14.148",slave_port="9222",slave_conn_fd="131",db="db1"}': "17",
            'pika_binlog_offset{safety_purge="write2file133",db="db0"}': "9122210",
            'pika_binlog_offset_filenum{db="db0"}': "143",
            'pika_keys{db="db0",data_type="Strings"}': "83922112",
            'pika_keys{db="db0",data_type="Hashes"}': "4887344",
            'pika_expire_keys{db="db0",data_type="Strings"}': "3",
            'pika_invalid_keys{db="db0",data_type="Strings"}': "1",
            'pika_invalid_keys{db="db0",data_type="Hashes"}': "0",
            'pika_field_info{section="Data",field="db_fatal_msg",value="NULL"}': "1",
            'pika_field_value{section="Stats",field="a_new_number"}': "17",
            "pika_up": "1",
            "pika_instances": "1",
        }
        assert {name: found.get(name) for name in expected} == expected
        assert not [name for name in found if "human" in name or "uptime_in_days" in name]
        assert (each.top / "asked").read_text() == "9221 INFO ALL\n"

    @pytest.mark.parametrize(("state", "value"), [("up", "1"), ("down", "0")])
    def test_states_are_numbers(self, host: Host, state: str, value: str) -> None:
        host.reply(9221, SLAVE.format(state=state))
        link = 'pika_master_link_status{master_host="10.200.14.148",master_port="9223"}'
        assert samples(host.text())[link] == value

    def test_a_state_that_is_not_known_stays_a_text(self, host: Host) -> None:
        host.reply(9221, SLAVE.format(state="connecting"))
        found = samples(host.text())
        assert found['pika_field_info{section="Replication",field="master_link_status",value="connecting"}'] == "1"
        assert not [name for name in found if name.startswith("pika_master_link_status")]

    def test_addr_and_alias_say_which_instance(self, host: Host) -> None:
        host.reply(9221, "# Clients\r\nconnected_clients:1\r\n")
        host.reply(9321, "# Clients\r\nconnected_clients:2\r\n")
        lines = [line for line in host.text().splitlines() if line.startswith("pika_connected_clients{")]
        assert lines == [
            'pika_connected_clients{addr="db1:9221",alias="pika_9221"} 1',
            'pika_connected_clients{addr="db1:9321",alias="pika_9321"} 2',
        ]

    def test_promtool_finds_nothing_but_what_is_inherited(
        self, host: Host, product: Product, prometheus: Programs
    ) -> None:
        host.reply(9221, INFO)
        (host.top / "pid").write_text(f"{os.getpid()}\n")
        metrics = operate_of(product).metrics
        assert metrics is not None
        found = checked(prometheus, host.text())
        assert {line.split()[0] for line in found} <= {f"pika_{name}" for name in metrics.inherited}

    def test_all_that_is_inherited_would_be_found(self, product: Product, prometheus: Programs) -> None:
        metrics = operate_of(product).metrics
        assert metrics is not None
        kinds = rendering.names(product, metrics)
        text = "".join(f"# HELP {name} x\n# TYPE {name} {kind}\n{name} 1\n" for name, kind in kinds.items())
        found = {line.split()[0] for line in checked(prometheus, text)}
        assert found == {f"pika_{name}" for name in metrics.inherited}


def checked(prometheus: Programs, text: str) -> list[str]:
    """Return what `promtool check metrics` finds in a text, which must be valid."""
    argv = [str(prometheus.promtool), "check", "metrics"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (0, 3), done.stderr  # 3: lint, 1: not valid
    return done.stderr.splitlines()


@pytest.mark.parametrize("matrix", ["matrix.yaml", "tests/products/redis/matrix.yaml"])
def test_promtool_takes_the_rules_and_their_tests(tmp_path: Path, prometheus: Programs, matrix: str) -> None:
    product = load.load(ROOT / matrix).product
    metrics = operate_of(product).metrics
    assert metrics is not None
    for name, text in rendering.monitoring(product, metrics).items():
        (tmp_path / name).write_bytes(text)
    for words in (
        ("check", "rules", f"{product.name}-alerts.yml"),
        ("test", "rules", f"{product.name}-alerts-test.yml"),
    ):
        argv = [str(prometheus.promtool), *words]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


class TestInstances:
    def test_that_does_not_answer(self, each: Host) -> None:
        for port, status in ((9221, 1), (9321, 2), (9421, 3)):
            each.silent(port, status)
        each.reply(9521, "")
        text = each.text()
        assert re.findall(r'pika_up\{addr="db1:(\d+)",.*\} (\d)', text) == [
            ("9221", "0"),
            ("9321", "0"),
            ("9421", "0"),
            ("9521", "0"),
        ]
        assert re.findall(r'pika_scrape_failed\{.*reason="(\w+)"\} 1', text) == [
            *("refused", "connection", "timeout", "empty")
        ]
        assert samples(text)["pika_instances"] == "4"

    def test_none_is_not_an_error(self, host: Host) -> None:
        assert samples(host.text()) == {"pika_instances": "0"}

    def test_package_gate_disk_process_and_budget(self, host: Host) -> None:
        host.reply(9221, INFO)
        (host.top / "pid").write_text(f"{os.getpid()}\n")
        (host.top / "gate").write_text("1\n")
        conf = host.top / "data/pika_9221/conf/pika.conf"
        conf.write_text("# planned for 8589934592 bytes (8 G):\nport : 9221\n")
        made = host.folder("data/pika_9221/backup/9221-20261126-160000") / "backup.info"
        made.write_text("made\n")
        os.utime(made, (1700000000, 1700000000))
        found = samples(host.text())
        tree = host.top / "opt/pika"
        package = f'version="v3.4.0",release="1",model="R620",target="sandybridge",image="el9",tree="{tree}"'
        assert found[f"pika_package_info{{{package}}}"] == "1"
        assert found["pika_cpu_gate_passed"] == "0"
        assert found["pika_memory_budget_bytes"] == "8589934592"
        assert found["pika_last_snapshot_timestamp_seconds"] == "1700000000"
        assert int(found["pika_process_resident_memory_bytes"]) > 1 << 20
        assert 0 < int(found["pika_process_open_fds"]) <= int(found["pika_process_max_fds"])
        assert 0 < int(found["pika_filesystem_avail_bytes"]) <= int(found["pika_filesystem_size_bytes"])

    def test_a_process_that_is_gone_is_left_out(self, host: Host) -> None:
        host.reply(9221, INFO)
        for pid in ("", "0", "1 2", "../self", "99999999"):
            (host.top / "pid").write_text(f"{pid}\n")
            assert not [name for name in samples(host.text()) if "process_" in name and "_info" not in name]


class TestFile:
    def test_is_complete_readable_and_replaced(self, each: Host) -> None:
        each.reply(9221, INFO)
        folder = each.top / "var/lib/prometheus/node-exporter"
        (folder / "pika.prom").write_text("old")
        done = each.metrics("--host", "db1")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [path.name for path in folder.iterdir()] == ["pika.prom"]
        assert (folder / "pika.prom").stat().st_mode & 0o777 == 0o644
        assert samples((folder / "pika.prom").read_text())["pika_up"] == "1"
        assert not list((each.top / "run").iterdir())

    def test_the_other_folder_is_found(self, host: Host) -> None:
        shutil.rmtree(host.top / "var/lib/prometheus")
        done = host.metrics()
        assert done.returncode == 1
        assert "no folder for node-exporter" in done.stderr and "hint:" in done.stderr
        folder = host.folder("var/lib/node_exporter/textfile_collector")
        assert host.metrics().returncode == 0
        assert (folder / "pika.prom").is_file()

    def test_a_file_that_lies_in_the_way_is_not_written_through(self, host: Host) -> None:
        """The folder belongs to another user, who could put a link where the new file is made."""
        folder = host.top / "var/lib/prometheus/node-exporter"
        victim = host.top / "victim"
        victim.write_text("kept")
        host.reply(9221, INFO)
        host.stub("mktemp", f'd={host.top}/run/work; mkdir "$d"; ln -s {victim} {folder}/.pika.prom.$PPID; echo "$d"')
        done = host.metrics()
        assert victim.read_text() == "kept"
        assert done.returncode == 1
        assert "cannot write into" in done.stderr

    @pytest.mark.parametrize(
        "argv",
        [
            *(
                ("--folder", "relative"),
                ("--folder", "/a/../b"),
                ("--folder", "/a b"),
                ("--folder", "/a;b"),
                ("--folder", "/a\nb"),
                ("--folder",),
            ),
            *(("--host", ""), ("--host", 'a"b'), ("--host", "a\nb"), ("--host", "a b"), ("--nonsense",), ("9221",)),
        ],
    )
    def test_arguments_are_refused(self, host: Host, argv: tuple[str, ...]) -> None:
        done = host.metrics(*argv)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("metrics: error: ")
        assert not list((host.top / "var/lib/prometheus/node-exporter").iterdir())

    def test_help(self, host: Host) -> None:
        done = host.metrics("--help")
        assert done.returncode == 0
        assert done.stdout.startswith("Write the metrics of this host's instances")
        assert "--enable" in done.stdout and "pika.prom" in done.stdout


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "spy"}


class TestTimer:
    def systemd(self, host: Host) -> None:
        host.folder("run/systemd/system")
        host.folder("etc/systemd/system")
        host.stub("systemctl", '[ "$1" != is-enabled ] && [ "$1" != is-active ] || [ -e "$HOST/enabled" ]')

    def test_systemd(self, each: Host) -> None:
        self.systemd(each)
        before = tree_of(each.top)
        assert each.metrics("--enable", "--dry-run").stdout.startswith("would enable pika-metrics.timer")
        assert tree_of(each.top) == before
        done = each.metrics("--enable")
        assert done.returncode == 0, done.stderr
        units = each.top / "etc/systemd/system"
        service = (units / "pika-metrics.service").read_text()
        assert f"ExecStart=/bin/sh {each.top}/opt/pika/utils/metrics.sh\n" in service
        assert "@" not in (units / "pika-metrics.timer").read_text()
        assert "systemctl enable --now pika-metrics.timer\n" in (each.top / "spy").read_text()
        (each.top / "enabled").touch()
        again = each.metrics("--enable")
        assert again.stdout == "nothing to do: pika-metrics.timer is enabled\n"
        before = tree_of(each.top)
        assert each.metrics("--disable", "--dry-run").stdout == "would write no metrics any more\n"
        assert tree_of(each.top) == before
        assert each.metrics("--disable").stdout == "no metrics are written any more\n"
        assert not list(units.iterdir())
        (each.top / "enabled").unlink()
        assert each.metrics("--disable").stdout == "nothing to do: no metrics are written\n"

    def test_units_of_a_package_are_not_hidden(self, host: Host) -> None:
        self.systemd(host)
        (host.folder("usr/lib/systemd/system") / "pika-metrics.timer").touch()
        assert host.metrics("--enable").returncode == 0
        assert not list((host.top / "etc/systemd/system").iterdir())

    def test_cron(self, each: Host) -> None:
        done = each.metrics("--enable")
        assert (done.returncode, "neither systemd nor" in done.stderr) == (1, True)
        entry = each.folder("etc/cron.d") / "pika-metrics"
        own = each.folder("srv/text")
        assert each.metrics("--enable", "--folder", str(own)).returncode == 0
        assert entry.read_text() == f"* * * * * root sh {each.top}/opt/pika/utils/metrics.sh >/dev/null 2>&1\n"
        assert each.metrics("--enable", "--folder", str(own)).stdout.startswith("nothing to do")
        assert each.metrics().returncode == 0
        assert (own / "pika.prom").is_file()
        assert each.metrics("--disable").returncode == 0
        assert not entry.exists() and not (own / "pika.prom").exists()


def hostile() -> Iterator[tuple[str, bytes]]:
    """Yield replies that a server should not give."""
    yield (
        "quotes",
        b'# S"ec\\tion\r\na"b:c"d\\\r\nx\\:y\\\\"\r\ndb0 a"b=c"d\\,e=f"\r\nslave0:ip="\\\\,lag=(d"b:1)(x\\:2)\r\n',
    )
    yield "quoted command", b'# Command_Exec_Count\r\nG"E\\T:5\r\nGE\nT:6\r\n:7\r\n'
    yield "line ends", b"a:b\nc\rd:e\r\r\n\n\n\x0b\x0c:1\n"
    yield "control characters", bytes(range(256)) + b":1\r\nx:" + bytes(range(256))
    yield (
        "numbers",
        b"db_size:NaN\r\nused_memory:+Inf\r\nlog_size:1e999\r\nthread_num:0x10\r\nconnected_clients:--1\r\n"
        b"sync_thread_num:1e5\r\nconnected_slaves:+7\r\ndb_fatal:-0\r\nused_cpu_sys:1.\r\nused_cpu_user:.5\r\n"
        b"uptime_in_seconds:" + b"9" * 400,
    )
    yield "a long line", b"config_file:" + b"x\\" * (1 << 20)
    yield "many lines", b"".join(b"f%d:%d\r\n" % (n, n) for n in range(100_000))
    yield "many commands", b"# Command_Exec_Count\r\n" + b"".join(b"C%d:%d\r\n" % (n, n) for n in range(60_000))
    yield "many pairs", b"db0 " + b",".join(b"k%d_keys=%d" % (n, n) for n in range(60_000))
    yield "no ASCII", "role:m\xe4ster\r\nos:\u2028\0".encode() + b"\xff\xfe\x80:\xc3\r\n"
    twice = b"db_size:1\r\ndb_size:2\r\n# Command_Exec_Count\r\nGET:1\r\nGET:2\r\n# Keyspace\r\ndb0 a_keys=1\r\n"
    more = b"db0 a_keys=2\r\nslave0:ip=1,lag=(db0:1)(db0:2)\r\nslave1:ip=1,lag=(db0:1)\r\nfoo:1\r\nfoo:2\r\n"
    yield "twice", twice + more
    yield "metrics", b'x:1\n# HELP pika_up fake\n# TYPE pika_up counter\npika_up{addr="h:1"} 7\npika_up 7\n'
    yield "tabs", b"a\tb:c\td\r\nprefix\tx:1\r\nfield\t\tx\tgauge\r\n"
    yield (
        "nothing in it",
        b"\r\n\r\n:\r\n:::\r\n=\r\n ==\r\n:=\r\n(=\r\ndb0 =\r\ndb0 =,=,\r\nslave0:=,lag=(\r\nslave0:lag=()():)(:\r\n",
    )
    yield "names of the table", b"@head:1\r\ndb0 @head=x,@stem=y,a_keys=1\r\nis_bgsaving:,,,\r\n"
    yield "commands", b"os:$(touch /tmp/x)`id`'; touch y; '\r\n%s%n%d:%s\r\n"
    dice = random.Random(15)
    for number in range(8):
        yield f"random {number}", bytes(dice.choice(b'ab:=,()"\\\r\n\t #0159._e-{}\x00\xff') for _ in range(4000))


HOSTILE: Mapping[str, bytes] = dict(hostile())


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_server_says_never_makes_the_text_invalid(
    tmp_path: Path, product: Product, prometheus: Programs, name: str
) -> None:
    """Nor does it get into what another instance says."""
    host = machine(tmp_path, product, "dash")
    host.reply(9221, HOSTILE[name])
    host.reply(9321, "# Clients\r\nconnected_clients:2\r\n")
    text = host.text()
    checked(prometheus, text)
    samples(text)
    assert text.isascii() and text.isprintable() is False
    assert 'pika_connected_clients{addr="db1:9321",alias="pika_9321"} 2\n' in text
    assert re.findall(r"^pika_up\{(.*)\} (.*)$", text, re.MULTILINE) == [
        ('addr="db1:9221",alias="pika_9221"', "1"),
        ('addr="db1:9321",alias="pika_9321"', "1"),
    ]
    assert len(text) < 8 << 20
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("text", ['a{b="\\x"} 1', 'a{b="c} 1', "a 1e999", "a{b=1} 1"])
def test_promtool_refuses_what_is_invalid(prometheus: Programs, text: str) -> None:
    argv = [str(prometheus.promtool), "check", "metrics"]
    done = subprocess.run(argv, input=f"{text}\n", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr


def test_busybox_awk_reads_the_same(tmp_path: Path, product: Product) -> None:
    need("busybox")
    host = machine(tmp_path, product, "dash")
    for number, (port, data) in enumerate(
        zip(range(9221, 12000, 100), [INFO.encode(), *HOSTILE.values()], strict=False)
    ):
        if len(data) < 100_000 or number == 0:
            host.reply(port, data)
    stable = re.compile(r"^pika_(scrape_duration|filesystem)_.*\n", re.MULTILINE)
    first = stable.sub("", host.text())
    (host.top / "bin/awk").unlink()
    (host.top / "bin/awk").write_text(f'#!/bin/sh\nexec {shutil.which("busybox")} awk "$@"\n')
    (host.top / "bin/awk").chmod(0o755)
    assert stable.sub("", host.text()) == first
