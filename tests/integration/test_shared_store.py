"""Shared stores of each kind: a folder, servers that take PUT, WebDAV, S3; what fails on the way; real signatures."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from integration.bad_servers import SLOW, dripping, drop_of
from integration.dav import PROXIES, Fault, way_to
from integration.keys import Key, new_key
from integration.object_server import ObjectServer, basic, object_server
from limits import within

from pikaforge.config.scalars import Strict
from pikaforge.config.shared_store import SharedStoreOptions
from pikaforge.errors import ConfigError, HostError
from pikaforge.host.hashing import digest
from pikaforge.host.store import Result, Store
from pikaforge.sharing.objects import ObjectError, ObjectStoreSettings
from pikaforge.sharing.opening import opened
from pikaforge.sharing.results import SharedResults
from pikaforge.sharing.web import KIND

KEY, OTHER = "0123456789abcdef0123456789abcdef", "f" * 32
FILES: Mapping[str, bytes] = {
    "tree.tar": random.Random(1).randbytes(3_000_000),
    "empty": b"",
    "a+b~1_amd64.deb": b"small",
}
HIDDEN = "zebra:crossing/7"
MIB = 1 << 20


class Built(Strict):
    """Facts of the tests' stage."""

    note: str


@dataclass
class Machine:
    """A machine with a store of its own and a shared one."""

    folder: Path
    url: str
    environ: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.notices: list[str] = []
        self.store = Store(self.folder / "store")
        found = opened(
            SharedStoreOptions.model_validate({"url": self.url, "timeout": 5, **self.options}),
            {"HOME": str(self.folder), **self.environ},
            base=self.folder,
            cwd=self.folder,
            file_limit=64 * MIB,
            notice=self.notices.append,
        )
        assert found is not None, self.notices
        self.shared: SharedResults = found

    def make(self, files: Mapping[str, bytes] = FILES, *, key: str = KEY) -> Result:
        with self.store.scratch() as scratch:
            paths = {}
            for number, (name, data) in enumerate(files.items()):
                paths[name] = scratch / str(number)
                paths[name].write_bytes(data)
            identity = digest(b"".join(files.values()))
            return self.store.put("compile", key, identity=identity, facts=Built(note="made"), files=paths)

    def put(self, files: Mapping[str, bytes] = FILES, *, key: str = KEY) -> bool:
        return self.shared.offer(self.make(files, key=key))

    def take(self, *, key: str = KEY) -> dict[str, bytes] | None:
        found = self.shared.fetch("compile", key, into=self.store, facts=Built, unfit=lambda _: "")
        if found is None:
            return None
        assert self.store.get("compile", key) == (found, "")
        return {name: path.read_bytes() for name, path in found.files.items()}

    def left(self) -> list[str]:
        if not self.store.root.is_dir():
            return []
        names = (path.name for path in self.store.root.iterdir())
        return sorted(name for name in names if name != ".lock" and not name.startswith((".uses-", ".used-")))


Place = Callable[..., Machine]


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no netrc and no cloud of the person who runs the tests."""
    for name in (*PROXIES, "NETRC", *(name for name in os.environ if name.startswith("AWS_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server of S3 on loopback."""
    moto = pytest.importorskip("moto.server", reason="the extra `tests` has it")

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


CLOUD = {"PIKAFORGE_STORE_USER": "AKIA1", "PIKAFORGE_STORE_PASSWORD": HIDDEN}


def bucket(s3: str, name: str) -> None:
    import s3fs

    s3fs.S3FileSystem(
        key="AKIA1", secret=HIDDEN, endpoint_url=s3, use_listings_cache=False, skip_instance_cache=True
    ).mkdir(name)


