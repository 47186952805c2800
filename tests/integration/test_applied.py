"""Sources that have patches of the series already, as forks and later masters do: the branches of the sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Done, Project
    from integration.conftest import Git, Shop

pytestmark = pytest.mark.engine

PULLS = (988, 990, 1017, 1041)


@pytest.fixture(scope="module")
def project(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One project for the tests that only look: results and downloads of one serve the others."""
    return shop.ready(tmp_path_factory.mktemp("applied"))


def check(project: Project, fork: Path, ref: str, *entries: dict[str, Any]) -> Done:
    """`patches check` of a series on a branch of the fork."""
    project.series(*(entries or [project.pull(number) for number in PULLS]))
    return project.tool(*project.arguments("patches", "check", source=f"{fork}#{ref}", image=""))


def states(done: Done) -> dict[str, tuple[str, str]]:
    """The table at the end: state and remarks by patch."""
    _, _, table = done.stdout.rpartition("\nPATCH  ")
    rows = table.splitlines()[1:]
    return {name: (state, remarks) for name, state, remarks in (re.split(r"  +", row, maxsplit=2) for row in rows)}


@pytest.fixture(scope="session")
def fork(sample_repositories: Path) -> Path:
    """The sample's repository as a local clone; it is not changed."""
    return sample_repositories / "pika.git"


def test_a_fork_whose_tag_has_the_whole_series(
    ready: Project, shop: Shop, tiny: Callable[..., Project], git: Git, fork: Path
) -> None:
    """It builds, and its packages say what they are made of."""
    ready = tiny()
    ready.series(*(ready.pull(number) for number in PULLS))
    done = ready.build("R620", source=f"{fork}#v3.4.0-2", check=0)
    commit = git("rev-parse", "v3.4.0-2^{commit}", cwd=fork)
    assert commit != git("rev-parse", "v3.4.0-2", cwd=fork), "the tag is an annotated one"
    said = [
        f"note: the source is v3.4.0-2 ({commit}), not product.source; packages keep the version v3.4.0",
        "note: in the source already, so not applied: pull-988, pull-990, pull-1017, pull-1041",
    ]
    assert [line for line in done.stdout.splitlines() if line in said] == said
    package = ready.package()
    with tarfile.open(package) as tar:
        content = tar.extractfile("pika/manifest.json")
        assert content is not None
        source = json.loads(content.read())["source"]
    assert {name: source[name] for name in ("kind", "url", "ref", "tag", "version", "commit", "head")} == {
        "kind": "clone",
        "url": "",
        "ref": "v3.4.0-2",
        "tag": "v3.4.0-2",
        "version": "v3.4.0-2",
        "commit": commit,
        "head": commit,
    }
    assert [(patch["name"], patch["state"]) for patch in source["patches"]] == [(f"pull-{n}", "present") for n in PULLS]
    bill = json.loads(package.with_name(f"{package.name}.sbom.json").read_text(encoding="utf-8"))
    (component,) = (item for item in bill["components"] if item["bom-ref"] == "source")
    assert "patches" not in component["pedigree"]
    assert component["pedigree"]["notes"] == "in the ancestor already: pull-988, pull-990, pull-1017, pull-1041"
    assert component["pedigree"]["ancestors"][0]["version"] == "v3.4.0-2"
    statement = json.loads(package.with_name(f"{package.name}.intoto.json").read_text(encoding="utf-8"))
    used = {item["name"]: item for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert used["source"]["digest"] == {"gitCommit": commit}
    assert used["source"]["annotations"]["tag"] == "v3.4.0-2"
    assert used["patch pull-1017"]["annotations"] == {"state": "present"}
    verified = ready.tool("verify", package, "--unsigned", *ready.places[:2])
    assert "manifest.json agrees with provenance" in verified.text
    assert not [line for line in verified.stdout.splitlines() if line.startswith("no ")], verified.text
    again = ready.build("R620", source=f"{fork}#v3.4.0-2", check=0)
    assert [line for line in again.stdout.splitlines() if line in said] == said, (
        "a package that is there is told of, too"
    )


def test_a_submodule_that_went_on(project: Project, fork: Path, git: Git) -> None:
    done = check(project, fork, "later")
    assert done.returncode == 0, done.text
    stands = git("rev-parse", "later:third/pink", cwd=fork)
    wanted = git("rev-parse", "merged:third/pink", cwd=fork)
    assert states(done) == {
        "pull-988": ("present", "-"),
        "pull-990": ("present", "-"),
        "pull-1017": ("present", f"third/pink stands at {stands[:12]}, which holds {wanted[:12]}"),
        "pull-1041": ("present", "-"),
    }


def test_lines_that_went_on(project: Project, fork: Path, git: Git) -> None:
    """The tree alone tells of three; of the fourth the history, which is fetched for it."""
    done = check(project, fork, "moved-on", *(project.pull(n) for n in PULLS), project.pull(1339) | {"enabled": False})
    assert done.returncode == 0, done.text
    came = git("log", "-1", "--format=%h (%s)", "squashed", cwd=fork)
    found = states(done)
    assert [state for state, _ in found.values()] == ["present"] * 4 + ["disabled"]
    assert found["pull-988"][1] == "src/pika_keyspace.cc: hunk #1 +2 lines"
    assert found["pull-1041"][1] == f"it came with {came}, and its lines were changed since"


def test_half_of_a_pull_request_and_one_that_must_not_be_there(project: Project, fork: Path) -> None:
    done = check(
        project, fork, "half", project.pull(988) | {"already": "refuse"}, project.pull(1102), project.pull(990)
    )
    assert done.returncode == 4, done.text
    subject = "[PATCH 1/2] Say in which unit times are"
    for reason in (
        "patch pull-988 is in the source already, and `already: refuse` forbids that",
        f"patch pull-1102 ({subject}) does not apply",
        "a part of it is in the source already, and a part is not",
        f"the change of include/pika_latency.h (mail 1, {subject}) is in the source already",
        "the change of conf/pika.conf (mail 2, [PATCH 2/2] Say which clients timeout is about) is not",
    ):
        assert f"  reason: {reason}\n" in done.text
    assert {name: state for name, (state, _) in states(done).items()} == {
        "pull-988": "refused",
        "pull-1102": "conflict",
        "pull-990": "present",
    }


def test_what_was_mended_in_another_way(project: Project, fork: Path) -> None:
    """One that conflicts does not hide what the others are."""
    done = check(project, fork, "conflict")
    assert done.returncode == 4, done.text
    assert "  reason: hunk #1 is rejected in src/pika_coding.cc\n" in done.text
    assert "is in the source already" not in done.text
    assert {name: state for name, (state, _) in states(done).items()} == {
        "pull-988": "applies",
        "pull-990": "conflict",
        "pull-1017": "applies",
        "pull-1041": "applies",
    }
