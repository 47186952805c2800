"""The network is cut at random bytes of downloads, fetches and uploads: the next run goes on, to the same bytes."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import thorough
from cutter import Cutter, again_and_again, cutter
from integration.dav import WRITER, dav_of, nginx_image
from publishing import Root, Shelf
from survival import seed_of

from pikaforge.errors import HostError, PublishError
from pikaforge.host.download import Downloads, PinnedFile
from pikaforge.host.git_cache import Cache
from pikaforge.host.run_id import RunId
from pikaforge.publish.sites import web_lock
from pikaforge.publish.sites.web import WebSite

if TYPE_CHECKING:
    from conftest import Engine
    from integration.conftest import Git, Warm, Web

CUTS = 100 if thorough.whole("survival") else 10
SIZE = 200_000


@pytest.fixture
def chance() -> random.Random:
    return seed_of("network")


def told(what: str, way: Cutter, ends: int) -> None:
    """Print the count."""
    print(f"network: {what}: {way.cuts} cuts, {ends} ends, all alike")


def test_downloads_that_are_cut(web: Callable[[Path], Web], tmp_path: Path, chance: random.Random) -> None:
    (tmp_path / "site").mkdir()
    data = chance.randbytes(SIZE)
    (tmp_path / "site" / "x.tar.gz").write_bytes(data)
    parts = urlsplit(web(tmp_path / "site").url)
    folder, ends = tmp_path / "downloads", 0
    with cutter(str(parts.hostname), int(parts.port or 0)) as way:
        url = f"http://127.0.0.1:{way.port}/x.tar.gz"
        wanted = PinnedFile(name="x.tar.gz", url=url, sha256=hashlib.sha256(data).hexdigest())
        for _ in again_and_again(way, chance, SIZE):
            try:
                path = Downloads(folder).get(wanted)
            except HostError as error:
                assert "cannot download x.tar.gz" in error.message
                continue
            assert path.read_bytes() == data
            assert sorted(each.name for each in folder.iterdir()) == [".x.tar.gz.lock", "x.tar.gz"]
            path.unlink()
            ends += 1
            if way.cuts >= CUTS:
                break
    told("downloads", way, ends)


def test_fetches_that_are_cut(
    git: Git, git_daemon: Callable[[Path], str], tmp_path: Path, chance: random.Random
) -> None:
    upstream = tmp_path / "served" / "upstream"
    git("init", "--quiet", upstream)
    (upstream / "file").write_bytes(chance.randbytes(SIZE))
    git("-C", upstream, "add", "--all")
    git("-C", upstream, "commit", "--quiet", "--message", "x")
    commit = git("-C", upstream, "rev-parse", "HEAD")
    parts = urlsplit(git_daemon(tmp_path / "served"))
    ends = 0
    with cutter(str(parts.hostname), int(parts.port or 0)) as way:
        url = f"git://127.0.0.1:{way.port}/upstream"
        for number in again_and_again(way, chance, SIZE):
            cache = Cache(tmp_path / f"cache-{ends}")
            try:
                path = cache.fetch(url, commit, "HEAD")
            except HostError:
                assert number < CUTS * 10
                continue
            shown = ["git", "--git-dir", str(path), "cat-file", "blob", f"{commit}:file"]
            assert subprocess.run(shown, capture_output=True, check=True).stdout == (upstream / "file").read_bytes()
            cache.fetch(url, commit, "HEAD")
            git("--git-dir", path, "fsck", "--full", "--no-dangling")
            left = [each.name for each in path.rglob("*") if each.suffix == ".lock" or each.name.startswith("tmp_")]
            assert left == []
            ends += 1
            if way.cuts >= CUTS:
                break
    told("fetches", way, ends)


@pytest.fixture
def each_is_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that was cut off has ended when the next one comes: here both are this process."""
    me = RunId.current()
    ended = replace(me, pid=2**22 + 1)  # no machine has so many
    assert ended.gone()
    monkeypatch.setattr(web_lock, "RunId", SimpleNamespace(current=lambda: ended, parse=RunId.parse))


@pytest.mark.engine
@pytest.mark.usefixtures("each_is_a_run")
@pytest.mark.xdist_group("publish-web")
@pytest.mark.long(60)
def test_uploads_that_are_cut(
    engine: Engine, warm: Warm, until: Callable[..., None], tmp_path: Path, chance: random.Random
) -> None:
    """What a publisher that was cut off has begun, the next one finishes; readers read what is whole."""
    shelf = Shelf(tmp_path / "shelf")
    with dav_of(engine, nginx_image(engine, warm), until) as dav:
        parts = urlsplit(dav.url)
        with cutter(str(parts.hostname), parts.port or 80) as way:
            url = parts._replace(netloc=f"127.0.0.1:{way.port}").geturl()
            ends, version, most = 0, 0, 60_000
            contents = [chance.randbytes(20_000) for _ in range(CUTS * 3)]
            for number in again_and_again(way, chance, most):
                assert number < CUTS * 3
                site = WebSite(url, WRITER, pause=0.01, look=0.05)
                item = shelf.item(f"1.{version}", format="tar", content=contents[version])
                try:
                    Root(shelf=shelf, site=site).publish(item)
                except PublishError as error:
                    print(f"version {version}, {way.cuts} cuts: {error.message}", flush=True)
                else:
                    ends += 1
                    version += 1
                    if way.cuts >= CUTS:
                        break
            way.cut_after(1 << 60)
            site = WebSite(url, WRITER, pause=0.01, look=0.05)
            root = Root(shelf=shelf, site=site)
            last = shelf.item("2.0", format="tar")
            root.publish(last)
            state = root.state()
            for file in state.files():
                data = site.read(f"{state.place}/{file.path}")
                assert data is not None
                assert hashlib.sha256(data).hexdigest() == file.sha256
            assert "2.0" in {artifact.product_version.lstrip("v") for artifact in state.listed()}
            listing = dav.listing()
            assert [name for name in listing if name.endswith(".part") or ".lock" in name] == []
            assert ".pending.json" not in listing
    told("uploads", way, ends)
