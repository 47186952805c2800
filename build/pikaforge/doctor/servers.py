"""The URLs that a configuration leads to, and what each is for. Only `asked` asks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pikaforge.config.patch_series import Series
from pikaforge.config.schema import Spec
from pikaforge.doctor.facts import Purpose, ServerSeen
from pikaforge.host import questions
from pikaforge.host.lockfile import Lock
from pikaforge.pipeline.image.bootstrap import repositories
from pikaforge.pipeline.source.patches import entry_name
from pikaforge.plan import allocators

WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedUrl:
    """A URL to be asked."""

    url: str
    purpose: Purpose


def of_series(series: Series | None, lock: Lock | None, entry: str, *, out: Path) -> Iterator[WantedUrl]:
    """Yield the patches of a series that come from a server.

    Args:
        series: the series.
        lock: pins; None if they cannot be read.
        entry: of the source in the lock.
        out: folder of results and downloads.
    """
    pins = {} if lock is None else lock.pins("sources", entry)
    for patch in series.patches if series is not None else ():
        if patch.enabled and patch.url is not None and patch.url.startswith(WEB):
            pin = pins.get(f"patch {entry_name(patch)}", "")
            held = bool(pin) and (out / "downloads" / pin).is_file()
            what = f"patch {entry_name(patch)}"
            yield WantedUrl(url=patch.url, purpose=Purpose(what=what, kind="patch", needed=True, held=held))


def of_spec(spec: Spec, images: Sequence[str], *, out: Path) -> Iterator[WantedUrl]:
    """Yield tarballs, mirrors of tarballs, destinations, and the shared store."""
    needed = {
        tarball.url
        for image in images
        for tarball in allocators.sources(spec, image, spec.images[image].allocator).values()
    }
    for name, tarball in spec.tarballs.items():
        if tarball.url.startswith(WEB):
            held = (out / "downloads" / tarball.file).is_file()
            mirrored = bool(spec.mirrors)
            purpose = Purpose(
                what=f"tarball {name}", kind="tarball", needed=tarball.url in needed and not mirrored, held=held
            )
            yield WantedUrl(url=tarball.url, purpose=purpose)
    for url in spec.mirrors:
        if url.startswith(WEB):
            yield WantedUrl(url=url, purpose=Purpose(what="mirror of tarballs", kind="mirror", needed=False))
    for name, destination in spec.publish.items():
        if destination.url is not None:
            purpose = Purpose(what=f"destination {name}", kind="publish", needed=False)
            yield WantedUrl(url=questions.root_of(destination.url), purpose=purpose)
    if spec.store is not None and spec.store.url.startswith(WEB):
        purpose = Purpose(what="shared store", kind="store", needed=False)
        yield WantedUrl(url=questions.root_of(spec.store.url), purpose=purpose)


def of_packages(spec: Spec, image: str, *, held: bool) -> Iterator[WantedUrl]:
    """Yield the package repositories from which an image can be made; mmdebstrap may be run for that.

    Args:
        spec: the specification.
        image: its name.
        held: whether an image was made here before.

    Raises:
        HostError: mmdebstrap is missing.
    """
    entry = spec.images[image]
    if entry.bootstrap is not None:
        for url in repositories(entry.bootstrap, mirror=entry.mirror):
            if url.startswith(WEB):
                purpose = Purpose(what=f"packages of {image}", kind="packages", needed=True, held=held)
                yield WantedUrl(url=url, purpose=purpose)


def asked(wanted: WantedUrl) -> ServerSeen:
    """Ask for one."""
    return ServerSeen(url=wanted.url, purpose=wanted.purpose, answer=questions.ask(wanted.url))
