"""The state of published repositories: `repository.json` in each, and `repo.json` for all of a root.

A root has one repository for each image and model, `<root>/<image>/<model>/`. The state of a repository is a short
history of generations. A generation names its artifacts, and the metadata files that are called after their digests.
Files that a kept generation names stay where they are, so a reader that has older metadata still finds them.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import from_json, to_json

from pikaforge.attest.describe import SIGNATURE_SUFFIX
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import schema_of
from pikaforge.errors import PublishError
from pikaforge.formats.artifact import FileRecord, PackageRecord

STATE = "repository.json"
CATALOGUE = "repo.json"
HISTORY = 5
"""Generations that are kept by default."""
STATE_LIMIT = 64 << 20
"""Bytes of `repository.json` and of `repo.json`. A package takes some 2 kB of them."""
BEGIN = 4096
"""Bytes of `repository.json` that say which generation it is of."""
ROLLBACK = 2
"""Generations that are always kept: the current one, and the one that it can be rolled back to."""


NAME = r"\.*[^./\x00][^/\x00]*"
"""Part of a path that is neither empty nor made of dots."""
PathBelow = Annotated[str, Field(pattern=f"^{NAME}(/{NAME})*$")]
"""A path that does not leave its folder. What a site has may have been changed by anybody who can write there.

