"""The seam of probes: a kind that this project does not have, registered, goes from matrix.yaml through the stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from unit.cell_results import IMAGE
from unit.cell_results import result as stage_result
from unit.helpers import Ending, FakeEngine, make_spec, tar_of, the_cell

from pikaforge.config.registry import PROBES
from pikaforge.config.schema import matrix_schema
from pikaforge.config.smoke_checks import Probe
from pikaforge.errors import ConfigError, StageError
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.smoke import smoke
from pikaforge.pipeline.smoke.probes.probe import ProbeOptions
from pikaforge.pipeline.smoke.record import SmokeFacts
from pikaforge.pipeline.smoke.session import Session
from pikaforge.pipeline.smoke.wire import Closed

CELL = "R620-debian12-none"


class Oracle(ProbeOptions):
    """Answers by itself, with what the test says, each answer once."""

    about = "asks nobody"
    required = frozenset({"send"})
    optional = frozenset({"match"})

    def __init__(self) -> None:
        self.answers: list[str | Exception] = []
        self.asked: list[str | None] = []

    def check(self, probe: Probe) -> None:
        if probe.send == "nonsense":
            raise ValueError("that is nonsense")

    def ask(self, probe: Probe, session: Session) -> str:
        self.asked.append(probe.send)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def describe(self, probe: Probe) -> str:
        return f"asked {probe.send}"


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    kind = Oracle()
    with PROBES.registered("oracle", kind):
        yield kind


READY = {"kind": "oracle", "send": "ready?"}
SMOKE = [{"check": "wise", "steps": [{"probe": {"kind": "oracle", "send": "six times nine"}}]}]


def _smoke(workspace: Workspace, fake: FakeEngine, **changes: Any) -> SmokeFacts:
    fake.endings["smoke-version"] = Ending(log="demo 1.0\n")
    spec = make_spec(**{"product__server__ready": READY, "product__smoke": SMOKE, **changes})
    with workspace.store.scratch() as scratch:
        (scratch / "tree.tar").write_bytes(tar_of({"conf/demo.conf": "port : 1\n", "bin/demo": "x"}))
        made = {"tree.tar": scratch / "tree.tar"}
        compiled = workspace.store.put("compile", "0" * 32, identity="i", facts={}, files=made)
    cell = the_cell(spec, CELL)
    return smoke.make(workspace, spec, cell, compiled, stage_result("image", IMAGE), key="1" * 32).read(SmokeFacts)


def test_a_new_kind_says_when_a_server_is_ready_and_makes_checks(
    oracle: Oracle, workspace: Workspace, fake: FakeEngine
) -> None:
    oracle.answers = ["not yet", Closed("it has hung up"), "", ""]
    fake.server.statuses = [None, None, None, None, 0]  # three tries, after the checks, after the signal
    facts = _smoke(workspace, fake)
    assert [check.name for check in facts.checks] == ["version", "start", "wise", "allocator", "stop"]
    assert oracle.asked == ["ready?"] * 3 + ["six times nine"]


def test_what_it_wants_is_said_where_it_does_not_come(oracle: Oracle, workspace: Workspace, fake: FakeEngine) -> None:
    oracle.answers = ["", "forty-two"]
    fake.server.statuses = [None, None, 0]
    with pytest.raises(StageError) as caught:
        _smoke(workspace, fake)
    assert caught.value.failure.findings == ("check wise: step 1: asked six times nine; got forty-two",)


def test_its_fields_are_checked(oracle: Oracle) -> None:
    for wrong, words in (
        ({"kind": "oracle"}, "kind oracle needs `send`"),
        ({**READY, "path": "/"}, "kind oracle takes no `path`"),
        ({"kind": "oracle", "send": "nonsense"}, "that is nonsense"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_spec(product__server__ready=wrong, product__smoke=SMOKE)
        assert caught.value.message == words
    with pytest.raises(ConfigError) as caught:
        make_spec(product__server=None, product__files=[], product__smoke=SMOKE)
    assert caught.value.message == "a probe of the kind oracle asks a server, and the product has none"


def test_the_schema_has_it(oracle: Oracle) -> None:
    described = matrix_schema()["$defs"]["Probe"]
    assert "oracle" in described["properties"]["kind"]["enum"]
    assert "`oracle` asks nobody" in described["description"]


def test_without_it_the_name_is_unknown() -> None:
    with pytest.raises(ConfigError) as caught:
        make_spec(product__server__ready=READY, product__smoke=[])
    assert caught.value.message == "`kind` must be 'resp', 'tcp', 'http' or 'command', got the string 'oracle'"
