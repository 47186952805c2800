"""Builds are killed at random moments, with all that they have started, until they come to their end.

At each end the bytes are those of a build that nobody has killed, and nothing is left. See docs/survival.md.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import thorough
from integration.conftest import make_tiny
from integration.farms import Farm, Program, farm
from survival import TRACE, Island, Run, Survivor, digests, kill_tree, processes, seed_of

if TYPE_CHECKING:
    from integration.conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("survival"), pytest.mark.long(300)]

KILLS = 100 if thorough.whole("survival") else 6
VICTIMS = ("all", "client", "container", "worker")
"""The tree of processes with all containers; without them, so that they go on; containers alone; a process alone that
the tool has started."""
FARM_KILLS = 25 if thorough.whole("survival") else 1
LEAST = 2.0
"""Seconds in which a kill comes, where hardly anything is left to be done; the start of the tool is in them."""
DONE = 0.6
"""How much of a killed run the next one need not do again, about; else most kills would come too late."""
LOOK = 0.02
"""Seconds between two looks whether there is something to be killed."""
ENDS = (0, 3, 4)
"""Exit statuses of a client that has lost a container or a process: done, no engine or tool, failed."""


@dataclass(slots=True, kw_only=True)
class Kills:
    """What has happened."""

    survivor: Survivor
    chance: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    """Kills that hit a running build, by victim."""
    spent: float = 0.0
    """Seconds of a whole build that need not be spent again, about."""
    ends: int = 0
    """Builds that came to their end."""

    def strike(self, run: Run, victim: str) -> int:
        """Kill; how many processes and containers were hit. What is not there yet is waited for."""
        island = self.survivor.island
        assert island is not None
        if victim == "container":
            while not (hit := island.kill_containers()) and run.lasts(LOOK):
                pass
            return hit
        if victim == "worker":
            while run.lasts(LOOK):
                workers = [pid for pid in processes(run.mark) if pid != run.pid]
                with suppress(IndexError, ProcessLookupError):
                    os.kill(self.chance.choice(workers), signal.SIGKILL)
                    return 1
            return 0
        hit = kill_tree(run.mark)
        return hit + (island.kill_containers() if victim == "all" else 0)

    def once(self, victim: str) -> None:
        """Run a build that is killed at some moment, if it lasts so long."""
        run, began = self.survivor.start(), time.monotonic()
        moment = self.chance.uniform(0, max(self.survivor.seconds - self.spent, LEAST))
        hit = self.strike(run, victim) if run.lasts(moment) else 0
        if hit:
            self.hits[victim] += 1
        status = run.finish()
        lasted = time.monotonic() - began
        if status == 0 and not self.spent and not hit:
            self.survivor.seconds = (self.survivor.seconds + lasted) / 2  # others may use this machine less now
        self.spent += DONE * lasted
        print(f"{victim} after {moment:.2f} s: {hit} hit, status {status}; {sum(self.hits.values())} kills", flush=True)
        case = f"{victim} after {moment:.2f} s: status {status}\n{run.text}"
        assert TRACE not in run.text, case
        if status == 0:
            self.survivor.as_ever(case)
            self.ends += 1
            self.spent = 0.0
            self.survivor.begin_anew()
        elif victim in ("container", "worker"):
            assert status in ENDS, case
            # The client lives, and clears up itself; what a killed git has locked is freed by the next one.
            assert [path for path in self.survivor.left() if ".git/" not in path] == [], case
            assert not re.search(r"^error: .*: $", run.text, re.MULTILINE), case
        else:
            assert status == -signal.SIGKILL, case


def test_builds_that_are_killed_come_to_the_same_end(survivor: Survivor) -> None:
    kills = Kills(survivor=survivor, chance=seed_of("kills"))
    turn = 0
    while kills.hits.total() < KILLS:
        kills.once(VICTIMS[turn % len(VICTIMS)])
        turn += 1
    status, text = survivor.run()
    assert status == 0, text
    survivor.as_ever(text)
    told = f"{turn} runs, {kills.hits.total()} kills that hit: {dict(kills.hits)}, {kills.ends + 1} ends, all alike"
    print(told)
    assert len(kills.hits) == len(VICTIMS) or not thorough.whole("survival")


@dataclass(slots=True, kw_only=True)
class FarmKills:
    """Builds on a farm of two workers, one of which is killed at some moment; the other one makes the rest."""

    survivor: Survivor
    farm: Farm
    chance: random.Random
    until: Callable[..., None]
    workers: dict[str, Program] = field(default_factory=dict)
    made: int = 0

    def hire(self) -> None:
        """Start workers, so that there are two."""
        assert self.survivor.island is not None
        while len(self.workers) < 2:
            self.made += 1
            name = f"worker-{self.made}"
            env = {**self.survivor.env, "TMPDIR": str(self.survivor.temporary)}
            self.workers[name] = self.farm.worker(name, env=env)

    def forget(self) -> None:
        """Forget all results but images, here, at the workers, and in the shared store."""
        self.survivor.begin_anew()
        stores = [self.farm.folder / f"{name}-out" / "store" for name in self.workers]
        for path in (path for store in stores for path in store.glob("[!.]*") if path.name != "image"):
            shutil.rmtree(path)
        for path in self.farm.store.glob("*"):
            shutil.rmtree(path)

    def once(self) -> bool:
        """Build, and kill a worker meanwhile; whether it was killed before the end."""
        self.hire()
        self.forget()
        run = self.survivor.start(env=self.farm.env)
        moment = self.chance.uniform(0, self.survivor.seconds)
        hit = run.lasts(moment)
        if hit:
            self.workers.pop(self.chance.choice(sorted(self.workers))).kill()
        status = run.finish()
        case = f"a worker of a farm after {moment:.2f} s: {hit}, status {status}\n{run.text}"
        print(case.partition("\n")[0], flush=True)
        assert (status, TRACE in run.text) == (0, False), case
        assert digests(self.survivor.project.dist) == self.survivor.bytes, case
        # What the worker has started ends with it, a moment later than the build may.
        self.until(lambda: self.survivor.left() == [], "nothing is left")
        return hit


def test_a_farms_workers_that_are_killed(
    island: Island, shop: Shop, tmp_path: Path, until: Callable[..., None]
) -> None:
    """The client comes to its end each time, with the same bytes."""
    project = shop.ready(tmp_path / "client")
    make_tiny(project)
    project.change(lambda matrix: matrix["defaults"].update(emulator=None))
    env = {"DOCKER_HOST": island.engine.address}
    with farm(tmp_path / "farm", island.enter) as cluster:
        cluster.images = project.out / "store" / "image"
        words = ("R620", "--no-compiler-cache", "--farm", cluster.address)
        survivor = Survivor(project=project, env={**env, **cluster.env}, island=island, words=words)
        survivor.temporary.mkdir()
        kills = FarmKills(survivor=survivor, farm=cluster, chance=seed_of("farm"), until=until)
        kills.hire()
        survivor.learn()
        turns = hits = 0
        while hits < FARM_KILLS:
            hits += kills.once()
            turns += 1
        print(f"farm: {turns} builds, {hits} of them lost a worker; {turns} ends, all alike")
