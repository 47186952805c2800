"""Packages of a product without a server, and of a server without a configuration file, in each format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.helpers import WITHOUT_SERVER, make_spec
from unit.product_packages import package, rendered

from pikaforge.formats import format as formats
from pikaforge.formats import payload
from pikaforge.formats.deb import product as deb
from pikaforge.formats.format import InstallOffer
from pikaforge.formats.product_package import ProductPackage, assemble
from pikaforge.formats.rpm import product as rpm
from pikaforge.formats.rpm.spec_file import OLD
from pikaforge.formats.wheel import wheel
from pikaforge.operate.scripts import FOR_ALL

GATE = {"utils/cpu-gate.sh", "utils/cpu-features", "utils/cpu-targets"}


def _rendered(**changes: Any) -> dict[str, str]:
    made = payload.render(make_spec(**changes).product, model="R620", target="sandybridge", features=["avx"])
    assert set(made.executable) <= set(made.contents)
    return {name: data.decode() for name, data in made.contents.items()}


BARE = {"product__server__conf": None, "product__server__command": ["bin/demo", "-p", "{port}", "-d", "{data}"]}
"""Changes that take the configuration file away."""


def test_what_sets_instances_up_is_for_servers() -> None:
    assert set(_rendered(**WITHOUT_SERVER)) == GATE
    library = {f"utils/lib/{name}" for name in ("product.sh", *FOR_ALL)}
    assert set(_rendered(**BARE)) == {*GATE, *library, "utils/deploy.sh", "systemd/demo@.service"}
    assert set(_rendered()) == {*GATE, *library, "utils/deploy.sh", "systemd/demo@.service", "utils/settings.tsv"}


def test_a_unit_without_a_configuration_file() -> None:
    unit = _rendered(**BARE)["systemd/demo@.service"].splitlines()
    assert "ExecStart=@TOP@/bin/demo -p %i -d ${DATA}" in unit


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({}, "CONF"),
        (BARE, "DATA"),
        ({"product__server__command": ["bin/demo", "{conf}", "{data}"]}, "CONF DATA"),
    ],
)
def test_an_environment_file_has_what_the_unit_reads(changes: dict[str, Any], variables: str) -> None:
    assert f"\nvariables='{variables}'\n" in _rendered(**changes)["utils/lib/product.sh"]


def _tool() -> ProductPackage:
    """The demo's package as that of a tool."""
    made = package()
    deployment = set(rendered("el9").contents) - GATE
    tree = tuple(entry for entry in made.tree if entry.path.removeprefix(f"{made.top}/") not in deployment)
    contents = {name: data for name, data in made.payload.items() if name in GATE}
    return replace(made, tree=tree, payload=contents, conf=(), server=False)


def test_a_system_package_without_a_server_has_no_unit_and_no_user() -> None:
    made = assemble(_tool(), "demo")
    outside = {entry.path for entry in made.entries if not f"{entry.path}/".startswith("/opt/demo/")}
    assert outside == {"/usr/share/doc/demo/README"}
    assert list(made.files) == ["doc/README"]
    assert b"deploy" not in made.files["doc/README"]
    assert list(made.scripts) == ["pre"], "the CPU gate"
    server = assemble(package(), "demo")
    assert {"/etc/demo", "/usr/lib/systemd/system/demo@.service"} <= {entry.path for entry in server.entries}
    assert list(server.scripts) == ["pre", "post", "preun", "postun"]


def test_rpm_and_deb_need_nothing_for_a_user() -> None:
    for made, wanted in ((_tool(), ()), (package(), rpm.POST_NEEDS)):
        [main, *_] = rpm.product(made, requires=(), profile=OLD).rpm.packages
        assert main.requires_post == wanted
    for made, depends, section, scripts in (
        (_tool(), ("libc6",), "misc", {"preinst"}),
        (package(), ("libc6", "passwd"), "database", {"preinst", "postinst", "prerm", "postrm"}),
    ):
        build = deb.product(made, depends=("libc6",))
        [main_deb, *_] = build.deb.packages
        assert (main_deb.depends, main_deb.section, set(main_deb.scripts)) == (depends, section, scripts)
        assert ("systemctl" in build.extra["lintian/overrides"].decode()) == ("postinst" in scripts)
        control = build.pack()["demo/control"].decode()
        assert f"\nSection: {section}\n" in control


@pytest.mark.parametrize("port", ["7000", ""])
def test_a_tarball_is_deployed_if_it_is_a_server(port: str) -> None:
    offer = InstallOffer(
        product="demo",
        image="debian12",
        os=None,
        model="R620",
        package="demo",
        version="1.0",
        base_url="https://packages.example.org",
        path="debian12/R620/tarballs/demo-v1.0-R620.tar.gz",
        key_url=None,
        port=port,
    )
    lines = formats.of("tar").install_lines(offer)
    assert ("bash /opt/demo/utils/deploy.sh 7000 /data" in lines) == bool(port)
    assert any("tar xf" in line for line in lines)


def test_a_wheel_says_that_there_is_no_server() -> None:
    product = make_spec(**WITHOUT_SERVER).product
    assert wheel.NEEDED == ("utils/cpu-gate.sh", "utils/cpu-features", "manifest.json")
    assert wheel._deployed(product) == ()
    assert wheel._deployed(make_spec(**BARE).product) == ("utils/deploy.sh",)
    assert wheel._deployed(make_spec().product) == ("utils/deploy.sh", "utils/settings.tsv", "conf/demo.conf")
