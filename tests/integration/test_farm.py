"""A farm: nodes on workers of a Dask cluster, which are killed, stopped and cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.farms import Farm, farm

if TYPE_CHECKING:
    from conftest import Project

pytestmark = [pytest.mark.engine]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Farm]:
    """A scheduler without workers."""
    with farm(tmp_path / "farm") as made:
        yield made


def test_a_farm_makes_the_same_bytes(tiny: Callable[..., Project], cluster: Farm) -> None:
    """Two workers, and a client that reaches no engine."""
    project = tiny()
    for name in ("one", "two"):
        cluster.worker(name)
    env = {**cluster.env, "DOCKER_HOST": "unix:///nonexistent"}
    done = project.build("R620", "--farm", cluster.address, env=env, check=0)
    print(done.text)
    made = project.package().read_bytes()
    project.package().unlink()
    project.build("R620", check=0)
    assert project.package().read_bytes() == made
