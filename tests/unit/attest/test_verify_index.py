"""A folder of a published repository is verified as it is: its index, and packages of earlier generations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from publishing import FakeSigner, Root, in_folder
from unit.artifacts import deliver, flip

from pikaforge.attest.verify import VerifyContext, VerifyResult, verify_folder
from pikaforge.config.schema import FormatName
from pikaforge.formats.embedded_signature import EmbeddedSignature, SignatureVerdict
from pikaforge.formats.wheel.package import Links, linked
from pikaforge.host.store import sha256

PLACE = "debian12/R620"
FOLDERS: dict[FormatName, str] = {"rpm": "x86_64", "deb": "debs", "wheel": "wheels"}


class Trust:
    """Trusts what `FakeSigner` signs."""

    def check(self, data: Path, signature: Path) -> SignatureVerdict:
        good = signature.read_bytes() == FakeSigner().detached(data.read_bytes())
        return SignatureVerdict(good=good, why="" if good else "the file is not what was signed")

    def check_embedded(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict:
        return SignatureVerdict(good=False, why="unsigned", missing=True)

    def check_by_program(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict | None:
        return None


def _no_findings(*_: object) -> Sequence[str]:
    return ()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root with two generations of three formats; the second one lists what the first has, too."""
    made = in_folder(tmp_path)
    made.signer = FakeSigner()
    for version in ("1.0", "1.1"):
        made.publish(*(made.shelf.item(version, format=each) for each in FOLDERS), keep=1)
    return made


def verified(folder: Path) -> VerifyResult:
    return verify_folder(folder, VerifyContext(audit=_no_findings, signatures=Trust(), unsigned=True))


def index_refusals(result: VerifyResult) -> list[str]:
    """What is refused of the index, and of files that should not be there; the packages themselves are toys."""
    toys = ("SBOM", "provenance", "manifest.json", "audit", "contents")
    return [f"{c.file}: {c.what}: {c.why}" for c in result.refusals if not c.what.startswith(toys)]


def folder_of(root: Root, kind: FormatName) -> Path:
    return Path(root.site.where) / PLACE / FOLDERS[kind]


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_index_is_verified(root: Root, kind: FormatName) -> None:
    result = verified(folder_of(root, kind))
    assert index_refusals(result) == []
    said = {(check.file, check.verdict) for check in result.checks}
    proof: dict[FormatName, set[str]] = {
        "rpm": {"repodata/repomd.xml"}, "deb": {"Release", "Packages", "Packages.gz"}, "wheel": set(),
    }  # fmt: skip
    assert {(name, "yes") for name in proof[kind]} <= said


def altered(path: Path) -> None:
    flip(path, 40)


@pytest.mark.parametrize(
    ("kind", "name", "act", "why"),
    [
        ("rpm", "repodata/repomd.xml", altered, "not what was signed"),
        ("rpm", "repodata/*-primary.xml.gz", altered, "it has SHA-256"),
        ("rpm", "repodata/*-primary.xml.gz", Path.unlink, ""),
        ("rpm", "repodata/repomd.xml.asc", lambda path: path.write_bytes(b"other"), "not what was signed"),
        ("rpm", "repodata/repomd.xml", lambda path: path.with_name("stranger").touch(), "does not name it"),
        ("deb", "Packages", altered, "it has SHA-256"),
        ("deb", "Release", altered, "not what was signed"),
        ("deb", "by-hash/SHA256/*", altered, "it has SHA-256"),
        ("deb", "Packages.gz", Path.unlink, "cannot be read"),
        ("wheel", "index.html", lambda path: path.with_name("stranger").touch(), "not listed"),
    ],
)
def test_what_is_altered_is_refused(
    root: Root, kind: FormatName, name: str, act: Callable[[Path], object], why: str
) -> None:
    folder = folder_of(root, kind)
    for path in sorted(folder.glob(name)):
        act(path)
    found = index_refusals(verified(folder))
    assert found
    assert any(why in line for line in found), found


def test_all_of_a_published_folder_says_yes(tmp_path: Path) -> None:
    deliver(tmp_path, "demo.whl")
    page = f'<a href="demo.whl#sha256={sha256(tmp_path / "demo.whl")}">demo.whl</a><br>\n'
    (tmp_path / "index.html").write_text(page)
    assert verified(tmp_path).passed
    (tmp_path / "index.html").write_text(page.replace("#sha256=", "#sha256=0")[:-1])
    assert linked((tmp_path / "index.html").read_bytes()) == {}
    (tmp_path / "index.html").write_text(page.replace('href="', 'href="../'))
    assert not verified(tmp_path).passed, "an index that leads elsewhere is refused"
    assert Links.layout.pointer == "index.html"


def test_a_folder_of_packages_that_took_the_place_of_others(tmp_path: Path) -> None:
    deliver(tmp_path, "demo.whl")
    deliver(tmp_path / "r2", "demo.whl")
    assert verified(tmp_path).passed
    flip(tmp_path / "r2" / "demo.whl")
    assert any(check.file == "r2/demo.whl" for check in verified(tmp_path).refusals)
    (tmp_path / "r3").mkdir()
    assert any(check.file == "r3" for check in verified(tmp_path).refusals), "a folder that proves nothing"


def test_the_sums_have_what_earlier_generations_keep(root: Root) -> None:
    folder = folder_of(root, "rpm")
    names = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {path.name for path in folder.iterdir() if path.name.startswith("demo") and path.suffix != ".asc"}
    assert names == there
    assert any("1.0" in name for name in names), "it is not listed any more, and still there"
