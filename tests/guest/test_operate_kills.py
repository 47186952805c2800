"""backup, restore and rollback are killed at each of their steps, and run again: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import thorough
from guest.helpers import SHELLS
from guest.operated_host import OperatedHost
from guest.resp_server import serving
from guest.test_operate_backup import Server, whole
from guest.watched_host import watched_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="backups and trees are root's")

STEPS = ("mv", "rm", "mkdir", "cp", "ln", "mktemp", "dd", "systemctl")
"""Programs that change something. A run is killed before each call of one, unless there is nothing to change."""
STEP = """\
#!/bin/sh
changes=no
case ${0##*/} in
rm) for word; do if [ -e "$word" ] || [ -L "$word" ]; then changes=yes; fi; done ;;
systemctl) case $1 in start | stop | restart) changes=yes ;; esac ;;
*) changes=yes ;;
esac
[ $changes = yes ] || exec @REAL@ "$@"
read -r n <"$COUNT"
echo $((n + 1)) >"$COUNT"
[ "$n" != "$AT" ] || kill -"$SIGNAL" 0
exec @REAL@ "$@"
"""
"""0 is the process group of the script."""
SYSTEMCTL = """\
active=@TOP@/run/active
case $* in
"start "* | "restart "*) sed -n s/^TREE=//p @TOP@/etc/demo/[0-9]*.env >@TOP@/run/tree && : >"$active" ;;
"stop "*) rm -f "$active" ;;
"show -p MainPID "*) if [ -f "$active" ]; then echo MainPID=@PID@; else echo MainPID=0; fi ;;
"show -p ActiveState "*) if [ -f "$active" ]; then echo ActiveState=active; else echo ActiveState=inactive; fi ;;
esac"""
READLINK = 'case $1 in */exe) echo "$(cat @TOP@/run/tree)/bin/demo" ;; *) exec /usr/bin/readlink "$@" ;; esac'
"""The program of a process is that of the tree with which the service was started."""
NEVER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine on which a verb can be killed; its systemd is a stand-in, its server is in this process."""

    host: OperatedHost
    port: int
    data: Path
    server: Server
    saved: dict[str, Path] = field(default_factory=dict)

    @property
    def etc(self) -> Path:
        return self.host.top / "etc/demo"

    def run(self, *words: str, at: int = NEVER, signal: str = "KILL") -> tuple[int, str]:
        """Run a verb until its end, or until it is killed before a call; exit status and both outputs."""
        count = self.host.top / "count"
        count.write_text("0\n")
        path = f"{self.host.top}/steps:{self.host.top}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        with subprocess.Popen(
            [*self.host.words, str(self.host.top / "opt/demo/utils/instance.sh"), str(self.port), *words],
            env=self.host.env(PATH=path, COUNT=str(count), AT=str(at), SIGNAL=signal),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def keep(self) -> None:
        """Keep all files, for `reset`."""
        for name in ("data", "etc", "opt", "run"):
            shutil.copytree(self.host.top / name, self.host.top / "kept" / name, symlinks=True)

    def reset(self) -> None:
        for name in ("data", "etc", "opt", "run"):
            shutil.rmtree(self.host.top / name)
            shutil.copytree(self.host.top / "kept" / name, self.host.top / name, symlinks=True)

    def kills(self, *words: str, signal: str = "KILL") -> Iterator[int]:
        """Kill the verb before its first call, before its second, and so on; the last run is not killed."""
        for at in range(200):
            status, said = self.run(*words, at=at, signal=signal)
            yield at
            if status not in (-9, 143):
                assert (status, at > 5) == (0, True), said
                return
        pytest.fail("it has no end")

    def left(self) -> list[str]:
        """What a verb may not leave: locks, temporary folders, files that were written beside."""
        odd = [path for path in (self.host.top / "run").iterdir() if path.name not in ("systemd", "active", "tree")]
        odd += [path for name in ("etc", "opt", "data") for path in (self.host.top / name).rglob("*.new*")]
        odd += [path for path in self.etc.iterdir() if path.name.endswith((".restore", ".next"))]
        odd += self.data.rglob(".*")
        return [str(path.relative_to(self.host.top)) for path in odd]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    host, server = watched_host(tmp_path, SHELLS["dash"]), Server(save=whole)
    with serving(server.answer) as port:
        data = host.add_instance(port, "".join(f"{key}-path : DATA/{key}/\n" for key in ("log", "dump", "db")))
        conf = data / "conf/demo.conf"
        conf.write_text(conf.read_text().replace("DATA", str(data)) + f"dump-prefix : d{port}_\n")
        (data / "dump").mkdir()
        server.place = data / "dump" / f"d{port}_{time.strftime('%Y%m%d')}"
        host.folder("run/systemd/system")
        for name, body in {"systemctl": SYSTEMCTL, "readlink": READLINK, "journalctl": "exit 0"}.items():
            host.stub(name, body.replace("@TOP@", str(tmp_path)).replace("@PID@", str(os.getpid())))
        for name in STEPS:
            real = shutil.which(name, path=f"{tmp_path}/bin:/usr/bin:/bin")
            step = host.folder("steps") / name
            step.write_text(STEP.replace("@REAL@", str(real)))
            step.chmod(0o755)
        yield Machine(host=host, port=port, data=data, server=server)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sizes(folder: Path) -> list[str]:
    """What backup.files should say."""
    found = [(f"./{path.relative_to(folder)}", path.stat().st_size) for path in folder.rglob("*") if path.is_file()]
    return [f"{size} {name}" for name, size in sorted(found)]


