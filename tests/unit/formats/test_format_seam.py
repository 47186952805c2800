"""The seam of formats: a plain zip, registered, goes the way of all others: plan, package, verify, publish, page."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from unit.cell_results import CELL, TREE, pack, trees
from unit.dist_folders import cell, write_dist
from unit.helpers import BASE, ROOT, FakeEngine, make_spec, the_cell

from pikaforge.attest.contents import read_package
from pikaforge.attest.describe import describe
from pikaforge.attest.provenance import Builder
from pikaforge.attest.verify import VerifyContext, verify_file
from pikaforge.audit.inputs import open_inputs
from pikaforge.cli import main
from pikaforge.config import load
from pikaforge.config.registry import FORMATS
from pikaforge.config.schema import matrix_schema
from pikaforge.errors import ConfigError
from pikaforge.formats import format as formats
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.embedded_signature import EmbeddedSignature, Insertion, SignatureVerdict, SignedPart
from pikaforge.formats.format import BaseFormat, BuildOrigin, Identity, IndexFiles, InstallOffer, Pool
from pikaforge.formats.packing import Packed, Packing
from pikaforge.host.archives import Member, archive_errors, tar_members
from pikaforge.host.hashing import Encoded, digest
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.host.zips import zip_members
from pikaforge.pipeline import package
from pikaforge.pipeline.dist_folder import put_package


class ZipIndex:
    """A list of file names."""

    layout = formats.IndexLayout(names=frozenset({"LIST"}), pointer="LIST")

    def verify(self) -> None:
        pass

    def update(self, pool: Pool) -> IndexFiles:
        names = "".join(
            f"{package.name} {'known' if location in pool.kept else 'new'}\n"
            for location, package in pool.listed.items()
        )
        return IndexFiles(immutable={f"list-{pool.revision}": names.encode()}, pointers={"LIST": names.encode()})


class ZipComment:
    """A signature in the comment at a zip's end, which no program here can check."""

    title = "comment's signature"
    unsigned = "the zip has no comment"
    program_title = "zip's own check"
    program_missing = "zip checks no signatures"

    def signed_part(self, path: Path) -> SignedPart:
        with zipfile.ZipFile(path) as archive:
            data = "".join(sorted(f"{info.filename} {info.CRC}\n" for info in archive.infolist()))
            return SignedPart(data=data.encode(), signature=archive.comment)

    def body(self, path: Path) -> str:
        return digest(self.signed_part(path).data)

    def insertion(self, path: Path, part: SignedPart, signature: bytes, fingerprint: str) -> Insertion:
        return Insertion(
            path=path,
            script="zipsign.sh",
            program="zipsign",
            install="write it",
            folder="sign",
            inputs={"zip": path, "comment": signature},
            output="out/zip",
            failed="zip does not take it",
            advice="",
        )

    def program_check(self, path: Path, keys: Path, folder: Path) -> SignatureVerdict | None:
        return None


class ZipFormat(BaseFormat):
    """The tree as a zip. Nothing else in this tool knows the suffix."""

    name = "zip"
    folder = "zips"
    suffixes = (".zipped",)
    index: formats.RepositoryIndex | None = ZipIndex()
    embedded: EmbeddedSignature | None = ZipComment()

    def pack(self, work: Packing) -> list[Packed]:
        path = work.scratch / "package.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for tar in (work.inputs.tree.read_bytes(), work.extra):
                for member in tar_members(io.BytesIO(tar), "tree"):
                    if member.content is not None:
                        info = zipfile.ZipInfo(f"demo/{member.name}")
                        info.external_attr = (member.mode or 0) << 16
                        archive.writestr(info, member.content.read())
        name = f"{work.spec.product.name}-{work.cell.model}.zipped"
        return [Packed(format=self.name, role="main", name=name, path=path)]

    def material(self) -> Mapping[str, object]:
        return {"zip": 1}

    def members(self, path: Path) -> Iterator[Member]:
        with archive_errors(str(path)), path.open("rb") as stream:
            yield from zip_members(stream, str(path))

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        return Identity(name=f"zipped-{of.product}", version=of.version, release="7")

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        return {f"{offer.image}/{offer.product}-{offer.model}.zips": f"{offer.base_url}\n"}

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        return (f"unzip {offer.path}",)


@pytest.fixture(autouse=True)
def format_() -> Iterator[ZipFormat]:
    made = ZipFormat()
    with FORMATS.registered("zip", made):
        yield made


@pytest.fixture
def made(workspace: Workspace, tmp_path: Path) -> tuple[Result, ArtifactRecord]:
    """The package, and its record."""
    result, facts = pack(workspace, trees(tmp_path), images__debian12__formats=["zip"])
    [artifact] = facts.artifacts
    return result, artifact


@pytest.fixture
def package_file(made: tuple[Result, ArtifactRecord], tmp_path: Path) -> Path:
    """A copy of the package."""
    path = tmp_path / "demo-R620.zipped"
    path.write_bytes(made[0].files[path.name].read_bytes())
    return path


def test_it_is_packed(made: tuple[Result, ArtifactRecord], fake: FakeEngine, tmp_path: Path) -> None:
    result, artifact = made
    assert (artifact.format, artifact.name) == ("zip", "demo-R620.zipped")
    with zipfile.ZipFile(result.files["demo-R620.zipped"]) as archive:
        assert {f"demo/{name}" for name in (*TREE, "manifest.json", "utils/deploy.sh")} <= set(archive.namelist())
    assert fake.jobs == []
    assert put_package(result, artifact, tmp_path / "dist")[1]
    assert not put_package(result, artifact, tmp_path / "dist")[1]


