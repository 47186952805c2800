"""What completes each argument, and the list of names."""

from __future__ import annotations

import re

import pytest
from unit.helpers import make_spec

from pikaforge.cli import completion
from pikaforge.cli.arguments import parser
from pikaforge.config.scalars import NAME_PATTERN
from pikaforge.host.text import printable


def test_it_is_known_what_completes_each_argument() -> None:
    kinds = {
        (name, action.option_strings[-1] if action.option_strings else action.dest): completion.kind_of(action)
        for name, page in completion.shown(parser()).items()
        for action in page._actions
    }
    assert kinds["build", "selectors"] == "selector"
    assert kinds["build", "--os"] == kinds["lock", "--image"] == "image"
    assert kinds["build", "--allocator"] == "allocator"
    assert kinds["matrix", "--why"] == "cell"
    assert kinds["publish", "--to"] == "destination"
    assert kinds["sweep", "--to"] == kinds["build", "--out"] == "folders"
    assert kinds["audit", "--target"] == "target"
    assert kinds["build", "--engine"] == kinds["build", "--jobs"] == kinds["build", "--locked"] == ""
    assert set(kinds.values()) <= {"", "files", "folders", *completion.KINDS.values()}


def test_every_kind_of_names_is_in_the_list() -> None:
    lines = list(completion.lines(make_spec()))
    found = {line.partition(" ")[0] for line in lines}
    assert found | {"selector", "destination"} == set(completion.KINDS.values())
    assert {"model R620", "image debian12", "image all", "allocator none", "cell R620-el7-none"} <= set(lines)
    assert all(re.match(NAME_PATTERN, line.partition(" ")[2]) for line in lines)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_kind_has_a_function_in_each_shell(shell: str) -> None:
    text = (completion.ASSETS / f"completion.{shell}").read_text(encoding="utf-8")
    for kind in {*completion.KINDS.values(), "files", "folders"}:
        assert f"\n_pikaforge_{kind}() {{" in text


def test_paths_are_quoted() -> None:
    pytest.importorskip("shtab")
    from pathlib import Path

    hostile = Path("/a 'b' $(touch x)`y`")
    for shell in completion.SHELLS:
        text = completion.script(shell, matrix=hostile, names=hostile)
        assert printable(text) == text, "it is printed as it is"
        assert "\n_pikaforge_matrix_path='/a '\"'\"'b'\"'\"' $(touch x)`y`'\n" in text
