"""Tasks for upkeep. Each runs a verb of the tool in the environment that nox makes for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

HERE = Path(__file__).resolve().parent


def forge(*words: str) -> None:
    """Run a verb with nox, and end with its exit status."""
    environment = {**os.environ, "PIKAFORGE_CWD": os.environ.get("PIKAFORGE_CWD", str(Path.cwd()))}
    argv = [sys.executable, "-m", "nox", "--noxfile", str(HERE / "noxfile.py"), "--session", "tool", "--", *words]
    with subprocess.Popen(argv, env=environment) as child:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _frame: child.send_signal(number))
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:
                continue  # nox got the signal, too, and its status says so
    if status:
        raise Exit(code=128 - status if status < 0 else status)


def given(**options: str) -> list[str]:
    """Return the options that have a value, as words of a command line."""
    return [word for name, value in options.items() if value for word in (f"--{name}", value)]


@task(
    help={
        "source": "git URL, clone, tarball or `sample`",
        "image": "also pin the base of this image",
        "matrix": "another matrix.yaml",
    }
)
def lock(_: Context, source: str = "", image: str = "", matrix: str = "") -> None:
    """Renew the pins in sources.lock, and show what changed."""
    forge("lock", *given(source=source, image=image, matrix=matrix))


@task(name="list", help={"source": "git URL, clone, tarball or `sample`", "matrix": "another matrix.yaml"})
def patches_list(_: Context, source: str = "", matrix: str = "") -> None:
    """List the patch series with its pins."""
    forge("patches", "list", *given(source=source, matrix=matrix))


@task(name="check", help={"source": "git URL, clone, tarball or `sample`", "matrix": "another matrix.yaml"})
def patches_check(_: Context, source: str = "", matrix: str = "") -> None:
    """Check which patches apply, are present, or conflict."""
    forge("patches", "check", *given(source=source, matrix=matrix))


@task(name="list")
def images_list(_: Context) -> None:
    """List the images that were made in the engine."""
    forge("images", "list")


@task(name="remove")
def images_remove(_: Context) -> None:
    """Remove the images that were made in the engine."""
    forge("images", "remove")


@task(name="list")
def cache_list(_: Context) -> None:
    """List the sizes of stored results and downloads."""
    forge("cache", "list")


@task(name="info", help={"json": "print JSON", "matrix": "another matrix.yaml"})
def cache_info(_: Context, json: bool = False, matrix: str = "") -> None:
    """Show the sizes of stored results by stage, and whether the shared store answers."""
    forge("cache", "info", *(["--json"] if json else []), *given(matrix=matrix))


@task(name="prune", help={"keep": "bytes that may stay, such as 20G", "older_than": "days without a use"})
def cache_prune(_: Context, keep: str = "", older_than: str = "") -> None:
    """Remove stored results, those first that were not used for the longest time."""
    forge("cache", "prune", *given(keep=keep), *given(**{"older-than": older_than}))


@task(name="verify", help={"yes": "remove what is damaged"})
def cache_verify(_: Context, yes: bool = False) -> None:
    """Compare stored results with their digests."""
    forge("cache", "verify", *(["--yes"] if yes else []))


@task(name="clean")
def cache_clean(_: Context) -> None:
    """Remove stored results, downloads and compiler caches."""
    forge("cache", "clean")


@task(help={"folder": "the folder to write to"})
def sample(_: Context, folder: str) -> None:
    """Write the git repositories of the sample server to a folder."""
    forge("sample", folder)


@task
def schema(_: Context) -> None:
    """Write the JSON schemas of the file formats."""
    forge("schema")


@task
def clean(_: Context) -> None:
    """Remove out/, dist/ and tool caches from the checkout."""
    forge("clean")


namespace = Collection(lock, sample, schema, clean)
namespace.add_collection(Collection("patches", patches_list, patches_check))
namespace.add_collection(Collection("images", images_list, images_remove))
namespace.add_collection(Collection("cache", cache_list, cache_info, cache_prune, cache_verify, cache_clean))
