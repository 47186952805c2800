"""Containers that exist: a server in a container, and files that are copied into or out of one."""

from __future__ import annotations

import io
import posixpath
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pikaforge.errors import HostError
from pikaforge.host import process, replies
from pikaforge.host.archives import first_file, tar_size
from pikaforge.host.connection import engine_errors, load_sdk
from pikaforge.host.job import OUTPUT_LIMIT, Executed

if TYPE_CHECKING:
    from pikaforge.host.connection import Container

ROOT = "/forge"
CHUNK = 1 << 20
TRIES, PAUSE = 50, 0.1
"""How often, and after how many seconds, the engine is asked again how a command has ended."""
RUNNING = "running"
"""The state of a container that runs."""


class ContainerServer:
    """A server in a container, behind a published port."""

    root = ROOT

    def __init__(self, container: Container, host: str, port: int) -> None:
        self._container = container
        self._host = host
        self.port = port

    @engine_errors()
    def address(self) -> tuple[str, int]:
        self._container.reload()
        published = (self._container.ports or {}).get(f"{self.port}/tcp") or []
        # Podman still names the port of a container that has ended. By now, another one may have it.
        if not published or self._container.status != RUNNING:
            raise ConnectionRefusedError("the container's port is not published: it has ended")
        return self._host, int(published[0]["HostPort"])

    @engine_errors()
    def wait(self, timeout: float) -> int | None:
        from pikaforge.host.http_session import LOST, timed_out  # noqa: PLC0415

        try:
            return int(self._container.wait(timeout=timeout)["StatusCode"])
        except LOST as error:
            if not timed_out(error):
                raise
            return None  # the container runs on

    @engine_errors()
    def signal(self, name: str) -> None:
        sdk = load_sdk()
        try:
            self._container.kill(signal=f"SIG{name}")
        except sdk.errors.APIError:
            # As with processes, a signal for a container that has ended is no error. Engines report it differently.
            self._container.reload()
            if self._container.status == RUNNING:
                raise

    def execute(self, argv: Sequence[str], *, timeout: float) -> Executed:
        program, *arguments = argv
        # The engine's interface cannot end a command; the program of coreutils can.
        bounded = ["timeout", "-k", "5", f"{timeout:g}", posixpath.join(ROOT, program), *arguments]
        client = self._container.client
        assert client is not None  # the engine has made it
        api = client.api
        output = bytearray()
        with engine_errors(f"`{' '.join(argv)}` cannot be run in the container"):  # the server may have ended
            started = api.exec_create(self._container.id, bounded, workdir=ROOT)["Id"]
            for chunk in api.exec_start(started, stream=True):
                output += chunk[: OUTPUT_LIMIT - len(output)]
            for _ in range(TRIES):
                # The engine may see the end of the output before that of the program.
                status: int | None = api.exec_inspect(started)["ExitCode"]
                if status is not None:
                    return Executed(status=status, output=bytes(output))
                process.pause(PAUSE)
        raise HostError(f"the engine does not say how `{' '.join(argv)}` has ended")

    @engine_errors()
    def log_text(self) -> str:
        return bytes(self._container.logs()).decode("utf-8", "replace")

    @engine_errors()
    def restart(self) -> None:
        self._container.start()

    @engine_errors()
    def peer(self) -> str:
        self._container.reload()
        return replies.parse(replies.ContainerReply, self._container.attrs).address

    def today(self) -> str:
        return self._execute("date", "+%Y%m%d").strip()

    @engine_errors()
    def fetch(self, folder: str) -> bytes | None:
        sdk = load_sdk()
        try:
            stream, _ = self._container.get_archive(f"{ROOT}/{folder}", chunk_size=CHUNK)
        except sdk.errors.NotFound:
            return None
        return b"".join(stream)

    def resources(self) -> Mapping[str, int]:
        folder = self._process()
        status = self._execute("cat", f"{folder}/status")
        return {"fds": len(self._execute("ls", f"{folder}/fd").split()), **process.resources(status)}

    def mapped_files(self) -> tuple[str, ...]:
        return process.mapped_files(self._execute("cat", f"{self._process()}/maps"))

    def _process(self) -> str:
        """Return the folder of the server's process below /proc."""
        # The engine's init is process 1. The server is its only child: programs that are executed here are none.
        return f"/proc/{self._execute('cat', '/proc/1/task/1/children').split()[0]}"

    def _execute(self, *argv: str) -> str:
        """Run a program in the container; return what it prints."""
        with engine_errors(f"`{' '.join(argv)}` cannot be run in the container"):  # the server may have ended
            status, printed = self._container.exec_run(list(argv))
        output = printed if isinstance(printed, bytes) else b"".join(printed)
        if status != 0:
            said = " ".join(output.decode("utf-8", "replace").split())[:200]
            raise HostError(f"`{' '.join(argv)}` in the container ended with {status}: {said}")
        return output.decode("utf-8", "replace")


def unpack(container: Container, folder: str, archive: Path | bytes, *, bare: bool) -> None:
    """Unpack a tar archive into a folder of the container.

    Args:
        container: running or not.
        folder: is there.
        archive: plain or compressed.
        bare: whether to send nothing after the archive's end. Podman stops reading there. If padding is still on its
            way then, some requests fail (buildah issue 6573).
    """
    with archive.open("rb") if isinstance(archive, Path) else io.BytesIO(archive) as stream:
        container.put_archive(folder, _until(stream, tar_size(stream)) if bare else stream)


def _until(stream: BinaryIO, end: int) -> Iterator[bytes]:
    stream.seek(0)
    while end > 0 and (block := stream.read(min(CHUNK, end))):
        end -= len(block)
        yield block


def fetch_file(container: Container, path: str, target: Path) -> None:
    """Copy a regular file of a container to `target`.

    Raises:
        HostError: it is not there, or is no regular file.
    """
    sdk = load_sdk()
    try:
        stream, _ = container.get_archive(path, chunk_size=CHUNK)
    except sdk.errors.NotFound as error:
        raise HostError(f"the job left no {path}", where=f"container {container.name}") from error
    with first_file(stream) as content:
        if content is None:
            raise HostError(f"{path} is not a regular file", where=f"container {container.name}")
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK)
