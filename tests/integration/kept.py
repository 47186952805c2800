"""Places in which results are kept under digests, as tests of wrong bits use them: the store, and shared stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from integration.dav import PROXIES
from integration.object_server import object_server

from pikaforge.config.scalars import Strict
from pikaforge.config.shared_store import SharedStoreOptions
from pikaforge.host.store import Result, Store
from pikaforge.sharing.opening import opened

STAGE, KEY = "compile", "0123456789abcdef0123456789abcdef"
TREE, LOG = b"a tree" * 30, b"a log" * 7
USER, PASSWORD = "AKIA1", "zebra:crossing/7"


class Compiled(Strict):
    """Facts of the tests' stage."""

    compiler: str = "12.2.0"
    flags: tuple[str, ...] = ("-march=sandybridge", "-O2")
    libraries: dict[str, float] = {"libc.so.6": 2.36}
    twin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A place in which a result is kept."""

    names: tuple[str, ...]
    """What is kept there: each may be damaged."""
    get: Callable[[str], bytes]
    """Return the bytes of one, as they are there."""
    set: Callable[[str, bytes], None]
    read: Callable[[], tuple[Mapping[str, bytes] | None, str]]
    """Return the result's files, or why it is not taken."""
    named: Callable[[str], str]
    """Return what the reason has to name if one is damaged."""
    mend: Callable[[], None]
    """Make the result again, and put it there, as a run does that has found it damaged."""


def _put(store: Store, folder: Path) -> Result:
    files = {"tree.tar": folder / "tree", "make.log": folder / "log"}
    files["tree.tar"].write_bytes(TREE)
    files["make.log"].write_bytes(LOG)
    return store.put(STAGE, KEY, identity="i", facts=Compiled(), files=files)


@contextmanager
def in_a_store(folder: Path) -> Iterator[Kept]:
    """The store of this machine."""
    store = Store(folder / "store")
    entry = next(iter(_put(store, folder).files.values())).parent

    def put(name: str, data: bytes) -> None:
        (entry / name).write_bytes(data)

    def mend() -> None:
        _put(store, folder)

    def read() -> tuple[Mapping[str, bytes] | None, str]:
        result, bad = store.get(STAGE, KEY)
        return None if result is None else {name: path.read_bytes() for name, path in result.files.items()}, bad

    yield Kept(
        names=tuple(sorted(path.name for path in entry.iterdir())),
        get=lambda name: (entry / name).read_bytes(),
        set=put,
        read=read,
        named=lambda name: str(entry / name),
        mend=mend,
    )


@dataclass(slots=True, kw_only=True)
class Held:
    """The objects of a shared store, as its server has them."""

    names: Callable[[], list[str]]
    get: Callable[[str], bytes]
    set: Callable[[str, bytes], None]
    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


def _shared(folder: Path, held: Held) -> Kept:
    """A shared store: one machine has put a result there, and another one takes it."""
    notices: list[str] = []

    def shared_with() -> Any:
        found = opened(
            SharedStoreOptions.model_validate({"url": held.url, **held.options}),
            {"HOME": str(folder), **held.environ},
            base=folder,
            cwd=folder,
            file_limit=1 << 20,
            notice=notices.append,
        )
        assert found is not None, notices
        return found

    first, second = Store(folder / "first"), Store(folder / "second")
    assert shared_with().offer(_put(first, folder)), notices
    reader = shared_with()

    def read() -> tuple[Mapping[str, bytes] | None, str]:
        notices.clear()
        second.drop(STAGE, KEY)
        found = reader.fetch(STAGE, KEY, into=second, facts=Compiled, unfit=lambda _: "")
        taken = None if found is None else {name: path.read_bytes() for name, path in found.files.items()}
        return taken, "\n".join(notices)

    def mend() -> None:
        assert reader.offer(_put(second, folder)), notices

    return Kept(
        names=tuple(sorted(held.names())),
        get=held.get,
        set=held.set,
        read=read,
        named=lambda _: f"{STAGE}/{KEY}",
        mend=mend,
    )


@contextmanager
def in_a_shared_folder(folder: Path) -> Iterator[Kept]:
    """A shared store in a folder."""
    root = folder / "shared"
    root.mkdir()

    def names() -> list[str]:
        return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]

    def put(name: str, data: bytes) -> None:
        (root / name).write_bytes(data)

    held = Held(names=names, get=lambda name: (root / name).read_bytes(), set=put, url=str(root))
    yield _shared(folder, held)


@contextmanager
def behind_http(folder: Path) -> Iterator[Kept]:
    """A shared store behind a server that takes PUT."""
    with object_server() as server:
        held = Held(
            names=lambda: list(server.held),
            get=server.held.__getitem__,
            set=server.held.__setitem__,
            url=f"{server.url}/pika",
        )
        yield _shared(folder, held)


@contextmanager
def behind_s3(folder: Path) -> Iterator[Kept]:
    """A shared store behind S3."""
    moto = pytest.importorskip("moto.server", reason="the extra `tests` has it")
    import s3fs

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        there = s3fs.S3FileSystem(
            key=USER, secret=PASSWORD, endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True
        )
        there.mkdir("bucket")
        held = Held(
            names=lambda: [str(name) for name in there.find("bucket")],
            get=lambda name: bytes(there.cat_file(name)),
            set=there.pipe_file,
            url="s3://bucket/pika",
            options={"endpoint": endpoint},
            environ={"PIKAFORGE_STORE_USER": USER, "PIKAFORGE_STORE_PASSWORD": PASSWORD},
        )
        yield _shared(folder, held)
    finally:
        server.stop()


PLACES = {
    "store": in_a_store,
    "shared folder": in_a_shared_folder,
    "shared by HTTP": behind_http,
    "shared by S3": behind_s3,
}


def direct(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Leave out proxies, netrc and clouds of the person who runs the tests."""
    for name in (*PROXIES, "NETRC", *(name for name in os.environ if name.startswith("AWS_"))):
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(home))
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
