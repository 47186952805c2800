"""A server that speaks RESP, for the scripts on hosts: -c CONF. How it behaves is a setting of its configuration.

`behaviour`: `serves`; `dies` at once with status 3; `silent` never answers; `hangs` answers, and ignores SIGTERM.
"""

from __future__ import annotations

import signal
import socketserver
import sys
import threading
import time
from pathlib import Path


def _settings(path: str) -> dict[str, str]:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, mark, value in lines if mark}


class _Handler(socketserver.StreamRequestHandler):
    settings: dict[str, str]

    def _request(self) -> list[bytes]:
        words = []
        for _ in range(int(self.rfile.readline()[1:] or b"0")):
            size = int(self.rfile.readline()[1:])
            words.append(self.rfile.read(size + 2)[:-2])
        return words

    def handle(self) -> None:
        password = self.settings.get("requirepass", "")
        admitted = not password
        while words := self._request():
            if self.settings.get("behaviour") == "silent":
                time.sleep(60)
            name = words[0].upper()
            if name == b"AUTH":
                admitted = words[1].decode() == password
                answer = "+OK" if admitted else "-ERR invalid password"
            elif not admitted:
                answer = "-NOAUTH Authentication required."
            elif name == b"PING":
                answer = "+PONG"
            else:
                answer = f"-ERR unknown command {name.decode()}"
            self.wfile.write(f"{answer}\r\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    """Serve until SIGTERM."""
    settings = _settings(sys.argv[2])
    sys.stderr.write(f"demo: starts on {settings['port']}\n")
    if settings.get("behaviour") == "dies":
        sys.stderr.write("demo: fatal: \x1b[31mcannot go on\n")
        sys.exit(3)
    _Handler.settings = settings
    server = _Server(("127.0.0.1", int(settings["port"])), _Handler)

    def stop(*_: object) -> None:
        if settings.get("behaviour") != "hangs":
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(0.1)


if __name__ == "__main__":
    main()
