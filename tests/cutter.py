"""A network that is cut: what goes to a server on this machine and back passes, until so many bytes have passed."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a socket that is closed sends a reset, and not the end of what it has sent (socket(7))."""


@dataclass(slots=True)
class Cutter:
    """Passes connections on, and cuts all of them after some bytes."""

    server: tuple[str, int]
    listener: socket.socket
    left: int = 1 << 60
    """Bytes that may pass before the next cut."""
    passed: int = 0
    """Bytes that have passed."""
    cuts: int = 0
    """Cuts that hit a connection."""
    _open: set[socket.socket] = field(default_factory=set)
    _one: threading.Lock = field(default_factory=threading.Lock)

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.listener.getsockname()[1])

    def cut_after(self, size: int) -> None:
        """Cut once so many more bytes have passed."""
        with self._one:
            self.left = size

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(self.server)
                except OSError:  # as if it had been cut
                    client.close()
                    continue
                with self._one:
                    self._open |= {client, server}
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                with self._one:
                    allowed = min(len(data), self.left)
                    self.left -= allowed
                    self.passed += allowed
                target.sendall(data[:allowed])
                if allowed < len(data):
                    self._cut()
                    return
            target.shutdown(socket.SHUT_WR)

    def _cut(self) -> None:
        with self._one:
            self.cuts += 1
            self.left = 1 << 60
            for end in self._open:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._open.clear()


@contextmanager
def cutter(host: str, port: int) -> Iterator[Cutter]:
    """A way to a server that can be cut."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        way = Cutter((host, port), listener)
        threading.Thread(target=way.serve, daemon=True).start()
        try:
            yield way
        finally:
            listener.close()
            for end in set(way._open):
                end.close()


def again_and_again(way: Cutter, chance: random.Random, most: int) -> Iterator[int]:
    """Let the way be cut at a random byte each time the loop comes round; yields numbers from 0 up, without an end."""
    number = 0
    while True:
        way.cut_after(chance.randrange(most))
        yield number
        number += 1
