"""Commands of the documents: tests run them by section, and none may be left out.

    for line in documented.commands("docs/operating.md", "Back up", "Restore"): ...

`tests/unit/test_documents.py` looks for these calls in tests/integration, and for sections that none of them names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOM = re.compile(r"(README|CONTRIBUTING|SECURITY|docs/[a-z-]+)\.md")
"""Pages whose commands tests run."""
PAGES = ("docs/operating.md", "docs/memory.md", "docs/load-test.md")
"""Pages for operators: also the commands in their text are among those that tests run."""
WHOLE = ""
"""For all sections of a page."""
RUN_BY: dict[tuple[str, str], str] = {
    ("CONTRIBUTING.md", "Set up"): "tests/integration/test_workflows.py::test_the_tests_job_runs_tests",
    ("README.md", "Two commands"): "tests/integration/test_bare_machine.py::test_it_builds_the_same_bytes",
    ("docs/air-gap.md", WHOLE): "tests/integration/test_air_gap.py::test_the_sample_with_its_images",
    ("docs/pipelines.md", WHOLE): "tests/integration/test_workflows.py::test_every_run_line_was_run_here",
    ("docs/shared-store.md", WHOLE): "tests/integration/test_shared_builds.py::test_a_dead_store_stops_no_build",
    ("docs/selecting.md", "Completion"): "tests/integration/test_completion.py::test_what_is_completed",
    ("docs/selecting.md", "The man page"): "tests/integration/test_manual.py::test_man_has_no_warning",
    ("docs/github.md", WHOLE): "tests/integration/test_workflows.py::test_every_run_line_was_run_here",
    ("docs/first-build.md", "From a tarball"): "tests/integration/test_operate_docs.py"
    "::test_the_sections_about_one_instance",
    ("docs/first-build.md", "An instance"): "tests/integration/test_operate_deploy.py::test_the_commands_of_the_page",
    ("docs/first-build.md", "From a DEB"): "tests/integration/test_deb_acceptance.py"
    "::test_install_upgrade_roll_back_refusal_removal_and_purge",
    ("docs/first-build.md", "From an RPM"): "tests/integration/test_rpm.py::test_install_upgrade_and_removal",
    ("docs/first-build.md", "From a wheel"): "tests/integration/test_wheel.py"
    "::test_puts_the_tree_there_and_sets_an_instance_up",
}
"""Page and section, and a test that runs the same with packages, hosts or arguments of its own."""
NOT_RUN: dict[tuple[str, str], str] = {
    (
        "docs/add-an-allocator.md",
        "Build it",
    ): "its tarball is at GitHub; test_allocator_build.py builds Debian's copy",
    ("docs/add-an-image.md", "Try it"): "Ubuntu 24.04 comes from a registry; test_standins.py builds for stand-ins",
    ("docs/report.md", "Tests and measurements"): "they take minutes; test_report_browser.py opens such pages",
    ("docs/survival.md", "The counts"): "it takes an hour; a plain run has a share of each module",
    ("docs/benchmarks.md", "Short runs"): "each takes minutes of a machine that must do nothing else",
}
"""Page and section, and why no test can run it as it is written."""
SHELL = "sh"
"""The language of blocks that tests run."""
RUNNER = "commands"
"""The function below, by whose calls it is known which sections are run."""
FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a document."""

    page: str
    section: str
    """The heading that is nearest before it."""
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a document, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    inside = [range(*fence.span()) for fence in fences]
    headings = [found for found in HEADING.finditer(text) if not any(found.start() in fence for fence in inside)]
    return [
        Block(
            page=page,
            section=[heading[1] for heading in headings if heading.start() < fence.start()][-1],
            language=fence[1],
            text=fence[2],
        )
        for fence in fences
    ]


def commands(page: str, *sections: str) -> list[str]:
    """Return the lines of the blocks of shell of some sections, in the order of these."""
    found = blocks(page)
    lines = []
    for section in sections:
        mine = [block for block in found if (block.section, block.language) == (section, SHELL)]
        assert mine, f"{page} has no commands in its section {section}"
        lines += [line for block in mine for line in block.text.splitlines()]
    return lines


def in_language(page: str, section: str, language: str) -> str:
    """Return the only block of a section in a language."""
    (text,) = (each.text for each in blocks(page) if (each.section, each.language) == (section, language))
    return text


def pages() -> list[str]:
    """Return the pages whose commands tests run."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if ROOM.fullmatch(name)]


def sections_that_tests_run(folder: Path) -> set[tuple[str, str]]:
    """Return pages and sections of which the test modules of a folder take the commands."""
    return {
        (page, section) for path in folder.glob("test_*.py") for page, *sections in _calls(path) for section in sections
    }


def _calls(path: Path) -> Iterator[list[str]]:
    """Yield the arguments of each call of `commands` in a module; they must be plain strings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == RUNNER:
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            assert len(words) == len(node.args), f"{path.name}:{node.lineno}: name the sections as plain strings"
            yield [str(word) for word in words]
