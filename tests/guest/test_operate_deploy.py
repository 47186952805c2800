"""deploy.sh and instance.sh of an operated server, on a host without systemd, with a server that answers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import SHELLS, need
from guest.operated_host import OperatedHost, operated_host
from guest.watched_host import operate_of

from pikaforge.operate import tables

SERVER = Path(__file__).parent / "resp_demo.py"
OFFSETS = (0, 1000, 2000)


def free_port() -> int:
    """A port of which all three of an instance are free."""
    for _ in range(100):
        port = random.randrange(20000, 30000)
        with ExitStack() as stack:
            try:
                for offset in OFFSETS:
                    stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            except OSError:
                continue
            return port
    pytest.skip("no free ports")


class Deployed:
    """A host, and an instance on it."""

    def __init__(self, host: OperatedHost) -> None:
        self.host = host
        self.top = host.top
        self.port = free_port()
        self.data = self.top / f"data/demo_{self.port}"
        self.conf = self.data / "conf/demo.conf"

    def deploy(self, *argv: str, port: int | str = 0, base: str = "", **env: str) -> CompletedProcess[str]:
        return self.host.run("deploy.sh", str(port or self.port), base or f"{self.top}/data", *argv, **env)

    def instance(self, *argv: str, text: str = "") -> CompletedProcess[str]:
        return self.host.run("instance.sh", str(self.port), *argv, text=text)

    def state(self) -> dict[str, tuple[int, bytes]]:
        """All below the folders that a deployment may change; lists of calls aside."""
        found = {}
        for name in ("data", "etc", "run", "var", "opt"):
            for path in sorted((self.top / name).rglob("*")):
                content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                found[str(path.relative_to(self.top))] = (path.lstat().st_mode, content)
        return found

    def settings(self) -> dict[str, str]:
        lines = (line.partition(" : ") for line in self.conf.read_text().splitlines() if not line.startswith("#"))
        return {key: value for key, mark, value in lines if mark}

    def process(self) -> int:
        return int((self.top / f"run/demo-{self.port}.pid").read_text().split()[2])


def made(top: Path, shell: str) -> Deployed:
    need(SHELLS[shell][0], "bash", "setsid")
    host = operated_host(top, SHELLS[shell])
    binary = top / "opt/demo/bin/demo"
    binary.write_text(f"#!{sys.executable}\n{SERVER.read_text()}")
    real = shutil.which("stat")
    # What is above the machine (pytest's folders have mode 700) is open to all, and its disk is a plain one.
    host.stub(
        "stat",
        f'case $* in "-c %a {top}/"*) ;; "-c %a "*) echo 755; exit ;; -f*) echo ext2; exit ;; esac\nexec {real} "$@"',
    )
    host.stub("df", "echo x; echo / 1 1 999999 1 /")
    host.stub("rsync")
    return Deployed(host)


@pytest.fixture(params=SHELLS, ids=str)
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployed]:
    """In each shell."""
    deployed = made(tmp_path, request.param)
    yield deployed
    deployed.instance("stop")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Deployed]:
    """In the shell of Debian."""
    deployed = made(tmp_path, "dash")
    yield deployed
    deployed.instance("stop")


def test_the_life_of_an_instance(each: Deployed) -> None:
    """Deployed, again, asked, killed and started again, restarted, stopped, removed, purged."""
    done = each.deploy("--set", "maxclients=50", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  +maxclients : 50\n" in done.stdout
    assert not each.conf.exists()
    done = each.deploy("--set", "maxclients=50")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"deploy: instance {each.port} answers; it is new, in {each.data}"
    settings = {"port": str(each.port), "maxclients": "50", "prefix": f"demo{each.port}_"}
    assert each.settings() == {**settings, "dir": f"{each.data}/db/"}
    assert each.conf.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in each.data.iterdir()} == {"conf", "db", "log", "dump", "dbsync"}
    assert {path.stat().st_mode & 0o777 for path in (each.data, *each.data.iterdir())} == {0o750}
    env = (each.top / f"etc/demo/{each.port}.env").read_text()
    assert env == f"CONF={each.conf}\nDATA={each.data}\nTREE={each.top}/opt/demo\n"
    # At the boot of a host without systemd its init calls this.
    boot = each.top / "etc/init.d/demo"
    assert (os.access(boot, os.X_OK), each.host.calls.count("update-rc.d demo defaults")) == (True, 1)
    for word, said in (("stop", f"instance {each.port} is stopped\n"), ("start", ""), ("start", "nothing to do\n")):
        done = each.host.run(str(boot), word)
        assert (done.returncode, done.stdout.endswith(said), done.stderr) == (0, True, ""), word
        # It does not wait for the answer.
        assert word == "stop" or each.host.lib(f"wait_healthy {each.port} 60").returncode == 0
        assert each.instance("start", "--dry-run").stdout.startswith(f"instance {each.port} runs") == (word != "stop")
    # Again: nothing changes.
    before, process = each.state(), each.process()
    done = each.deploy()
    said = f"deploy: instance {each.port} answers: nothing to do\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert (each.state(), each.process()) == (before, process)
    each.host.stub("getent", "exit 2")
    done = each.deploy("--no-start")
    said = f"deploy: instance {each.port} is set up: nothing to do\n"
    assert (done.returncode, done.stdout, "does not resolve" in done.stderr) == (0, said, True)
    done = each.instance("start")
    assert (done.returncode, done.stdout) == (0, f"instance {each.port} runs and answers: nothing to do\n")
    # A server that is killed is started again.
    os.kill(process, signal.SIGKILL)
    done = each.host.lib(
        f'until [ "$(service_pid {each.port})" != {process} ] && healthy {each.port}; do sleep 1; done'
    )
    assert done.returncode == 0, done.stderr
    done = each.instance("restart")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"instance {each.port} answers\n", "")
    for words in (f"instance {each.port} is stopped\n", f"instance {each.port} does not run: nothing to do\n"):
        done = each.instance("stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, words, "")
    assert each.instance("start").returncode == 0
    # Removed, with its data kept; deployed there again; removed with its data.
    (each.data / "db/1.sst").write_text("data")
    done = each.instance("remove")
    assert done.returncode == 0, done.stderr
    assert f"its data is kept in {each.data}" in done.stdout
    assert (each.data / "db/1.sst").read_text() == "data"
    assert not list((each.top / "etc").rglob(f"{each.port}*"))
    done = each.instance("remove")
    assert (done.returncode, "nothing to do" in done.stdout) == (0, True)
    assert (boot.exists(), each.host.calls[-1]) == (False, "update-rc.d demo remove")
    assert each.deploy().returncode == 0
    assert (each.data / "db/1.sst").exists()
    done = each.instance("remove", "--purge", "7")
    assert (done.returncode, "type the port again" in done.stderr, each.data.exists()) == (2, True, True)
    done = each.instance("remove", "--purge", str(each.port))
    assert (done.returncode, done.stderr, each.data.exists()) == (0, "", False)
    assert not list((each.top / "run").iterdir())


@pytest.mark.parametrize(
    ("behaviour", "words"), [("dies", "the instance has ended"), ("silent", "does not answer within")]
)
def test_a_server_that_does_not_serve_is_removed_again(each: Deployed, behaviour: str, words: str) -> None:
    before = each.state()
    done = each.deploy("--set", f"behaviour={behaviour}")
    assert done.returncode == 1
    assert words in done.stderr
    assert "  | demo: starts on" in done.stderr
    if behaviour == "dies":
        assert "  | demo: fatal: \\x1b[31mcannot go on\n" in done.stderr
    assert "deploy: error: not finished (see above); what it made is removed again" in done.stderr
    after = {name: value for name, value in each.state().items() if not name.startswith("var/log/")}
    assert after == before


def test_passwords(one: Deployed) -> None:
    file = one.top / "password"
    file.write_text("s3cret-of-9\n")
    done = one.deploy("--password-file", str(file))
    assert (done.returncode, "others can read" in done.stderr) == (1, True)
    file.chmod(0o600)
    for bad in ("short", "has blanks in it", "quote'quote'quote", "x" * 129, "a:b:c:d:e:f", ""):
        file.write_text(f"{bad}\n")
        assert one.deploy("--password-file", str(file)).returncode == 1, bad
    assert not one.conf.exists()
    file.write_text("s3cret-of-9\n")
    done = one.deploy("--password-file", str(file))
    assert done.returncode == 0, done.stderr
    assert one.settings()["requirepass"] == one.settings()["masterauth"] == "s3cret-of-9"
    file.write_text("other-one-10\n")
    done = one.deploy("--password-file", str(file))
    assert (done.returncode, f"hint: instance.sh {one.port} stop" in done.stderr) == (1, True)
    assert one.instance("stop").returncode == 0
    done = one.deploy("--password-file=password")
    assert done.returncode == 0, done.stderr
    assert "+requirepass : (not shown)" not in done.stdout
    assert one.settings()["requirepass"] == "other-one-10"
    spoken = "".join([done.stdout, done.stderr, *one.host.calls])
    assert "s3cret" not in spoken
    assert "other-one" not in spoken


def test_a_password_is_made(one: Deployed) -> None:
    file = one.top / "new"
    done = one.deploy("--password-file", str(file), "--set", "behaviour=dies")
    assert (done.returncode, file.exists()) == (1, False)
    done = one.deploy("--password-file", str(file))
    assert done.returncode == 0, done.stderr
    assert (file.stat().st_mode & 0o777, len(file.read_text())) == (0o600, 33)
    assert one.settings()["requirepass"] == file.read_text().strip()
    assert file.read_text().strip() not in done.stdout + done.stderr


HOSTILE: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), "usage"),
    (("7000",), "usage"),
    (("7000", "/data", "x"), "usage"),
    (("", "/data"), "must be a number"),
    (("http", "/data"), "must be a number"),
    (("0", "/data"), "must be a number"),
    (("010", "/data"), "must be a number"),
    (("0x10", "/data"), "must be a number"),
    (("7000.0", "/data"), "must be a number"),
    (("7 000", "/data"), "must be a number"),
    (("7000\n", "/data"), "must be a number"),
    (("+7000", "/data"), "must be a number"),
    (("\u0667\u0660", "/data"), "must be a number"),
    (("$(id)", "/data"), "must be a number"),
    (("99999999999999999999", "/data"), "must be a number"),
    (("65535", "/data"), "at most 63535"),
    (("63536", "/data"), "at most 63535"),
    (("-1", "/data"), "unknown argument"),
    (("7000", ""), "absolute path"),
    (("7000", "/"), "absolute path"),
    (("7000", "data"), "absolute path"),
    (("7000", "~/data"), "absolute path"),
    (("7000", "./data"), "absolute path"),
    (("7000", "//data"), "plain path"),
    (("7000", "/data/.."), "plain path"),
    (("7000", "/data/../etc"), "plain path"),
    (("7000", "/data/./x"), "plain path"),
    (("7000", "/da ta"), "plain path"),
    (("7000", "/da\tta"), "plain path"),
    (("7000", "/da\nta"), "plain path"),
    (("7000", "/da%ita"), "plain path"),
    (("7000", '/da"ta'), "plain path"),
    (("7000", "/da'ta"), "plain path"),
    (("7000", "/da\\ta"), "plain path"),
    (("7000", "/data$(touch /x)"), "plain path"),
    (("7000", "/data`id`"), "plain path"),
    (("7000", "/data;id"), "plain path"),
    (("7000", "/data|id"), "plain path"),
    (("7000", "/data&"), "plain path"),
    (("7000", "/data*"), "plain path"),
    (("7000", "/dätä"), "plain path"),
    (("7000", "/" + "x" * 250), "at most 200 letters"),
    (("7000", "/etc"), "folder of the system"),
    (("7000", "/etc/demo"), "folder of the system"),
    (("7000", "/usr/share"), "folder of the system"),
    (("7000", "/proc"), "folder of the system"),
    (("7000", "/dev/shm"), "folder of the system"),
    (("7000", "/run/demo"), "folder of the system"),
    (("7000", "/data", "--unknown"), "unknown argument"),
    (("7000", "/data", "-x"), "unknown argument"),
    (("7000", "/data", "--set"), "needs a value"),
    (("7000", "/data", "--set="), "needs a value"),
    (("7000", "/data", "--set", "x"), "needs KEY=VALUE"),
    (("7000", "/data", "--set", "=x"), "no name of a setting"),
    (("7000", "/data", "--set", "a b=x"), "no name of a setting"),
    (("7000", "/data", "--set", "#a=x"), "no name of a setting"),
    (("7000", "/data", "--set", "-a=x"), "no name of a setting"),
    (("7000", "/data", "--set", "a$(id)=x"), "no name of a setting"),
    (("7000", "/data", "--set", "a=x'y"), "not plain"),
    (("7000", "/data", "--set", 'a=x"y'), "not plain"),
    (("7000", "/data", "--set", "a=x\\y"), "not plain"),
    (("7000", "/data", "--set", "a=x\x1b[31m"), "not plain"),
    (("7000", "/data", "--set", "a=ä"), "not plain"),
    (("7000", "/data", "--set", "a=x\nb=y"), "more than one line"),
    (("7000", "/data", "--set", "port=1"), "set by PORT and BASE"),
    (("7000", "/data", "--set", "dir=/etc"), "set by PORT and BASE"),
    (("7000", "/data", "--set", "requirepass=x"), "is a password"),
    (("7000", "/data", "--set", "masterauth=x"), "is a password"),
    (("7000", "/data", "--set", "maxclients=many"), "must be a number"),
    (("7000", "/data", "--set", "maxclients=99999999"), "must be a number"),
    (("7000", "/data", "--from", "/nowhere"), "no file that can be read"),
    (("7000", "/data", "--from", "/etc"), "no file that can be read"),
    (("7000", "/data", "--from", "/bin/sh"), "no text"),
    (("7000", "/data", "--password-file", "/etc"), "no file that can be read"),
    (("7000", "/data", "--password-file", "/nowhere/x"), "no folder"),
    (("7000", "/data", "--password-file", "/etc/passwd"), "others can read"),
    (("7000", "/data", "--memory", "lots"), "memory"),
    (("7000", "/data", "--memory", "8GG"), "memory"),
    (("7000", "/data", "--memory", "-8G"), "memory"),
    (("7000", "/data", "--memory", "0"), "memory"),
)


def test_hostile_arguments(each: Deployed) -> None:
    before = each.state()
    for given, words in HOSTILE:
        argv = tuple(f"{each.top}/data" if word == "/data" else word for word in given)
        done = each.host.run("deploy.sh", *argv)
        assert done.returncode in (1, 2), argv
        assert words in done.stderr, (argv, done.stderr)
        assert done.stderr.startswith("deploy: error: "), (argv, done.stderr)
        assert "  hint: " in done.stderr or done.returncode == 1, (argv, done.stderr)
    assert each.state() == before
    assert len(HOSTILE) >= 60


def test_ports_in_use(each: Deployed) -> None:
    """By another program, on any of the three; and by another instance, also while that is stopped."""
    before = each.state()
    for offset in OFFSETS:
        with socket.create_server(("127.0.0.1", each.port + offset)):
            done = each.deploy()
            assert done.returncode == 1
            assert f"something listens on port {each.port + offset} already" in done.stderr
    assert each.state() == before
    each.host.add_instance(each.port)
    before = each.state()
    for offset in (-2000, -1000, 1000, 2000):
        done = each.deploy(port=each.port + offset)
        assert (done.returncode, f"is also one of instance {each.port}" in done.stderr) == (1, True), offset
    assert each.state() == before


def test_hosts_that_cannot_have_an_instance(one: Deployed) -> None:
    before = one.state()
    stat = (one.top / "bin/stat").read_text()
    cases = {
        "file system of the network": ("stat", stat.replace("echo ext2", "echo nfs")),
        "KiB of free space": ("df", "#!/bin/sh\necho x; echo / 1 1 100 1 /\n"),
        "own name, ": ("getent", "#!/bin/sh\nexit 2\n"),
        "do not run the program": ("", ""),
        "needs glibc 9.9": ("", ""),
        "cannot be written": ("", ""),
    }
    for words, (name, text) in cases.items():
        saved = (one.top / "bin" / name).read_text() if name else ""
        features, manifest = one.top / "opt/demo/utils/cpu-features", one.top / "opt/demo/manifest.json"
        if name:
            (one.top / "bin" / name).write_text(text)
        elif "run" in words:
            features.write_text("lm\nno_such_flag\n")
        elif "glibc" in words:
            manifest.write_text('{\n  "symbol_versions": {\n    "GLIBC": "9.9",\n    "GLIBCXX": "3"\n  }\n}\n')
        elif os.geteuid() == 0:
            continue
        else:
            (one.top / "data").chmod(0o500)
        done = one.deploy()
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        if name:
            (one.top / "bin" / name).write_text(saved)
        (one.top / "data").chmod(0o755)
        features.write_text("# CPU features in use, by the names of /proc/cpuinfo; read by cpu-gate.sh\nlm\n")
        manifest.unlink(missing_ok=True)
    assert one.state() == before


def test_an_upgrade_merges_the_configuration(each: Deployed) -> None:
    shipped = each.top / "opt/demo/conf/demo.conf"
    shipped.write_text(shipped.read_text() + "taken-out : 1\n")
    assert each.deploy("--set", "timeout=7").returncode == 0
    assert each.instance("stop").returncode == 0
    # A server that writes its file anew leaves out what has its default.
    each.conf.write_text(each.conf.read_text().replace("taken-out : 1\n", ""))
    shipped.write_text("# new words\nport : 1\nmaxclients : 99\nnew-key : 5\ntaken-out : 2\nrequirepass :\n")
    old = each.conf.read_text()
    done = each.deploy("--dry-run")
    assert "  +new-key : 5\n" in done.stdout
    assert each.conf.read_text() == old
    done = each.deploy()
    assert (done.returncode, done.stderr) == (0, "")
    assert "  +new-key : 5\n" in done.stdout
    assert each.conf.read_text().splitlines()[:5] == [
        "# new words", f"port : {each.port}", "maxclients : 500", "new-key : 5", "requirepass :",
    ]  # fmt: skip
    assert "taken-out" not in each.settings()
    assert each.settings()["timeout"] == "7"
    (kept,) = each.conf.parent.glob("demo.conf.2*")
    assert kept.read_text() == old
    before = each.state()
    assert each.deploy().returncode == 0
    assert each.state() == before


def test_clients_are_lowered_to_what_the_host_can_open(each: Deployed) -> None:
    """A hard limit that root cannot raise, as in a container."""
    need("prlimit", "setpriv")
    limited = ("prlimit", "--nofile=300:300", "setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    host = OperatedHost(top=each.top, words=(*(str(shutil.which(word) or word) for word in limited), *each.host.words))
    done = host.run("deploy.sh", str(each.port), f"{each.top}/data")
    assert done.returncode == 0, done.stderr
    assert "maxclients is lowered from 500 to 276: this host's hard limit of open files is 300" in done.stderr
    record = each.top / f"etc/demo/{each.port}.clients"
    assert (each.settings()["maxclients"], record.read_text()) == ("276", "500 500 276\n")
    done = host.run("deploy.sh", str(each.port), f"{each.top}/data")
    assert (done.stdout, done.stderr) == (f"deploy: instance {each.port} answers: nothing to do\n", "")
    # The limit was raised: so is the number again, unless it is what somebody has chosen since.
    for number, said, wanted in (("277", False, "277"), ("276", True, "500")):
        record.write_text("500 500 276\n")
        each.conf.write_text(each.conf.read_text().replace("maxclients : 27", f"maxclients : {number}\n# 27"))
        done = each.deploy()
        assert ("maxclients is raised again from 276 to 500: this host" in done.stdout) is said, done.stdout
        assert (done.returncode, done.stderr, each.settings()["maxclients"], record.exists()) == (0, "", wanted, False)
    # A plan of memory has lowered it: a larger one may raise it.
    for name, content in tables.of_parts(operate_of("main")).items():
        (each.top / "opt/demo" / name).parent.mkdir(exist_ok=True)
        (each.top / "opt/demo" / name).write_bytes(content)
    runs = [each.deploy("--no-start", *words).stdout for words in (("--memory", "284M"), (), ("--memory", "64G"))]
    assert ["maxclients is raised again from 200 to 500: the plan of memory and" in text for text in runs] == [
        False, False, True,
    ]  # fmt: skip
    assert each.settings()["maxclients"] == "500"


def test_pid_files_of_processes_that_are_gone(each: Deployed) -> None:
    """Only of such ones: a process of that name and this instance keeps its file."""
    assert each.deploy().returncode == 0
    pid = each.data / "dbsync/rsync.pid"
    sleeper = each.host.lib(f"cd {each.data}; sleep 60 >/dev/null 2>&1 & echo $!")
    process = int(sleeper.stdout)
    try:
        pid.write_text(f"{process}\n")
        assert each.instance("restart").returncode == 0
        assert pid.exists()
    finally:
        os.kill(process, signal.SIGKILL)
    for stale in (f"{process}\n", "1\n", "", "x y\n", "99999999999999999999\n", f"{os.getpid()}"):
        pid.write_text(stale)
        assert each.instance("restart").returncode == 0
        assert not pid.exists(), stale


def test_a_server_that_ignores_the_signal_is_killed(one: Deployed) -> None:
    product = one.top / "opt/demo/utils/lib/product.sh"
    product.write_text(product.read_text().replace("stop_seconds='20'", "stop_seconds='1'"))
    assert one.deploy("--set", "behaviour=hangs").returncode == 0
    process = one.process()
    assert one.instance("stop").returncode == 0
    assert not Path(f"/proc/{process}").exists()


def test_a_server_that_fails_again_and_again_is_left_alone(one: Deployed) -> None:
    run = one.top / "opt/demo/utils/run.sh"
    run.write_text(run.read_text().replace("pause=2", "pause=0"))
    assert one.deploy().returncode == 0
    one.instance("stop")
    one.conf.write_text(one.conf.read_text() + "behaviour : dies\n")
    done = one.instance("start")
    assert (done.returncode, "the instance has ended" in done.stderr) == (1, True)
    one.host.lib(f"while service_active {one.port}; do sleep 1; done")
    log = (one.top / f"var/log/demo/{one.port}.log").read_text()
    assert log.count("demo: fatal") == 5
    assert "it failed 5 times within 300 seconds, and is not started again" in log
