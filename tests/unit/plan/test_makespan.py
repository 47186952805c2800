"""Builds of the whole matrix on many workers, simulated from recorded times: near the shortest possible time."""

from __future__ import annotations

import sys

import pytest
from unit.helpers import ROOT

sys.path.append(str(ROOT))

from benchmarks import makespan

from pikaforge.plan.plan import Plan


@pytest.fixture(scope="module")
def whole() -> Plan:
    return makespan.whole_matrix()


@pytest.mark.parametrize("name", ["redis", "sample"])
def test_up_to_64_workers_are_hardly_ever_idle(name: str, whole: Plan) -> None:
    times = makespan.Times.read(makespan.TIMES.with_name(f"times-{name}.json"))
    found = {each.workers: each for each in makespan.makespans(whole, times, seeds=2, workers=(1, 8, 64, 256))}
    assert found[1].share == pytest.approx(1.0)
    assert all(found[workers].share >= makespan.WANTED for workers in (8, 64))
    assert found[256].seconds < found[64].seconds < found[8].seconds / 4, "more workers are quicker"
    assert all(each.share <= 1.0 + 1e-9 and each.least >= each.way for each in found.values())
