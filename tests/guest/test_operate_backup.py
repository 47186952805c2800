"""Backups and restore, with a server in this process that takes snapshots as it is told: whole, half, or never."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import SHELLS, need
from guest.operated_host import OperatedHost
from guest.resp_server import serving
from guest.watched_host import runs_as, watched_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="backups are root's")

OTHER_DISK = Path("/dev/shm")  # another file system than that of pytest


@dataclass(slots=True, kw_only=True)
class Server:
    """A server with keys, and snapshots as a test wants them."""

    keys: int = 5
    saving: list[str] = field(default_factory=list)
    """What INFO says of a snapshot under way, one reply after the other; then No."""
    save: Callable[[Path], None] | None = None
    """Makes a snapshot; None: there is none."""
    place: Path = Path()
    seen: list[str] = field(default_factory=list)

    def answer(self, words: list[str]) -> str | bytes:
        self.seen.append(" ".join(words))
        if words == ["BGSAVE"]:
            if self.save is not None:
                self.save(self.place)
            return b"+Background saving started\r\n"
        if words[:2] == ["INFO", "KEYSPACE"]:
            return f"# Keyspace\r\n# Time:x\r\ndb0 Strings_keys={self.keys}, expires=1, invaild_keys=7\r\n"
        state = self.saving.pop(0) if self.saving else "No"
        return f"is_bgsaving:{state}, , 0\r\nis_scaning_keyspace:No\r\nrole:master\r\n"


def whole(place: Path) -> None:
    """A snapshot as the server makes it: files, and last the one that says that it is whole."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "db0/strings").mkdir(parents=True)
    (place / "db0/strings/000001.sst").write_bytes(os.urandom(5000))
    (place / "db0/strings/CURRENT").write_text("MANIFEST-000001\n")
    (place / "db0/info").write_text("1s\n127.0.0.1\n7000\n0\n0\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance whose server is this process."""

    host: OperatedHost
    port: int
    data: Path
    server: Server

    def run(self, verb: str, *words: str) -> CompletedProcess[str]:
        return self.host.run("instance.sh", str(self.port), verb, *words)

    def backup(self, *words: str) -> Path:
        """Make a backup, which must succeed. Its folder."""
        done = self.run("backup", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return Path(done.stdout.partition(": ")[0])

    def refused(self, verb: str, *words: str) -> str:
        """What a verb says that must fail, and leave nothing."""
        before = sorted(self.data.rglob("*"))
        done = self.run(verb, *words)
        assert done.returncode == 1, done
        left = sorted(set(self.data.rglob("*")) - set(before))
        assert not [path for path in left if path != self.data / "backup" and self.data / "dump" not in path.parents]
        return done.stderr


@contextmanager
def instance(host: OperatedHost, server: Server) -> Iterator[Instance]:
    with serving(server.answer) as port:
        data = host.add_instance(port, "".join(f"{key}-path : DATA/{key}/\n" for key in ("log", "dump", "db")))
        conf = data / "conf/demo.conf"
        conf.write_text(conf.read_text().replace("DATA", str(data)) + f"dump-prefix : d{port}_\n")
        for name in ("log/log_db0", "dump", "db/db0"):
            (data / name).mkdir(parents=True)
        runs_as(host, port)
        server.place = data / f"dump/d{port}_{time.strftime('%Y%m%d')}"
        yield Instance(host=host, port=port, data=data, server=server)


@pytest.fixture(params=SHELLS, ids=str)
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instance]:
    need(SHELLS[request.param][0])
    with instance(watched_host(tmp_path, SHELLS[request.param]), Server(save=whole)) as found:
        yield found


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Instance]:
    """Under one shell."""
    with instance(watched_host(tmp_path, SHELLS["dash"]), Server(save=whole)) as found:
        yield found


