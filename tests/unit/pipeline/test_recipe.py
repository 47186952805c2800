"""What is said about a recipe that reads variables by the names that they had before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pikaforge.pipeline.recipe import old_names

END = "; for now, jobs set the old names as well"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("make -j$FORGE_JOBS\n", "r.sh:1: FORGE_JOBS is now PIKAFORGE_JOBS"),
        (
            "# FORGE_ROOT\nmake \\\n  CC=x${FORGE_ALLOCATOR_DIR-} -j$FORGE_JOBS\n[ $FORGE_JOBS ]\n",
            "r.sh:3: FORGE_ALLOCATOR_DIR is now PIKAFORGE_ALLOCATOR_DIR, r.sh:3: FORGE_JOBS is now PIKAFORGE_JOBS",
        ),
    ],
)
def test_one_notice_for_all_old_names(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe").write_text(text)
    assert old_names(tmp_path / "recipe", "r.sh") == said + END


@pytest.mark.parametrize(
    "text", ["", "make -j$PIKAFORGE_JOBS\n", "  # $FORGE_JOBS\n", "MY_FORGE_JOBS=1\n", "FORGE_=1\n", "forge_jobs=1\n"]
)
def test_other_names_are_not_meant(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe").write_text(text)
    assert old_names(tmp_path / "recipe", "r.sh") == ""


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "recipe").write_bytes(b"\xff $FORGE_JOBS\n")
    assert old_names(tmp_path / "recipe", "r.sh").startswith("r.sh:1: FORGE_JOBS")
    assert old_names(tmp_path / "none", "r.sh") == ""
