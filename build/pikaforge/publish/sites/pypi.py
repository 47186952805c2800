"""Wheels on a Python index: looked up on its simple page (PEP 503), uploaded by twine, and looked up again.

An index never replaces a file, so other bytes under a name that is taken are an error before anything is sent.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from pikaforge.config.schema import Destination
from pikaforge.errors import PublishError
from pikaforge.host import extras, process
from pikaforge.host.http import TIMEOUT, redacted
from pikaforge.host.store import sha256
from pikaforge.host.text import ignore
from pikaforge.publish.sites import credentials as who
from pikaforge.publish.sites.client import RETRIES, SiteClient, warn_if_plain
from pikaforge.publish.sites.credentials import Credentials
from pikaforge.publish.sites.site import PackageIndex, SiteOptions, UploadOutcome

UPLOAD_TIMEOUT = 1800.0
"""Seconds for one upload."""
LOOKS = 6
"""How often an upload is looked for: an index may show it a moment later."""
PAGE_LIMIT = 64 << 20
DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")
TOKEN_USER = "__token__"  # noqa: S105  # the user whose password is a token; indexes know no Bearer
LINES = 6
"""Of what twine says, in an error."""


class _Links(HTMLParser):
    """Where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down a link."""
        if tag == "a":
            self.found.extend(value for name, value in attrs if name == "href" and value)


def project_of(name: str) -> str:
    """The project of a wheel, as the simple index writes it (PEP 503): demo-server of demo_server-1.0-….whl."""
    return re.sub(r"[-_.]+", "-", name.partition("-")[0]).lower()


def link_to(name: str, page: str) -> str | None:
    """Where a simple page's link to a file leads, with its fragment; None if there is none."""
    links = _Links()
    links.feed(page)
    links.close()
    return next((link for link in links.found if unquote(urlsplit(link).path).rpartition("/")[2] == name), None)


class _Index:
    """An index that is read."""

    def __init__(self, simple: str, client: SiteClient) -> None:
        self._simple = simple.rstrip("/")
        self._client = client

    def page(self, name: str) -> str:
        """The URL of a file's simple page."""
        return f"{self._simple}/{project_of(name)}/"

    def digest(self, name: str) -> str | None:
        """The SHA-256 of a file that is there; it is downloaded if its link does not tell."""
        url = self.page(name)
        page = self._client.get(url, limit=PAGE_LIMIT)
        link = None if page is None else link_to(name, page.decode("utf-8", "replace"))
        if link is None:
            return None
        told = DIGEST.search(urlsplit(link).fragment)
        if told:
            return told[1].lower()
        data = self._client.get(urljoin(url, link).partition("#")[0])
        return None if data is None else hashlib.sha256(data).hexdigest()


def verify() -> None:
    """Raise HostError unless twine is there."""
    extras.require("twine", package="twine", extra="publish")


def publish_wheels(
    url: str,
    simple_url: str | None,
    files: Sequence[tuple[Path, str]],
    credentials: Credentials | None,
    *,
    yes: bool,
    target: str = "index",
    notice: Callable[[str], None] = ignore,
    timeout: tuple[float, float] = TIMEOUT,
    pause: float = RETRIES.pause,
) -> list[UploadOutcome]:
    """Put wheels on an index.

    Args:
        url: where twine uploads to.
        simple_url: where the simple pages are; None means `simple/` below `url`.
        files: wheels, with the SHA-256 that each must have.
        credentials: of the publisher; None where everybody may upload.
        yes: upload; else only tell what would be.
        target: the publish target's name, for hints.
        notice: told what the user should know.
        timeout: seconds to connect, and between two reads, when the index is read.
        pause: seconds before a failed request is made again, or an upload is looked for again.

    Raises:
        PublishError: a name is taken by other bytes (nothing was uploaded then), or an upload failed.
        HostError: twine is missing.
    """
    verify()
    if credentials is not None and credentials.token:
        credentials = Credentials(user=TOKEN_USER, password=credentials.token, source=credentials.source)
    simple = simple_url or f"{url.rstrip('/')}/simple/"
    retries = replace(RETRIES, pause=pause)
    client = SiteClient(simple, credentials, target=target, timeout=timeout, retries=retries)
    index = _Index(simple, client)
    warn_if_plain(url, credentials, notice)
    there = [_there(index, path, digest) for path, digest in files]
    outcomes = []
    for (path, digest), same in zip(files, there, strict=True):
        if not same and yes:
            _upload(path, digest, index, url=url, credentials=credentials, target=target)
            _confirm(index, path, digest, pause)
        done = "uploaded" if yes else "would upload"
        outcomes.append(UploadOutcome(name=path.name, sha256=digest, done="same" if same else done))
    return outcomes


