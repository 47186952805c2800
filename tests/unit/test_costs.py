"""What the tests themselves cost, and the order in which workers get them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import costs
import pytest
import schedule


def test_the_dearest_come_first_and_the_sum_has_all() -> None:
    found = costs.new_costs()
    found["a"].update({"pytest": 1.0, "programs": 2.0, "containers": 3.0, "starts": 7.0, "wall": 9.0, "tests": 4.0})
    found["b"].update({"pytest": 40.0, "wall": 50.0, "tests": 1.0})
    found["c"].update({"programs": 0.4})
    head, *rows = (line.split() for line in costs.table(found, 2))
    assert head == ["total", "pytest", "programs", "containers", "starts", "wall", "tests", "module"]
    assert rows == [
        ["40", "40", "0", "0", "0", "50", "1", "b"],
        ["6", "1", "2", "3", "7", "9", "4", "a"],
        ["46", "41", "2", "3", "7", "59", "5", "all", "3"],
    ]


@pytest.mark.parametrize(
    ("name", "text"), [("cpuacct.usage", "2500000000\n"), ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n")]
)
def test_both_versions_of_control_groups_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="ascii")
    assert costs.seconds_in(tmp_path / name) == 2.5


def test_time_that_is_used_is_seen() -> None:
    before = costs.used()
    while costs.used()["pytest"] == before["pytest"]:
        pass
    assert costs.used()["wall"] > before["wall"]


def item(nodeid: str, **marks: Any) -> Any:
    """A test with marks: `long=5`, `xdist_group="x"`, `serial=None`."""

    def closest(name: str) -> SimpleNamespace | None:
        return SimpleNamespace(args=(marks[name],)) if name in marks else None

    return SimpleNamespace(nodeid=nodeid, path=Path(nodeid.partition("::")[0]), get_closest_marker=closest)


def arranged(*items: Any, engine: Mapping[str, bool]) -> list[str]:
    """Names in the order in which they are handed out."""
    found = list(items)
    schedule.arrange(found, lambda test: engine.get(test.nodeid.partition("::")[2], False))
    return [test.nodeid.partition("::")[2] for test in found]


def test_the_longest_groups_begin_and_short_units_fill_the_end() -> None:
    order = arranged(
        item("tests/unit/test_a.py::unit"),
        item("tests/guest/test_b.py::guest"),
        item("tests/integration/test_c.py::alone", serial=None),
        item("tests/integration/test_c.py::engine"),
        item("tests/integration/test_c.py::plain"),
        item("tests/integration/test_d.py::short", long=5, xdist_group="d"),
        item("tests/integration/test_e.py::longest", long=50, xdist_group="e"),
        engine={"alone": True, "engine": True},
    )
    assert order == ["longest", "short", "engine", "alone", "plain", "guest", "unit"]


def test_the_known_cost_of_a_part_counts_for_a_group_without_a_mark() -> None:
    order = arranged(
        item("tests/integration/test_a.py::marked", long=5, xdist_group="a"),
        item("tests/integration/test_twins.py::alone"),
        item("tests/integration/test_podman.py::group", xdist_group="podman"),
        engine={},
    )
    assert order == ["group", "marked", "alone"]


def test_a_group_stays_as_it_is() -> None:
    """Whatever of it is marked, and needs an engine."""
    names = ["first", "second", "third"]
    marks: list[dict[str, Any]] = [{}, {"long": 9}, {}]
    group = [item(f"tests/integration/test_a.py::{n}", xdist_group="a", **m) for n, m in zip(names, marks, strict=True)]
    between = item("tests/integration/test_b.py::other")
    order = arranged(group[0], between, *group[1:], engine={"third": True})
    assert [name for name in order if name != "other"] == names
    assert order[-1] == "other"
