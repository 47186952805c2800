"""The runner of a farm: what is submitted, what replies are taken for, and what travels through the shared store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.farm_parts import ORIGIN, Field, Quick, stages
from unit.sharing_parts import fails

from pikaforge.errors import AnswerError, ConfigError, HostError, StageError, StageFailure, UnreachableError
from pikaforge.farm import node as nodes
from pikaforge.farm.messages import ErrorRecord, NodeReply, NodeRequest
from pikaforge.farm.resources import FarmSeen
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.stage import Request, stage_of
from pikaforge.plan.plan import Node

COMPILE = "compile:debian12-sandybridge-none"
PACKAGE = "package:R620-debian12-none"
SMOKE = "smoke:debian12-sandybridge-none"


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    monkeypatch.setattr(nodes, "Pipeline", Quick)
    monkeypatch.setattr(Quick, "made", [])
    monkeypatch.setattr(Quick, "does", {})
    yield Field(tmp_path)


def test_nodes_are_made_by_the_worker_and_only_packages_come_back(field: Field) -> None:
    done = field.run()
    assert set(stages(done).values()) == {"done"}, [str(e) for e in done.errors]
    assert sorted(Quick.made) == sorted([*(n.id for n in field.plan.nodes), *Quick.made[len(field.plan.nodes) :]])
    assert len(field.cluster.submitted) == len(field.plan.nodes)
    compiled, packed = done.outcomes[COMPILE].result, done.outcomes[PACKAGE].result
    assert compiled is not None and packed is not None
    assert not compiled.files["tree.tar"].exists(), "the client does not need the tree"
    assert compiled.files["compiler-cache"].read_text() == "none\n", "but what the report says of it"
    assert packed.files["demo.tar.gz"].read_bytes() == PACKAGE.encode() * 1000
    assert sorted(field.log.begun) == sorted(node.id for node in field.plan.nodes)


def test_dask_knows_what_a_node_needs(field: Field) -> None:
    field.run()
    assert field.cluster.needs["image"] == 0
    assert field.cluster.needs["compile"] == 2
    key = next(key for key, _ in field.cluster.submitted if key.startswith("compile-"))
    assert key == f"compile-{field.run().outcomes[COMPILE].key}"


def test_what_is_in_the_shared_store_is_not_submitted_again(field: Field) -> None:
    field.run()
    shutil.rmtree(field.client.out)
    field.cluster.submitted.clear()
    assert set(stages(field.run()).values()) == {"cached"}
    assert field.cluster.submitted == []


def test_what_only_the_client_has_is_given_to_the_shared_store(field: Field) -> None:
    """The client has built here before; the shared store and the worker are new."""
    local = Quick(field.client, Request(spec=field.spec, origin=ORIGIN, series=None))
    assert local.execute(field.plan, field.log).errors == []
    field.objects.held.clear()
    shutil.rmtree(field.client.out / "store" / "package")
    Quick.made.clear()
    done = field.run()
    assert (done.outcomes[COMPILE].status, done.outcomes[PACKAGE].status) == ("cached", "done"), done.errors
    assert COMPILE not in Quick.made, "the worker took it from the shared store"


def test_cores_are_asked_for_by_compilations_and_a_cpu_by_smoke_tests(field: Field) -> None:
    field.seen = FarmSeen(cores=(4, 16), memory=(1 << 30, 8 << 30), targets=frozenset({"sandybridge"}))
    field.run()
    asked = {key.partition("-")[0]: asks for key, asks in field.cluster.submitted}
    demands = {node.stage: stage_of(node).demand for node in field.plan.nodes}
    assert asked["compile"] == {"engine": 1, "cores": 2, "memory": 1 << 30}, "no more memory than the smallest has"
    assert asked["smoke"].pop("cpu:sandybridge") == 1
    for stage in ("smoke", "audit", "package"):
        demand = demands[stage]
        assert asked[stage] == {"engine": 1, "cores": demand.cores, "memory": demand.memory}


def test_a_failure_keeps_its_words_and_stops_what_needs_it(field: Field) -> None:
    def fail(node: Node, _workspace: Workspace) -> None:
        failure = StageFailure(stage="compile", label=node.label, log="/out/x.log", tail=("a", "b"), status=2)
        raise StageError("the build failed", failure, hint="read it")

    Quick.does = {"compile": fail}
    done = field.run()
    error = done.outcomes[COMPILE].error
    assert isinstance(error, StageError)
    assert (error.message, error.hint, error.failure.log, error.failure.tail, error.failure.status) == (
        "the build failed",
        "read it",
        "w1:/out/x.log",
        ("a", "b"),
        2,
    )
    assert stages(done)[PACKAGE] == "blocked"


def test_pins_of_a_worker_are_written_here(field: Field) -> None:
    Quick.does = {"image": lambda node, workspace: workspace.lock.check("images", node.label, "packages", "sha256:1")}
    field.run()
    assert field.client.lock.pins("images", "debian12") == {"packages": "sha256:1"}
    assert any("debian12: packages pinned to sha256:1" in text for text in field.log.notices)


def test_a_pin_that_differs_is_an_error(field: Field) -> None:
    pin = {"section": "sources", "entry": "x#v1", "pin": "commit", "value": "b" * 40}
    field.client.lock.check("sources", "x#v1", "commit", "a" * 40)
    field.cluster.answer = lambda text, _key: _reply(text, pins=[pin])
    found = field.run().outcomes["image:tools"].error
    assert isinstance(found, ConfigError) and "has changed" in found.message


def _reply(text: str, **more: object) -> str:
    request = NodeRequest.model_validate_json(text)
    return json.dumps({"node": request.node, "key": request.key, "status": "done", **more})


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "{",
        "\x00",
        '{"status": "done"}',
        '{"node": "x", "status": "done", "surplus": 1}',
        '{"node": "x", "status": "made"}',
        '{"node": "x", "status": "done", "seconds": -1}',
        '{"format": 2, "node": "x", "status": "done"}',
        "[" * 100_000,
        17,
        None,
        b"{}",
    ],
)
def test_replies_are_taken_for_hostile(field: Field, answer: object) -> None:
    field.cluster.answer = lambda _text, _key: answer
    error = field.run().outcomes["image:tools"].error
    assert isinstance(error, AnswerError), error


def test_control_characters_of_a_reply_are_gone(field: Field) -> None:
    record = ErrorRecord.of(HostError("no\x1b[31m room", hint="\x07a"), machine="w")
    field.cluster.answer = lambda text, _key: _reply(
        text, status="failed", error=record.model_dump(), notices=["a\x1b]0;x\x07"]
    )
    error = field.run().outcomes["image:tools"].error
    assert error is not None and "\x1b" not in error.message and "\x07" not in error.hint
    assert not any("\x1b" in text for text in field.log.notices)


def test_a_reply_without_a_result_in_the_shared_store_is_an_error(field: Field) -> None:
    field.cluster.answer = lambda text, _key: _reply(text)
    error = field.run().outcomes["image:tools"].error
    assert isinstance(error, HostError) and "cannot take its result" in error.message


def test_a_node_that_kills_its_workers_fails_alone(field: Field) -> None:
    class KilledWorker(Exception):
        pass

    def die(_text: str, _key: str) -> object:
        raise KilledWorker("Attempted to run task on 4 different workers")

    field.cluster.answer = die
    error = field.run().outcomes["image:tools"].error
    assert isinstance(error, HostError) and "have died" in error.message


def test_a_scheduler_that_is_gone_ends_the_run(field: Field) -> None:
    class FutureCancelledError(Exception):
        reason = "scheduler-connection-lost"

    def lose(_text: str, _key: str) -> object:
        raise FutureCancelledError

    field.cluster.answer = lose
    with pytest.raises(UnreachableError, match="scheduler of the farm is gone"):
        field.run()
    assert field.cluster.cancelled


def test_a_worker_with_another_version_refuses(field: Field, tmp_path: Path) -> None:
    home = tmp_path / "other"
    shutil.copytree(field.client.home, home)
    (home / "docker" / "guest" / "lib.sh").write_text("# another\n")
    field.cluster.worker = nodes.FarmWorker(
        engine=field.worker.engine, out=field.worker.out, shared=field.worker.shared, home=home, name="w2"
    )
    error = field.run().outcomes["image:tools"].error
    assert isinstance(error, AnswerError) and "w2 has another version of this tool" in error.message


def test_a_shared_store_that_takes_nothing_is_an_error(field: Field) -> None:
    field.objects.fails["write"] = fails(ends=True)
    error = field.run().outcomes["image:tools"].error
    assert isinstance(error, HostError) and "shared store does not take the project" in error.message


def test_a_need_that_comes_out_otherwise_is_an_error(field: Field) -> None:
    field.run()
    shutil.rmtree(field.worker.out)
    for name in [name for name in field.objects.held if "/compile/" in name]:
        del field.objects.held[name]
    shutil.rmtree(field.client.out / "records", ignore_errors=True)
    shutil.rmtree(field.client.out / "store", ignore_errors=True)
    edited: list[str] = []

    def answer(text: str, key: str) -> object:
        request = json.loads(text)
        if key.startswith("compile-"):
            request["needs"]["image:debian12"]["identity"] = "0" * 64
            edited.append(key)
        return nodes.reply_to(json.dumps(request), field.worker, []).model_dump_json()

    field.cluster.answer = answer
    error = field.run().outcomes[COMPILE].error
    assert edited and isinstance(error, HostError) and "comes out otherwise on w1" in error.message


@pytest.mark.parametrize(
    "change",
    [
        {"node": "compile:nothing"},
        {"cell": "R999-debian12-none"},
        {"cell": "../../etc"},
        {"key": "0" * 32},
        {"project": "f" * 32},
        {"needs": {}},
        {"needs": {"image:debian12": {"key": "../x", "identity": ""}}},
        {"jobs": -1},
        {"tool": "x"},
        {"surplus": 1},
        {"format": 9},
    ],
)
def test_requests_are_taken_for_hostile(field: Field, change: dict[str, object]) -> None:
    texts: list[str] = []

    def answer(text: str, _key: str) -> object:
        texts.append(text)
        return nodes.reply_to(text, field.worker, []).model_dump_json()

    field.cluster.answer = answer
    field.run()
    request = {**json.loads(next(text for text in texts if '"node":"compile' in text)), **change}
    Quick.made.clear()
    reply = NodeReply.model_validate_json(nodes.reply_to(json.dumps(request), field.worker, []).model_dump_json())
    assert reply.status == "failed" and reply.error is not None
    assert COMPILE not in Quick.made
