"""backup, restore and rollback of real instances are killed at random moments, with all that they have started.

tests/guest/test_operate_kills.py kills them at each step, with stand-ins for the server.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import hosts
import pytest
import thorough
from integration.sites import FIRST, INSTANCE, PORT, SECOND, SOON, Site, site_of
from integration.trees import Tree
from writer import Writer

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("hosts"),
    pytest.mark.thorough(thorough.whole("failures")),
    pytest.mark.long(600),
]

KILLED = 12
"""How often each verb is killed."""
OTHER = 9321
RUN = f"""\
after=$1 began=$(date +%s%N) status=0
shift
setsid {INSTANCE} "$@" &
[ -z "$after" ] || {{ sleep "$after" && kill -KILL "-$!" 2>/dev/null; }}
wait $! || status=$?
echo $((($(date +%s%N) - began) / 1000000)) >/root/took
exit $status
"""
KILL = 137
"""The shell's status of a process that was killed."""
LEFT = """\
ls -A /run | grep -e '[.]lock' -e -tmp || :
find /etc/pika /etc/systemd/system /opt -maxdepth 2 -name '*.new*'
find /etc/pika -name '*.next' -o -name '*.restore'
find /data -maxdepth 3 ! -name . -name '.*'
find /data -name '*.new'
"""
"""Print what verbs may not leave."""
WHOLE = """\
cd /data/pika_$1/backup 2>/dev/null || exit 0
for each in "$1"-*; do
    [ -d "$each" ] || continue
    [ -s "$each/backup.info" ] || echo "$each: no facts"
    (cd "$each/snapshot" && find . -type f -exec stat -c '%s %n' '{}' + | LC_ALL=C sort -k 2) |
        cmp - "$each/backup.files" 2>&1 || :
done
"""
"""Print what is wrong with the backups of an instance."""
SUMS = 'cd "$1" && find . -type f -exec sha256sum "{}" + | sort'


@dataclass(slots=True, kw_only=True)
class Killer:
    """Kills a verb at random moments of the time that it takes."""

    host: hosts.Host
    takes: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(time.time_ns()))
    moments: list[str] = field(default_factory=list)

    def run(self, *words: str, after: str = "") -> tuple[int, str]:
        """Run a verb; kill it, and all that it has started, after some seconds."""
        return self.host.run("sh", "-c", RUN, "sh", after, *words)

    def kills(self, prepare: Callable[[], object], *words: str) -> Iterator[str]:
        """Run a verb to its end, once; then kill it again and again. Yields what happened, after each of all."""
        prepare()
        status, said = self.run(*words)
        assert status == 0, said
        self.takes = int(self.host.read("/root/took")) / 1000
        yield f"the verb has taken {self.takes:.1f} s"
        for number in range(KILLED):
            prepare()
            moment = self.chance.uniform(0, self.takes)
            status, said = self.run(*words, after=f"{moment:.2f}")
            assert status in (0, KILL), said
            self.moments.append(f"{moment:.2f} s: {'killed' if status else 'done'}")
            yield f"{number}, after {moment:.2f} of {self.takes:.2f} s: {status} {said}"
        print(words, f"of {self.takes:.2f} s:", self.moments)


@pytest.fixture(scope="module")
def group(engine: Engine, sample_tree: Tree, second_tree: Tree) -> Iterator[hosts.Group]:
    with hosts.together(engine) as group:
        Site(host=group.start("one"), first=sample_tree, second=second_tree).install()
        yield group


@pytest.fixture
def site(group: hosts.Group, sample_tree: Tree, second_tree: Tree) -> Iterator[Site]:
    yield from site_of(Site(host=group.hosts["one"], first=sample_tree, second=second_tree))


def test_no_kill_of_a_backup_leaves_half_of_one(site: Site) -> None:
    host, folder = site.host, f"{site.data()}/backup"
    with Writer(host, PORT) as writer:
        for case in Killer(host=host).kills(lambda: None, str(PORT), "backup", "--keep", "3", "--copy"):
            assert host.sh(WHOLE, str(PORT)) == "", case
            made = site.ok("backup", "--keep", "3").partition(": ")[0]
            assert (host.sh(WHOLE, str(PORT)), host.sh(LEFT)) == ("", ""), case
            names = host.sh(f"ls -A {folder}").split()
            assert (len(names) <= 3, made.rpartition("/")[2] in names) == (True, True), f"{case}: {names}"
        writer.more(10)
    assert (writer.lost(), site.whole()) == ([], True)


def test_no_kill_of_a_rollback_loses_a_key(site: Site) -> None:
    host, killer = site.host, Killer(host=site.host)
    site.ok("upgrade", site.package(site.second, "second"), *SOON)

    def upgrade() -> None:
        site.ok("upgrade", SECOND, "--no-snapshot", *SOON)

    with Writer(host, PORT) as writer:
        for case in killer.kills(upgrade, str(PORT), "rollback"):
            said = site.ok("rollback")
            assert (site.tree(), host.sh("readlink /opt/pika").strip()) == (FIRST, FIRST), f"{case}: {said}"
            assert (host.sh(LEFT), "# of release 2" in site.conf()) == ("", False), f"{case}: {said}"
            assert writer.lost() == [], case
            assert not host.exists(f"/etc/pika/{PORT}.before"), case
        writer.more(10)
    assert (writer.lost(), site.whole()) == ([], True)


def test_no_kill_of_a_restore_loses_the_data_of_before(site: Site) -> None:
    host, data = site.host, site.data(OTHER)
    made = site.ok("backup").partition(": ")[0]
    site.deploy(OTHER)
    sums: list[str] = []

    def stopped() -> None:
        """Let the instance have data of its own, and be stopped."""
        site.verb("start", port=OTHER)
        for number in range(50):
            assert host.ask(OTHER, "SET", f"own:{number}:{len(sums)}", "v") == "OK"
        site.ok("stop", port=OTHER)
        host.sh(f"rm -rf {data}/aside-*")
        sums.append(host.sh(SUMS, f"{data}/db/db0"))

    for case in Killer(host=host).kills(stopped, str(OTHER), "restore", made):
        asides = host.sh(f"ls -d {data}/aside-* 2>/dev/null || :").split()
        there = [
            host.sh(SUMS, path) for path in (f"{data}/db/db0", *(f"{each}/1" for each in asides)) if host.exists(path)
        ]
        assert sums[-1] in there, case
        if host.exists(f"/etc/pika/{OTHER}.restore") or not host.serves(OTHER):
            site.ok("restore", made, port=OTHER)
        assert site.whole(OTHER), case
        (aside,) = host.sh(f"ls -d {data}/aside-*").split()
        assert (host.sh(SUMS, f"{aside}/1"), host.sh(LEFT)) == (sums[-1], ""), case
    assert site.whole()
