"""host/download.py against servers on this machine's loopback interface."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from limits import within

from pikaforge.errors import EXIT_CONFIG, EXIT_HOST, ConfigError, HostError
from pikaforge.host import download, http
from pikaforge.host.download import Downloads, PinnedFile

NAME = "gperftools-2.7.tar.gz"
BODY = random.Random(1).randbytes(200_001)  # not a secret, only unlike itself
OTHER = random.Random(2).randbytes(len(BODY))
HALF = 100_000
POLL = 0.02
"""Seconds until a server notices that it is to end."""
SOURCES = Path(download.__file__).parents[2]

CHILD = """
import sys
from pathlib import Path
from pikaforge.host.download import Downloads, PinnedFile

folder, name, url, sha256 = sys.argv[1:]
downloads = Downloads(Path(folder), notice=lambda text: print(text, flush=True))
print(downloads.get(PinnedFile(name=name, url=url, sha256=sha256)), flush=True)
"""
"""Another run of the tool, as far as downloads go."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves its site's body; a request may be answered out of turn."""

    site: Site

    def do_GET(self) -> None:
        self.site.seen.append(dict(self.headers.items()) | {"path": self.path})
        if self.site.turns:
            self.site.turns.pop(0)(self)
        else:
            self.serve()

    def serve(self, *, cut: int | None = None) -> None:
        """The body or a range of it; with `cut`, the connection ends after so many bytes."""
        site, start, status = self.site, 0, 200
        extra = {name: value for name, value in (("ETag", site.etag), ("Last-Modified", site.modified)) if value}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and site.ranges and self.headers.get("If-Range") in {site.etag, site.modified} - {""}:
            start = int(asked[1])
            if start >= len(site.body):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(site.body)}"})
                return
            status = 206
            extra["Content-Range"] = f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
        self.answer(status, site.body[start:], extra, cut=cut)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        cut: int | None = None,
        length: bool = True,
    ) -> None:
        self.send_response(status)
        if length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


Turn = Callable[[Handler], None]


@dataclass
class Site:
    """A server with one file under every path."""

    url: str = ""
    body: bytes = BODY
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    turns: list[Turn] = field(default_factory=list)
    """How the next requests are answered."""
    seen: list[dict[str, str]] = field(default_factory=list)
    """The requests' headers, and `path`."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the test's end, for answers that wait."""

    @property
    def ranges_asked(self) -> list[str | None]:
        return [request.get("Range") for request in self.seen]


def cut(after: int = HALF) -> Turn:
    return lambda handler: handler.serve(cut=after)


def status(code: int) -> Turn:
    return lambda handler: handler.answer(code, b"no")


def refusals(code: int) -> list[Turn]:
    """As many as there are tries."""
    return [status(code)] * download.RETRIES.tries


def stall(after: int) -> Turn:
    def turn(handler: Handler) -> None:
        handler.serve(cut=after)
        handler.site.released.wait(30)

    return turn


def silence(handler: Handler) -> None:
    handler.site.released.wait(30)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRIES", dataclasses.replace(download.RETRIES, pause=0.0))


@pytest.fixture
def new_site() -> Iterator[Callable[[], Site]]:
    started: list[tuple[Site, ThreadingHTTPServer]] = []

    def start() -> Site:
        site = Site()
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("ItsHandler", (Handler,), {"site": site}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True).start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        started.append((site, server))
        return site

    yield start
    for site, server in started:
        site.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(new_site: Callable[[], Site]) -> Site:
    return new_site()


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL whose port is taken, but nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", (2.0, 0.3))


@dataclass
class Desk:
    """A download folder, and what was told."""

    folder: Path
    told: list[str] = field(default_factory=list)

    def downloads(self, *mirrors: str) -> Downloads:
        return Downloads(self.folder, mirrors=mirrors, notice=self.told.append, option="--local FILE")

    def refused(self, wanted: PinnedFile, *mirrors: str) -> HostError:
        with pytest.raises(HostError) as caught:
            self.downloads(*mirrors).get(wanted)
        assert caught.value.exit_code == EXIT_HOST
        return caught.value

    @property
    def kept(self) -> set[str]:
        """What is in the folder, but for the lock, which must stay where others wait for it."""
        return {path.name for path in self.folder.iterdir()} - {f".{NAME}.lock"}

    @property
    def part(self) -> Path:
        return self.folder / f".{NAME}.part"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "out" / "downloads")


def wanted(url: str, *, data: bytes = BODY, name: str = NAME) -> PinnedFile:
    return PinnedFile(name=name, url=url if url.startswith("file:") else f"{url}/{name}", sha256=digest(data))


def holds(path: Path, data: bytes = BODY) -> bool:
    """Compared by digest: pytest's difference of two large bodies takes long."""
    return digest(path.read_bytes()) == digest(data)


