"""Upgrade and rollback of real instances: versions that serve, versions that do not, and failures at random moments."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import documented
import hosts
import pytest
import thorough
from integration.sites import FIRST, INSTANCE, PORT, SECOND, SHORT, SOON, Site, name_of, released, site_of
from integration.trees import Fault, Tree
from writer import Writer

from pikaforge.pipeline.smoke.resp import Closed, ErrorReply

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(180)]

EFFORT = "active-expire-effort"
"""A setting that redis's file does not have."""


@pytest.fixture(scope="module")
def group(engine: Engine, sample_tree: Tree, second_tree: Tree) -> Iterator[hosts.Group]:
    """A host with systemd, and one without; the first version is a folder with a link to it."""
    with hosts.together(engine) as group:
        for name in ("one", "bare"):
            host = group.start(name, systemd=name == "one")
            Site(host=host, first=sample_tree, second=second_tree).install()
        yield group


@pytest.fixture
def site(group: hosts.Group, sample_tree: Tree, second_tree: Tree) -> Iterator[Site]:
    yield from site_of(Site(host=group.hosts["one"], first=sample_tree, second=second_tree))


@pytest.fixture
def redis_site(group: hosts.Group, redis_tree: Tree) -> Iterator[Site]:
    """Another server by the same scripts. Its second version has one more setting."""
    conf = f"conf/{redis_tree.top}.conf"
    second = released(redis_tree.with_line(conf, "# of release 2").with_line(conf, f"{EFFORT} 3"), "2")
    site = Site(host=group.hosts["one"], first=redis_tree, second=second, port=6379, password="opensesame")
    site.install()
    yield from site_of(site)
    site.host.sh(f"rm -rf {site.link} {site.link}-*")


@pytest.fixture(params=["one", "bare", "redis"])
def any_site(
    group: hosts.Group, sample_tree: Tree, second_tree: Tree, request: pytest.FixtureRequest
) -> Iterator[Site]:
    if request.param == "redis":
        yield request.getfixturevalue("redis_site")
    else:
        yield from site_of(Site(host=group.hosts[request.param], first=sample_tree, second=second_tree))


def test_an_upgrade_and_the_way_back(any_site: Site) -> None:
    site, host = any_site, any_site.host
    first, second = site.folder(site.first), site.folder(site.second)
    package = site.package(site.second, "second")
    process, conf = site.process(), site.conf()
    said = site.ok("upgrade", package, "--dry-run")
    assert "would unpack" in said
    assert (site.process(), site.conf(), host.exists(second)) == (process, conf, False)
    said = site.ok("upgrade", package, *SOON)
    assert f"instance {site.port} runs {name_of(site.second)} in {second}; before: {name_of(site.first)}" in said
    assert site.tree() == second
    assert host.sh(f"readlink {site.link}").strip() == second
    assert host.sh(f"find {second} ! -user root -o -perm /022 ! -type l") == ""
    assert site.whole()
    assert "# of release 2\n" in site.conf()
    assert f"{site.data()}/backup/{site.port}-" in site.ok("backup", "--list")
    # Again: nothing happens.
    process = site.process()
    for words in ((package,), (name_of(site.second).removesuffix("-R620"),), (second,), ()):
        assert "nothing to do" in site.ok("upgrade", *words), words
    assert site.process() == process
    # Back, with what was written and configured since then.
    assert site.ask("SET", "late", "v") == "OK"
    assert site.ask("CONFIG", "SET", "timeout", "77") == "OK"
    assert site.ask("CONFIG", "REWRITE") == "OK"
    said = site.ok("rollback", "--dry-run")
    assert f"would go back from {name_of(site.second)} to {name_of(site.first)}" in said
    assert f"runs {name_of(site.first)} in {first} again" in site.ok("rollback")
    assert (site.tree(), host.sh(f"readlink {site.link}").strip()) == (first, first)
    assert site.setting("timeout") == "77"
    assert (site.whole(), site.ask("GET", "late")) == (True, "v")
    assert "nothing to do" in site.ok("rollback")
    # What lies beside is found by its version; the snapshot may be left out.
    site.ok("upgrade", name_of(site.second).removesuffix("-R620"), "--no-snapshot", *SOON)
    assert (site.tree(), site.whole()) == (second, True)
    assert host.sh(f"ls -A {site.etc} | grep -v -e env -e shipped -e clients").split() == [f"{site.port}.before"]
    assert not host.exists(f"{site.data()}/.reserve")


