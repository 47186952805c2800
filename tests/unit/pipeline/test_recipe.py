"""What is said about a recipe that reads variables by the names that they had before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pikaforge.pipeline import recipe
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


PLAIN = "set -eu\nmake -j \"$JOBS\" CFLAGS='-O2 # not a comment'\ninstall bin/demo out\n"
SAME = (
    "#!/bin/sh\n# builds it\n\nset -eu   # strict\n\tmake -j".replace("\tmake", "make")
    + " \"$JOBS\" CFLAGS='-O2 # not a comment'\n   # don't stop here\ninstall bin/demo out\n"
)
OTHER = (
    PLAIN.replace("# not a comment", "# no comment"),
    PLAIN.replace("bin/demo", "bin/demo#2"),
    PLAIN.replace("install", "exec install"),
)
VERBATIM = (
    "cat >file <<END\n# content\nEND\n",
    "printf '\n# content\n'\n",
    'echo "\n# content\n"\n',
    "echo $LINENO\n# a line\n",
    'sed -n 2p "$0"\n# a line\n',
    "make \\\n# ends the command\ninstall\n",
    "echo a\\ #b\n",
    "echo $'a\\' #b'\n",
)


def test_a_comment_does_not_count() -> None:
    assert recipe.effective(SAME) == recipe.effective(PLAIN)


@pytest.mark.parametrize("text", OTHER)
def test_all_else_counts(text: str) -> None:
    assert recipe.effective(text) != recipe.effective(PLAIN)


@pytest.mark.parametrize("text", VERBATIM)
def test_what_may_be_content_is_not_taken_away(text: str) -> None:
    assert recipe.effective(text) == text


def test_any_bytes_are_read(tmp_path: Path) -> None:
    digests = []
    for content in (b"echo \xff\xc3\xa4\n", b"echo \xff\xc3\xa4 # \x85\n", b"echo \xfe\n"):
        (tmp_path / "recipe.sh").write_bytes(content)
        digests.append(recipe.digest(tmp_path / "recipe.sh"))
    assert digests[0] == digests[1] != digests[2]
