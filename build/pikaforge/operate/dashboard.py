"""A dashboard for Grafana about the metrics of instances."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count

from pikaforge.config.operate_metrics import Metrics

WIDTH, HEIGHT, COLUMNS = 8, 8, 24
"""Of a panel, and of Grafana's grid."""
SELECTED = 'instance=~"$instance", alias=~"$alias"'
WHOSE = "{{instance}} {{alias}}"
RATE = "5m"
"""The range of rates: several scrapes, whatever interval Prometheus has."""

SHARED: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = (
    ("Instances that answer", "short", (("{p}_up{{{s}}}", WHOSE),)),
    ("Resident memory and budget", "bytes", (
        ("{p}_process_resident_memory_bytes{{{s}}}", f"{WHOSE} resident"),
        ("{p}_memory_budget_bytes{{{s}}}", f"{WHOSE} budget"),
    )),
    ("Free disk", "percentunit", (
        ("{p}_filesystem_avail_bytes{{{s}}} / {p}_filesystem_size_bytes{{{s}}}", WHOSE),
    )),
    ("Open files of the limit", "percentunit", (
        ("{p}_process_open_fds{{{s}}} / {p}_process_max_fds{{{s}}}", WHOSE),
    )),
    ("Age of the newest backup", "s", (("time() - {p}_last_snapshot_timestamp_seconds{{{s}}}", WHOSE),)),
    ("Time to answer", "s", (("{p}_scrape_duration_seconds{{{s}}}", WHOSE),)),
)  # fmt: skip
"""Panels that every product has: title, unit, queries with legends."""


def dashboard(product: str, prefix: str, metrics: Metrics) -> str:
    """Return the dashboard as JSON that Grafana imports; it asks for the data source."""
    panels = [
        (title, unit, tuple((text.format(p=prefix, s=SELECTED), legend) for text, legend in queries))
        for title, unit, queries in SHARED
    ]
    panels += [(title, "short", tuple(queries)) for title, queries in _own(prefix, metrics).items()]
    numbers = count(1)
    shown = [_table(prefix, next(numbers)), *(_graph(*panel, next(numbers)) for panel in panels)]
    for place, panel in enumerate(shown[1:]):
        row, column = divmod(place, COLUMNS // WIDTH)
        panel["gridPos"] = {"x": column * WIDTH, "y": HEIGHT * (row + 1), "w": WIDTH, "h": HEIGHT}
    content = {
        "title": f"{product} instances",
        "uid": f"{prefix}-instances",
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "tags": [product],
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            _variable("instance", f"label_values({prefix}_up, instance)"),
            _variable("alias", f'label_values({prefix}_up{{instance=~"$instance"}}, alias)'),
        ]},
        "panels": shown,
    }  # fmt: skip
    return json.dumps(content, indent=2, ensure_ascii=True) + "\n"


def queries(text: str) -> tuple[str, ...]:
    """Return all queries of a dashboard."""
    content = json.loads(text)
    found = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    found += [each["query"] for each in content["templating"]["list"] if each["type"] == "query"]
    return tuple(found)


def _own(prefix: str, metrics: Metrics) -> dict[str, list[tuple[str, str]]]:
    """Return queries and legends of what the product's entry shows, by panel."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part in (metrics.fields, metrics.lines):
        for name, each in part.items():
            if each.panel is not None:
                more = " ".join(f"{{{{{label}}}}}" for label in each.texts)
                legend = f"{WHOSE} {name} {more}".rstrip()
                found.setdefault(each.panel, []).append((_query(f"{prefix}_{name}", each.type), legend))
    for name, section in metrics.sections.items():
        if section.panel is not None:
            query = f"topk(10, {_query(f'{prefix}_{name}', section.type)})"
            found.setdefault(section.panel, []).append((query, f"{WHOSE} {{{{{section.label}}}}}"))
    return found


def _query(metric: str, kind: str) -> str:
    return f"rate({metric}{{{SELECTED}}}[{RATE}])" if kind == "counter" else f"{metric}{{{SELECTED}}}"


def _graph(title: str, unit: str, targets: Sequence[tuple[str, str]], number: int) -> dict[str, object]:
    return {
        "id": number,
        "title": title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": text, "legendFormat": legend, "datasource": _SOURCE}
            for place, (text, legend) in enumerate(targets)
        ],
    }


def _table(prefix: str, number: int) -> dict[str, object]:
    """Return the list of instances, with their packages."""
    target = {"refId": "A", "expr": f"{prefix}_package_info{{{SELECTED}}}", "format": "table", "instant": True}
    return {
        "id": number,
        "title": "Packages",
        "type": "table",
        "datasource": _SOURCE,
        "gridPos": {"x": 0, "y": 0, "w": COLUMNS, "h": HEIGHT},
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
        "targets": [{**target, "datasource": _SOURCE}],
    }


_SOURCE: Mapping[str, str] = {"type": "prometheus", "uid": "${datasource}"}


def _variable(name: str, query: str) -> dict[str, object]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }
