"""All formats of one build: signed, verified, alike however they were made; and no secret in any of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pikaforge.attest.contents import read_package

if TYPE_CHECKING:
    from conftest import Done, Project, Shared, Tool

    from .conftest import Shop

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("packages"),
    pytest.mark.skipif(shutil.which("gpg") is None or shutil.which("gpgv") is None, reason="needs gpg and gpgv"),
]

FORMATS = "tar,rpm,deb,wheel"
CANARY = "CANARY-93b1-passphrase"
MAIN = (
    "pika-v3.4.0-R620.tar.gz",
    "pika-3.4.0-1.R620.debian12.x86_64.rpm",
    "pika_3.4.0-1.R620.debian12_amd64.deb",
    "pika_server-3.4.0+r620.debian12-py3-none-manylinux_2_35_x86_64.whl",
)
DEBUG = (
    "pika-v3.4.0-R620-debuginfo.tar.gz",
    "pika-debuginfo-3.4.0-1.R620.debian12.x86_64.rpm",
    "pika-dbgsym_3.4.0-1.R620.debian12_amd64.deb",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A build whose packages are signed."""

    project: Project
    done: Done
    env: dict[str, str]
    public: Path

    @property
    def folder(self) -> Path:
        return self.project.dist / "debian12"


@pytest.fixture(scope="module")
def signed(shop: Shop, shared: Shared, new_project: Callable[[Path], Project], tool: Tool) -> Signed:
    """R620 in all formats, signed with a throw-away key; once for all workers."""
    made = shared.folder / "signed"
    env = {"PIKAFORGE_SIGNING_KEY": str(made / "secret.asc"), "PIKAFORGE_SIGNING_PASSPHRASE": str(made / "phrase")}
    with shared.once("signed") as folder:
        if folder is not None:
            make_key(folder)
            project = shop.ready(folder)
            shop.take(project, "source", "compile", "audit", "smoke")
            project.build("R620", "--formats", FORMATS, check=0, env=env).keep(folder / "done.json")
    done = tool.recall(made / "done.json")
    return Signed(project=new_project(made), done=done, env=env, public=made / "public.asc")


def make_key(folder: Path) -> None:
    """secret.asc, public.asc and phrase: RSA, which EL7 knows, too."""
    home = folder / "gnupg"
    home.mkdir(mode=0o700)
    phrase = folder / "phrase"
    phrase.write_text(f"{CANARY}\n", encoding="ascii")
    fixed = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase-file", str(phrase)]

    def gpg(*args: str) -> bytes:
        return subprocess.run([*fixed, *args], check=True, capture_output=True, timeout=120).stdout

    gpg("--quick-generate-key", "Test <test@sample.invalid>", "rsa3072", "sign", "never")
    (folder / "secret.asc").write_bytes(gpg("--armor", "--export-secret-keys"))
    (folder / "public.asc").write_bytes(gpg("--armor", "--export"))
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=60)


def test_each_format_is_there_with_what_is_told_of_it(signed: Signed) -> None:
    names = {path.name for path in signed.folder.iterdir()}
    files = {f"{name}{what}" for name in (*MAIN, *DEBUG) for what in ("", ".sbom.json", ".intoto.json")}
    assert names == {*files, *(f"{name}.asc" for name in files), "SHA256SUMS", "SHA256SUMS.asc"}
    [cell] = json.loads((signed.project.dist / "report.json").read_text(encoding="utf-8"))["cells"]
    assert [Path(a["path"]).name for a in cell["artifacts"] if a["role"] == "main"] == list(MAIN)


def test_all_formats_hold_the_same_programs(signed: Signed) -> None:
    packages = [read_package(signed.folder / name) for name in MAIN]
    assert len(packages[0].programs) > 5
    assert all(package.programs == packages[0].programs for package in packages)
    assert all(package.manifest == packages[0].manifest for package in packages)


