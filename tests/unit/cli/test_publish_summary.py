"""The summary of a publication."""

from __future__ import annotations

import pytest

from pikaforge.cli.publish_summary import PublishSummary
from pikaforge.publish.diff import Item, RepositoryDiff
from pikaforge.publish.state import Artifact

WHERE = "/srv/repo"


def _artifact(path: str) -> Artifact:
    return Artifact(
        path=path,
        sha256="0" * 64,
        bytes=1 << 20,
        format="tar",
        role="main",
        package="demo",
        version="1.0-1",
        product_version="v1.0",
        cell="R620-el9-none",
        allocator="none",
        target="sandybridge",
        epoch=0,
        built="2024-01-01T00:00:00Z",
        published="2024-01-01T00:00:00Z",
        since=1,
    )


NEW, OLD, GONE, BACK = (_artifact(f"tarballs/{name}.tar.gz") for name in ("new", "old", "gone", "back"))
FIRST = RepositoryDiff(
    product="demo",
    image="el9",
    model="R620",
    before=None,
    number=1,
    placed=(Item(product="demo", image="el9", model="R620", artifact=NEW),),
    same=(OLD,),
    relisted=(BACK,),
    unlisted=(GONE,),
    resigned=True,
)
NOTHING = RepositoryDiff(product="demo", image="el9", model="R720", before=None, number=1, same=(OLD, NEW))


def test_the_summary_for_people() -> None:
    summary = PublishSummary(name="staging", where=WHERE, done=True, diffs=(FIRST, NOTHING), transferred=7)
    assert summary.lines() == [
        "staging (/srv/repo)",
        "  el9/R620: generation none → 1",
        "    + tarballs/new.tar.gz (1.0 MiB)",
        "    + tarballs/back.tar.gz, which is stored there still",
        "    - tarballs/gone.tar.gz",
        "    = 1 package there already",
        "    ~ the metadata is signed by another key than before",
        "  el9/R720: generation 0, 2 packages there already",
        "  done: 7 files were written; see /srv/repo/index.html",
    ]


def test_the_summary_for_scripts() -> None:
    summary = PublishSummary(
        name="staging", where=WHERE, done=False, diffs=(FIRST, NOTHING), wheels=(("demo.whl", "new"),)
    )
    assert summary.document().model_dump(mode="json") == {
        "to": "staging",
        "where": WHERE,
        "done": False,
        "changes": True,
        "transferred": 0,
        "pages": [],
        "wheels": [{"name": "demo.whl", "what": "new"}],
        "repositories": [
            {
                "path": "el9/R620",
                "generation": 0,
                "next": 1,
                "restores": None,
                "added": ["tarballs/new.tar.gz"],
                "same": ["tarballs/old.tar.gz"],
                "listed_again": ["tarballs/back.tar.gz"],
                "not_listed_any_more": ["tarballs/gone.tar.gz"],
            },
            {
                "path": "el9/R720",
                "generation": 0,
                "next": None,
                "restores": None,
                "added": [],
                "same": ["tarballs/old.tar.gz", "tarballs/new.tar.gz"],
                "listed_again": [],
                "not_listed_any_more": [],
            },
        ],
    }


@pytest.mark.parametrize(("outcome", "changes"), [("same", False), ("new", True)])
def test_an_index_changes_if_a_file_is_new(outcome: str, changes: bool) -> None:
    summary = PublishSummary(name="index", where=WHERE, done=True, pages=("repo.json",), wheels=(("a.whl", outcome),))
    assert summary.changes is changes
    there = "  everything is there already: nothing was uploaded"
    assert (there in summary.lines(), "  written again: repo.json" in summary.lines()) == (not changes, not changes)
