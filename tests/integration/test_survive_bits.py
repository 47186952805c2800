"""One bit of what is kept is wrong: it is noticed, named, and made again, and the bytes at the end are the same."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import thorough
from integration.builds import ALL_FORMATS
from integration.conftest import make_tiny
from integration.kept import PLACES, direct
from integration.keys import new_key
from survival import LIMIT, digests, seed_of

from pikaforge.host import git_cache
from pikaforge.host.download import Downloads, PinnedFile
from pikaforge.host.git_cache import Cache
from pikaforge.pipeline import report

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Git, Web

WHOLE = thorough.whole("survival")
FILES_OF_AN_ENTRY = 3
"""Two files, and what describes them."""
FLIPS = 1000 if WHOLE else 100
ROUNDS = 16 if WHOLE else 1
"""Builds of a store in which a file of each entry is damaged."""


@pytest.fixture
def chance() -> random.Random:
    return seed_of("bits")


def flip(path: Path, chance: random.Random) -> str:
    """Flip a bit of a file; which one."""
    data = bytearray(path.read_bytes())
    bit = chance.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    mode = path.stat().st_mode
    path.unlink()  # there may be hard links to it
    path.write_bytes(data)
    path.chmod(mode)
    return f"bit {bit} of {path}"


# ---- stores, downloads and repositories by themselves


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_bit_of_an_entry_is_noticed_named_and_mended(
    place: str, tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the record or listing, and of each file. It is never taken, and the next one who makes the result mends it."""
    direct(monkeypatch, tmp_path)
    (tmp_path / "kept").mkdir()
    with PLACES[place](tmp_path / "kept") as kept:
        whole = kept.read()
        assert whole[0] is not None, whole[1]
        assert len(kept.names) == FILES_OF_AN_ENTRY
        flips = FLIPS // 5 if place == "shared by S3" else FLIPS
        for number in range(flips):
            name = kept.names[number % len(kept.names)]
            good = kept.get(name)
            bit = chance.randrange(len(good) * 8)
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            kept.set(name, bytes(data))
            case = f"bit {bit} of {name}"
            found, bad = kept.read()
            assert found is None, case
            assert kept.named(name) in bad, f"{case}: {bad}"
            kept.mend()
            assert kept.get(name) == good, case
        assert kept.read() == whole
    print(f"bits: {place}: {flips} flipped, {flips} noticed, none taken, {flips} mended by the next who made it")


