"""Commits of git as files: exported from a bare repository, and put into another one. See `git_cache.Cache.add`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pikaforge.errors import HostError
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.durable import write_atomically
from pikaforge.host.git_program import git, pristine
from pikaforge.host.git_urls import COMMIT
from pikaforge.host.store import sha256
from pikaforge.host.text import clean

SAME = ("--threads=1", "--window=0", "--no-reuse-delta", "--no-reuse-object", "--compression=0", "--quiet")
"""Options of git-pack-objects(1) by which the same commit gives the same bytes, whoever has sent its objects. Nothing
is compressed, because the archive that the file is for is compressed as a whole."""


def unnoticed(_url: str, _commit: str) -> None:
    """Take no note of a commit that is wanted."""


def export(repository: Path, commit: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Write what a bare repository has of a commit and its ancestors to a pack in a folder.

    Returns:
        The file; and the commits in it whose parents the repository does not have.

    Raises:
        HostError: objects are missing.
    """
    done = git(
        "pack-objects", *SAME, "--revs", str(folder.absolute() / commit),
        repository=repository, env=pristine(repository), stdin=f"{commit}\n".encode(),
    )  # fmt: skip
    if done.status != 0:
        raise HostError(f"git cannot pack the commit {commit}: {clean(done.errors().strip())}", where=str(repository))
    pack = folder / f"{commit}-{done.text().strip()}.pack"
    try:
        ends = set((repository / "shallow").read_text(encoding="ascii").split())
    except FileNotFoundError:
        return pack, ()
    first = git("rev-list", "--max-parents=0", commit, repository=repository).text().split()
    return pack, tuple(sorted(ends.intersection(first)))


def unpack(pack: Path, repository: Path, ends: Sequence[str]) -> None:
    """Put the objects of a pack into a bare repository, whose lock is held. git computes the name of each again.

    Args:
        pack: the file.
        repository: the repository.
        ends: commits whose parents the pack does not have.

    Raises:
        HostError: the pack is damaged, or an end is no commit.
    """
    if not all(COMMIT.fullmatch(end) for end in ends):
        raise HostError(f"{pack} has an end that is no commit")
    folder = repository / "objects" / "pack"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"pack-{sha256(pack)[:40]}.pack"
    with full_disk_errors(folder):
        shutil.copyfile(pack, target)
    done = git("index-pack", str(target.absolute()), repository=repository)
    if done.status != 0:
        target.unlink(missing_ok=True)
        raise HostError(f"{pack} is damaged: {clean(done.errors().strip())[-300:]}")
    if ends:
        shallow = repository / "shallow"
        known = shallow.read_text(encoding="ascii").split() if shallow.exists() else []
        write_atomically(shallow, "".join(f"{end}\n" for end in sorted({*known, *ends})))
