"""The judges of others say yes to the packages: lintian, rpmlint, auditwheel and more, each format's own.

What they say against good packages is overridden in one place for each judge, with the reason: for lintian in the
package itself (formats/deb/lintian-overrides.jinja), for the others in judges/. An override that fits nothing any more
fails, too.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from integration.builds import ALL_FORMATS
from integration.judging import RPMLINT, WHEEL_CONTENTS, platform_tag, rpmlint, told, wheel_faults

if TYPE_CHECKING:
    from integration.builds import SampleBuild

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("judges")]


@pytest.fixture(scope="module")
def dist(sample_build: Callable[..., SampleBuild]) -> Path:
    """R620 in all formats."""
    return sample_build("R620", "--formats", ALL_FORMATS).dist


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [found] = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def deb(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the DEB."""
    [found] = dist.glob("pika_*.deb")
    folder = tmp_path_factory.mktemp("deb")
    told("dpkg-deb", "-x", found, folder)
    return folder


# --- DEB


def test_lintian(dist: Path, deb: Path) -> None:
    # With --show-overrides its status counts what is overridden.
    text = told("lintian", "--allow-root", "--no-cfg", "--show-overrides", *dist.glob("*.deb"), status=None)
    said = re.findall(r"^([A-Z]): ([a-z-]+): (\S+)", text, re.MULTILINE)
    assert [words for words in said if words[0] != "O"] == [], text
    lines = (deb / "usr/share/lintian/overrides/pika").read_text(encoding="utf-8").splitlines()
    overrides = [line for line in lines if not line.startswith("#")]
    assert {f"{package}: {tag}" for _, package, tag in said} == set(overrides), "each fits something"
    assert all(before.startswith("# ") for before, line in pairwise(lines) if line in overrides)


def test_systemd(deb: Path, tmp_path: Path) -> None:
    """systemd-analyze exits with 0 also for unknown keys, so nothing may be said."""
    for path in (deb / "usr/lib/systemd/system").iterdir():
        text = path.read_text(encoding="utf-8").replace("/opt/", f"{deb}/opt/")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    unit = tmp_path / "pika@9221.service"
    unit.symlink_to("pika@.service")
    verify = ("systemd-analyze", "verify", "--man=no")
    every = [unit, *(tmp_path / f"pika{name}" for name in (".target", "-metrics.service", "-metrics.timer"))]
    assert told(*verify, *every, SYSTEMD_UNIT_PATH=f"{tmp_path}:") == ""
    template = tmp_path / "pika@.service"
    template.write_text(template.read_text(encoding="utf-8").replace("KillSignal=", "KillSignall="))
    assert "KillSignall" in told(*verify, unit, status=None, SYSTEMD_UNIT_PATH=f"{tmp_path}:")


# --- RPM


def test_rpmlint(dist: Path, tmp_path: Path) -> None:
    rpms = list(dist.glob("*.rpm"))
    settings = RPMLINT.read_text(encoding="utf-8")
    assert rpmlint(rpms, tmp_path, settings=settings) == []
    everything = rpmlint(rpms, tmp_path, settings="")
    filters = [line.strip().strip('",') for line in settings.splitlines() if line.startswith('    "')]
    assert [wanted for wanted in filters if not any(re.search(wanted, line) for line in everything)] == []


# --- wheel


def test_auditwheel(wheel: Path) -> None:
    assert wheel.name.endswith(f"-{platform_tag(wheel)}.whl")


def test_check_wheel_contents(wheel: Path) -> None:
    assert wheel_faults(wheel, "--config", WHEEL_CONTENTS) == []
    assert {line[:4] for line in wheel_faults(wheel, "--no-config")} == {"W002"}


def test_twine(wheel: Path) -> None:
    assert "PASSED" in told(sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel)


# --- all formats


def test_the_schema_of_bills(dist: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    texts = {path.name: path.read_text(encoding="utf-8") for path in dist.glob("*.sbom.json")}
    assert len(texts) == 7
    assert {name: validator.validate_str(text) for name, text in texts.items()} == dict.fromkeys(texts)


def test_licences_travel_in_every_format(dist: Path, wheel: Path, deb: Path) -> None:
    """The product's, and that of each library that travels along; the bill names them."""
    [tarball] = dist.glob("pika-*-R620.tar.gz")
    with tarfile.open(tarball) as tar:
        manifest = json.load(tar.extractfile("pika/manifest.json") or pytest.fail("no manifest"))
        inside = {name.removeprefix("pika/"): tar.extractfile(name) for name in tar.getnames()}
        texts = {name: file.read() for name, file in inside.items() if name.startswith("licenses/") and file}
    licences = {entry["of"]: entry for entry in manifest["licences"]}
    assert set(licences) == {"pika", *(library["package"] for library in manifest["bundled_libraries"])}
    assert all(texts[file].strip() for entry in licences.values() for file in entry["files"])
    assert all(entry["files"] for entry in licences.values())
    assert licences["pika"]["names"] == ["BSD-3-Clause"]
    assert "licenses/pika/third/rocksdb/LICENSE" in licences["pika"]["files"]
    assert any(name.startswith("licenses/common-licenses/") for name in texts)
    with ZipFile(wheel) as archive:
        start = re.compile(r"[^/]+[.]dist-info/(licenses/.*)")
        found = {match[1]: archive.read(match[0]) for match in map(start.fullmatch, archive.namelist()) if match}
    assert found == texts
    copyright = (deb / "usr/share/doc/pika/copyright").read_text(encoding="utf-8")
    for library in manifest["bundled_libraries"]:
        assert f" opt/pika/{library['path']}\n" in copyright
    [bill] = dist.glob("pika-*-R620.tar.gz.sbom.json")
    components = {entry["bom-ref"]: entry for entry in json.loads(bill.read_text(encoding="utf-8"))["components"]}
    assert {"license": {"id": "Zlib"}} in components["library:lib/libz.so.1"]["licenses"]
    for library in manifest["bundled_libraries"]:
        component = components[f"library:{library['path']}"]
        assert len(component.get("licenses", [])) == len(licences[library["package"]]["names"])
        [files] = [p["value"] for p in component["properties"] if p["name"] == "pikaforge:licence_files"]
        assert files.split() == licences[library["package"]]["files"]
