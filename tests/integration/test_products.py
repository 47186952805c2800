"""Products that are no server of RESP, through the whole pipeline: memcached and lz4, of Debian's source packages.

Only their folders in tests/products say what they are: memcached is a server of another protocol without a
configuration file, lz4 a library with tools. Each is built once for R620, in all formats.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pikaforge.config import load
from pikaforge.pipeline import report

if TYPE_CHECKING:
    from conftest import Done, Shared, Tool

ROOT = Path(__file__).resolve().parents[2]
PRODUCTS = ROOT / "tests" / "products"
NAMES = ("memcached", "lz4")

# One worker, so that each is compiled once.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("products"), pytest.mark.long(120)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A product that was built for R620 on debian12, in all formats."""

    name: str
    matrix: Path
    dist: Path
    done: Done

    @property
    def packages(self) -> Path:
        return self.dist / "debian12"

    @property
    def tarball(self) -> Path:
        (found,) = self.packages.glob(f"{self.name}-*-R620.tar.gz")
        return found

    @property
    def manifest(self) -> Any:
        with tarfile.open(self.tarball) as tar:
            stream = tar.extractfile(f"{self.name}/manifest.json")
            assert stream is not None
            return json.load(stream)


@pytest.fixture(scope="module")
def built(tool: Tool, shared: Shared, debian_source: Callable[[str], Path]) -> Callable[[str], Build]:
    """A product, built by its folder alone. Images and trees are found again in out/ by their keys."""

    def build(name: str) -> Build:
        source = debian_source(name)
        with shared.once(f"product-{name}") as folder:
            if folder is not None:
                shutil.copytree(
                    PRODUCTS / name, folder / "product", ignore=shutil.ignore_patterns("sources.lock", "download*")
                )
                shutil.copytree(source, folder / "product" / "download")
                places = (
                    "--matrix",
                    folder / "product" / "matrix.yaml",
                    "--out",
                    ROOT / "out",
                    "--dist",
                    folder / "dist",
                )
                tool("build", "R620", "--os", "debian12", *places, check=0).keep(folder / "done.json")
        made = shared.folder / f"product-{name}"
        return Build(
            name=name,
            matrix=made / "product" / "matrix.yaml",
            dist=made / "dist",
            done=tool.recall(made / "done.json"),
        )

    return build


def files(tarball: Path) -> dict[str, tarfile.TarInfo]:
    """The members of a package, by their path below its top folder."""
    with tarfile.open(tarball) as tar:
        return {member.name.partition("/")[2]: member for member in tar if "/" in member.name}


@pytest.mark.parametrize("name", NAMES)
def test_every_check_was_made_in_both_ways(built: Callable[[str], Build], name: str) -> None:
    build = built(name)
    wanted = [entry["check"] for entry in yaml.safe_load(build.matrix.read_text(encoding="utf-8"))["product"]["smoke"]]
    made_report = report.load(build.dist)
    assert made_report is not None
    [cell] = made_report.cells
    assert [made for made in build.manifest["checks"] if made in wanted] == wanted
    server = {"version", "start", "allocator", "stop"}
    assert server & set(build.manifest["checks"]) == (server if name == "memcached" else set())
    for way in (cell.native, cell.emulated):
        assert way is not None
        if not way.ran:  # this machine has no such CPU
            assert way is cell.native, way.reason
            continue
        assert way.problem == ""
        assert set(wanted) - {check.name for check in way.checks if check.passed} <= {"restart"}


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_made_and_verified(built: Callable[[str], Build], tool: Tool, name: str) -> None:
    build = built(name)
    product = load.load(build.matrix).product
    kind = "tools" if product.server is None else "server"
    names = {path.name for path in build.packages.iterdir()}
    assert {
        f"{name}-{product.version}-R620.tar.gz",
        f"{name}-{product.version}-1.R620.debian12.x86_64.rpm",
        f"{name}_{product.version}-1.R620.debian12_amd64.deb",
    } <= names
    assert any(
        re.fullmatch(rf"{name}_{kind}-{re.escape(product.version)}[+]r620[.]debian12-.*[.]whl", n) for n in names
    )
    done = tool("verify", build.packages, "--unsigned", "--matrix", build.matrix, check=0)
    assert re.search(r": verified: all \d+ checks say yes", done.stdout), done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_patches_of_the_package_are_applied_in_their_order(
    built: Callable[[str], Build], debian_source: Callable[[str], Path], name: str
) -> None:
    lines = (debian_source(name) / "patches" / "series").read_text(encoding="utf-8").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    assert names
    applied = [patch["name"] for patch in built(name).manifest["source"]["patches"]]
    assert applied == [f"quilt download/patches/{each}" for each in names]


def test_a_server_without_a_configuration_file_has_a_unit_and_no_settings(built: Callable[[str], Build]) -> None:
    found = files(built("memcached").tarball)
    assert {"systemd/memcached@.service", "utils/deploy.sh", "lib/libevent-2.1.so.7"} <= set(found)
    assert "utils/settings.tsv" not in found


def test_a_library_has_its_links_and_nothing_of_a_server(built: Callable[[str], Build]) -> None:
    found = files(built("lz4").tarball)
    assert found["lib/liblz4.so.1"].linkname == "liblz4.so.1.9.4"
    assert {"include/lz4.h", "LICENSE", "utils/cpu-gate.sh"} <= set(found)
    assert not [name for name in found if name.startswith("systemd") or "deploy" in name]


def test_nothing_is_left_to_do(built: Callable[[str], Build], tool: Tool, tmp_path: Path) -> None:
    build = built("lz4")
    places = ("--matrix", build.matrix, "--out", ROOT / "out", "--dist", build.dist)
    assert "everything is up to date" in tool("build", "R620", "--os", "debian12", *places, check=0).stdout
