"""Alert rules about the metrics of instances, with a test of them for promtool."""

from __future__ import annotations

import re
from pathlib import Path

from pikaforge.config.operate_metrics import Watch
from pikaforge.host.text import filled

ASSETS = Path(__file__).resolve().parent / "assets"
MISSING = re.compile(r"@[A-Z]+@")


def alerts(product: str, prefix: str, watch: Watch) -> str:
    """Return the rules, for Prometheus' `rule_files`."""
    return _without_missing(filled(ASSETS / "alerts.yml", _words(product, prefix, watch)))


def alerts_test(product: str, prefix: str, watch: Watch) -> str:
    """Return the test of the rules, for `promtool test rules`."""
    return _without_missing(filled(ASSETS / "alerts-test.yml", _words(product, prefix, watch)))


def _words(product: str, prefix: str, watch: Watch) -> dict[str, str]:
    words = {
        "PRODUCT": product,
        "PREFIX": prefix,
        "TITLE": "".join(part.capitalize() for part in re.split("[^A-Za-z0-9]", product)),
        "LINK": watch.link,
        "LAG": watch.lag,
        "LIMIT": f"{watch.lag_limit:.0f}",
        "MORE": f"{watch.lag_limit * 2:.0f}",
    }
    return words if watch.fatal is None else {**words, "FATAL": watch.fatal}


def _without_missing(text: str) -> str:
    """Leave out the blocks about what the product does not have; blank lines separate blocks."""
    return "\n\n".join(block for block in text.rstrip("\n").split("\n\n") if not MISSING.search(block)) + "\n"
