"""What a worker knows of its tasks; and the connection to a scheduler."""

from __future__ import annotations

import asyncio
import importlib
import sys

import pytest

from pikaforge.errors import HostError, UnreachableError, UsageError
from pikaforge.farm import cluster, task
from pikaforge.farm.messages import ErrorRecord
from pikaforge.farm.task import Wishes


def test_a_task_is_wanted_until_it_is_cancelled_and_may_be_wanted_again() -> None:
    wishes = Wishes()
    event = wishes.begin("a")
    wishes.moved("a", "executing")
    assert not event.is_set() and wishes.running == ["a"]
    wishes.moved("a", "cancelled")
    assert event.is_set() and wishes.unwanted("a")
    wishes.moved("a", "executing")
    assert not event.is_set()
    wishes.end("a")
    assert wishes.running == [] and not wishes.unwanted("a")
    wishes.moved("a", "cancelled")  # of a task that has ended


def test_nothing_is_wanted_by_a_worker_that_ends() -> None:
    wishes = Wishes()
    before = wishes.begin("a")
    wishes.close()
    after = wishes.begin("b")
    wishes.moved("b", "executing")
    assert before.is_set() and after.is_set()


def test_a_client_waits_for_what_it_has_cancelled_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = Wishes()
    monkeypatch.setattr(task, "WISHES", wishes)
    monkeypatch.setattr(task, "HEARD", 0.0)
    asyncio.run(task.settled(["a"], 10.0))
    wishes.begin("a")
    asyncio.run(task.settled(["a"], 10.0))  # another client wants it
    wishes.moved("a", "cancelled")

    async def both() -> None:
        waiting = asyncio.ensure_future(task.settled(["a"], 60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        wishes.end("a")
        await waiting

    asyncio.run(both())


@pytest.mark.parametrize("address", ["", "host", "host:8786", "http://h:1", "tcp://h", "tcp://h:x", "tcp://h:1/\x1b"])
def test_an_address_has_a_form(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a scheduler"), cluster.connected(address):
        pass


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    missing = "the Python package distributed cannot be imported"
    with pytest.raises(HostError, match=missing) as found, cluster.connected("tcp://127.0.0.1:1"):
        pass
    assert "pip install 'pikaforge[farm]'" in found.value.hint


def test_the_room_does_not_import_the_package() -> None:
    for name in ("cluster", "engine", "messages", "node", "project", "resources", "runner", "task"):
        module = importlib.import_module(f"pikaforge.farm.{name}")
        assert "distributed" not in vars(module)


def test_why_a_task_has_ended() -> None:
    lost = type("E", (Exception,), {"reason": "scheduler-connection-lost"})()
    assert isinstance(cluster.why_ended(lost), UnreachableError)
    unmet = cluster.why_ended(type("NoValidWorkerError", (Exception,), {})("x"))
    assert "no worker of the farm has what the node asks for" in unmet.message
    assert type(cluster.why_ended(ValueError("x\x1by"))) is HostError
    assert "\x1b" not in cluster.why_ended(ValueError("x\x1by")).message


@pytest.mark.parametrize(("kind", "status"), [("HostError", 3), ("Nonsense", 2), ("StageError", 4), ("Exception", 3)])
def test_an_error_keeps_its_exit_status(kind: str, status: int) -> None:
    record = ErrorRecord(kind=kind, exit_code=status, message="m", where="w", hint="h")
    error = record.error(None)
    assert (error.exit_code, error.message, error.where, error.hint) == (status, "m", "w", "h")