# ---- the plain way


def test_a_file_comes_once(site: Site, desk: Desk) -> None:
    downloads, want = desk.downloads(), wanted(site.url)
    path = downloads.get(want)
    assert path == downloads.path(want) == desk.folder / NAME
    assert holds(path)
    assert path.stat().st_mode & 0o777 == 0o644
    assert desk.kept == {NAME}
    assert len(site.seen) == 1
    assert site.seen[0]["path"] == f"/{NAME}"
    assert site.seen[0]["Accept-Encoding"] == "identity"
    assert "Range" not in site.seen[0]
    before = path.stat()
    assert downloads.get(want) == path
    assert desk.downloads().get(want) == path
    assert len(site.seen) == 1, "no second request"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert desk.told == []


def test_mode_does_not_depend_on_the_umask(site: Site, desk: Desk) -> None:
    desk.folder.mkdir(parents=True)
    old = os.umask(0o077)
    try:
        path = desk.downloads().get(wanted(site.url))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_empty_file_and_one_of_a_block(site: Site, desk: Desk) -> None:
    for number, data in enumerate([b"", b"x" * download.BLOCK]):
        site.body = data
        assert holds(desk.downloads().get(wanted(site.url, data=data, name=f"a{number}")), data)


def test_a_body_without_length(site: Site, desk: Desk) -> None:
    site.turns = [lambda handler: handler.answer(200, BODY, length=False)]
    assert holds(desk.downloads().get(wanted(site.url)))


def test_a_body_in_chunks_has_no_other_length(site: Site, desk: Desk) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    site.turns = [lambda handler: handler.answer(200, chunks, {"Transfer-Encoding": "chunked"})]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert len(site.seen) == 1