@pytest.mark.parametrize("what", ["file", "part", "record of the part"])
def test_a_wrong_bit_of_a_download(
    what: str, web: Callable[[Path], Web], tmp_path: Path, chance: random.Random
) -> None:
    """Of a part, too, from which a download goes on."""
    (tmp_path / "site").mkdir()
    data = chance.randbytes(40_000)
    (tmp_path / "site" / "x.tar.gz").write_bytes(data)
    site = web(tmp_path / "site")
    wanted = PinnedFile(name="x.tar.gz", url=f"{site.url}/x.tar.gz", sha256=hashlib.sha256(data).hexdigest())
    folder = tmp_path / "downloads"
    noticed = 0
    for _ in range(FLIPS // 5):
        notices: list[str] = []
        downloads = Downloads(folder, notice=notices.append)
        path = downloads.get(wanted)
        assert path.read_bytes() == data
        if what != "file":
            path.rename(folder / ".x.tar.gz.part")
            with (folder / ".x.tar.gz.part").open("r+b") as part:
                part.truncate(chance.randrange(1, len(data)))
            record = f'{{"url": "{wanted.url}", "validator": "\\"x\\""}}'
            (folder / ".x.tar.gz.part.json").write_text(record)
        case = flip(folder / {"file": "x.tar.gz", "part": ".x.tar.gz.part"}.get(what, ".x.tar.gz.part.json"), chance)
        assert downloads.get(wanted).read_bytes() == data, case
        noticed += any(str(path) in notice for notice in notices)
        assert sorted(each.name for each in folder.iterdir()) == [".x.tar.gz.lock", "x.tar.gz"], case
    assert what != "file" or noticed == FLIPS // 5
    print(f"bits: download, {what}: {FLIPS // 5} flipped, the same bytes each time")


# ---- builds


@pytest.fixture
def built(ready: Project) -> Project:
    """A tiny product, built."""
    make_tiny(ready)
    ready.build("R620", check=0, timeout=LIMIT)
    return ready


@pytest.mark.engine
@pytest.mark.long(60)
def test_a_wrong_bit_in_each_entry_of_the_store(built: Project, chance: random.Random) -> None:
    """One file of each entry at once; a build says which, and makes the same again."""
    whole, flipped = digests(built.dist), 0
    store = built.out / "store"
    for _ in range(ROUNDS):
        entries = [path for path in sorted(store.glob("*/*")) if path.is_dir() and path.parent.name != "image"]
        entries += chance.sample(sorted(store.glob("image/*")), 1)
        paths = [chance.choice(sorted(path for path in entry.iterdir() if path.stat().st_size)) for entry in entries]
        cases = [flip(path, chance) for path in paths]
        shutil.rmtree(built.dist)
        done = built.build("R620", check=0, timeout=LIMIT)
        notices = done.lines(r"^note: the stored result of \S+ is bad and is made anew: ")
        for path in paths:
            assert any(str(path) in notice for notice in notices), f"{path} of {cases}\n{done.text}"
        assert digests(built.dist) == whole, f"{cases}\n{done.text}"
        assert built.half_done() == []
        flipped += len(paths)
    print(f"bits: store under a build: {flipped} flipped in {ROUNDS} builds, all named, all made again")


FORMATS = ("--formats", ALL_FORMATS if WHOLE else "tar,rpm")
OF_THE_RUN = {"report.json", "report.html"}
"""They say when a build was; a file with the same in other words takes the place of a damaged one."""


def under(dist: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(dist.rglob("*")) if path.is_file() and path.stat().st_size}


@pytest.mark.engine
@pytest.mark.long(120)
def test_a_wrong_bit_in_each_file_of_dist(ready: Project, chance: random.Random) -> None:
    """Of a build that has nothing else to do: packages, what describes them, sums, the report and its page."""
    make_tiny(ready)
    ready.build("R620", *FORMATS, check=0, timeout=LIMIT)
    ready.build("R620", *FORMATS, check=0, timeout=LIMIT)  # which may keep its answer
    whole, named = under(ready.dist), 0
    kinds = {"".join(path.suffixes[-2:]) for path in whole}
    assert {".tar.gz", ".sbom.json", ".intoto.json", ".json", ".html", ""} <= kinds | {path.suffix for path in whole}
    for path, data in whole.items():
        case = flip(path, chance)
        done = ready.build("R620", *FORMATS, check=0, timeout=LIMIT)
        notices = done.lines("^note: ")
        if path.name == "report.html":
            assert path.read_bytes() == data, "it is made of the report"
        else:
            assert [path.name for notice in notices if f"{path} " in notice] == [path.name], f"{case}\n{done.text}"
            named += 1
        now = under(ready.dist)
        assert now.keys() == whole.keys(), case
        for other, was in whole.items():
            assert now[other] == was or (path.name == "report.json" and other.name in OF_THE_RUN), f"{other}: {case}"
        assert report.load(ready.dist) is not None, case
        if WHOLE or path.name in OF_THE_RUN:
            again = ready.build("R620", *FORMATS, check=0, timeout=LIMIT)
            assert f"{path} " not in "".join(again.lines("^note: ")), "once"
        whole = under(ready.dist)
    print(f"bits: dist/: a bit in each of {len(whole)} files, {named} named, all made again with the same bytes")


@pytest.mark.engine
@pytest.mark.long(60)
def test_a_wrong_bit_in_each_signature_of_dist(ready: Project, chance: random.Random, tmp_path: Path) -> None:
    """With the key they are made again. Without, one that is damaged is named and goes; in a package, too."""
    make_tiny(ready)
    with new_key(tmp_path / "key") as key:
        env = {"PIKAFORGE_SIGNING_KEY": str(key.secret), "PIKAFORGE_SIGNING_PASSPHRASE": ""}
        ready.build("R620", *FORMATS, check=0, timeout=LIMIT, env=env)
        whole = under(ready.dist)
        signatures = [path for path in whole if path.suffix == ".asc"]
        chosen = thorough.one_of("survival", signatures)
        for path in chosen:
            case = flip(path, chance)
            ready.build("R620", *FORMATS, check=0, timeout=LIMIT, env=env)
            key.gpg("--verify", str(path), str(path.with_suffix("")))
            case = flip(path, chance)
            done = ready.build("R620", *FORMATS, check=0, timeout=LIMIT)
            assert f"{path} is damaged, and is removed" in done.text, case
            assert not path.exists(), case
            ready.build("R620", *FORMATS, check=0, timeout=LIMIT, env=env)
            assert under(ready.dist).keys() == whole.keys()
        rpm = next(path for path in whole if path.suffix == ".rpm")
        signed = rpm.read_bytes()
        at = signed.index(b"\x89\x02", 96) + 300  # in the numbers of the signature, which only the key can judge
        rpm.write_bytes(signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :])
        done = ready.build("R620", *FORMATS, check=0, timeout=LIMIT)
        assert f"{rpm} is not as the last build has left it" in done.text
        ready.build("R620", *FORMATS, check=0, timeout=LIMIT, env=env)
        ready.tool("verify", rpm, env={"PIKAFORGE_VERIFY_KEYS": str(key.public)}, check=0)
    print(f"bits: dist/: a bit in {len(chosen)} of {len(signatures)} signatures beside, twice, and in one in an RPM")


