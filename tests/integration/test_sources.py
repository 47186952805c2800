"""Where the source and its patches may come from; whichever way, the same tree."""

from __future__ import annotations

import json
import re
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Done, Engine, Project
    from integration.conftest import Git, Shop, Warm, Web

pytestmark = pytest.mark.engine

PULLS = (988, 990, 1017, 1041)
WITHOUT_MOVE = (988, 990, 1041)
"""Pull requests that move no submodule's pointer."""


@pytest.fixture
def factory(sample_repositories: Path, tmp_path: Path) -> Path:
    """The sample's repositories, to be changed."""
    folder = tmp_path / "factory"
    shutil.copytree(sample_repositories, folder)
    return folder


def check(project: Project, source: str | Path, *args: str, **options: Any) -> Done:
    """The source stage alone."""
    return project.tool(*project.arguments("patches", "check", *args, source=source, image=""), **options)


def tree(project: Project) -> dict[str, Any]:
    """The one source tree that the project's store has."""
    (record,) = project.stored("source").values()
    return record


def names(project: Project) -> set[str]:
    """The files in that tree."""
    (key,) = project.stored("source")
    with tarfile.open(project.out / "store" / "source" / key / "source.tar") as tar:
        return {member.name.removeprefix("./") for member in tar}


# ---- ways in


def test_local_clone_and_what_it_was_built_from(
    ready: Project, shop: Shop, git: Git, factory: Path, tmp_path: Path
) -> None:
    """A work tree with its submodules; the rest is taken over, because the tree is the same as the sample's."""
    clone = tmp_path / "clone"
    git("clone", "--branch", "v3.4.0", "--recurse-submodules", (factory / "pika.git").as_uri(), clone)
    shutil.rmtree(factory / "rocksdb.git")  # the clone has it
    ready.series(*(ready.pull(number) for number in PULLS))
    for number in PULLS:  # as `git fetch origin pull/N/head` leaves them
        git("fetch", "origin", f"+refs/pull/{number}/head:refs/pull/{number}/head", cwd=clone)
    shop.take(ready, "compile", "audit", "smoke", "package")
    done = ready.build("R620", source=clone, check=0)
    assert "compile  debian12-sandybridge-none is up to date" in done.stdout
    assert tree(ready)["identity"] == shop.warm.identities["source"]
    with tarfile.open(ready.package()) as tar:
        content = tar.extractfile("pika/manifest.json")
        assert content is not None
        described = json.loads(content.read())["source"]
    # The sample's package has the same tree in it, but its patches are other bytes (mailboxes, not refs).
    kept = tree(ready)["facts"]["patches"]
    assert described["patches"] == [{key: patch[key] for key in patch if key != "reasons"} for patch in kept]
    assert [patch["state"] for patch in described["patches"]] == ["applied"] * len(PULLS)
    assert (described["kind"], described["tag"], described["url"]) == ("clone", "v3.4.0", "")


def test_local_clone_named_by_a_relative_path(
    ready: Project, warm: Warm, git: Git, factory: Path, tmp_path: Path
) -> None:
    git("clone", "--bare", "--mirror", (factory / "pika.git").as_uri(), tmp_path / "here" / "pika.git")
    for name in ("pink", "rocksdb"):
        shutil.copytree(factory / f"{name}.git", tmp_path / "here" / f"{name}.git")
    check(ready, "pika.git", cwd=tmp_path / "here", check=0)
    assert tree(ready)["identity"] == warm.identities["source"]


def test_submodules_through_insteadof(
    ready: Project, warm: Warm, make_sample: Callable[..., None], tmp_path: Path
) -> None:
    """The URLs in .gitmodules are out of reach; only git's own rule of this user leads to a mirror."""
    upstream = "https://example.invalid/upstream"
    mirror = tmp_path / "mirror"
    make_sample(mirror, SAMPLE_SUBMODULE_BASE=upstream)
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "{mirror.as_uri()}/"]\n\tinsteadOf = {upstream}/\n[safe]\n\tdirectory = *\n')
    source = mirror / "pika.git"
    refused = check(ready, source, env={"GIT_CONFIG_GLOBAL": "/dev/null"})
    assert refused.returncode == 3, refused.text
    assert f"cannot reach {upstream}/pink.git" in refused.text
    assert "where: submodule third/pink" in refused.text
    assert "insteadOf" in refused.text
    assert refused.lines(r"^pull-988 +applies "), "the series was applied before"
    assert ready.stored("source") == {}
    check(ready, source, env={"GIT_CONFIG_GLOBAL": str(config)}, check=0)
    facts = tree(ready)["facts"]
    assert set(facts["submodules"]) == {"third/pink", "third/rocksdb"}
    # .gitmodules is part of the tree, and of this one it has other lines; nothing else differs.
    assert tree(ready)["identity"] != warm.identities["source"]


