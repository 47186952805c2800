"""Which URLs and refs git may get, and what may be shown of them."""

from __future__ import annotations

import random

import pytest

from pikaforge.host import git_urls

GOOD = [
    "https://example.org/x.git",
    "http://127.0.0.1:8080/x.git",
    "ssh://git@example.org:22/x.git",
    "git+ssh://git@example.org/x.git",
    "git://example.org/x.git",
    "git@example.org:team/x.git",
    "example.org:x.git",
    "git@[::1]:x.git",
]
LOCAL = ["file:///srv/x.git", "/srv/x.git", "srv/x.git", "./x:y", "../x"]


@pytest.mark.parametrize("url", GOOD)
def test_urls_of_servers(url: str) -> None:
    assert git_urls.refusal(url, local=False) == ""
    assert git_urls.refusal(url, local=True) == ""


@pytest.mark.parametrize("url", LOCAL)
def test_paths_only_where_the_user_has_named_one(url: str) -> None:
    assert git_urls.protocol(url) == "file"
    assert git_urls.refusal(url, local=True) == ""
    assert git_urls.refusal(url, local=False) == "names a repository of this machine"


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("--upload-pack=touch /tmp/x;", "begins with `-`, as an option does"),
        ("-u", "begins with `-`, as an option does"),
        ("ext::sh -c touch% /tmp/x", "has a protocol other than https, http, ssh, git"),
        ("fd::17", "has a protocol other than https, http, ssh, git"),
        ("https::https://example.org/x.git", "has a protocol other than https, http, ssh, git"),
        ("ftp://example.org/x.git", "has a protocol other than https, http, ssh, git"),
        ("EXT://example.org/x.git", "has a protocol other than https, http, ssh, git"),
        ("ssh://-oProxyCommand=touch@example.org/x", "names a user or host that begins with `-`, as an option does"),
        ("ssh://-oProxyCommand=touch/x", "names a user or host that begins with `-`, as an option does"),
        ("ssh://%2doProxyCommand=touch/x", "names a user or host that begins with `-`, as an option does"),
        ("ssh://git@-oProxyCommand=touch/x", "names a user or host that begins with `-`, as an option does"),
        ("git@-oProxyCommand=touch:x", "names a user or host that begins with `-`, as an option does"),
        ("https://[x/y", "is not a URL"),
        ("https://x/\udcff", "is not a URL"),
        ("ssh://git@[::1/y", "is not a URL"),
        ("https://a\u2100b/y", "is not a URL"),
        ("https://example.org/x\nhost=other", "holds a control character"),
        ("https://example.org/x%0ahost=other", "holds a control character"),
        ("https://example.org/\x1b[31mx", "holds a control character"),
    ],
)
def test_urls_that_git_does_not_get(url: str, reason: str, local: bool) -> None:
    assert git_urls.refusal(url, local=local) == reason


@pytest.mark.parametrize("ref", ["v1.0", "main", "HEAD", "refs/pull/7/head", "feature/a-b_c", "v3.4.0+x", "größe"])
def test_refs(ref: str) -> None:
    assert git_urls.ref_refusal(ref) == ""


@pytest.mark.parametrize(
    "ref", ["", "--all", "-x", "a b", "a:b", "a..b", "a*", "a\n", "a~1", "a^", "a@{1}", "a.lock", "a/", "/a", "a//b"]
)
def test_texts_that_are_no_refs(ref: str) -> None:
    assert git_urls.ref_refusal(ref) != ""


def test_a_commit_is_nothing_but_hex() -> None:
    assert git_urls.COMMIT.fullmatch("a" * 40)
    assert git_urls.COMMIT.fullmatch("a" * 64)
    for text in ("a" * 40 + "\n", "a" * 41, "-" * 40, "A" * 40, "a" * 39):
        assert not git_urls.COMMIT.fullmatch(text)


@pytest.mark.parametrize(
    ("url", "up"), [("https://a/b", False), ("https://a/../b", True), ("https://a/%2e%2e/b", True)]
)
def test_paths_that_go_up(url: str, up: bool) -> None:
    assert git_urls.leaves(url) == up


WITH_SECRET = [
    "https://user:CANARY@example.org/x.git",
    "https://CANARY@example.org/x.git",
    "https://user:CA#NARY@example.org/x.git",
    "https://user:CA/NARY@example.org/x.git",
    "https://user:CA?NARY@example.org/x.git",
    "https://user:CA@NARY@example.org/x.git",
    "http://user:CANARY@example.org",
    "ssh://user:CANARY@example.org/x.git",
    "git+ssh://user:CANARY@example.org/x.git",
    "git://CANARY@example.org/x.git",
    "user:CANARY@example.org:x.git",
    "ftp://user:CANARY@example.org/x.git",
]
PARTS = ("CANARY", "NARY", "CA#", "CA/", "CA?", "CA@")


@pytest.mark.parametrize("url", WITH_SECRET)
def test_credentials_are_found_and_masked(url: str) -> None:
    assert git_urls.credentials(url) != ""
    assert not [part for part in PARTS if part in git_urls.masked(url)]


@pytest.mark.parametrize("url", [*GOOD, *LOCAL, "https://example.org/a@b/x.git", "https://example.org:80/a@b:c"])
def test_urls_without_credentials(url: str) -> None:
    assert git_urls.credentials(url) == ""


@pytest.mark.parametrize("url", WITH_SECRET[:2] + WITH_SECRET[5:10] + ["https://example.org/x.git?token=CANARY"])
def test_a_message_of_git_is_shown_without_secrets(url: str) -> None:
    shown = git_urls.without_secrets(f"fatal: unable to access '{url}/': The requested URL returned error: 403")
    assert "NARY" not in shown
    assert shown.startswith("fatal: unable to access '")
    assert shown.endswith("': The requested URL returned error: 403")


def test_no_text_is_too_strange() -> None:
    """20,000 texts of the pieces of URLs: each is judged, and a secret in front of a host is never shown."""
    chance = random.Random(13)
    words = ("https", "ssh", "file", "ext", "host", "user", "22", "x.git", "..", "%2d", "%0a", "\u2100", "\ud800", "::")
    pieces = [*words, "://", *":@/#?[]-*~\\' \x1b\né"]
    for _ in range(20_000):
        text = "".join(chance.choices(pieces, k=chance.randint(0, 9)))
        for judge in (git_urls.protocol, git_urls.credentials, git_urls.masked, git_urls.ref_refusal, git_urls.leaves):
            judge(text)
        for local in (False, True):
            git_urls.refusal(text, local=local)
        git_urls.without_secrets(text)
        middle = "".join(chance.choices([piece for piece in pieces if piece != "@"], k=chance.randint(0, 3)))
        secret = f"https://user:p{middle}CANARY{middle}@host/x"
        assert git_urls.credentials(secret) == "a password", secret
        assert "CANARY" not in git_urls.masked(secret), secret
