"""A finished build of redis for two models, of Debian's source package: tests/products/redis says what redis is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = REPOSITORY / "tests" / "products" / "redis"
DOWNLOAD = PRODUCT / "download"
MODELS = ("R620", "R630")
NO_WAY_TO_FETCH = 3
"""Exit status of fetch.sh where apt cannot fetch."""


def fetch(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run fetch.sh; the caller judges its exit status."""
    return subprocess.run(
        ["sh", str(PRODUCT.parent / "fetch.sh"), "redis", str(target)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBuild:
    """A finished run: what it printed, and how to have another one like it."""

    folder: Path
    output: str
    """What the tool has printed."""

    @property
    def matrix(self) -> Path:
        """matrix.yaml, in a copy of the product's folder: the tool writes its sources.lock there."""
        return self.folder / "product" / "matrix.yaml"

    @property
    def out(self) -> Path:
        """Where images and compiled trees are found again by key, so that a second test run compiles nothing."""
        return Path(os.environ.get("PIKAFORGE_TEST_OUT") or REPOSITORY / "out")

    @property
    def dist(self) -> Path:
        """Packages of both models."""
        return self.folder / "dist"

    def package(self, model: str = MODELS[0]) -> Path:
        """The tarball of a model."""
        return self.dist / "debian12" / f"redis-7.0.15-{model}.tar.gz"

    def make(self) -> str:
        """Build both models; what the tool has printed."""
        done = fetch(DOWNLOAD)
        if done.returncode == NO_WAY_TO_FETCH:
            pytest.skip(f"Debian's source package cannot be fetched here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        ignored = shutil.ignore_patterns("sources.lock", "download.*")
        shutil.copytree(PRODUCT, self.folder / "product", ignore=ignored)
        assert (self.folder / "product" / DOWNLOAD.name).is_dir()
        return run_tool(self.matrix, self.out, self.dist)


def run_tool(matrix: Path, out: Path, dist: Path, *args: str, verb: str = "build") -> str:
    """Build both models, or do something else; what the tool printed."""
    argv = args or (*MODELS, "--os", "debian12")
    places = ("--matrix", str(matrix), "--out", str(out), "--dist", str(dist))
    done = subprocess.run(
        [sys.executable, "-m", "pikaforge", verb, *argv, *places],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "build")},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=3600,
    )
    if done.returncode != 0:
        pytest.fail(f"pikaforge ended with {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout
