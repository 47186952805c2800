"""Fixtures for the tests of the guest scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from guest.helpers import SHELLS, SPY, Wrapper, clean_env, install_wrapper, need


def in_front_of_a_spy(root: Path, *, shell: Sequence[str] = ()) -> Wrapper:
    """The wrapper in front of a compiler that only tells how it was called."""
    wrap = install_wrapper(root, shell=shell)
    behind = root / "behind"
    behind.mkdir()
    for name in ("gcc", "g++", "cc", "c++"):
        (behind / name).write_text(SPY)
        (behind / name).chmod(0o755)
    return Wrapper(root=root, path=f"{wrap}:{behind}:{os.defpath}")


@pytest.fixture
def spied(tmp_path: Path) -> Wrapper:
    """As `in_front_of_a_spy`, run by the system's sh."""
    return in_front_of_a_spy(tmp_path)


@pytest.fixture(params=SHELLS)
def spied_in_each_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Wrapper:
    """The same, run by each of the shells that may be a system's sh."""
    return in_front_of_a_spy(tmp_path, shell=SHELLS[request.param])


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapper:
    """The wrapper in front of the host's gcc."""
    need("gcc", "g++")
    wrap = install_wrapper(tmp_path)
    (tmp_path / "src").mkdir()
    return Wrapper(
        root=tmp_path,
        path=f"{wrap}:{clean_env()['PATH']}",
        extra={"PIKAFORGE_MAP_FLAG": "-ffile-prefix-map"},
    )