def test_settings_come_and_go_with_an_upgrade(redis_site: Site) -> None:
    """The server writes its file anew, and all that was changed stays; what the upgrade had brought goes."""
    site = redis_site
    mute = site.package(released(site.second.broken("mute"), "mute"), "mute")
    status, said = site.verb("upgrade", mute, "--sha256", "0" * 64)
    assert (status, "is not the right one" in said) == (1, True), said
    status, said = site.verb("upgrade", mute, *SHORT)
    assert (status, "serves again" in said, site.tree()) == (1, True, site.folder(site.first)), said
    assert (site.whole(), site.ask("CONFIG", "GET", EFFORT)) == (True, [EFFORT, "1"])
    site.ok("upgrade", site.package(site.second, "second"), *SOON)
    assert (site.whole(), site.ask("CONFIG", "GET", EFFORT)) == (True, [EFFORT, "3"])
    assert site.ask("CONFIG", "SET", "timeout", "77") == "OK"
    assert site.ask("CONFIG", "REWRITE") == "OK"
    site.ok("rollback")
    assert (site.whole(), site.ask("CONFIG", "GET", EFFORT)) == (True, [EFFORT, "1"])
    assert site.ask("CONFIG", "GET", "timeout") == ["timeout", "77"]


FAULTS: tuple[Fault, ...] = ("dies", "dies-later", "silent", "mute")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_serve_is_left_by_itself(site: Site, fault: Fault) -> None:
    host = site.host
    package = site.package(released(site.second.broken(fault), fault.replace("-", ".")), fault)
    trees = host.sh("ls -A /opt")
    conf, unit = site.conf(), host.read("/etc/systemd/system/pika@.service")
    status, said = site.verb("upgrade", package, *SHORT)
    assert (status, f"instance {PORT} serves again with v3.4.0-1-R620" in said) == (1, True), said
    if fault == "dies":
        assert "cannot start: planted by a test" in said
    assert (site.tree(), site.whole()) == (FIRST, True)
    assert (site.conf(), host.read("/etc/systemd/system/pika@.service")) == (conf, unit)
    assert host.sh("readlink /opt/pika").strip() == FIRST
    assert "nothing to do" in site.ok("rollback")
    assert not host.exists(f"/data/pika_{PORT}/.reserve")
    assert host.sh("ls -A /opt") == trees
    # The next one goes as if nothing had been.
    site.ok("upgrade", site.package(site.second, "second"), *SOON)
    assert (site.tree(), site.whole()) == (SECOND, True)


def test_a_full_disk_is_left_by_itself(site: Site) -> None:
    host = site.host
    host.ok("sh", "/opt/pika/utils/deploy.sh", "9321", "/small", "--no-start", "--dry-run")
    host.small_disk("/small", "160m")
    host.ok("sh", "/opt/pika/utils/deploy.sh", "9321", "/small")
    site.write(9321)
    package = site.package(released(site.second.broken("fills"), "fills"), "fills")
    status, said = site.verb("upgrade", package, *SHORT, port=9321)
    assert (status, "instance 9321 serves again with v3.4.0-1-R620" in said) == (1, True), said
    assert "no space left on device: planted by a test" in said
    assert (site.tree(9321), site.whole(9321)) == (FIRST, True)
    # It would not fit a second time, and that is seen before anything changes.
    process = site.process(9321)
    status, said = site.verb("upgrade", package, "--no-snapshot", port=9321)
    assert (status, "nothing was changed" in said, site.process(9321)) == (1, True, process), said
    # What was kept back gets full, too: the server refuses writes, reads go on, and its monitoring knows. When there is
    # room again, a restart ends that.
    assert host.run("dd", "if=/dev/zero", "of=/small/filler", "bs=64k")[0] == 1
    assert isinstance(host.ask(9321, "SET", "large", "v" * 10**6), ErrorReply)
    status, said = site.verb("check", port=9321)
    assert (status, "db_fatal" in said, site.whole(9321)) == (2, True, True), said
    host.sh("find /small -name filler -delete")
    assert isinstance(host.ask(9321, "SET", "key", "v"), ErrorReply)
    site.ok("restart", port=9321)
    assert (host.ask(9321, "SET", "key", "v"), site.whole(9321)) == ("OK", True)
    assert "db_fatal" not in site.verb("check", port=9321)[1]
    host.ok("sh", INSTANCE, "9321", "remove", "--purge", "9321")
    host.ok("umount", "/small")


