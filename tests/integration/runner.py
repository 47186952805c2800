"""A machine of a service that runs pipelines, as far as it can be had here: a checkout, and lines that bash runs in it.

The checkout is a copy of this one's files. It gets Python environments that borrow this one's packages; nothing is
downloaded. `${{ }}` may only hold plain names, which are looked up; anything else fails.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkout
import pytest

ROOT = Path(__file__).resolve().parents[2]
SESSIONS = ("matrix", "build", "report", "publish", "tests", "lint")
"""Those that run lines come to."""


@dataclass(kw_only=True)
class Runner:
    """A checkout on a machine like GitHub's, and what has come of it."""

    checkout: Path
    ran: list[str] = field(default_factory=list)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """By step id."""
    summary: str = ""
    printed: str = ""
    """Of the last line."""

    def job(self, content: Mapping[str, Any], more: Mapping[str, str] | None = None, **contexts: Any) -> int:
        """Run the run lines of a job, to the first that fails; the last status.

        Args:
            content: the job.
            more: what is put behind a line, by the line.
            contexts: what `${{ }}` may name.
        """
        for step in content["steps"]:
            if "run" in step:
                env = {name: resolve(str(value), contexts) for name, value in step.get("env", {}).items()}
                status = self.line(step["run"] + (more or {}).get(step["run"], ""), env, step.get("id", ""))
                self.ran.append(step["run"])
                if status:
                    return status
        return 0

    def line(self, line: str, env: Mapping[str, str], step: str = "") -> int:
        """Run a line as the runner does; its status."""
        top = self.checkout.parent
        script, output, summary = top / "script.sh", top / "output", top / "summary"
        script.write_text(line, encoding="utf-8")
        for path in (output, summary):
            path.write_bytes(b"")
        mine = ("PIKAFORGE_", "PYTEST_", "GITHUB_", "PYTHONPATH", "VIRTUAL_ENV")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        done = subprocess.run(
            ["bash", "-e", str(script)],
            cwd=self.checkout,
            # An environment that a session does not take for complete must not be made from an index behind our back.
            env={**inherited, "CI": "true", "GITHUB_ACTIONS": "true", "PIP_NO_INDEX": "1", **files, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=600,
        )
        self.printed = done.stdout
        print(f"$ {line}\n{done.stdout}[exit status {done.returncode}]")  # shown with a failure
        lines = output.read_text(encoding="utf-8").splitlines()
        self.outputs[step] = {name: value for name, _, value in (line.partition("=") for line in lines)}
        self.summary = summary.read_text(encoding="utf-8")
        return done.returncode


def resolve(value: str, contexts: Mapping[str, Any]) -> str:
    """A value with its `${{ a.b }}` and `${{ a.b || c.d }}` filled in; no other expression is known here."""

    def look_up(name: str) -> str:
        found: Any = contexts
        for part in name.split("."):
            found = found[part]
        return str(found).lower() if isinstance(found, bool) else str(found)

    def fill(match: re.Match[str]) -> str:
        return next(filter(None, map(look_up, match[1].split(" || "))), "")

    text = re.sub(r"\$\{\{ ([\w.-]+(?: \|\| [\w.-]+)*) \}\}", fill, value)
    assert "${{" not in text, value
    return text


def borrow(environment: Path, build: Path | None = None) -> None:
    """Make a Python environment with the packages of this one, and the tool from `build`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    packages = next(environment.glob("lib/python*/site-packages"))
    paths = [*([str(build)] if build else []), sysconfig.get_paths()["purelib"]]
    (packages / "borrowed.pth").write_text("\n".join(paths), encoding="utf-8")


def give_program(path: Path, text: str) -> None:
    """Write a shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


class Stopped(Exception):
    """A session has its environment, and would now begin."""


def stop(*_: object, **__: object) -> None:
    """Stands for what a session runs in its environment."""
    raise Stopped


def stand_in_for_pip(build: Path, argv: list[str], **_: object) -> int:
    """Stands for the programs that make a session's environment, and for what runs in it."""
    if "pikaforge" in argv:
        raise Stopped
    if "venv" in argv:
        borrow(Path(argv[-1]), build)
    return 0


def make_environments(checkout: Path) -> None:
    """.venv as setup.sh leaves it, and .nox as the sessions do, by their own marks of completeness."""
    borrow(checkout / ".venv")
    for program in ("nox", "invoke"):
        give_program(checkout / ".venv/bin" / program, f'exec "${{0%/*}}/python" -m {program} "$@"')
    script = (checkout / "setup.sh").read_text(encoding="utf-8")
    wanted = dict(re.findall(r"^(nox|invoke)='(.*)'$", script, re.MULTILINE))
    (checkout / ".venv/.stamp").write_text(f"{checkout} {wanted['nox']} {wanted['invoke']}\n", encoding="utf-8")

    spec = importlib.util.spec_from_file_location("noxfile_of_the_copy", checkout / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    noxfile: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(noxfile)
    noxfile.subprocess = SimpleNamespace(Popen=stop)
    noxfile.ended = partial(stand_in_for_pip, checkout / "build")
    for name in SESSIONS:
        if hasattr(noxfile, name):
            session = SimpleNamespace(log=str, notify=str, posargs=[], invoked_from=checkout, run=stop)
            with pytest.raises(Stopped):
                getattr(noxfile, name)(session)
    for program in ("check-jsonschema", "zizmor"):
        (checkout / ".nox/check/bin" / program).symlink_to(Path(sys.executable).with_name(program))
    for program in ("ruff", "mypy", "lint-imports"):
        give_program(checkout / ".nox/check/bin" / program, "true")


TOOL = ".pikaforge"
"""Where the reusable workflow and GitLab's jobs check out the tool."""


def check_out(folder: Path) -> Path:
    """The files that git would give to a runner; the tool is the same checkout."""
    for name in checkout.listed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    make_environments(folder)
    (folder / TOOL).symlink_to(".")
    return folder
