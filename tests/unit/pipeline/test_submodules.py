"""Submodules: what a guest script says of them, and where a local clone keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pikaforge.errors import HostError
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.source.submodules import Link, kept, links

COMMIT = "c" * 40


def test_links() -> None:
    facts = {"link": [("third/x", COMMIT, "../x.git"), ("third/x/y", COMMIT, "../y.git")]}
    found = links(facts, {"third/x": "https://example.org/x.git"}, "https://example.org/p.git")
    assert found == [
        Link(path="third/x", commit=COMMIT, url="../x.git", relative_to="https://example.org/p.git"),
        Link(path="third/x/y", commit=COMMIT, url="../y.git", relative_to="https://example.org/x.git"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        ("third/x", COMMIT),
        ("third/x", COMMIT, "../x.git", "more"),
        ("third/x", "--upload-pack=x", "../x.git"),
        ("third/x", COMMIT + "\n", "../x.git"),
        ("", COMMIT, "../x.git"),
        ("third/x", COMMIT, ""),
        (),
    ],
)
def test_a_line_that_is_no_submodule_is_an_error(line: tuple[str, ...]) -> None:
    with pytest.raises(HostError, match=r"^a submodule cannot be understood"):
        links({"link": [line]}, {})


def _bare(folder: Path) -> None:
    (folder / "objects").mkdir(parents=True)
    (folder / "HEAD").touch()


def _origin(clone: Path) -> Origin:
    inner = clone / ".git"
    folders = (inner / "worktrees" / "w" / "modules", inner / "modules")
    return Origin(kind="git", spec="c", url=clone.as_uri(), worktree=clone, modules=folders, local=True)


def test_where_a_clone_keeps_a_submodule(tmp_path: Path) -> None:
    origin = _origin(tmp_path)
    assert kept(origin, "third/x") == ""
    _bare(tmp_path / ".git" / "modules" / "third" / "x")
    assert kept(origin, "third/x") == (tmp_path / ".git" / "modules" / "third" / "x").as_uri()
    _bare(tmp_path / ".git" / "worktrees" / "w" / "modules" / "third" / "x")
    assert "/worktrees/w/modules/third/x" in kept(origin, "third/x"), "that of the linked work tree comes first"
    (tmp_path / "third" / "x").mkdir(parents=True)
    (tmp_path / "third" / "x" / ".git").write_text("gitdir: ../../.git/modules/another-name\n")
    assert kept(origin, "third/x") == (tmp_path / "third" / "x").as_uri(), "whatever its name is"


@pytest.mark.parametrize("path", ["../outside", "third/../../outside", "{outside}", "link/inner"])
def test_no_path_leads_out_of_the_clone(tmp_path: Path, path: str) -> None:
    clone, outside = tmp_path / "clone", tmp_path / "outside"
    (clone / ".git" / "modules").mkdir(parents=True)
    _bare(outside)
    _bare(outside / "inner")
    (clone / "link").symlink_to(outside)
    assert kept(_origin(clone), path.format(outside=outside)) == ""