READ_ONLY = """\
cp -a "$1" /root/conf
mount -t tmpfs -o mode=750,uid=$(id -u pika),gid=$(id -g pika) tmpfs "$1"
cp -a /root/conf/. "$1"
rm -r /root/conf
mount -o remount,ro "$1"
"""


def test_a_configuration_that_is_read_only(site: Site) -> None:
    """An instance serves with it. What would change it fails, and leaves all as it is."""
    host, folder = site.host, f"{site.data()}/conf"
    host.sh(READ_ONLY, folder)
    try:
        site.ok("restart")
        conf, process = site.conf(), site.process()
        package = site.package(site.second, "second")
        for words in (("upgrade", package, *SHORT), ("upgrade", package, "--no-snapshot", *SHORT)):
            status, said = site.verb(*words)
            assert (status, "Read-only file system" in said, "serves again" in said) == (1, True, True), said
            assert (site.tree(), site.conf(), site.whole()) == (FIRST, conf, True)
        status, said = host.run("sh", "/opt/pika/utils/deploy.sh", str(PORT), "/data", "--set", "timeout=5")
        assert (status, "Read-only file system" in said, site.process()) == (1, True, process), said
        # This server ends when it cannot write its file; it is started again.
        with pytest.raises(Closed):
            site.ask("CONFIG", "REWRITE")
        hosts.wait(lambda: host.serves(PORT) and site.process() != process, "it is started again")
        assert site.whole()
    finally:
        site.ok("stop")
        host.ok("umount", folder)
    site.ok("start")
    site.ok("upgrade", package, *SOON)
    assert (site.tree(), site.whole()) == (SECOND, True)


def test_several_instances_go_one_after_the_other(site: Site) -> None:
    host = site.host
    for port in ("9321", "9421"):
        host.ok("sh", "/opt/pika/utils/deploy.sh", port, "/data")
    picky = site.second.with_server('case $conf in *_9321/*) exit 3 ;; esac\nexec "$real" "$@"\n')
    package = site.package(released(picky, "picky"), "picky")
    last = site.process(9421)
    status, said = site.verb("upgrade", package, "--all", *SHORT)
    assert (status, "instance 9321 is not done; left as they were: 9421" in said) == (1, True), said
    assert [site.tree(port) for port in (PORT, 9321, 9421)] == ["/opt/pika-v3.4.0-picky-R620", FIRST, FIRST]
    assert site.process(9421) == last
    assert host.sh("readlink /opt/pika").strip() == FIRST, "not all run the new one"
    assert "nothing to do" in site.ok("rollback", "--port", "9321")
    site.ok("upgrade", site.package(site.second, "second"), "--port", "9421", "--port", "9321", *SOON)
    assert [site.tree(port) for port in (PORT, 9321, 9421)] == [SECOND] * 3
    assert host.sh("readlink /opt/pika").strip() == SECOND


def test_a_package_that_is_not_the_right_one_is_refused(site: Site) -> None:
    host, process = site.host, site.process()
    package = site.package(site.second, "second")
    before = host.sh("ls -A /opt")
    host.sh(f"echo >>{package}")
    for words in ((), ("--sha256", "0" * 64)):
        status, said = site.verb("upgrade", package, *words)
        assert (status, "is not the right one" in said) == (1, True), said
    # A program for other CPUs.
    gate = site.second.changed({"utils/cpu-features": b"lm\nno_such_flag\n"})
    status, said = site.verb("upgrade", site.package(released(gate, "gate"), "gate"))
    assert (status, "nothing was changed" in said, "no_such_flag" in said) == (1, True, True), said
    # Whole by its sum, but not what its manifest says.
    entries = {**site.second.entries, "bin/pika": site.second.with_line("bin/pika", "#").entries["bin/pika"]}
    status, said = site.verb("upgrade", site.package(replace(site.second, entries=entries), "other"))
    assert (status, "bin/pika is not what manifest.json says" in said) == (1, True), said
    assert (host.sh("ls -A /opt"), site.process(), site.tree()) == (before, process, FIRST)


CONTROL = """\
Package: pika
Version: @VERSION@
Architecture: amd64
Maintainer: tests
Description: a test
"""


def deb(site: Site, tree: Tree, version: str) -> str:
    """Make a package of Debian's of a tree, on the host; return its path."""
    site.host.unpack(tree.tar(), "/root/deb/opt")
    site.host.put("/root/deb/DEBIAN", {"control": CONTROL.replace("@VERSION@", version).encode()})
    site.host.sh(f"dpkg-deb -Znone --build /root/deb /root/pika_{version}.deb; rm -rf /root/deb")
    return f"/root/pika_{version}.deb"


