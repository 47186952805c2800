"""Upgrade and rollback of real instances: versions that serve, versions that do not, and failures at random moments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import hosts
import pytest
from hosts import Host
from integration.trees import Fault, Tree

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(180)]

PORT = 9221
FIRST = "/opt/pika-v3.4.0-1-R620"
SECOND = "/opt/pika-v3.4.0-2-R620"
INSTANCE = "/opt/pika/utils/instance.sh"
PACKAGES = "/root/packages"
SHORT = ("--within", "4", "--settle", "3")
KEYS = 300


def released(tree: Tree, release: str) -> Tree:
    """The tree under another release."""
    facts = tree.content("utils/lib/product.sh")
    assert b"\nrelease='2'\n" in facts
    return tree.changed({"utils/lib/product.sh": facts.replace(b"\nrelease='2'\n", f"\nrelease='{release}'\n".encode())})


@dataclass(slots=True, kw_only=True)
class Site:
    """A host whose first version came as a tarball, with one instance."""

    host: Host
    first: Tree
    second: Tree
    sums: dict[str, str] = field(default_factory=dict)

    def package(self, tree: Tree, name: str, sums: bool = True) -> str:
        """Put a package on the host, with its sum beside; return its path."""
        data = tree.tar()
        self.host.put(PACKAGES, {f"{name}.tar": data})
        if sums:
            self.sums[f"{name}.tar"] = hashlib.sha256(data).hexdigest()
        lines = "".join(f"{digest}  tarballs/{file}\n" for file, digest in self.sums.items())
        self.host.put(PACKAGES, {"SHA256SUMS": lines.encode()})
        return f"{PACKAGES}/{name}.tar"

    def verb(self, *words: str, port: int = PORT) -> tuple[int, str]:
        return self.host.run(INSTANCE, str(port), *words)

    def ok(self, *words: str, port: int = PORT) -> str:
        status, said = self.verb(*words, port=port)
        assert status == 0, said
        return said

    def tree(self, port: int = PORT) -> str:
        """What the instance is set to run; the process must be of it."""
        line = self.host.sh(f"grep ^TREE= /etc/pika/{port}.env").strip()
        path = line.removeprefix("TREE=")
        assert path in self.host.sh(f"tr '\\0' ' ' </proc/{self.process(port)}/cmdline"), path
        return path

    def process(self, port: int = PORT) -> str:
        code = f"utils={INSTANCE.rpartition('/')[0]}; for f in common service; do . $utils/lib/$f.sh; done; service_pid {port}"
        return self.host.sh(code).strip()

    def conf(self, port: int = PORT) -> str:
        return self.host.read(f"/data/pika_{port}/conf/pika.conf")

    def write(self, port: int = PORT) -> None:
        with self.host.connect(port) as connection:
            replies = connection.exchange([["SET", f"key:{n}", f"value {n}"] for n in range(KEYS)])
        assert replies == ["OK"] * KEYS

    def whole(self, port: int = PORT) -> bool:
        with self.host.connect(port) as connection:
            replies = connection.exchange([["GET", f"key:{n}"] for n in range(KEYS)])
        return replies == [f"value {n}" for n in range(KEYS)]

    def remove(self) -> None:
        """Remove all instances and trees but the first."""
        self.host.sh(
            "for env in /etc/pika/[0-9]*.env; do [ -f $env ] || continue; port=$(basename $env .env); "
            f"sh {FIRST}/utils/instance.sh $port remove --purge $port; done; "
            f"mv {FIRST} /opt/kept; rm -rf /opt/pika*; mv /opt/kept {FIRST}; ln -s {FIRST} /opt/pika"
        )


@pytest.fixture(scope="module")
def group(engine: Engine, sample_tree: Tree) -> Iterator[hosts.Group]:
    """A host with systemd, and one without; the first version is a folder with a link to it."""
    with hosts.together(engine) as group:
        for name in ("one", "bare"):
            host = group.start(name, systemd=name == "one")
            host.unpack(sample_tree.tar(), "/opt/new")
            host.sh(f"mv /opt/new/pika {FIRST}; rmdir /opt/new; ln -s {FIRST} /opt/pika")
        yield group


def site_of(host: Host, first: Tree, second: Tree) -> Iterator[Site]:
    site = Site(host=host, first=first, second=second)
    host.ok("sh", "/opt/pika/utils/deploy.sh", str(PORT), "/data")
    site.write()
    yield site
    site.remove()


@pytest.fixture
def site(group: hosts.Group, sample_tree: Tree, second_tree: Tree) -> Iterator[Site]:
    yield from site_of(group.hosts["one"], sample_tree, second_tree)


@pytest.fixture(params=["one", "bare"])
def any_site(
    group: hosts.Group, sample_tree: Tree, second_tree: Tree, request: pytest.FixtureRequest
) -> Iterator[Site]:
    yield from site_of(group.hosts[request.param], sample_tree, second_tree)


def test_an_upgrade_and_the_way_back(any_site: Site) -> None:
    site, host = any_site, any_site.host
    package = site.package(site.second, "second")
    process, conf = site.process(), site.conf()
    said = site.ok("upgrade", package, "--dry-run")
    assert "would unpack" in said
    assert (site.process(), site.conf(), host.exists(SECOND)) == (process, conf, False)
    said = site.ok("upgrade", package, *SHORT)
    assert f"instance {PORT} runs v3.4.0-2-R620 in {SECOND}; before: v3.4.0-1-R620" in said
    assert site.tree() == SECOND
    assert host.sh("readlink /opt/pika").strip() == SECOND
    assert host.sh(f"find {SECOND} ! -user root -o -perm /022 ! -type l") == ""
    assert site.whole()
    assert "# of release 2\n" in site.conf()
    assert f"/data/pika_{PORT}/backup/{PORT}-" in site.ok("backup", "--list")
    # Again: nothing happens.
    process = site.process()
    for words in ((package,), ("v3.4.0-2",), (SECOND,), ()):
        assert "nothing to do" in site.ok("upgrade", *words), words
    assert site.process() == process
    # Back, with what was written and configured since then.
    assert host.ask(PORT, "SET", "late", "v") == "OK"
    assert host.ask(PORT, "CONFIG", "SET", "timeout", "77") == "OK"
    assert host.ask(PORT, "CONFIG", "REWRITE") == "OK"
    assert "would go back from v3.4.0-2-R620 to v3.4.0-1-R620" in site.ok("rollback", "--dry-run")
    assert f"runs v3.4.0-1-R620 in {FIRST} again" in site.ok("rollback")
    assert (site.tree(), host.sh("readlink /opt/pika").strip()) == (FIRST, FIRST)
    assert "\ntimeout : 77\n" in site.conf()
    assert (site.whole(), host.ask(PORT, "GET", "late")) == (True, "v")
    assert "nothing to do" in site.ok("rollback")
    # What lies beside is found by its version; the snapshot may be left out.
    site.ok("upgrade", "v3.4.0-2", "--no-snapshot", *SHORT)
    assert (site.tree(), site.whole()) == (SECOND, True)
    assert host.sh("ls -A /etc/pika | grep -v -e env -e shipped").split() == [f"{PORT}.before"]
    assert not host.exists(f"/data/pika_{PORT}/.reserve")


FAULTS: tuple[Fault, ...] = ("dies", "dies-later", "silent", "mute")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_serve_is_left_by_itself(site: Site, fault: Fault) -> None:
    host = site.host
    package = site.package(released(site.second.broken(fault), fault.replace("-", ".")), fault)
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
    # The next one goes as if nothing had been.
    site.ok("upgrade", site.package(site.second, "second"), *SHORT)
    assert (site.tree(), site.whole()) == (SECOND, True)