@pytest.fixture(params=["folder", "put", "dav", "s3", "fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Makes machines that share a store of a kind."""
    with ExitStack() as stack:
        url, environ, options = "", {}, {}
        match request.param:
            case "folder":
                (tmp_path / "shared").mkdir()
                url = str(tmp_path / "shared")
            case "put":
                url = stack.enter_context(object_server()).url + "/pika"
            case "dav":
                url = stack.enter_context(object_server(dav=True)).url + "/pika"
            case "s3":
                s3 = request.getfixturevalue("s3")
                name = f"b{digest(str(tmp_path))[:20]}"
                bucket(s3, name)
                url, environ, options = f"s3://{name}/pika", CLOUD, {"endpoint": s3}
            case "fsspec":
                pytest.importorskip("fsspec", reason="the extra `store` has it")
                (tmp_path / "shared").mkdir()
                url = f"local://{tmp_path}/shared"
        yield lambda name, **more: Machine(tmp_path / name, url, {**environ, **more}, options)


def test_what_one_machine_puts_there_another_one_takes(place: Place) -> None:
    first, second = place("first"), place("second")
    assert second.take() is None
    assert first.put(), first.notices
    assert second.take() == FILES, second.notices
    assert (first.notices, second.notices, second.left()) == ([], [], ["compile"])
    assert first.shared.unreachable() == ""
    assert first.put({**FILES, "empty": b"not empty now"}, key=OTHER)
    assert second.take(key=OTHER) == {**FILES, "empty": b"not empty now"}


def test_it_may_be_put_there_twice(place: Place) -> None:
    assert place("first").put()
    assert place("third").put()
    assert place("second").take() == FILES


def test_a_read_only_machine_puts_nothing_there(place: Place) -> None:
    reader = place("reader", PIKAFORGE_STORE_MODE="read")
    assert not reader.put()
    assert place("second").take() is None
    place("first").put()
    reader.store.drop("compile", KEY)
    assert reader.take() == FILES
    assert reader.notices == []


def test_many_put_the_same_there_at_once(place: Place) -> None:
    machines = [place(f"writer-{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(Machine.put, machines)), [machine.notices for machine in machines]
    assert place("reader").take() == FILES
    assert [notice for machine in machines for notice in machine.notices] == []


# ---- servers that fail


@pytest.fixture(params=[False, True], ids=["put", "dav"])
def server(request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    with object_server(dav=request.param) as found:
        yield found


UPLOADS = [
    Fault("cut-put", "PUT", "files/", times=2),
    Fault("cut-put", "PUT", "results/", times=2),
    Fault("stall", "PUT", "files/", times=2),
    Fault("status", "PUT", "files/", times=2, status=500),
    Fault("status", "PUT", "results/", times=2, status=507),
    Fault("status", "PUT", "files/", times=9, status=413),
    Fault("status", "PUT", "results/", times=9, status=403),
    Fault("flip", "PUT", "files/", times=9),
    Fault("flip", "PUT", "results/", times=9),
    Fault("lost-answer", "PUT", "files/"),
    Fault("lost-answer", "PUT", "results/"),
    Fault("lost-answer", "MOVE", "files/"),
    Fault("lost-answer", "MOVE", "results/"),
    Fault("status", "MOVE", "files/", times=2, status=502),
    Fault("status", "MOVE", "results/", times=2, status=502),
    Fault("cut-put", "PUT", "files/", skip=1, times=2),
]


@pytest.mark.parametrize("number", range(len(UPLOADS)))
def test_an_upload_that_fails_is_a_notice_and_never_half_there(
    server: ObjectServer, tmp_path: Path, number: int
) -> None:
    fault = UPLOADS[number]
    fault.hits = 0
    with way_to(server.url, fault) as way:
        writer = Machine(tmp_path / "first", way.url, options={"timeout": 1})
        done = within(60, writer.put)
    reader = Machine(tmp_path / "second", server.url)
    taken = reader.take()
    assert taken in (None, FILES)
    assert reader.left() == (["compile"] if taken else [])
    if not done:
        assert len(writer.notices) == 1
    if fault.kind != "flip" and not done:
        assert (taken, reader.notices) == (None, []), "there is no listing of what is not there"
    if done and fault.kind != "flip":
        assert taken == FILES
    if taken is None:
        assert reader.put(), "who has found nothing, or damage, mends it"
    third = Machine(tmp_path / "third", server.url)
    if fault.kind == "flip" and fault.part == "files/" and third.take() is None:
        assert third.put(), "a changed file without a listing is found by the first who wants it"
    assert Machine(tmp_path / "fourth", server.url).take() == FILES


def test_a_careless_server_is_never_believed(tmp_path: Path) -> None:
    """It shows a part of an upload."""
    for part in ("files/", "results/"):
        with object_server(careless=True) as server:
            with way_to(server.url, Fault("cut-put", "PUT", part, times=2)) as way:
                assert not Machine(tmp_path / f"first-{part}", way.url).put()
            reader = Machine(tmp_path / f"second-{part}", server.url)
            assert reader.take() is None
            assert reader.put()
            assert Machine(tmp_path / f"third-{part}", server.url).take() == FILES


DOWNLOADS = [
    Fault("cut-get", "GET", "files/", times=2),
    Fault("cut-get", "GET", "results/", times=2),
    Fault("stall", "GET", "files/", times=2),
    Fault("stall", "GET", "results/", times=2),
    Fault("status", "GET", "files/", times=2, status=500),
    Fault("status", "GET", "results/", times=2, status=503),
    Fault("status", "GET", "results/", times=9, status=403),
    Fault("status", "GET", "files/", times=9, status=302),
]


@pytest.mark.parametrize("number", range(len(DOWNLOADS)))
def test_a_download_that_fails_is_a_notice(server: ObjectServer, tmp_path: Path, number: int) -> None:
    assert Machine(tmp_path / "first", server.url).put()
    fault = DOWNLOADS[number]
    fault.hits = 0
    with way_to(server.url, fault) as way:
        reader = Machine(tmp_path / "second", way.url, options={"timeout": 1})
        assert within(60, reader.take) is None
        assert len(reader.notices) == 1
        assert reader.left() == []
        reader.take(key=OTHER)
        assert len(reader.notices) == 1, "it is said once"


def test_a_download_that_is_cut_once_is_made_again(server: ObjectServer, tmp_path: Path) -> None:
    assert Machine(tmp_path / "first", server.url).put()
    with way_to(server.url, Fault("cut-get", "GET", "files/")) as way:
        reader = Machine(tmp_path / "second", way.url)
        assert reader.take() == FILES
        assert reader.notices == []


@pytest.mark.parametrize("part", ["files/", "results/"])
def test_what_is_cut_on_the_server_is_refused(server: ObjectServer, tmp_path: Path, part: str) -> None:
    assert Machine(tmp_path / "first", server.url).put()
    for path in [path for path in server.held if part in path]:
        whole = server.held[path]
        for end in sorted({0, 1, len(whole) // 2, len(whole) - 1} if whole else {}):
            server.held[path] = whole[:end]
            reader = Machine(tmp_path / f"reader-{end}-{len(path)}", server.url)
            assert reader.take() is None, (path, end)
            assert len(reader.notices) == 1
            shutil.rmtree(reader.folder)
        server.held[path] = whole
    assert Machine(tmp_path / "last", server.url).take() == FILES


def test_an_endless_object_is_given_up(tmp_path: Path) -> None:
    with object_server() as server:
        assert Machine(tmp_path / "first", server.url).put()
        for path in server.held:
            server.held[path] += b"x" * (40 * MIB)
        reader = Machine(tmp_path / "second", server.url)
        assert reader.take() is None
        assert "is larger than 8 MiB" in reader.notices[0]


@pytest.mark.parametrize("part", SLOW)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(tmp_path: Path, part: str) -> None:
    with dripping(SLOW[part], drop_of(part)) as url:
        settings = ObjectStoreSettings(url=url, endpoint="", timeout=0.5, credentials=None, environ={})
        web = KIND.open(settings)
        with pytest.raises(ObjectError, match="no whole answer within") as error:
            within(120, lambda: web.download("x", tmp_path / "copy", size=1000))
        assert error.value.ends, "the next object would take as long"


def test_an_upload_that_is_taken_a_byte_now_and_then_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(4 * MIB))
    with dripping(b"HTTP/1.1 201 Created\r\nX-Slow: ", b"1") as url:
        settings = ObjectStoreSettings(url=url, endpoint="", timeout=0.5, credentials=None, environ={})
        web = KIND.open(settings)
        with pytest.raises(ObjectError) as error:
            within(120, lambda: web.write("x", tmp_path / "large"))
        assert error.value.ends


def test_a_line_between_chunks_has_a_bound(tmp_path: Path) -> None:
    """It is refused at once, instead of being held in memory until its end, which never comes."""
    with dripping(SLOW["chunk"], b"1" * (1 << 17)) as url:
        settings = ObjectStoreSettings(url=url, endpoint="", timeout=20.0, credentials=None, environ={})
        with pytest.raises(ObjectError, match="cut off"):
            within(50, lambda: KIND.open(settings).read("x", limit=1000))


def test_nobody_answers(tmp_path: Path, s3: str) -> None:
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    dead = f"http://127.0.0.1:{port}"
    missing = {"endpoint": s3}
    for number, (url, environ, options) in enumerate(
        [
            (dead, {}, {}),
            ("s3://bucket/x", CLOUD, {"endpoint": dead}),
            ("s3://no-such-bucket-here/x", CLOUD, missing),
            (str(tmp_path / "absent"), {}, {}),
        ]
    ):
        machine = Machine(tmp_path / str(number), url, environ, options)
        assert within(120, machine.take) is None
        assert within(10, machine.put) is False
        assert len(machine.notices) == 1, (url, machine.notices)
        assert HIDDEN not in machine.notices[0]
        assert not (tmp_path / "absent").exists(), "what is not mounted is not made"


# ---- credentials


def test_credentials_are_those_of_a_destination(tmp_path: Path) -> None:
    with object_server(readers=basic("ann", HIDDEN), writers=basic("ann", HIDDEN)) as server:
        right = {"PIKAFORGE_STORE_USER": "ann", "PIKAFORGE_STORE_PASSWORD": HIDDEN}
        assert Machine(tmp_path / "first", server.url, right).put()
        file = tmp_path / "line"
        file.write_text(f"ann:{HIDDEN}\n")
        file.chmod(0o600)
        assert Machine(tmp_path / "second", server.url, {"PIKAFORGE_STORE_CREDENTIALS": str(file)}).take() == FILES
        stranger = Machine(tmp_path / "third", server.url)
        assert (stranger.take(), len(stranger.notices)) == (None, 1)
        assert "401 Unauthorized; set PIKAFORGE_STORE_USER and PIKAFORGE_STORE_PASSWORD" in stranger.notices[0]
        wrong = Machine(tmp_path / "fourth", server.url, {**right, "PIKAFORGE_STORE_PASSWORD": "other"})
        assert (wrong.take(), len(wrong.notices)) == (None, 1)
        assert "403 Forbidden" in wrong.notices[0]
        assert "other" not in wrong.notices[0]
    with object_server(writers="Bearer abc123") as server:
        assert Machine(tmp_path / "fifth", server.url, {"PIKAFORGE_STORE_TOKEN": "abc123"}).put()
        reader = Machine(tmp_path / "sixth", server.url)
        assert reader.take() == FILES, "everybody may read"
        assert not reader.put(key=OTHER)
        assert len(reader.notices) == 1
        assert reader.take(key=KEY) is not None, "it is still read"


def test_credentials_are_in_no_url(tmp_path: Path) -> None:
    for place in (f"https://ann:{HIDDEN}@store.example.org/x", "ann:secret@host/x"):
        with pytest.raises(ConfigError) as error:
            opened(
                None,
                {"PIKAFORGE_STORE": place},
                base=tmp_path,
                cwd=tmp_path,
                file_limit=1,
                notice=lambda _: None,
            )
        assert "zebra" not in str(error.value) + error.value.hint
        assert "secret" not in str(error.value) + error.value.hint


# ---- signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Key, Key]]:
    top = tmp_path_factory.mktemp("keys")
    with new_key(top / "ann", "ed25519", "a pass phrase") as ann, new_key(top / "mallory", "ed25519") as mallory:
        yield ann, mallory


def signing(key: Key) -> dict[str, str]:
    return {
        "PIKAFORGE_STORE_SIGNING_KEY": str(key.secret),
        "PIKAFORGE_STORE_SIGNING_PASSPHRASE": str(key.passphrase),
    }


def test_only_what_a_trusted_key_signed_is_taken(tmp_path: Path, keys: tuple[Key, Key]) -> None:
    ann, mallory = keys
    trusting = {"keys": (str(ann.public),)}
    with object_server() as server:
        assert Machine(tmp_path / "first", server.url, signing(ann), trusting).put()
        assert Machine(tmp_path / "second", server.url, {}, trusting).take() == FILES
        assert Machine(tmp_path / "third", server.url, signing(ann)).take() == FILES, "one's own key is trusted"
        others = Machine(tmp_path / "fourth", server.url, signing(mallory))
        assert others.take() is None
        assert "which is not among the signing key" in others.notices[0]
        # A result in the place of another one, and one that a stranger or nobody has signed.
        server.held[f"results/compile/{OTHER}.json"] = server.held[f"results/compile/{KEY}.json"]
        reader = Machine(tmp_path / "fifth", server.url, {}, trusting)
        assert reader.take(key=OTHER) is None
        assert reader.notices[0].endswith(f"is not taken: it is of another result, compile/{KEY}")
        for name, environ in (("mallory", signing(mallory)), ("nobody", {})):
            assert Machine(tmp_path / name, server.url, environ).put(key=OTHER)
            reader = Machine(tmp_path / f"of-{name}", server.url, {}, trusting)
            assert reader.take(key=OTHER) is None
            assert len(reader.notices) == 1
        whole = server.held[f"results/compile/{KEY}.json"]
        for at in range(0, len(whole), 37):
            server.held[f"results/compile/{KEY}.json"] = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            assert Machine(tmp_path / f"flip-{at}", server.url, {}, trusting).take() in (None, FILES)


def test_a_key_that_cannot_be_read_is_found_before_anything_is_built(tmp_path: Path, keys: tuple[Key, Key]) -> None:
    for bad in (str(tmp_path / "absent"), str(keys[0].secret)):
        with pytest.raises((ConfigError, HostError)):
            Machine(tmp_path / "reader", "http://127.0.0.1:9", {}, {"keys": (bad,)})


def test_a_signing_key_that_cannot_be_used_ends_writing_only(tmp_path: Path) -> None:
    with object_server() as server:
        machine = Machine(tmp_path / "first", server.url, {"PIKAFORGE_STORE_SIGNING_KEY": str(tmp_path / "absent")})
        assert not machine.put()
        assert not machine.put(key=OTHER)
        assert len(machine.notices) == 1
        assert server.held == {}
