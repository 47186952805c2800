"""A slice of the sweep: another one each day, so that CI walks all of the matrix in the course of time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pikaforge.audit.audit_result import today
from pikaforge.cli.commands.sweep import representatives
from pikaforge.config import load
from pikaforge.pipeline import coverage
from pikaforge.plan.selectors import Selection, select

if TYPE_CHECKING:
    from integration.conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("sweep")]

ROOT = Path(__file__).resolve().parents[2]
SLICES = 18
"""So that a slice has two compilations of the three images that can be made of Debian's packages alone."""


def test_a_slice_of_the_sweep(shop: Shop, tmp_path: Path) -> None:
    """Two compilations of the whole sample, through every stage; the day chooses, or PIKAFORGE_SLICE to repeat one."""
    project = shop.ready(tmp_path)
    number = int(os.environ.get("PIKAFORGE_SLICE") or today().toordinal()) % SLICES
    selection = Selection(selectors=("*-debian*-none",))
    spec = load.load(ROOT / "matrix.yaml")
    chosen = representatives(select(spec, selection))[number::SLICES]
    chosen.sort(key=lambda cell: list(spec.images).index(cell.image))
    arguments = project.arguments(
        "sweep", *selection.selectors, "--slice", f"{number}/{SLICES}", "--to", tmp_path / "t"
    )
    done = project.tool(*arguments, "--formats", "tar", check=0, timeout=1200)
    found = coverage.load(tmp_path / "t")
    assert found is not None
    assert [row.key for row in found.rows] == [(cell.image, cell.target, cell.allocator) for cell in chosen]
    for row in found.rows:
        assert (row.state, row.packages, row.stand_in) == ("built", ("tar",), False), row
        assert row.audited.startswith("passed")
        assert "checks" in row.native + row.emulated, "it was run in one way at least"
        assert row.tried
    assert f"{len(chosen)} of {len(chosen)} compilations built" in done.stdout


def test_the_committed_table_is_whole() -> None:
    """docs/coverage.json has every target on every image that Debian's packages make; the table is made of it."""
    spec = load.load(ROOT / "matrix.yaml")
    found = coverage.load(ROOT / "docs")
    assert found is not None
    assert (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8") == coverage.markdown(found)
    built = {row.key for row in found.rows if row.state == "built" and not row.stand_in}
    for cell in representatives(select(spec, Selection(selectors=("*-debian*-none",)))):
        assert (cell.image, cell.target, cell.allocator) in built, f"run `nox -s sweep -- {cell.id} --source sample`"