def test_verify_says_yes(signed: Signed) -> None:
    done = signed.project.tool("verify", signed.folder, "--key", signed.public, *signed.project.places, check=0)
    assert done.lines(rf"^{signed.folder}: verified: all \d+ checks say yes")
    assert not done.lines("^no ")
    said = done.lines("^yes ")
    for name in MAIN:
        for what in ("signature", "manifest.json agrees", "contents agree", "audit for sandybridge"):
            assert any(f" {name}: {what}" in line for line in said), (name, what)


@pytest.mark.parametrize("altered", [MAIN[::2], MAIN[1::2]], ids=["tar-deb", "rpm-wheel"])
def test_one_altered_byte_is_named(signed: Signed, tmp_path: Path, altered: tuple[str, ...]) -> None:
    """One in each of two packages; the other two are the control."""
    folder = tmp_path / "debian12"
    shutil.copytree(signed.folder, folder)
    for name in altered:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
    done = signed.project.tool("verify", folder, "--key", signed.public, *signed.project.places, check=4)
    said = done.lines("^no ")
    for name in altered:
        assert any(name in line and "digest" in line for line in said), done.text
    assert all(line.startswith("no           SHA256SUMS") or any(n in line for n in altered) for line in said), (
        "the others are as they were"
    )


def test_unsigned_files_are_refused_unless_that_is_accepted(signed: Signed, tmp_path: Path) -> None:
    name = MAIN[0]
    for path in signed.folder.glob(f"{name}*"):
        if path.suffix != ".asc":
            shutil.copy(path, tmp_path)
    shutil.copy(signed.folder / "SHA256SUMS", tmp_path)
    places = signed.project.places
    done = signed.project.tool("verify", tmp_path / name, "--key", signed.public, *places, check=4)
    assert done.lines(f"^no +{name}: signature: ")
    signed.project.tool("verify", tmp_path / name, "--key", signed.public, "--unsigned", *places, check=0)


def test_the_second_run_signs_nothing_anew(signed: Signed) -> None:
    before = {path: path.stat().st_mtime_ns for path in signed.project.dist.rglob("*")}
    again = signed.project.build("R620", "--formats", FORMATS, check=0, env=signed.env)
    assert "everything is up to date" in again.stdout.splitlines()
    assert {path: path.stat().st_mtime_ns for path in signed.project.dist.rglob("*")} == before


def test_the_secret_is_nowhere(signed: Signed) -> None:
    assert CANARY not in signed.done.text
    places = [path for top in (signed.project.out, signed.project.dist) for path in top.rglob("*") if path.is_file()]
    assert len(places) > 50
    # Its first lines are the public part.
    secret = (signed.public.parent / "secret.asc").read_bytes().splitlines()[-8]
    for path in places:
        data = path.read_bytes()
        assert CANARY.encode() not in data, path
        assert secret not in data, path


def explained(first: Path, second: Path) -> str:
    """What diffoscope says, where it is installed."""
    if shutil.which("diffoscope") is None:
        return "(install diffoscope to see in what)"
    done = subprocess.run(["diffoscope", "--max-report-size=20000", first, second], capture_output=True, check=False)
    return done.stdout.decode(errors="replace")


def test_the_same_bytes_in_all_formats_however_they_are_made(signed: Signed, shop: Shop, tmp_path: Path) -> None:
    other = shop.ready(tmp_path / "a longer path")
    shop.take(other, "source", "compile", "audit", "smoke")
    environment = {
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "de_DE.UTF-8",
        "HOME": str(tmp_path),
        "USER": "somebody",
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONHASHSEED": "7",
    }
    other.build("R620", "--formats", FORMATS, check=0, umask=0o077, env=environment)
    [one] = signed.project.stored("package").values()
    [two] = other.stored("package").values()
    assert len(one["files"]) == len(MAIN) + len(DEBUG)
    if one["files"] != two["files"]:
        differ = [name for name in one["files"] if one["files"][name] != two["files"].get(name)]
        for name in differ:
            first, second = (next(p.out.glob(f"store/package/*/{name}")) for p in (signed.project, other))
            print(f"{name} differs: {first} {second}\n{explained(first, second)}")
        pytest.fail(f"these differ: {differ}")
    assert os.environ.get("TZ") != environment["TZ"]