def test_a_backup_that_is_killed_is_none(machine: Machine) -> None:
    folder = machine.data / "backup"
    for at in machine.kills("backup", "--keep", "2", "--copy", "--no-count"):
        for made in folder.glob(f"{machine.port}-*"):
            listed = (made / "backup.files").read_text().splitlines()
            assert (listed, (made / "backup.info").read_text() != "") == (sizes(made / "snapshot"), True), at
        status, said = machine.run("backup", "--keep", "2", "--no-count")
        assert status == 0, f"{at}: {said}"
        names = [path.name for path in folder.iterdir()]
        assert (len(names), [name for name in names if name.startswith(".")]) == (min(at + 1, 2), []), at
        assert machine.left() == [], at


def db_of(snapshot: Path) -> dict[str, bytes]:
    """What the server has of a snapshot."""
    return {name: content for name, content in files(snapshot / "db0").items() if name != "info"}


def with_backup(machine: Machine, *, data: bool) -> Path:
    """Let there be a backup and, or not, other data. Return the backup."""
    for folder, name in ((machine.data / "db/db0", "old.sst"), (machine.data / "log/log_db0", "write2file0")):
        (folder if data else folder.parent).mkdir(parents=True)
        if data:
            (folder / name).write_text("old")
    backups = machine.host.top / "backups"
    assert machine.run("backup", "--to", str(backups), "--no-count")[0] == 0
    (made,) = backups.iterdir()
    machine.keep()
    return made


