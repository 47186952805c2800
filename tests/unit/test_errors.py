"""Errors as the user reads them."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

import pikaforge
from pikaforge import errors
from pikaforge.cli.output import show_error
from pikaforge.config.registry import STAGES
from pikaforge.errors import ConfigError, ForgeError, HostError, PublishError, StageError, StageFailure


def test_lines_are_what_is_wrong_where_and_what_to_do() -> None:
    error = ConfigError("it is wrong", where="matrix.yaml:3:1, images", hint="do this\nor that")
    assert error.lines() == [
        "error: it is wrong",
        "  where: matrix.yaml:3:1, images",
        "  hint: do this",
        "  hint: or that",
    ]
    assert HostError("bare").lines() == ["error: bare"]


def test_further_problems_follow() -> None:
    error = ConfigError("first", where="a")
    error.also = (ConfigError("second", hint="h"), ConfigError("third"))
    assert error.lines() == ["error: first", "  where: a", "error: second", "  hint: h", "error: third"]


def test_a_stage_error_has_its_evidence() -> None:
    failure = StageFailure(
        stage="compile",
        label="el7-sandybridge-none",
        command="sh guest/run.sh compile",
        status=64,
        log="out/logs/x.log",
        tail=("last but one", "last"),
        findings=("a.c:1: error: no",),
    )
    error = StageError("the build failed", failure, hint="read the log")
    expected = [
        "error: the build failed",
        "  where: stage compile, el7-sandybridge-none",
        "  command: sh guest/run.sh compile (exit status 64)",
        "  reason: a.c:1: error: no",
        "  last lines of the log:",
        "    | last but one",
        "    | last",
        "  log: out/logs/x.log",
        "  hint: read the log",
    ]
    assert error.lines() == expected
    stream = io.StringIO()
    show_error(error, stream)
    assert stream.getvalue().splitlines() == [*expected, "  see: docs/troubleshooting.md#e-stage-compile"]


def test_a_stage_error_without_evidence_is_short() -> None:
    error = StageError("no", StageFailure(stage="smoke", label="x", command="run"))
    assert error.lines() == ["error: no", "  where: stage smoke, x", "  command: run"]


def test_exit_statuses() -> None:
    failure = StageFailure(stage="s", label="l")
    found = [ConfigError("x"), HostError("x"), StageError("x", failure), PublishError("x"), ForgeError("x")]
    assert [error.exit_code for error in found] == [2, 3, 4, 5, 4]
    assert (errors.EXIT_DONE, errors.EXIT_INTERRUPTED) == (0, 130)


def test_an_error_with_facts_is_the_same_error() -> None:
    failure = StageFailure(stage="smoke", label="x", command="run", status=3, log="l", tail=("t",), findings=("f",))
    error = StageError("no", failure, hint="read the log")
    told = error.with_facts({"native": {"ran": True}})
    assert told.lines() == error.lines()
    assert (type(told), told.message, told.where, told.hint) == (StageError, error.message, error.where, error.hint)
    assert told.failure == replace(failure, facts={"native": {"ran": True}})
    assert told.failure.facts == {"native": {"ran": True}}
    assert (error.failure, error.failure.facts) == (failure, None), "the error that was raised is as it was"


def test_facts_are_for_the_report_and_not_for_the_reader() -> None:
    failure = StageFailure(stage="audit", label="x", facts={"secret": "fact"})
    assert StageError("no", failure).lines() == ["error: no", "  where: stage audit, x"]


# ---- the page that errors name

ROOT = Path(__file__).resolve().parents[2]
NAMES = {*STAGES.names, "bench"}
"""Of stages in errors."""


def kinds(base: type[ForgeError]) -> set[str]:
    """The codes of a class and of those below it."""
    return {base.kind}.union(*map(kinds, base.__subclasses__()))


def all_codes() -> set[str]:
    """What an error may name."""
    for module in pkgutil.walk_packages(pikaforge.__path__, "pikaforge."):
        if not module.name.endswith("__main__") and ".runtime" not in module.name:
            importlib.import_module(module.name)
    return (kinds(ForgeError) - {ForgeError.kind}) | {f"E-stage-{name}" for name in NAMES}


def test_the_page_has_a_section_for_each_code_and_no_other() -> None:
    text = (ROOT / errors.HELP).read_text(encoding="utf-8")
    sections = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(sections) == len(set(sections))
    assert set(sections) == all_codes()
    links = set(re.findall(rf"see: {errors.HELP}#(\S+)", text)) | set(re.findall(r"\(#(e-[a-z-]+)\)", text))
    assert links <= {section.lower() for section in sections}


def test_each_error_is_of_a_kind_and_of_a_stage_that_the_page_knows() -> None:
    """No bare ForgeError, and no stage by another name."""
    bare, stages = [], set()
    for path in (ROOT / "build/pikaforge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ForgeError":
                bare.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg == "stage" and isinstance(node.value, ast.Constant):
                stages.add(str(node.value.value))
    assert bare == []
    assert stages <= NAMES


def test_an_error_names_its_section_at_its_end() -> None:
    error = ConfigError("one")
    error.also = (ConfigError("two"), errors.PinError("three"))
    stream = io.StringIO()
    show_error(error, stream)
    assert stream.getvalue().splitlines()[-2:] == [
        "  see: docs/troubleshooting.md#e-config",
        "  see: docs/troubleshooting.md#e-pin",
    ]
    assert StageError("no", StageFailure(stage="smoke", label="x")).code == "E-stage-smoke"
