"""HTTP without a server: what is shown, who is logged in where, what an error means, where redirects may lead."""

from __future__ import annotations

import logging
import socket
import ssl

import pytest
import requests
import urllib3
from requests import exceptions
from urllib3.exceptions import MaxRetryError, NameResolutionError, ReadTimeoutError

from pikaforge.host import http
from pikaforge.host.http import HttpError, Login, Retries
from pikaforge.host.http_session import Client, LoginSession, _explained

LOGIN = Login(url="https://repo.example.org/pub", header="Bearer t0ken")


def redirect(url: str, location: str, method: str = "GET") -> requests.Response:
    answer = requests.Response()
    answer.status_code = 302
    answer.url = url
    answer.headers["Location"] = location
    answer.raw = urllib3.HTTPResponse()
    answer.request = requests.Request(method, url).prepare()
    return answer


@pytest.mark.parametrize(("status", "shown"), [(404, "404 Not Found"), (599, "599"), (0, "0")])
def test_a_status_has_the_standards_words(status: int, shown: str) -> None:
    assert http.phrase(status) == shown


def test_only_what_may_pass_is_transient() -> None:
    assert {500, 502, 503, 504, 599, 408, 409, 423, 425, 429} <= http.TRANSIENT
    assert http.TRANSIENT.isdisjoint({200, 301, 400, 401, 403, 404, 405, 412, 413, 501, 505, 507})


def test_a_login_is_of_one_server() -> None:
    assert LOGIN.fits("https://repo.example.org:443/other?x")
    for other in (
        "http://repo.example.org/x",
        "https://repo.example.org:8443/x",
        "https://example.org/x",
        "https://repo.example.org.evil.example/x",
    ):
        assert not LOGIN.fits(other)
    assert "t0ken" not in repr(LOGIN)


def test_a_login_is_removed_after_a_redirect_to_another_server() -> None:
    session = LoginSession(LOGIN)
    request = session.prepare_request(requests.Request("GET", LOGIN.url))
    assert request.headers["Authorization"] == "Bearer t0ken"
    request.url = "https://example.org/x"
    session.rebuild_auth(request, requests.Response())
    assert "Authorization" not in request.headers
    request.url = LOGIN.url
    session.rebuild_auth(request, requests.Response())
    assert request.headers["Authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(
    ("url", "location", "refused"),
    [
        ("https://a.example/x", "https://b.example/y", False),
        ("https://a.example/x", "/y", False),
        ("https://a.example/x", "//b.example/y", False),
        ("https://a.example/x", "http://a.example/y", True),
        ("https://a.example/x", "ftp://a.example/y", True),
        ("http://a.example/x", "http://b.example/y", False),
        ("http://a.example/x", "https://b.example/y", False),
    ],
)
def test_a_redirect_does_not_leave_encryption(url: str, location: str, refused: bool) -> None:
    strict, lax = Client(retries=Retries()), Client(retries=Retries(), downgrade=True)
    lax._check_redirect(redirect(url, location))
    strict._check_redirect(redirect(url, location, "PUT"))  # it is not followed
    if refused:
        with pytest.raises(HttpError, match="which is not encrypted") as caught:
            strict._check_redirect(redirect(url, location))
        assert caught.value.kind == "redirect"
    else:
        strict._check_redirect(redirect(url, location))


def of_requests(kind: type[exceptions.RequestException], reason: Exception) -> exceptions.RequestException:
    """As its adapter raises what urllib3 raised."""
    pool = urllib3.HTTPSConnectionPool("repo.example.org")
    return kind(MaxRetryError(pool, "/x?key=s3cr3t", reason))


def tls(error: Exception) -> exceptions.RequestException:
    return of_requests(exceptions.SSLError, urllib3.exceptions.SSLError(error))


def reason(name: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {name}] text (_ssl.c:1)")
    error.reason = name
    return error


def certificate(words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] text")
    error.verify_message = words
    return error


POOL = urllib3.HTTPConnectionPool("repo.example.org")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            tls(certificate("certificate has expired")),
            "tls",
            "its certificate is not accepted: certificate has expired",
        ),
        (tls(reason("WRONG_VERSION_NUMBER")), "tls", "it does not speak TLS at this port"),
        (tls(reason("TLSV13_ALERT_CERTIFICATE_REQUIRED")), "tls", "TLS fails: tlsv13 alert certificate required"),
        (OSError("Could not find a suitable TLS CA certificate bundle"), "tls", "Could not find a suitable TLS CA"),
        (exceptions.ProxyError("no route"), "connection", "the proxy does not answer: no route"),
        (
            of_requests(exceptions.ConnectionError, ReadTimeoutError(POOL, "/", "Read timed out.")),
            "connection",
            "Read timed out.",
        ),
        (exceptions.TooManyRedirects("Exceeded 30 redirects."), "url", "Exceeded 30 redirects."),
        (exceptions.InvalidURL("http://u:s3cr3t@x?y=s3cr3t is odd"), "url", "http://***@x?*** is odd"),
    ],
)
def test_an_error_says_what_is_wrong_without_secrets(error: Exception, kind: str, text: str) -> None:
    found = _explained(error)
    assert found.kind == kind
    assert text in str(found)
    assert "s3cr3t" not in str(found)


def test_an_unknown_host_is_no_lost_connection() -> None:
    reason = NameResolutionError("repo.example.org", urllib3.connection.HTTPConnection("x"), socket.gaierror(-2, "x"))
    assert _explained(of_requests(exceptions.ConnectionError, reason)).kind == "name"


def test_urllib3_writes_no_urls_into_logs() -> None:
    assert not logging.getLogger("urllib3").propagate
