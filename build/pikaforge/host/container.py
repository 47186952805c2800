"""Containers that exist: a server in a container, and files that are copied into or out of one."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.errors import EngineError
from pikaforge.host import process, replies
from pikaforge.host.archives import first_file, members_of, tar_size
from pikaforge.host.confinement import (
    CHUNK,
    FACTS_LIMIT,
    FETCH_LIMIT,
    SERVER_LOG_LIMIT,
    OutputError,
    copied,
    owned_by,
    start_of,
    too_large,
    whole,
)
from pikaforge.host.connection import engine_errors, load_sdk, refuse_error
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.job import OUTPUT_LIMIT, PACKED, Executed, Job

if TYPE_CHECKING:
    from docker import APIClient  # noqa: TID251  # its type

    from pikaforge.host.connection import Container
    from pikaforge.host.engine_calls import EngineCalls

ROOT = "/forge"
TRIES, PAUSE = 50, 0.1
"""How often, and after how many seconds, the engine is asked again how a command has ended."""
MEMBERS = 1000
"""Files of a folder that is read: a job may have made any number of empty ones."""
RUNNING = "running"
"""The state of a container that runs."""


class ContainerServer:
    """A server in a container, behind a published port."""

    root = ROOT

    def __init__(self, container: Container, calls: EngineCalls, host: str, port: int) -> None:
        self._container = container
        self._calls = calls
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
        bounded = ("timeout", "-k", "5", f"{timeout:g}", posixpath.join(ROOT, program), *arguments)
        return self._executed(argv, bounded, _first, seconds=timeout)

    @engine_errors()
    def log_text(self) -> str:
        return printed(self._container, self._calls).decode("utf-8", "replace")

    @engine_errors()
    def restart(self) -> None:
        self._container.start()

    @engine_errors()
    def peer(self) -> str:
        self._container.reload()
        return replies.parse(replies.ContainerReply, self._container.attrs).address

    def today(self) -> str:
        return self._read("date", "+%Y%m%d").strip()

    @engine_errors()
    def fetch(self, folder: str) -> bytes | None:
        with sent(self._container, f"{ROOT}/{folder}") as stream:
            return None if stream is None else whole(stream, FETCH_LIMIT, f"the server's folder {folder}")

    def resources(self) -> Mapping[str, int]:
        folder = self._process()
        status = self._read("cat", f"{folder}/status")
        return {"fds": len(self._read("ls", f"{folder}/fd").split()), **process.resources(status)}

    def mapped_files(self) -> tuple[str, ...]:
        return process.mapped_files(self._read("cat", f"{self._process()}/maps"))

    def _process(self) -> str:
        """Return the folder of the server's process below /proc."""
        # The engine's init is process 1. The server is its only child: programs that are executed here are none.
        children = self._read("cat", "/proc/1/task/1/children").split()
        if not children:
            raise EngineError("the server has ended")
        return f"/proc/{children[0]}"

    def _read(self, *argv: str) -> str:
        """Run a program that only reads in the container; return what it prints."""
        done = self._executed(argv, argv, lambda pieces: whole(pieces, FACTS_LIMIT, f"what `{' '.join(argv)}` prints"))
        output = done.output.decode("utf-8", "replace")
        if done.status != 0:
            said = " ".join(output.split())[:200]
            raise EngineError(f"`{' '.join(argv)}` in the container ended with {done.status}: {said}")
        return output

    def _executed(
        self, asked: Sequence[str], argv: Sequence[str], take: Callable[[Iterator[bytes]], bytes], seconds: float = 0.0
    ) -> Executed:
        """Run a program in the container.

        Args:
            asked: its words, for errors.
            argv: the words that are run.
            take: returns what is kept of its output.
            seconds: how long it may take.
        """
        from pikaforge.host.engine_calls import QUESTION, executed  # noqa: PLC0415

        client = self._container.client
        assert client is not None  # it has made the container
        api, limit = client.api, seconds + QUESTION
        cannot = f"`{' '.join(asked)}` cannot be run in the container"  # the server may have ended
        with engine_errors(cannot), self._calls.closing(), self._calls.cut_after(limit):
            # With its id, because the SDK gives no exit status of what it streams.
            id_ = api.exec_create(self._container.id, list(argv), workdir=ROOT)["Id"]
            output = take(executed(api, id_, silence=limit))
            return Executed(status=self._status(api, id_, asked), output=output)

    @staticmethod
    def _status(api: APIClient, id_: str, argv: Sequence[str]) -> int:
        for _ in range(TRIES):
            # The engine may see the end of the output before that of the program.
            status: int | None = api.exec_inspect(id_)["ExitCode"]
            if status is not None:
                return status
            process.pause(PAUSE)
        raise EngineError(f"the engine does not say how `{' '.join(argv)}` has ended")


