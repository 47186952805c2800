"""Finished builds of the sample that tests start from or look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import Input, Job, files
from pikaforge.host.source_tarball import without_top
from pikaforge.pipeline.report import load

if TYPE_CHECKING:
    from conftest import Done, Project

ALL_FORMATS = "tar,rpm,deb,wheel"
STAGES = ("image", "source", "compile", "audit", "smoke", "package")
ENDED = STAGES[1:]
"""What a project that has its images lacks of a finished build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBuild:
    """A finished build of the sample that all tests share: to look at, and not to be changed."""

    project: Project
    """Its store is the checkout's own out/, where other builds are, too; its dist/ has nothing else."""
    done: Done
    keys: Mapping[str, list[str]]
    """By stage."""
    image: str

    @property
    def dist(self) -> Path:
        """Packages with what lies beside them."""
        return self.project.dist / self.image


def reported(dist: Path) -> list[dict[str, Any]]:
    """The cells of a build report, as JSON with all facts in each."""
    report = load(dist)
    assert report is not None
    cells: list[dict[str, Any]] = report.model_dump(mode="json")["cells"]
    return cells


RELEASE = "release.tar.gz"
MAKE_RELEASE = """#!/bin/sh
set -eu
cd "$PIKAFORGE_ROOT/src"
autoreconf --install
rm -rf autom4te.cache
cd ..
mkdir -p out
tar --create --sort=name --mtime=@1600000000 --owner=0 --group=0 --transform='s,^src,release,' src |
    gzip -n >out/release.tar.gz
"""


def make_release(tarball: Path, image: str, folder: Path) -> None:
    """Make a tarball with configure, `RELEASE` in a folder, of one that has a tree of git, in a build image."""
    source = without_top(tarball, folder / "source.tar").path
    job = Job(
        label="test-release",
        image=image,
        argv=("sh", "release.sh"),
        env={},
        inputs=(
            Input(folder="", archive=files({"release.sh": MAKE_RELEASE.encode()})),
            Input(folder="src", archive=source),
        ),
        outputs=(f"out/{RELEASE}",),
        log=folder / "log",
        timeout=300,
    )
    done = DockerEngine().run(job, folder)
    assert done.status == 0, job.log.read_text(encoding="utf-8", errors="replace")
