"""A container registry, Debian's docker-registry, on the loopback interface; engines use those without TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGURATION = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
log: {{level: error}}
"""


class NoRegistry(Exception):
    """There is no registry server on this machine, and none can be had; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry that runs."""

    address: str

    def push(self, image: str, name: str) -> str:
        """Push an image of the engine under `name:tag`; its digest."""
        import docker

        client = docker.from_env(timeout=600)
        reference = f"{self.address}/{name}"
        client.images.get(image).tag(reference)
        events: list[dict[str, Any]] = list(client.images.push(reference, stream=True, decode=True))
        client.images.remove(reference)
        digests = [event["aux"]["Digest"] for event in events if "aux" in event]
        if not digests:
            raise RuntimeError(f"{reference} could not be pushed: {events[-1:]}")
        return str(digests[0])


def program(folder: Path) -> Path:
    """The server: the installed one, else that of Debian's package, unpacked below a folder that is still empty.

    It is not installed, because that would start a service.

    Raises:
        NoRegistry: apt-get is not there, or cannot download it.
    """
    installed = shutil.which("docker-registry")
    if installed is not None:
        return Path(installed)
    if shutil.which("apt-get") is None:
        raise NoRegistry("no docker-registry on this machine, and no apt-get to download one")
    got = subprocess.run(
        ["apt-get", "download", "docker-registry"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    packages = list(folder.glob("*.deb"))
    if not packages:
        raise NoRegistry(f"apt-get cannot download docker-registry: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "--extract", str(packages[0]), str(folder)], check=True, timeout=60)
    return folder / "usr/bin/docker-registry"


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(server: Path, folder: Path) -> Iterator[Registry]:
    """Run a registry on a free port while the block runs, with its files in `folder`.

    Raises:
        NoRegistry: it does not start.
    """
    port = free_port()
    configuration = folder / "registry.yml"
    configuration.write_text(CONFIGURATION.format(folder=folder / "registry", port=port), encoding="utf-8")
    log = folder / "registry.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([str(server), "serve", str(configuration)], stdout=stream, stderr=stream)
    try:
        _wait(process, port, log)
        yield Registry(address=f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")[-500:]
                raise NoRegistry(f"the registry does not listen: {said}") from None
            time.sleep(0.05)
