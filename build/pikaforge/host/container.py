"""Containers that were made: the server in one, and files that come out of one."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.connection import brief, load_sdk

if TYPE_CHECKING:
    from pikaforge.host.connection import Container

ROOT = "/forge"
CHUNK = 1 << 20
GONE = 409
"""The status with which the engine answers who wants to signal a container that does not run."""


class ContainerServer:
    """A server in a container, behind a published port."""

    root = ROOT

    def __init__(self, container: Container, host: str, port: int) -> None:
        self._container = container
        self._host = host
        self.port = port

    def address(self) -> tuple[str, int]:
        self._container.reload()
        published = (self._container.ports or {}).get(f"{self.port}/tcp") or []
        if not published:
            raise ConnectionRefusedError("the container's port is not published: it has ended")
        return self._host, int(published[0]["HostPort"])

    def wait(self, timeout: float) -> int | None:
        import requests  # noqa: PLC0415

        try:
            return int(self._container.wait(timeout=timeout)["StatusCode"])
        except (requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout):
            # What the SDK raises when the time is over; the container runs on.
            return None

    def signal(self, name: str) -> None:
        sdk = load_sdk()
        try:
            self._container.kill(signal=f"SIG{name}")
        except sdk.errors.APIError as error:
            if error.status_code != GONE:  # as with processes: a signal for one that has ended is no error
                raise

    def log_text(self) -> str:
        return bytes(self._container.logs()).decode("utf-8", "replace")

    def again(self) -> None:
        self._container.start()

    def peer(self) -> str:
        self._container.reload()
        networks: Mapping[str, Any] = self._container.attrs["NetworkSettings"]["Networks"]
        return next((str(entry["IPAddress"]) for entry in networks.values() if entry["IPAddress"]), "")

    def today(self) -> str:
        return self._execute("date", "+%Y%m%d").strip()

    def fetch(self, folder: str) -> bytes | None:
        sdk = load_sdk()
        try:
            stream, _ = self._container.get_archive(f"{ROOT}/{folder}", chunk_size=CHUNK)
        except sdk.errors.NotFound:
            return None
        return b"".join(stream)

    def rest(self) -> Mapping[str, int]:
        folder = self._process()
        status = self._execute("cat", f"{folder}/status")
        return {"fds": len(self._execute("ls", f"{folder}/fd").split()), **process.held(status)}

    def mapped(self) -> tuple[str, ...]:
        return process.mapped(self._execute("cat", f"{self._process()}/maps"))

    def _process(self) -> str:
        """The folder of the server's process under /proc."""
        # The engine's init is process 1, and the server its only child; what is executed here is no child of init.
        return f"/proc/{self._execute('cat', '/proc/1/task/1/children').split()[0]}"

    def _execute(self, *argv: str) -> str:
        """What a program prints in the container; the SDK's own exec gives no exit status with a stream."""
        api: Any = self._container.client
        api = api.api
        try:
            made = api.exec_create(self._container.id, list(argv))
            output = bytes(api.exec_start(made["Id"]))
            status = api.exec_inspect(made["Id"])["ExitCode"]
        except load_sdk().errors.APIError as error:  # the server has ended, and its container with it
            raise HostError(f"`{' '.join(argv)}` cannot be run in the container: {brief(error)}") from error
        if status != 0:
            said = " ".join(output.decode("utf-8", "replace").split())[:200]
            raise HostError(f"`{' '.join(argv)}` in the container ended with {status}: {said}")
        return output.decode("utf-8", "replace")


class _Stream:
    """A file of the chunks that the SDK yields, as much of one as tarfile's stream mode needs."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while len(self._rest) < size:
            block = next(self._chunks, None)
            if block is None:
                break
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def fetch_file(container: Container, path: str, target: Path) -> None:
    """Write one regular file of the container to `target`."""
    sdk = load_sdk()
    try:
        stream, _ = container.get_archive(path, chunk_size=CHUNK)
    except sdk.errors.NotFound as error:
        raise HostError(f"the job left no {path}", where=f"container {container.name}") from error
    reader: Any = _Stream(stream)  # tarfile asks a stream for nothing but read
    with tarfile.open(fileobj=reader, mode="r|") as tar:
        member = tar.next()
        content = tar.extractfile(member) if member is not None else None
        if content is None:
            raise HostError(f"{path} is not a regular file", where=f"container {container.name}")
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK)
