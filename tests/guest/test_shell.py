"""The guest scripts as text: shellcheck, and nothing that an old system lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guest.helpers import GUEST, clean_env, need, sh

SCRIPTS = [GUEST / "cc", *sorted(GUEST.rglob("*.sh"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    need("shellcheck")
    done = sh("shellcheck", "-s", "sh", script, env=clean_env())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_values_are_never_run(script: Path) -> None:
    lines = [line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not any("eval" in line.split() for line in lines)
    assert lines, script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_stops_at_the_first_error(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -eu" in text


def test_only_the_recipe_names_a_product() -> None:
    for script in SCRIPTS:
        assert not re.search("pika(?!forge)", script.read_text(), re.IGNORECASE), script


LIBRARY = re.compile(r'^\. "\$\{0%/\*\}/([a-z]+\.sh)"$', re.MULTILINE)
OF_ITS_OWN = {GUEST / "cc", GUEST / "lib.sh"}


@pytest.mark.parametrize(
    "script", [script for script in SCRIPTS if script not in OF_ITS_OWN], ids=lambda path: path.name
)
def test_what_scripts_share_comes_from_one_library(script: Path) -> None:
    """Directly, or with another library of the same script."""
    read = {script}
    while read != (wider := read | {GUEST / name for path in read for name in LIBRARY.findall(path.read_text())}):
        read = wider
    assert GUEST / "lib.sh" in read
    shared = re.findall(r"^(\w+)\(\) [{(]", (GUEST / "lib.sh").read_text(), re.MULTILINE)
    assert "fail" in shared
    text = script.read_text()
    assert not [name for name in shared if re.search(rf"^{name}\(\)", text, re.MULTILINE)]
    assert "forge: " not in text, "note, reason and fail write these lines"


REPOSITORY = GUEST.parents[1]
LONG = {"detect-model.sh"}
"""One file, because it is published as one, with tables in it."""


def shell_scripts() -> list[Path]:
    found = [path for folder in ("build", "docker", "tests") for path in (REPOSITORY / folder).rglob("*.sh")]
    return sorted([*found, GUEST / "cc", REPOSITORY / "setup.sh"])


@pytest.mark.parametrize("script", shell_scripts(), ids=lambda path: path.name)
def test_scripts_and_functions_are_short(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) <= 400 or script.name in LONG
    start = None
    for number, line in enumerate(lines):
        if re.match(r"\w+\(\) [{(]", line):
            start = number
        if start is not None and re.match(r"[})]", line):
            assert number - start < 60, lines[start]
            start = None
