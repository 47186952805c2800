"""RPMs: how they are made, indexed for yum and dnf, and installed. See `format.Format`."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pikaforge.config import families
from pikaforge.formats import system_package
from pikaforge.formats.client_lines import base_of, fetch, script_lines
from pikaforge.formats.format import (
    BuildOrigin,
    IndexFiles,
    InstallOffer,
    Packed,
    Packing,
    Pool,
    RepositoryIndex,
    Signature,
)
from pikaforge.formats.layout import tree_entries
from pikaforge.formats.rpm import allocator, client, spec_file, yum
from pikaforge.formats.rpm import product as house
from pikaforge.formats.rpm.rpm_file import read_rpm
from pikaforge.plan import allocators


class YumIndex:
    """Metadata of a yum repository."""

    def verify(self) -> None:
        """Raise HostError unless createrepo_c's library can be loaded."""
        yum.library()

    def update(self, pool: Pool) -> IndexFiles:
        """Return repodata/, signed through repomd.xml."""
        before = {path.rpartition("/")[2]: data for path, data in pool.known().items()}
        files, repomd = yum.metadata(pool.packages(), before, revision=pool.revision)
        return IndexFiles(
            immutable={f"{yum.FOLDER}/{name}": data for name, data in files.items()},
            pointers={yum.POINTER: repomd},
            signatures=(Signature(path=f"{yum.POINTER}.asc", of=yum.POINTER, first=True),),
        )


class RpmFormat:
    """The product's RPM, one of its debug information, and one of an allocator that was built for it."""

    name = "rpm"
    folder = "x86_64"
    scripts = ("rpm.sh", "layout.sh")
    index: RepositoryIndex | None = YumIndex()

    @property
    def families(self) -> frozenset[str]:
        """Return those that say so."""
        return families.taking(self.name)

    def pack(self, work: Packing) -> list[Packed]:
        """Make the RPMs in the tools image."""
        described = house.product(system_package.product_package(work))
        made = system_package.build(
            work, self.name, "RPM", described, system_package.inputs(work), scripts=self.scripts
        )
        return [*system_package.by_role(self.name, made), *self._allocator_rpms(work)]

    def _allocator_rpms(self, work: Packing) -> list[Packed]:
        built = work.parts.allocator
        if built is None:
            return []
        about = system_package.about(work)
        version = built.version
        kind = allocators.kind_of(work.spec, work.cell.allocator)
        described = allocator.packages(
            replace(about, version=version, licence=kind.licence, url=kind.url),
            what=kind.name,
            unwinder=built.unwinder,
            target=work.cell.target,
            prefix=tree_entries(built.prefix, folder="prefix", prefix=allocator.allocator_top(about.name, kind.name)),
            requires=house.needs(built.needs),
            changes_=(spec_file.ChangelogEntry(epoch=built.epoch, lines=(f"{kind.name} {version}",)),),
        )
        made = system_package.build(
            work, self.name, "allocator RPM", described, {"prefix": built.prefix}, scripts=self.scripts
        )
        return [Packed(format=self.name, role="allocator", name=name, path=path) for name, path in made]

    def material(self) -> Mapping[str, Any]:
        """Return nothing: all is in the sources."""
        return {}

    def identity(self, path: Path, of: BuildOrigin) -> tuple[str, str]:
        """Return name and VERSION-RELEASE, as the file's name has them."""
        name, version, release = path.stem.rpartition(".")[0].rsplit("-", 2)
        return name, f"{version}-{release}"

    def body(self, path: Path) -> str:
        """Return the digest of everything but the signature header."""
        return read_rpm(path).body

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return .repo files for a whole fleet and for one model."""
        product, image, model = offer.product, offer.image, offer.model
        assert model is not None
        return {
            client.fleet_repo_path(product, image): client.fleet_repo_file(
                product=product, image=image, base_url=offer.base_url, key_url=offer.key_url
            ),
            client.model_repo_path(product, image, model): client.model_repo_file(
                product=product, image=image, model=model, base_url=offer.base_url, key_url=offer.key_url
            ),
        }

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return lines for yum or dnf."""
        base = base_of(offer)
        if offer.model is None:
            path = client.fleet_repo_path(offer.product, offer.image)
        else:
            path = client.model_repo_path(offer.product, offer.image, offer.model)
        return (
            fetch(base, path, f"/etc/yum.repos.d/{posixpath.basename(path)}"),
            *(script_lines(base) if offer.model is None else ()),
            f"{client.installer(offer.os)} install {shlex.quote(offer.package)}",
        )


FORMAT = RpmFormat()
