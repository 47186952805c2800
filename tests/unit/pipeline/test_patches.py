"""The patch series: what is a mailbox, what quilt says, and that pins and patches agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.helpers import refusal

from pikaforge.config import load
from pikaforge.config.patch_series import Series
from pikaforge.errors import ConfigError, HostError, UnreachableError
from pikaforge.host import git, git_cache, http
from pikaforge.host.hashing import digest
from pikaforge.host.lockfile import Lock
from pikaforge.pipeline.source import patches
from pikaforge.pipeline.source.origin import WAYS_ROUND, Origin
from pikaforge.pipeline.source.patches import Patch, PatchSources, is_mailbox, oddities, pinned_digests, resolve

SHA = "0123456789abcdef0123456789abcdef01234567"
MAIL = f"""\
From {SHA} Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Sun, 1 Jan 2023 00:00:00 +0000
Subject: [PATCH] fix: it

---
 a.c | 2 +-

diff --git a/a.c b/a.c
--- a/a.c
+++ b/a.c
@@ -1 +1 @@
-x
+y
--
2.39.5
"""
DIFF = "--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-x\n+y\n"
URL = "https://example.org/pull/{}.patch"


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        pytest.param(MAIL, True, id="format-patch"),
        pytest.param(MAIL * 3, True, id="several"),
        pytest.param(MAIL.replace("\n", "\r\n"), True, id="CRLF"),
        pytest.param(MAIL.replace(SHA, SHA + SHA[:24]), True, id="SHA-256 repository"),
        pytest.param(MAIL.partition("\n")[2], True, id="mail without the From line"),
        pytest.param("X-Seen: 1\n" + MAIL.partition("\n")[2], True, id="another header first"),
        pytest.param(DIFF, False, id="plain diff"),
        pytest.param("diff --git a/a b/a\n" + DIFF, False, id="git diff"),
        pytest.param("Description: fix\nAuthor: A <a@b>\n\n" + DIFF, False, id="DEP-3 of Debian"),
        pytest.param("From: A <a@b>\nSubject: fix\n\n" + DIFF, False, id="DEP-3 with From but no date"),
        pytest.param("fix it\n\nFrom: a\nSubject: b\nDate: c\n" + DIFF, False, id="headers in the text"),
        pytest.param("<!DOCTYPE html><html><head><title>502</title>", False, id="a proxy's page"),
        pytest.param("", False, id="empty"),
        pytest.param("From here on\n\n" + DIFF, False, id="prose"),
    ],
)
def test_is_mailbox(text: str, mailbox: bool) -> None:
    assert is_mailbox(text.encode()) is mailbox


def _series(*entries: dict[str, object]) -> Series:
    return load.parse_series(yaml.safe_dump({"patches": list(entries)}), file="series.yaml")


def _pull(number: int, **more: object) -> dict[str, object]:
    return {"pull": number, "url": URL.format(number), **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "patches"
    (folder / "debian").mkdir(parents=True)
    (folder / "fix.patch").write_text(DIFF)
    (folder / "mail.patch").write_text(MAIL)
    (folder / "debian" / "b.patch").write_text("b")
    (folder / "debian" / "a.patch").write_text("a")
    (folder / "debian" / "series").write_text("b.patch -p0\na.patch\n")
    return folder


REMOTE = Origin(kind="git", spec="https://example.org/demo.git", url="https://example.org/demo.git", ref="v1.0")


def _sources(folder: Path, origin: Origin = REMOTE, **lock: bool) -> PatchSources:
    out = folder.parent / "out"
    return PatchSources(
        origin=origin,
        commit=SHA,
        folder=folder,
        lock=Lock(folder.parent / "sources.lock", **lock),
        downloads=out / "downloads",
        cache=git_cache.Cache(out / "git"),
    )


class Web:
    """What URLs give, and how often they were asked."""

    def __init__(self, **texts: str) -> None:
        self.asked: list[str] = []
        self.texts = {URL.format(name.removeprefix("n")): text for name, text in texts.items()}

    def get(self, url: str, *, limit: int) -> bytes:
        assert limit == 64 << 20
        self.asked.append(url)
        return self.texts[url].encode()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web(n1=MAIL, n2=MAIL.replace("it", "another"))
    monkeypatch.setattr(http, "get", web.get)
    return web


# ---- quilt


@pytest.mark.parametrize(
    ("series", "found"),
    [
        ("b.patch\na.patch\n", [("b.patch", 1), ("a.patch", 1)]),
        ("a.patch -p0\nb.patch -p2", [("a.patch", 0), ("b.patch", 2)]),
        ("# comment\n\n  a.patch   # why\n#b.patch\n", [("a.patch", 1)]),
        ("a.patch\t-p1\r\n", [("a.patch", 1)]),
        ("sub/c.patch\n", [("sub/c.patch", 1)]),
        ("", []),
    ],
)
def test_a_quilt_series(folder: Path, series: str, found: list[tuple[str, int]]) -> None:
    (folder / "debian" / "sub").mkdir()
    (folder / "debian" / "sub" / "c.patch").write_text("c")
    (folder / "debian" / "series").write_text(series)
    applied = resolve(_series({"quilt": "debian"}), _sources(folder))
    assert [(p.name, p.strip, p.kind) for p in applied] == [(f"quilt debian/{n}", s, "diff") for n, s in found]


@pytest.mark.parametrize(
    ("series", "message", "line"),
    [
        ("a.patch -R\n", "the quilt option '-R' is unknown", 1),
        ("b.patch\na.patch -p10\n", "the quilt option '-p10' is unknown", 2),
        ("a.patch --fuzz=3\n", "the quilt option '--fuzz=3' is unknown", 1),
        ("../fix.patch\n", "../fix.patch leaves the quilt folder", 1),
        ("a.patch\nb.patch\na.patch -p0\n", "a.patch is here twice", 3),
        ("# one\nx/../../fix.patch\n", "x/../../fix.patch leaves the quilt folder", 2),
        ("/etc/passwd\n", "/etc/passwd leaves the quilt folder", 1),
        (
            "b.patch\n\nabsent.patch\n",
            "cannot read the patch {folder}/debian/absent.patch: No such file or directory",
            3,
        ),
    ],
)
def test_a_quilt_series_that_is_refused(folder: Path, series: str, message: str, line: int) -> None:
    (folder / "debian" / "series").write_text(series)
    entries = _series({"quilt": "debian"})
    expected = (message.format(folder=folder), f"{folder}/debian/series:{line}", "")
    with pytest.raises(ConfigError) as caught:
        resolve(entries, _sources(folder))
    assert refusal(caught) == expected
    with pytest.raises(ConfigError) as caught:
        pinned_digests(entries, REMOTE, folder=folder, lock=Lock(folder / "none"))
    assert refusal(caught) == expected


def test_a_quilt_folder_without_series_is_refused(folder: Path) -> None:
    (folder / "debian" / "series").unlink()
    with pytest.raises(ConfigError) as caught:
        resolve(_series({"quilt": "debian"}), _sources(folder))
    assert refusal(caught) == (
        f"cannot read the patch {folder}/debian/series: No such file or directory",
        f"{folder}/series.yaml, patches[0]",
        "",
    )


@pytest.mark.parametrize(
    ("other", "name"),
    [("more", "more"), ("deep/more", "deep/more"), ("more/debian", "more/debian"), ("./a//more", "a/more")],
)
def test_two_quilt_folders_may_have_patches_of_one_name(folder: Path, other: str, name: str) -> None:
    """Else a change of the first one would not change the key."""
    (folder / other).mkdir(parents=True)
    (folder / other / "series").write_text("a.patch\n")
    (folder / other / "a.patch").write_text("another a")
    series, sources = _series({"quilt": "debian"}, {"quilt": other}), _sources(folder)
    before = pinned_digests(series, REMOTE, folder=folder, lock=sources.lock)
    assert before == patches.digests_of(resolve(series, sources))
    assert before is not None
    assert list(before) == ["quilt debian/b.patch", "quilt debian/a.patch", f"quilt {name}/a.patch"]
    (folder / "debian" / "a.patch").write_text("changed")
    assert pinned_digests(series, REMOTE, folder=folder, lock=sources.lock) != before


def test_a_quilt_folder_is_known_by_its_whole_path_whatever_else_is_in_the_series(folder: Path) -> None:
    """Two folders, of which one is in the other, and a third with the same last part."""
    for path in ("a", "a/x", "b/x"):
        (folder / path).mkdir(parents=True)
        (folder / path / "y").write_text(path)
        (folder / path / "series").write_text("y\n")
    alone = resolve(_series({"quilt": "b/x"}), _sources(folder))
    every = resolve(_series({"quilt": "a"}, {"quilt": "a/x"}, {"quilt": "b/x"}), _sources(folder))
    assert [patch.name for patch in every] == ["quilt a/y", "quilt a/x/y", "quilt b/x/y"]
    assert alone[0] == every[2]


@pytest.mark.parametrize("again", ["./debian", "debian/"])
def test_a_quilt_folder_that_is_there_twice_is_refused(folder: Path, again: str) -> None:
    series = _series({"quilt": "debian"}, {"quilt": again})
    with pytest.raises(ConfigError, match=r"^the patch quilt debian/b\.patch is in the series twice$"):
        pinned_digests(series, REMOTE, folder=folder, lock=_sources(folder).lock)


# ---- the series


def test_order_is_kept_and_disabled_entries_are_skipped(folder: Path, web: Web) -> None:
    series = _series(
        {"file": "mail.patch", "why": "a reason"},
        _pull(2, why="another"),
        {"file": "absent.patch", "enabled": False},
        _pull(3, enabled=False),
        {"quilt": "debian"},
        _pull(1),
        {"file": "fix.patch"},
    )
    sources = _sources(folder)
    applied = resolve(series, sources)
    other = MAIL.replace("it", "another")
    assert applied == (
        Patch(name="file mail.patch", kind="am", strip=1, sha256=digest(MAIL), why="a reason"),
        Patch(name="pull-2", kind="am", strip=1, sha256=digest(other), why="another", url=URL.format(2)),
        Patch(name="quilt debian/b.patch", kind="diff", strip=0, sha256=digest("b")),
        Patch(name="quilt debian/a.patch", kind="diff", strip=1, sha256=digest("a")),
        Patch(name="pull-1", kind="am", strip=1, sha256=digest(MAIL), url=URL.format(1)),
        Patch(name="file fix.patch", kind="diff", strip=1, sha256=digest(DIFF)),
    )
    for patch in applied:
        assert digest((sources.downloads / patch.sha256).read_bytes()) == patch.sha256
    assert web.asked == [URL.format(2), URL.format(1)]


def test_what_is_to_be_done_where_it_is_there_already(folder: Path) -> None:
    series = _series(
        {"file": "fix.patch"}, {"file": "mail.patch", "already": "refuse"}, {"quilt": "debian", "already": "refuse"}
    )
    assert [(p.name, p.already) for p in resolve(series, _sources(folder))] == [
        ("file fix.patch", "skip"),
        ("file mail.patch", "refuse"),
        ("quilt debian/b.patch", "refuse"),
        ("quilt debian/a.patch", "refuse"),
    ]


def test_pins_and_patches_agree(folder: Path, web: Web) -> None:
    series = _series(_pull(1), {"quilt": "debian"}, {"file": "fix.patch"}, _pull(2))
    lock = Lock(folder.parent / "sources.lock")
    assert pinned_digests(series, REMOTE, folder=folder, lock=lock) is None, "before the first look nothing is known"
    digests = patches.digests_of(resolve(series, _sources(folder)))
    pinned = pinned_digests(series, REMOTE, folder=folder, lock=Lock(folder.parent / "sources.lock"))
    assert pinned == digests
    assert list(digests) == list(pinned or ()) == [
        "pull-1", "quilt debian/b.patch", "quilt debian/a.patch", "file fix.patch", "pull-2",
    ]  # fmt: skip
    assert digests["quilt debian/b.patch"] == f"-p0 {digest('b')}", "how deep it is stripped decides, too"
    assert len(web.asked) == 2


def test_a_pull_request_is_pinned_and_not_fetched_again(folder: Path, web: Web) -> None:
    series = _series(_pull(1))
    sources = _sources(folder)
    first = resolve(series, sources)
    assert sources.lock.notices == [f"sources.lock: {REMOTE.entry}: patch pull-1 pinned to {digest(MAIL)}"]
    assert resolve(series, _sources(folder, strict=True)) == first
    assert len(web.asked) == 1


def test_a_download_that_was_damaged_is_fetched_again(folder: Path, web: Web) -> None:
    series = _series(_pull(1))
    first = resolve(series, _sources(folder))
    path = _sources(folder).downloads / first[0].sha256
    path.unlink()
    assert resolve(series, _sources(folder)) == first
    path.write_text("damaged")
    assert resolve(series, _sources(folder)) == first
    assert digest(path.read_bytes()) == first[0].sha256, "what is applied is what was pinned"
    assert len(web.asked) == 3


def test_a_pull_request_that_changed_is_refused(folder: Path, web: Web) -> None:
    series = _series(_pull(1))
    resolve(series, _sources(folder))
    changed = MAIL.replace("+y", "+z")
    web.texts[URL.format(1)] = changed
    (folder.parent / "out" / "downloads" / digest(MAIL)).unlink()
    with pytest.raises(ConfigError) as caught:
        resolve(series, _sources(folder))
    assert refusal(caught) == (
        f"patch pull-1 of {REMOTE.entry} has changed: sources.lock says {digest(MAIL)}, it is {digest(changed)} now",
        str(folder.parent / "sources.lock"),
        "if the change is wanted: `invoke lock` refreshes the pins and shows the difference",
    )
    sources = _sources(folder, refresh=True)
    assert resolve(series, sources)[0].sha256 == digest(changed)
    assert sources.lock.notices == [f"sources.lock: {REMOTE.entry}: patch pull-1 {digest(MAIL)} -> {digest(changed)}"]


def test_a_refresh_looks_anew_though_the_download_is_there(folder: Path, web: Web) -> None:
    series = _series(_pull(1))
    resolve(series, _sources(folder))
    resolve(series, _sources(folder, refresh=True))
    assert len(web.asked) == 2


def test_locked_refuses_a_pull_request_without_pin(folder: Path, web: Web) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(_series(_pull(1)), _sources(folder, strict=True))
    assert caught.value.message == (
        f"--locked: patch pull-1 of {REMOTE.entry} is not pinned (it is {digest(MAIL)} now)"
    )


def test_a_proxys_page_is_no_patch(folder: Path, web: Web) -> None:
    web.texts[URL.format(1)] = "<html>please log in</html>"
    sources = _sources(folder)
    with pytest.raises(HostError) as caught:
        resolve(_series(_pull(1)), sources)
    assert refusal(caught) == (
        "https://example.org/pull/1.patch is no mailbox patch; it begins b'<html>please log in</html>'",
        "pull request 1",
        "a proxy's error page, perhaps? save the patch beside the series and name it with `file:`",
    )
    assert sources.lock.notices == []
    assert not sources.downloads.exists()


def test_a_token_in_the_query_of_a_patch_is_not_shown(folder: Path, web: Web) -> None:
    url = f"{URL.format(1)}?token=CANARY"
    web.texts[url] = "<html>"
    with pytest.raises(HostError) as caught:
        resolve(_series({"pull": 1, "url": url}), _sources(folder))
    assert web.asked == [url]
    assert "CANARY" not in "\n".join(caught.value.lines())


def test_without_a_network_the_ways_round_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(url: str, *, limit: int) -> bytes:
        raise UnreachableError("cannot reach https://example.org: no route to host")

    monkeypatch.setattr(http, "get", get)
    with pytest.raises(HostError) as caught:
        resolve(_series(_pull(1)), _sources(folder))
    assert refusal(caught) == (
        "cannot reach https://example.org: no route to host",
        "pull request 1",
        f"{WAYS_ROUND}\nor save it beside the series file and name it there with `file:`",
    )


def test_the_sample_brings_its_pull_requests_and_needs_no_pins(folder: Path) -> None:
    pulls = folder.parent / "pull"
    pulls.mkdir()
    (pulls / "1.patch").write_text(MAIL)
    sample = Origin(kind="git", spec="sample", url="file:///x", ref="v1", pulls=pulls, local=True, sample=True)
    sources = _sources(folder, sample, strict=True)
    digests = patches.digests_of(resolve(_series(_pull(1)), sources))
    assert digests == {"pull-1": digest(MAIL)}
    assert pinned_digests(_series(_pull(1)), sample, folder=folder, lock=sources.lock) == digests
    assert not (folder.parent / "sources.lock").exists()
    with pytest.raises(ConfigError) as caught:
        resolve(_series(_pull(7)), sources)
    assert refusal(caught) == (
        f"cannot read the patch {pulls}/7.patch: No such file or directory",
        "pull request 7",
        "",
    )


def test_a_local_clone_gives_its_pull_requests(folder: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = Origin(kind="git", spec="/clone", url="file:///clone", ref="v1", local=True)
    known = {"refs/pull/1/head": git.Ref(name="refs/pull/1/head", commit=SHA, moving=True)}
    monkeypatch.setattr(git, "remote_ref", lambda url, name: known.get(name))
    monkeypatch.setattr(git_cache.Cache, "mailbox", lambda self, url, base, head: f"{MAIL}{url} {base} {head}".encode())
    applied = resolve(_series(_pull(1), _pull(2)), _sources(folder, clone))
    assert applied[0].sha256 == digest(f"{MAIL}file:///clone {SHA} refs/pull/1/head")
    assert web.asked == [URL.format(2)], "what the clone has not is fetched"


def test_a_local_clone_that_cannot_tell_which_commits_are_a_pull_request(
    folder: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has merged them by moving its branch on."""
    clone = Origin(kind="git", spec="/clone", url="file:///clone", ref="v1", local=True)
    monkeypatch.setattr(git, "remote_ref", lambda url, name: git.Ref(name=name, commit=SHA, moving=True))
    monkeypatch.setattr(git_cache.Cache, "mailbox", lambda self, url, base, head: b"")
    assert resolve(_series(_pull(1)), _sources(folder, clone))[0].sha256 == digest(MAIL)
    assert web.asked == [URL.format(1)]


