"""Base images: a registry's image by digest, or a root that is bootstrapped."""

from __future__ import annotations

from dataclasses import dataclass

from pikaforge.config.schema import Image
from pikaforge.errors import ImageError, UnreachableError
from pikaforge.host import hashing
from pikaforge.host.docker import DockerEngine
from pikaforge.host.images import ImageFacts, RegistryError
from pikaforge.host.lockfile import Lock
from pikaforge.host.workspace import Workspace

REPOSITORY = "pikaforge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A pinned base image."""

    image: str
    """The name of the image entry."""
    registry: str = ""
    """`name@sha256:…`, or empty if bootstrapped."""
    suite: str = ""
    mirror: str | None = None

    @property
    def tag(self) -> str:
        """Return the engine's name of it."""
        if self.registry:
            return self.registry
        return f"{REPOSITORY}/base:{self.image}-{hashing.digest(f'{self.suite} {self.mirror}')[:12]}"


def pinned(name: str, entry: Image, lock: Lock) -> Base | None:
    """Return the base that sources.lock pins for an image; None if it pins none."""
    pins = lock.pins("images", name)
    if "digest" in pins:
        return Base(image=name, registry=_by_digest(entry.base, pins["digest"]))
    if "bootstrap" in pins and pins["bootstrap"] == entry.bootstrap:
        return Base(image=name, suite=pins["bootstrap"], mirror=entry.mirror)
    return None


def identify(name: str, entry: Image, *, workspace: Workspace, offline: bool) -> Base | None:
    """Return the pinned base of an image; None if it is not pinned and `offline` is set.

    Without a pin, the registry's image is taken and pinned, or a bootstrap if no registry is reachable.

    Raises:
        UnreachableError: no registry is reachable and the entry allows no bootstrap.
    """
    lock = workspace.lock
    pins = lock.pins("images", name)
    if not lock.refresh and (base := pinned(name, entry, lock)) is not None:
        return base
    if offline:
        return None
    engine = workspace.engine
    assert isinstance(engine, DockerEngine)
    try:
        facts = engine.pull(entry.base)
    except RegistryError as error:
        if entry.bootstrap is None:
            raise UnreachableError(
                error.message,
                where=f"images.{name}",
                hint="make a registry reachable (or a mirror: the engine's registry-mirrors setting)\n"
                "or load the image into the engine from a file: docker load\n"
                "images with `bootstrap` need no registry",
            ) from error
        if "digest" in pins:
            lock.forget("images", name)
        lock.check("images", name, "bootstrap", entry.bootstrap)
        return Base(image=name, suite=entry.bootstrap, mirror=entry.mirror)
    digest = _digest_of(facts, entry.base)
    if "bootstrap" in pins:
        lock.forget("images", name)
    lock.check("images", name, "digest", digest)
    return Base(image=name, registry=_by_digest(entry.base, digest))


def _by_digest(reference: str, digest: str) -> str:
    return f"{_untagged(reference)}@{digest}"


def _untagged(reference: str) -> str:
    head, _, last = reference.rpartition("/")
    return f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]


def _digest_of(facts: ImageFacts, reference: str) -> str:
    wanted = _untagged(reference).rpartition("/")[2]
    for item in facts.digests:
        name, _, digest = item.partition("@")
        if name.rpartition("/")[2] == wanted:
            return digest
    raise ImageError(
        f"the engine holds {reference} without a registry digest",
        hint="it was loaded or built by hand; push it to a registry, or use `bootstrap`",
    )
