"""A shared store in S3 whose server sends without an end, slowly, or something else than was asked for."""

from __future__ import annotations

import resource
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from integration.bad_servers import SLOW, dripping, drop_of, endless
from integration.dav import serving
from limits import within

from pikaforge.publish.sites.credentials import Credentials
from pikaforge.sharing.file_systems import S3
from pikaforge.sharing.objects import ObjectError, ObjectStore, ObjectStoreSettings
from pikaforge.sharing.s3_answers import MESSAGE, most

MIB = 1 << 20


def bucket(url: str, *, timeout: float) -> ObjectStore:
    """A bucket of a server."""
    pytest.importorskip("s3fs", reason="the extra `store` has it")
    credentials = Credentials(user="AKIA1", password="zebra:crossing/7")
    return S3.open(
        ObjectStoreSettings(url="s3://bucket/x", endpoint=url, timeout=timeout, credentials=credentials, environ={})
    )


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file. Its server is in this process, too, so that it is held in memory more than once."""
    path = tmp_path / "large"
    path.write_bytes(bytes(4 * MIB))
    return path


@pytest.mark.parametrize("part", SLOW)
def test_one_that_sends_a_byte_now_and_then_is_given_up(tmp_path: Path, part: str) -> None:
    with dripping(SLOW[part], drop_of(part)) as url:
        found = bucket(url, timeout=0.5)
        calls: list[Callable[[], object]] = [
            lambda: found.download("x", tmp_path / "copy", size=1000),
            lambda: found.write("x", b"text"),
        ]
        for call in calls:
            with pytest.raises(ObjectError) as error:
                within(120, call)
            assert error.value.ends, "the next object would take as long"


@pytest.mark.parametrize("status", [200, 206, 400, 404, 412, 416, 500, 503])
def test_an_answer_has_a_bound(tmp_path: Path, large: Path, status: int) -> None:
    """It is refused, instead of being held in memory until its end, which never comes."""
    with endless(status, 3 * MIB) as url:
        found = bucket(url, timeout=20)
        calls: list[Callable[[], object]] = [
            lambda: found.read("x", limit=10 * MIB),
            lambda: found.download("x", tmp_path / "copy", size=10 * MIB),
            lambda: found.write("x", b"text"),
            lambda: found.write("x", large),
        ]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for call in calls:
            with pytest.raises(ObjectError, match=r"larger than|bytes were sent"):
                within(200, call)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200 * 1024  # KiB


@pytest.mark.parametrize("sent", [0, 9, 11, 20])
def test_one_that_sends_another_range_is_noticed(tmp_path: Path, sent: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(206)
            self.send_header("Content-Length", str(sent))
            self.end_headers()
            self.wfile.write(b"x" * sent)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        found = bucket(url, timeout=5)
        with pytest.raises(ObjectError, match=r"\d+ bytes? (was|were) sent, and \d+ asked for"):
            within(60, lambda: found.download("x", tmp_path / "copy", size=100))
        with pytest.raises(ObjectError, match=rf"{sent} bytes were sent, and 10 asked for"):
            within(60, lambda: found.read("x", limit=100))


def test_what_cannot_be_read_is_an_error_of_the_object(tmp_path: Path) -> None:
    with endless(200, 0) as url, pytest.raises(ObjectError, match="FileNotFoundError"):
        within(60, lambda: bucket(url, timeout=5).write("x", tmp_path / "gone"))


def test_a_bound_follows_from_the_range() -> None:
    assert most({}) == MESSAGE
    assert most({"Range": "bytes=0-9"}) == MESSAGE
    assert most({"Range": "bytes=8388608-16777215"}) == 8 * MIB
    assert most({"Range": b"bytes=8388608-16777215"}) == 8 * MIB
    assert most({"Range": "bytes=5-"}) == MESSAGE