def _there(index: _Index, path: Path, digest: str) -> bool:
    found = index.digest(path.name)
    if found is not None and found != digest:
        raise PublishError(
            f"{path.name} is there already with other bytes: SHA-256 {found}, not {digest}",
            where=redacted(index.page(path.name)),
            hint="an index never replaces a file: give the new build another release",
        )
    return found is not None


def _upload(path: Path, digest: str, index: _Index, *, url: str, credentials: Credentials | None, target: str) -> None:
    if sha256(path) != digest:
        raise PublishError("the wheel does not have the digest that it should have", where=str(path))
    # Without a configuration of the user's: its name may stand for another server, with another password.
    fixed = ("--non-interactive", "--disable-progress-bar", "--config-file", os.devnull)
    argv = (sys.executable, "-m", "twine", "upload", *fixed, "--repository-url", url, str(path))
    done = process.run(argv, env=_environment(credentials), timeout=UPLOAD_TIMEOUT)
    if done.status != 0 and not _there(index, path, digest):  # somebody else may have been faster
        raise PublishError(
            f"twine could not upload {path.name} (exit status {done.status}): "
            + "\n    ".join(_told(done.text() + done.errors(), credentials)),
            where=redacted(url),
            hint=f"are the credentials right, and may they upload? {who.advice(target, url)}",
        )


def _environment(credentials: Credentials | None) -> dict[str, str]:
    """Where twine finds who uploads. Both are set even if they are empty: else it asks a keyring."""
    env = {name: value for name, value in process.environment().items() if not name.startswith("TWINE_")}
    user, password = (credentials.user, credentials.password) if credentials is not None else ("", "")
    return {**env, "TWINE_USERNAME": user, "TWINE_PASSWORD": password, "NO_COLOR": "1", "COLUMNS": "1000"}


def _told(output: str, credentials: Credentials | None) -> list[str]:
    """The last lines of what twine said, without secrets."""
    if credentials is not None:
        pair = base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
        for word in (pair, credentials.password):
            output = output.replace(word, "***")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return [re.sub(r"https?://\S+", lambda found: redacted(found[0]), line) for line in lines[-LINES:]]


def _confirm(index: _Index, path: Path, digest: str, pause: float) -> None:
    """See that the index has it."""
    for look in range(LOOKS):
        if look:
            time.sleep(pause * 2 ** (look - 1))
        if _there(index, path, digest):
            return
    raise PublishError(
        f"twine has uploaded {path.name}, but the index does not show it",
        where=redacted(index.page(path.name)),
        hint="is the target's `simple` right? It is the URL that pip is given",
    )


class PythonIndex(PackageIndex):
    """A Python index that wheels are uploaded to. See `site.Index`."""

    format = "wheel"

    def __init__(self, opening: SiteOptions) -> None:
        self.where = str(opening.destination.url)
        self._simple = opening.destination.simple
        self._target = opening.name
        self._environ = opening.environ

    def verify(self) -> None:
        """Raise HostError unless twine is there."""
        verify()

    def put(self, files: Sequence[tuple[Path, str]], *, yes: bool) -> Sequence[UploadOutcome]:
        """Upload wheels, unless they are there."""
        who_ = who.credentials(self._target, self.where, self._environ)
        return publish_wheels(self.where, self._simple, files, who_, target=self._target, yes=yes)


class IndexKind:
    """Destinations that are a Python index. See `site.SiteKind`."""

    title = "a Python index"
    required = frozenset({"url"})
    optional = frozenset({"simple"})

    def place(self, destination: Destination) -> str:
        """Return its URL."""
        return str(destination.url)

    def open(self, opening: SiteOptions) -> tuple[PythonIndex, str]:
        """Return the index; no request is made yet."""
        return PythonIndex(opening), self.place(opening.destination).rstrip("/")


KIND = IndexKind()