@pytest.mark.parametrize("name", ["file", "quilt"])
def test_a_patch_has_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(patches, "LIMIT", 1 << 20)
    large = folder / ("fix.patch" if name == "file" else "debian/b.patch")
    large.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(ConfigError) as caught:
        resolve(_series({"file": "fix.patch"} if name == "file" else {"quilt": "debian"}), _sources(folder))
    where = f"{folder}/series.yaml, patches[0]" if name == "file" else f"{folder}/debian/series:1"
    assert refusal(caught) == (f"the patch {large} is larger than 1 MiB", where, "")


# ---- why one may not apply

PLAIN = b"--- a/src/x.c\t2020-01-01\n+++ b/src/x.c\n@@ -1 +1 @@\n-old\n+new\n"
BARE = b"Index: src/x.c\n--- src/x.c\t(revision 1)\n+++ src/x.c\t(working copy)\n@@ -1 +1 @@\n-old\n+new\n"
ADDED = b"--- /dev/null\n+++ src/y.c\n@@ -0,0 +1 @@\n+new\n"


@pytest.mark.parametrize(
    ("data", "changes", "words"),
    [
        (PLAIN, {}, []),
        (PLAIN.replace(b"\n", b"\r\n"), {}, ["end with CR and LF"]),
        (BARE, {}, ["made for -p0"]),
        (BARE + ADDED, {}, ["made for -p0"]),
        (BARE.replace(b"\n", b"\r\n"), {}, ["end with CR and LF", "made for -p0"]),
        (BARE, {"strip": 0}, []),
        (BARE + PLAIN, {}, []),
        (ADDED, {}, []),
        (BARE.replace(b"\n", b"\r\n"), {"kind": "am"}, []),
    ],
)
def test_what_is_odd_about_a_diff(data: bytes, changes: dict[str, Any], words: list[str]) -> None:
    patch = replace(Patch(name="file x.patch", kind="diff", strip=1, sha256="0" * 64), **changes)
    found = oddities(patch, data)
    assert len(found) == len(words)
    assert all(word in text and "patch file x.patch" in text for word, text in zip(words, found, strict=True))
