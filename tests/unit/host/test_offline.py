"""In the offline mode, each way into the network is refused at once, with what was wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pikaforge.errors import OfflineError, UnreachableError
from pikaforge.host import git, git_cache, git_program, http, offline
from pikaforge.host.docker import DockerEngine
from pikaforge.host.download import Downloads, PinnedFile
from pikaforge.host.git_cache import Cache
from pikaforge.pipeline.image import bootstrap

URL = "https://example.org/demo.git"


@pytest.fixture(autouse=True)
def mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIKAFORGE_OFFLINE", "1")
    for module in (git_program, git_cache):
        monkeypatch.setattr(module, "resolved", lambda url: url)


def _build(folder: Path) -> None:
    DockerEngine().build(context=b"", target="build", tag="x:1", args={}, labels={}, log=folder / "log")


WAYS: dict[str, Callable[[Path], object]] = {
    "https://example.org/x.patch": lambda _: http.get("https://example.org/x.patch", limit=10),
    f"v1.0 of {URL}": lambda _: git.remote_ref(URL, "v1.0"),
    "the image debian:bookworm-slim": lambda _: DockerEngine().pull("debian:bookworm-slim"),
    "the image x:1": _build,
    "the base image bookworm": lambda folder: bootstrap.root_tar(
        "bookworm", folder / "x", mirror=None, log=folder / "l"
    ),
    "x-1.0.tar.gz": lambda folder: Downloads(folder).get(
        PinnedFile(name="x-1.0.tar.gz", url="https://example.org/x-1.0.tar.gz", sha256="0" * 64)
    ),
}


@pytest.mark.parametrize("wanted", WAYS)
def test_each_way_is_refused_and_says_what_is_wanted(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(OfflineError) as caught:
        WAYS[wanted](tmp_path)
    assert caught.value.message.startswith(f"offline: {wanted}")
    assert "PIKAFORGE_OFFLINE forbids the network" in caught.value.message
    assert "nox -s bundle" in caught.value.hint
    assert not isinstance(caught.value, UnreachableError), "nothing is tried in its place"


def test_a_commit_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    monkeypatch.setattr(Cache, "path", lambda *_: tmp_path)
    monkeypatch.setattr(Cache, "has", lambda *_: False)
    with pytest.raises(OfflineError, match=f"{'a' * 40} of {URL}"):
        cache.fetch(URL, "a" * 40)


def test_secrets_in_urls_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(OfflineError) as caught:
        http.get("https://me:secret@example.org/x?token=secret", limit=10)
    assert "secret" not in "\n".join(caught.value.lines())


def test_a_file_of_this_machine_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    wanted = PinnedFile(name="x", url=(tmp_path / "x").as_uri(), sha256=digest)
    assert Downloads(tmp_path / "downloads").get(wanted).read_bytes() == b"x"
    git_program.refuse_offline((tmp_path / "demo.git").as_uri(), "v1.0")


@pytest.mark.parametrize(
    ("value", "active", "folder"), [("", False, ""), ("0", False, ""), ("1", True, ""), ("/x", True, "/x")]
)
def test_the_variable(monkeypatch: pytest.MonkeyPatch, value: str, active: bool, folder: str) -> None:
    monkeypatch.setenv("PIKAFORGE_OFFLINE", value)
    assert offline.active() == active
    assert str(offline.folder() or "") == folder
