"""A connection of Ansible to containers of the engine: the hosts of tests, which have no sshd."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

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
    """Programs by `exec`, files as tar archives."""

    transport = "engine"
    has_pipelining = False
    _connected = False

    def _connect(self) -> Connection:
        import docker

        if not self._connected:
            client = docker.from_env(timeout=600)
            self._api = client.api
            self._name = str(self.get_option("remote_addr"))
            self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a line of shell."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        assert not in_data, "it has no pipelining"
        made = self._api.exec_create(self._name, ["sh", "-c", cmd])
        out, err = self._api.exec_start(made["Id"], demux=True)
        return int(self._api.exec_inspect(made["Id"])["ExitCode"]), out or b"", err or b""

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file to the host."""
        super().put_file(in_path, out_path)
        stream, content = io.BytesIO(), Path(in_path).read_bytes()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            member = tarfile.TarInfo(Path(out_path).name)
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))
        self._api.put_archive(self._name, str(Path(out_path).parent), stream.getvalue())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the host."""
        super().fetch_file(in_path, out_path)
        parts: Any = self._api.get_archive(self._name, in_path)[0]
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            assert file is not None
            Path(out_path).write_bytes(file.read())

    def close(self) -> None:
        """Forget the engine."""
        self._connected = False
