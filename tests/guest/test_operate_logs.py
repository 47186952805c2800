"""Log files that expire, among binlogs and others that never do: by the verb, and by rules for systemd-tmpfiles."""

from __future__ import annotations

import fnmatch
import os
import shutil
import time
from pathlib import Path

import pytest
from guest.helpers import SHELLS, clean_env, need, sh
from guest.operated_host import OperatedHost
from guest.watched_host import attempt, lines, operate_of, watched_host

DAY = 86400
OLD = {  # as glog names them: PROGRAM.HOST.USER.log.SEVERITY.DATE-TIME.PROCESS
    "pika.host.pika.log.INFO.20240101-000000.1",
    "pika.HOST.example.org.pika.log.WARNING.20240101-000000.77",
    "pika.h.u.log.ERROR.20240101-000000.4194304",
    "pika.a b.u.log.FATAL.20240101-000000.5",
}
CURRENT = "pika.host.pika.log.ERROR.20240102-000000.9"
"""The server has it open, and has logged no error for long."""
NEVER = {
    *("write2file0", "write2file4294967295", "manifest", "log_db0/write2file12", "log_db0/manifest", "log_db1/pika.x"),
    *("pika", "pik", "pika_", "pikax.host.pika.log.INFO.20240101-000000.1", "Pika.h.u.log.INFO.20240101-000000.1"),
    *(".pika.h.u.log.INFO.20240101-000000.1", "x.pika.h.u.log.INFO.20240101-000000.1", "p", "slow.log", "binlog"),
}
"""Old, too, and none of the server's log files."""
YOUNG = "pika.host.pika.log.INFO.20240103-000000.9"


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> OperatedHost:
    need(SHELLS[request.param][0])
    return watched_host(tmp_path, SHELLS[request.param])


def with_files(host: OperatedHost, port: int = 7000) -> Path:
    """An instance with files of every kind, all of them 30 days old but for one. Its log folder."""
    data = host.add_instance(port, f"log-path : {host.top}/data/demo_{port}/log/\n")
    log = data / "log"
    for name in (*OLD, *NEVER, CURRENT, YOUNG):
        path = log / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (log / "pika.ERROR").symlink_to(CURRENT)
    (log / "pika.INFO").symlink_to(YOUNG)
    (log / "pika.h.u.log.INFO.20240101-000000.8").symlink_to("write2file0")
    (log / "pika.h.u.log.INFO.20240101-000000.6").mkdir()
    then = time.time() - 30 * DAY
    for path in sorted(log.rglob("*"), reverse=True):
        if path.name != YOUNG:
            os.utime(path, (then, then), follow_symlinks=False)
    return log


def names(log: Path) -> set[str]:
    return {str(path.relative_to(log)) for path in log.rglob("*") if path.is_file() and not path.is_symlink()}


def test_old_log_files_go_and_nothing_else(host: OperatedHost) -> None:
    log = with_files(host)
    before = names(log)
    done = host.run("instance.sh", "7000", "logs", "--expire", "--days", "31")
    assert (done.returncode, done.stdout) == (0, f"0 log files older than 31 days removed from {log}\n")
    done = host.run("instance.sh", "7000", "logs", "--expire", "--dry-run")
    assert sorted(done.stdout.splitlines()) == sorted(f"would remove {log}/{name}" for name in OLD)
    assert names(log) == before
    done = host.run("instance.sh", "7000", "logs", "--expire")
    assert (done.returncode, done.stdout) == (0, f"{len(OLD)} log files older than 7 days removed from {log}\n")
    assert names(log) == before - OLD
    assert (log / "pika.ERROR").is_symlink()
    assert host.run("instance.sh", "7000", "logs", "--expire").stdout.startswith("0 log files ")