It is a pattern because there are thousands of them in a state, and pydantic compares patterns without Python.
"""
FolderName = Annotated[str, Field(pattern=f"^{NAME}$")]
Record = TypeVar("Record", bound=Strict)


class File(FileRecord):
    """A file beside an artifact: its signature, bill of materials or provenance."""

    path: PathBelow = Field(description="Below the repository's folder.")


class Artifact(PackageRecord, File):
    """A package that was published."""

    package: str = Field(description="The name by which it is installed.")
    version: str = Field(description="Its version as its package manager writes it.")
    product_version: str = Field(description="Version of the product.")
    cell: str = Field(description="MODEL-IMAGE-ALLOCATOR.")
    allocator: str = Field(description="Memory allocator.")
    target: str = Field(description="Microarchitecture that it was built for.")
    wanted: str = Field(default="", description="The best one that all CPUs of the model run, where that is another.")
    not_run: str = Field(
        default="", description="For people: what was tried in the place of `target`, where that was not run."
    )
    epoch: int = Field(description="Date of its source, in seconds since 1970: what its files are dated.")
    built: str = Field(description="When its build ended, ISO 8601 in UTC.")
    published: str = Field(description="When it was first put here, ISO 8601 in UTC.")
    since: int = Field(description="Number of the generation that first had it.")
    body: str = Field(default="", description="Of an RPM: SHA-256 without its signature.")
    beside: tuple[File, ...] = Field(default=(), description="What lies beside it.")

    @property
    def signed(self) -> bool:
        """Return whether its signature is beside it."""
        return any(file.path == f"{self.path}{SIGNATURE_SUFFIX}" for file in self.beside)

    def files(self) -> tuple[File, ...]:
        """Return it with the files beside it."""
        return (self, *self.beside)


class Generation(Strict):
    """One state of a repository that readers could see."""

    number: int = Field(ge=1, description="Counts up; never used twice.")
    revision: int = Field(
        description="Date of the metadata in seconds since 1970: that of the newest source in it, or one more than the "
        "generation before, so that it always grows; but never after the time of publishing."
    )
    published: str = Field(description="When it was switched to, ISO 8601 in UTC.")
    valid_until: int | None = Field(
        default=None, description="Seconds since 1970 after which apt refuses the metadata; null: never."
    )
    restores: int | None = Field(default=None, description="The generation whose artifacts it has again.")
    key: str = Field(default="", description="Fingerprint of the key that signed its metadata; empty: none did.")
    artifacts: tuple[str, ...] = Field(description="Paths of what its metadata names, sorted.")
    metadata: tuple[File, ...] = Field(default=(), description="Files of it that are called after their digests.")


class State(Strict):
    """`repository.json`: what is in one repository, and what was before."""

    format: Literal[1] = Field(default=1, description="Version of this file's layout.")
    product: str = Field(description="What is published.")
    image: FolderName = Field(description="OS image.")
    model: FolderName = Field(description="Hardware model.")
    generations: tuple[Generation, ...] = Field(min_length=1, description="The kept ones, newest first.")
    artifacts: dict[str, Artifact] = Field(description="By path: all that a kept generation names.")

    @model_validator(mode="after")
    def _knows_its_artifacts(self) -> State:
        named = {path for generation in self.generations for path in generation.artifacts}
        right = {path for path, artifact in self.artifacts.items() if artifact.path == path}
        for path in sorted(named - right):
            raise ValueError(f"a generation names {path!r}, of which there is no record")
        return self

    @property
    def place(self) -> str:
        """Return its folder below the root."""
        return f"{self.image}/{self.model}"

    @property
    def current(self) -> Generation:
        """Return the generation that readers see."""
        return self.generations[0]

    def listed(self) -> tuple[Artifact, ...]:
        """Return the artifacts that the current metadata names."""
        return tuple(self.artifacts[path] for path in self.current.artifacts)

    def by_path(self) -> dict[str, File]:
        """Return all files that kept generations name."""
        found: dict[str, File] = {}
        for artifact in self.artifacts.values():
            found[artifact.path] = artifact
            for file in artifact.beside:
                found[file.path] = file
        for generation in self.generations:
            found.update((file.path, file) for file in generation.metadata)
        return found

    def files(self) -> tuple[File, ...]:
        """Return all files that kept generations name, each once."""
        return tuple(self.by_path().values())

    def before(self) -> Generation | None:
        """Return the generation that a rollback restores; None if no such one is kept.

        After a rollback from 7 to what 6 was, the next rollback restores 5, and not 7.
        """
        by_number = {generation.number: generation for generation in self.generations}
        at = self.current
        while at.restores is not None and at.restores in by_number:
            at = by_number[at.restores]
        start = at.restores if at.restores is not None else at.number
        older = [generation for generation in self.generations if generation.number < start]
        return older[0] if older else None


class Repository(Strict):
    """One repository, as `repo.json` tells of it."""

    path: PathBelow = Field(description="Its folder below the root: IMAGE/MODEL.")
    image: FolderName = Field(description="OS image.")
    model: FolderName = Field(description="Hardware model.")
    generation: int = Field(description="Number of the current generation.")
    published: str = Field(description="When it was switched to, ISO 8601 in UTC.")
    artifacts: tuple[Artifact, ...] = Field(description="What its metadata names; paths are below its folder.")


class Key(Strict):
    """The key that metadata and packages are signed with."""

    path: str = Field(description="The public key, below the root.")
    fingerprint: str = Field(description="Of the primary key.")


class Catalogue(Strict):
    """`repo.json`: everything that a root offers."""

    format: Literal[1] = Field(default=1, description="Version of this file's layout.")
    product: str = Field(description="What is published.")
    summary: str = Field(default="", description="What it is, in one line.")
    url: str = Field(description="Where clients find the root.")
    key: Key | None = Field(default=None, description="Null where nothing is signed.")
    repositories: tuple[Repository, ...] = Field(default=(), description="Sorted by path.")

    def of(self, place: str) -> Repository | None:
        """Return the repository in a folder; None if there is none."""
        return next((repository for repository in self.repositories if repository.path == place), None)


def entry(state: State) -> Repository:
    """Return the entry of a repository in the catalogue."""
    return Repository(
        path=state.place,
        image=state.image,
        model=state.model,
        generation=state.current.number,
        published=state.current.published,
        artifacts=state.listed(),
    )


def read_state(data: bytes | None, *, where: str) -> State | None:
    """Parse the state of a repository; return None if there is none yet.

    Raises:
        PublishError: it cannot be parsed. To publish over it would lose its history.
    """
    return None if data is None else _parsed(State, data, where)


class _Number(BaseModel):
    number: int = Field(strict=True)


class _Identity(BaseModel):
    """What says whose a state is."""

    image: FolderName
    model: FolderName
    generations: tuple[_Number, ...] = Field(min_length=1)


def identity(data: bytes) -> tuple[str, int] | None:
    """Return the place and the current number of a state, which are at its begin; None if it is none."""
    for part in (data[:BEGIN], data):
        try:
            found = _Identity.model_validate(from_json(part, allow_partial=part is not data))
        except ValueError:
            continue
        return f"{found.image}/{found.model}", found.generations[0].number
    return None


def read_catalogue(data: bytes | None, *, where: str, anew: Collection[str] = ()) -> Catalogue | None:
    """Parse the catalogue of a root; return None if there is none yet.

    Args:
        data: its bytes.
        where: what an error names.
        anew: paths of repositories whose entries are made anew from their states. What the catalogue says of their
            artifacts is left out, and so it is not looked at.

    Raises:
        PublishError: it cannot be parsed.
    """
    return None if data is None else _parsed(Catalogue, _without(data, anew) if anew else data, where)


def _without(data: bytes, places: Collection[str]) -> bytes:
    """Return a catalogue without the artifacts of some repositories; the same bytes if it cannot be read."""
    try:
        found = from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return data
    repositories = found.get("repositories") if isinstance(found, dict) else None
    for repository in repositories if isinstance(repositories, list) else ():
        if isinstance(repository, dict) and repository.get("path") in list(places):  # it may be anything
            repository["artifacts"] = []
    return to_json(found)


def _parsed(model: type[Record], data: bytes, where: str) -> Record:
    with collector_paused():
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise _damaged(error, where) from error


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let Python not look for cycles meanwhile: it would look at thousands of records again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _damaged(error: ValidationError, where: str) -> PublishError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    said = f"{first['input']!r} leads elsewhere" if first["type"] == "string_pattern_mismatch" else first["msg"]
    return PublishError(
        f"it cannot be read: {f'{place}: ' if place else ''}{said}",
        where=where,
        hint="was it made by another version, or edited? put the right file back, or begin with a new root",
    )


def text(record: Strict) -> bytes:
    """Return the text of a record's file."""
    return (record.model_dump_json(indent=1, exclude_none=True) + "\n").encode()


def schema() -> dict[str, object]:
    """Return the JSON schema of `repo.json`."""
    return schema_of(Catalogue)