@pytest.mark.engine
@pytest.mark.long(60)
def test_a_wrong_bit_in_each_repository(built: Project, chance: random.Random) -> None:
    """A fetch does not read each object; the git of a job does, and then the repository is made anew."""
    whole, flipped, named = digests(built.dist), 0, 0
    for _ in range(ROUNDS):
        repositories = sorted((built.out / "git").glob("*.git"))
        assert repositories
        cases = []
        for repository in repositories:
            objects = [path for path in (repository / "objects").rglob("*") if path.is_file()]
            cases.append(flip(chance.choice(sorted(objects)), chance))
        shutil.rmtree(built.out / "store" / "source")
        done = built.build("R620", check=0, timeout=LIMIT)
        assert digests(built.dist) == whole, f"{cases}\n{done.text}"
        assert "error: " not in done.text, cases
        flipped += len(cases)
        named += sum(repository.name in line for repository in repositories for line in done.lines("made anew"))
    print(f"bits: git: {flipped} flipped in {ROUNDS} builds, {named} named and made anew, the same bytes each time")


def test_a_wrong_bit_anywhere_in_a_repository(tmp_path: Path, git: Git, chance: random.Random) -> None:
    """Not of its objects alone: whatever a fetch does not mend, the check after a failure does."""
    upstream = tmp_path / "upstream"
    git("init", "--quiet", upstream)
    for number in range(4):
        (upstream / f"file-{number}").write_bytes(b"line\n" * 1000 if number else chance.randbytes(3000))
    git("-C", upstream, "add", "--all")
    git("-C", upstream, "commit", "--quiet", "--message", "x")
    commit = git("-C", upstream, "rev-parse", "HEAD")
    fetched = Cache(tmp_path / "good", local=True).fetch(upstream.as_uri(), commit)
    files = sorted(path for path in fetched.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(FLIPS // 5):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "cache")
        case = flip(tmp_path / "cache" / chance.choice(files).relative_to(tmp_path / "good"), chance)
        notices: list[str] = []
        path = Cache(tmp_path / "cache", local=True, notice=notices.append).fetch(upstream.as_uri(), commit)
        if git_cache.drop_damaged(tmp_path / "cache", notices.append):
            path = Cache(tmp_path / "cache", local=True).fetch(upstream.as_uri(), commit)
        look = ["git", "--git-dir", str(path), "fsck", "--full", "--no-dangling"]  # names in it need not be UTF-8
        assert subprocess.run(look, capture_output=True, check=False).returncode == 0, case
        checkout = tmp_path / "checkout"
        shutil.rmtree(checkout, ignore_errors=True)
        checkout.mkdir()
        git("--git-dir", path, "--work-tree", checkout, "checkout", "--quiet", "--force", commit, "--", ".")
        for each in upstream.glob("file-*"):
            assert (checkout / each.name).read_bytes() == each.read_bytes(), case
    print(f"bits: any file of a repository: {FLIPS // 5} flipped, the same files each time")
