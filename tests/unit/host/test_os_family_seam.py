"""The seam of OS families: one that this project does not have, registered and used from the configuration to SBOMs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from unit.cell_results import trees
from unit.helpers import ROOT, Ending, FakeEngine, make_spec, members, refusal, the_cell

from pikaforge.attest import sbom
from pikaforge.config import families
from pikaforge.config.registry import FAMILIES
from pikaforge.config.schema import OsRelease, Spec
from pikaforge.errors import HostError
from pikaforge.formats import format as formats
from pikaforge.formats.manifest import read_manifest
from pikaforge.host.os_families.family import Services
from pikaforge.host.os_families.package_managers import Purl
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import package
from pikaforge.pipeline.image import building, image
from pikaforge.plan import matrix, plan

CELL = "R620-island9-none"


class Boat:
    """A package manager that has two packages."""

    name = "boat"

    def is_here(self) -> bool:
        return True

    def installed(self, names: Iterable[str]) -> dict[str, str]:
        return {name: "1-r0" for name in names if name in ("palm", "cc")}

    def installer(self, major: int) -> str:
        return "boat"

    def install_command(self) -> str:
        return "boat fetch"

    def purl(self, package: str, version: str) -> Purl:
        return Purl(type="boat", name=package, version=version)


class Islands:
    """Systems that take RPMs by a package manager of their own; their service manager is elsewhere."""

    name = "island"
    recipe = "islands"
    ids = frozenset({"crete", "corfu"})
    alike = True
    packages = Boat()
    formats = frozenset({"rpm"})
    toolchain = ("cc", "tar")

    def services(self, version: str) -> Services:
        return Services(units="/sea/units", tmpfiles="/sea/tmpfiles", sysusers="")

    def dist_tag(self, id: str, version: str) -> str:
        return f"isle{version}"

    def reads_zstd(self, version: str) -> bool:
        return True


@pytest.fixture(autouse=True)
def family() -> Iterator[Islands]:
    made = Islands()
    with FAMILIES.registered("island", made):
        yield made


IMAGE = {
    "family": "island",
    "os": {"id": "crete", "version": "9"},
    "base": "islands:9",
    "gcc": "12.2",
    "formats": ["rpm"],
}


def spec_with() -> Spec:
    packages = {"island": {"build": ["palm"], "runtime": ["rsync"]}}
    return make_spec(images__island9=IMAGE, product__packages=packages)


def test_configuration_and_plan_take_it() -> None:
    spec = spec_with()
    assert spec.packages_for("island9", purpose="build") == ("palm",)
    assert matrix.matching_image(spec, ("corfu", "9.2")) == "island9"
    assert matrix.matching_image(spec, ("corfu", "10")) == ""
    nodes = plan.expand(spec, [the_cell(spec, CELL)]).nodes
    assert "image:island9" in [node.id for node in nodes]


def test_its_recipe_makes_the_image(workspace: Workspace) -> None:
    folder = workspace.home / "docker" / "islands"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM x\nARG BUILD_PACKAGES\n")
    for script in (*image.SCRIPTS, *building.COPIED):
        (workspace.home / "docker" / "guest" / script).write_text(f"# {script}\n")
    material = image.material(spec_with(), "island9", None, workspace.home)
    (folder / "Dockerfile").write_text("FROM y\n")
    assert image.material(spec_with(), "island9", None, workspace.home) != material
    assert material["packages"] == {"BUILD_PACKAGES": "palm", "RUNTIME_PACKAGES": "rsync"}


def test_its_package_manager_is_asked_on_the_host_engine(workspace: Workspace) -> None:
    with pytest.raises(HostError) as error:
        image.run_host(workspace, spec_with(), key="1" * 32, label="island9")
    message, _, hint = refusal(error)
    assert message == "packages are missing on this machine (1): tar"
    assert hint == "boat fetch tar"


def test_packages_fit_its_systems(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    fake.endings["package"] = lambda job: Ending(outputs={path: path.encode() for path in job.outputs})
    spec = spec_with()
    result = package.make(
        workspace,
        spec,
        the_cell(spec, CELL),
        trees(tmp_path),
        key="2" * 32,
        tools="tools:1",
        others={},
    )
    facts = result.read(package.PackageFacts)
    [artifact] = facts.artifacts
    assert artifact.name == "demo-1.0-1.R620.isle9.x86_64.rpm"
    [job] = fake.jobs
    text = next(members(item)["pack/package.spec"][1].decode() for item in job.inputs if item.folder == "pack")
    assert "/sea/units/demo@.service" in text
    assert "/sea/tmpfiles/demo.conf" in text
    assert '"/usr/lib/sysusers.d/demo.conf"' not in text
    assert "zstdio" in text
    manifest = read_manifest(facts.manifest, where="test")
    bill = sbom.text(sbom.document(manifest, artifact="a", sha256="0" * 64))
    assert "pkg:boat/crete/zlib1g@1:1.2?distro=crete-9" in bill


def test_what_packages_take_from_it_is_part_of_their_key(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> object:
        spec = spec_with()
        return package.material(spec, the_cell(spec, CELL), ROOT, others={})

    before = key()
    monkeypatch.setattr(Islands, "reads_zstd", lambda self, version: False)
    assert key() != before


def test_clients_are_told_of_its_package_manager() -> None:
    assert formats.of("rpm").families == {"el", "el7", "island"}
    assert formats.of("deb").families == {"debian"}
    offer = formats.InstallOffer(
        product="demo",
        image="island9",
        os=OsRelease(id="corfu", version="9"),
        model="R620",
        package="demo",
        version="1.0",
        base_url="https://example.org",
        path="island9/R620/x86_64/demo.rpm",
        key_url=None,
    )
    assert formats.of("rpm").install_lines(offer)[-1] == "boat install demo"


def test_an_unlisted_name_is_a_folder_with_a_recipe() -> None:
    assert families.of("el10").recipe == "el10"
    assert families.of("el10").dist_tag("rocky", "10.1") == "el10"
    assert families.of("mint").dist_tag("mint", "21.3") == "mint213"
    assert not families.of("mint").reads_zstd("21.3")
    assert families.of_system("mint").packages.purl("x", "1:2").type == "rpm"
