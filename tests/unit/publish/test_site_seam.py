"""The seam of sites: a kind of destination that this project does not have, registered and published to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from unit.dist_folders import cell, write_dist
from unit.helpers import BASE

from pikaforge.cli import main
from pikaforge.config.registry import SITES
from pikaforge.config.schema import Destination, matrix_schema
from pikaforge.publish.sites.site import SiteOptions
from pikaforge.publish.state import File
from pikaforge.publish.transaction import Transaction


class MemorySite:
    """A root in a dictionary."""

    where = "memory"
    stepwise = False

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.locks = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        self.locks += 1
        yield

    def read(self, path: str, *, limit: int = 256 << 20) -> bytes | None:
        return self.files.get(path)

    def fetch(self, file: File, place: str, into: Path) -> None:
        into.write_bytes(self.files[f"{place}/{file.path}"])

    def commit(self, transaction: Transaction) -> int:
        for addition in transaction.additions:
            content = addition.content
            data = content if isinstance(content, bytes) else content.read_bytes()
            self.files[f"{transaction.place}/{addition.file.path}"] = data
        self.files.update({f"{transaction.place}/{path}": data for path, data in transaction.pointers.items()})
        return len(transaction.additions)

    def write(self, path: str, data: bytes) -> bool:
        changed = self.files.get(path) != data
        self.files[path] = data
        return changed


class MemoryKind:
    """Destinations in this process."""

    title = "a memory"
    required: frozenset[str] = frozenset()
    optional = frozenset({"keep"})

    def __init__(self) -> None:
        self.site = MemorySite()
        self.opened: list[SiteOptions] = []

    def place(self, destination: Destination) -> str:
        return "memory"

    def open(self, options: SiteOptions) -> tuple[MemorySite, str]:
        self.opened.append(options)
        return self.site, "https://memory.example.org"


@pytest.fixture
def kind() -> Iterator[MemoryKind]:
    made = MemoryKind()
    with SITES.registered("memory", made):
        yield made


def write_matrix(folder: Path, **destination: object) -> Path:
    path = folder / "matrix.yaml"
    (folder / "recipe.sh").write_text("make\n")
    data = {**BASE, "publish": {"ram": {"kind": "memory", **destination}}}
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def publish(matrix: Path, *words: str) -> int:
    return main.main(["publish", *words, "--matrix", str(matrix), "--dist", str(matrix.parent / "dist")])


def test_a_new_kind_is_published_to_and_rolled_back(kind: MemoryKind, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path, keep=2)
    dist = tmp_path / "dist"
    write_dist(dist, cell("R620-debian12-none"))
    assert publish(matrix, "R620", "--to", "ram", "--yes") == 0
    files = kind.site.files
    assert files["debian12/R620/tarballs/demo-v1.0-R620.tar.gz"] == b"R620-debian12-none v1.0"
    catalogue = json.loads(files["repo.json"])
    assert [repository["path"] for repository in catalogue["repositories"]] == ["debian12/R620"]
    assert catalogue["url"] == "https://memory.example.org"
    assert kind.opened[0].name == "ram"

    write_dist(dist, cell("R720-debian12-none"))
    assert publish(matrix, "R720", "--to", "ram", "--yes") == 0
    assert "debian12/R720/tarballs/demo-v1.0-R720.tar.gz" in files
    assert kind.site.locks == 2
    assert publish(matrix, "R620", "--to", "ram", "--rollback", "--yes") == 5, "there is one generation only"


def test_what_it_takes_is_checked(kind: MemoryKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = write_matrix(tmp_path, url="https://example.org")
    assert publish(matrix, "R620", "--to", "ram") == 2
    assert "kind memory takes no `url`" in capsys.readouterr().err
    assert "memory" in matrix_schema()["$defs"]["Destination"]["properties"]["kind"]["enum"]


def test_without_it_the_name_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(write_matrix(tmp_path), "R620", "--to", "ram") == 2
    assert "must be 'directory', 'http' or 'index'" in capsys.readouterr().err


def test_a_name_is_given_once(kind: MemoryKind) -> None:
    with pytest.raises(ValueError, match="'directory' already"), SITES.registered("directory", kind):
        pass
