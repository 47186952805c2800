"""A farm: nodes on workers of a Dask cluster, which are killed, stopped and cut off."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.farms import Containers, Farm, farm

if TYPE_CHECKING:
    from conftest import Engine, Project

pytestmark = [pytest.mark.engine]
WAITS = "while [ ! -e /forge/go ]; do sleep 0.1; done"
"""Line of a recipe that waits for `Containers.release`."""
MODELS = ("R620", "R630", "R640")
"""Models with three targets."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Farm]:
    """A scheduler without workers."""
    with farm(tmp_path / "farm") as made:
        yield made


@pytest.fixture
def slow(tiny: Callable[..., Project], cluster: Farm) -> Project:
    """A project whose compilations wait to be released. Its workers have the images."""
    return _prepared(tiny(prologue=WAITS), cluster)


def _prepared(project: Project, cluster: Farm) -> Project:
    def natively(matrix: dict[str, Any]) -> None:
        matrix["defaults"]["emulator"] = None

    project.change(natively)
    cluster.images = project.out / "store" / "image"
    return project


def _arguments(project: Project, cluster: Farm) -> list[str]:
    return project.arguments("build", *MODELS, "--farm", cluster.address, "--no-compiler-cache")


def test_a_farm_makes_the_same_bytes(tiny: Callable[..., Project], cluster: Farm, tmp_path: Path) -> None:
    """Two workers, and a client that reaches no engine."""
    project = _prepared(tiny(), cluster)
    for name in ("one", "two"):
        cluster.worker(name)
    env = {**cluster.env, "DOCKER_HOST": "unix:///nonexistent"}
    done = project.build("R620", "--farm", cluster.address, env=env, check=0)
    assert "the farm has 2 workers" in done.text
    made = project.package().read_bytes()
    locally = project.out.rename(tmp_path / "of-the-client")
    project.dist.rename(tmp_path / "dist-of-the-client")
    (project.out / "store").mkdir(parents=True)
    for stage in ("image", "source"):
        (locally / "store" / stage).rename(project.out / "store" / stage)
    assert "package  R620-debian12-none done" in project.build("R620", check=0).text
    assert project.package().read_bytes() == made


def test_nodes_of_workers_that_die_or_are_stuck_are_made_by_others(
    slow: Project, cluster: Farm, engine: Engine, until: Callable[..., None]
) -> None:
    """Of three workers one is killed, and one is stopped, each while it compiles."""
    workers = [cluster.worker(name) for name in ("one", "two", "three")]
    there = Containers(engine, cluster)
    with slow.tool.start(*_arguments(slow, cluster), env=cluster.env) as client:
        until(lambda: client.over or len(there.now("compile")) == 3, "three workers compile", timeout=180)
        seen = [str(each.id) for each in there.now("compile")]
        workers[0].kill()
        workers[1].signal(signal.SIGSTOP)
        until(lambda: sum(not there.gone([each]) for each in seen) == 1, "two compilations are removed", timeout=120)

        def released() -> bool:
            for container in there.now("compile"):
                there.release(container)
            return client.over

        until(released, "the third worker makes all", timeout=300)
        done = client.finish()
    assert done.returncode == 0, done.text
    assert all(slow.package(model).is_file() for model in MODELS)
    assert there.now() == []


def test_what_is_finished_outlives_a_scheduler_and_nothing_else_does(
    slow: Project, cluster: Farm, engine: Engine, until: Callable[..., None]
) -> None:
    """A build is interrupted; the next one loses its scheduler; the last one goes on."""
    first = [cluster.worker(name) for name in ("one", "two", "three")]
    there = Containers(engine, cluster)
    with slow.tool.start(*_arguments(slow, cluster), env=cluster.env) as client:
        until(lambda: client.over or len(there.now("compile")) == 3, "three workers compile", timeout=180)
        seen = [str(each.id) for each in there.now()]
        client.signal(signal.SIGINT)
        assert client.finish().returncode == 130
    assert there.gone(seen)
    with slow.tool.start(*_arguments(slow, cluster), env=cluster.env) as client:
        until(lambda: client.over or len(there.now("compile")) == 3, "three workers compile again", timeout=180)
        there.release(there.now("compile")[0])
        client.wait_for(r"compile +\S+ done", timeout=120)
        seen = [str(each.id) for each in there.now()]
        assert cluster.scheduler is not None
        cluster.scheduler.kill()
        done = client.finish()
    assert done.returncode == 3 and "the scheduler of the farm is gone" in done.text
    until(lambda: there.gone(seen), "the workers remove what they run", timeout=120)
    until(lambda: all(worker.ended for worker in first), "the workers end", timeout=120)
    cluster.start()
    for name in ("one", "two", "three"):
        cluster.worker(name)
    with slow.tool.start(*_arguments(slow, cluster), env=cluster.env) as client:

        def released() -> bool:
            for container in there.now("compile"):
                there.release(container)
            return client.over

        until(released, "the rest is made", timeout=300)
        done = client.finish()
    assert done.returncode == 0, done.text
    assert len(done.lines(r"compile +\S+ is up to date")) == 1
    assert all(slow.package(model).is_file() for model in MODELS)