@pytest.mark.parametrize("had", ["data", "nothing"])
def test_a_restore_that_is_killed_goes_on_or_begins_anew(machine: Machine, had: str) -> None:
    host, data, port = machine.host, machine.data, machine.port
    made = with_backup(machine, data=had == "data")
    db, snapshot = data / "db/db0", made / "snapshot"
    old = {"1": files(db), "2": files(data / "log/log_db0")} if had == "data" else {}
    for at in machine.kills("restore", str(made)):
        before = files(data)
        asides = list(data.glob("aside-*"))
        if had == "data":
            kept = [content for name, content in before.items() if name.endswith(("old.sst", "write2file0"))]
            assert kept == [b"old", b"old"], at
        record = machine.etc / f"{port}.restore"
        if (record / "had").exists() and not (record / "placed").exists():
            # Its unit does not start it with half of its data; nor is it forgotten.
            done = host.run("run.sh", str(port), FAKE_UID="1000")
            assert (done.returncode, "restore of instance" in done.stderr) == (78, True), done
            assert machine.run("remove")[0] == 1
        status, said = machine.run("restore", str(made))
        if not record.exists() and (host.top / "run/active").exists() and status == 1:
            assert "runs, and has" in said, f"{at}: {said}"
        else:
            assert status == 0, f"{at}: {said}"
        assert (files(db), (host.top / "run/active").exists()) == (db_of(snapshot), True), f"{at}: {asides}"
        found = {path.name: files(path) for aside in data.glob("aside-*") for path in aside.iterdir() if path.is_dir()}
        assert (found, len(list(data.glob("aside-*")))) == (old, len(old) // 2), f"{at}: {said}"
        assert machine.left() == [], at
        machine.reset()


def test_a_restore_that_is_asked_to_end_puts_back_what_was(machine: Machine) -> None:
    made = with_backup(machine, data=True)
    before = files(machine.data)
    for at in machine.kills("restore", str(made), signal="TERM"):
        if not list(machine.data.glob("aside-*/places")):  # else it serves
            assert not (machine.host.top / "run/active").exists()
            assert (files(machine.data), machine.left()) == (before, []), at


def test_what_an_interrupted_restore_has_put_in_place_is_kept(machine: Machine) -> None:
    """Another backup is asked for: it may have been written to since."""
    made, db = with_backup(machine, data=True), machine.data / "db/db0"
    (db / "old.sst").write_text("restored, and written to")
    placed, record = files(db), machine.etc / f"{machine.port}.restore"
    (machine.data / "aside-20260101-000000/1").mkdir(parents=True)
    (machine.data / "aside-20260101-000000/1/old.sst").write_text("of before")
    record.mkdir()
    facts = {
        "from": "/another",
        "aside": f"{machine.data}/aside-20260101-000000",
        "ran": "no",
        "had": "1",
        "placed": "",
    }
    for name, fact in {**facts, "places": f"{db}"}.items():
        (record / name).write_text(f"{fact}\n")
    status, said = machine.run("restore", str(made))
    assert (status, "is in " + facts["aside"] in said, files(db)) == (0, True, db_of(made / "snapshot")), said
    first, second = sorted(machine.data.glob("aside-*"))
    assert (files(first / "1"), files(second / "1")) == ({"old.sst": b"of before"}, placed)
    assert machine.left() == []


def versions(machine: Machine) -> Callable[[], dict[str, str]]:
    """Let the instance be upgraded; how to find what it is."""
    top, etc, port = machine.host.top, machine.etc, machine.port
    first, second = (top / f"opt/demo-v1.0-{release}-R620" for release in "12")
    (top / "opt/demo").rename(first)
    shutil.copytree(first, second)
    facts = second / "utils/lib/product.sh"
    facts.write_text(facts.read_text().replace("release='1'", "release='2'"))
    (second / "conf/demo.conf").write_text("# second\nport : 1\nnew-key : 5\n")
    record = etc / f"{port}.before"
    record.mkdir()
    conf, unit = machine.data / "conf/demo.conf", top / "etc/systemd/system/demo@.service"
    units = [f"ExecStart={tree}/utils/run.sh %i\n" for tree in (first, second)]
    (record / "demo@.service").write_text(units[0])
    unit.write_text(units[1])
    shipped = [(tree / "conf/demo.conf").read_text() for tree in (first, second)]
    (record / f"{port}.shipped").write_text(shipped[0])
    (etc / f"{port}.shipped").write_text(shipped[1])
    (record / "conf").write_text(conf.read_text())
    conf.write_text(conf.read_text() + "new-key : 5\n")
    (record / "conf.after").write_text(conf.read_text())
    (record / "tree").write_text(f"{first}\n")
    (record / "to").write_text(f"{second}\n")
    env = etc / f"{port}.env"
    env.write_text(env.read_text().replace(f"TREE={top}/opt/demo", f"TREE={second}"))
    (top / "opt/demo").symlink_to(second)
    (top / "run/tree").write_text(f"{second}\n")
    (top / "run/active").touch()

    def state() -> dict[str, str]:
        return {
            "unit": unit.read_text().partition("=")[2].partition("/utils")[0],
            "tree": env.read_text().rpartition("TREE=")[2].strip(),
            "link": str((top / "opt/demo").readlink()),
            "runs": (top / "run/tree").read_text().strip() if (top / "run/active").exists() else "",
            "key": "" if "new-key" not in conf.read_text() else "new-key",
            "shipped": "first" if (etc / f"{port}.shipped").read_text() == shipped[0] else "second",
        }

    return state


UNCHANGED = pytest.param(False, marks=pytest.mark.thorough(thorough.whole("failures")))


@pytest.mark.parametrize("changed", [UNCHANGED, True])
def test_a_rollback_that_is_killed_is_run_again(machine: Machine, changed: bool) -> None:
    first = f"{machine.host.top}/opt/demo-v1.0-1-R620"
    state = versions(machine)
    if changed:
        conf = machine.data / "conf/demo.conf"
        conf.write_text(conf.read_text() + "timeout : 7\n")
    machine.keep()
    wanted = {"unit": first, "tree": first, "link": first, "runs": first, "key": "", "shipped": "first"}
    for at in machine.kills("rollback"):
        status, said = machine.run("rollback")
        assert (status, state()) == (0, wanted), f"{at}: {said}"
        assert ("timeout : 7\n" in (machine.data / "conf/demo.conf").read_text()) is changed, at
        assert machine.left() == [], at
        assert not (machine.etc / f"{machine.port}.before").exists(), at
        machine.reset()


def test_a_rollback_after_a_killed_upgrade_removes_the_tree_of_the_upgrade(machine: Machine) -> None:
    first, second = (machine.host.top / f"opt/demo-v1.0-{release}-R620" for release in "12")
    state = versions(machine)
    record = machine.etc / f"{machine.port}.before"
    (record / "fresh").write_text(f"{second}\n")
    record.rename(machine.etc / f"{machine.port}.next")
    status, said = machine.run("rollback")
    assert (status, state()["runs"]) == (0, str(first)), said
    assert f"{second}, which was unpacked for this, is removed again" in said
    assert (first.exists(), second.exists()) == (True, False)
