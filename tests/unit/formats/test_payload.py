"""What is rendered into packages."""

from __future__ import annotations

import re

import pytest
from unit.helpers import ROOT, make_spec

from pikaforge.config import load
from pikaforge.formats import payload

WORD = re.compile(r"@[A-Z]+@")


def _rendered(**changes: object) -> dict[str, str]:
    rendered = payload.render(make_spec(**changes).product)
    assert set(rendered.executable) <= set(rendered.contents)
    scripts = {name for name in rendered.contents if name.endswith(".sh") and "/lib/" not in name}
    assert scripts == set(rendered.executable)
    return {name: data.decode() for name, data in rendered.contents.items()}


def test_the_files_are_named_after_the_product() -> None:
    assert {"utils/deploy.sh", "utils/settings.tsv", "systemd/demo@.service"} <= set(_rendered())


@pytest.mark.parametrize("real", [False, True])
def test_no_word_is_left_but_the_one_that_deployment_fills_in(real: bool) -> None:
    product = (load.load(ROOT / "matrix.yaml") if real else make_spec()).product
    left = {
        name: set(WORD.findall(data.decode()))
        for name, data in payload.render(product).contents.items()
        if WORD.search(data.decode())
    }
    # deploy.sh replaces it in the unit, and metrics.sh in that of the metrics.
    expected = {"utils/lib/deploy-host.sh", f"systemd/{product.name}@.service"}
    if real:
        expected |= {"utils/metrics.sh", f"systemd/{product.name}-metrics.service"}
    assert left == {name: {"@TOP@"} for name in expected}


def test_the_templates_name_no_product() -> None:
    package = ROOT / "build" / "pikaforge"
    for path in (path for path in package.rglob("*") if path.suffix in (".sh", ".service", ".target", ".conf", ".js")):
        assert "pika" not in path.read_text(encoding="utf-8").lower().replace("pikaforge", ""), path.name


def test_the_unit_starts_and_stops_as_the_matrix_says() -> None:
    unit = _rendered(
        product__server__command=["bin/demo", "-c", "{conf}", "--port", "{port}"],
        product__server__stop={"signal": "INT", "within": 12.5},
    )["systemd/demo@.service"].splitlines()
    assert "ExecStart=@TOP@/bin/demo -c ${CONF} --port %i" in unit
    assert "KillSignal=SIGINT" in unit
    assert "TimeoutStopSec=12.5" in unit
    assert "User=demo" in unit
    assert "Description=demo v1.0 on port %i" in unit
    assert "EnvironmentFile=/etc/demo/%i.env" in unit


def test_settings_are_data_with_their_placeholders() -> None:
    assert _rendered()["utils/settings.tsv"] == "port\t{port}\ndir\t{data}/db/\n"


@pytest.mark.parametrize(
    ("line", "separator"), [("{key} : {value}", " : "), ("{key} {value}", " "), ("{key}={value}", "=")]
)
def test_the_separator_is_that_of_the_conf(line: str, separator: str) -> None:
    assert f"\nseparator='{separator}'\n" in _rendered(product__server__conf__line=line)["utils/lib/product.sh"]


def test_the_same_product_is_the_same_bytes() -> None:
    assert payload.render(make_spec().product) == payload.render(make_spec().product)
