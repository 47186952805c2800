"""Images that tests leave in the engine: what a later run can use stays, what was superseded goes at the end of a run.

Tests keep images of their own (`pikaforge-test/NAME`), and those that the tool makes of stand-ins, because they take
minutes. Their tags hold a digest, so that each change of a Dockerfile, or of a base, leaves the old one behind. Bases
that were pulled from a registry on the loopback interface keep its address as a name, after the registry has ended.

Nothing is removed while another test run is on this machine (`TestRun`), or while a container or an image needs it: the
engine refuses that. Images that the tool has made of other bases may be a user's; `invoke images.remove` is for them.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import DockerClient

USED = "PIKAFORGE_TEST_IMAGES"
"""The variable with the file that lists the images which this run has used; workers inherit it."""
STAND_IN = "org.pikaforge.standin"
"""The label of stand-ins, which images made of them inherit."""
LOOPBACK = re.compile(r"127\.0\.0\.1:([0-9]+)/")
OWN = "pikaforge-test/"
LOCAL = "unix://"
LOCK = "pikaforge-tests-engine.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldImage:
    """An image of the engine."""

    id: str
    created: int
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    """Names with the digest that a registry gave it."""
    labels: frozenset[str] = field(default_factory=frozenset)


def note(tag: str) -> str:
    """Note that this run uses an image of the tests; return its tag."""
    if path := os.environ.get(USED):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{tag}\n")
    return tag


def superseded(
    images: Sequence[HeldImage], used: frozenset[str], *, listens: Callable[[int], bool], since: int
) -> list[str]:
    """Return the names of the images that no later run needs, and the ids of those without a name.

    Args:
        images: all of the engine.
        used: tags that this run has used.
        listens: whether something listens at a port of the loopback interface.
        since: when this run began, in seconds since 1970.
    """
    gone: list[str] = []
    groups: defaultdict[str, list[tuple[HeldImage, str]]] = defaultdict(list)
    for image in images:
        for name in (*image.tags, *image.digests):
            port = LOOPBACK.match(name)
            if port:
                gone += [] if listens(int(port[1])) else [name]
            elif name.startswith(OWN) or (STAND_IN in image.labels and name in image.tags):
                groups[_group(name)].append((image, name))
        if not image.tags and not image.digests and STAND_IN in image.labels and image.created < since:
            gone.append(image.id)
    for members in groups.values():
        wanted = {image.id for image, name in members if name in used}
        wanted = wanted or {max(members, key=lambda member: member[0].created)[0].id}
        wanted |= {image.id for image, _ in members if image.created >= since}
        gone += [name for image, name in members if image.id not in wanted]
    return gone


def _group(tag: str) -> str:
    """Return what the tags of one image's former states share: `pikaforge-test/standin:el9` of …:el9-0123456789ab."""
    repository, _, version = tag.rpartition(":")
    entry = version.rpartition("-")[0]
    return f"{repository}:{entry}" if entry else repository


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _held_images(client: DockerClient) -> list[HeldImage]:
    def names(entry: dict[str, Any], key: str) -> tuple[str, ...]:
        return tuple(name for name in entry.get(key) or () if "<none>" not in name)

    return [
        HeldImage(
            id=entry["Id"],
            created=entry["Created"],
            tags=names(entry, "RepoTags"),
            digests=names(entry, "RepoDigests"),
            labels=frozenset(entry.get("Labels") or ()),
        )
        for entry in client.api.images()
    ]


class TestRun:
    """A test run on this machine, from its start to its end. Workers of xdist are parts of one."""

    __test__ = False  # it is no class of tests

    def __init__(self) -> None:
        self._since = int(time.time())
        self._lock = (Path(tempfile.gettempdir()) / LOCK).open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        descriptor, path = tempfile.mkstemp(prefix="pikaforge-images-")
        os.close(descriptor)
        self._used = Path(path)
        os.environ[USED] = path

    def end(self) -> None:
        """Remove what was superseded, if this run has used an engine of this machine, and is the only one here."""
        used = frozenset(self._used.read_text(encoding="utf-8").splitlines())
        self._used.unlink()
        with self._lock, suppress(Exception):  # the engine may have ended; the next run removes as much
            if used and _is_local() and self._alone():
                sweep(used, self._since)

    def _alone(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _is_local() -> bool:
    from pikaforge.host.connection import address

    return (address() or LOCAL).startswith(LOCAL)


@contextmanager
def _client() -> Iterator[DockerClient]:
    import docker

    from pikaforge.host.connection import environment

    client = docker.from_env(timeout=120, environment=environment(os.environ))
    try:
        yield client
    finally:
        client.close()


def sweep(used: frozenset[str], since: int) -> list[str]:
    """Remove superseded images; return their names. One that something needs stays."""
    from docker.errors import APIError

    removed = []
    with _client() as client:
        for name in superseded(_held_images(client), used, listens=_listens, since=since):
            with suppress(APIError):
                client.api.remove_image(name, noprune=False)
                removed.append(name)
    return removed