def test_it_is_on_the_disk_before_it_has_its_name(site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, (desk.folder / NAME).exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = desk.downloads().get(wanted(site.url))
    assert (path.stat().st_ino, False) in synced


def test_a_redirection_is_followed(site: Site, desk: Desk) -> None:
    site.turns = [lambda handler: handler.answer(302, b"", {"Location": "/elsewhere?token=hidden"})]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [request["path"] for request in site.seen] == [f"/{NAME}", "/elsewhere?token=hidden"]


def test_a_file_url(desk: Desk, tmp_path: Path) -> None:
    source = tmp_path / "a b.tar.gz"
    source.write_bytes(BODY)
    path = desk.downloads().get(wanted(source.as_uri()))
    assert path == desk.folder / NAME
    assert holds(path)
    assert holds(source), "it was copied, not moved"
    assert desk.kept == {NAME}


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe"])
def test_a_file_url_of_no_file(desk: Desk, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "folder":
        source.mkdir()
    elif kind == "pipe":
        os.mkfifo(source)
    what = "does not exist" if kind == "absent" else "is not a file"
    assert desk.refused(wanted(source.as_uri())).message == f"cannot download {NAME}: {source.as_uri()} {what}"


def test_a_folder_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(HostError) as caught:
        Downloads(tmp_path / "file" / "downloads").get(wanted(site.url))
    assert caught.value.message == f"cannot keep {NAME}: Not a directory"
    assert str(tmp_path / "file") in caught.value.where
    assert site.seen == []


def test_a_file_that_cannot_be_put_in_its_place(site: Site, desk: Desk) -> None:
    (desk.folder / NAME).mkdir(parents=True)
    assert desk.refused(wanted(site.url)).message == f"cannot keep {NAME}: Is a directory"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\nb", "x" * 201])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a download"):
        PinnedFile(name=name, url="https://sample.invalid/x", sha256=digest(b""))


@pytest.mark.parametrize("sha256", ["", "0" * 63, digest(b"").upper(), f"sha256:{digest(b'')}"])
def test_a_digest_that_is_none(sha256: str) -> None:
    with pytest.raises(ConfigError, match=f"the SHA-256 of {NAME} is .* which is no SHA-256"):
        PinnedFile(name=NAME, url="https://sample.invalid/x", sha256=sha256)


# ---- what is here already


def test_a_file_in_the_folder_serves(desk: Desk, nobody: str) -> None:
    desk.folder.mkdir(parents=True)
    (desk.folder / NAME).write_bytes(BODY)
    assert holds(desk.downloads(nobody).get(wanted(nobody)))
    assert desk.kept == {NAME}
    assert {path.name for path in desk.folder.iterdir()} == {NAME}, "nothing is written, a folder may be read-only"


def test_a_bad_file_in_the_folder_is_replaced(site: Site, desk: Desk) -> None:
    desk.folder.mkdir(parents=True)
    (desk.folder / NAME).write_bytes(OTHER)
    assert holds(desk.downloads().get(wanted(site.url)))
    assert len(desk.told) == 1
    assert str(desk.folder / NAME) in desk.told[0]
    assert digest(OTHER) in desk.told[0]
    assert digest(BODY) in desk.told[0]


def test_a_bad_file_in_the_folder_and_no_network(desk: Desk, nobody: str) -> None:
    desk.folder.mkdir(parents=True)
    (desk.folder / NAME).write_bytes(OTHER)
    message = desk.refused(wanted(nobody)).message.splitlines()
    assert len(message) == 3
    assert message[0] == f"cannot download {NAME}:"
    assert message[1].strip() == (
        f"{desk.folder / NAME} had SHA-256 {digest(OTHER)}, not {digest(BODY)}, and was removed"
    )
    assert message[2].strip().startswith(f"{nobody}/{NAME} cannot be reached: ")
    assert "Connection refused" in message[2]
    assert "Caused by" not in message[2], "only the reason"
    assert desk.kept == set()


def test_a_file_spoilt_between_two_uses_is_found(site: Site, desk: Desk) -> None:
    downloads, want = desk.downloads(), wanted(site.url)
    path = downloads.get(want)
    path.write_bytes(OTHER)
    assert holds(downloads.get(want))
    assert len(site.seen) == 2


def test_a_given_file_is_used_in_its_place(desk: Desk, tmp_path: Path, nobody: str) -> None:
    given = tmp_path / "my own.tgz"
    given.write_bytes(BODY)
    given.chmod(0o444)
    before = given.stat()
    assert desk.downloads().get(wanted(nobody), given=given) == given
    assert given.stat().st_mtime_ns == before.st_mtime_ns
    assert given.stat().st_mode == before.st_mode
    assert not desk.folder.exists(), "nothing was copied"


def test_a_given_file_with_another_digest(site: Site, desk: Desk, tmp_path: Path) -> None:
    given = tmp_path / NAME
    given.write_bytes(OTHER)
    downloads, want = desk.downloads(), wanted(site.url)
    downloads.get(want)
    with pytest.raises(ConfigError) as caught:  # though the folder has a good one: the user meant this one
        downloads.get(want, given=given)
    assert caught.value.exit_code == EXIT_CONFIG
    assert caught.value.message == (
        f"{given} is not the {NAME} that is pinned: it has SHA-256 {digest(OTHER)}, but {digest(BODY)} is expected"
    )
    assert caught.value.hint
    assert holds(given, OTHER), "it is the user's"
    assert len(site.seen) == 1


@pytest.mark.parametrize(("kind", "words"), [("absent", "does not exist"), ("folder", "is not a file")])
def test_a_given_file_that_is_none(desk: Desk, tmp_path: Path, kind: str, words: str) -> None:
    given = tmp_path / kind
    if kind == "folder":
        given.mkdir()
    with pytest.raises(ConfigError) as caught:
        desk.downloads().get(wanted("https://sample.invalid"), given=given)
    assert caught.value.message == f"{given}, given as {NAME}, {words}"


# ---- resumption


def test_a_cut_connection_is_gone_on_from(site: Site, desk: Desk) -> None:
    site.turns = [cut(), cut(30_000)]
    assert holds(desk.downloads().get(wanted(site.url)))
    asked = site.ranges_asked
    assert len(asked) == 3
    assert asked[0] is None
    starts = [int(text.removeprefix("bytes=").removesuffix("-")) for text in asked[1:] if text]
    assert HALF - download.BLOCK < starts[0] <= HALF
    assert starts[0] < starts[1] <= starts[0] + 30_000
    assert [request.get("If-Range") for request in site.seen] == [None, '"one"', '"one"']
    assert desk.kept == {NAME}


def test_a_date_serves_where_there_is_no_strong_etag(site: Site, desk: Desk) -> None:
    site.etag, site.modified = 'W/"weak"', "Mon, 23 Nov 2026 00:15:32 GMT"
    site.turns = [cut()]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [request.get("If-Range") for request in site.seen] == [None, site.modified]


def test_without_a_validator_it_begins_anew(site: Site, desk: Desk) -> None:
    site.etag = ""
    site.turns = [cut()]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert site.ranges_asked == [None, None]


def test_an_old_validator_does_not_stay_beside_new_bytes(site: Site, desk: Desk) -> None:
    def cut_without_etag(handler: Handler) -> None:
        site.etag, site.body = "", BODY
        cut()(handler)

    site.body, site.turns = OTHER, [cut(), cut_without_etag]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [bool(asked) for asked in site.ranges_asked] == [False, True, False]


def test_what_has_come_is_in_the_part_at_once(
    site: Site, desk: Desk, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a buffer, which a killed run takes with it."""
    monkeypatch.setattr(download, "BLOCK", 1000)

    def turn(handler: Handler) -> None:
        handler.serve(cut=HALF)
        handler.site.released.wait(60)

    site.turns = [turn]
    thread = threading.Thread(target=desk.downloads().get, args=(wanted(site.url),))
    thread.start()
    try:
        until(lambda: desk.part.exists() and desk.part.stat().st_size == HALF, "all that was sent is there", 20)
    finally:
        site.released.set()
        thread.join(60)
    assert holds(desk.folder / NAME)


def test_a_part_of_an_earlier_call_is_gone_on_from(site: Site, desk: Desk) -> None:
    site.turns = [cut(), *[cut(0)] * download.TRIES]
    desk.refused(wanted(site.url))
    assert site.ranges_asked[0] is None
    held = desk.part.stat().st_size
    assert HALF - download.BLOCK < held <= HALF
    assert holds(desk.part, BODY[:held])
    site.turns.clear()
    site.seen.clear()
    assert holds(desk.downloads().get(wanted(site.url)))
    assert site.ranges_asked == [f"bytes={held}-"]


def test_a_file_that_changed_on_the_server_begins_anew(site: Site, desk: Desk) -> None:
    def cut_then_change(handler: Handler) -> None:
        cut()(handler)
        site.etag, site.body = '"two"', BODY

    site.body, site.turns = OTHER, [cut_then_change]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [request.get("If-Range") for request in site.seen] == [None, '"one"']
    assert desk.kept == {NAME}


@pytest.mark.parametrize("wrong", ["etag", "start", "none"])
def test_a_range_of_something_else_begins_anew(site: Site, desk: Desk, wrong: str) -> None:
    """As from a server that does not know If-Range, or cannot count."""

    def turn(handler: Handler) -> None:
        asked = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        start = asked - 1 if wrong == "start" else asked
        extra = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if wrong != "none" else {}
        # It is cut, too: who took any of it would go on from there.
        handler.answer(206, OTHER[start:], extra | {"ETag": '"two"' if wrong == "etag" else '"one"'}, cut=50_000)

    site.turns = [cut(), turn]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [bool(asked) for asked in site.ranges_asked] == [False, True, False]
    assert site.turns == []


def test_a_range_that_ends_too_early_is_gone_on_from(site: Site, desk: Desk) -> None:
    """A server may send less than it was asked for, with a length that fits what it sends."""

    def turn(handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        extra = {"ETag": '"one"', "Content-Range": f"bytes {start}-{start + 49_999}/{len(BODY)}"}
        handler.answer(206, BODY[start : start + 50_000], extra)

    site.turns = [cut(), turn]
    assert holds(desk.downloads().get(wanted(site.url)))
    starts = [int((text or "bytes=0-")[6:-1]) for text in site.ranges_asked]
    assert len(starts) == 3
    assert starts[2] == starts[1] + 50_000


def test_a_server_without_ranges_begins_anew(site: Site, desk: Desk) -> None:
    site.ranges, site.turns = False, [cut()]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [bool(asked) for asked in site.ranges_asked] == [False, True]


def test_a_range_that_cannot_be_satisfied_begins_anew(site: Site, desk: Desk) -> None:
    """A part may be longer than the file, if what wrote it was not us."""
    site.turns = [cut(), *[cut(0)] * download.TRIES]
    desk.refused(wanted(site.url))
    with desk.part.open("ab") as stream:
        stream.write(OTHER)
    held = desk.part.stat().st_size
    site.turns.clear()
    site.seen.clear()
    assert holds(desk.downloads().get(wanted(site.url)))
    assert site.ranges_asked == [f"bytes={held}-", None]


def test_a_part_that_cannot_be_gone_on_from_does_not_stay(site: Site, desk: Desk) -> None:
    site.turns = [cut(), status(416), *refusals(500)]
    assert "500 Internal Server Error" in desk.refused(wanted(site.url)).message
    assert desk.kept == set()


def test_a_part_outlives_a_refusal(site: Site, desk: Desk) -> None:
    site.turns = [cut(), *refusals(500)]
    desk.refused(wanted(site.url))
    assert holds(desk.downloads().get(wanted(site.url)))
    assert [bool(asked) for asked in site.ranges_asked] == [False, True, True, True, True]


def test_a_spoilt_part_is_not_blamed_on_the_server(site: Site, desk: Desk) -> None:
    site.turns = [cut(), *[cut(0)] * download.TRIES]
    desk.refused(wanted(site.url))
    held = desk.part.stat().st_size
    desk.part.write_bytes(bytes(held))
    site.turns.clear()
    site.seen.clear()
    assert holds(desk.downloads().get(wanted(site.url)))
    assert site.ranges_asked == [f"bytes={held}-", None]


def test_a_whole_part_needs_no_network(site: Site, desk: Desk, nobody: str) -> None:
    desk.folder.mkdir(parents=True)
    desk.part.write_bytes(BODY)
    assert holds(desk.downloads().get(wanted(nobody)))
    assert desk.kept == {NAME}


@pytest.mark.parametrize("text", ["", "[]", '{"url": 1}', '{"url": "URL", "validator": "a\\r\\nb"}'])
def test_a_part_whose_record_is_bad_begins_anew(site: Site, desk: Desk, text: str) -> None:
    desk.folder.mkdir(parents=True)
    desk.part.write_bytes(BODY[:HALF])
    want = wanted(site.url)
    desk.part.with_name(f"{desk.part.name}.json").write_text(text.replace("URL", want.url), encoding="utf-8")
    assert holds(desk.downloads().get(want))
    assert site.ranges_asked == [None]


def test_a_part_of_one_source_is_not_mixed_with_another(site: Site, new_site: Callable[[], Site], desk: Desk) -> None:
    other = new_site()
    other.turns = [cut(), *refusals(500)]
    assert holds(desk.downloads(other.url).get(wanted(site.url)))
    assert [bool(asked) for asked in other.ranges_asked] == [False, True, True, True]
    assert site.ranges_asked == [None]


def test_a_server_that_always_cuts_is_given_up(site: Site, desk: Desk) -> None:
    site.ranges, site.turns = False, [cut()] * 100
    message = desk.refused(wanted(site.url)).message
    assert len(site.seen) == download.TRIES
    assert message.startswith(f"cannot download {NAME}: {site.url}/{NAME} was cut off: ")


def test_a_cut_without_progress_is_not_tried_again(site: Site, desk: Desk) -> None:
    site.turns = [cut(0)] * 100
    desk.refused(wanted(site.url))
    assert len(site.seen) == 1


def test_a_body_is_counted_whatever_urllib3_does(site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions of urllib3 end a body quietly where the connection does."""
    import urllib3

    def quiet(answer: urllib3.HTTPResponse, size: int, decode_content: bool) -> Iterator[bytes]:
        answer.enforce_content_length = False
        while block := answer.read(size, decode_content=decode_content):
            yield block

    monkeypatch.setattr(urllib3.HTTPResponse, "stream", quiet)
    site.turns = [cut(0)]
    message = desk.refused(wanted(site.url)).message
    assert message == f"cannot download {NAME}: {site.url}/{NAME} was cut off: 0 of {len(BODY)} bytes came"
    site.turns = [cut()]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert site.ranges_asked == [None, None, f"bytes={HALF}-"]


@pytest.mark.usefixtures("impatient")
def test_a_stall_is_gone_on_from(site: Site, desk: Desk) -> None:
    site.turns = [stall(HALF)]
    assert holds(within(10, lambda: desk.downloads().get(wanted(site.url))))
    assert [bool(asked) for asked in site.ranges_asked] == [False, True]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("when", ["silent", "stalled"])
def test_a_server_that_stalls_is_given_up(site: Site, desk: Desk, when: str) -> None:
    site.turns = [stall(0) if when == "stalled" else silence]
    message = within(10, lambda: desk.refused(wanted(site.url))).message
    assert ("was cut off: " if when == "stalled" else "cannot be reached: ") in message
    assert "Read timed out" in message


# ---- what is refused


def test_a_wrong_digest_is_refused(site: Site, desk: Desk) -> None:
    site.body = OTHER
    error = desk.refused(wanted(site.url))
    assert error.message == (
        f"cannot download {NAME}: {site.url}/{NAME} has SHA-256 {digest(OTHER)}, but {digest(BODY)} is expected"
    )
    assert len(site.seen) == 1
    assert desk.kept == set()


def test_a_wrong_digest_after_a_resumption_is_tried_whole_and_refused(site: Site, desk: Desk) -> None:
    site.body, site.turns = OTHER, [cut()]
    assert f"has SHA-256 {digest(OTHER)}, but {digest(BODY)} is expected" in desk.refused(wanted(site.url)).message
    assert [bool(asked) for asked in site.ranges_asked] == [False, True, False]
    assert desk.kept == set()


@pytest.mark.parametrize(
    ("code", "words", "tries"),
    [
        (404, "404 Not Found", 1),
        (500, "500 Internal Server Error", 3),
        (206, "206 Partial Content", 1),
        (599, "599", 3),
        (501, "501 Not Implemented", 1),
    ],
)
def test_a_status_that_is_no_success(site: Site, desk: Desk, code: int, words: str, tries: int) -> None:
    site.turns = [status(code)] * 9
    error = desk.refused(wanted(site.url))
    assert error.message == f"cannot download {NAME}: {site.url}/{NAME} answers {words}"
    assert desk.kept == set()
    assert len(site.seen) == tries


def test_a_server_that_is_busy_for_a_moment_is_asked_again(site: Site, desk: Desk) -> None:
    site.turns = [status(503), status(429)]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert len(site.seen) == 3
    assert desk.told == []


def test_an_abort_ends_the_pause_that_a_server_asks_for(
    site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RETRIES", dataclasses.replace(download.RETRIES, longest=600.0))
    downloads, outcomes = desk.downloads(), list[str]()

    def turn(handler: Handler) -> None:
        handler.answer(503, b"", {"Retry-After": "600"})
        threading.Timer(0.2, downloads.abort).start()

    def run() -> None:
        try:
            downloads.get(wanted(site.url))
        except HostError as error:
            outcomes.append(error.message)

    site.turns = [turn]
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert outcomes == ["interrupted"]
    assert len(site.seen) == 1


@pytest.mark.parametrize("length", [True, False])
def test_a_body_beyond_the_limit(site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch, length: bool) -> None:
    monkeypatch.setattr(download, "LIMIT", 1 << 20)
    large = bytes((1 << 20) + 1)
    # With a length, only the announcement comes: it must be enough.
    site.turns = [lambda handler: handler.answer(200, large, length=length, cut=0 if length else None)]
    error = desk.refused(wanted(site.url, data=large))
    assert error.message == f"cannot download {NAME}: {site.url}/{NAME} is larger than 1 MiB"
    assert desk.kept == set()
    site.body = bytes(1 << 20)
    assert holds(desk.downloads().get(wanted(site.url, data=site.body)), site.body)


def test_a_resumed_body_beyond_the_limit(site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LIMIT", 1 << 20)

    def turn(handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        handler.answer(206, b"", {"Content-Range": f"bytes {start}-{1 << 20}/{(1 << 20) + 1}"})

    site.turns = [cut(), turn]
    assert desk.refused(wanted(site.url)).message.endswith(" is larger than 1 MiB")
    assert desk.kept == set()


def test_a_file_url_beyond_the_limit(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LIMIT", 1 << 20)
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    url = (tmp_path / "large").as_uri()
    assert desk.refused(wanted(url)).message == f"cannot download {NAME}: {url} is larger than 1 MiB"
    assert desk.kept == set()


def test_an_encoded_body_is_refused(site: Site, desk: Desk) -> None:
    import gzip

    site.turns = [lambda handler: handler.answer(200, gzip.compress(BODY), {"Content-Encoding": "gzip"})]
    assert "comes with a Content-Encoding" in desk.refused(wanted(site.url)).message
    site.turns = [lambda handler: handler.answer(200, BODY, {"Content-Encoding": "identity"})]
    assert holds(desk.downloads().get(wanted(site.url)))


@pytest.mark.parametrize(
    "url", ["ftp://sample.invalid/x", "sample.invalid/x", "http:///x", "http://[x", "http://a:b/x", "file://etc/x", ""]
)
def test_a_url_that_is_none(desk: Desk, url: str) -> None:
    want = PinnedFile(name=NAME, url=url, sha256=digest(BODY))
    assert (
        desk.refused(want).message == f"cannot download {NAME}: {url} is not a URL with http://, https:// or file:///"
    )


def test_a_host_that_no_resolver_takes(desk: Desk) -> None:
    message = desk.refused(wanted(f"http://{'a' * 64}.invalid")).message
    assert "cannot be reached: " in message


def test_a_bundle_of_authorities_that_is_not_there(
    desk: Desk, nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    message = desk.refused(wanted(nobody.replace("http:", "https:"))).message
    assert "cannot be reached: " in message
    assert "absent.pem" in message


def test_a_certificate_is_verified(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    argv = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ItsHandler", (Handler,), {"site": site}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a refused handshake is what is wanted
    threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True).start()
    try:
        want = wanted(f"https://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        message = desk.refused(want).message
        assert "cannot be reached: its certificate is not accepted: self-signed certificate" in message
        assert site.seen == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert holds(desk.downloads().get(want))
    finally:
        server.shutdown()
        server.server_close()


# ---- mirrors


def test_mirrors_come_first_and_in_order(site: Site, new_site: Callable[[], Site], desk: Desk) -> None:
    first, second = new_site(), new_site()
    first.turns = [status(404)]
    assert holds(desk.downloads(f"{first.url}/pub/", f"{second.url}/a%20b?key=value").get(wanted(site.url)))
    assert [request["path"] for request in first.seen] == [f"/pub/{NAME}"]
    assert [request["path"] for request in second.seen] == [f"/a%20b/{NAME}?key=value"]
    assert site.seen == []
    assert desk.told == [f"{first.url}/pub/{NAME} answers 404 Not Found; {second.url}/a%20b/{NAME}?*** is tried next"]


def test_every_bad_mirror_is_told_and_passed_over(
    site: Site, new_site: Callable[[], Site], desk: Desk, nobody: str, tmp_path: Path
) -> None:
    refusing, wrong = new_site(), new_site()
    refusing.turns, wrong.body = refusals(503), OTHER
    folder = (tmp_path / "mirror").as_uri()
    assert holds(desk.downloads(nobody, refusing.url, "nonsense", folder, wrong.url).get(wanted(site.url)))
    reasons = [
        "cannot be reached: ",
        "answers 503 Service Unavailable; ",
        "is not a URL ",
        "does not exist; ",
        f"has SHA-256 {digest(OTHER)}, but {digest(BODY)} is expected; ",
    ]
    assert len(desk.told) == len(reasons)
    for told, reason in zip(desk.told, reasons, strict=True):
        assert reason in told
    assert len(site.seen) == 1
    assert desk.kept == {NAME}


def test_a_folder_as_mirror(desk: Desk, nobody: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    assert holds(desk.downloads(tmp_path.as_uri()).get(wanted(nobody)))


def test_one_error_lists_every_source(new_site: Callable[[], Site], desk: Desk, nobody: str) -> None:
    refusing, wrong = new_site(), new_site()
    refusing.turns, wrong.body = refusals(503), OTHER
    error = desk.refused(wanted(wrong.url), nobody, refusing.url)
    lines = error.message.splitlines()
    assert lines[0] == f"cannot download {NAME}:"
    assert lines[1].startswith(f"    {nobody}/{NAME} cannot be reached: ")
    assert lines[2] == f"    {refusing.url}/{NAME} answers 503 Service Unavailable"
    assert lines[3] == (f"    {wrong.url}/{NAME} has SHA-256 {digest(OTHER)}, but {digest(BODY)} is expected")
    assert len(lines) == 4
    for way in (
        f"SHA-256 {digest(BODY)}",
        str(desk.folder / NAME),
        "or name it with --local FILE",
        "mirror",
        "https_proxy",
    ):
        assert way in error.hint
    assert desk.kept == set()


def test_a_proxy_of_the_environment_is_used(site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert holds(desk.downloads().get(wanted("http://sample.invalid/files")))
    assert site.seen[0]["path"] == f"http://sample.invalid/files/{NAME}"


# ---- more than one


def start_child(desk: Desk, want: PinnedFile) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(desk.folder), want.name, want.url, want.sha256],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_run_serves_the_next_one(site: Site, desk: Desk, until: Callable[..., None]) -> None:
    site.turns = [stall(HALF)]
    least = HALF - download.BLOCK
    with start_child(desk, wanted(site.url)) as first:
        try:
            until(lambda: desk.part.exists() and desk.part.stat().st_size > least, "half of it came", 60)
        finally:
            first.kill()
    held = desk.part.stat().st_size
    assert holds(desk.part, BODY[:held])
    with start_child(desk, wanted(site.url)) as second:
        output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert output.split() == [str(desk.folder / NAME)], "a killed run's lock holds nobody up"
    assert holds(desk.folder / NAME)
    assert site.ranges_asked == [None, f"bytes={held}-"]
    assert desk.kept == {NAME}


def test_two_processes_make_one_request(site: Site, desk: Desk) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def turn(handler: Handler) -> None:
        asked.set()
        assert go_on.wait(60)
        handler.serve()

    site.turns = [turn]
    want = wanted(site.url)
    with start_child(desk, want) as first:
        try:
            assert asked.wait(60), first.stdout
            with start_child(desk, want) as second:
                try:
                    assert second.stdout is not None
                    waiting = second.stdout.readline()
                    assert waiting == f"{NAME} is being downloaded by another run: waiting for it\n"
                    go_on.set()
                    assert second.communicate(timeout=60)[0] == f"{desk.folder / NAME}\n"
                finally:
                    second.kill()
            assert first.communicate(timeout=60)[0] == f"{desk.folder / NAME}\n"
        finally:
            first.kill()
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(site.seen) == 1
    assert holds(desk.folder / NAME)


def test_two_threads_make_one_request(site: Site, desk: Desk) -> None:
    waiting, paths = threading.Event(), list[Path]()
    downloads = Downloads(desk.folder, notice=lambda text: waiting.set() if "waiting for it" in text else None)

    def turn(handler: Handler) -> None:
        assert waiting.wait(60)
        handler.serve()

    site.turns = [turn]
    threads = [threading.Thread(target=lambda: paths.append(downloads.get(wanted(site.url)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert paths == [desk.folder / NAME] * 2
    assert len(site.seen) == 1


def test_two_files_do_not_wait_for_each_other(site: Site, desk: Desk) -> None:
    def turn(handler: Handler) -> None:
        holds(desk.downloads().get(wanted(site.url, name="other.tar.gz")))
        handler.serve()

    site.turns = [turn]
    assert holds(desk.downloads().get(wanted(site.url)))
    assert desk.told == []


def test_an_abort_ends_a_download_and_who_waits_for_it(site: Site, desk: Desk) -> None:
    waiting, outcomes = threading.Event(), list[str]()
    downloads = Downloads(desk.folder, notice=lambda _: waiting.set())

    def turn(handler: Handler) -> None:
        assert waiting.wait(60)
        downloads.abort()
        handler.serve()

    def run() -> None:
        try:
            downloads.get(wanted(site.url))
        except HostError as error:
            outcomes.append(error.message)

    site.turns = [turn]
    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == ["interrupted", "interrupted"]
    assert NAME not in desk.kept
    assert len(site.seen) == 1


def test_an_abort_ends_waiting_for_another_process(desk: Desk, nobody: str) -> None:
    waiting, outcomes = threading.Event(), list[str]()
    downloads = Downloads(desk.folder, notice=lambda _: waiting.set())

    def run() -> None:
        try:
            downloads.get(wanted(nobody))
        except HostError as error:
            outcomes.append(error.message)

    desk.folder.mkdir(parents=True)
    with (desk.folder / f".{NAME}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the other one does
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert waiting.wait(60)
        downloads.abort()
        thread.join(20)
        assert outcomes == ["interrupted"]


# ---- secrets

SECRETS = ("s3cr3t", "hunter2", "t0ken")


def no_secret(*texts: str) -> bool:
    return not any(secret in text for text in texts for secret in SECRETS)


def with_secrets(url: str) -> str:
    return f"{url.replace('://', '://s3cr3t:hunter2@')}/{NAME}?key=t0ken#t0ken"


def test_secrets_are_sent_and_not_shown(
    site: Site, new_site: Callable[[], Site], desk: Desk, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    circle, ftp = new_site(), new_site()
    circle.turns = [lambda handler: handler.answer(302, b"", {"Location": handler.path})] * 40
    ftp.turns = [lambda handler: handler.answer(302, b"", {"Location": with_secrets("ftp://sample.invalid")})]
    site.body, site.turns = OTHER, [cut()]
    wrong = [f"{start}s3cr3t:hunter2@{end}?key=t0ken" for start, end in (("", "host"), ("http://", "host:x"))]
    mirrors = [*wrong, *(with_secrets(url) for url in (nobody, "http://no.invalid", circle.url, ftp.url))]
    want = PinnedFile(name=NAME, url=with_secrets(site.url), sha256=digest(BODY))
    error = desk.refused(want, *mirrors)
    shown = "".join(traceback.format_exception(error))
    assert len(desk.told) == len(mirrors)
    assert no_secret(*desk.told, *error.lines(), shown, caplog.text)
    assert f"http://***@{site.url.removeprefix('http://')}/{NAME}?*** has SHA-256" in shown
    assert site.seen[0]["Authorization"] == f"Basic {b64encode(b's3cr3t:hunter2').decode()}"
    assert site.seen[0]["path"] == f"/{NAME}?key=t0ken"


def test_secrets_are_not_written(site: Site, desk: Desk) -> None:
    site.turns = [cut(), *[cut(0)] * download.TRIES]
    desk.refused(PinnedFile(name=NAME, url=with_secrets(site.url), sha256=digest(BODY)))
    record = desk.part.with_name(f"{desk.part.name}.json").read_text(encoding="utf-8")
    assert json.loads(record)["validator"] == '"one"'
    assert no_secret(record)


def test_small_downloads_do_not_show_secrets(site: Site, nobody: str) -> None:
    site.turns = [status(404)]
    for url in (with_secrets(site.url), with_secrets(nobody)):
        with pytest.raises(HostError) as caught:
            http.get(url, limit=1)
        assert "***@127.0.0.1" in caught.value.message
        assert no_secret("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://sample.invalid:8443/a/b.tar.gz", "https://sample.invalid:8443/a/b.tar.gz"),
        ("https://sample.invalid/a@b.tar.gz", "https://sample.invalid/a@b.tar.gz"),
        ("https://t0ken@sample.invalid/x", "https://***@sample.invalid/x"),
        ("https://s3cr3t:hunter2@sample.invalid/x?a=t0ken&b", "https://***@sample.invalid/x?***"),
        ("https://sample.invalid/x#t0ken", "https://sample.invalid/x"),
        ("http://s3cr3t:hunter2@sample.invalid:port/x", "http:***"),
        ("http://sample.invalid:port/x", "http://sample.invalid:port/x"),
        ("s3cr3t:hunter2@sample.invalid/x", "***@sample.invalid/x"),
        ("file:///a@b/c", "file:///a@b/c"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert http.redacted(url) == shown
