"""Fixtures for the tests of the guest scripts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from guest.helpers import SPY, Wrapper, clean_env, install_wrapper, need


@pytest.fixture
def spied(tmp_path: Path) -> Wrapper:
    """The wrapper in front of a compiler that only tells how it was called."""
    wrap = install_wrapper(tmp_path)
    behind = tmp_path / "behind"
    behind.mkdir()
    for name in ("gcc", "g++", "cc", "c++"):
        (behind / name).write_text(SPY)
        (behind / name).chmod(0o755)
    return Wrapper(root=tmp_path, path=f"{wrap}:{behind}:{os.defpath}")


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapper:
    """The wrapper in front of the host's gcc."""
    need("gcc", "g++")
    wrap = install_wrapper(tmp_path)
    (tmp_path / "src").mkdir()
    return Wrapper(
        root=tmp_path,
        path=f"{wrap}:{clean_env()['PATH']}",
        extra={"FORGE_MAP_FLAG": "-ffile-prefix-map"},
    )
