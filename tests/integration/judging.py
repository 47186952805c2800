"""Judges of packages that are not this tool's own, as the tests call them. test_judges.py says what they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

JUDGES = Path(__file__).with_name("judges")
RPMLINT = JUDGES / "rpmlint.toml"
WHEEL_CONTENTS = JUDGES / "check-wheel-contents.toml"


def told(*words: str | Path, status: int | None = 0, **env: str) -> str:
    """What a judge says. The test is skipped where it is not installed."""
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"{words[0]} is not installed here; setup.sh installs it where the system's packages have it")
    done = subprocess.run(
        list(map(str, words)),
        env={**os.environ, "LC_ALL": "C.UTF-8", "COLUMNS": "1000", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert status in (None, done.returncode), done.stdout
    return done.stdout


def rpmlint(rpms: Iterable[Path], folder: Path, *, settings: str) -> list[str]:
    """What rpmlint has against packages, one line each, with settings and all licences of SPDX."""
    from license_expression import get_spdx_licensing

    licences = f"ValidLicenses = {json.dumps(sorted(get_spdx_licensing().known_symbols))}\n"
    path = folder / "rpmlint.toml"
    path.write_text(licences + settings, encoding="utf-8")
    text = told("rpmlint", "--config", path, *rpms, status=None)
    assert re.search(r" [1-9][0-9]* packages and 0 specfiles checked; ", text), text
    return re.findall(r"^\S+: [EW]: .*$", text, re.MULTILINE)


def wheel_faults(wheel: Path, *options: str | Path) -> list[str]:
    """What check-wheel-contents has against a wheel, one line each."""
    text = told(sys.executable, "-m", "check_wheel_contents", *options, wheel, status=None)
    assert wheel.name in text, text
    return re.findall(r": (W[0-9]+: .*)$", text, re.MULTILINE)


def platform_tag(wheel: Path) -> str:
    """The platform tag that auditwheel finds right for a wheel."""
    text = told(sys.executable, "-m", "auditwheel", "show", wheel)
    [tag] = re.findall(r'consistent\s+with\s+the\s+following\s+platform\s+tag:\s+"(\w+)"', text)
    return str(tag)