def _first(pieces: Iterator[bytes]) -> bytes:
    """Return the first bytes of an output. The rest is read, too: its program waits until it is."""
    output = bytearray()
    for piece in pieces:
        output += piece[: OUTPUT_LIMIT - len(output)]
    return bytes(output)


def printed(container: Container, calls: EngineCalls) -> bytes:
    """Return what a container has printed so far, from its start, as far as that is read."""
    from pikaforge.host.engine_calls import WORK  # noqa: PLC0415

    with calls.closing(), calls.cut_after(WORK):
        return start_of(container.logs(stream=True, follow=False), SERVER_LOG_LIMIT)


def unpack(container: Container, folder: str, archive: Path | bytes, *, bare: bool, owner: int | None = None) -> None:
    """Unpack a tar archive into a folder of the container.

    Args:
        container: running or not.
        folder: is there.
        archive: plain or compressed.
        bare: whether to send nothing after the archive's end. Podman stops reading there. If padding is still on its
            way then, some requests fail (buildah issue 6573).
        owner: user and group of all that is in it; None: those of the archive.
    """
    with archive.open("rb") if isinstance(archive, Path) else io.BytesIO(archive) as stream:
        end = tar_size(stream) if bare else None
        stream.seek(0)
        container.put_archive(folder, owned_by(owner, stream, end))


def fetch_outputs(container: Container, job: Job, into: Path) -> dict[str, Path]:
    """Copy the outputs of a job that has succeeded into a folder; return them by their paths in the job.

    Raises:
        OutputError: as for `fetch_file` and `fetch_folder`.
    """
    outputs: dict[str, Path] = {}
    packed: dict[str, tuple[Path, int]] = {}
    for path in (*job.outputs, *job.facts):
        outputs[path] = target = into / posixpath.basename(path)
        limit = FACTS_LIMIT if path in job.facts else job.bounds.file
        if posixpath.dirname(path) == PACKED:
            packed[target.name] = target, limit
        else:
            fetch_file(container, f"{ROOT}/{path}", target, limit=limit)
    if packed:
        fetch_folder(container, f"{ROOT}/{PACKED}", packed)
    return outputs


def fetch_file(container: Container, path: str, target: Path, *, limit: int) -> None:
    """Copy a regular file of a container to `target`.

    Raises:
        OutputError: it is not there, is no regular file, or has more bytes than the limit.
    """
    where = f"container {container.name}"
    with sent(container, path) as stream:
        if stream is None:
            raise OutputError(f"the job left no {path}", where=where)
        with first_file(stream) as content:
            if content is None:
                raise OutputError(f"{path} is not a regular file", where=where)
            with full_disk_errors(target.parent):
                copied(content, target, limit, path)


def fetch_folder(container: Container, folder: str, targets: Mapping[str, tuple[Path, int]]) -> None:
    """Copy regular files of a folder of a container, in one request.

    Args:
        container: running or not.
        folder: its path. All that is in it is read.
        targets: where each file goes, and how many bytes it may have at most, by name.

    Raises:
        OutputError: one is not there, is no regular file, or is too large; or the folder has more than all may have, or
            more than `MEMBERS` files.
    """
    where = f"container {container.name}"
    left = sum(limit for _, limit in targets.values())
    missing = dict(targets)
    with sent(container, folder) as stream:
        for number, (name, size, content) in enumerate(() if stream is None else members_of(stream)):
            if number > MEMBERS:
                raise OutputError(f"{folder} has more than {MEMBERS} files", where=where)
            left -= size
            if left < 0:
                raise too_large(folder, sum(limit for _, limit in targets.values()), where=where)
            inner = name.partition("/")[2]
            if inner not in missing:
                continue
            if content is None:
                raise OutputError(f"{folder}/{inner} is not a regular file", where=where)
            target, limit = missing.pop(inner)
            with full_disk_errors(target.parent):
                copied(content, target, limit, f"{folder}/{inner}")
    for name in missing:
        raise OutputError(f"the job left no {folder}/{name}", where=where)


@contextmanager
def sent(container: Container, path: str) -> Iterator[Iterator[bytes] | None]:
    """Yield a file or folder of a container as a plain tar archive; None if it is not there.

    The SDK's own function has no limit for the time between two pieces, and does not close its answer. While that is
    open, the container cannot be removed.
    """
    assert container.client is not None  # the SDK's containers have one
    api = container.client.api
    url = f"{api.base_url}/v{api.api_version}/containers/{container.id}/archive"
    with api.get(url, params={"path": path}, headers={"Accept-Encoding": "identity"}, stream=True) as answer:
        if answer.status_code == HTTPStatus.NOT_FOUND:
            yield None
            return
        refuse_error(answer)
        yield answer.iter_content(CHUNK)
