"""A server of ssh on loopback: `python ssh_server.py HOME`. It runs commands as the user who has started it.

HOME gets a key, the name of the server's own key, and the port, so that clients with this home come in. The port is
printed. A command is ended by the signals that its client sends, as with sshd, and by nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import asyncssh

ADDRESS = "127.0.0.1"


async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the command of a session."""
    child = await asyncio.create_subprocess_shell(
        process.command or "exit 1",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None and child.stderr is not None

    async def copy(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
        while block := await source.read(1 << 16):
            with suppress(OSError):  # the client is gone
                target.write(block)

    async def pass_on() -> None:
        try:
            await process.stdin.read()
        except asyncssh.SignalReceived as sent:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.Signals[f"SIG{sent.signal}"])

    signals = asyncio.ensure_future(pass_on())
    await asyncio.gather(copy(child.stdout, process.stdout), copy(child.stderr, process.stderr))
    process.exit(await child.wait())
    signals.cancel()


async def serve(home: Path) -> None:
    """Serve until the end of this process."""
    host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    server = await asyncssh.listen(
        ADDRESS,
        0,
        server_host_keys=[host],
        authorized_client_keys=asyncssh.import_authorized_keys(user.export_public_key().decode()),
        process_factory=run,
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
