"""Finished builds of the sample that tests start from or look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
