"""deploy.sh and the unit of a server that is not operated, in real containers: without systemd, and with systemd as the
first process. Operated ones are in guest/test_operate_deploy.py and integration/test_operate_deploy.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hosts
import pytest
from described import conf_of, server_of

from pikaforge.config import load
from pikaforge.config.product import Product
from pikaforge.formats import payload

if TYPE_CHECKING:
    from conftest import Engine

ROOT = Path(__file__).resolve().parents[2]
CONF = """\
# A comment with port : 1 in it
port : 9221
thread-num : 1
  log-path : ./log/
db-path : ./db/
db-path : ./twice/
#dump-path : ./dump/
db-sync-path-not : kept
db-sync-path : ./dbsync/
"""

# Stands in for the server: says how it was started, then waits.
SERVER = """\
#!/bin/sh
echo "started as $(id -un) with $*"
exec sleep 1000
"""

REFUSED = ("lm", "no_such_flag")
"""Features that no machine has."""


@pytest.fixture(scope="module")
def product() -> Product:
    product = load.load(ROOT / "matrix.yaml").product
    server = server_of(product).model_copy(update={"operate": None})
    return product.model_copy(update={"server": server})


def tree(product: Product, features: tuple[str, ...] | None) -> dict[str, tuple[bytes, int]]:
    """An unpacked package: content and mode by path below its top folder."""
    rendered = payload.render(product, model="R620", target="sandybridge", image="debian12", features=features)
    files = {name: (data, 0o755 if name in rendered.executable else 0o644) for name, data in rendered.contents.items()}
    files[conf_of(product).path] = (CONF.encode(), 0o644)
    files[server_of(product).command[0]] = (SERVER.encode(), 0o755)
    return files


@dataclass(slots=True, kw_only=True)
class Host(hosts.Host):
    """A container that stands for a host, with a package at /opt/forge."""

    product: Product

    def unpack_package(self, features: tuple[str, ...] | None, *, top: str = "forge", uid: int = 0) -> None:
        """Put a package below /opt."""
        self.put(f"/opt/{top}", tree(self.product, features), uid)

    def deploy(self, *argv: str, top: str = "forge", user: str = "root", **env: str) -> tuple[int, str]:
        return self.run("sh", f"/opt/{top}/utils/deploy.sh", *argv, user=user, **env)


@contextmanager
def bare_host(engine: Engine, product: Product) -> Iterator[Host]:
    """A host without systemd."""
    argv = ["sleep", "3600"]
    with hosts.container_of(engine, hosts.base(engine), argv, network_mode="none", init=True) as container:
        yield Host(container=container, product=product)


@pytest.fixture
def host(engine: Engine, product: Product) -> Iterator[Host]:
    """A host without systemd, whose CPUs run the package."""
    with bare_host(engine, product) as host:
        host.unpack_package(("lm",))
        yield host


@pytest.mark.engine
class TestWithoutSystemd:
    def test_sets_an_instance_up(self, host: Host) -> None:
        status, output = host.deploy("9221", "/data")
        assert status == 0, output
        conf = "/data/pika_9221/conf/pika.conf"
        assert output == f"deploy: no systemd here; the instance is ready to be started with conf {conf}\n"
        assert host.ok("cat", conf).splitlines() == [
            "# A comment with port : 1 in it",
            "port : 9221",
            "thread-num : 1",
            "log-path : /data/pika_9221/log/",
            "db-path : /data/pika_9221/db/",
            "#dump-path : ./dump/",
            "db-sync-path-not : kept",
            "db-sync-path : /data/pika_9221/dbsync/",
            "dump-path : /data/pika_9221/dump/",
            "pidfile : /data/pika_9221/pika.pid",
            "daemonize : no",
        ]
        assert host.ok("getent", "passwd", "pika").strip().endswith(":/data:/sbin/nologin")

    def test_data_is_the_users_and_the_program_is_roots(self, host: Host) -> None:
        host.ok("chown", "-R", "1234:1234", "/opt/forge")
        host.ok("chmod", "-R", "g+w,o+w", "/opt/forge")
        assert host.deploy("9221", "/data")[0] == 0
        owners = set(host.ok("find", "/data/pika_9221", "-printf", "%u:%g\n").split())
        assert owners == {"pika:pika"}
        assert host.ok("stat", "-c", "%U:%a", "/data").strip() == "root:755"
        assert (
            host.ok("find", "/opt/forge", "(", "!", "-user", "0", "-o", "-perm", "/022", ")", "!", "-type", "l") == ""
        )
        # The user can write where CONFIG REWRITE writes, and not where the program is.
        rewrite = "cd /data/pika_9221/conf && echo x >new && mv new pika.conf && ! touch /opt/forge/bin/x 2>/dev/null"
        assert host.run("sh", "-c", rewrite, user="pika") == (0, "")

    def test_again_changes_nothing(self, host: Host) -> None:
        assert host.deploy("9221", "/data")[0] == 0
        host.ok("sh", "-c", "echo 'requirepass : secret' >>/data/pika_9221/conf/pika.conf; touch /data/pika_9221/db/1")
        host.ok("chown", "pika:", "/data/pika_9221/db/1")
        before = host.state("/data", "/opt", "/etc")
        status, output = host.deploy("9221", "/data/")
        assert status == 0, output
        assert host.state("/data", "/opt", "/etc") == before
        assert "requirepass : secret" in host.ok("cat", "/data/pika_9221/conf/pika.conf")

    def test_data_that_root_copied_becomes_the_users(self, host: Host) -> None:
        host.ok("sh", "-c", "mkdir -p /data/pika_9221/db/db0 && touch /data/pika_9221/db/db0/1.sst")
        assert host.deploy("9221", "/data")[0] == 0
        assert host.ok("stat", "-c", "%U", "/data/pika_9221/db/db0/1.sst") == "pika\n"

    def test_instances_do_not_share(self, host: Host) -> None:
        assert host.deploy("9221", "/data")[0] == 0
        before = host.state("/data/pika_9221")
        assert host.deploy("9321", "/data")[0] == 0
        assert host.state("/data/pika_9221") == before
        assert "port : 9321\n" in host.ok("cat", "/data/pika_9321/conf/pika.conf")

    def test_a_strict_umask_does_not_lock_the_user_out(self, host: Host) -> None:
        status, output = host.run("sh", "-c", "umask 077; sh /opt/forge/utils/deploy.sh 9221 /srv/new/data")
        assert status == 0, output
        assert host.run("cat", "/srv/new/data/pika_9221/conf/pika.conf", user="pika")[0] == 0

    def test_links_of_the_user_are_not_followed(self, host: Host) -> None:
        assert host.deploy("9221", "/data")[0] == 0
        host.ok("sh", "-c", "rm -r /data/pika_9221/conf && ln -s /etc /data/pika_9221/conf")
        before = host.state("/etc")
        status, output = host.deploy("9221", "/data")
        assert (status, "is a symbolic link" in output) == (1, True)
        assert host.state("/etc") == before


@pytest.mark.engine
class TestWithoutConf:
    """A server without a configuration file: its data folder says where an instance is."""

    @pytest.fixture
    def bare(self, engine: Engine, product: Product) -> Iterator[Host]:
        server = server_of(product)
        command = (server.command[0], "-p", "{port}", "-d", "{data}")
        changed = product.model_copy(
            update={"server": server.model_copy(update={"conf": None, "command": command, "offsets": (0,)})}
        )
        rendered = payload.render(changed, model="R620", target="sandybridge", image="debian12", features=("lm",))
        files = {name: (data, 0o755) for name, data in rendered.contents.items()}
        files[command[0]] = (SERVER.encode(), 0o755)
        with bare_host(engine, changed) as host:
            host.put("/opt/forge", files)
            yield host

    def test_sets_an_instance_up_and_does_it_once(self, bare: Host) -> None:
        done = (0, "deploy: no systemd here; the instance is ready to be started with data /data/pika_9221\n")
        assert bare.deploy("9221", "/data") == done
        assert bare.ok("find", "/data/pika_9221", "-type", "f") == ""
        assert bare.ok("stat", "-c", "%U", "/data/pika_9221").strip() == "pika"
        before = bare.state("/data", "/opt", "/etc")
        assert bare.deploy("9221", "/data") == done
        assert bare.state("/data", "/opt", "/etc") == before

    def test_its_environment_file_says_where_it_is(self, bare: Host) -> None:
        """Without systemd's programs, a folder in their place lets the script write the files of an instance."""
        fake = "mkdir -p /run/systemd/system; printf '#!/bin/sh\\n' >/bin/systemctl; chmod 755 /bin/systemctl"
        bare.ok("sh", "-c", fake)
        status, output = bare.deploy("9221", "/data")
        assert status == 0, output
        assert bare.ok("cat", "/etc/pika/9221.env") == "DATA=/data/pika_9221\n"
        unit = bare.ok("cat", "/etc/systemd/system/pika@.service").splitlines()
        assert f"ExecStart=/opt/forge/{server_of(bare.product).command[0]} -p %i -d ${{DATA}}" in unit
        bare.ok("sh", "-c", "echo EXTRA=1 >>/etc/pika/9221.env")
        assert bare.deploy("9221", "/data")[0] == 0
        assert bare.ok("cat", "/etc/pika/9221.env") == "DATA=/data/pika_9221\nEXTRA=1\n"
        status, output = bare.deploy("9221", "/srv")
        assert (status, "instance 9221 is elsewhere: DATA=/data/pika_9221" in output) == (1, True)


