"""Bundles: a build from one file, on a machine without network, gives the same bytes as one with network.

The machine has no route to anything: its programs run in a network namespace of their own (unshare(1), nsenter(1)).
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import mmap
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.conftest import make_tiny
from integration.keys import new_key
from own_engine import OwnEngine, own_engine

from pikaforge.attest.signatures import Verifier
from pikaforge.bundle import reader
from pikaforge.errors import BundleError, HostError, OfflineError
from pikaforge.host import git_packs
from pikaforge.host.git_cache import Cache
from pikaforge.host.store import sha256

if TYPE_CHECKING:
    from conftest import Done, Project
    from integration.conftest import Git, Web

ROOT = Path(__file__).resolve().parents[2]
CELL = "R620-debian12-none"
TAR = ("--formats", "tar")
PULLS = (988, 1017)
"""The second one moves a submodule's pointer."""


@pytest.fixture
def factory(sample_repositories: Path, tmp_path: Path) -> Path:
    """The sample's repositories."""
    folder = tmp_path / "factory"
    shutil.copytree(sample_repositories, folder)
    return folder


def keep_wheels(project: Project) -> None:
    """Let a project use the wheels of earlier tests: an index may be slow."""
    (ROOT / "out" / "wheels").mkdir(parents=True, exist_ok=True)
    (project.out / "wheels").symlink_to(ROOT / "out" / "wheels")


def bundle(
    project: Project, *words: str, source: str, name: str = "x.tar", env: Mapping[str, str] | None = None
) -> tuple[Path, Done]:
    """A bundle of a project."""
    path = project.folder.parent / name
    argv = project.arguments("bundle", *words, "--os", "debian12", "--output", path, source=source)
    return path, project.tool(*argv, check=0, env=env)


def digests(dist: Path) -> dict[str, str]:
    """SHA-256 of the packages in a folder dist/, by name."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dist.glob("*/*.tar.gz")}
    assert found
    return found


def holds(file: Path, text: bytes) -> bool:
    """Whether a text is anywhere in a file."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(text) >= 0


