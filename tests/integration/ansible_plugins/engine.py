"""A connection of Ansible to containers of the engine: the hosts of tests, which have no sshd.

Each task of Ansible is a process of its own, so it calls the engine's client, which starts ten times as fast as its
library is imported. Modules come on standard input (`has_pipelining`): one call for each task.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: engine
short_description: Run tasks in a container
description: For tests.
options:
  remote_addr:
    description: The name of the container.
    default: inventory_hostname
    vars:
      - name: ansible_host
"""


class Connection(ConnectionBase):
    """Programs, and files, by `docker exec`."""

    transport = "engine"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _run(self, *argv: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
        name = str(self.get_option("remote_addr"))
        done = subprocess.run(
            ["docker", "exec", "--interactive", name, *argv], input=stdin or b"", capture_output=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a line of shell."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run("sh", "-c", cmd, stdin=in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file to the host."""
        super().put_file(in_path, out_path)
        status, _, said = self._run(
            "sh", "-c", 'umask 077; cat >"$1"', "sh", out_path, stdin=Path(in_path).read_bytes()
        )
        assert status == 0, said

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the host."""
        super().fetch_file(in_path, out_path)
        status, content, said = self._run("cat", in_path)
        assert status == 0, said
        Path(out_path).write_bytes(content)

    def close(self) -> None:
        """Forget the engine."""
        self._connected = False
