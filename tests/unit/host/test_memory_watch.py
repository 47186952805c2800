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


def test_an_engine_may_not_hear_of_what_the_kernel_has_killed() -> None:
    """Its container has ended before containerd reads the notice. So a death by SIGKILL is taken for that."""
    bounds = Bounds(memory=1 << 30)
    found = explained(bounds, Abilities(), JobResult(status=137, memory=5000), killed=False, tail=[])
    assert (found.memory, found.out_of_memory) == (1 << 30, True)
    assert "most likely because it needed more than 1 GiB of memory (limits.memory_mib" in found.exceeded


@pytest.mark.parametrize(
    "result",
    [JobResult(status=137, timed_out=True), JobResult(status=137, exceeded="it printed more than 1 MiB")],
    ids=["too long", "too much"],
)
def test_what_this_tool_has_killed_did_not_lack_memory(result: JobResult) -> None:
    assert explained(Bounds(memory=1 << 30), Abilities(), result, killed=False, tail=["Killed"]) == result


def test_what_has_made_a_job_hang_is_named() -> None:
    result = JobResult(status=137, timed_out=True)
    found = explained(Bounds(processes=9), Abilities(), result, killed=False, tail=["sh: 1: Cannot fork"])
    assert found.exceeded == "it may have had more than 9 processes at once (limits.processes)"
    assert not found.out_of_memory


def test_without_a_limit_of_memory_the_machine_had_none_left() -> None:
    found = explained(
        Bounds(memory=1 << 30), Abilities(limits_memory=False), JobResult(status=137), killed=False, tail=[]
    )
    assert found == JobResult(
        status=137, exceeded="a program of it was killed, most likely because this machine has no memory left"
    )


def test_the_largest_job_of_a_node_counts() -> None:
    used = UsedMemory()
    for result in (
        JobResult(status=0, memory=7),
        JobResult(status=137, memory=9, out_of_memory=True),
        JobResult(status=0),
    ):
        used.note(result)
    assert (used.bytes, used.out) == (9, True)
