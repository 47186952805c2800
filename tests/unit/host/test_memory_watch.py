"""What an engine says of a container's memory."""

from __future__ import annotations

from typing import Any

import pytest

from pikaforge.errors import HostError
from pikaforge.host.confinement import Abilities, Bounds, explained
from pikaforge.host.job import JobResult
from pikaforge.host.memory_watch import PeakMemory
from pikaforge.host.workspace import UsedMemory

CGROUP_1 = {
    "memory_stats": {"usage": 900, "max_usage": 5000, "stats": {"total_inactive_file": 300, "inactive_file": 1}}
}
CGROUP_2 = {"memory_stats": {"usage": 800, "stats": {"anon": 100, "inactive_file": 300}}}
PODMAN = {"memory_stats": {"usage": 450, "limit": 7000}}


@pytest.mark.parametrize(
    ("samples", "peak"),
    [
        ([CGROUP_1], 600),
        ([CGROUP_2], 500),
        ([PODMAN], 450),
        ([CGROUP_2, CGROUP_1, PODMAN], 600),
        ([{"memory_stats": {}}], 0),
        ([{}], 0),
    ],
)
def test_files_that_the_kernel_keeps_do_not_count(samples: list[dict[str, Any]], peak: int) -> None:
    found = PeakMemory()
    for sample in samples:
        found.note(sample)
    assert found.bytes == peak


def test_what_is_no_sample_is_an_error() -> None:
    with pytest.raises(HostError):
        PeakMemory().note({"memory_stats": {"usage": "much"}})


def test_a_job_that_was_killed_has_used_its_limit() -> None:
    found = explained(
        Bounds(memory=1 << 30), Abilities(), JobResult(status=137, memory=5000), killed=True, tail=["Killed"]
    )
    assert (found.memory, found.out_of_memory) == (1 << 30, True)
    assert "limits.memory_mib" in found.exceeded
    other = explained(Bounds(memory=1 << 30), Abilities(), JobResult(status=1, memory=5000), killed=False, tail=["no"])
    assert other == JobResult(status=1, memory=5000)


def test_the_largest_job_of_a_node_counts() -> None:
    used = UsedMemory()
    for result in (
        JobResult(status=0, memory=7),
        JobResult(status=137, memory=9, out_of_memory=True),
        JobResult(status=0),
    ):
        used.note(result)
    assert (used.bytes, used.out) == (9, True)
