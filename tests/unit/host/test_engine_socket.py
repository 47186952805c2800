"""A look at an engine without the SDK: what is an answer, and what is compared."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pikaforge.host import engine_socket
from pikaforge.host.engine_socket import EngineSilentError, chosen, image_path, owned, usable


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"a": 1}\n', (200, {"a": 1})),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", (200, [])),
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"message": "no such image"}', (404, {"message": "no such image"})),
        (b"HTTP/1.0 204 No Content\r\n\r\n", (204, None)),
    ],
)
def test_an_answer(data: bytes, wanted: object) -> None:
    assert engine_socket._parsed(data, "/x") == wanted


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.0 yes\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\nOK",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000,
    ],
)
def test_what_is_no_whole_answer(data: bytes) -> None:
    with pytest.raises(EngineSilentError):
        engine_socket._parsed(data, "/x")


def test_only_chosen_fields_are_compared() -> None:
    first = {"Id": "sha256:1", "Created": "today", "Config": {"Labels": {"a": "b", "c": "d"}}}
    second = {"Config": {"Labels": {"c": "d", "a": "b"}}, "Id": "sha256:1", "Created": "tomorrow"}
    assert chosen(first, ["Id", "Config"]) == chosen(second, ["Id", "Config"])
    assert chosen(first, ["Id", "Created"]) != chosen(second, ["Id", "Created"])
    assert chosen(None, ["Id"]) == chosen("text", ["Id"]) != chosen({}, ["Id"])


def test_names_in_paths_are_quoted() -> None:
    assert image_path("pikaforge/debian12-build:0123") == "/images/pikaforge/debian12-build:0123/json"
    assert image_path("debian@sha256:ab") == "/images/debian%40sha256:ab/json"
    assert image_path("a?b#c d\r\n") == "/images/a%3Fb%23c%20d%0D%0A/json"
    assert all('"' not in path and " " not in path for path in owned("org.pikaforge.owner"))


def test_a_usable_socket(tmp_path: Path) -> None:
    assert not usable(str(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    assert not usable(str(tmp_path / "file"))
    assert not usable("a\0b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "s"))
        assert usable(str(tmp_path / "s"))