def test_backups_have_names_of_their_own_and_the_last_are_kept(one: Instance) -> None:
    one.server.saving = ["Yes"]
    first = one.backup()
    assert re.fullmatch(rf"{one.port}-[0-9]{{8}}-[0-9]{{6}}", first.name)
    assert first.parent == one.data / "backup"
    assert one.server.seen.index("BGSAVE") > one.server.seen.index("INFO")
    facts = dict(line.split("=", 1) for line in (first / "backup.info").read_text().splitlines())
    assert (facts["product"], facts["keys_before"], facts["expires_after"]) == ("demo", "5", "1")
    table = first / "snapshot/db0/strings/000001.sst"
    assert table.stat().st_ino == (one.server.place / "db0/strings/000001.sst").stat().st_ino
    content = table.read_bytes()
    # The next one of the same day replaces the server's, and not the first backup.
    second = one.backup("--copy", "--sums")
    assert second != first
    assert table.read_bytes() == content
    copied = second / "snapshot/db0/strings/000001.sst"
    assert copied.stat().st_ino != (one.server.place / "db0/strings/000001.sst").stat().st_ino
    assert [line.split()[0] for line in one.run("backup", "--list").stdout.splitlines()] == [str(first), str(second)]
    third = one.backup("--keep", "2", "--no-count")
    assert sorted(path.name for path in (one.data / "backup").iterdir()) == [second.name, third.name]
    assert "keys_after=\n" in (third / "backup.info").read_text()
    # What another run has left goes, and what is not of this instance stays.
    for name in (f".{one.port}-20200101-000000.part", f"{one.port + 1}-20200101-000000", "notes"):
        (one.data / "backup" / name).mkdir()
    fourth = one.backup("--keep", "1")
    kept = sorted(path.name for path in (one.data / "backup").iterdir())
    assert kept == sorted([fourth.name, f"{one.port + 1}-20200101-000000", "notes"])


def half(place: Path) -> None:
    whole(place)
    (place / "db0/info").unlink()


def empty_end(place: Path) -> None:
    whole(place)
    (place / "db0/info").write_text("")


def link_inside(place: Path) -> None:
    whole(place)
    (place / "db0/strings/shadow").symlink_to("/etc/shadow")


def pipe_inside(place: Path) -> None:
    whole(place)
    os.mkfifo(place / "db0/pipe")


def odd_name(place: Path) -> None:
    whole(place)
    (place / "db0/a\nb").write_text("x")


def link_itself(place: Path) -> None:
    elsewhere = place.parents[3] / "secret"
    shutil.rmtree(elsewhere, ignore_errors=True)
    whole(elsewhere)
    place.symlink_to(elsewhere)


def link_above(place: Path) -> None:
    elsewhere = place.parents[3] / "secret"
    elsewhere.mkdir(exist_ok=True)
    place.parent.rmdir()
    place.parent.symlink_to(elsewhere)
    whole(place)


def old(place: Path) -> None:
    """None is made; there is one of before."""


@pytest.mark.parametrize("save", [half, empty_end, link_inside, pipe_inside, odd_name, link_itself, link_above, old])
def test_snapshots_that_are_not_whole(fast: Instance, save: Callable[[Path], None]) -> None:
    if save is old:
        whole(fast.server.place)
        for path in fast.server.place.rglob("*"):
            os.utime(path, (time.time() - 60, time.time() - 60))
    fast.server.save = save
    error = fast.refused("backup", "--no-count")
    assert error.startswith("backup: error: "), error
    assert not list((fast.data / "backup").iterdir())
    # The next one works.
    fast.server.save = whole
    if fast.server.place.parent.is_symlink():
        fast.server.place.parent.unlink()
    elif fast.server.place.is_symlink():
        fast.server.place.unlink()
    assert fast.backup()


def test_snapshots_that_do_not_end(fast: Instance) -> None:
    fast.server.saving = ["Yes"] * 10
    assert "has not ended within 1 s" in fast.refused("backup", "--no-count", "--wait", "1")
    assert "BGSAVE" not in fast.server.seen
    fast.server.saving = ["No", *["Yes"] * 10]
    assert "the snapshot has not ended within 1 s" in fast.refused("backup", "--no-count", "--wait", "1")


def test_places_that_others_can_change(fast: Instance) -> None:
    place = fast.host.folder("backups")
    place.chmod(0o777)
    assert "can be written by others" in fast.refused("backup", "--to", str(place))
    place.chmod(0o755)
    os.chown(place, 12345, 0)
    assert "is not root's" in fast.refused("backup", "--to", str(place))
    os.chown(place, 0, 0)
    link = fast.host.top / "link"
    link.symlink_to(place)
    assert "symbolic link" in fast.refused("backup", "--to", str(link))
    assert fast.backup("--to", str(place)).parent == place
    assert "BGSAVE" in fast.server.seen


def test_one_backup_at_a_time(fast: Instance) -> None:
    lock = fast.host.top / f"run/demo-{fast.port}.lock"
    began = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    lock.symlink_to(f"{os.getppid()}-{began}")
    assert "works on" in fast.refused("backup")


