"""The seam of formats: a plain zip, registered, goes the way of all others from the plan to the page."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.cell_results import CELL, TREE, pack, trees
from unit.dist_folders import cell, write_dist
from unit.helpers import BASE, ROOT, FakeEngine, make_spec, the_cell

from pikaforge.cli import main
from pikaforge.config import load
from pikaforge.config.registry import FORMATS
from pikaforge.config.schema import matrix_schema
from pikaforge.errors import ConfigError
from pikaforge.formats import format as formats
from pikaforge.formats.format import BuildOrigin, IndexFiles, InstallOffer, Packed, Packing, Pool
from pikaforge.host.archives import members
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import package
from pikaforge.pipeline.dist_folder import put_package


class ZipIndex:
    """A list of file names."""

    def verify(self) -> None:
        pass

    def update(self, pool: Pool) -> IndexFiles:
        names = "".join(
            f"{package.name} {'known' if location in pool.kept else 'new'}\n"
            for location, package in pool.listed.items()
        )
        return IndexFiles(immutable={f"list-{pool.revision}": names.encode()}, pointers={"LIST": names.encode()})


class ZipFormat:
    """The tree as a zip."""

    name = "zip"
    folder = "zips"
    families: frozenset[str] = frozenset()
    scripts: tuple[str, ...] = ()
    index: formats.RepositoryIndex | None = ZipIndex()

    def pack(self, work: Packing) -> list[Packed]:
        path = work.scratch / "package.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for member in members(work.parts.tree):
                if member.content is not None:
                    archive.writestr(member.name, member.content.read())
        name = f"{work.spec.product.name}-{work.cell.model}.zip"
        return [Packed(format=self.name, role="main", name=name, path=path)]

    def material(self) -> Mapping[str, Any]:
        return {"zip": 1}

    def identity(self, path: Path, of: BuildOrigin) -> tuple[str, str]:
        return f"zipped-{of.product}", of.version

    def body(self, path: Path) -> str:
        return ""

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        return {f"{offer.image}/{offer.product}-{offer.model}.zips": f"{offer.base_url}\n"}

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        return (f"unzip {offer.path}",)


@pytest.fixture(autouse=True)
def format_() -> Iterator[ZipFormat]:
    made = ZipFormat()
    with FORMATS.registered("zip", made):
        yield made


def test_it_is_packed(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    result, facts = pack(workspace, trees(tmp_path), images__debian12__formats=["zip"])
    [artifact] = facts.artifacts
    assert (artifact.format, artifact.name) == ("zip", "demo-R620.zip")
    with zipfile.ZipFile(io.BytesIO(result.files["demo-R620.zip"].read_bytes())) as archive:
        assert set(archive.namelist()) == set(TREE)
    assert fake.jobs == []
    assert put_package(result, artifact, tmp_path / "dist")[1]
    assert not put_package(result, artifact, tmp_path / "dist")[1]


def test_it_is_part_of_the_key() -> None:
    with_zip, without = make_spec(images__debian12__formats=["zip"]), make_spec()
    keys = [package.material(spec, the_cell(spec, CELL), ROOT, others={}) for spec in (with_zip, without)]
    assert keys[0]["makers"] == {"zip": {"zip": 1}}
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
        write_dist(tmp_path / "dist", cell("R620-debian12-none"), format="zip", version=f"v{number}.0")
        arguments = ["publish", "R620", "--to", "here", "--yes", "--matrix", str(matrix)]
        assert main.main([*arguments, "--dist", str(tmp_path / "dist")]) == 0
    root = tmp_path / "here"
    names = (root / "debian12" / "R620" / "zips" / "LIST").read_text(encoding="utf-8").splitlines()
    assert names == ["demo-v1.0-R620.zip known", "demo-v2.0-R620.zip new"]
    assert (root / "debian12" / "demo-R620.zips").is_file()
    page = (root / "index.html").read_text(encoding="utf-8")
    assert "unzip debian12/R620/zips/demo-v2.0-R620.zip" in page
    assert '<option value="zip">' in page


def test_without_it_the_name_is_unknown(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path, formats=["zap"])
    with pytest.raises(ConfigError, match=r"must be 'tar', 'rpm', 'deb', 'wheel' or 'zip'"):
        load.load(matrix)


def write_matrix(folder: Path, **image: object) -> Path:
    path = folder / "matrix.yaml"
    (folder / "recipe.sh").write_text("make\n")
    images = {name: {**entry, **image} for name, entry in BASE["images"].items()}
    data = {**BASE, "images": images, "publish": {"here": {"kind": "directory", "path": "here"}}}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
