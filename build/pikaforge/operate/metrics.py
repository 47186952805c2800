"""The metrics of instances: the table of `utils/metrics.sh`, its units, alert rules and a dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pikaforge.config.operate_metrics import OWN, Metrics
from pikaforge.config.product import Product
from pikaforge.host.text import filled
from pikaforge.operate.alerts import alerts, alerts_test
from pikaforge.operate.dashboard import dashboard

ASSETS = Path(__file__).resolve().parent / "assets"
TABLE = "utils/operate/metrics.tsv"
SCRIPT = "utils/metrics.sh"


def prefix(product: Product, metrics: Metrics) -> str:
    """Return what begins the names of all metrics."""
    return metrics.prefix or "".join(c if c.isalnum() else "_" for c in product.name.lower())


def names(product: Product, metrics: Metrics) -> dict[str, str]:
    """Return all metrics: the type by the name."""
    found = {name: kind for name, (kind, _) in OWN.items()}
    given = dict.fromkeys(metrics.info, "gauge")
    given |= {
        name: each.type for part in (metrics.fields, metrics.lines, metrics.sections) for name, each in part.items()
    }
    start = prefix(product, metrics)
    return {f"{start}_{name}": kind for name, kind in {**found, **given}.items()}


def table(product: Product, metrics: Metrics) -> str:
    """Return the text of utils/operate/metrics.tsv: kind, place, metric, type, value, labels, scale, help."""
    rows = [("prefix", prefix(product, metrics)), ("command", *metrics.command)]
    rows += [("drop", place) for place in metrics.drop]
    rows += [("own", "", name, kind, "", "", "1", words) for name, (kind, words) in OWN.items()]
    rows += [
        ("info", "", name, "gauge", "", _labels(each.texts), "1", each.help) for name, each in metrics.info.items()
    ]
    rows += [
        ("field", "", name, each.type, each.value or name, _labels(each.texts), f"{each.scale:g}", each.help)
        for name, each in metrics.fields.items()
    ]
    rows += [
        ("line", each.line, name, each.type, each.value or name, _labels(each.texts), f"{each.scale:g}", each.help)
        for name, each in metrics.lines.items()
    ]
    rows += [
        ("section", each.section, name, each.type, "", each.label, "1", each.help)
        for name, each in metrics.sections.items()
    ]
    return "".join("\t".join(row) + "\n" for row in rows)


def monitoring(product: Product, metrics: Metrics) -> dict[str, bytes]:
    """Return the files of monitoring/, by name: alert rules, a test of them, and a dashboard."""
    start = prefix(product, metrics)
    return {
        f"{product.name}-alerts.yml": alerts(product.name, start, metrics.watch).encode(),
        f"{product.name}-alerts-test.yml": alerts_test(product.name, start, metrics.watch).encode(),
        f"{product.name}-dashboard.json": dashboard(product.name, start, metrics).encode(),
    }


def rendered(product: Product, metrics: Metrics) -> dict[str, bytes]:
    """Return what all packages have for metrics, by path below their top folder, beside `units`."""
    contents = {
        SCRIPT: (ASSETS / "metrics.sh").read_bytes(),
        TABLE: table(product, metrics).encode(),
    }
    contents |= {f"monitoring/{name}": text for name, text in monitoring(product, metrics).items()}
    return contents


UNITS = {kind: ASSETS / f"metrics.{kind}" for kind in ("service", "timer")}


def units(product: Product, words: Mapping[str, str]) -> dict[str, bytes]:
    """Return the units for metrics, by path below a package's top folder.

    Args:
        product: what is packed.
        words: of templates; `PRODUCT` at least.
    """
    return {
        f"systemd/{product.name}-metrics.{kind}": filled(template, words).encode() for kind, template in UNITS.items()
    }


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{label}={source}" for label, source in labels.items())
