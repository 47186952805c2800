"""What a bundle has for the caches of a build: images, commits, downloads. It is a part of the manifest."""

from __future__ import annotations

from pydantic import ValidationError

from pikaforge.bundle.listing import DAMAGED, Listing
from pikaforge.config.scalars import Strict
from pikaforge.errors import BundleError


class BundledImage(Strict):
    """An image for the engine: `images/CONFIG` and `images/LAYER` are its files."""

    tag: str
    """The engine's name of it."""
    label: str
    """The image's name in matrix.yaml, or that of one of the tool's own images."""
    config: str
    layers: tuple[str, ...]


class BundledResult(Strict):
    """A result of the image stage, which is in `store/image/KEY/`."""

    label: str
    key: str


class BundledCommit(Strict):
    """A commit of a repository: `git/PACK`."""

    url: str
    commit: str
    pack: str
    ends: tuple[str, ...] = ()
    """Commits in it whose parents it does not have."""


class BundledFile(Strict):
    """A file for the folder of downloads: `downloads/NAME`."""

    name: str
    sha256: str


class Contents(Strict):
    """All of it."""

    source: str
    """The source, as `--source` names it; empty for the product's own."""
    images: tuple[BundledImage, ...] = ()
    results: tuple[BundledResult, ...] = ()
    commits: tuple[BundledCommit, ...] = ()
    downloads: tuple[BundledFile, ...] = ()


def contents_of(listing: Listing, where: str) -> Contents:
    """Return what a bundle has for the caches.

    Raises:
        BundleError: its manifest says it in another way.
    """
    try:
        return Contents.model_validate(dict(listing.contents), strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"the manifest of the bundle is wrong: {place}: {first['msg']}", where=where, hint=DAMAGED
        ) from error
