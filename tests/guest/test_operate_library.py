"""The library of the scripts on hosts: arguments, files, locks, and what is printed, under each shell."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guest.helpers import SHELLS, clean_env, need, sh
from guest.operated_host import OperatedHost, operated_host

ASSETS = Path(__file__).resolve().parents[2] / "build/pikaforge/operate/assets"


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> OperatedHost:
    need(SHELLS[request.param][0])
    return operated_host(tmp_path, SHELLS[request.param])


@pytest.mark.parametrize("path", sorted([*ASSETS.glob("*.sh"), *ASSETS.glob("lib/*.*sh")]), ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    need("shellcheck")
    shell = "bash" if path.suffix == ".bash" else "sh"
    done = sh("shellcheck", "-s", shell, path, env=clean_env())
    assert done.stdout == ""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not any("eval" in line.split() for line in lines)


CONTROLS = "a\\033[31mred\\007 \\302\\233x \\303\\244 \\303\\233 \\360\\237\\230\\200\\ttab "
SHOWN = "a\\x1b[31mred\\x07 \\xc2\\x9bx ä Û \N{GRINNING FACE}\ttab "
RAW = {
    "\\2331m": "\\x9b1m",
    "\\300\\233": "\\xc0\\x9b",
    "\\340\\202\\233": "\\xe0\\x82\\x9b",
    "\\355\\240\\200": "\\xed\\xa0\\x80",
    "\\364\\220\\200\\200": "\\xf4\\x90\\x80\\x80",
    "\\342\\202": "\\xe2\\x82",
}
"""Bytes that a terminal might take for a control, or for the beginning of one: none is a character of UTF-8."""


def test_what_is_printed_controls_no_terminal(host: OperatedHost) -> None:
    given, shown = (text + " ".join(part) for text, part in ((CONTROLS, RAW), (SHOWN, RAW.values())))
    code = f"printf '{given}\\n' | printable; say \"$(printf '{given}')\""
    if "busybox" in host.words[0]:
        code = f'mkdir own; ln -s "$(command -v busybox)" own/awk; PATH=$PWD/own:$PATH; {code}'
    done = host.lib(code)
    assert (done.stdout, done.stderr) == (f"{shown}\n" * 2, "")
    done = host.lib("tool=demo; die \"$(printf 'no \\033]0;x\\007')\" 'do this'")
    assert (done.returncode, done.stderr) == (1, "demo: error: no \\x1b]0;x\\x07\n  hint: do this\n")


PORTS = ["", "0", "-1", "010", "7000x", "63536", "99999999999999999999", "7 0", "$(id)", "../7000", "7000\n7001"]


def test_hostile_ports(host: OperatedHost) -> None:
    for port in PORTS:
        done = host.run("instance.sh", port, "start")
        assert done.returncode == 2, port
        done = host.run("run.sh", port)
        assert done.returncode == 2, port
    done = host.run("instance.sh", "7000", "start")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1, "start: error: there is no instance 7000 of demo on this host",
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["", "START", "../run", "st*rt", "fly", "$(id)"])
def test_hostile_verbs(host: OperatedHost, verb: str) -> None:
    done = host.run("instance.sh", "7000", verb)
    assert done.returncode == 2
    assert "start" in done.stderr.splitlines()[-1]


def test_help_names_each_verb(host: OperatedHost) -> None:
    done = host.run("instance.sh", "--help")
    assert done.returncode == 0
    host.add_instance()
    for verb in sorted(ASSETS.glob("lib/verb-*.sh")):
        name = verb.stem.removeprefix("verb-")
        assert f"  {name} " in done.stdout
        words = ("list",) if name == "list" else ("7000", name)
        wrong = host.run("instance.sh", *words, "--no-such-thing")
        hint = "instance.sh list" if name == "list" else f"instance.sh PORT {name}"
        assert (wrong.returncode, f"  hint: {hint} --help\n" in wrong.stderr) == (2, True) or name == "check"
        help_ = host.run("instance.sh", *words, "--help")
        assert (help_.returncode, help_.stderr) == (0, "")
        assert "usage: " in help_.stdout


def test_instances_and_their_files(host: OperatedHost) -> None:
    for port in (7100, 7000, 10000):
        host.add_instance(port)
    (host.top / "etc/demo/other.env").write_text("")
    (host.top / "etc/demo/010.env").write_text("")
    assert host.lib("instances").stdout == "7000\n7100\n10000\n"
    env = host.top / "etc/demo/7000.env"
    # As packages before `operate` wrote it; what is in it is never run.
    env.write_text(f"CONF={host.top}/data/demo_7000/conf/demo.conf\nX=$(touch {host.top}/hit)\n")
    done = host.lib('load_instance 7000; echo "$conf $data $tree"')
    assert done.stdout == f"{host.top}/data/demo_7000/conf/demo.conf {host.top}/data/demo_7000 {host.top}/opt/demo\n"
    for line in ("CONF=/x;y", "CONF=../x", "CONF=", "CONF=/a b", f"CONF=/x\nDATA=$(touch {host.top}/hit)"):
        env.write_text(f"{line}\n")
        assert host.lib("load_instance 7000").returncode == 1, line
    assert not (host.top / "hit").exists()


def test_settings_of_a_conf(host: OperatedHost) -> None:
    conf = host.top / "demo.conf"
    conf.write_text('# key : no\n  key : first\nkey:last : x  \r\nkeys : other\nquoted : "a b"\nempty :\n')
    for key, value in {
        "key": "last : x",
        "keys": "other",
        "quoted": "a b",
        "empty": "",
        "absent": "",
        "k.y": "",
    }.items():
        assert host.lib(f"conf_get {conf} '{key}'").stdout == f"{value}\n", key
    conf.chmod(0o640)
    host.lib(f"conf_put {conf} key 'back\\\\slash & {{x}} : y'; conf_put {conf} new 5")
    assert conf.read_text().splitlines() == [
        "# key : no", "key : back\\\\slash & {x} : y", "keys : other", 'quoted : "a b"', "empty :", "new : 5",
    ]  # fmt: skip
    assert conf.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (host.top / "run").iterdir()) == []


def test_a_full_disk_leaves_the_conf_as_it_was(host: OperatedHost) -> None:
    conf = host.top / "demo.conf"
    conf.write_text("key : old\n")
    host.stub("setpriv", 'cat >/dev/null; echo "No space left on device" >&2; exit 1')
    done = host.lib(f"conf_put {conf} key new || echo failed")
    assert done.stdout == "failed\n"
    assert conf.read_text() == "key : old\n"


def test_a_lock_is_of_one_process_that_lives(host: OperatedHost) -> None:
    lock = host.top / "run/demo-7000.lock"
    done = host.lib(f"locked 7000; locked 7000; readlink {lock}; set +e; sh -c 'exit 3'; exit 3")
    assert done.returncode == 3
    assert done.stdout.split("-")[0].isdigit()
    assert not lock.is_symlink()
    # That of a process that is gone is taken over; so is that of a process with the same number that began later.
    for owner in ("4194399-5", "1-0"):
        lock.symlink_to(owner)
        assert host.lib("locked 7000").returncode == 0
        assert not lock.is_symlink()
    began = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    lock.symlink_to(f"1-{began}")
    done = host.lib("locked 7000")
    assert (done.returncode, "another command (process 1) works on 7000 of demo" in done.stderr) == (1, True)
    assert lock.is_symlink()


@contextmanager
def answering(*replies: bytes, password: str = "") -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives one reply to each connection, after `+OK` where it was given a password; its port."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(20)
                    seen.append(connection.recv(65536))
                    connection.sendall((b"+OK\r\n" if password else b"") + reply)
                    if not reply:
                        connection.recv(1)  # until the other side has waited long enough

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], seen
        thread.join()


REPLIES: dict[str, tuple[bytes, int, str, str]] = {
    "simple": (b"+PONG\r\n", 0, "PONG\n", ""),
    "number": (b":42\r\n", 0, "42\n", ""),
    "text": (b"$11\r\nrole:a\r\nx:y\r\n", 0, "role:a\nx:y\n", ""),
    "empty": (b"$0\r\n\r\n", 0, "\n", ""),
    "nil": (b"$-1\r\n", 0, "", ""),
    "array": (b"*3\r\n$1\r\na\r\n:2\r\n$2\r\nbc\r\n", 0, "a\n2\nbc\n", ""),
    "error": (b"-ERR no\x9b\x1b\r\n", 1, "", "ERR no??\n"),
    "no-protocol": (b"HTTP/1.1 400\r\n", 3, "", ""),
    "too-long": (b"$999999999\r\n", 3, "", ""),
    "endless-arrays": (b"*1\r\n" * 100, 3, "", ""),
    "cut": (b"$10\r\nabc", 3, "", ""),
    "late": (b"", 3, "", ""),
}


def test_replies(host: OperatedHost) -> None:
    need("bash")
    with answering(*(reply for reply, *_ in REPLIES.values())) as (port, _):
        host.add_instance(port)
        for name, (_, status, out, err) in REPLIES.items():
            seconds = 1 if status == 3 else 30  # of those that never end the reply is waited for
            done = host.lib(f"ask_seconds={seconds}; ask {port} GET 'a b'")
            assert (done.returncode, done.stdout, done.stderr) == (status, out, err), name
    assert host.lib(f"ask {port} PING").returncode == 2


def test_a_password_is_seen_by_the_server_alone(host: OperatedHost) -> None:
    need("bash")
    with answering(b"+PONG\r\n", b"+PONG\r\n", password="s3cret") as (port, seen):
        host.add_instance(port, f"port : {port}\nrequirepass : s3cret\n")
        real = 'exec /bin/bash "$@"'
        host.stub("bash", f'env >>"$SPY"\n{real}')
        assert host.lib(f"ask {port} GET ä").stdout == "PONG\n"
        assert seen == [b"*2\r\n$4\r\nAUTH\r\n$6\r\ns3cret\r\n*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n"]
        assert host.lib(f"healthy {port}").returncode == 0
    assert host.calls
    assert not [call for call in host.calls if "s3cret" in call]


def test_nc_where_there_is_no_bash(host: OperatedHost) -> None:
    """A host without bash: busybox's nc."""
    need("busybox")
    (host.top / "bin/nc").symlink_to("/bin/busybox" if Path("/bin/busybox").exists() else "/usr/bin/busybox")
    replies = {name: REPLIES[name] for name in ("simple", "number", "text", "array", "error")}
    with answering(*(reply for reply, *_ in replies.values())) as (port, _):
        host.add_instance(port)
        for name, (_, status, out, err) in replies.items():
            done = host.lib(f"ask_seconds=1; request GET x | through_nc 127.0.0.1 {port} 1")
            assert (done.returncode, done.stdout, done.stderr) == (status, out, err), name