def test_a_folder_elsewhere_is_refused(host: OperatedHost) -> None:
    outside = host.folder("elsewhere")
    victim = outside / next(iter(sorted(OLD)))
    victim.write_text("x")
    os.utime(victim, (1, 1))
    data = host.add_instance(7000)
    (data / "log").symlink_to(outside)
    for path in (f"{outside}/", f"{data}/../../elsewhere/", "./log/", "", f"{data}/log/", "/", "$(id)", f"{data}/lo g"):
        (data / "conf/demo.conf").write_text(f"log-path : {path}\n")
        status, _, error = attempt(host, "load_instance 7000; logs_expire")
        assert (status, victim.exists()) == (1, True), path
        assert "error: " in error, path


def test_what_it_prints_controls_no_terminal(host: OperatedHost) -> None:
    log = with_files(host)
    (log / "pika.INFO").unlink()
    (log / "pika.INFO").write_text("one\n\x1b]0;title\x07 two\n")
    done = host.run("instance.sh", "7000", "logs", "--lines", "1")
    assert done.stdout.endswith(f"== {log}/pika.INFO\n\\x1b]0;title\\x07 two\n== {log}/pika.ERROR\nx\n") or (
        f"== {log}/pika.INFO\n\\x1b]0;title\\x07 two\n" in done.stdout
    )
    assert "\x1b" not in done.stdout


def tmpfiles() -> str:
    need("systemd-tmpfiles")
    return str(shutil.which("systemd-tmpfiles"))


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-tmpfiles cleans as root")
def test_rules_for_systemd_tmpfiles(tmp_path: Path) -> None:
    host = watched_host(tmp_path, SHELLS["dash"])
    log = with_files(host)
    before = names(log)
    rule = lines(host, "load_instance 7000; logs_rules")
    # Changes of status cannot be made old in a test, so only those of content count here (tmpfiles.d(5), "Age").
    assert f"e {log} - - - 7d\n" in rule
    rules = host.top / "demo.conf"
    rules.write_text(rule.replace("- 7d\n", "- m:7d\n"))
    done = sh(tmpfiles(), "--clean", rules, env=clean_env())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # Not told from the others by its name; what it would have got is in the file of severity INFO, and in the journal.
    assert names(log) == before - OLD - {CURRENT}
    assert {path.name for path in log.iterdir() if path.is_symlink()} >= {"pika.ERROR", "pika.INFO"}


def test_rules_leave_out_every_other_name(tmp_path: Path) -> None:
    """What fnmatch says of the names that a rule takes out: all but those that begin with the prefix."""
    host = watched_host(tmp_path, SHELLS["dash"])
    log = with_files(host)
    rule = lines(host, "load_instance 7000; logs_rules")
    globs = [line.removeprefix(f"x {log}/") for line in rule.splitlines() if line.startswith("x ")]
    logs = operate_of("main").logs
    assert logs is not None
    names = {name.partition("/")[0] for name in (*OLD, *NEVER, CURRENT, YOUNG, *logs.links)}
    out = {name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs)}
    assert names - out == {name for name in names if name.startswith(logs.prefix)} - set(logs.links)


def test_the_kind_of_rule_depends_on_systemd(host: OperatedHost) -> None:
    with_files(host)
    for version, kind in {"219": "d", "229": "d", "230": "e", "252~rc1": "e", "": "e", "x": "e"}.items():
        host.stub("systemd-tmpfiles", f'echo "systemd {version} (x)"')
        assert f"\n{kind} " in lines(host, "load_instance 7000; logs_rules"), version
    status, output, error = attempt(host, "load_instance 7000; data=/elsewhere; logs_rules")
    assert (status, output) == (0, "")
    assert "its files do not expire" in error


def test_servers_without_log_files(tmp_path: Path) -> None:
    host = watched_host(tmp_path, SHELLS["dash"], "redis")
    host.add_instance(7000)
    done = host.run("instance.sh", "7000", "logs", "--expire")
    assert (done.returncode, done.stdout) == (0, "nothing to do: demo has no log files that expire\n")
    assert lines(host, "load_instance 7000; logs_rules") == ""
