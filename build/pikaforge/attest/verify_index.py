"""Verification of a repository's index, whose signed file names the others with their digests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pikaforge.attest.check_result import CheckResult
from pikaforge.attest.claims import ClaimError, read_bytes
from pikaforge.formats.format import IndexLayout
from pikaforge.host.store import sha256

DIGEST_IN_NAME = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
WHAT = "digest in the index"


def examine(folder: Path, layout: IndexLayout, signature: Callable[[str, str], CheckResult]) -> Iterator[CheckResult]:
    """Check the files of an index.

    Args:
        folder: with the packages.
        layout: of the index, which is there.
        signature: checks the signature of a file, given their paths below the folder.
    """
    if layout.signature:
        yield signature(layout.pointer, layout.signature)
    else:
        yield CheckResult(
            file=layout.pointer, what="signature", verdict="not checked", why="indexes of its kind have none"
        )
    try:
        digests = layout.digests(read_bytes(folder / layout.pointer))
    except (ClaimError, ValueError) as error:
        yield CheckResult(file=layout.pointer, what="index", verdict="no", why=f"it cannot be read: {error}")
        digests = {}
    for name, digest in sorted(digests.items()):
        yield _named(folder, name, digest)
    for name in sorted(_files(folder, layout)):
        if name not in digests and name not in (layout.pointer, layout.signature):
            yield _other(folder, name, layout)


def _named(folder: Path, name: str, digest: str) -> CheckResult:
    if not all(part.strip(".") for part in name.split("/")):
        return CheckResult(file=name, what=WHAT, verdict="no", why="it is no file of this folder")
    return _compared(folder, name, digest, what=WHAT)


def _compared(folder: Path, name: str, digest: str, *, what: str) -> CheckResult:
    try:
        found = "" if (folder / name).is_symlink() else sha256(folder / name)
    except OSError as error:
        return CheckResult(file=name, what=what, verdict="no", why=f"it cannot be read: {error.strerror}")
    why = "" if found == digest else f"it has SHA-256 {found}, not {digest}" if found else "it is a link"
    return CheckResult(file=name, what=what, verdict="no" if why else "yes", why=why)


def _files(folder: Path, layout: IndexLayout) -> Iterator[str]:
    """Yield the paths of an index, but not its folders."""
    for top in sorted(layout.names):
        path = folder / top
        found = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
        yield from (str(each.relative_to(folder)) for each in found if each.is_symlink() or each.is_file())


def _other(folder: Path, name: str, layout: IndexLayout) -> CheckResult:
    """Check a file that the pointer does not name: of an earlier generation, or one that holds a signature itself."""
    in_name = DIGEST_IN_NAME.search(name.rpartition("/")[2])
    if in_name is not None:
        return _compared(folder, name, in_name[0], what="digest in its name")
    if name in layout.unchecked:
        return CheckResult(file=name, what="signature", verdict="not checked", why="package managers check it")
    return CheckResult(file=name, what="belongs here", verdict="no", why="the index does not name it")


def present(folder: Path, layouts: Mapping[str, IndexLayout]) -> list[IndexLayout]:
    """Return the layouts of the indexes that a folder has."""
    return [layout for layout in layouts.values() if (folder / layout.pointer).is_file()]
