"""Upkeep, as invoke tasks: each is a verb of the tool, run in its own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

HERE = Path(__file__).resolve().parent


def forge(*words: str) -> None:
    """Run a verb through nox, which keeps the tool's environment; end with its exit status."""
    environment = {**os.environ, "PIKAFORGE_CWD": os.environ.get("PIKAFORGE_CWD", str(Path.cwd()))}
    argv = [sys.executable, "-m", "nox", "--noxfile", str(HERE / "noxfile.py"), "--session", "tool", "--", *words]
    try:
        status = subprocess.run(argv, env=environment, check=False).returncode
    except KeyboardInterrupt:
        status = 130
    if status:
        raise Exit(code=status)


def given(**options: str) -> list[str]:
    """The options that have a value, as words."""
    return [word for name, value in options.items() if value for word in (f"--{name}", value)]


@task(help={"source": "as for build", "image": "pin this image's base anew, too", "matrix": "another matrix.yaml"})
def lock(_: Context, source: str = "", image: str = "", matrix: str = "") -> None:
    """Refresh sources.lock and show the difference."""
    forge("lock", *given(source=source, image=image, matrix=matrix))


@task(name="list", help={"source": "as for build", "matrix": "another matrix.yaml"})
def patches_list(_: Context, source: str = "", matrix: str = "") -> None:
    """Show the patch series with its pins."""
    forge("patches", "list", *given(source=source, matrix=matrix))


@task(name="check", help={"source": "as for build", "matrix": "another matrix.yaml"})
def patches_check(_: Context, source: str = "", matrix: str = "") -> None:
    """Tell of each entry of the series whether the source has it, it applies, or it conflicts."""
    forge("patches", "check", *given(source=source, matrix=matrix))


@task(name="list")
def images_list(_: Context) -> None:
    """Show the images that were made."""
    forge("images", "list")


@task(name="remove")
def images_remove(_: Context) -> None:
    """Remove the images that were made."""
    forge("images", "remove")


@task(name="list")
def cache_list(_: Context) -> None:
    """Show the size of stored results and downloads."""
    forge("cache", "list")


@task(name="clean")
def cache_clean(_: Context) -> None:
    """Remove stored results, downloads and the compiler cache."""
    forge("cache", "clean")


@task(help={"folder": "where to"})
def sample(_: Context, folder: str) -> None:
    """Make the sample server's git repositories in a folder."""
    forge("sample", folder)


@task
def schema(_: Context) -> None:
    """Write the JSON schemas of the configuration files anew."""
    forge("schema")


@task
def clean(_: Context) -> None:
    """Remove out/, dist/ and tool caches from the checkout."""
    forge("clean")


namespace = Collection(lock, sample, schema, clean)
namespace.add_collection(Collection("patches", patches_list, patches_check))
namespace.add_collection(Collection("images", images_list, images_remove))
namespace.add_collection(Collection("cache", cache_list, cache_clean))
