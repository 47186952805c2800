"""The grammar of the command line, and its help pages."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from pikaforge import __version__
from pikaforge.cli import call, main
from pikaforge.cli.arguments import WIDTH, parser
from pikaforge.cli.faces.reproduce import OPTIONS, command_for
from pikaforge.cli.verbs import VERBS
from pikaforge.errors import ConfigError, HostError, PublishError, StageError

ROOT = Path(__file__).resolve().parents[3]


def _usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as end:
        main.main(argv)
    shown = capsys.readouterr()
    return end.value.code, shown.out, shown.err


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _usage([verb, "--help"], capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: python -m pikaforge {verb} ")
    assert "--matrix FILE" in out
    assert "--debug" in out
    assert VERBS[verb].summary[0].islower()
    assert "\nNeeds: " in out
    for remark, command in VERBS[verb].examples:
        assert f"\n  # {remark}\n  {command}\n" in out


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)])
def test_help_fits_the_terminal(
    verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = _usage([*verb, "--help"], capsys)
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_help_is_not_wider_than_people_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = _usage(["build", "--help"], capsys)
    assert 80 < max(map(len, out.splitlines())) <= WIDTH


@pytest.mark.parametrize("command", [command for verb in VERBS.values() for _, command in verb.examples])
def test_each_example_is_a_command_that_exists(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "nox":
        assert (words.pop(0), words[1:2]) == ("-s", ["--"] if words[1:] else [])
        assert f"\ndef {words[0]}(session: nox.Session)" in (ROOT / "noxfile.py").read_text(encoding="utf-8")
        verb, *rest = words[2:] if words[0] == "tool" else (words[0], *words[2:])
    else:
        assert program == "invoke"
        verb, *rest = (*words[0].split("."), *words[1:])
        assert f"\ndef {words[0].replace('.', '_')}(_: Context" in (ROOT / "tasks.py").read_text(encoding="utf-8")
    assert parser().parse_args([verb, *rest]).verb == verb


def test_each_verb_has_two_examples() -> None:
    assert [name for name, verb in VERBS.items() if len(verb.examples) < 2] == []


@pytest.mark.parametrize("verb", list(VERBS))
def test_each_verb_is_there(verb: str) -> None:
    assert callable(call._verb(verb))


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _usage(["--help"], capsys)
    assert code == 0
    for verb in VERBS:
        assert f"\n    {verb:<{max(map(len, VERBS))}}  {VERBS[verb].summary}\n" in out


def test_help_lists_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _usage(["--help"], capsys)
    _, _, listed = out.partition("\nexit status:\n")
    kinds = (ConfigError, HostError, StageError, PublishError)
    assert [int(line.split()[0]) for line in listed.splitlines()] == [0, *(kind.exit_code for kind in kinds), 130]


@pytest.mark.parametrize("argv", [["images", "list", "--source", "x"], ["bench", "R620", "--formats", "tar"]])
def test_an_option_that_would_do_nothing_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _usage(argv, capsys)
    assert code == 2
    assert "error: unrecognized arguments: " in err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _usage(["--version"], capsys) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["bulid"], "argument VERB: invalid choice: 'bulid'"),
        (["build", "--job", "3"], "unrecognized arguments: --job"),
        (["build", "R620", "--jobs", "0"], "argument --jobs: '0' is no number from 1 to 1024"),
        (["build", "R620", "--jobs", "-1"], "argument --jobs: '-1' is no number from 1 to 1024"),
        (["build", "R620", "--jobs", "1025"], "argument --jobs: '1025' is no number from 1 to 1024"),
        (["build", "R620", "--jobs", "many"], "argument --jobs: 'many' is no number from 1 to 1024"),
        (["build", "R620", "--jobs", "²"], "argument --jobs: '²' is no number from 1 to 1024"),
        *(
            (
                ["build", "R620", "--memory", text],
                f"argument --memory: '{text}' is no size of memory from 256M to 1024T: a number and M, G or T",
            )
            for text in ("0G", "255M", "1025T", "6", "6GB", "1.5G", "²G", "much")
        ),
        (["build", "--engine", "podman"], "argument --engine: invalid choice: 'podman'"),
        (["matrix", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["matrix", "--source", "x"], "unrecognized arguments: --source"),
        (["plan", "--os"], "argument --os: expected one argument"),
    ],
)
def test_a_wrong_command_line_ends_with_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _usage(argv, capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("R6*-debian12-none", "--os", "all"), ""),
        (("all", "--source", "my fork#v1", "--jobs", "2"), "--source 'my fork#v1' --jobs 2"),
        (("all", "--jobs", "1", "--memory", "2048M"), "--jobs 1 --memory 2G"),
        (("all", "--memory", "1537M"), "--memory 1537M"),
        (
            ("all", "--formats", "tar,deb", "--locked", "--no-compiler-cache"),
            "--formats tar,deb --locked --no-compiler-cache",
        ),
        (
            ("all", "--engine", "host", "--strict-targets", "--matrix", "a/m.yaml"),
            "--matrix a/m.yaml --engine host --strict-targets",
        ),
        (("all", "--allocator", "all", "--gperftools", "g.tar", "--require-run"), "--gperftools g.tar --require-run"),
    ],
)
def test_the_command_that_builds_one_cell_of_a_run(argv: tuple[str, ...], words: str) -> None:
    command = command_for(parser().parse_args(["build", *argv]), "R620-debian12-none")
    assert command == " ".join(filter(None, ("nox -s build -- R620-debian12-none", words)))


def test_every_option_of_a_build_is_repeated_or_said_by_the_cell() -> None:
    given = vars(parser().parse_args(["build", "all"]))
    assert set(given) == {*OPTIONS, "verb", "selectors", "os", "allocator", "chunk", "quiet", "json"}
