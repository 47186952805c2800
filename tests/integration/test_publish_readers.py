"""Readers that refresh in a loop while a repository is published to, and its publishers are killed.

What a reader does is what yum, apt and people do: it reads a pointer, then all that it names, and compares digests. It
must never meet a 404, a digest that does not fit, or an older state after a newer one.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from .conftest import Web

HERE = Path(__file__).resolve().parent
PUBLICATIONS = 500
KEEP = 12
READERS = 2
PLACE = "/debian12/R620"
REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"

pytestmark = pytest.mark.xdist_group("publish-readers")


@dataclass(slots=True)
class Reader:
    """Refreshes again and again."""

    host: str
    stop: threading.Event
    chance: random.Random
    rounds: int = 0
    late: int = 0
    """Rounds that took so long that what they read was no longer kept."""
    bad: list[str] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        """Read until told to stop; the first thing that is wrong ends it."""
        while not self.bad and not self.stop.wait(0.01):  # else it would take the processors from the publisher
            began = self.generation()
            try:
                self.round()
            except AssertionError as error:
                if began is not None and (self.generation() or 0) - began >= KEEP - 1:
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
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request("GET", path)
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
        repomd = ET.fromstring(self.get(f"{folder}/repodata/repomd.xml"))
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


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Start republish.py in a folder."""
    running: list[subprocess.Popen[str]] = []

    def start(count: int) -> subprocess.Popen[str]:
        argv = [sys.executable, str(HERE / "republish.py"), str(tmp_path), str(count), "7", str(KEEP)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PIKAFORGE_")}
        running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_no_reader_sees_anything_but_whole_states(
    publisher: Callable[[int], subprocess.Popen[str]], web: Callable[[Path], Web], tmp_path: Path
) -> None:
    process = publisher(PUBLICATIONS)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    server = web(tmp_path / "root")
    stop = threading.Event()
    host = urlsplit(server.url).netloc
    readers = [Reader(host, stop, random.Random(seed)) for seed in range(READERS)]
    threads = [threading.Thread(target=reader.run, daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    told = {"done": 0, "killed": 0}
    for line in process.stdout:
        if line.strip() in told:
            told[line.strip()] += 1
        if any(reader.bad for reader in readers):
            break
    stop.set()
    for thread in threads:
        thread.join(60)
    print(told, [(reader.rounds, reader.late) for reader in readers])
    assert [reader.bad for reader in readers] == [[]] * READERS
    assert process.wait(60) == 0
    assert told["done"] == PUBLICATIONS
    assert told["killed"] >= PUBLICATIONS / 10, "the kills came too late to mean anything"
    rounds, late = sum(reader.rounds for reader in readers), sum(reader.late for reader in readers)
    assert rounds >= PUBLICATIONS / 10
    assert late <= rounds / 10, "readers were too slow to see anything"
    left: list[Any] = [path.name for path in (tmp_path / "root/debian12/.R620.generations").iterdir()]
    assert len(left) <= 4  # two, and what the last one killed has left
