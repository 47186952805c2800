"""Resources of workers, and what nodes ask for."""

from __future__ import annotations

import pytest

from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine, model_of
from pikaforge.farm.resources import FarmSeen, machine_has, natively, summary
from pikaforge.plan.budget import Demand

XEON = microarch.kernel_flags("cascadelake")


def test_a_machine_runs_its_own_microarchitecture_and_lower_ones() -> None:
    found = natively(XEON)
    assert {"x86_64", "x86_64_v3", "sandybridge", "haswell", "skylake_avx512", "cascadelake"} <= set(found)
    assert not {"icelake", "sapphirerapids", "zen4"} & set(found)


def test_what_a_machine_has() -> None:
    has = machine_has(cores=8, memory=16 << 30, flags=XEON)
    assert (has["engine"], has["cores"], has["memory"], has["cpu:skylake_avx512"]) == (8, 8, 16 << 30, 8)
    assert "cpu:icelake" not in has


def test_an_engine_whose_cpu_is_not_known_promises_none() -> None:
    assert machine_has(cores=8, memory=1, flags=None) == {"engine": 8, "cores": 8, "memory": 1}


def test_workers_without_an_engine_do_not_count() -> None:
    seen = FarmSeen.of([{"cores": 64.0}, {}, {"engine": 2.0, "cores": 2.0, "memory": 4e9, "cpu:haswell": 2.0}])
    assert (seen.cores, seen.memory, seen.targets) == ((2,), (4_000_000_000,), frozenset({"haswell"}))


@pytest.mark.parametrize("bad", ["x", None, -1, float("nan"), float("inf"), [], 1e300])
def test_what_workers_say_is_not_trusted(bad: object) -> None:
    seen = FarmSeen.of([{"engine": 1.0, "cores": bad, "memory": bad, "cpu:../x": 1.0, "cpu:haswell": bad}])
    assert (seen.cores, seen.memory, seen.targets) == ((1,), (0,), frozenset())
    assert FarmSeen.of([{"engine": bad}]) == FarmSeen()


def test_a_compilation_fits_on_the_smallest_worker_unless_jobs_say_otherwise() -> None:
    seen = FarmSeen(cores=(16, 4, 64), memory=(32 << 30, 4 << 30, 128 << 30))
    assert (seen.jobs(0), seen.jobs(32), FarmSeen().jobs(0)) == (4, 32, 2)
    demand = Demand(cores=1, memory=1 << 29, elastic=True)
    assert seen.asked(demand, jobs=4) == {"engine": 1, "cores": 4, "memory": 2 << 30}
    assert seen.asked(demand, jobs=32)["memory"] == 4 << 30, "no more than the smallest has"


def test_a_cpu_is_asked_for_only_where_one_is() -> None:
    seen = FarmSeen(cores=(4,), memory=(1 << 30,), targets=frozenset({"haswell"}))
    assert seen.asked(Demand(), jobs=4, target="haswell")["cpu:haswell"] == 1
    assert set(seen.asked(Demand(), jobs=4, target="icelake")) == {"engine", "cores", "memory"}


def test_for_people() -> None:
    assert summary(FarmSeen()) == "no worker with an engine yet"
    seen = FarmSeen(cores=(4, 8), memory=(1, 1), targets=frozenset({"haswell", "cascadelake"}))
    assert summary(seen) == "2 workers, 12 cores, CPUs up to cascadelake"


def test_a_target_that_another_machine_runs_needs_no_twin() -> None:
    here = Machine(flags=frozenset(), emulates=True)
    assert not here.runs("skylake_avx512")
    assert Machine(flags=frozenset(), others=frozenset({"skylake_avx512"})).runs("skylake_avx512")


def test_the_name_of_a_cpu() -> None:
    line = f"model name\t: Intel(R) Xeon(R)   Gold 6248 CPU @ 2.50GHz\nflags\t: {' '.join(sorted(XEON))}\n"
    assert model_of(line * 2) == "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz (cascadelake)"
    assert model_of("") == ""
    assert model_of("flags : lm\n") == "(x86_64)"
