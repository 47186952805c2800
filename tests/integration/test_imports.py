"""What a call of the tool imports: nothing that it does not use. Each is a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("docker", "requests", "iced_x86", "numpy", "elftools", "urllib3", "jinja2", "markupsafe", "rich")

PROBE = """\
import json, sys
from pikaforge.cli import main
try:
    status = main.main(sys.argv[1:]) if len(sys.argv) > 1 else 0
except SystemExit as end:
    status = end.code
print("\\n" + json.dumps([status, sorted(sys.modules)]))
"""


def _modules(*argv: str) -> tuple[int, set[str]]:
    """Exit status and imported modules of a call."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT / "build")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status, set(modules)


def _heavy(modules: set[str]) -> set[str]:
    return {name for name in HEAVY if name in modules}


def test_importing_the_command_line_is_cheap() -> None:
    _, modules = _modules()
    assert _heavy(modules) == set()
    assert "archspec" not in modules


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["build", "--help"],
        ["doctor", "--help"],
        ["matrix", "--format", "json"],
        ["matrix", "--format", "github"],
        ["plan", "R620", "--json", "--os", "el8"],
        ["plan", "all", "--os", "all", "--allocator", "all"],
    ],
)
def test_looking_imports_nothing_for_working(tmp_path: Path, argv: list[str]) -> None:
    places = [] if "--help" in argv else ["--out", str(tmp_path / "out")]
    status, modules = _modules(*argv, *places)
    assert status in (0, 2)  # 2: some cells of `all` cannot be built
    assert _heavy(modules) == set()
    assert "archspec" in modules or "--help" in argv
    assert "--help" not in argv or not {"pydantic", "yaml", "pikaforge.config.schema"} & modules


def test_the_docker_folder_is_not_taken_for_the_sdk(tmp_path: Path) -> None:
    """Without the SDK, `docker` imports as an empty namespace from the repository's root."""
    (tmp_path / "docker").mkdir()
    probe = (
        "import sys\n"
        "from pikaforge.errors import HostError\n"
        "from pikaforge.host.connection import load_sdk\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try:\n    load_sdk()\nexcept HostError as error:\n    print(error.lines())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'build'}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    words = "the docker SDK for Python cannot be imported: No module named 'docker.errors'"
    expected = [f"error: {words}", "  hint: run `bash setup.sh`"]
    assert done.stdout.strip() == str(expected), done.stderr
