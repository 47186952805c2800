"""The engine is killed and started again under a build, and disks are full at every stage. See docs/survival.md.

The engine is the test's own: one that is killed, or whose disk is full, may be stuck.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import thorough
from own_engine import fill, small_disk
from survival import TRACE, Survivor, digests, seed_of

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("survival"), pytest.mark.long(200)]

WHOLE = thorough.whole("survival")
KILLS = 12 if WHOLE else 1
STAGES = ("source", "compile", "audit", "smoke", "package")
IN_CONTAINERS = ("source", "compile", "smoke", "package")
"""Stages that write to the engine's disk."""
PAGE, MIB = 4096, 1 << 20


@pytest.fixture
def chance() -> random.Random:
    return seed_of("engine")


def test_an_engine_that_is_killed_and_started_again(survivor: Survivor, chance: random.Random) -> None:
    """The run ends with the engine's name, and the next one removes what is left, and goes on."""
    island = survivor.island
    assert island is not None
    survivor.begin_anew()
    hits, ends, named, spent = 0, 0, 0, 0.0
    while hits < KILLS:
        run = survivor.start()
        moment = chance.uniform(0.2 * survivor.seconds, max(survivor.seconds - spent, 0.3 * survivor.seconds))
        hit = run.lasts(moment)
        if hit:
            island.engine.kill()
            island.engine.start()
            hits += 1
            spent += moment / 2
        status = run.finish()
        case = f"after {moment:.2f} s: status {status}\n{run.text}"
        print(case.partition("\n")[0], flush=True)
        assert TRACE not in run.text, case
        assert status in (0, 3, 4), case
        named += "the container engine" in run.text
        if status == 0:
            ends, spent = ends + 1, 0.0
            assert digests(survivor.project.dist) == survivor.bytes, case
            survivor.begin_anew()
    status, text = survivor.run()
    assert status == 0, text
    survivor.as_ever(text)
    print(f"engine: {hits} kills with a new start, {named} named in the run's error, {ends + 1} ends, all alike")


@pytest.fixture
def small_out(survivor: Survivor) -> Iterator[Path]:
    """out/ on a disk that can be filled."""
    project = survivor.project
    large = project.out
    with small_disk("96m") as disk:
        shutil.copytree(large, disk / "out")
        project.out = disk / "out"
        try:
            yield disk
        finally:
            project.out = large


def turns(survivor: Survivor, stages: tuple[str, ...]) -> Iterator[str]:
    """The stages, after all results are there; those of the stage and of later ones are forgotten."""
    status, text = survivor.run()
    assert status == 0, text
    for stage in thorough.one_of("survival", stages):
        survivor.forget(*STAGES[STAGES.index(stage) :])
        yield stage


def full_and_then_not(survivor: Survivor, disk: Path, room: int, said: str) -> bool:
    """A run with little room, and one with enough; whether the first one has failed."""
    filler = fill(disk, leave=room)
    status, text = survivor.run()
    filler.unlink()
    assert TRACE not in text, text
    assert status in (0, 3), text
    if status:
        assert said in text, text
        assert [path for path in survivor.left() if "/.git/" not in path] == [], text
    again, text = survivor.run()
    assert again == 0, text
    survivor.as_ever(text)
    return status != 0


def test_out_is_full_at_every_stage(survivor: Survivor, small_out: Path, chance: random.Random) -> None:
    failed = []
    for stage in turns(survivor, STAGES):
        for room in (0, chance.randrange(1, 16) * PAGE):
            survivor.forget(*STAGES[STAGES.index(stage) :])
            case = full_and_then_not(survivor, small_out, room, f"no space left in {small_out}/out")
            failed.append((stage, room, case))
            print(f"{stage}, {room} bytes of room: {'failed' if case else 'passed'}, then whole", flush=True)
            assert case or room, f"{stage} needs no room?"
    print(f"disk of out/: {failed}")


def test_the_engines_disk_is_full_at_every_stage(
    survivor: Survivor, chance: random.Random, until: Callable[..., None]
) -> None:
    island = survivor.island
    assert island is not None
    failed = []
    for stage in turns(survivor, IN_CONTAINERS):
        for room in (0, chance.randrange(1, 64) * PAGE):
            survivor.forget(*STAGES[STAGES.index(stage) :])
            case = full_and_then_not(survivor, island.engine.folder, room, "no space left")
            failed.append((stage, room, case))
            print(f"{stage}, {room} bytes of room: {'failed' if case else 'passed'}, then whole", flush=True)
            assert case or room, f"{stage} needs no room?"
    print(f"disk of the engine: {failed}")


def test_dist_and_the_folder_for_temporary_files_are_full(survivor: Survivor) -> None:
    project, dist = survivor.project, survivor.project.dist
    status, text = survivor.run()
    assert status == 0, text
    with small_disk("16m") as disk:
        project.dist = disk / "dist"
        try:
            for room in (0, PAGE, 4 * PAGE, 10 * PAGE):
                survivor.forget()
                assert full_and_then_not(survivor, disk, room, f"no space left in {disk}/dist"), room
        finally:
            project.dist = dist
    print("disk of dist/: 4 of 4 failed, and went on")
