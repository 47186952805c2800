"""Images that cannot be pulled here: the ways of EL and Ubuntu, walked with stand-ins out of a registry.

What that proves is in tests/standins/make.py. Each run of the tests builds the sample for EL 9, and for EL 7 a product
of one file; PIKAFORGE_TEST_ALL=standins builds the sample for all of them.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from execs import name_itself
from integration.rpm_host import TOP, Host
from standins import make
from standins.registry import Registry, serve
from thorough import whole

from pikaforge.pipeline import coverage

if TYPE_CHECKING:
    from conftest import Done, Engine, Project

    from .conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("standins")]

STANDINS = make.known()
EL7, EL9 = STANDINS["centos:7"], STANDINS["rockylinux:9"]
OTHERS = [standin for standin in STANDINS.values() if standin is not EL9]
MODEL = "R620"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A model built on a stand-in."""

    standin: make.StandIn
    digest: str
    """Of the stand-in in the registry."""
    project: Project
    formats: str
    """All that the image has, as the option takes them."""
    done: Done

    def package(self, pattern: str) -> Path:
        """The one package of this name."""
        (found,) = (self.project.dist / self.standin.entry).glob(pattern)
        return found

    @property
    def manifest(self) -> dict[str, Any]:
        """What the tarball says of itself."""
        with tarfile.open(self.package("pika-v3.4.0-R620.tar.gz")) as tar:
            content = tar.extractfile("pika/manifest.json")
            assert content is not None
            manifest: dict[str, Any] = json.load(content)
        return manifest

    @property
    def image(self) -> dict[str, Any]:
        """The facts of the image stage."""
        facts = (record["facts"] for record in self.project.stored("image").values())
        return next(f for f in facts if f"/{self.standin.entry}-" in f.get("runtime", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Walks them."""

    registry: Registry
    engine: Engine
    shop: Shop
    until: Callable[..., None]

    def build(
        self, standin: make.StandIn, folder: Path, prepare: Callable[[Project], object] = lambda project: None
    ) -> Built:
        """Push the stand-in, and build a model on it in every format of its image.

        Check on the way that it is pulled, pinned by digest, and named by the package as what it was built on; that
        the lists of packages have the family's names; and that the clean image has no compiler.
        """
        project = self.shop.ready(folder)
        self.shop.take(project, "source")
        prepare(project)
        digest = self.registry.push(make.build(standin.name), standin.name)
        project.change(lambda matrix: make.use(matrix, self.registry.address, standin.name))
        matrix = yaml.safe_load(project.matrix.read_text(encoding="utf-8"))
        formats = ",".join(matrix["images"][standin.entry]["formats"])
        done = project.build(MODEL, "--formats", formats, image=standin.entry, check=0)
        built = Built(standin=standin, digest=digest, project=project, formats=formats, done=done)

        assert f"note: sources.lock: {standin.entry}: digest pinned to {digest}" in done.stdout.splitlines()
        assert project.pins("images")[standin.entry] == {"digest": digest}
        name = standin.name.partition(":")[0]
        assert built.manifest["image"]["base"] == f"{self.registry.address}/{name}@{digest}"
        packages = {purpose: dict(held) for purpose, held in built.image["packages"].items()}
        el = ({"gcc-c++.x86_64", "glog-devel.x86_64"}, "glibc.x86_64")
        ubuntu = ({"g++:amd64", "libgoogle-glog-dev:amd64"}, "libc6:amd64")
        for_building, for_running = el if standin.release else ubuntu
        assert for_building <= packages["build"].keys()
        assert not for_building & packages["runtime"].keys()
        assert for_running in packages["runtime"]
        assert built.image["gcc"].startswith(standin.gcc)
        assert built.image["os"]["variant"] == coverage.STAND_IN
        return built

    @contextmanager
    def machine(self, built: Built, image: str = "runtime") -> Iterator[Host]:
        """A machine that has what the clean image has (or the one for building), without network."""
        container = self.engine.client.containers.run(
            built.image[image], ["sleep", "3600"], detach=True, init=True, network_mode="none", hostname="clean"
        )
        try:
            name_itself(container)
            yield Host(container=container, until=self.until)
        finally:
            container.remove(force=True)

    def install(self, built: Built) -> None:
        """The system's own tools take the package, with all that it requires; its server answers; and it goes again."""
        with self.machine(built) as host:
            if built.standin.release:
                host.put({"pika.rpm": built.package("pika-3.4.0-*.rpm")})
                host.ok("yum" if built.standin.release == "7" else "dnf", "-y", "install", "/srv/pika.rpm")
                assert host.run("rpm", "-V", "pika") == (0, "")
                assert host.ok("rpm", "-qf", f"{TOP}/bin/pika").startswith("pika-3.4.0-1.R620")
            else:
                host.put({"pika.deb": built.package("pika_*.deb")})
                host.ok("apt-get", "install", "--yes", "/srv/pika.deb")
            host.deploy()
            host.start()
            assert host.talk("PING") == "+PONG"
            host.stop()
            host.ok(*(("rpm", "-e") if built.standin.release else ("apt-get", "remove", "--yes")), "pika")
            assert host.run("test", "-e", f"{TOP}/bin")[0] == 1


@pytest.fixture(scope="module")
def ways(
    engine: Engine,
    registry_program: Path,
    shop: Shop,
    until: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ways]:
    """With a registry for this module's tests."""
    with serve(registry_program, tmp_path_factory.mktemp("registry")) as registry:
        yield Ways(registry=registry, engine=engine, shop=shop, until=until)


@pytest.fixture(scope="module")
def el9(ways: Ways, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sample, built on the stand-in for EL 9."""
    return ways.build(EL9, tmp_path_factory.mktemp("el9"))


def test_el9_from_the_registry_to_its_packages(el9: Built, ways: Ways) -> None:
    (row,) = el9.done.lines("^R620-el9-none +sandybridge ")
    checked = r"\d+ of \d+ checks passed in \S+ s +"
    assert re.fullmatch(rf"R620-el9-none +sandybridge +passed\S* .*{checked}{checked}yes", row)
    libraries = {library["soname"]: library["package"] for library in el9.manifest["bundled_libraries"]}
    assert libraries["libglog.so.1"] == "glog", "rpm is asked by EL's paths"
    assert "unknown" not in libraries.values()
    el9.package("pika-debuginfo-3.4.0-1.R620.el9.x86_64.rpm")
    el9.package("pika_server-3.4.0+r620.el9-py3-none-manylinux_*_x86_64.whl")
    ways.install(el9)


def test_el9_is_held_to_its_pin(el9: Built, ways: Ways) -> None:
    """Also where the tag has moved; and what has no pin is refused under --locked."""
    project = el9.project
    moved = ways.registry.push(el9.image["runtime"], "rockylinux:9")
    assert moved != el9.digest
    # The plan, because a build with --locked compiles again without a compiler cache.
    nodes = project.plan("R620", "--locked", "--formats", el9.formats, image="el9")["nodes"]
    assert {node["cached"] for node in nodes if node["stage"] == "image"} == {True}
    refreshed = project.tool(*project.arguments("lock", "--image", "el9", image=""), check=0)
    assert f"sources.lock: el9: digest {el9.digest} -> {moved}" in refreshed.stdout.splitlines()

    ways.registry.push(el9.image["runtime"], "rockylinux:8")
    project.change(lambda matrix: make.use(matrix, ways.registry.address, "rockylinux:8"))
    refused = project.build(MODEL, "--locked", image="el8", check=2)
    assert f"error: --locked: digest of el8 is not pinned (it is {moved} now)" in refused.text


def test_el7_with_a_product_of_one_file(ways: Ways, shrink: Callable[..., None], tmp_path: Path) -> None:
    """Its Dockerfile with yum, a compiler that says it is gcc 4.8.5, a tar that knows no --sort, an RPM of its kind."""
    built = ways.build(EL7, tmp_path, shrink)
    assert built.manifest["compiler"][:2] == ["gcc (GCC) 4.8.5 20150623 (Red Hat 4.8.5-44)", "4.8.5"]
    assert built.manifest["flags"] == ["-march=corei7-avx", "-mtune=corei7-avx"]
    ways.install(built)
    with ways.machine(built, "build") as host:
        assert host.run("tar", "--create", "--sort=name", "--file=/dev/null", "/etc")[0] != 0
        assert host.run("gcc", "-dumpfullversion")[0] != 0
        # EL 7's yum only mentions what it does not find, and ends with 0; the Dockerfile sees to it that it fails.
        assert host.run("yum", "-y", "install", "xz", "no-such-package")[0] == 1
        host.sh("sed -i /skip_missing/d /etc/yum.conf")
        assert "No package no-such-package available." in host.ok("yum", "-y", "install", "xz", "no-such-package")


@pytest.mark.thorough(whole("standins"))
@pytest.mark.parametrize("standin", OTHERS, ids=lambda standin: standin.name)
def test_the_sample_on_every_stand_in(standin: make.StandIn, ways: Ways, tmp_path: Path) -> None:
    built = ways.build(standin, tmp_path)
    ways.install(built)
