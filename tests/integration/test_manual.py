"""The man page is that of the parser, and man and mandoc have nothing to say about it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from pikaforge.cli import manual
from pikaforge.cli.arguments import parser
from pikaforge.cli.completion import shown
from pikaforge.cli.verbs import STATUSES, VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / manual.NAME
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MAN_KEEP_FORMATTING": ""}


@pytest.fixture(autouse=True)
def library() -> None:
    """What makes the page is installed."""
    if importlib.util.find_spec("argparse_manpage") is None:
        pytest.skip("argparse-manpage is not installed here")


def _shown() -> str:
    argv = ["man", "--no-hyphenation", "--no-justification", "-l", str(PAGE)]
    return subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_it_is_current() -> None:
    before = manual.written(PAGE)
    assert manual.page(before) == before, "`nox -s manual` writes it"


def test_only_the_date_may_differ_and_a_change_is_seen() -> None:
    before = manual.written(PAGE)
    old = manual.HEAD.sub(r'.TH \1 "1" "1999-01-01"', before, count=1)
    assert manual.page(old) == old
    changed = before.replace("matrix.yaml says", "matrix.yaml said", 1)
    assert changed != before, "the control"
    assert "matrix.yaml says" in manual.page(changed)


def test_man_has_no_warning() -> None:
    argv = ["man", "--warnings", "-l", str(PAGE)]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 500


def test_mandoc_has_no_warning() -> None:
    argv = ["mandoc", "-T", "lint", "-W", "warning", str(PAGE)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_has_every_verb_option_example_and_status() -> None:
    text = _shown()
    for name, page in shown(parser()).items():
        assert f"pikaforge {name}\n" in text
        for action in page._actions:
            # man page makers leave out --help, which each page has
            assert not action.option_strings or action.dest == "help" or f"{action.option_strings[-1]}" in text
        for _, command in VERBS[name].examples:
            assert f"  {command}\n" in text, "as it can be pasted"
    for status in STATUSES:
        assert f"\n           {status} " in text
