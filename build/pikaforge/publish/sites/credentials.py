"""Credentials of a publisher, from the environment. They are never in matrix.yaml, command lines, logs or errors."""

from __future__ import annotations

import netrc
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pikaforge.errors import CredentialsError

BEARER = "Bearer "
"""Start of the line in a credentials file that has a token, as in the HTTP header."""
LIMIT = 1 << 16
"""Bytes of a credentials file; it has one line."""
UNFIT = re.compile(r"[\x00-\x1f\x7f]")
"""Control characters would end the HTTP header. requests shows such a header in its error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user with a password, or a token."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """Sent as `Authorization: Bearer`; an index takes it as the password of the user `__token__`."""
    source: str = ""
    """The variable or file that they are from, for messages."""


def prefix(target: str) -> str:
    """Return the start of the names of a destination's variables: PIKAFORGE_MY_REPO for `my-repo`."""
    return "PIKAFORGE_" + re.sub(r"[^A-Z0-9]", "_", target.upper())


def advice(target: str, url: str) -> str:
    """Return a hint that says how credentials are given."""
    name = prefix(target)
    return (
        f"set {name}_USER and {name}_PASSWORD, or {name}_TOKEN, or {name}_CREDENTIALS to a file with the line "
        f"user:password\nor give ~/.netrc an entry for {urlsplit(url).hostname}"
    )


def credentials(target: str, url: str, environ: Mapping[str, str]) -> Credentials | None:
    """Return the credentials for a destination; None if there are none.

    The first of these counts: a token; a user with a password; a file with one line, `user:password` or `Bearer TOKEN`;
    the entry of the URL's host in ~/.netrc, or in the file that NETRC names. An empty variable counts as not set: CI
    systems set empty variables for secrets that do not exist.

    Raises:
        ConfigError: a user without a password or the other way round, or a file that cannot be used.
    """
    name = prefix(target)
    token, user, password, file = (
        environ.get(f"{name}_{kind}", "").rstrip("\r\n") for kind in ("TOKEN", "USER", "PASSWORD", "CREDENTIALS")
    )
    if token:
        return _checked(Credentials(token=token, source=f"{name}_TOKEN"))
    if user and password:
        return _checked(Credentials(user=user, password=password, source=f"{name}_USER"))
    if user or password:
        there, missing = ("USER", "PASSWORD") if user else ("PASSWORD", "USER")
        raise CredentialsError(f"{name}_{there} is set, but {name}_{missing} is not", hint=f"set {name}_{missing}, too")
    if file:
        return _of_file(Path(file).expanduser(), f"{name}_CREDENTIALS")
    return _of_netrc(url, environ)


def _checked(found: Credentials) -> Credentials:
    """Return credentials; raise ConfigError if an HTTP header cannot hold them. The message has no part of them."""
    wrong = ""
    if found.token and not re.fullmatch(r"[\x21-\x7e]+", found.token):
        wrong = "a token has no blanks, and ASCII characters only"
    elif UNFIT.search(found.user) or UNFIT.search(found.password):
        wrong = "there are control characters in it"
    elif ":" in found.user:
        wrong = "a user's name cannot have a colon"
    if wrong:
        raise CredentialsError("the credentials cannot be sent", where=found.source, hint=wrong)
    return found


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(LIMIT).decode()
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}", where=source) from error
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not UTF-8", where=source) from None  # the cause shows bytes of the file


def _of_file(path: Path, source: str) -> Credentials:
    where = f"{path}, which {source} names"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}", where=source) from error
    if mode & 0o077:
        raise CredentialsError("others may read the file with credentials", where=where, hint=f"chmod 600 {path}")
    lines = _read(path, source).splitlines()
    line = lines[0] if len(lines) == 1 else ""
    if line.startswith(BEARER) and line != BEARER:
        return _checked(Credentials(token=line.removeprefix(BEARER), source=where))
    user, _, password = line.partition(":")
    if not (user and password):
        raise CredentialsError(
            "the file with credentials is not one line `user:password`", where=where, hint="or one line `Bearer TOKEN`"
        )
    return _checked(Credentials(user=user, password=password, source=where))


def _of_netrc(url: str, environ: Mapping[str, str]) -> Credentials | None:
    """Return the entry of the URL's host; the entry `default` is for guests and does not count."""
    home = environ.get("HOME", "")
    named = environ.get("NETRC", "") or (f"{home}/.netrc" if home else "")
    path = Path(named).expanduser()
    if not named or not path.is_file():
        return None
    try:
        entries = netrc.netrc(str(path)).hosts
    except netrc.NetrcParseError as error:  # the cause shows words of the file
        raise CredentialsError(f"{path} cannot be understood", where=f"line {error.lineno}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CredentialsError(f"{path} cannot be read: {reason}") from None
    entry = entries.get(urlsplit(url).hostname or "")
    if entry is None:
        return None
    user, _, password = entry
    if not (user and password):
        raise CredentialsError("the entry has no login, or no password", where=f"{path}, {urlsplit(url).hostname}")
    return _checked(Credentials(user=user, password=password, source=str(path)))