def test_the_hook_gets_the_backup(fast: Instance) -> None:
    hook = fast.host.top / "hook"
    hook.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"${0%/*}/got"\nexit 3\n')
    hook.chmod(0o755)
    done = fast.run("backup", "--hook", str(hook))
    assert (done.returncode, "has failed with status 3" in done.stderr) == (1, True)
    made = Path(done.stdout.partition(": ")[0])
    assert (fast.host.top / "got").read_text() == f"{made}\n"
    assert (made / "backup.info").exists()
    # One that stands where it is looked for is run without being named.
    (fast.host.top / "etc/demo/backup-hook").write_text('#!/bin/sh\necho "took ${1##*/}"\n')
    (fast.host.top / "etc/demo/backup-hook").chmod(0o755)
    done = fast.run("backup")
    assert re.search(rf"^took {fast.port}-[0-9]+-[0-9]+$", done.stdout, re.MULTILINE)


def stopped(one: Instance, port: int = 7000) -> Path:
    """Another instance, stopped, with data of its own. Its folder."""
    data = one.host.add_instance(port, (one.data / "conf/demo.conf").read_text().replace(str(one.port), str(port)))
    for name, text in {"db/db0/strings/old.sst": "old", "log/log_db0/write2file0": "old", "dump/x": ""}.items():
        (data / name).parent.mkdir(parents=True)
        (data / name).write_text(text)
    return data


def tree(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def test_restore_refuses_before_it_changes_anything(fast: Instance) -> None:
    made = fast.backup("--sums", "--copy")
    data = stopped(fast)
    before = tree(data)

    def refused(backup: Path | str) -> str:
        done = fast.host.run("instance.sh", "7000", "restore", str(backup))
        assert (done.returncode, tree(data)) == (1, before), backup
        return done.stderr

    assert "there is no backup" in refused("nothing")
    assert "plain path" in refused("../../etc")
    damages: dict[str, Callable[[Path], object]] = {
        "backup.info, backup.files or snapshot/ is missing": lambda copy: (copy / "backup.info").unlink(),
        "not those of backup.files": lambda copy: (copy / "snapshot/db0/strings/CURRENT").write_text(
            "longer than it was"
        ),
        "have other sums": lambda copy: (copy / "snapshot/db0/strings/CURRENT").write_text("MANIFEST-000002\n"),
        "not part of a snapshot": lambda copy: (copy / "snapshot/db0/x").symlink_to("/etc/shadow"),
        "no backup of demo": lambda copy: (copy / "backup.info").write_text("product=other\n"),
    }
    for number, (words, damage) in enumerate(damages.items()):
        copy = fast.host.top / f"copy{number}"
        shutil.copytree(made, copy)
        damage(copy)
        assert words in refused(copy)
    conf = data / "conf/demo.conf"
    text = conf.read_text()
    for line, words in {
        "slaveof : 192.0.2.1:9221\n": "is a replica",
        "db-path : /etc/\n": "is not in",
        "db-path : x\n": "absolute",
    }.items():
        conf.write_text(text + line)
        before = tree(data)
        assert words in refused(made), line
    # One that runs, and has keys.
    assert "runs, and has 5 keys" in fast.refused("restore", str(made))


def test_restore_into_a_stopped_instance_and_back(one: Instance) -> None:
    """The new server never answers here, so what was there before comes back; tests with real servers see it answer."""
    made = one.backup()
    data = stopped(one)
    before = tree(data)
    # The new one has begun to write before it ends.
    log = data / "log/log_db0"
    (one.host.top / "opt/demo/utils/run.sh").write_text(f"#!/bin/sh\nmkdir -p {log} && echo new >{log}/write2file0\n")
    done = one.host.run("instance.sh", "7000", "restore", str(made), "--dry-run")
    assert (done.returncode, tree(data)) == (0, before)
    done = one.host.run("instance.sh", "7000", "restore", str(made))
    assert done.returncode == 1
    assert "the instance has its data of before" in done.stderr
    assert tree(data) == before
    assert sorted(path.name for path in data.iterdir()) == ["conf", "db", "dump", "log"]


def test_copies_need_room(fast: Instance) -> None:
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == fast.data.stat().st_dev:
        pytest.skip("there is no other file system")
    other = OTHER_DISK / f"pikaforge-test-{os.getpid()}"
    try:
        made = fast.backup("--to", str(other))
        assert made.parent == other
        assert "copied" in fast.run("backup", "--to", str(other)).stdout
        fast.host.stub("df", 'printf "x\\nd 1 1 1 1 /\\n"')
        error = fast.refused("backup", "--to", str(other), "--no-count")
        assert "has room for 0M" in error
        assert len(list(other.iterdir())) == 2
    finally:
        shutil.rmtree(other, ignore_errors=True)
