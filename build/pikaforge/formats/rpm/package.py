"""The format `rpm`: packages for rpm, repositories for yum and dnf. See `format.Format`."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pikaforge.formats import system_package
from pikaforge.formats.client_lines import base_of, fetch, script_lines
from pikaforge.formats.embedded_signature import EmbeddedSignature
from pikaforge.formats.format import (
    BaseFormat,
    BuildOrigin,
    Identity,
    IndexFiles,
    IndexLayout,
    InstallOffer,
    Pool,
    RepositoryIndex,
    Signature,
)
from pikaforge.formats.layout import PackingError, tree_entries
from pikaforge.formats.packing import Packed, Packing
from pikaforge.formats.product_package import ChangelogEntry
from pikaforge.formats.rpm import allocator, client, product, spec_file, yum
from pikaforge.formats.rpm.allocator import AllocatorPackage
from pikaforge.formats.rpm.rpm_file import LEAD_MAGIC, read_rpm
from pikaforge.formats.rpm.signature import RpmSignature
from pikaforge.host.archives import Member
from pikaforge.plan import allocators

FILE_NAME = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<release>[^-]+)\.(?P<architecture>[^.-]+)\.rpm")


class YumIndex:
    """Metadata of a yum repository."""

    layout = IndexLayout(
        names=frozenset({yum.FOLDER}),
        pointer=yum.POINTER,
        signature=f"{yum.POINTER}.asc",
        digests=yum.digests,
    )

    def verify(self) -> None:
        """Raise HostError unless createrepo_c's library can be loaded."""
        yum.library()

    def update(self, pool: Pool) -> IndexFiles:
        """Return the files of repodata/. The signature of repomd.xml covers the others by their digests."""
        before = {path.rpartition("/")[2]: data for path, data in pool.known().items()}
        files, repomd = yum.metadata(pool.packages(), before, revision=pool.revision)
        return IndexFiles(
            immutable={f"{yum.FOLDER}/{name}": data for name, data in files.items()},
            pointers={yum.POINTER: repomd},
            signatures=(Signature(path=f"{yum.POINTER}.asc", of=yum.POINTER, first=True),),
        )


class RpmFormat(BaseFormat):
    """The RPMs of the product, of its debug information, and of an allocator that was built for it."""

    name = "rpm"
    folder = "x86_64"
    suffixes = (".rpm",)
    start = LEAD_MAGIC
    scripts = ("rpm.sh", "layout.sh")
    index: RepositoryIndex | None = YumIndex()
    embedded: EmbeddedSignature | None = RpmSignature()

    def check_tree(self, tree: Path) -> None:
        """Check names, kinds and links of the members."""
        system_package.check_tree(tree)

    def pack(self, work: Packing) -> list[Packed]:
        """Make the RPMs in the tools image."""
        described = product.product(
            system_package.describe(work),
            requires=(
                *product.needs(work.inputs.library_versions),
                *system_package.programs(work),
            ),
            profile=spec_file.profile(work.image.family, work.image.os),
        )
        made = system_package.build(
            work, self.name, "RPM", described, system_package.inputs(work), scripts=self.scripts
        )
        return [*system_package.by_role(self.name, made), *self._allocator_rpms(work)]

    def _allocator_rpms(self, work: Packing) -> list[Packed]:
        """Make the RPMs of the allocator, if it was built."""
        built = work.inputs.allocator
        if built is None:
            return []
        about = system_package.about(work)
        version = built.version
        kind = allocators.kind_of(work.spec, work.cell.allocator)
        described = allocator.packages(
            AllocatorPackage(
                about=replace(about, version=version, licence=kind.licence, url=kind.url),
                what=kind.name,
                unwinder=built.unwinder,
                target=work.cell.target,
                prefix=tree_entries(
                    built.prefix, folder="prefix", prefix=allocator.allocator_top(about.name, kind.name)
                ),
                requires=product.needs(built.needs),
                changes=(ChangelogEntry(epoch=built.epoch, lines=(f"{kind.name} {version}",)),),
            ),
            profile=spec_file.profile(work.image.family, work.image.os),
        )
        made = system_package.build(
            work, self.name, "allocator RPM", described, {"prefix": built.prefix}, scripts=self.scripts
        )
        return [Packed(format=self.name, role="allocator", name=name, path=path) for name, path in made]

    def members(self, path: Path) -> Iterator[Member]:
        """Return the members of the payload."""
        return read_rpm(path).members()

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return the fields of the file's name, NAME-VERSION-RELEASE.ARCHITECTURE.rpm."""
        found = FILE_NAME.fullmatch(path.name)
        if found is None:
            raise PackingError(f"{path.name!r} is no name of an RPM", hint="NAME-VERSION-RELEASE.ARCHITECTURE.rpm")
        return Identity(**found.groupdict())

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return the .repo files of all machines of an image, and of one model."""
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

    def script_words(self, product: str) -> Mapping[str, str]:
        """Return the variable of yum that holds a machine's model."""
        return {"VARIABLE": client.yum_variable(product)}

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
