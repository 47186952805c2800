"""make-repo.sh's arguments; the tests of the source stage make repositories with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest.helpers import clean_env, need, sh

SCRIPT = Path(__file__).resolve().parents[1] / "sample" / "make-repo.sh"


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_makes_no_folder(tmp_path: Path, word: str) -> None:
    done = sh("sh", SCRIPT, word, env=clean_env(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Make the git repositories of the sample server below DEST")
    assert "  make-repo.sh DEST\n" in done.stdout
    assert not any(line.startswith(("set ", "#")) for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [(), ("",), ("--verbose",), ("a", "b")])
def test_other_arguments_than_a_folder(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = sh("sh", SCRIPT, *words, env=clean_env(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "make-repo.sh: usage: make-repo.sh DEST\n")
    assert list(tmp_path.iterdir()) == []


def test_a_folder(tmp_path: Path) -> None:
    """The control."""
    need("git")
    done = sh("sh", SCRIPT, "made", env=clean_env(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/pika.git/HEAD").is_file()
