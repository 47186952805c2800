"""The sessions of nox do not depend on the settings that a user has for other projects."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nox
import pytest
from nox import registry
from nox._decorators import Func

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noxfile_under_test", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The noxfile, whose sessions are registered."""
    monkeypatch.setattr(registry, "_REGISTRY", type(registry._REGISTRY)())
    monkeypatch.setattr(nox.options, "sessions", nox.options.sessions)
    logger = logging.getLogger("nox")
    before = list(logger.filters)
    yield _load()
    logger.filters[:] = before


@pytest.fixture
def sessions(noxfile: ModuleType) -> list[Func]:
    """The sessions of the noxfile."""
    return list(registry.get().values())


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


class _Started(BaseException):
    """Another program runs in the place of this one."""


@pytest.mark.parametrize("program", ["/venv/bin/nox", "/lib/nox/__main__.py", "/venv/bin/pytest"])
@pytest.mark.parametrize("name", ["NOXPYTHON", "NOXFORCEPYTHON", "NOX_PARALLEL", "NOXSESSION"])
def test_settings_that_select_sessions_of_other_projects_do_not_count(
    monkeypatch: pytest.MonkeyPatch, program: str, name: str
) -> None:
    """NOXPYTHON selects no session here: `Python version selection caused no sessions to be selected`."""
    started: list[tuple[list[str], str | None]] = []

    def execve(path: str, argv: list[str], env: dict[str, str]) -> None:
        assert path == sys.executable
        started.append((argv, env.get("HOME")))
        assert name not in env
        raise _Started

    for each in ("NOXPYTHON", "NOXFORCEPYTHON", "NOXEXTRAPYTHON", "NOX_PARALLEL"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "3.9")
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(sys, "argv", [program, "-s", "plan"])
    monkeypatch.setattr(sys, "orig_argv", ["python", program, "-s", "plan"])
    monkeypatch.setattr(registry, "_REGISTRY", type(registry._REGISTRY)())
    monkeypatch.setattr(nox.options, "sessions", nox.options.sessions)
    logger = logging.getLogger("nox")
    monkeypatch.setattr(logger, "filters", list(logger.filters))
    if "pytest" in program or name == "NOXSESSION":
        _load()
        assert started == [], "the control"
        return
    with pytest.raises(_Started):
        _load()
    assert started == [(["python", program, "-s", "plan"], "/home/user")]


@pytest.mark.parametrize(
    ("store", "named", "wanted"),
    [
        ("", "", False),
        ("store:\n  url: https://store.example.org/x\n", "", False),
        ("store: {url: /srv/store}\n", "", False),
        ("store:\n  # a bucket\n\n  endpoint: https://minio.example.org\n  url: s3://bucket/x\n", "", True),
        ("store: {url: 's3://bucket/x', endpoint: 'https://minio.example.org'}\n", "", True),
        ("store:\n  url: s3://bucket/x\n", "https://store.example.org", False),
        ("", "gs://bucket/x", True),
        ("", "file:///srv/store", False),
    ],
)
def test_a_bucket_needs_an_extra(noxfile: ModuleType, store: str, named: str, wanted: bool) -> None:
    text = f"product:\n  name: x\n{store}publish:\n  vault: {{url: 's3://not-the-store/'}}\n"
    assert noxfile.uses_bucket(text, {"PIKAFORGE_STORE": named}) is wanted


@pytest.mark.parametrize(("extras", "newer"), [(("bench",), False), (("upkeep", "tests", "lint", "docs"), True)])
def test_a_large_environment_is_made_by_a_newer_pip_if_there_is_one(
    noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extras: tuple[str, ...], newer: bool
) -> None:
    ran: list[str] = []

    def ended(argv: list[str], **_: object) -> int:
        ran.append(argv[-1])
        if argv[-1] == str(tmp_path / ".nox" / "x"):
            (tmp_path / ".nox" / "x").mkdir()
        return int(argv[-1].startswith("pip>="))

    monkeypatch.setattr(noxfile, "HERE", tmp_path)
    monkeypatch.setattr(noxfile, "ended", ended)
    session = SimpleNamespace(log=lambda _: None)
    assert noxfile.prepare(session, "x", *extras) == tmp_path / ".nox" / "x" / "bin"
    assert any(each.startswith("pip>=") for each in ran) is newer
    assert ran[-1] == f"{tmp_path}[{','.join(extras)}]", "though there was none"
    before = list(ran)
    noxfile.prepare(session, "x", *extras)
    assert ran == before, "it is there"
