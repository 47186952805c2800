"""Repositories made of small packages, for tests of publishing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import small_packages

from pikaforge.config import load
from pikaforge.config.schema import FormatName, Spec
from pikaforge.formats import format as formats
from pikaforge.publish.diff import Item
from pikaforge.publish.generation import Signing
from pikaforge.publish.publisher import Publisher, PublishRequest, PublishResult, from_folder
from pikaforge.publish.sites.directory import Directory
from pikaforge.publish.sites.site import Site
from pikaforge.publish.state import STATE, Artifact, File, State, read_state

SPEC = Path(__file__).resolve().parents[1] / "matrix.yaml"
EPOCH = 1604318400
SUFFIXES = {
    "rpm": "-{v}-1.x86_64.rpm",
    "deb": "_{v}-1_amd64.deb",
    "tar": "-v{v}.tar.gz",
    "wheel": "-{v}-py3-none-any.whl",
}


class FakeSigner:
    """Signs in a way that anybody can check: a signature is the key's name and the digest."""

    public = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"

    def __init__(self, fingerprint: str = "A" * 40) -> None:
        self.fingerprint = fingerprint

    def detached(self, data: bytes, *, armor: bool = True) -> bytes:
        return f"{self.fingerprint} {armor} {hashlib.sha256(data).hexdigest()}\n".encode()

    def clearsigned(self, data: bytes) -> bytes:
        return b"signed\n" + data


@cache
def spec() -> Spec:
    """The checkout's own matrix."""
    return load.load(SPEC)


@dataclass(slots=True)
class Shelf:
    """A folder with packages that can be published."""

    folder: Path
    sources: dict[tuple[str, str], Path] = field(default_factory=dict)

    def item(
        self,
        version: str = "1.0",
        *,
        name: str = "demo",
        format: FormatName = "rpm",
        model: str = "R620",
        image: str = "debian12",
        content: bytes = b"",
        signed: bool = False,
        epoch: int = EPOCH,
    ) -> Item:
        """A package with what lies beside it; the same arguments give the same bytes."""
        data = {
            "rpm": lambda: small_packages.rpm(name, version, payload=content),
            "deb": lambda: small_packages.deb(name, f"{version}-1", content=content),
            "tar": lambda: content or f"tarball {version}".encode(),
            "wheel": lambda: content or f"wheel {version}".encode(),
        }[format]()
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        file = name + SUFFIXES[format].format(v=version)
        files = {file: data, f"{file}.sbom.json": b"{}\n", f"{file}.intoto.json": f'"{version}"\n'.encode()}
        if signed:
            files[f"{file}.asc"] = b"signature\n"
        told = []
        for each, content_ in files.items():
            (folder / each).write_bytes(content_)
            path = f"{formats.of(format).folder}/{each}"
            self.sources[f"{image}/{model}", path] = folder / each
            told.append(File(path=path, sha256=hashlib.sha256(content_).hexdigest(), bytes=len(content_)))
        main, *beside = told
        artifact = Artifact(
            **main.model_dump(),
            format=format,
            role="main",
            package=name,
            version=f"{version}-1",
            product_version=f"v{version}",
            cell=f"{model}-{image}-none",
            allocator="none",
            target="sandybridge",
            epoch=epoch,
            built="2026-01-01T00:00:00+00:00",
            published="2026-01-02T00:00:00+00:00",
            since=1,
            beside=tuple(beside),
        )
        return Item(product="demo", image=image, model=model, artifact=artifact)


@dataclass(slots=True, kw_only=True)
class Root:
    """A root on a site, with a shelf to publish from."""

    shelf: Shelf
    site: Site
    url: str = "https://packages.example.org/demo"
    signer: Signing | None = None

    def publisher(self) -> Publisher:
        """Publishes to it."""
        return Publisher(site=self.site, spec=spec(), url=self.url, signer=self.signer, product="demo")

    def publish(self, *items: Item, keep: int | None = None, replace: bool = False) -> PublishResult:
        """Publish items."""
        request = PublishRequest(items=items, keep=keep, replace=replace)
        return self.publisher().publish(request, from_folder(dict(self.shelf.sources)))

    def rollback(self, place: str = "debian12/R620") -> PublishResult:
        """Go back to the generation before."""
        return self.publisher().publish(PublishRequest(rollback=(place,)), from_folder({}))

    def state(self, place: str = "debian12/R620") -> State:
        """What a repository says of itself."""
        state = read_state(self.site.read(f"{place}/{STATE}"), where=place)
        assert state is not None
        return state


def in_folder(folder: Path, *, notice: Callable[[str], None] | None = None) -> Root:
    """A root in a folder."""
    site = Directory(folder / "root", notice=notice) if notice else Directory(folder / "root")
    return Root(shelf=Shelf(folder / "shelf"), site=site)
