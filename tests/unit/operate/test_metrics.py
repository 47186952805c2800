"""The table of metrics, the alert rules and the dashboard: what they name, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from described import operate_of
from unit.helpers import ROOT, make_spec, refusal

from pikaforge.cli.commands import upkeep
from pikaforge.config import load
from pikaforge.config.operate_metrics import Metrics
from pikaforge.config.product import Product
from pikaforge.errors import ConfigError
from pikaforge.formats import payload
from pikaforge.operate import metrics as rendering
from pikaforge.operate.dashboard import queries

MATRICES = ("matrix.yaml", "tests/products/redis/matrix.yaml")
METRICS: dict[str, Any] = {
    "fields": {"link": {"help": "x"}, "clients": {"help": "x", "same": ["role"], "panel": "Clients"}},
    "lines": {"lag": {"help": "x", "line": "slave[0-9]+", "labels": {"db": "@each"}}},
    "watch": {"link": "link", "lag": "lag", "lag_limit": 30},
}
"""The least that there is to say."""


def given(path: str) -> tuple[Product, Metrics]:
    product = load.load(ROOT / path).product
    metrics = operate_of(product).metrics
    assert metrics is not None
    return product, metrics


def demo(**changes: Any) -> Product:
    return make_spec(product__server__operate={"metrics": {**METRICS, **changes}}).product


@pytest.mark.parametrize("path", MATRICES)
class TestGiven:
    def test_each_query_of_the_dashboard_names_metrics_that_exist(self, path: str) -> None:
        product, metrics = given(path)
        text = rendering.monitoring(product, metrics)[f"{product.name}-dashboard.json"].decode()
        kinds = rendering.names(product, metrics)
        prefix = rendering.prefix(product, metrics)
        for query in queries(text):
            named = re.findall(rf"\b{prefix}_[a-z_]+", query)
            assert named and set(named) <= set(kinds), query
            rates = re.findall(r"rate\((\w+)", query)
            assert [kinds[name] for name in rates] == ["counter"] * len(rates), query

    def test_what_has_a_panel_is_shown(self, path: str) -> None:
        product, metrics = given(path)
        text = rendering.monitoring(product, metrics)[f"{product.name}-dashboard.json"].decode()
        shown = " ".join(queries(text))
        for part in (metrics.fields, metrics.lines, metrics.sections):
            for name, each in part.items():
                found = re.search(rf"\b{rendering.prefix(product, metrics)}_{name}\b", shown)
                assert bool(found) == (each.panel is not None), name

    def test_each_rule_names_metrics_that_exist(self, path: str) -> None:
        product, metrics = given(path)
        files = rendering.monitoring(product, metrics)
        rules = yaml.safe_load(files[f"{product.name}-alerts.yml"])["groups"][0]["rules"]
        prefix = rendering.prefix(product, metrics)
        for rule in rules:
            named = set(re.findall(r"\b[a-z]+_[a-z_]+", re.sub(r"\([a-z, ]+\)", "", rule["expr"])))
            assert named <= {*rendering.names(product, metrics), "node_textfile_mtime_seconds"}, rule["expr"]
            assert named
            assert rule["labels"]["severity"] in ("warning", "critical")
        tested = yaml.safe_load(files[f"{product.name}-alerts-test.yml"])["tests"]
        asked = {each["alertname"] for test in tested for each in test["alert_rule_test"] if "exp_alerts" in each}
        assert asked == {rule["alert"] for rule in rules}
        assert any(f"{prefix}_{metrics.watch.lag}" in rule["expr"] for rule in rules)

    def test_panels_do_not_overlap(self, path: str) -> None:
        product, metrics = given(path)
        content = json.loads(rendering.monitoring(product, metrics)[f"{product.name}-dashboard.json"])
        taken = [
            (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
            for panel in content["panels"]
            for x in range(panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["h"])
        ]
        assert len(set(taken)) == len(taken)
        assert max(x for x, _ in taken) < 24
        numbers = [panel["id"] for panel in content["panels"]]
        assert len(set(numbers)) == len(numbers)

    def test_the_table_has_eight_columns(self, path: str) -> None:
        for line in rendering.table(*given(path)).splitlines():
            row = line.split("\t")
            assert row[0] in ("prefix", "command", "drop") or len(row) == 8, line


def test_the_checkout_has_what_packages_have() -> None:
    product = load.load(ROOT / "matrix.yaml").product
    rendered = payload.render(product, model="R620", target="sandybridge", image="el9", features=("lm",))
    packed = {name: text.decode() for name, text in rendered.contents.items() if name.startswith("monitoring/")}
    assert packed == upkeep.monitoring_texts(product), "run: invoke schema"
    files = {f"monitoring/{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "monitoring").iterdir()}
    assert files == packed, "run: invoke schema"


def test_a_package_has_the_script_and_its_units() -> None:
    rendered = payload.render(demo(), model="R620", target="sandybridge", image="el9", features=("lm",))
    assert {
        *("utils/metrics.sh", "utils/operate/metrics.tsv", "utils/lib/info.awk", "utils/lib/exposition.awk"),
        *("systemd/demo-metrics.service", "systemd/demo-metrics.timer"),
        *("monitoring/demo-alerts.yml", "monitoring/demo-alerts-test.yml", "monitoring/demo-dashboard.json"),
    } <= set(rendered.contents)
    assert "utils/metrics.sh" in rendered.executable
    assert b"StorageError" not in rendered.contents["monitoring/demo-alerts.yml"]


def test_without_metrics_there_are_none() -> None:
    product = make_spec(product__server__operate={}).product
    rendered = payload.render(product, model="R620", target="sandybridge", image="el9", features=("lm",))
    assert not [name for name in rendered.contents if "metrics" in name or "monitoring" in name]
    assert upkeep.monitoring_texts(product) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fields": {**METRICS["fields"], "lag": {"help": "x"}}}, "there are two metrics lag"),
        ({"fields": {**METRICS["fields"], "up": {"help": "x"}}}, "two metrics up, one of all products"),
        ({"watch": {"link": "link", "lag": "other", "lag_limit": 1}}, "there is no metric other"),
        ({"watch": {"link": "link", "lag": "lag", "lag_limit": 1, "fatal": "no"}}, "there is no metric no"),
        ({"inherited": ["gone"]}, "there is no metric gone"),
        ({"fields": {"link": {"help": "x", "same": ["addr"]}}}, "the label addr twice"),
        ({"fields": {"link": {"help": "x", "same": ["a"], "labels": {"a": "b"}}}}, "the label a twice"),
        ({"fields": {"link": {"help": 'a "b"'}}}, "help"),
        ({"fields": {"link": {"help": "a\tb"}}}, "help"),
        ({"fields": {"link": {"help": "x", "value": "a,b"}}}, "value"),
        ({"fields": {"Link": {"help": "x"}}}, "Link"),
        ({"lines": {"lag": {"help": "x", "line": "a/b"}}}, "line"),
        ({"drop": ["a\tb"]}, "drop"),
        ({"command": ["INFO; id"]}, "command"),
        ({"prefix": "a-b"}, "prefix"),
    ],
)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        demo(**changes)
    assert words in " ".join(refusal(error))


def test_awk_is_given_to_packages_as_it_is() -> None:
    """A program of awk names no product, and has no word of a template."""
    for path in (Path(rendering.ASSETS) / "lib").glob("*.awk"):
        assert not re.search("@[A-Z]+@", path.read_text(encoding="utf-8"))
