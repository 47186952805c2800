"""The parts of `product.server.operate`: what is refused, and which tables they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pikaforge.config import load
from pikaforge.config.operate import Operate
from pikaforge.config.operate_logs import Logs
from pikaforge.config.operate_memory import Memory, Term
from pikaforge.config.operate_snapshot import Snapshot
from pikaforge.config.operate_status import CheckLimit, Status
from pikaforge.operate import tables

ROOT = Path(__file__).resolve().parents[3]
TERM: dict[str, Any] = {"name": "cache", "key": "cache", "value": "8M", "share": 1, "why": "blocks"}
RESERVE: dict[str, Any] = {"percent": 10, "why": "fragments"}


def parse(model: type[Any], **values: Any) -> Any:
    """A model of what YAML gives: lists for tuples."""
    return model.model_validate(values, strict=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"value": "8MB"},
        {"value": "-8M"},
        {"value": "8M\n"},
        {"value": "1" * 16},
        {"name": "Cache\t"},
        {"name": "a'b"},
        {"key": None},
        {"step": "0"},
        {"step": "0M"},
        {"why": "it's"},
        {"why": "a\tb"},
        {"unbounded": "x"},
        {"times": [{"value": "x"}]},
        {"times": [{"value": "1", "when": "a==b"}]},
        {"times": [{"value": "1", "when": "a=b c"}]},
        {"share": -1},
        {"unknown": 1},
    ],
)
def test_terms_that_no_script_could_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(Term, **{**TERM, **changes})


def test_a_plan_needs_something_to_plan() -> None:
    for terms in ([TERM, TERM], [TERM, {**TERM, "name": "other"}], [{**TERM, "share": 0}], []):
        with pytest.raises(ValidationError):
            parse(Memory, terms=terms, reserve=RESERVE)
    with pytest.raises(ValidationError):
        parse(Memory, terms=[TERM], reserve={**RESERVE, "percent": 91})
    rows = list(
        parse(Memory, terms=[TERM], reserve=RESERVE, settings={"shared": "yes"}, statistics=[["STATS", "X"]]).rows()
    )
    assert rows == [
        ("reserve", "10", "0", "fragments"),
        ("set", "shared", "yes"),
        ("term", "cache", "cache", "8M", "1", "0", "-", "1", "-", "-", "blocks"),
        ("ask", "STATS X"),
    ]


LOGS = {"folder": "log-path", "prefix": "demo.", "files": "demo.*.log.*", "links": ["demo.INFO"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix": "demo"},
        {"prefix": "."},
        {"prefix": "a/b."},
        {"prefix": "*."},
        {"files": "../x"},
        {"files": "*"},
        {"files": "other.*"},
        {"links": ["other.INFO"]},
        {"files": "a b"},
        {"files": "$(id)"},
        {"links": ["../x"]},
        {"days": 0},
        {"folder": "log path"},
    ],
)
def test_log_files_that_could_be_others(changes: dict[str, Any]) -> None:
    assert list(parse(Logs, **LOGS).rows()) == [("logs", "log-path", "demo.", "demo.*.log.*", "demo.INFO", "7")]
    with pytest.raises(ValidationError):
        parse(Logs, **{**LOGS, **changes})


SNAPSHOT: dict[str, Any] = {
    "busy": {"key": "saving", "value": "1"},
    "path": "{dir}/{file}",
    "into": "{dir}/{file}",
    "count": {"read": ["INFO"], "keys": "^keys$", "expires": "^expires$"},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"take": []},
        {"take": ["BGSAVE; id"]},
        {"take": ["a b"]},
        {"path": "{dir}/$(id)"},
        {"path": "a b"},
        {"complete": "../x"},
        {"complete": "/x"},
        {"data": "part"},
        {"leave": ["part"]},
        {"keep": 0},
        {"within": 0},
        {"count": {"read": ["INFO"], "keys": "keys/", "expires": "x"}},
        {"busy": {"key": "saving", "value": ""}},
        {"aside": ["$HOME"]},
    ],
)
def test_snapshots_that_no_script_could_handle(changes: dict[str, Any]) -> None:
    assert ("path", "{dir}/{file}") in list(parse(Snapshot, **SNAPSHOT).rows())
    with pytest.raises(ValidationError):
        parse(Snapshot, **{**SNAPSHOT, **changes})


def test_limits_are_in_order() -> None:
    for warning, critical in ((2, 1), (-1, 0), (0, 10**13)):
        with pytest.raises(ValidationError):
            CheckLimit(warning=warning, critical=critical)
    rows = list(Status(version="v", lag_unit="bytes").rows())
    assert ("limit", "disk", "80", "90") in rows
    assert ("limit", "lag", "0", "0") in rows
    assert not [row for row in rows if row[0] == "info" and row[1] == "replica_lag"]


def test_tables_are_those_of_the_parts_that_there_are() -> None:
    assert tables.of_parts(Operate()) == {}
    server = load.load(ROOT / "matrix.yaml").product.server
    assert server is not None
    assert server.operate is not None
    found = tables.of_parts(server.operate)
    assert sorted(found) == [f"utils/operate/{name}.tsv" for name in ("logs", "memory", "snapshot", "status")]
    for content in found.values():
        rows = content.decode("ascii").splitlines()
        assert rows
        # Two tabs would be one for the shell.
        assert not [row for row in rows if "\t\t" in row or row.endswith("\t")]