def setup(file: Path, top: Path, *words: str, enter: Sequence[str], env: Mapping[str, str] | None = None) -> Path:
    """Run `setup.sh --bundle` with the tool in the bundle, below a folder; the folder of that tool."""
    top.mkdir(exist_ok=True)
    subprocess.run(["tar", "xf", str(file), "-C", str(top), "tool"], check=True, timeout=300)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        [*enter, "bash", str(top / "tool" / "setup.sh"), "--bundle", file.name, *words],
        cwd=file.parent,
        env={**kept, "HOME": str(top), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"exit status {done.returncode}"
    return top / "tool"


# ---- commits as files


@pytest.fixture
def upstream(tmp_path: Path, git: Git) -> Path:
    """A repository with three commits."""
    folder = tmp_path / "upstream"
    git("init", "--quiet", "--initial-branch=main", folder)
    for number in range(3):
        (folder / "a.txt").write_text(f"{number}\n" * 100, encoding="utf-8")
        git("-C", folder, "add", "a.txt")
        git("-C", folder, "commit", "--quiet", "--message", f"commit {number}")
    return folder


@pytest.mark.parametrize("whole", [False, True])
def test_a_commit_goes_from_one_cache_to_another(
    upstream: Path, git: Git, git_daemon: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    tmp_path = upstream.parent
    url = f"{git_daemon(tmp_path)}/upstream"
    commit = git("-C", upstream, "rev-parse", "HEAD").strip()
    made = []
    for name in ("one", "two"):
        cache = Cache(tmp_path / name)
        repository = cache.history(url, commit)[0] if whole else cache.fetch(url, commit)
        folder = tmp_path / f"packs-{name}"
        folder.mkdir()
        made.append(git_packs.export(repository, commit, folder))
    (pack, ends), (other, _) = made
    assert (pack.name, pack.read_bytes()) == (other.name, other.read_bytes())
    assert ends == (() if whole else (commit,))

    monkeypatch.setenv("PIKAFORGE_OFFLINE", "1")
    there = Cache(tmp_path / "there")
    with pytest.raises(OfflineError, match=commit):
        there.fetch(url, commit)
    there.add(url, commit, pack, ends)
    there.add(url, commit, pack, ends)
    assert there.has(url, commit)
    assert there.fetch(url, commit)
    if whole:
        assert there.history(url, commit)[1]
    else:
        with pytest.raises(OfflineError, match="the history of"):
            there.history(url, commit)


def test_a_damaged_pack_is_refused(upstream: Path, git: Git, tmp_path: Path, git_daemon: Callable[[Path], str]) -> None:
    url = f"{git_daemon(tmp_path)}/upstream"
    commit = git("-C", upstream, "rev-parse", "HEAD").strip()
    pack, ends = git_packs.export(Cache(tmp_path / "one").fetch(url, commit), commit, tmp_path)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    there = Cache(tmp_path / "there")
    with pytest.raises(HostError, match="is damaged"):
        there.add(url, commit, pack, ends)
    assert not there.has(url, commit)
    with pytest.raises(HostError, match="an end that is no commit"):
        there.add(url, commit, pack, ["../x"])


# ---- builds


@pytest.fixture
def tools(ready: Project) -> Project:
    """A product that is one small program: what runs it needs no network between machines."""
    make_tiny(ready)
    keep_wheels(ready)

    def only_a_program(matrix: dict[str, Any]) -> None:
        product = matrix["product"]
        product.pop("server")
        probe = {"kind": "command", "argv": ["bin/pika", "-v"], "match": "pika_version"}
        product["smoke"] = [{"check": "version", "steps": [{"probe": probe}]}]

    ready.change(only_a_program)
    return ready


@pytest.mark.engine
def test_git_patches_and_tarballs_from_servers_that_are_gone(
    tools: Project, factory: Path, git_daemon: Callable[[Path], str], web: Callable[[Path], Web], tmp_path: Path
) -> None:
    """The engine is that of this machine, behind its socket. The images are there, so they are not loaded."""
    site = web(factory)
    contents = {name: name.encode() * 1000 for name in ("gperftools-2.7", "gperftools-2.16", "libunwind-1.3.1")}
    for name, content in contents.items():
        (factory / f"{name}.tar.gz").write_bytes(content)

    def from_the_site(matrix: dict[str, Any]) -> None:
        for name, tarball in matrix["tarballs"].items():
            tarball.update(url=f"{site.url}/{name}.tar.gz", sha256=hashlib.sha256(contents[name]).hexdigest())

    tools.change(from_the_site)
    tools.series(*(tools.pull(number, f"{site.url}/pull") for number in PULLS))
    source = f"{git_daemon(factory)}/pika.git"
    cells = (CELL, "R620-debian12-frame-pointers")
    with new_key(tmp_path / "key") as key:
        shutil.copy(key.secret, tools.folder / "signing.key")
        file, done = bundle(tools, *cells, source=source, env=key.environment)
        again, _ = bundle(tools, *cells, source=source, name="again.tar", env=key.environment)
        (tmp_path / "ring").mkdir()
        signed = Verifier({"the key": key.public.read_text(encoding="ascii")}, tmp_path / "ring")
        sums = file.with_name("x.tar.sha256")
        assert signed.check(sums, file.with_name("x.tar.sha256.asc")).good
        assert sums.read_text(encoding="ascii") == f"{sha256(file)}  x.tar\n"
        # The secret key is not in it, wherever it lay; the public one is.
        public = key.public.read_bytes()
        secret = [line for line in key.secret.read_bytes().splitlines() if len(line) == 64 and line not in public]
        assert len(secret) > 20
        assert [holds(file, text) for text in (secret[5], secret[15], public)] == [False, False, True]
    assert filecmp.cmp(file, again, shallow=False)
    again.unlink()
    assert {"configuration", "downloads", "git", "images", "store", "tool", "wheels"} <= {
        line.split()[0] for line in done.stdout.splitlines() if line
    }
    listing = reader.about(file)
    assert listing.cells == cells
    tools.build(CELL, source=source, check=0)

    place = setup(file, tmp_path / "there", CELL, *TAR, enter=("unshare", "--net"), env=_engine_here())
    assert digests(place / "dist") == digests(tools.dist)
    kept = {path.name: path.read_bytes() for path in (place / "out" / "downloads").iterdir() if path.name[0] != "."}
    assert kept["gperftools-2.7.tar.gz"] == contents["gperftools-2.7"]
    pins = tools.pins("sources")[f"{source}#v3.4.0"]
    assert {pins[f"patch pull-{number}"] for number in PULLS} <= kept.keys()
    assert len(list((place / "out" / "git").glob("*.git"))) == 3


def _engine_here() -> dict[str, str]:
    return {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if name in os.environ}


@pytest.fixture
def lonely() -> Iterator[OwnEngine]:
    """An engine in a network of its own, which ends there, and without any image."""
    with own_engine("6g", bridged=True) as engine:
        yield engine


@pytest.mark.engine
@pytest.mark.long(150)
def test_the_sample_with_its_images(
    ready: Project, shrink: Callable[..., None], lonely: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(ready)
    keep_wheels(ready)
    file, _ = bundle(ready, "R620", source="sample", name="x.tar.zst")
    ready.build("R620", check=0)

    enter = ("nsenter", f"--net=/proc/{lonely.pid}/ns/net", "--")
    place = setup(file, tmp_path / "there", "R620", *TAR, enter=enter, env={"DOCKER_HOST": lonely.address})
    assert digests(place / "dist") == digests(ready.dist)
    manifest = json.loads(_member(next((place / "dist").glob("*/*.tar.gz")), "pika/manifest.json"))
    assert manifest["image"]["base"] == "bootstrap bookworm"
    (folder,) = (place / "out" / "bundles").iterdir()

    # What the bundle does not serve is refused, and so is one whose files were changed.
    monkeypatch.setenv("PIKAFORGE_OFFLINE", str(folder))
    ready.out = tmp_path / "other"
    done = ready.build("R640", check=2)
    assert f"the bundle does not have what these cells need: R640-debian12-none\n  where: {folder}" in done.text
    assert f"it serves {CELL}" in done.text
    layer = next(path for path in sorted((folder / "images").iterdir()) if path.stat().st_size > 10_000)
    with layer.open("r+b") as stream:
        stream.write(b"other")
    done = ready.build("R620", check=BundleError.exit_code)
    assert "files of the unpacked bundle are not what its manifest says" in done.text
    assert not reader.is_whole(folder, reader.read_listing(folder))


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        content = tar.extractfile(name)
        assert content is not None
        return content.read()