def test_plain_file_server_with_pull_requests(
    ready: Project, warm: Warm, factory: Path, web: Callable[[Path], Web]
) -> None:
    """Repositories and patches from a server of plain files, which can neither fetch shallowly nor by commit."""
    site = web(factory)
    ready.series(*(ready.pull(number, f"{site.url}/pull") for number in PULLS))
    done = check(ready, f"{site.url}/pika.git", check=0)
    assert tree(ready)["identity"] == warm.identities["source"]
    facts = tree(ready)["facts"]
    assert facts["url"] == f"{site.url}/pika.git"
    assert (facts["kind"], facts["tag"], facts["version"]) == ("repository", "v3.4.0", "v3.4.0")
    assert [patch["url"] for patch in facts["patches"]] == [f"{site.url}/pull/{number}.patch" for number in PULLS]
    assert "sources.lock: " in done.stdout
    asked = len(site.seen)
    again = check(ready, f"{site.url}/pika.git", check=0)
    assert "source   v3.4.0 is up to date" in again.stdout
    assert site.seen[asked:] == [], "a pinned source that is there needs no network"


def test_same_tree_from_elsewhere_is_told_in_the_manifest(
    ready: Project, shop: Shop, factory: Path, web: Callable[[Path], Web]
) -> None:
    """A stored package of the same tree is not taken where it would name another origin."""
    site = web(factory)
    ready.series(*(ready.pull(number, f"{site.url}/pull") for number in PULLS))
    shop.take(ready, "source", "compile", "audit", "smoke", "package")
    ready.build("R620", source=f"{site.url}/pika.git", check=0)
    with tarfile.open(ready.package()) as tar:
        content = tar.extractfile("pika/manifest.json")
        assert content is not None
        source = json.loads(content.read())["source"]
    assert source["url"] == f"{site.url}/pika.git"
    assert [patch["url"] for patch in source["patches"]] == [f"{site.url}/pull/{number}.patch" for number in PULLS]


def test_smart_server(ready: Project, warm: Warm, git: Git, factory: Path, git_daemon: Callable[[Path], str]) -> None:
    """A server that speaks git's own protocol; it need not allow fetching by commit."""
    for name in ("pika", "pink", "rocksdb"):
        git("config", "uploadpack.allowAnySHA1InWant", "false", cwd=factory / f"{name}.git")
        git("config", "uploadpack.allowReachableSHA1InWant", "false", cwd=factory / f"{name}.git")
    url = git_daemon(factory)
    folder = ready.series(*({"file": f"{number}.patch"} for number in PULLS))
    for number in PULLS:
        shutil.copy(factory / "pull" / f"{number}.patch", folder)
    check(ready, f"{url}/pika.git", check=0)
    assert tree(ready)["identity"] == warm.identities["source"]


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch {mark};",
        "ext::touch {mark}",
        "ssh://-oProxyCommand=touch%20{mark}/x",
        "file://{here}/pink.git",
        "../pink.git",
    ],
)
def test_a_submodule_url_runs_and_reads_nothing_of_this_machine(
    ready: Project, git: Git, factory: Path, web: Callable[[Path], Web], url: str
) -> None:
    """The last one is the control: a submodule from the same server."""
    tmp_path, status = factory.parent, 0 if url.startswith("..") else 2
    mark, config = tmp_path / "mark", tmp_path / "gitconfig"
    config.write_text('[safe]\n\tdirectory = *\n[protocol]\n\tallow = always\n[protocol "ext"]\n\tallow = always\n')
    work = tmp_path / "work"
    git("clone", "--branch", "v3.4.0", (factory / "pika.git").as_uri(), work)
    text = (work / ".gitmodules").read_text(encoding="utf-8")
    named = url.format(mark=mark, here=factory)
    text = re.sub(r"url = .*pink\.git", lambda _: f'url = "{named}"', text)
    assert named in text
    (work / ".gitmodules").write_text(text, encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "hostile", cwd=work)
    git("push", "--quiet", "origin", "HEAD:refs/heads/hostile", cwd=work)
    git("update-server-info", cwd=factory / "pika.git")
    ready.series()
    done = check(ready, f"{web(factory).url}/pika.git#hostile", env={"GIT_CONFIG_GLOBAL": str(config)})
    assert done.returncode == status, done.text
    assert not mark.exists()
    assert bool(ready.stored("source")) == (status == 0)


