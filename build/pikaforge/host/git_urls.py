"""URLs and refs of git repositories: which ones git may get, and what may be shown of them.

A URL comes from a user, from matrix.yaml, or from the .gitmodules of a source, and a source may be hostile. git takes a
URL that begins with `-` for an option, runs a program for `ext::PROGRAM`, and reads a path of this machine.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from pikaforge.host.http import redacted

NETWORK = ("https", "http", "ssh", "git")
"""Protocols that every URL may have. Plain http is among them as git's own protocol is: the commit that is fetched is
named by its hash, so nobody on the way can change it."""
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
"""The name of a commit: SHA-1 or SHA-256, in hex. For `fullmatch`."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")
"""What git-remote-NAME programs begin with (gitremote-helpers(7)): `ext::`, `fd::`."""
_ALIASES = {"git+ssh": "ssh", "ssh+git": "ssh"}
_PORT = re.compile(r"^[^:]*(:\d+)?$|^\[[0-9a-fA-F:.]+\](:\d+)?$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.lock$|\.$")
"""See git-check-ref-format(1)."""
_SHOWN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+")


def protocol(url: str) -> str:
    """Return the protocol by which git reaches a URL, `file` for a path; "" if it is none that is known here."""
    if _HELPER.match(url):
        return ""
    if found := _SCHEME.match(url):
        name = _ALIASES.get(found[1], found[1])
        return name if name in (*NETWORK, "file") else ""
    host, colon, _ = url.partition(":")
    if "://" in url:
        return ""
    return "ssh" if colon and "/" not in host else "file"


def refusal(url: str, *, local: bool) -> str:
    """Return why git does not get a URL, as the end of a sentence; "" if it may have it.

    Args:
        url: as it was given.
        local: whether it may name a repository of this machine.
    """
    how = protocol(url)
    options = how != "file" and any(part.startswith("-") for part in _host_parts(url))
    reasons = {
        "begins with `-`, as an option does": url.startswith("-"),
        "holds a control character": bool(_CONTROL.search(url) or _CONTROL.search(unquote(url))),
        "is not a URL": not _readable(url),
        f"has a protocol other than {', '.join(NETWORK)}": not how,
        "names a repository of this machine": how == "file" and not local,
        "names a user or host that begins with `-`, as an option does": options,
    }
    return next((reason for reason, wrong in reasons.items() if wrong), "")


def _readable(url: str) -> bool:
    """Return whether a URL is text whose parts can be told: brackets fit, and no letter would become another one."""
    try:
        url.encode()
        urlsplit(url)
    except ValueError:
        return False
    return True


def _host_parts(url: str) -> tuple[str, ...]:
    scheme = _SCHEME.match(url)
    authority = url[scheme.end() :].partition("/")[0] if scheme else url.partition(":")[0]
    user, _, host = authority.rpartition("@")
    return unquote(authority), unquote(user), unquote(host)


def leaves(url: str) -> bool:
    """Return whether the path of a URL goes up: behind a rule that replaces its start, it could lead anywhere."""
    return ".." in re.split(r"[/\\:]", unquote(url))


def ref_refusal(ref: str) -> str:
    """Return why a text cannot be the name of a ref, as the end of a sentence; "" if it can."""
    if ref.startswith("-"):
        return "begins with `-`, as an option does"
    return "cannot be the name of a ref" if not ref or _BAD_REF.search(ref) else ""


def credentials(url: str) -> str:
    """Return what in a URL is, or may be, a secret; "" if nothing is.

    A user alone is one, too: access tokens are given so. Only ssh has users that are none (`git@example.org:x.git`).
    A password need not be written as a URL wants it, so `#`, `?` and `/` in it do not hide it.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        before, at, _ = url.partition("@")
        return "a password" if at and ":" in before and "/" not in before else ""
    authority, _, path = rest.partition("/")
    user, at, _ = authority.rpartition("@")
    if (at and ":" in user) or (not at and "@" in path and not _PORT.search(authority)):
        return "a password"
    return "a user, or an access token" if at and "ssh" not in scheme.split("+") else ""


def query(url: str) -> bool:
    """Return whether a URL has a query. Servers of git need none; what some have there is an access token."""
    return protocol(url) in ("http", "https") and "?" in url


def masked(url: str) -> str:
    """Return a URL in which something is wrong, as it may be shown: without all that could be secret."""
    scheme, colon, rest = url.partition("://")
    return redacted(f"{scheme}{colon}***@{rest.rpartition('@')[2]}" if "@" in rest else url)


CREDENTIALS_HINT = (
    "take it out, because URLs are written to reports and packages; ways that work: an entry in ~/.netrc, and for git "
    "also a credential helper (git config --global credential.helper) or ssh with a key"
)


def without_secrets(message: str) -> str:
    """Return a message of git without what may be secret in the URLs that it has."""
    return _SHOWN.sub(lambda found: redacted(found[0]), message)


def join(base: str, url: str) -> str:
    """Return the URL of a submodule. A relative one (`../x.git`) is resolved as git does it.

    Args:
        base: URL of the repository that has the submodule.
        url: as .gitmodules has it.
    """
    if not url.startswith(("./", "../")):
        return url
    base, separator = base.rstrip("/"), "/"
    while True:
        if url.startswith("../"):
            url = url[3:]
            if "/" in base:
                base = base.rpartition("/")[0]
            elif ":" in base:  # user@host:folder; user@host is left
                base, separator = base.rpartition(":")[0], ":"
            else:
                base = "."
        elif url.startswith("./"):
            url = url[2:]
        else:
            return f"{base}{separator}{url.rstrip('/')}"
