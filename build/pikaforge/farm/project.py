"""The project of a run, as one stored result: matrix.yaml and what it names, the pins, and options that decide keys.

Workers take it from the shared store, under the digest of its text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from pikaforge.config import load
from pikaforge.config.patch_series import Series
from pikaforge.config.scalars import Name, RelativePath, Strict
from pikaforge.config.schema import Spec
from pikaforge.errors import AnswerError, UsageError
from pikaforge.farm.messages import LIMIT, parse
from pikaforge.host.hashing import digest
from pikaforge.host.lockfile import NAME as LOCK
from pikaforge.host.run_id import RunId
from pikaforge.host.store import Result, Store, locked, remove
from pikaforge.host.text import size_text

STAGE = "project"
"""Under this name it is in stores, though no node makes it."""
FILE, MATRIX = "project.json", "matrix.yaml"
MOST = LIMIT // 2
"""Bytes of all files of a project: each worker reads them once."""


class ProjectFile(Strict):
    """A file beside matrix.yaml."""

    path: RelativePath
    content: str = Field(description="In base64.")
    executable: bool = False


class ProjectOptions(Strict):
    """What the command line says about keys and plans."""

    source: str = Field(default="", max_length=4096)
    strict_targets: bool = False
    formats: tuple[Name, ...] = ()
    require_run: bool = False
    locked: bool = False
    compiler_cache: bool = True
    today: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="It decides which waivers hold.")
    emulates: bool = True
    targets: tuple[Name, ...] = Field(default=(), description="Those that a worker's CPU runs.")


class ProjectText(Strict):
    """A project."""

    format: Literal[1] = 1
    files: tuple[ProjectFile, ...] = Field(max_length=10_000)
    options: ProjectOptions


class ProjectFacts(BaseModel):
    """Its stored result has no facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPlace:
    """Where the files of a project are."""

    base: Path
    """The folder of matrix.yaml."""
    matrix: Path
    spec: Spec
    series: Series | None
    sample: bool
    """Whether the source is the sample."""

    def paths(self) -> Iterator[Path]:
        """Yield the files that workers need, but for matrix.yaml."""
        product = self.spec.product
        yield self.base / product.recipe
        yield self.base / LOCK
        if product.sample is not None and self.sample:
            yield from _below((self.base / product.sample).parent)
        if product.patches is None or self.series is None:
            return
        yield self.base / product.patches
        folder = (self.base / product.patches).parent
        for entry in self.series.patches:
            if entry.enabled and entry.file is not None:
                yield folder / entry.file
            elif entry.enabled and entry.quilt is not None:
                yield from _below(folder / entry.quilt)


def _below(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def text_of(place: ProjectPlace, options: ProjectOptions) -> str:
    """Return the text of a project.

    Raises:
        UsageError: its files are too large for that.
    """
    files = [_file(MATRIX, place.matrix)]
    paths = sorted(path for path in set(place.paths()) if path.is_file())
    files += [_file(path.relative_to(place.base).as_posix(), path) for path in paths]
    if (size := sum(len(file.content) for file in files)) > MOST:
        raise UsageError(
            f"the files of the project have {size_text(size)}; a farm takes {size_text(MOST)}",
            where="--farm",
            hint="large patches belong behind a URL (pull: and url:) rather than beside the series",
        )
    return ProjectText(files=tuple(files), options=options).model_dump_json()


def _file(name: str, path: Path) -> ProjectFile:
    executable = bool(path.stat().st_mode & 0o100)
    return ProjectFile(path=name, content=base64.b64encode(path.read_bytes()).decode(), executable=executable)


def store(text: str, into: Store) -> Result:
    """Put a project into a store; return the result."""
    key = digest(text)[:32]
    with into.scratch() as scratch:
        path = scratch / FILE
        path.write_text(text, encoding="utf-8")
        return into.put(STAGE, key, identity=digest(text), facts={}, files={FILE: path})


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedProject:
    """A project on a worker."""

    base: Path
    spec: Spec
    series: Series | None
    options: ProjectOptions


def unpack(result: Result, folder: Path) -> UnpackedProject:
    """Unpack a project below a folder, unless it is there; read it.

    Raises:
        AnswerError: it is not what its key says, or has another form.
        ConfigError: the configuration in it is wrong.
    """
    path = result.files.get(FILE)
    text = path.read_text(encoding="utf-8") if path is not None and path.stat().st_size <= LIMIT else ""
    if digest(text)[:32] != result.key:
        raise AnswerError("the shared store has another project under this key", where=f"{STAGE}/{result.key}")
    project = parse(ProjectText, text, of="the client")
    base = folder / result.key
    if not base.is_dir():
        with locked(folder / ".lock"):
            if not base.is_dir():
                _write(project, base)
    return read(base, project.options)


def _write(project: ProjectText, base: Path) -> None:
    """Write the files beside, and rename the folder."""
    beside = base.with_name(f".{base.name}.{RunId.current().text}-0")
    remove(beside)
    for file in project.files:
        try:
            data = base64.b64decode(file.content, validate=True)
        except binascii.Error as error:
            raise AnswerError(f"the file {file.path} of the project is not in base64") from error
        target = beside / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o755 if file.executable else 0o644)
    beside.rename(base)


def read(base: Path, options: ProjectOptions) -> UnpackedProject:
    """Read an unpacked project, with what its options change in it."""
    spec = load.load(base / MATRIX)
    changes: dict[str, object] = {"fallback": "refuse"} if options.strict_targets else {}
    changes |= {"formats": options.formats} if options.formats else {}
    if changes:
        images = {name: image.model_copy(update=changes) for name, image in spec.images.items()}
        spec = spec.model_copy(update={"images": images})
    patches = spec.product.patches
    series = None if patches is None else load.load_series(base / patches)
    return UnpackedProject(base=base, spec=spec, series=series, options=options)
