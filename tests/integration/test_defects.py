"""Each planted defect of the sample is found by just the check that stands for its pull request.

Each combination of defects is another source, and so compiled without a cache. Defects that are alone take turns by
commit, with other builds of the sample; all together they are in every run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from integration.builds import SampleBuild
from thorough import builds, one_of, whole

if TYPE_CHECKING:
    from conftest import Project

pytestmark = [pytest.mark.engine, pytest.mark.long(50)]

FOUND_BY = {988: "keyspace", 990: "zset-negative", 1017: "pipeline", 1041: "stop"}
"""The pull request that is left out, and the check that then fails."""


def impatient(matrix: dict[str, Any]) -> None:
    """A state that is never reached is waited for briefly."""
    for check in matrix["product"]["smoke"]:
        for step in check["steps"]:
            if "within" in step:
                step["within"] = 2


def few_checks(matrix: dict[str, Any]) -> None:
    """Those that stand for a pull request, and some others."""
    wanted = {*FOUND_BY.values(), "ping", "string", "zset", "info"}
    matrix["product"]["smoke"] = [check for check in matrix["product"]["smoke"] if check["check"] in wanted]


@pytest.fixture
def judged(ready: Project) -> Callable[..., Any]:
    """Build the sample with some of its pull requests."""

    def build(*pulls: int) -> Any:
        ready.change(impatient)
        ready.series(*({**ready.pull(number), "enabled": number in pulls} for number in FOUND_BY))
        return ready.build("R620")

    return build


@pytest.mark.thorough(builds("defect") or whole("defects"))
@pytest.mark.parametrize("pull", one_of("defects", FOUND_BY))
def test_defect_is_found(pull: int, judged: Callable[..., Any], ready: Project) -> None:
    ready.change(few_checks)  # that no other one fails with all four defects is tested below
    done = judged(*(number for number in FOUND_BY if number != pull))
    assert done.returncode == 4, done.text
    # Of all checks only this one: the message lists every one that failed.
    said = re.search(r"^error: 1 of (\d+) smoke checks failed: (\S+)$", done.stdout, re.MULTILINE)
    assert said is not None, done.text
    assert said.group(2) == FOUND_BY[pull]
    assert int(said.group(1)) > len(FOUND_BY)
    (reason,) = done.lines(r"^  reason: check ")
    assert reason.startswith(f"  reason: check {FOUND_BY[pull]}: ")
    exchange = {
        988: "sent INFO STATS; wanted a match of 'is_scaning_keyspace:No' within 2 s; got",
        990: "wanted ['minus-ten', 'minus-two', 'one']; got ['minus-two', 'minus-ten', 'one']",
        1017: "sent SET forge:p 1 | GET forge:p | PING; wanted ['OK', '1', 'PONG']; got no reply",
        1041: "sent SIGTERM; wanted exit status 0; exit status 15",
    }
    assert exchange[pull] in reason
    assert "package  R620-debian12-none not run: it needs smoke:debian12-sandybridge-none" in done.stdout
    assert not ready.package().exists()
    # A verdict of no is not stored: the next run judges anew.
    assert ready.stored("smoke") == {}
    assert len(ready.stored("compile")) == 1


def test_all_defects_are_found_at_once(judged: Callable[..., Any]) -> None:
    done = judged()
    assert done.returncode == 4, done.text
    said = re.search(r"^error: (\d+) of \d+ smoke checks failed: (.+)$", done.stdout, re.MULTILINE)
    assert said is not None, done.text
    assert set(said.group(2).split(", ")) == set(FOUND_BY.values())


def test_without_defects_every_check_passes(sample_build: Callable[..., SampleBuild]) -> None:
    """That they pass with the patience of `impatient`, too, is seen above: only one check fails with one defect."""
    build = sample_build("R620")
    (key,) = build.keys["smoke"]
    checks = {check["name"]: check["passed"] for check in build.project.stored("smoke")[key]["facts"]["checks"]}
    assert set(FOUND_BY.values()) <= set(checks)
    assert all(checks.values())
