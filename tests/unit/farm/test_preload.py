"""What a worker loads: its machine's resources, and the plugin that knows which tasks are wanted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed")

from pikaforge.cpu import microarch
from pikaforge.errors import EngineError
from pikaforge.farm import preload, task
from pikaforge.farm.task import Wishes
from pikaforge.host.docker import DockerEngine


def _worker(**given: float) -> Any:
    """A worker with resources of its command line."""
    plugins: dict[str, object] = {}

    async def plugin_add(*, plugin: object, name: str) -> None:
        plugins[name] = plugin

    state = SimpleNamespace(total_resources=dict(given), available_resources=dict(given))
    return SimpleNamespace(state=state, plugin_add=plugin_add, plugins=plugins)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DockerEngine, "verify", lambda _: None)
    monkeypatch.setattr(DockerEngine, "cores", lambda _: 8)
    monkeypatch.setattr(DockerEngine, "memory", lambda _: 16 << 30)
    monkeypatch.setattr(DockerEngine, "known_cpu_flags", lambda _: microarch.kernel_flags("skylake_avx512"))


def test_it_says_what_the_machine_has() -> None:
    worker = _worker()
    asyncio.run(preload.dask_setup(worker))
    has = worker.state.total_resources
    assert (has["engine"], has["cores"], has["memory"], has["cpu:skylake_avx512"]) == (8, 8, 16 << 30, 8)
    assert "cpu:icelake" not in has
    assert worker.state.available_resources == has


def test_the_command_line_comes_before_it() -> None:
    worker = _worker(cores=2.0)
    asyncio.run(preload.dask_setup(worker))
    assert (worker.state.total_resources["cores"], worker.state.available_resources["cores"]) == (2, 2)


def test_a_machine_without_an_engine_gets_no_nodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: DockerEngine) -> None:
        raise EngineError("no engine answers", hint="start it")

    monkeypatch.setattr(DockerEngine, "verify", refuse)
    worker = _worker()
    asyncio.run(preload.dask_setup(worker))
    assert worker.state.total_resources == {}
    assert "no engine answers" in caplog.text


def test_the_plugin_says_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = Wishes()
    monkeypatch.setattr(preload, "WISHES", wishes)
    worker = _worker()
    asyncio.run(preload.dask_setup(worker))
    plugin = worker.plugins["pikaforge"]
    event = wishes.begin("compile-1")
    plugin.transition("compile-1", "ready", "executing", stimulus_id="x")
    assert not event.is_set()
    plugin.transition("compile-1", "executing", "cancelled", stimulus_id="x")
    assert event.is_set()
    plugin.transition("compile-1", "cancelled", "executing", stimulus_id="x")
    plugin.teardown(worker)
    assert event.is_set()


def test_the_cluster_knows_the_function_by_its_name() -> None:
    """Dask then sends a name, and no code."""
    import pickle

    from distributed.protocol.pickle import dumps

    assert dumps(task.run) == pickle.dumps(task.run, protocol=5)
