"""Wheels on a Python index: looked up on its simple page (PEP 503), uploaded by twine, and looked up again.

An index never replaces a file. If it has another file of a wheel's name, that is an error, and nothing is sent.
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
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from pikaforge.config.schema import Destination
from pikaforge.errors import PublishError
from pikaforge.host import extras, process
from pikaforge.host.http import TIMEOUT, redacted
from pikaforge.host.store import sha256
from pikaforge.host.text import ignore
from pikaforge.publish.sites import index_builds
from pikaforge.publish.sites.client import RETRIES, SiteClient, warn_if_plain
from pikaforge.publish.sites.credentials import Credentials, advice
from pikaforge.publish.sites.credentials import credentials as credentials_of
from pikaforge.publish.sites.site import PackageIndex, SiteOptions, Upload, UploadOutcome

UPLOAD_TIMEOUT = 1800.0
"""Seconds for one upload."""
LOOKS = 6
"""How often an upload is looked for; an index may show it a moment later."""
PAGE_LIMIT = 64 << 20
DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")
TOKEN_USER = "__token__"  # noqa: S105  # an index takes a token as the password of this user, not as Bearer
LINES = 6
"""Lines of twine's output in an error."""


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        if tag == "a":
            self.found.extend(value for name, value in attrs if name == "href" and value)


def project_of(name: str) -> str:
    """Return the project of a wheel as simple indexes write it (PEP 503): demo-server for demo_server-1.0-….whl."""
    return re.sub(r"[-_.]+", "-", name.partition("-")[0]).lower()


def links_of(page: str) -> list[tuple[str, str]]:
    """Return the names of a simple page's files, each with the target of its link, which may have a fragment."""
    links = _Links()
    links.feed(page)
    links.close()
    return [(unquote(urlsplit(link).path).rpartition("/")[2], link) for link in links.found]


def link_to(name: str, page: str) -> str | None:
    """Return the target of a simple page's link to a file, with its fragment; None if there is none."""
    return next((link for found, link in links_of(page) if found == name), None)


class _Index:
    """The simple pages of an index."""

    def __init__(self, simple: str, client: SiteClient) -> None:
        self._simple = simple.rstrip("/")
        self._client = client

    def page(self, name: str) -> str:
        """Return the URL of a file's simple page."""
        return f"{self._simple}/{project_of(name)}/"

    def _text(self, url: str) -> str:
        page = self._client.get(url, limit=PAGE_LIMIT)
        return "" if page is None else page.decode("utf-8", "replace")

    def names(self, name: str) -> list[str]:
        """Return the names of all files of a file's project."""
        return [found for found, _ in links_of(self._text(self.page(name)))]

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file; None if it is not there. It is downloaded if its link has no digest."""
        url = self.page(name)
        link = link_to(name, self._text(url))
        if link is None:
            return None
        stated = DIGEST.search(urlsplit(link).fragment)
        if stated:
            return stated[1].lower()
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
    """Upload wheels to an index, unless it has them.

    Args:
        url: to which twine uploads.
        simple_url: of the simple pages; None means `simple/` below `url`.
        files: wheels, with the SHA-256 that each must have.
        credentials: of the publisher; None if everybody may upload.
        yes: upload; else return what would be done.
        target: name of the destination, for hints.
        notice: takes messages for the user.
        timeout: seconds to connect, and between two reads, when the index is read.
        pause: seconds before a failed request is made again, or an upload is looked for again.

    Raises:
        PublishError: the index has another file of that name (nothing was uploaded then), or an upload failed.
        HostError: twine is missing.
    """
    verify()
    credentials = _basic(credentials)
    index = _index(url, simple_url, credentials, target=target, timeout=timeout, pause=pause)
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


def _basic(credentials: Credentials | None) -> Credentials | None:
    """Return credentials as twine and indexes take them: a token as the password of a user of its own."""
    if credentials is None or not credentials.token:
        return credentials
    return Credentials(user=TOKEN_USER, password=credentials.token, source=credentials.source)


def _index(
    url: str,
    simple_url: str | None,
    credentials: Credentials | None,
    *,
    target: str,
    timeout: tuple[float, float] = TIMEOUT,
    pause: float = RETRIES.pause,
) -> _Index:
    """Return the simple pages; for the arguments see `publish_wheels`."""
    simple = simple_url or f"{url.rstrip('/')}/simple/"
    retries = replace(RETRIES, pause=pause)
    return _Index(simple, SiteClient(simple, credentials, target=target, timeout=timeout, retries=retries))


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
    # Without the user's configuration, which may have another server and another password.
    fixed = ("--non-interactive", "--disable-progress-bar", "--config-file", os.devnull)
    argv = (sys.executable, "-m", "twine", "upload", *fixed, "--repository-url", url, str(path))
    done = process.run(argv, env=_environment(credentials), timeout=UPLOAD_TIMEOUT)
    if done.status != 0 and not _there(index, path, digest):  # another publisher may have been faster
        raise PublishError(
            f"twine could not upload {path.name} (exit status {done.status}): "
            + "\n    ".join(_shown(done.text() + done.errors(), credentials)),
            where=redacted(url),
            hint=f"are the credentials right, and may they upload? {advice(target, url)}",
        )


def _environment(credentials: Credentials | None) -> dict[str, str]:
    """Return an environment with the credentials. Both variables are set always: else twine asks a keyring."""
    env = {name: value for name, value in process.environment().items() if not name.startswith("TWINE_")}
    user, password = (credentials.user, credentials.password) if credentials is not None else ("", "")
    return {**env, "TWINE_USERNAME": user, "TWINE_PASSWORD": password, "NO_COLOR": "1", "COLUMNS": "1000"}


def _shown(output: str, credentials: Credentials | None) -> list[str]:
    """Return the last lines of twine's output, without secrets."""
    if credentials is not None:
        pair = base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
        for word in (pair, credentials.password):
            output = output.replace(word, "***")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return [re.sub(r"https?://\S+", lambda found: redacted(found[0]), line) for line in lines[-LINES:]]