FOUND_LATER = ("inside-the-program", "the-program")
"""Arguments that are well formed: they fail with status 1, the others with 2."""

BAD_ARGUMENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "none": ((), "usage"),
    "one": (("9221",), "usage"),
    "three": (("9221", "/data", "x"), "usage"),
    "word": (("http", "/data"), "must be a number"),
    "empty-port": (("", "/data"), "must be a number"),
    "zero": (("0", "/data"), "must be a number"),
    "octal": (("010", "/data"), "must be a number"),
    "negative": (("-1", "/data"), "unknown argument"),
    "huge": (("99999999999999999999", "/data"), "must be a number"),
    "no-room-for-further-ports": (("63536", "/data"), "at most 63535"),
    "relative": (("9221", "data"), "absolute path"),
    "root": (("9221", "/"), "absolute path"),
    "empty-base": (("9221", ""), "absolute path"),
    "blank": (("9221", "/da ta"), "plain path"),
    "specifier": (("9221", "/da%ita"), "plain path"),
    "quote": (("9221", '/da"ta'), "plain path"),
    "command": (("9221", "/data$(touch /x)"), "plain path"),
    "sed": (("9221", "/data|/&"), "plain path"),
    "newline": (("9221", "/data\n/x"), "plain path"),
    "upwards": (("9221", "/data/../etc"), "plain path"),
    "dot": (("9221", "/data/."), "plain path"),
    "inside-the-program": (("9221", "/opt/forge/data"), "outside of the program's folder"),
    "the-program": (("9221", "/opt/forge"), "outside of the program's folder"),
}