def test_the_tree_of_a_package_manager_is_kept(site: Site) -> None:
    host = site.host
    host.ok("sh", INSTANCE, str(PORT), "remove", "--purge", str(PORT))
    host.sh("rm /opt/pika")
    host.ok("dpkg", "-i", deb(site, site.first, "1"))
    host.ok("sh", "/opt/pika/utils/deploy.sh", str(PORT), "/data")
    site.write()
    broken = deb(site, released(site.second.broken("dies"), "broken"), "3")
    status, said = site.verb("upgrade", broken, *SHORT)
    assert (status, "serves again" in said) == (1, True), said
    assert (site.tree(), site.whole()) == (FIRST, True)
    assert host.sh("cat /opt/pika/utils/lib/product.sh | grep release=") == "release='broken'\n"
    site.ok("upgrade", deb(site, site.second, "2"), *SOON)
    assert (site.tree(), site.whole()) == ("/opt/pika", True)
    assert host.ok("dpkg-query", "-W", "-f", "${Version}", "pika") == "2"
    # The other way: kept by hand, and then whatever brings the new one.
    site.ok("upgrade", "--keep")
    assert "nothing to do" in site.ok("upgrade")
    site.ok("rollback")
    assert (site.tree(), site.whole()) == (FIRST, True)
    # By the commands of the page.
    host.ok("mkdir", "/srv/repo")
    host.ok("mv", deb(site, released(site.second, "3"), "3"), "/srv/repo")
    hosts.offer_packages(host, "/srv/repo")
    for line in documented.commands("docs/operating.md", "With the package manager"):
        host.sh(line)
    assert (site.tree(), site.whole()) == ("/opt/pika", True)
    assert host.ok("dpkg-query", "-W", "-f", "${Version}", "pika") == "3"
    # Replaced without a word to anybody: what runs is gone from the disk.
    process = site.process()
    host.ok("dpkg", "-i", deb(site, released(site.second, "4"), "4"))
    site.ok("upgrade", *SOON)
    assert (site.process() != process, site.tree(), site.whole()) == (True, "/opt/pika", True)
    host.ok("sh", INSTANCE, str(PORT), "remove", "--purge", str(PORT))
    host.ok("dpkg", "--purge", "pika")


FAILURES = 24 if thorough.whole("failures") else 3


KILLS = {
    "verb": "kill -9 $(cat /root/verb)",
    "verb and children": "pid=$(cat /root/verb); kill -9 $pid $(ps -o pid= --ppid $pid)",
    "server": "pkill -9 -x pika",
    "both": "kill -9 $(cat /root/verb); pkill -9 -x pika",
    "asked to end": "kill -TERM $(cat /root/verb)",
}


def test_no_failure_at_any_moment_loses_a_key(site: Site) -> None:
    host, writer = site.host, Writer(site.host, PORT)
    chance = random.Random(seed := time.time_ns())
    print(f"seed {seed}")
    targets = [site.package(site.second, "second")]
    targets += [site.package(released(site.second.broken(f), f"x{n}"), f"x{n}") for n, f in enumerate(FAULTS)]
    with writer:
        for number in range(FAILURES):
            target, kill = chance.choice(targets), chance.choice(list(KILLS))
            moment = chance.uniform(0, 12)
            words = f"echo $$ >/root/verb; exec {INSTANCE} {PORT} upgrade {target} {' '.join(SHORT)}"
            said: list[tuple[int, str]] = []
            thread = threading.Thread(target=lambda line=words, out=said: out.append(host.run("sh", "-c", line)))
            thread.start()
            thread.join(moment)
            host.run("sh", "-c", KILLS[kill])
            thread.join()
            case = f"{number}: {target}, {kill} after {moment:.2f} s: {said}"
            status, back = site.verb("rollback")
            assert status == 0, f"{case}\n{back}"
            host.wait_serving(PORT)
            assert (site.tree(), writer.lost()) == (FIRST, []), f"{case}\n{back}"
            assert not host.exists(f"/etc/pika/{PORT}.next"), case
            assert not host.exists(f"/data/pika_{PORT}/.reserve"), case
    assert site.whole()
    assert (len(writer.acknowledged) > 100, writer.lost()) == (True, [])
    site.ok("upgrade", targets[0], *SOON)
    assert (site.tree(), writer.lost()) == (SECOND, [])
