"""Hosts that Ansible sets up: containers, to which it has a connection of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import hosts
import yaml
from integration.test_ansible import COLLECTION, environment, program

PLUGINS = Path(__file__).with_name("ansible_plugins")
PORT = 9221
PASSWORD = "opensesame"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Hosts, and the folder of the control node."""

    top: Path
    group: hosts.Group

    def play(
        self, name: str, *words: str, on: Mapping[str, Mapping[str, object]], values: Mapping[str, object]
    ) -> CompletedProcess[str]:
        """Run a playbook on hosts, each with variables of its own besides those of all."""
        variables = {
            "server_product": "pika",
            "server_health_retries": 5,
            "ansible_become": False,
            "ansible_connection": "engine",
            "ansible_remote_tmp": "/root/.ansible",
            "ansible_python_interpreter": "/usr/bin/python3",
            **values,
        }
        containers = {
            host: {"ansible_host": str(self.group.hosts[host].container.name), **own} for host, own in on.items()
        }
        inventory = {"servers": {"hosts": containers, "vars": variables}}
        (self.top / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
        env = {
            **environment(self.top),
            "ANSIBLE_CONNECTION_PLUGINS": str(PLUGINS),
            **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
        }
        done = subprocess.run(
            [program("ansible-playbook"), "-i", str(self.top / "inventory.yml"), f"pikaforge.servers.{name}", *words],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert PASSWORD not in done.stdout + done.stderr
        return done

    def trees(self) -> dict[str, str]:
        """The folder of the program that is set for the instance of each host."""
        lines = {
            name: host.sh(f"grep ^TREE= /etc/pika/{PORT}.env")
            for name, host in self.group.hosts.items()
            if host.systemd
        }
        return {name: line.strip().removeprefix("TREE=/opt/") for name, line in lines.items()}

    def process(self, name: str) -> str:
        """The process of the instance of a host."""
        return self.group.hosts[name].show(f"pika@{PORT}.service", "MainPID")["MainPID"]


def control_node(top: Path) -> Path:
    """Put the collection, and a password, into the folder of the control node."""
    shutil.copytree(COLLECTION, top / "collections/ansible_collections/pikaforge/servers")
    (top / "password").write_text(f"{PASSWORD}\n")
    return top