@pytest.mark.engine
class TestRefusals:
    """Whatever is refused is refused before anything changes."""

    def test_arguments(self, host: Host) -> None:
        before = host.state("/opt", "/etc", "/data", "/srv", "/usr/local")
        for name, (argv, words) in BAD_ARGUMENTS.items():
            status, output = host.deploy(*argv)
            assert (status, words in output) == (1 if name in FOUND_LATER else 2, True), (name, output)
            assert output.startswith("deploy: error: "), (name, output)
        assert host.state("/opt", "/etc", "/data", "/srv", "/usr/local") == before
        assert host.deploy("63535", "/data")[0] == 0

    def test_other_users(self, host: Host) -> None:
        status, output = host.deploy("9221", "/tmp/x", user="nobody")
        assert (status, "only root" in output) == (1, True)

    def test_a_folder_with_an_odd_name(self, host: Host) -> None:
        host.unpack_package(("lm",), top="my forge")
        status, output = host.deploy("9221", "/data", top="my forge")
        assert (status, "must have a plain name" in output) == (1, True)

    @pytest.mark.parametrize(
        ("features", "words"),
        [(REFUSED, "lack"), (("no_such_flag",), "no_such_flag"), (None, "there is no list of features")],
        ids=["lacks", "lacks-one", "cannot-tell"],
    )
    def test_cpus(self, host: Host, features: tuple[str, ...] | None, words: str) -> None:
        host.ok("rm", "-r", "/opt/forge")
        host.unpack_package(features, uid=1234)
        before = host.state("/opt", "/etc", "/data")
        status, output = host.deploy("9221", "/data")
        assert (status, words in output) == (1, True), output
        assert "cpu-gate: error: " in output
        assert "pika v3.4.0 for R620 (sandybridge, debian12)" in output
        assert "deploy: error: this host's CPUs do not run the program (see above); nothing was changed" in output
        assert host.state("/opt", "/etc", "/data") == before

    def test_cpus_overridden(self, host: Host) -> None:
        host.unpack_package(REFUSED)
        status, output = host.deploy("9221", "/data", PIKAFORGE_SKIP_CPU_GATE="1")
        assert status == 0, output
        assert "WARNING: going on all the same" in output


