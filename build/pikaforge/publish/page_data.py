"""What the index page shows: images, repositories and files, in the order of the page. Its script searches the same."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from pydantic import Field

from pikaforge.config.scalars import Strict
from pikaforge.formats.format import Format, every
from pikaforge.pages.notation import LABELS, moment, natural, size
from pikaforge.publish.state import Artifact, Catalogue, File, Repository

ROLES = ("main", "allocator", "debug")
"""In the order of the page."""
SHOWN = 100
"""Files of a repository that the page has, the newest ones, so that it does not grow with every publication. The
catalogue has all of them."""
Sorted = TypeVar("Sorted", str, tuple[int, int, int])
Member = TypeVar("Member", str, Artifact)

Install = Callable[[Repository, Artifact], tuple[str, ...]]
"""Returns the shell lines that install an artifact; none if there is no such way."""
Fleet = Callable[[str], tuple[str, ...]]
"""Returns the shell lines that install on any machine of the fleet with an image; none if there is no such way."""


class FileData(Strict):
    """A package. Without `wanted` and `not_run`, it was built for what the model's CPUs can run, and was run."""

    path: str
    """Below the repository."""
    format: str
    role: str
    package: str
    version: str
    product: str
    """Version of the product."""
    cell: str
    target: str
    wanted: str | None
    not_run: str | None = Field(serialization_alias="notRun")
    allocator: str
    built: str
    published: str
    bytes: int
    size: str
    """The same for people."""
    sha256: str
    beside: tuple[tuple[str, str], ...]
    """Label and path of each file that describes the package."""
    install: tuple[int, ...]
    """Numbers of lines."""


class RepositoryData(Strict):
    """The packages of a model for an image."""

    path: str
    model: str
    published: str
    files: tuple[FileData, ...]
    older: int
    """How many further files it has."""


class ImageData(Strict):
    """The repositories of an image."""

    image: str
    fleet: tuple[int, ...]
    """Numbers of lines."""
    repositories: tuple[RepositoryData, ...]


class PageData(Strict):
    """Everything that the page lists."""

    images: tuple[ImageData, ...]
    lines: tuple[str, ...]
    """Lines to copy. Many packages have the same ones, so they are here once, and other places have their numbers."""


def page_data(catalogue: Catalogue, install: Install, fleet: Fleet) -> PageData:
    """Return the data of a catalogue's page. The order of the catalogue's repositories does not matter."""
    lines: dict[str, int] = {}

    def numbers(texts: Iterable[str]) -> tuple[int, ...]:
        return tuple(lines.setdefault(text, len(lines)) for text in texts)

    images = tuple(
        ImageData(
            image=image,
            fleet=numbers(fleet(image)),
            repositories=tuple(
                RepositoryData(
                    path=repository.path,
                    model=repository.model,
                    published=moment(repository.published),
                    files=tuple(
                        _file_data(artifact, numbers(install(repository, artifact)))
                        for artifact in islice(_newest_first(repository.artifacts), SHOWN)
                    ),
                    older=max(0, len(repository.artifacts) - SHOWN),
                )
                for repository in repositories
            ),
        )
        for image, repositories in _by_image(catalogue.repositories).items()
    )
    return PageData(images=images, lines=tuple(lines))


def _file_data(artifact: Artifact, install: tuple[int, ...]) -> FileData:
    return FileData(
        path=artifact.path,
        format=artifact.format,
        role=artifact.role,
        package=artifact.package,
        version=artifact.version,
        product=artifact.product_version,
        cell=artifact.cell,
        target=artifact.target,
        wanted=artifact.wanted or None,
        not_run=artifact.not_run or None,
        allocator=artifact.allocator,
        built=moment(artifact.built),
        published=moment(artifact.published),
        bytes=artifact.bytes,
        size=size(artifact.bytes),
        sha256=artifact.sha256,
        beside=tuple((_label(artifact, file), file.path) for file in artifact.beside),
        install=install,
    )


def _label(artifact: Artifact, file: File) -> str:
    """Return what a file beside an artifact is; its name if that is not known."""
    if file.path.startswith(artifact.path) and (label := LABELS.get(file.path[len(artifact.path) :])):
        return label
    return posixpath.basename(file.path)


# ---- order


def formats() -> list[Format]:
    """Return all formats; those that system package managers install come first."""
    return sorted(every(), key=lambda kind: not kind.families)


def _by_image(repositories: Iterable[Repository]) -> dict[str, list[Repository]]:
    """Return the repositories by image, both with the newest publication first.

    Only the day counts, then the name. So models that were published in one run are in an order that people expect.
    """

    def day(repository: Repository) -> str:
        return moment(repository.published)[:10]

    by_name = sorted(repositories, key=lambda repository: (natural(repository.image), natural(repository.model)))
    images: dict[str, list[Repository]] = {}
    for repository in by_name:
        images.setdefault(repository.image, []).append(repository)
    for members in images.values():
        members.sort(key=day, reverse=True)
    return dict(sorted(images.items(), key=lambda item: day(item[1][0]), reverse=True))


def _newest_first(artifacts: Iterable[Artifact]) -> Iterator[Artifact]:
    """Yield artifacts by publication, the newest first; then newer versions first, and debug information last.

    Of several allocators the default one is first: its files have no allocator in their names, so theirs are shorter.
    Only what is asked for is put in order: a page has few of the files of a large repository.
    """
    order = {kind.name: place for place, kind in enumerate(formats())}

    def kind(artifact: Artifact) -> tuple[int, int, int]:
        return ROLES.index(artifact.role), order[artifact.format], len(artifact.name)

    by_time = _grouped(artifacts, lambda artifact: artifact.published)
    times = _grouped(by_time, moment)
    for time in sorted(times, reverse=True):
        at_once = (artifact for published in times[time] for artifact in by_time[published])
        by_version = _grouped(at_once, lambda artifact: artifact.product_version)
        for version in sorted(by_version, key=natural, reverse=True):
            by_kind = _grouped(by_version[version], kind)
            for each in sorted(by_kind):
                yield from sorted(by_kind[each], key=lambda artifact: natural(artifact.path))


def _grouped(members: Iterable[Member], key: Callable[[Member], Sorted]) -> dict[Sorted, list[Member]]:
    found: dict[Sorted, list[Member]] = {}
    for member in members:
        found.setdefault(key(member), []).append(member)
    return found
