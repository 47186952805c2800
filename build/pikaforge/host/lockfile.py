"""sources.lock: pins of the inputs, so that they stay what they were when they were first used.

The file is JSON with sorted keys. The tool writes it, and the user commits it. A pin that is there is enforced. A
missing one is written on first use, with a notice, unless `--locked` forbids it.

Several runs may write pins at the same time. Each reads the file again before it changes it, under a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pikaforge.errors import PinError
from pikaforge.host.durable import write_atomically

NAME = "sources.lock"
VERSION = 1
REFRESH = "if the change is wanted: `invoke lock` refreshes the pins and shows the difference"


class Lock:
    """The pins, by section ("sources", "images") and entry.

    An entry is a flat mapping of pin name to value: `commit`, `patch pull-988`, `submodule third/x`, `digest`.
    """

    def __init__(self, path: Path, *, strict: bool = False, refresh: bool = False) -> None:
        """Read the lock file.

        Args:
            path: of sources.lock; it need not exist.
            strict: refuse what is not pinned (`--locked`).
            refresh: replace pins that differ instead of refusing (`invoke lock`).

        Raises:
            ConfigError: the file cannot be read.
        """
        self.path = path
        self.strict = strict
        self.refresh = refresh
        self.notices: list[str] = []
        self._mutex = threading.Lock()
        self._data = self._read()

    @contextmanager
    def _latest(self) -> Iterator[None]:
        """Keep others from writing while the block runs, and read what they have written.

        The lock is that of the folder: a file beside sources.lock would be one more for the user to ignore.
        """
        with self._mutex:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(OSError):  # a network file system may not lock folders
                    fcntl.flock(folder, fcntl.LOCK_EX)
                self._data = self._read()
                yield
            finally:
                os.close(folder)

    def _read(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the pins of the file; none if there is no file."""
        found: dict[str, dict[str, dict[str, str]]] = {"sources": {}, "images": {}}
        if not self.path.exists():
            return found
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise PinError(
                    f"{NAME} has version {data['version']!r}; this tool reads version {VERSION}",
                    where=str(self.path),
                    hint="update the tool, or remove the file to pin anew",
                )
            for section, entries in found.items():
                for name, pins in data.get(section, {}).items():
                    entries[name] = {str(k): str(v) for k, v in pins.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PinError(
                f"{NAME} cannot be read: {error}",
                where=str(self.path),
                hint="restore it from version control, or remove it to pin anew",
            ) from error
        return found

    def pins(self, section: str, entry: str) -> Mapping[str, str]:
        """Return the pins of an entry; empty if there are none."""
        return dict(self._data[section].get(entry, {}))

    def all(self) -> list[tuple[str, str, str, str]]:
        """Return all pins: section, entry, name and value of each."""
        return [
            (section, entry, pin, value)
            for section, entries in self._data.items()
            for entry, pins in entries.items()
            for pin, value in pins.items()
        ]

    def check(self, section: str, entry: str, pin: str, value: str) -> None:
        """Compare a value with its pin, or write the pin.

        Raises:
            ConfigError: the pin has another value, or there is none and the lock is strict.
        """
        if self._data[section].get(entry, {}).get(pin) == value:
            return
        with self._latest():
            old = self._data[section].get(entry, {}).get(pin)
            if old == value:  # another run has written it
                return
            if old is None and self.strict:
                raise PinError(
                    f"--locked: {pin} of {entry} is not pinned (it is {value} now)",
                    where=str(self.path),
                    hint="run once without --locked, or `invoke lock`, and commit sources.lock",
                )
            if old is not None and not self.refresh:
                raise PinError(
                    f"{pin} of {entry} has changed: {NAME} says {old}, it is {value} now",
                    where=str(self.path),
                    hint=REFRESH,
                )
            self._data[section].setdefault(entry, {})[pin] = value
            self.notices.append(
                f"{NAME}: {entry}: {pin} " + (f"pinned to {value}" if old is None else f"{old} -> {value}")
            )
            self._write()

    def replace(self, section: str, entry: str, pin: str, value: str) -> None:
        """Write a pin whose change is expected, with a notice."""
        with self._latest():
            old = self._data[section].setdefault(entry, {}).get(pin)
            self._data[section][entry][pin] = value
            self.notices.append(f"{NAME}: {entry}: {pin} {old} -> {value}")
            self._write()

    def forget(self, section: str, entry: str) -> None:
        """Remove an entry's pins."""
        with self._latest():
            if self._data[section].pop(entry, None) is not None:
                self._write()

    def _write(self) -> None:
        body: dict[str, object] = {"version": VERSION, **self._data}
        write_atomically(self.path, json.dumps(body, indent=2, sort_keys=True) + "\n")