@pytest.fixture(scope="module")
def booted(engine: Engine, product: Product) -> Iterator[Host]:
    """A host with systemd as its first process."""
    options = {**hosts.SYSTEMD, "network_mode": "none"}
    with hosts.container_of(engine, hosts.image(engine), ["/sbin/init"], **options) as container:
        host = Host(container=container, product=product, systemd=True)
        host.wait_booted()
        yield host


@pytest.fixture
def fresh(booted: Host) -> Iterator[Host]:
    """The booted host with a package that runs on it, and nothing deployed."""
    booted.unpack_package(("lm",))
    yield booted
    booted.run(
        "sh", "-c", "systemctl disable --now pika@9221 pika@9321; systemctl reset-failed; rm -rf /data /etc/pika"
    )


@pytest.mark.engine
@pytest.mark.xdist_group("booted")
class TestWithSystemd:
    def test_the_unit_of_a_package_is_not_hidden(self, fresh: Host) -> None:
        packaged, own = "/usr/lib/systemd/system/pika@.service", "/etc/systemd/system/pika@.service"
        fresh.ok("sh", "-c", f"rm -f {own}; sed 's|@TOP@|/opt/forge|' /opt/forge/systemd/pika@.service >{packaged}")
        try:
            fresh.deploy("9221", "/data")
            assert fresh.run("test", "-e", own)[0] != 0
            assert fresh.ok("systemctl", "show", "pika@9221", "-p", "FragmentPath").endswith(
                "/lib/systemd/system/pika@.service\n"
            )
            # A unit of another tree is none of this one.
            fresh.ok("sed", "-i", "s|/opt/forge|/opt/other|", packaged)
            fresh.deploy("9221", "/data")
            assert fresh.run("test", "-e", own)[0] == 0
        finally:
            fresh.ok("rm", "-f", packaged, own)

    def until(self, host: Host, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Wait for a state of the unit."""
        names = ("ActiveState", "SubState", "Result", "NRestarts", "ExecStartPre")
        return host.wait_unit("pika@9221", names, wanted)

    def test_verify_says_nothing(self, fresh: Host) -> None:
        """systemd-analyze exits with 0 also for unknown keys, so nothing may be said."""
        verify = ("systemd-analyze", "verify", "--man=no", "pika@9221.service")
        assert fresh.deploy("9221", "/data")[0] == 0
        assert fresh.run(*verify) == (0, "")
        # The same of a unit with a mistake, or this test sees nothing.
        fresh.ok("sed", "-i", "s/ExecStartPre=/ExecStartPree=/", "/etc/systemd/system/pika@.service")
        try:
            assert "ExecStartPree" in fresh.run(*verify)[1]
        finally:
            fresh.ok("rm", "/etc/systemd/system/pika@.service")

    def test_starts_the_instance_as_its_user(self, fresh: Host) -> None:
        mark = fresh.cursor()
        status, output = fresh.deploy("9221", "/data")
        assert status == 0, output
        assert output.endswith("deploy: pika@9221.service is enabled and started\n")
        self.until(fresh, lambda state: state["SubState"] == "running")
        assert "started as pika with -c /data/pika_9221/conf/pika.conf" in fresh.journal("pika@9221", mark)
        assert fresh.ok("systemctl", "is-enabled", "pika@9221") == "enabled\n"
        assert fresh.ok("cat", "/etc/pika/9221.env") == "CONF=/data/pika_9221/conf/pika.conf\n"

    def test_again_changes_nothing_and_restarts_nothing(self, fresh: Host) -> None:
        assert fresh.deploy("9221", "/data")[0] == 0
        fresh.ok("sh", "-c", "echo MALLOC_ARENA_MAX=2 >>/etc/pika/9221.env")
        process = fresh.ok("systemctl", "show", "-p", "MainPID", "pika@9221")
        before = fresh.state("/etc", "/data", "/opt")
        status, output = fresh.deploy("9221", "/data")
        assert status == 0, output
        assert fresh.state("/etc", "/data", "/opt") == before
        assert fresh.ok("systemctl", "show", "-p", "MainPID", "pika@9221") == process
        assert "MALLOC_ARENA_MAX=2\n" in fresh.ok("cat", "/etc/pika/9221.env")

    def test_start_on_other_cpus_is_refused_with_a_sentence(self, fresh: Host) -> None:
        """As if the disks had been moved to an older machine; and it does not try for ever."""
        assert fresh.deploy("9221", "/data")[0] == 0
        fresh.ok("systemctl", "stop", "pika@9221")
        fresh.unpack_package(REFUSED)
        mark = fresh.cursor()
        status, _ = fresh.run("systemctl", "start", "pika@9221")
        assert status == 1
        state = self.until(fresh, lambda state: state["ActiveState"] == "failed")
        assert "status=1" in state["ExecStartPre"]
        journal = fresh.journal("pika@9221", mark)
        assert "cpu-gate: error: this machine cannot run pika v3.4.0 for R620 (sandybridge, debian12)" in journal
        assert re.search(r"^ *CPU 0.*lacks?: no_such_flag$", journal, re.MULTILINE), journal
        assert "started as" not in journal

    @pytest.mark.parametrize("name", ["PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE"])
    def test_override_in_the_environment_file(self, fresh: Host, name: str) -> None:
        assert fresh.deploy("9221", "/data")[0] == 0
        fresh.ok("systemctl", "stop", "pika@9221")
        fresh.unpack_package(REFUSED)
        fresh.ok("sh", "-c", f"echo {name}=1 >>/etc/pika/9221.env")
        mark = fresh.cursor()
        fresh.ok("systemctl", "start", "pika@9221")
        self.until(fresh, lambda state: state["SubState"] == "running")
        journal = fresh.journal("pika@9221", mark)
        assert "cpu-gate: WARNING: going on all the same" in journal
        assert ("FORGE_SKIP_CPU_GATE is now PIKAFORGE_SKIP_CPU_GATE" in journal) is (name == "FORGE_SKIP_CPU_GATE")
        assert "started as pika" in journal
        before = fresh.ok("cat", "/etc/pika/9221.env")
        assert fresh.deploy("9221", "/data", PIKAFORGE_SKIP_CPU_GATE="1")[0] == 0
        assert fresh.ok("cat", "/etc/pika/9221.env") == before

    @pytest.mark.parametrize("name", ["PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE"])
    def test_override_of_deploy_holds_for_the_service(self, fresh: Host, name: str) -> None:
        fresh.unpack_package(REFUSED)
        for _ in range(2):
            status, output = fresh.deploy("9221", "/data", **{name: "1"})
            assert status == 0, output
        assert fresh.ok("cat", "/etc/pika/9221.env").splitlines()[1:] == ["PIKAFORGE_SKIP_CPU_GATE=1"]
        self.until(fresh, lambda state: state["SubState"] == "running")
        assert fresh.deploy("9221", "/data")[0] == 1, "the next deployment judges again"
