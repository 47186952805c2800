"""A folder with packages under dist/: how a package gets into it, and its SHA256SUMS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX, SUMS
from pikaforge.errors import ForgeError, FullDiskError, HostError
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.format import of
from pikaforge.host.store import Result, sha256, write_atomically


def put_package(result: Result, artifact: ArtifactRecord, folder: Path) -> tuple[Path, bool]:
    """Copy a package of a result into a folder; return its path, and whether it was written.

    It is not written if the same package is there already, without a signature in it or with one.
    """
    source = result.files[artifact.path]
    path = folder / artifact.name
    if path.is_file() and (sha256(path) == artifact.sha256 or _signed_since(artifact, path, source)):
        return path, False
    for suffix in (SBOM_SUFFIX, PROVENANCE_SUFFIX, SIGNATURE_SUFFIX):
        path.with_name(path.name + suffix).unlink(missing_ok=True)  # they are about another file
    write_atomically(path, source.read_bytes())
    return path, True


def _signed_since(artifact: ArtifactRecord, path: Path, source: Path) -> bool:
    """Return whether two packages differ in a signature within the file at most."""
    kind = of(artifact.format)
    try:
        body = kind.body(path)
        return bool(body) and body == kind.body(source)
    except FullDiskError:
        raise
    except ForgeError:
        return False


def descriptions(path: Path) -> tuple[Path, Path]:
    """Return the paths of a package's SBOM and provenance."""
    return path.with_name(path.name + SBOM_SUFFIX), path.with_name(path.name + PROVENANCE_SUFFIX)


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
    sums: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            if name and (folder / name).is_file():
                sums[name] = digest
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    sums.update(digests)
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    if not path.is_file() or path.read_bytes() != text.encode():
        path.with_name(path.name + SIGNATURE_SUFFIX).unlink(missing_ok=True)
        write_atomically(path, text)
