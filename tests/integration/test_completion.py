"""Completion in real shells: bash and zsh, in a pseudo-terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.shells import PROMPT, SAYS, Shell, shell
from unit.helpers import make_matrix

from pikaforge.host import extras

if TYPE_CHECKING:
    from conftest import Tool

START = {
    "bash": ("bash", "--noprofile", "--norc", "-i"),
    "zsh": ("zsh", "-f", "-i"),
}
PREPARE = {
    "bash": "bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; source {script}",
    "zsh": 'unsetopt BEEP PROMPT_SP; autoload -Uz compinit; compinit -u -D; eval "$(<{script})"',
}
HOSTILE = "$(touch planted) `touch planted` ;touch|planted a'b"


class _Place:
    """A configuration, in a folder whose name is hostile, too, and a shell that completes its names."""

    def __init__(self, tool: Tool, folder: Path, name: str) -> None:
        self._tool, self._name = tool, name
        self.folder = folder / "it's $(touch planted)"
        self.folder.mkdir()
        self.matrix = self.folder / "matrix.yaml"
        self.names = self.folder / "out" / "completion.txt"
        (self.folder / "recipe.sh").write_text("#!/bin/sh\n", encoding="utf-8")
        self.write()

    def write(self, **changes: object) -> None:
        self.matrix.write_text(make_matrix(**changes), encoding="utf-8")

    def places(self) -> tuple[str, ...]:
        return ("--matrix", str(self.matrix), "--out", str(self.folder / "out"))

    def start(self, running: Shell) -> None:
        done = self._tool("completion", self._name, *self.places(), check=0)
        script = self.folder / "script"
        script.write_text(done.stdout, encoding="utf-8")
        running.type(f"PS1='{PROMPT}'; pikaforge() {{ {SAYS}; }}; nox() {{ {SAYS}; }}\n")
        running.type(PREPARE[self._name].format(script=shlex.quote(str(script))) + "; printf '<%s>\\n' loaded\n")
        running.until(r"[\r\n]<loaded>\r\n")


@pytest.fixture(params=list(START))
def place(request: pytest.FixtureRequest, tool: Tool, tmp_path: Path) -> _Place:
    """For each of the shells."""
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed here")
    extras.require("shtab", package="shtab", extra="shell")
    return _Place(tool, tmp_path, name)


@pytest.fixture
def running(place: _Place, request: pytest.FixtureRequest) -> Iterator[Shell]:
    """A shell that has read the script."""
    env = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", "HISTFILE": "", "ZDOTDIR": str(place.folder)}
    with shell(START[place._name], env, place.folder) as started:
        place.start(started)
        yield started


def test_what_is_completed(place: _Place, running: Shell) -> None:
    place._tool("completion", "names", *place.places(), check=0)
    for typed, completed in (
        ("pikaforge bui", "build"),
        ("pikaforge build R62", "build R620"),
        ("pikaforge build R620-debian12-n", "build R620-debian12-none"),
        ("pikaforge build R620 R72", "build R620 R720"),
        ("pikaforge build R620 --os deb", "build R620 --os debian12"),
        ("pikaforge build R620 --allocator sys", "build R620 --allocator system"),
        ("pikaforge build R620 --strict", "build R620 --strict-targets"),
        ("pikaforge plan R620 --engine ho", "plan R620 --engine host"),
        ("pikaforge matrix --why R640-el7-n", "matrix --why R640-el7-none"),
        ("pikaforge audit x --model R64", "audit x --model R640"),
        ("pikaforge audit x --target sandyb", "audit x --target sandybridge"),
        ("pikaforge plan --matrix reci", "plan --matrix recipe.sh"),
        ("nox -s bui", "-s build"),
        ("nox -s build -- R62", "-s build -- R620"),
        ("nox -s build -- R620 --os deb", "-s build -- R620 --os debian12"),
        ("nox -s tool -- loc", "-s tool -- lock"),
        ("nox -s tool -- lock --image deb", "-s tool -- lock --image debian12"),
    ):
        assert running.completed(typed) == completed


def test_the_list_is_made_when_it_is_needed_and_when_the_matrix_changes(place: _Place, running: Shell) -> None:
    assert not place.names.exists()
    assert running.completed("pikaforge build R62") == "build R620"
    assert place.names.is_file()
    place.write(hardware__Z99={"cpus": ["haswell"]})
    os.utime(place.matrix, (time.time() + 10, time.time() + 10))
    assert running.completed("pikaforge build Z") == "build Z99"


def test_a_broken_matrix_leaves_the_old_names(place: _Place, running: Shell) -> None:
    place._tool("completion", "names", *place.places(), check=0)
    place.matrix.write_text("product: [", encoding="utf-8")
    os.utime(place.matrix, (time.time() + 10, time.time() + 10))
    assert running.completed("nox -s build -- R62") == "-s build -- R620"


def test_nothing_in_the_list_is_evaluated(place: _Place, running: Shell) -> None:
    place._tool("completion", "names", *place.places(), check=0)
    bad = [f"model Q{word}" for word in (*HOSTILE.split(), "$(touch${IFS}planted)", "\x1b[31m", "*", "~root", "a=`x`")]
    text = place.names.read_text(encoding="utf-8")
    place.names.write_text(
        "\n".join([*bad, "model Q1", f"model {HOSTILE}", "$(touch planted)", text]), encoding="utf-8"
    )
    assert running.completed("pikaforge build Q") == "build Q1", "the only one that is a name"
    assert running.completed("nox -s build -- --allocator li") in (
        "-s build -- --allocator li",
        "-s build -- --allocator",
    )
    assert not list(place.folder.parent.rglob("planted"))
