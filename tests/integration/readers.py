"""Readers of a repository, which refresh in a loop while it is published to.

What a reader does is what yum, apt and people do: it reads a pointer, then all that it names, and compares digests. It
must never meet a 404, a digest that does not fit, or an older state after a newer one.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import random
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

TRIES = 4
"""Times in a row that a switch may lie between two requests."""
PLACE = "/debian12/R620"
REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"


@dataclass(slots=True)
class Reader:
    """Refreshes again and again."""

    url: str
    stop: threading.Event
    chance: random.Random
    keep: int
    """Generations that stay."""
    rounds: int = 0
    late: int = 0
    """Rounds that took so long that what they read was no longer kept."""
    bad: list[str] = field(default_factory=list)
    torn: int = 0
    """How often metadata and signature were read on both sides of a switch."""
    seen: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        """Read until told to stop; the first thing that is wrong ends it."""
        while not self.bad and not self.stop.wait(0.01):  # else it would take the processors from the publisher
            began = self.generation()
            try:
                self.round()
            except AssertionError as error:
                if began is not None and (self.generation() or 0) - began >= self.keep - 1:
                    self.late += 1
                else:
                    self.bad.append(str(error))
            except Exception as error:  # noqa: BLE001  # whatever it is, the test is to say it
                self.bad.append(repr(error))
            self.rounds += 1

    def generation(self) -> int | None:
        """The number of the generation that is served now."""
        return int(json.loads(self.get(f"{PLACE}/repository.json"))["generations"][0]["number"])

    def get(self, path: str, digest: str = "") -> bytes:
        """A file; with the digest that it must have."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        try:
            connection.request("GET", f"{parts.path}{path}")
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, f"{path}: {answer.status}"
        assert len(data) == int(answer.headers["Content-Length"]), f"{path}: {len(data)} bytes came"
        if digest:
            assert hashlib.sha256(data).hexdigest() == digest, f"{path}: other bytes"
        return data

    def newer(self, what: str, number: int) -> None:
        """A number that never gets smaller."""
        assert number >= self.seen.get(what, number), f"{what}: {number} after {self.seen[what]}"
        self.seen[what] = number

    def round(self) -> None:
        """One refresh by every kind of client."""
        for client in self.chance.sample([self.yum, self.apt, self.person], 3):
            client()

    def yum(self) -> None:
        folder = f"{PLACE}/x86_64"
        repomd = ET.fromstring(self.signed(f"{folder}/repodata/repomd.xml"))
        self.newer("repomd.xml", int(repomd.findtext(f"{REPO}revision") or 0))
        primary = b""
        for data in repomd.iter(f"{REPO}data"):
            location, checksum = data.find(f"{REPO}location"), data.findtext(f"{REPO}checksum")
            assert location is not None
            content = self.get(f"{folder}/{location.attrib['href']}", str(checksum))
            if data.attrib["type"] == "primary":
                primary = gzip.decompress(content)
        packages = list(ET.fromstring(primary).iter(f"{COMMON}package"))
        assert packages
        for package in self.chance.sample(packages, min(2, len(packages))):
            location, checksum = package.find(f"{COMMON}location"), package.findtext(f"{COMMON}checksum")
            assert location is not None
            self.get(f"{folder}/{location.attrib['href']}", str(checksum))

    def signed(self, path: str) -> bytes:
        """A file whose signature, of publishing.FakeSigner, is in another one: a switch may lie between the two."""
        for _ in range(TRIES):
            data = self.get(path)
            if hashlib.sha256(data).hexdigest() in self.get(f"{path}.asc").decode():
                return data
            self.torn += 1
        raise AssertionError(f"{path}: its signature does not fit, {TRIES} times")

    def apt(self) -> None:
        folder = f"{PLACE}/debs"
        release = self.get(f"{folder}/Release").decode()
        date = re.search(r"^Date: (.*)$", release, re.MULTILINE)
        listed = re.search(r"^ ([0-9a-f]{64}) \d+ Packages\.gz$", release, re.MULTILINE)
        assert date is not None and listed is not None
        self.newer("Release", int(parsedate_to_datetime(date[1].replace("UTC", "+0000")).timestamp()))
        packages = gzip.decompress(self.get(f"{folder}/by-hash/SHA256/{listed[1]}", listed[1])).decode()
        stanza = self.chance.choice(packages.strip().split("\n\n"))
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        self.get(f"{folder}/{fields['Filename']}", fields["SHA256"])

    def person(self) -> None:
        """The page, the catalogue, and a tarball by the sums beside it."""
        assert self.get("/index.html").rstrip().endswith(b"</html>")
        catalogue = json.loads(self.get("/repo.json"))
        (repository,) = catalogue["repositories"]
        self.newer("repo.json", repository["generation"])
        sums = self.get(f"{PLACE}/tarballs/SHA256SUMS").decode()
        digest, _, name = self.chance.choice(sums.splitlines()).partition("  ")
        self.get(f"{PLACE}/tarballs/{name}", digest)


@contextmanager
def reading(url: str, *, keep: int, count: int = 2) -> Iterator[list[Reader]]:
    """Readers of a root, each in a thread, until the block is left."""
    stop = threading.Event()
    readers = [Reader(url, stop, random.Random(seed), keep) for seed in range(count)]
    threads = [threading.Thread(target=reader.run, daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
