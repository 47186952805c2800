"""Errors as the user reads them."""

from __future__ import annotations

import io
from dataclasses import replace

from pikaforge import errors
from pikaforge.cli.output import show_error
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
    assert stream.getvalue() == "\n".join(expected) + "\n"


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
