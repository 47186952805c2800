"""Archives of images, as `docker save` writes and `docker load` reads them, taken apart into files by digest.

An engine's archive has each layer again for each image, in an order and with dates of its own. Taken apart, a layer is
one file that is named by the SHA-256 of its bytes, and an image is a configuration, whose SHA-256 is the image's id
(OCI image specification, config.md), and which names the digests of its layers. So images are compared with what they
say they are before an engine gets them, and the same images give the same files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pikaforge.errors import FullDiskError, HostError
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.download import DIGEST
from pikaforge.host.raw import Chunks
from pikaforge.host.store import sha256
from pikaforge.host.streams import decompressed
from pikaforge.host.text import size_text

BLOCK = 1 << 20
CONFIG_LIMIT = 16 << 20
"""Bytes of a configuration or list; real ones have a thousandth of that."""
LINKS = 8
"""Links from one name in an archive to another."""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class _Entry(_Read):
    """An image in `manifest.json` of an archive."""

    config: str = Field(alias="Config")
    layers: tuple[str, ...] = Field(alias="Layers")
    tags: tuple[str, ...] | None = Field(default=None, alias="RepoTags")


class _List(_Read):
    images: tuple[_Entry, ...]


class _Layers(_Read):
    digests: tuple[str, ...] = Field(alias="diff_ids")


class _Config(_Read):
    rootfs: _Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """An image as files, each named by its SHA-256."""

    config: str
    """Digest of the configuration, in hex: the image's id."""
    layers: tuple[str, ...]
    """Digests of the layers, from the lowest one."""


def take_apart(archive: Iterator[bytes], folder: Path) -> dict[str, SavedImage]:
    """Write the configurations and layers of an archive to a folder; return its images by name.

    Raises:
        HostError: it is no such archive, or a layer is not the one that a configuration names.
    """
    found: dict[str, SavedImage] = {}
    try:
        with full_disk_errors(folder):
            names, links = _unpack(archive, folder)
            listed = _List.model_validate({"images": json.loads(_small(folder, names["manifest.json"]))})
            for entry in listed.images:
                saved = _saved(entry, folder, names, links)
                found.update(dict.fromkeys(entry.tags or (), saved))
    except (tarfile.TarError, KeyError, ValueError, EOFError, ValidationError) as error:
        raise HostError(f"the engine's archive of images cannot be read: {error!r:.300}") from error
    kept = {digest for saved in found.values() for digest in (saved.config, *saved.layers)}
    for digest in set(names.values()) - kept:
        (folder / digest).unlink(missing_ok=True)
    return found


def _saved(entry: _Entry, folder: Path, names: Mapping[str, str], links: Mapping[str, str]) -> SavedImage:
    """Return an image of an archive whose files are in a folder; its layers get the names that they must have."""
    layers = [names[_resolved(name, links)] for name in entry.layers]
    config = names[entry.config]
    wanted = _digests(_small(folder, config))
    if len(wanted) != len(layers):
        raise HostError("an image has other layers than its configuration names")
    for layer, digest in zip(layers, wanted, strict=True):
        _as_named(folder / layer, digest)
    return SavedImage(config=config, layers=wanted)


def check_room(folder: Path, size: int) -> None:
    """Raise FullDiskError if an image of so many bytes has no room in a folder."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise FullDiskError(
            f"an image needs {size_text(size)} in {folder}, where {size_text(free)} are free",
            hint="free space there, or name another folder: --out",
        )


def _unpack(archive: Iterator[bytes], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Write each file of an archive under its SHA-256; return those by name, and the targets of links by name."""
    names: dict[str, str] = {}
    links: dict[str, str] = {}
    beside = folder / ".part"
    with tarfile.open(fileobj=Chunks(archive), mode="r|") as tar:
        for info in tar:
            if info.issym():  # a layer that the image has twice
                links[info.name] = f"{info.name.rpartition('/')[0]}/{info.linkname}"
            content = tar.extractfile(info) if info.isfile() else None
            if content is None:
                continue
            digest = hashlib.sha256()
            with beside.open("wb") as stream:
                while block := content.read(BLOCK):
                    digest.update(block)
                    stream.write(block)
            names[info.name] = digest.hexdigest()
            beside.replace(folder / names[info.name])
    return names, links


def _resolved(name: str, links: Mapping[str, str]) -> str:
    """Return the name of the file that a name leads to."""
    for _ in range(LINKS):
        if name not in links:
            break
        parts: list[str] = []
        for part in links[name].split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                parts.append(part)
        name = "/".join(parts)
    return name


def _small(folder: Path, digest: str) -> bytes:
    path = folder / digest
    if path.stat().st_size > CONFIG_LIMIT:
        raise ValueError("a configuration is too large")
    return path.read_bytes()


def _digests(config: bytes) -> tuple[str, ...]:
    """Return the digests of an image's layers in hex, by its configuration."""
    named = [name.removeprefix("sha256:") for name in _Config.model_validate_json(config).rootfs.digests]
    if not all(DIGEST.fullmatch(name) for name in named):
        raise ValueError("a layer has no SHA-256 for its name")
    return tuple(named)


def _as_named(layer: Path, digest: str) -> None:
    """Give a layer the name of its unpacked bytes; some engines keep layers compressed."""
    target = layer.with_name(digest)
    if layer.name == digest or target.is_file():
        return
    beside = layer.with_name(".layer")
    with layer.open("rb") as packed, decompressed(packed, str(layer)) as plain, beside.open("wb") as stream:
        shutil.copyfileobj(plain, stream, BLOCK)
    if sha256(beside) != digest:
        beside.unlink()
        raise HostError(f"a layer of an image is not sha256:{digest}, which its configuration names")
    beside.replace(target)


def check(image: SavedImage, folder: Path) -> None:
    """Raise HostError unless an image's configuration names the layers that it is said to have."""
    try:
        named = _digests(_small(folder, image.config))
    except (OSError, ValueError) as error:
        raise HostError(f"the configuration of the image {image.config[:12]} cannot be read: {error!s:.200}") from error
    if named != image.layers:
        raise HostError(f"the image {image.config[:12]} has other layers than its configuration names")


def put_together(images: Mapping[str, SavedImage], folder: Path) -> Iterator[bytes]:
    """Yield an archive with images for an engine.

    Args:
        images: by the engine's name of each.
        folder: with their files.
    """
    listed = [
        {"Config": f"{i.config}.json", "RepoTags": [tag], "Layers": [f"{layer}.tar" for layer in i.layers]}
        for tag, i in images.items()
    ]
    for config in dict.fromkeys(image.config for image in images.values()):
        yield from _member(f"{config}.json", folder / config)
    for layer in dict.fromkeys(layer for image in images.values() for layer in image.layers):
        yield from _member(f"{layer}.tar", folder / layer)
    text = json.dumps(listed).encode()
    yield from _framed("manifest.json", len(text), [text])
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from _framed(name, path.stat().st_size, iter(lambda: stream.read(BLOCK), b""))


def _framed(name: str, size: int, blocks: Iterable[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield from blocks
    yield bytes(-size % tarfile.BLOCKSIZE)