@pytest.fixture
def tarball(factory: Path, git: Git, tmp_path: Path) -> Callable[..., Path]:
    """A release tarball of the sample: one top folder, no .git; `submodules` fills them in.

    `modules` is the URL of their folder, as projects have it whose submodules are not beside them.
    """

    def make(*, submodules: bool, ref: str = "v3.4.0", modules: str = "..") -> Path:
        top = tmp_path / "pika-3.4.0"
        top.mkdir()
        repositories = {".": ("pika", ref)}
        if submodules:
            for name in ("pink", "rocksdb"):
                link = git("ls-tree", f"{ref}^{{commit}}", f"third/{name}", cwd=factory / "pika.git").split()[2]
                repositories[f"third/{name}"] = (name, link)
        for where, (name, commit) in repositories.items():
            archive = tmp_path / "part.tar"
            git("archive", "--output", archive, commit, cwd=factory / f"{name}.git")
            with tarfile.open(archive) as tar:
                tar.extractall(top / where, filter="tar")
        gitmodules = top / ".gitmodules"
        gitmodules.write_text(gitmodules.read_text().replace("url = ..", f"url = {modules}"))
        released = int(git("log", "-1", "--format=%ct", ref, cwd=factory / "pika.git"))

        def dated(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime = released
            return member

        path = tmp_path / "pika-3.4.0.tar.xz"
        with tarfile.open(path, "w:xz") as tar:
            tar.add(top, arcname=top.name, filter=dated)
        return path

    return make


def test_tarball_with_submodules_filled_in(ready: Project, factory: Path, tarball: Callable[..., Path]) -> None:
    """Without any git in the source; a series that moves no submodule gives the tree that git gives."""
    folder = ready.series(*({"file": f"{number}.patch"} for number in WITHOUT_MOVE))
    for number in WITHOUT_MOVE:
        shutil.copy(factory / "pull" / f"{number}.patch", folder)
    check(ready, tarball(submodules=True), check=0)
    packed = tree(ready)
    assert packed["facts"]["commit"].startswith("sha256:")
    assert packed["facts"]["submodules"] == {}
    shutil.rmtree(ready.out / "store" / "source")
    check(ready, factory / "pika.git", check=0)
    assert tree(ready)["identity"] == packed["identity"]


def test_tarball_cannot_move_a_submodule(ready: Project, factory: Path, tarball: Callable[..., Path]) -> None:
    folder = ready.series({"file": "1017.patch"})
    shutil.copy(factory / "pull" / "1017.patch", folder)
    done = check(ready, tarball(submodules=True))
    assert done.returncode == 4, done.text
    assert "patch file 1017.patch" in done.text
    assert "does not apply" in done.text
    assert "a tarball cannot carry submodule pointer moves: take a clone for series that have one" in done.text


@pytest.fixture
def merged(ready: Project, factory: Path) -> Project:
    """A project whose patches are all in the sample's branch `merged`."""
    folder = ready.series(*({"file": f"{number}.patch"} for number in PULLS))
    for number in PULLS:
        shutil.copy(factory / "pull" / f"{number}.patch", folder)
    return ready


def test_tarball_that_has_the_whole_series(
    merged: Project, factory: Path, tarball: Callable[..., Path], git_daemon: Callable[[Path], str]
) -> None:
    """Where a submodule stands in it, its files tell."""
    check(merged, tarball(submodules=True, ref="merged", modules=git_daemon(factory)), check=0)
    facts = tree(merged)["facts"]
    assert [patch["state"] for patch in facts["patches"]] == ["present"] * 4
    assert (facts["kind"], facts["version"]) == ("tarball", "pika-3.4.0")


def test_a_tarball_names_no_repository_of_this_machine(
    merged: Project, factory: Path, tarball: Callable[..., Path]
) -> None:
    """It may be a stranger's: only a clone on this machine may name other repositories there."""
    done = check(merged, tarball(submodules=True, ref="merged", modules=factory.as_uri()), check=4)
    assert "third/pink is as in" in done.text
    assert "could not be looked up: the URL file:///" in done.text
    assert "names a repository of this machine" in done.text


def test_tarball_without_submodules(ready: Project, tarball: Callable[..., Path]) -> None:
    ready.series()
    done = check(ready, tarball(submodules=False))
    assert done.returncode == 4, done.text
    assert "reason: the tarball pika-3.4.0.tar.xz lacks the submodules third/pink third/rocksdb" in done.text
    assert "reason: take a clone, or a tarball made with submodules" in done.text
    assert ready.stored("source") == {}


def test_submodule_within_a_submodule(ready: Project, git: Git, factory: Path, tmp_path: Path) -> None:
    """rocksdb gets a submodule of its own, with a relative URL; the pull requests apply as before."""
    inner = factory / "deep" / "inner.git"
    work = tmp_path / "inner"
    git("init", "--quiet", "-b", "master", work)
    (work / "deep.txt").write_text("deep\n")
    git("add", ".", cwd=work)
    git("commit", "-qm", "inner", cwd=work)
    git("clone", "--quiet", "--bare", work, inner)
    commits = {"deep/inner": git("rev-parse", "HEAD", cwd=work)}
    for name, path, url in (
        ("rocksdb", "deep/inner", "../deep/inner.git"),
        ("pika", "third/rocksdb", "../rocksdb.git"),
    ):
        clone = tmp_path / name
        git("clone", "--quiet", factory / f"{name}.git", clone)
        git("checkout", "--quiet", "-B", "nested", "v3.4.0" if name == "pika" else "master", cwd=clone)
        if name == "rocksdb":
            (clone / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = {path}\n\turl = {url}\n')
            git("add", ".gitmodules", cwd=clone)
        git("update-index", "--add", "--cacheinfo", f"160000,{commits[path]},{path}", cwd=clone)
        git("commit", "-qm", "nested", cwd=clone)
        git("push", "--quiet", "origin", "nested:refs/tags/nested", cwd=clone)
        commits["third/rocksdb"] = git("rev-parse", "HEAD", cwd=clone)
        if name == "rocksdb":
            rocksdb = commits["third/rocksdb"]
    check(ready, f"{factory / 'pika.git'}#nested", check=0)
    found = tree(ready)["facts"]["submodules"]
    assert found["third/rocksdb"] == rocksdb
    assert found["third/rocksdb/deep/inner"] == commits["deep/inner"]
    assert "third/rocksdb/deep/inner/deep.txt" in names(ready)
    pins = ready.pins("sources")[f"{factory / 'pika.git'}#nested"]
    assert pins["submodule third/rocksdb/deep/inner"] == commits["deep/inner"]


# ---- patches


def test_local_patches_of_all_kinds(ready: Project, warm: Warm, factory: Path, tmp_path: Path) -> None:
    """A mailbox, a plain diff, and a quilt folder with comments and another strip level, mixed with a pull request."""
    folder = ready.series(
        {"file": "988.patch", "why": "a mailbox"},
        {"file": "local/990.diff", "why": "a plain diff"},
        ready.pull(1017),
        {"quilt": "debian-patches"},
    )
    pulls = Path(__file__).resolve().parents[1] / "sample" / "pulls"
    shutil.copy(factory / "pull" / "988.patch", folder)
    (folder / "local").mkdir()
    shutil.copy(pulls / "990" / "change.diff", folder / "local" / "990.diff")
    quilt = folder / "debian-patches"
    quilt.mkdir()
    text = (pulls / "1041" / "change.diff").read_text(encoding="utf-8")
    (quilt / "stop.patch").write_text(
        re.sub(r"^(---|\+\+\+) [ab]/", r"\1 ", re.sub(r"(?m)^diff --git.*\n|^index .*\n", "", text), flags=re.M)
    )
    (quilt / "series").write_text("# the stop\nstop.patch -p0  # as Debian writes them\n")
    check(ready, "sample", check=0)
    assert tree(ready)["identity"] == warm.identities["source"]
    described = [(patch["name"], patch["why"]) for patch in tree(ready)["facts"]["patches"]]
    assert described == [
        ("file 988.patch", "a mailbox"),
        ("file local/990.diff", "a plain diff"),
        ("pull-1017", ""),
        ("quilt debian-patches/stop.patch", ""),
    ]


BAD_DIFF = """\
--- a/src/pika_keyspace.cc
+++ b/src/pika_keyspace.cc
@@ -1,3 +1,3 @@
-this line
+that line
 was never
 in there
"""


@pytest.mark.parametrize("kind", ["mailbox", "diff"])
def test_patch_that_does_not_apply(kind: str, ready: Project, shop: Shop, engine: Engine) -> None:
    """The message names patch, file and hunk; nothing is left; the next run with a mended series works."""
    folder = ready.series(ready.pull(988), {"file": "bad.patch"}, ready.pull(990))
    head = f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n"
    mail = f"{head}Subject: [PATCH] Say that line\n\n---\n{BAD_DIFF}"
    (folder / "bad.patch").write_text(mail if kind == "mailbox" else BAD_DIFF)
    done = ready.build("R620")
    assert done.returncode == 4, done.text
    named = "patch file bad.patch" + (" ([PATCH] Say that line)" if kind == "mailbox" else "")
    assert f"  reason: {named} does not apply" in done.text
    assert "  reason: patch failed: src/pika_keyspace.cc:1" in done.text
    assert "  reason: hunk #1 is rejected in src/pika_keyspace.cc" in done.text
    assert "-this line" in (ready.out / "logs/v3.4.0/source.log").read_text()
    assert "compile  debian12-sandybridge-none not run: it needs source:v3.4.0" in done.stdout
    assert ready.stored("source") == {}
    assert ready.half_done() == []
    assert engine.containers(done.pid) == []
    assert not list(ready.dist.rglob("*.tar.gz"))
    ready.series(*(ready.pull(number) for number in PULLS))
    shop.take(ready, "compile", "audit", "smoke", "package")
    ready.build("R620", check=0)
    assert ready.package().is_file()


def test_pull_request_that_is_not_there(ready: Project, factory: Path, web: Callable[[Path], Web]) -> None:
    site = web(factory)
    ready.series(ready.pull(988, f"{site.url}/pull"), ready.pull(4711, f"{site.url}/pull"))
    done = check(ready, f"{site.url}/pika.git")
    assert done.returncode == 3, done.text
    assert f"error: {site.url}/pull/4711.patch answers 404" in done.text
    assert ready.stored("source") == {}


def test_pull_request_that_is_a_web_page(ready: Project, factory: Path, web: Callable[[Path], Web]) -> None:
    """What a proxy or a login page makes of a patch is not given to git."""
    (factory / "pull" / "988.patch").write_text("<!DOCTYPE html><title>Log in</title>")
    site = web(factory)
    ready.series(ready.pull(988, f"{site.url}/pull"))
    done = check(ready, f"{site.url}/pika.git")
    assert done.returncode == 3, done.text
    assert f"{site.url}/pull/988.patch is no mailbox patch; it begins b'<!DOCTYPE html>" in done.text
    assert "where: pull request 988" in done.text


# ---- what cannot be had


def closed_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_network(ready: Project, engine: Engine) -> None:
    """Told at once, before any container, with the ways round it."""
    url = f"http://127.0.0.1:{closed_port()}/pika.git"
    ready.change(lambda matrix: matrix["product"]["source"].update(git=url))
    with engine.watch() as watch:
        done = ready.build("R620", source="")
    assert done.returncode == 3, done.text
    assert f"error: cannot reach {url}: " in done.stderr
    for way in ("--source DIR", "--source FILE", "--source URL", "insteadOf", "--source sample"):
        assert way in done.stderr, way
    assert watch.names(done.pid) == []
    assert "..." not in done.stdout


def test_unreachable_pull_request_says_how_to_go_without(
    ready: Project, git: Git, factory: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git("clone", "--branch", "v3.4.0", (factory / "pika.git").as_uri(), clone)  # without refs/pull
    port = closed_port()
    ready.series(ready.pull(990, f"http://127.0.0.1:{port}"))
    done = check(ready, clone)
    assert done.returncode == 3, done.text
    assert f"error: cannot reach http://127.0.0.1:{port}: " in done.text
    assert "where: pull request 990" in done.text
    assert "or save it beside the series file and name it there with `file:`" in done.text


def test_unknown_tag(ready: Project, factory: Path) -> None:
    done = check(ready, f"{factory / 'pika.git'}#v3.4.O")
    assert done.returncode == 2, done.text
    assert "has no tag, branch or commit 'v3.4.O'" in done.text
    assert "did you mean v3.4.0" in done.text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "there is no 'nowhere'"),
        ("folder", "is neither a git repository nor a tarball"),
        ("notes.txt", "notes.txt does not look like a source tarball"),
        ("notes.txt#v3.4.0", "notes.txt is a file, in which there is no 'v3.4.0' to choose"),
    ],
)
def test_source_that_is_none(source: str, message: str, ready: Project, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("nothing\n")
    done = check(ready, source, cwd=tmp_path)
    assert done.returncode == 2, done.text
    assert message in done.text