def _confirm(index: _Index, path: Path, digest: str, pause: float) -> None:
    """Check that the index shows an upload."""
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
    """A Python index to which wheels are uploaded. See `site.PackageIndex`."""

    format = "wheel"

    def __init__(self, options: SiteOptions) -> None:
        self.where = str(options.destination.url)
        self._simple = options.destination.simple
        self._pinned = options.destination.pinned
        self._target = options.name
        self._environ = options.environ

    def verify(self) -> None:
        """Raise HostError unless twine is there."""
        verify()

    def put(self, files: Sequence[Upload], *, yes: bool) -> Sequence[UploadOutcome]:
        """Upload wheels, unless the index has them; each to the index of its model, if there is one for each."""
        publisher = credentials_of(self._target, self.where, self._environ)
        places = index_builds.by_index(self.where, self._simple, files)
        for (url, simple), uploads in places.items() if not self._pinned else ():
            index = _index(url, simple, _basic(publisher), target=self._target)
            names = dict.fromkeys(chain.from_iterable(index.names(u.path.name) for u in _one_of_each(uploads)))
            index_builds.refuse_mixed(uploads, list(names), where=redacted(url), target=self._target)
        outcomes: list[UploadOutcome] = []
        for (url, simple), uploads in places.items():
            wheels = [(upload.path, upload.sha256) for upload in uploads]
            outcomes += publish_wheels(url, simple, wheels, publisher, target=self._target, yes=yes)
        return outcomes


def _one_of_each(uploads: Sequence[Upload]) -> list[Upload]:
    """Return one upload of each project."""
    return list({project_of(upload.path.name): upload for upload in uploads}.values())


class IndexKind:
    """Destinations that are a Python index. See `site.SiteKind`."""

    title = "a Python index"
    required = frozenset({"url"})
    optional = frozenset({"simple", "pinned"})

    def place(self, destination: Destination) -> str:
        """Return its URL."""
        return str(destination.url)

    def open(self, options: SiteOptions) -> tuple[PythonIndex, str]:
        """Return the index. No request is made yet."""
        urls = filter(None, (options.destination.url, options.destination.simple))
        index_builds.check_fields(urls, where=f"publish.{options.name}")
        return PythonIndex(options), self.place(options.destination).rstrip("/")


KIND = IndexKind()
