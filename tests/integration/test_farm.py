"""A farm: nodes on workers of a Dask cluster, which are killed, stopped and cut off."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.farms import Containers, Farm, farm
from own_engine import OwnEngine, own_engine

if TYPE_CHECKING:
    from conftest import Engine, Project
    from integration.conftest import Warm

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("farm"), pytest.mark.long(240)]
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
        until(lambda: client.over or len(there.now("compile")) == 3, "three workers compile", timeout=400)
        seen = [str(each.id) for each in there.now("compile")]
        workers[0].kill()
        workers[1].signal(signal.SIGSTOP)
        until(lambda: sum(not there.gone([each]) for each in seen) == 1, "two compilations are removed", timeout=120)

        def released() -> bool:
            for container in there.now("compile"):
                there.release(container)
            return client.over

        until(released, "the third worker makes all", timeout=600)
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
        until(lambda: client.over or len(there.now("compile")) == 3, "three workers compile", timeout=400)
        seen = [str(each.id) for each in there.now()]
        client.signal(signal.SIGINT)
        assert client.finish().returncode == 130
    assert there.gone(seen)
    with slow.tool.start(*_arguments(slow, cluster), env=cluster.env) as client:
        until(lambda: client.over or len(there.now("compile")) == 3, "three workers compile again", timeout=400)
        there.release(there.now("compile")[0])
        client.wait_for(r"compile +\S+ done", timeout=300)
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

        until(released, "the rest is made", timeout=600)
        done = client.finish()
    assert done.returncode == 0, done.text
    assert len(done.lines(r"compile +\S+ is up to date")) == 1
    assert all(slow.package(model).is_file() for model in MODELS)


@pytest.fixture
def far(engine: Engine, warm: Warm) -> Iterator[OwnEngine]:
    """An engine of the test's own with the images of the finished build, as another host has it."""
    with own_engine("6g") as made:
        records = [json.loads((warm.store / "image" / key / "result.json").read_text()) for key in warm.keys["image"]]
        names = sorted({name for record in records for name in record["facts"]["ids"]})
        api = engine.client.api
        with api.get(f"{api.base_url}/images/get", params={"names": names}, stream=True, timeout=600) as saved:
            saved.raise_for_status()
            import docker

            other: Any = docker.APIClient(base_url=made.address, timeout=600)
            assert not [event for event in other.load_image(saved.iter_content(1 << 20)) if "error" in event]
            other.close()
        yield made


def test_two_engines_are_as_two_hosts(
    slow: Project, cluster: Farm, engine: Engine, far: OwnEngine, until: Callable[..., None]
) -> None:
    """Each compiles; results of one are taken by the other, through the shared store alone."""
    import docker

    def without_server(matrix: dict[str, Any]) -> None:
        probe = {"kind": "command", "argv": ["bin/pika", "-v"], "match": "pika_version"}
        matrix["product"].update(server=None, smoke=[{"check": "version", "steps": [{"probe": probe}]}])

    slow.change(without_server)
    cluster.worker("near")
    cluster.worker("far", env={"DOCKER_HOST": far.address})
    here = Containers(engine, cluster)
    client = docker.DockerClient(base_url=far.address, timeout=120)
    there = Containers(type(engine)(client), cluster)
    with slow.tool.start(*_arguments(slow, cluster), env=cluster.env) as build:
        until(lambda: build.over or (here.now("compile") and there.now("compile")), "both engines compile", timeout=400)

        def released() -> bool:
            for each in (here, there):
                for container in each.now("compile"):
                    each.release(container)
            return build.over

        until(released, "all is made", timeout=600)
        done = build.finish()
    assert done.returncode == 0, done.text
    assert all(slow.package(model).is_file() for model in MODELS)
    logs = [list((cluster.folder / f"{name}-out" / "logs").glob("*/compile.log")) for name in ("near", "far")]
    assert all(logs), "both have compiled"
    assert client.containers.list(all=True) == []
    client.close()
