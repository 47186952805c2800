"""A server of ssh on loopback: `python ssh_server.py HOME`. It runs commands as the user who has started it.

HOME gets a key, the name of the server's own key, and the port, so that clients with this home come in. The port is
printed. A command is ended by the signals that its client sends, as with sshd, and by nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
import sys
from contextlib import suppress
from pathlib import Path

import asyncssh

ADDRESS = "127.0.0.1"


class Command(asyncssh.SSHServerSession[bytes]):
    """A session with one command."""

    _channel: asyncssh.SSHServerChannel[bytes]
    _command = ""
    _group = 0
    """Its processes, once it has begun."""

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def session_started(self) -> None:
        self._running = asyncio.ensure_future(self._run())

    def signal_received(self, signal: str) -> None:
        if self._group:
            with suppress(ProcessLookupError):
                os.killpg(self._group, getattr(signals, f"SIG{signal}"))

    async def _run(self) -> None:
        child = await asyncio.create_subprocess_shell(
            self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._group = child.pid
        assert child.stdout is not None and child.stderr is not None
        await asyncio.gather(self._copy(child.stdout, None), self._copy(child.stderr, asyncssh.EXTENDED_DATA_STDERR))
        status = await child.wait()
        with suppress(OSError):  # the client is gone
            self._channel.exit(status)

    async def _copy(self, source: asyncio.StreamReader, kind: int | None) -> None:
        while block := await source.read(1 << 16):
            with suppress(OSError):
                self._channel.write(block, kind)


class Server(asyncssh.SSHServer):
    """A connection of a client."""

    def session_requested(self) -> Command:
        """Give each command a session of its own."""
        return Command()


async def serve(home: Path) -> None:
    """Serve until the end of this process."""
    host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    server = await asyncssh.create_server(
        Server,
        ADDRESS,
        0,
        server_host_keys=[host],
        authorized_client_keys=asyncssh.import_authorized_keys(user.export_public_key().decode()),
        encoding=None,
    )
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, parents=True)
    port = server.get_port()
    (folder / "known_hosts").write_text(f"[{ADDRESS}]:{port} {host.export_public_key().decode()}", encoding="ascii")
    (folder / "config").write_text(f"Host {ADDRESS}\n  Port {port}\n", encoding="ascii")
    (folder / "id_ed25519").touch(mode=0o600)
    (folder / "id_ed25519").write_bytes(user.export_private_key())
    print(port, flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
