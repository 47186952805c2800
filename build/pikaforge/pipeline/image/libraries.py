"""The distribution's own libraries in an image: package, version and digests of what its loader finds.

They are recorded in the build image, before any recipe has run in it. The package database has digests of the files
that packages have brought. A library with another digest is not recorded as the distribution's.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from pikaforge.audit.distribution import PackagedRecord
from pikaforge.audit.elf.code import code_digest
from pikaforge.audit.elf.layout import is_elf
from pikaforge.config.scalars import Strict
from pikaforge.errors import AuditError, StageError
from pikaforge.host.archive_kinds import members
from pikaforge.host.disk import is_full
from pikaforge.host.job import Job
from pikaforge.host.store import Result
from pikaforge.host.text import size_text
from pikaforge.host.workspace import Workspace, failure, run_job

SCRIPT = "libraries.sh"
FILE = "libraries.json"
"""In the image stage's result."""
LIMIT = 20_000
"""Libraries; an image that has more is none of a distribution."""
LINE_LIMIT = 4096
"""Characters of a path, and of a line of the package database."""
SIZE_LIMIT = 512 << 20
"""Bytes of one library."""
TOTAL_LIMIT = 16 << 30
"""Bytes of all libraries."""
DIGESTS: Mapping[int, str] = {32: "md5", 40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}
"""Kinds of digests in package databases, by their length in hex."""


Owners = Mapping[str, Sequence[tuple[str, str, str]]]
"""Package, version and digest by path."""


class ImageLibrary(PackagedRecord):
    """One library of an image, as its package has brought it. `code` is empty if it is no ELF file that can be read."""

    path: str
    """In the image."""


class Libraries(Strict):
    """The record of an image's libraries."""

    libraries: tuple[ImageLibrary, ...]
    """Sorted by path."""
    altered: tuple[str, ...]
    """Paths of libraries that are not what their packages have brought."""

    def by_digest(self) -> dict[str, ImageLibrary]:
        """Return the libraries by their SHA-256; of several with one, the first by its path."""
        found: dict[str, ImageLibrary] = {}
        for library in self.libraries:
            found.setdefault(library.sha256, library)
        return found


def measure(workspace: Workspace, image: str, *, stage: str, label: str, log: Path, into: Path) -> Path:
    """Record the libraries of an image; return the path of the record.

    Args:
        workspace: where it is run.
        image: the build image; "" with the host engine.
        stage: the stage of the node, for errors.
        label: the label of the node.
        log: the log of the node.
        into: the folder for the record.

    Raises:
        StageError: the libraries cannot be fetched, or are more than a distribution has.
    """
    with workspace.store.scratch() as scratch:
        job = Job(
            label=f"{stage}-{label}".replace("+", "-"),
            image=image,
            argv=("sh", f"guest/{SCRIPT}"),
            # This machine's own libraries may be a gigabyte. They are read where they are.
            env={"PIKAFORGE_ARCHIVE": str(int(workspace.engine.kind != "host"))},
            inputs=(workspace.guest(SCRIPT),),
            outputs=("out/libraries.tar",),
            facts=("out/list", "out/owned"),
            log=log,
        )
        done = run_job(workspace, job, scratch, stage=stage, label=label, failed="the image's libraries cannot be read")
        host = workspace.engine.kind == "host"
        files = _local(done.outputs["out/list"]) if host else _archived(done.outputs["out/libraries.tar"])
        try:
            record = _record(files, _owners(done.outputs["out/owned"]), scratch / "library")
        except (AuditError, OSError, ValueError) as error:
            if is_full(error):
                raise
            text = error.message if isinstance(error, AuditError) else str(error)
            raise StageError(
                f"the image's libraries cannot be recorded: {text}", failure(stage=stage, label=label, log=log)
            ) from error
    path = into / FILE
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def read(image: Result) -> Libraries:
    """Read the record of an image stage's result; return an empty one if there is none."""
    try:
        return Libraries.model_validate_json(image.files[FILE].read_bytes())
    except (KeyError, OSError, ValidationError):
        return Libraries(libraries=(), altered=())


def _archived(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield path and content of each library in an archive."""
    for member in members(path):
        if member.content is not None:
            yield f"/{member.name}", member.content


def _local(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield path and content of each library on this machine that may be read."""
    for name in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(OSError), Path(name).open("rb") as stream:
            yield name, stream


def _record(files: Iterable[tuple[str, IO[bytes]]], owners: Owners, place: Path) -> Libraries:
    """Compare libraries with the package database; return the record.

    Raises:
        AuditError: the archive of the libraries is corrupt.
        ValueError: they are more or larger than a distribution's.
    """
    found: dict[str, ImageLibrary] = {}
    altered: dict[str, None] = {}
    total = 0
    for path, content in files:
        if len(path) > LINE_LIMIT or not path.isprintable():
            continue
        rows = [row for name in _names(path) for row in owners.get(name, ())]
        kinds = {"sha256", *(DIGESTS[len(row[2])] for row in rows)}
        # Older package databases have MD5 or SHA-1, which are good enough to find accidental changes.
        hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
        size = 0
        with place.open("wb") as out:
            while block := content.read(1 << 20):
                size += len(block)
                if size > SIZE_LIMIT:
                    raise ValueError(f"{path} has more than {size_text(SIZE_LIMIT)}")
                out.write(block)
                for digest in hashes.values():
                    digest.update(block)
        total += size
        if len(found) + len(altered) >= LIMIT or total > TOTAL_LIMIT:
            raise ValueError("there are more of them than a distribution has")
        good = [row for row in rows if hashes[DIGESTS[len(row[2])]].hexdigest() == row[2]]
        if good:
            package, version, _ = good[0]
            found[path] = ImageLibrary(
                path=path,
                package=package,
                version=version,
                sha256=hashes["sha256"].hexdigest(),
                code=_code(place),
            )
        elif rows:
            altered[path] = None
    return Libraries(libraries=tuple(found[path] for path in sorted(found)), altered=tuple(sorted(altered)))


def _owners(path: Path) -> Owners:
    """Read the lines of the package database that can be used."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream):
            if number >= LIMIT * 10:
                raise ValueError("the package database names more libraries than a distribution has")
            fields = line.rstrip("\n").split("\t")
            good = len(fields) == 4 and len(line) <= LINE_LIMIT and all(field.isprintable() for field in fields)
            if good and len(fields[2]) in DIGESTS:
                found.setdefault(fields[3], []).append((fields[0], fields[1], fields[2]))
    return found


def _names(path: str) -> Iterable[str]:
    """Return the names that a package may have for a file: with merged /usr, /lib and /usr/lib are one folder."""
    return (path, path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}")


def _code(path: Path) -> str:
    with path.open("rb") as stream:
        if not is_elf(stream.read(4)):
            return ""
    try:
        return code_digest(path)
    except AuditError:
        return ""
