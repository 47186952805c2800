"""The Ansible collection on three hosts with systemd, with the sample server from a tarball."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import hosts
import pytest
import yaml
from integration.test_ansible import COLLECTION, HOSTS, changed, environment, program
from integration.trees import Tree

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("fleet"), pytest.mark.long(150)]
PLUGINS = Path(__file__).with_name("ansible_plugins")
CHECK = "utils/lib/verb-check.sh"
VERB = b"""\
# shellcheck shell=sh
verb_about='ask the instance'
verb_help() { :; }
verb_main() { healthy "$port" || exit 2; }
"""
"""Where the package has no such verb."""
PORT = 9221
PASSWORD = "opensesame"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Hosts, and the folder of the control node."""

    top: Path
    group: hosts.Group

    def play(self, name: str, *words: str) -> CompletedProcess[str]:
        variables = {
            "server_product": "pika",
            "server_source": "tarball",
            "server_version": "v3.4.0-1",
            "server_model": "R620",
            "server_tarball": str(self.top / "pika-{image}-{model}.tar.gz"),
            "server_instances": [
                {
                    "port": PORT,
                    "base": "/data",
                    "settings": {"maxclients": 1000},
                    "password_file": str(self.top / "password"),
                }
            ],
            "server_metrics": True,
            "server_health_retries": 5,
            "ansible_become": False,
            "ansible_connection": "engine",
            "ansible_remote_tmp": "/root/.ansible",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        containers = {host: {"ansible_host": str(self.group.hosts[host].container.name)} for host in HOSTS}
        inventory = {"servers": {"hosts": containers, "vars": variables}}
        (self.top / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
        env = {
            **environment(self.top),
            "ANSIBLE_CONNECTION_PLUGINS": str(PLUGINS),
            "ANSIBLE_PIPELINING": "0",
            **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
        }
        return subprocess.run(
            [program("ansible-playbook"), "-i", str(self.top / "inventory.yml"), f"pikaforge.servers.{name}", *words],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )


@pytest.fixture(scope="module")
def fleet(engine: Engine, sample_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    program("ansible-playbook")
    top = tmp_path_factory.mktemp("fleet")
    shutil.copytree(COLLECTION, top / "collections/ansible_collections/pikaforge/servers")
    tree = sample_tree if CHECK in sample_tree.entries else sample_tree.changed({CHECK: (VERB, 0o644)})
    packed = tree.tar()
    (top / "pika-debian12-R620.tar.gz").write_bytes(packed if packed[:2] == b"\x1f\x8b" else gzip.compress(packed))
    (top / "password").write_text(f"{PASSWORD}\n")
    with hosts.together(engine) as group:
        for name in HOSTS:
            host = group.start(name, packages=("python3",))
            host.ok("mkdir", "-p", "/data", "/var/lib/prometheus/node-exporter")
        yield Fleet(top=top, group=group)


def test_a_host_that_fails_leaves_the_others_serving(fleet: Fleet) -> None:
    three = fleet.group.hosts["three"]
    three.ok("systemd-run", "--unit=other", "/usr/bin/python3", "-m", "http.server", str(PORT + 1000))
    hosts.wait(lambda: three.ok("ss", "-Hltn", f"sport = :{PORT + 1000}"), "the port is taken")
    before = three.state("/etc", "/data")
    foreseen = fleet.play("site", "--check", "--diff")
    assert foreseen.returncode == 0, foreseen.stdout + foreseen.stderr
    assert three.state("/etc", "/data") == before
    done = fleet.play("site")
    assert done.returncode != 0
    recap = done.stdout[done.stdout.index("PLAY RECAP") :]
    assert dict(re.findall(r"^(\w+) .*failed=(\d)", recap, re.MULTILINE)) == {"one": "0", "two": "0", "three": "1"}, (
        done.stdout
    )
    assert PASSWORD not in done.stdout + foreseen.stdout
    for name in ("one", "two"):
        fleet.group.hosts[name].wait_serving(PORT, password=PASSWORD)
    assert not three.exists(f"/data/pika_{PORT}")
    assert not three.exists(f"/etc/pika/{PORT}.env")


def test_a_second_run_mends_that_host_and_changes_no_other(fleet: Fleet) -> None:
    fleet.group.hosts["three"].ok("systemctl", "stop", "other")
    one, two, three = changed(fleet.play("site"))
    # Hosts are in the order of their names.
    assert sorted((one, two, three))[:2] == [0, 0], (one, two, three)
    assert max(one, two, three) > 0
    for name in HOSTS:
        host = fleet.group.hosts[name]
        assert host.ask(PORT, "SET", "key", name, password=PASSWORD) == "OK"
        assert "sesame" not in host.ok("sh", "-c", "cat /var/log/*.log /etc/pika/* 2>/dev/null; ls -R /tmp /root")
    for words in ((), ("--check", "--diff")):
        assert changed(fleet.play("site", *words)) == [0, 0, 0]
    assert [fleet.group.hosts[name].ask(PORT, "GET", "key", password=PASSWORD) for name in HOSTS] == [*HOSTS]
