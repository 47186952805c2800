"""The sockets of HTTP connections, so that what they wait for can be ended by another thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from requests.adapters import HTTPAdapter
from urllib3.poolmanager import pool_classes_by_scheme

from pikaforge.host.http import HttpError

LOOK = 0.5
"""Seconds between two ends of what goes on after its time."""


class WatchedAdapter(HTTPAdapter):
    """An adapter that knows the sockets of its connections."""

    def __init__(self) -> None:
        self.sockets: WeakSet[socket.socket] = WeakSet()
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools."""
        super().init_poolmanager(*arguments, **options)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make the pools of a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: _pool_of(pool, self.sockets) for scheme, pool in pool_classes_by_scheme.items()
        }

    def shut(self) -> None:
        """End all that connections wait for. The socket's own method: that of TLS would go on in the clear."""
        for each in list(self.sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)


def _pool_of(pool: Any, sockets: WeakSet[socket.socket]) -> Any:
    """Return a class of pools whose connections say which sockets they have."""

    def connect(connection: Any) -> None:
        pool.ConnectionCls.connect(connection)
        sockets.add(connection.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": type("Watched", (pool.ConnectionCls,), {"connect": connect})})


@contextlib.contextmanager
def ended_after(adapter: WatchedAdapter, seconds: float) -> Iterator[None]:
    """End requests of the block that are not answered whole in so many seconds, however slowly bytes come and go.

    A timeout of a socket is no bound: a server may send a byte now and then, in a header or a body, or take one.

    Raises:
        HttpError: the time is over; or another one.
    """
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):  # again for each new try
            over.set()
            adapter.shut()
            wait = LOOK

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except HttpError:
        if not over.is_set():
            raise
    finally:
        done.set()
        watcher.join()
    if over.is_set():  # a body without a length seems to have ended
        raise HttpError(f"there was no whole answer within {seconds:.0f} seconds", "slow")