def test_it_is_read(package_file: Path, tmp_path: Path) -> None:
    package = read_package(package_file)
    assert (package.top, package.holds_links) == ("demo", True)
    assert set(TREE) <= set(package.inside)
    [tree] = open_inputs([package_file], tmp_path / "scratch")
    assert set(tree.elves) == {"demo/bin/demo"}


@pytest.mark.parametrize(
    ("comment", "verdict", "why"),
    [(b"good", "yes", "key ABC"), (b"bad", "no", "it was altered"), (b"", "no", "the zip has no comment")],
)
def test_it_is_verified(package_file: Path, comment: bytes, verdict: str, why: str) -> None:
    path = package_file
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    describe(path, builder=Builder())
    means = VerifyContext(audit=lambda *_: (), signatures=Signatures())
    found = {(check.what, check.verdict, check.why) for check in verify_file(path, means).checks}
    assert ("comment's signature", verdict, why) in found
    assert ("zip's own check", "not checked", "zip checks no signatures") in found or not comment
    listed = [check for check in verify_file(path, means).checks if check.what == "contents agree with manifest.json"]
    assert [(check.verdict, check.why) for check in listed] == [("yes", f"{len(read_package(path).inside)} files")]


def test_it_is_the_same_package_after_it_was_signed(
    made: tuple[Result, ArtifactRecord], package_file: Path, tmp_path: Path
) -> None:
    kind = formats.of("zip")
    before = kind.body(package_file)
    with zipfile.ZipFile(package_file, "a") as archive:
        archive.comment = b"signed"
    assert kind.body(package_file) == before
    assert put_package(*made, tmp_path) == (package_file, False), "what lies there is the same, and signed"


def test_it_is_part_of_the_key() -> None:
    with_zip, without = make_spec(images__debian12__formats=["zip"]), make_spec()
    keys = [package.material(spec, the_cell(spec, CELL), ROOT, others={}) for spec in (with_zip, without)]
    assert keys[0]["makers"] == Encoded({"zip": {"zip": 1}})
    assert keys[0] != keys[1]


def test_configuration_and_command_line_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "zip" in matrix_schema()["$defs"]["Image"]["properties"]["formats"]["items"]["enum"]
    assert make_spec(images__debian12__formats=["zip", "tar"]).images["debian12"].formats == ("zip", "tar")
    matrix = write_matrix(tmp_path)
    assert main.main(["plan", "R620", "--formats", "zip", "--matrix", str(matrix), "--out", str(tmp_path / "o")]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main.main(["plan", "R620", "--formats", "zap", "--matrix", str(matrix)])
    assert "tar,rpm,deb,wheel,zip" in capsys.readouterr().err


def test_it_is_published_and_shown(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path)
    for number in (1, 2):
        write_dist(
            tmp_path / "dist", cell("R620-debian12-none"), format="zip", version=f"v{number}.0", content=zipped_text
        )
        arguments = ["publish", "R620", "--to", "here", "--yes", "--matrix", str(matrix)]
        assert main.main([*arguments, "--dist", str(tmp_path / "dist")]) == 0
    root = tmp_path / "here"
    names = (root / "debian12" / "R620" / "zips" / "LIST").read_text(encoding="utf-8").splitlines()
    assert names == ["demo-v1.0-R620.zipped known", "demo-v2.0-R620.zipped new"]
    assert (root / "debian12" / "demo-R620.zips").is_file()
    state = json.loads((root / "debian12" / "R620" / "repository.json").read_text(encoding="utf-8"))
    known = {(each["package"], each["version"]) for each in state["artifacts"].values()}
    assert known == {("zipped-demo", "v1.0-7"), ("zipped-demo", "v2.0-7")}
    page = (root / "index.html").read_text(encoding="utf-8")
    assert "unzip debian12/R620/zips/demo-v2.0-R620.zipped" in page
    assert '<option value="zip">' in page


def test_without_it_the_name_is_unknown(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path, formats=["zap"])
    with pytest.raises(ConfigError, match=r"must be 'tar', 'rpm', 'deb', 'wheel' or 'zip'"):
        load.load(matrix)


def zipped_text(text: str) -> bytes:
    """A zip with a text."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("text", text)
    return buffer.getvalue()


class Signatures:
    """Takes the word `good` for a signature."""

    def check(self, data: Path, signature: Path) -> SignatureVerdict:
        return SignatureVerdict(good=True, why="key ABC")

    def check_embedded(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict:
        signature = embedded.signed_part(path).signature
        why = {b"good": "key ABC", b"": embedded.unsigned}.get(signature, "it was altered")
        return SignatureVerdict(good=signature == b"good", why=why, missing=not signature)

    def check_by_program(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict | None:
        return embedded.program_check(path, path, path)


def write_matrix(folder: Path, **image: object) -> Path:
    path = folder / "matrix.yaml"
    (folder / "recipe.sh").write_text("make\n")
    images = {name: {**entry, **image} for name, entry in BASE["images"].items()}
    data = {**BASE, "images": images, "publish": {"here": {"kind": "directory", "path": "here"}}}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
