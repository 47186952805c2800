"""All environment variables of the tool begin with PIKAFORGE_."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLD = re.compile(r"(?<![A-Z0-9_])FORGE_[A-Z]\w*")
KEPT: dict[str, str] = {
    "docker/guest/compile.sh": r".*",
    "docker/guest/cc": r"FORGE_WRAPPER",
    "build/pikaforge/pipeline/recipe.py": r"FORGE_",
    "build/pikaforge/formats/assets/cpu-gate.sh": r"FORGE_SKIP_CPU_GATE",
    "build/pikaforge/operate/assets/lib/deploy-host.sh": r"FORGE_SKIP_CPU_GATE",
    "CHANGELOG.md": r".*",
    "docs/building.md": r"FORGE_SKIP_CPU_GATE",
}
"""Where a former name still stands, because users have it in recipes and in the configuration of services."""
READ = re.compile(r"os\.environ(?:\.get\(|\.pop\(|\[)\s*\"(\w+)\"")
OF_OTHERS = re.compile(r"CI|DOCKER_HOST|HOME|XDG_CONFIG_HOME|PATH|RPM_CONFIGDIR|TMPDIR")


def _files() -> Iterator[Path]:
    for pattern in ("build/**/*", "docker/**/*", "docs/**/*", "*.md", "*.py", "setup.sh", ".ci/*", ".github/**/*"):
        yield from (
            path for path in ROOT.glob(pattern) if path.is_file() and not {"__pycache__", ".git"} & set(path.parts)
        )


def test_former_names_stand_only_where_they_still_work() -> None:
    found = {}
    for path in _files():
        name = path.relative_to(ROOT).as_posix()
        words = set(OLD.findall(path.read_text(encoding="utf-8", errors="replace")))
        if wrong := {word for word in words if not re.fullmatch(KEPT.get(name, ""), word)}:
            found[name] = wrong
    assert found == {}


def test_the_tool_reads_variables_of_its_own_and_known_ones_of_others() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {variable}"
        for path in (*ROOT.glob("build/pikaforge/**/*.py"), ROOT / "noxfile.py", ROOT / "tasks.py")
        for variable in READ.findall(path.read_text(encoding="utf-8"))
        if not variable.startswith("PIKAFORGE_") and not OF_OTHERS.fullmatch(variable)
    }
    assert found == set()
