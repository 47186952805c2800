"""The sessions of nox do not depend on the settings that a user has for other projects."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path

import nox
import pytest
from nox import registry
from nox._decorators import Func

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Func]]:
    """The sessions of the noxfile."""
    monkeypatch.setattr(registry, "_REGISTRY", type(registry._REGISTRY)())
    monkeypatch.setattr(nox.options, "sessions", nox.options.sessions)
    logger = logging.getLogger("nox")
    before = list(logger.filters)
    spec = importlib.util.spec_from_file_location("noxfile_under_test", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield list(registry.get().values())
    logger.filters[:] = before


def test_no_session_has_an_environment_of_noxs_own(sessions: list[Func]) -> None:
    """NOX_DEFAULT_VENV_BACKEND is stronger than an option of the file, and weaker than what the session says."""
    assert len(sessions) > 10
    assert {session.venv_backend for session in sessions} == {"none"}
    assert {session.python for session in sessions} == {False}, "NOXFORCEPYTHON asks for no interpreter then"


def test_nox_does_not_speak_of_uv(sessions: list[Func], caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("nox")
    with caplog.at_level(logging.INFO, logger="nox"):
        logger.info("uv binary not found.")
        logger.info("Running session plan")
    assert caplog.messages == ["Running session plan"]
