"""A folder with packages under dist/: how a package gets into it, and its SHA256SUMS."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX, SUMS, sums_text
from pikaforge.errors import ForgeError, FullDiskError, HostError
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.format import of
from pikaforge.host.durable import has, write_atomically
from pikaforge.host.store import Result, sha256

LINE = re.compile(r"([0-9a-f]{64})  ([^\s./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*)")
"""A line of SHA256SUMS. No name leads out of the folder, or has what a terminal obeys."""


def unsaid(_path: Path) -> None:
    """Say nothing of a file."""


def put_package(
    result: Result,
    artifact: ArtifactRecord,
    folder: Path,
    *,
    noted: Set[str] = frozenset(),
    changed: Callable[[Path], None] = unsaid,
) -> tuple[Path, bool]:
    """Copy a package of a result into a folder; return its path, and whether it was written.

    It is not written if the same package is there already, without a signature in it or with one.

    Args:
        result: has the package.
        artifact: the package.
        folder: the folder.
        noted: digests that the last build has noted of the file there.
        changed: gets the path of a file that is none of these, and is written over.
    """
    source = result.files[artifact.path]
    path = folder / artifact.name
    if path.is_file():
        found = sha256(path)
        if found == artifact.sha256:
            return path, False
        if (not noted or found in noted or artifact.sha256 in noted) and _signed_since(artifact, path, source):
            return path, False
        if noted and found not in noted:
            changed(path)
    for suffix in (SBOM_SUFFIX, PROVENANCE_SUFFIX, SIGNATURE_SUFFIX):
        path.with_name(path.name + suffix).unlink(missing_ok=True)  # they are about another file
    write_atomically(path, source.read_bytes())
    return path, True


def _signed_since(artifact: ArtifactRecord, path: Path, source: Path) -> bool:
    """Return whether two packages differ in a signature within the file at most."""
    kind = of(artifact.format)
    try:
        body = kind.body(path)
        if not body or body != kind.body(source):
            return False
        return kind.embedded is not None and bool(kind.embedded.signed_part(path).signature)
    except FullDiskError:
        raise
    except ForgeError:
        return False


def descriptions(path: Path) -> tuple[Path, Path]:
    """Return the paths of a package's SBOM and provenance."""
    return path.with_name(path.name + SBOM_SUFFIX), path.with_name(path.name + PROVENANCE_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What SHA256SUMS of a folder says."""

    digests: Mapping[str, str]
    """By file name."""
    damaged: bool = False
    """Whether it has lines that say nothing, or speak of one file again."""


def listed(folder: Path) -> Sums:
    """Read SHA256SUMS of a folder.

    Raises:
        HostError: it cannot be read.
    """
    path = folder / SUMS
    if path.exists() and not path.is_file():  # a reader of a pipe would wait for ever
        raise HostError(
            f"{path} is not a file", hint="it is in the way: move it away, and the next build writes the file"
        )
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return Sums(digests={})
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    found = [LINE.fullmatch(line) for line in lines[:-1]]
    digests = {match[2]: match[1] for match in found if match}
    return Sums(digests=digests, damaged=len(digests) < len(found) or bool(lines[-1]))


def write_sums(folder: Path, digests: Mapping[str, str]) -> None:
    """Write SHA256SUMS of a folder.

    Args:
        folder: the folder.
        digests: digests by file name; what the file listed before stays, if it is there still. If the sums change,
            their signature is removed first, because it is that of others.

    Raises:
        HostError: the file that is there cannot be read.
    """
    path = folder / SUMS
    sums = {name: digest for name, digest in listed(folder).digests.items() if (folder / name).is_file()}
    sums.update(digests)
    text = sums_text(sums.items())
    if not has(path, text):
        path.with_name(path.name + SIGNATURE_SUFFIX).unlink(missing_ok=True)
        write_atomically(path, text)
