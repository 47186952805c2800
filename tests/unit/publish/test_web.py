"""The parts of publishing to servers that need no server: names, logs, locks, links, and errors without secrets."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests

from pikaforge.errors import ConfigError, PublishError
from pikaforge.host import http
from pikaforge.host.http import CutError, HttpError
from pikaforge.host.http_session import LoginSession
from pikaforge.host.run_id import RunId
from pikaforge.publish.sites import pypi, web_lock
from pikaforge.publish.sites.client import SiteClient
from pikaforge.publish.sites.credentials import Credentials
from pikaforge.publish.sites.journal import Journal
from pikaforge.publish.sites.web import WebSite
from pikaforge.publish.sites.webdav import DavClient, beside

WRITER = Credentials(user="ann", password="p:ss wörd")
URL = "https://repo.example.org/pub"
JOURNAL = Journal(
    place="el7/R620",
    pointers=(("el7/R620/dists/InRelease", b"\x00\xff"), ("el7/R620/repository.json", b"{}")),
    removals=("el7/R620/x86_64/a+b.rpm",),
)


def client(url: str = URL, credentials: Credentials | None = WRITER) -> SiteClient:
    return SiteClient(url, credentials, target="web")


# --- the log of a switch


def test_a_log_is_read_as_it_was_written() -> None:
    assert Journal.parse(JOURNAL.text()) == JOURNAL
    uploads = Journal.of_uploads("el7/R620", ["el7/R620/a", "el7/R620/b"])
    assert Journal.parse(uploads.text()) == Journal(
        place="el7/R620", pointers=(), removals=("el7/R620/a", "el7/R620/b")
    )


def test_a_log_that_is_damaged_anywhere_is_none() -> None:
    text = JOURNAL.text()
    assert all(Journal.parse(text[:end]) is None for end in range(len(text) - 2))
    for at in range(len(text) - 2):
        changed = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        assert Journal.parse(changed) in (None, JOURNAL), changed
    for other in (b"", b"[]", b"1", b"{}", b"\xff", b"null"):
        assert Journal.parse(other) is None
    content = json.loads(text)
    content["pointers"][0]["base64"] = "AAAA"
    del content["sha256"]
    assert Journal.parse(resealed(content)) is None, "its own digest fits, that of the pointer does not"


def resealed(content: dict[str, object]) -> bytes:
    """With the digest that belongs there."""
    from pikaforge.publish.sites.journal import _checksum

    return json.dumps({**content, "sha256": _checksum(content)}).encode()


def test_a_log_of_another_version_is_not_thrown_away() -> None:
    content = json.loads(JOURNAL.text())
    del content["sha256"]
    assert Journal.parse(resealed(content)) == JOURNAL
    with pytest.raises(PublishError, match="another version"):
        Journal.parse(resealed({**content, "format": 2}))


# --- names


def test_names_are_quoted_and_stay_below_the_root() -> None:
    dav = DavClient(f"{URL}/", client())
    assert dav.where == URL
    assert dav.url("a+b/c d~é%.rpm") == f"{URL}/a%2Bb/c%20d~%C3%A9%25.rpm"
    for path in ("../x", "a/../x", "a//x", "/x", "a/./x", "a/", ""):
        with pytest.raises(PublishError, match="leads elsewhere"):
            dav.url(path)
    assert beside("a/b.rpm") == "a/.b.rpm.part"
    assert beside(".lock") == ".lock.part"


# --- who is told what


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        (WRITER, "Basic YW5uOnA6c3Mgd8O2cmQ="),
        (Credentials(token="t0ken"), "Bearer t0ken"),
        (None, None),
    ],
)
def test_credentials_go_to_their_server_alone(credentials: Credentials | None, header: str | None) -> None:
    session = client(credentials=credentials)._client.session

    def sent(url: str) -> object:
        return session.prepare_request(requests.Request("GET", url)).headers.get("Authorization")

    assert sent(f"{URL}/x") == header
    assert sent("https://repo.example.org:443/other") == header
    for other in ("http://repo.example.org/x", "https://repo.example.org:8443/x", "https://example.org/x"):
        assert sent(other) is None


def test_requests_reads_no_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine repo.example.org login x password y\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    bare = requests.Session().prepare_request(requests.Request("GET", URL))
    assert "Authorization" in bare.headers, "else this test shows nothing"
    session = client(credentials=None)._client.session
    request = session.prepare_request(requests.Request("GET", URL))
    assert "Authorization" not in request.headers
    assert isinstance(session, LoginSession)
    session.rebuild_auth(request, requests.Response())
    assert "Authorization" not in request.headers


@pytest.mark.parametrize(
    ("url", "credentials", "notes"),
    [
        ("http://repo.example.org/", WRITER, 1),
        ("http://repo.example.org/", None, 0),
        (f"{URL}/", WRITER, 0),
        ("http://localhost:8080/", WRITER, 0),
        ("http://127.0.0.9/", WRITER, 0),
        ("http://[::1]:80/", WRITER, 0),
        ("http://127.0.0.1.example.org/", WRITER, 1),
    ],
)
def test_credentials_over_plain_http_are_told_of(url: str, credentials: Credentials | None, notes: int) -> None:
    told: list[str] = []
    WebSite(url, credentials, notice=told.append)
    assert len(told) == notes
    assert all("plain http" in text and WRITER.password not in text for text in told)


@pytest.mark.parametrize("url", ["https://ann:secret@example.org/", "https://secret@example.org/", "file:///x", "x"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WebSite(url, None)
    assert "secret" not in "\n".join(caught.value.lines())


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "PIKAFORGE_WEB_USER"),
        (403, "PIKAFORGE_WEB_TOKEN"),
        (404, "does the server take PUT"),
        (405, "does the server take PUT"),
        (409, "MKCOL"),
        (413, "too large"),
        (507, "disk is full"),
        (302, "(none)"),
        (500, "disk full"),
        (418, "its log"),
    ],
)
def test_a_status_has_a_hint(status: int, hint: str) -> None:
    error = client()._refusal(status, {}, "PUT", f"{URL}/x?key=secret")
    assert hint in error.hint
    assert f"PUT was answered {status}" in error.message
    assert error.message.endswith(", 5 times") == (status in http.TRANSIENT)
    assert error.where == f"{URL}/x?***"


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (HttpError("refused", "connection"), "PUT failed, 5 times: refused", "down?"),
        (CutError("half", received=1), "PUT failed, 5 times: the answer was cut off: half", "down?"),
        (HttpError("expired", "tls"), "PUT cannot reach the server: expired", "certificate"),
        (HttpError("unknown", "name"), "PUT cannot reach the server: unknown", "name right?"),
        (HttpError("odd", "url"), "PUT cannot reach the server: odd", "URL right?"),
        (HttpError("it redirects", "redirect"), "PUT cannot reach the server: it redirects", "URL right?"),
    ],
)
def test_a_failure_has_a_hint(error: HttpError, message: str, hint: str) -> None:
    failure = client()._failure(error, "PUT", f"{URL}/x?key=secret")
    assert failure.message == message
    assert hint in failure.hint
    assert failure.where == f"{URL}/x?***"


# --- the lock


def lock_text(**changes: object) -> bytes:
    content = {"token": "t", "owner": "o", "pid": 7, "host": "h", "since": "s", "ttl": 60.0}
    return json.dumps({**content, **changes}).encode()


def dates(seconds: float) -> dict[str, str]:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    then = now - timedelta(seconds=seconds)
    return {"Date": format_datetime(now, usegmt=True), "Last-Modified": format_datetime(then, usegmt=True)}


def test_a_lock_is_as_old_as_its_server_says() -> None:
    held = web_lock.parse(lock_text(), dates(90))
    assert (held.token, held.age, held.ttl) == ("t", 90.0, 60.0)
    assert held.name == "process 7 on 'h', since 's'"
    assert web_lock.parse(lock_text(), {}).age is None
    assert web_lock.parse(lock_text(), {**dates(9), "Date": "nonsense"}).age is None
    assert web_lock.parse(lock_text(ttl=1e9), {}).ttl == 600.0, "nobody has it for years"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"token": "t"}', lock_text(pid="x"), lock_text(ttl=None)]
)
def test_a_lock_that_cannot_be_read_is_somebodys(data: bytes) -> None:
    held = web_lock.parse(data, dates(5))
    assert (held.token, held.name, held.age, held.gone()) == ("", "somebody", 5.0, False)


def test_a_holder_of_this_machine_that_ended_is_known() -> None:
    alive = RunId.current()
    assert not web_lock.parse(lock_text(owner=alive.text), {}).gone()
    assert web_lock.parse(lock_text(owner=dataclasses.replace(alive, started="1").text), {}).gone()
    assert not web_lock.parse(lock_text(owner=dataclasses.replace(alive, machine="0", started="1").text), {}).gone()


def test_without_the_lock_nothing_is_written() -> None:
    with pytest.raises(PublishError, match="the lock was lost"):
        WebSite(URL, WRITER).write("repo.json", b"")


# --- indexes


@pytest.mark.parametrize(
    ("name", "project"),
    [("pika_server-3.4.0+r620-py3-none-any.whl", "pika-server"), ("A.b__C-1-py3-none-any.whl", "a-b-c")],
)
def test_the_project_of_a_wheel(name: str, project: str) -> None:
    assert pypi.project_of(name) == project


def test_links_of_a_simple_page() -> None:
    page = (
        '<html><base href="x"><a href="../../f/a-1%2Blocal-x.whl#sha256=AB">other text</a>'
        '<a name="y">none</a><a href="a-1-x.whl?k=v&amp;x#md5=1">a-1-x.whl</a>'
    )
    assert pypi.link_to("a-1+local-x.whl", page) == "../../f/a-1%2Blocal-x.whl#sha256=AB"
    assert pypi.link_to("a-1-x.whl", page) == "a-1-x.whl?k=v&x#md5=1"
    assert pypi.link_to("other text", page) is None
    assert pypi.link_to("-1-x.whl", page) is None


def test_what_twine_says_is_shown_without_secrets() -> None:
    output = (
        f"{'x' * 5}\n" * 9 + "\nfailed for ann:p:ss wörd\nYW5uOnA6c3Mgd8O2cmQ=\nat https://u:pw@example.org/x?k=v now\n"
    )
    lines = pypi._shown(output, WRITER)
    assert lines[-3:] == ["failed for ann:***", "***", "at https://***@example.org/x?*** now"]
    assert len(lines) == pypi.LINES


def test_twine_gets_who_uploads_and_none_of_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINE_REPOSITORY_URL", "https://example.org/")
    monkeypatch.setenv("TWINE_PASSWORD", "other")
    env = pypi._environment(WRITER)
    assert {name: value for name, value in env.items() if name.startswith("TWINE_")} == {
        "TWINE_USERNAME": WRITER.user,
        "TWINE_PASSWORD": WRITER.password,
    }
    assert pypi._environment(None)["TWINE_PASSWORD"] == ""
