"""The runner of a farm: what is submitted, what replies are taken for, and what travels through the shared store."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from unit.farm_parts import ORIGIN, Field, Quick, stages
from unit.sharing_parts import fails

from pikaforge.errors import AnswerError, ConfigError, HostError, StageError, StageFailure, UnreachableError, UsageError
from pikaforge.farm import node as nodes
from pikaforge.farm import tool
from pikaforge.farm.messages import ErrorRecord, NodeReply, NodeRequest
from pikaforge.farm.resources import FarmSeen
from pikaforge.host.hashing import digest
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
    assert key.startswith(f"compile-{field.run().outcomes[COMPILE].key}-")


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
        '{"node": "x", "status": "done", "seconds": Infinity}',
        '{"node": "x", "status": "done", "seconds": NaN}',
        '{"node": "x", "status": "done", "seconds": 1e300}',
        '{"node": "x", "status": "done", "key": "../../../../../etc"}',
        '{"node": "x", "status": "done", "key": "0123456789ABCDEF0123456789ABCDEF"}',
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


def test_the_result_of_another_key_is_not_taken(field: Field) -> None:
    """The worker names another result that the shared store has, signed and whole: that of an older source, say."""
    field.run()
    old = next(path for path in field.objects.held if path.startswith("results/compile/"))
    key = old.rpartition("/")[2].removesuffix(".json")
    listing = json.loads(field.objects.held[old])
    statement = {**json.loads(listing["statement"]), "key": "a" * 32}
    text = json.dumps(statement)
    field.objects.held[old.replace(key, "a" * 32)] = json.dumps(
        {**listing, "statement": text, "sha256": digest(text)}
    ).encode()
    del field.objects.held[old]
    shutil.rmtree(field.client.out)

    def answer(text: str, key: str) -> object:
        return _reply(text, key="a" * 32) if key.startswith("compile-") else None

    field.cluster.answer = answer
    error = field.run().outcomes[COMPILE].error
    assert isinstance(error, AnswerError) and "under another key" in error.message


def _damage(field: Field, stage: str) -> str:
    """Change a byte of the largest file of a stage's result in the shared store; return the file's path."""
    listing = next(path for path in field.objects.held if path.startswith(f"results/{stage}/"))
    files = json.loads(json.loads(field.objects.held[listing])["statement"])["files"]
    largest = max(files, key=lambda file: file["bytes"])["sha256"]
    path = f"files/{largest[:2]}/{largest}"
    field.objects.held[path] = b"X" + field.objects.held[path][1:]
    return path


def _whole(field: Field, path: str) -> bool:
    return hashlib.sha256(field.objects.held[path]).hexdigest() == path.rpartition("/")[2]


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("here", ["client", "worker", "nobody"])
def test_a_damaged_file_of_the_shared_store_is_put_there_anew(field: Field, here: str, gone: bool) -> None:
    """By who has it: the client, the worker, or nobody, so that it is made anew."""
    if here == "client":
        local = Quick(field.client, Request(spec=field.spec, origin=ORIGIN, series=None))
        assert local.execute(field.plan, field.log).errors == []
        shutil.rmtree(field.client.out / "store" / "package")
    assert field.run().errors == []
    path = _damage(field, "compile")
    if gone:
        del field.objects.held[path]
    for name in [name for name in field.objects.held if name.startswith("results/package/")]:
        del field.objects.held[name]
    shutil.rmtree(field.client.out / "store" / "package")
    shutil.rmtree(field.worker.out / "store" / "package", ignore_errors=True)
    if here != "worker":
        shutil.rmtree(field.worker.out / "store" / "compile", ignore_errors=True)
    if here != "client":
        shutil.rmtree(field.client.out)
    field.worker = replace(field.worker, shared=field.shared())
    field.cluster.worker = field.worker
    if here == "worker":  # one that has the result; another one, that does not, makes the package
        other = replace(field.worker, out=field.folder / "other", shared=field.shared())

        def answer(text: str, key: str) -> object:
            at = other if key.startswith("package-") else field.worker
            return nodes.reply_to(text, at, []).model_dump_json()

        field.cluster.answer = answer
    field.log.notices.clear()
    done = field.run()
    assert done.errors == [] and done.outcomes[PACKAGE].status == "done", [str(error) for error in done.errors]
    assert _whole(field, path)
    assert any("is put there anew" in text for text in field.log.notices)


def test_a_damaged_package_is_put_there_anew_by_the_worker_that_has_it(field: Field) -> None:
    assert field.run().errors == []
    path = _damage(field, "package")
    shutil.rmtree(field.client.out)
    field.client = replace(field.client, shared=field.shared())
    done = field.run()
    assert done.errors == [] and _whole(field, path), [str(error) for error in done.errors]


def test_a_damaged_project_is_put_there_anew(field: Field) -> None:
    assert field.run().errors == []
    path = _damage(field, "project")
    shutil.rmtree(field.worker.out)
    shutil.rmtree(field.client.out / "store" / "package")
    for name in [name for name in field.objects.held if name.startswith("results/package/")]:
        del field.objects.held[name]
    done = field.run()
    assert done.errors == [] and _whole(field, path), [str(error) for error in done.errors]


def test_what_stays_damaged_ends_the_run(field: Field) -> None:
    def answer(text: str, key: str) -> object:
        if key.startswith("package-"):
            return _reply(text, status="failed", lacks=COMPILE, error=_lack())
        return nodes.reply_to(text, field.worker, []).model_dump_json()

    field.cluster.answer = answer
    done = field.run()
    error = done.outcomes[PACKAGE].error
    assert error is not None and "does not have the result" in error.message
    assert len([key for key, _ in field.cluster.submitted if key.startswith("package-")]) == 2


def _lack() -> object:
    return ErrorRecord.of(HostError("the shared store does not have the result of x"), machine="w1").model_dump()


def test_a_worker_without_a_shared_store_says_so(field: Field) -> None:
    record = ErrorRecord.of(UsageError("the worker on w2 has no shared store", where="PIKAFORGE_STORE"), machine="w2")
    field.cluster.answer = lambda _text, _key: NodeReply(node="", status="failed", error=record).model_dump_json()
    error = field.run().outcomes["image:tools"].error
    assert error is not None and "w2 has no shared store" in error.message


def test_an_exception_without_words_is_an_error_of_the_node(field: Field) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def fail(_text: str, _key: str) -> object:
        raise Mute

    field.cluster.answer = fail
    error = field.run().outcomes["image:tools"].error
    assert isinstance(error, HostError) and "Mute" in error.message


def test_clients_with_another_tool_share_no_task(field: Field) -> None:
    """A worker refuses the request of a tool that it does not have: nobody else may get this answer."""
    field.run()
    before = {key for key, _ in field.cluster.submitted}
    (field.client.home / "docker" / "guest" / "lib.sh").write_text("# another\n")
    tool.tool_digest.cache_clear()
    field.cluster.submitted.clear()
    shutil.rmtree(field.client.out)
    field.objects.held.clear()
    field.run()
    assert not before & {key for key, _ in field.cluster.submitted}


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
