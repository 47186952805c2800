"""The common part of RPM and DEB: the description of the product's package, and the run of a packer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pikaforge.config import families
from pikaforge.config.schema import FOREIGN
from pikaforge.formats import product_package
from pikaforge.formats.artifact import Role
from pikaforge.formats.layout import tree_entries
from pikaforge.formats.packing import Packed, Packing
from pikaforge.formats.product_package import ChangelogEntry, PackageAbout, ProductPackage
from pikaforge.host.job import Input, files


class PackageBuild(Protocol):
    """The packages of one run of a packer, as data."""

    @property
    def extra(self) -> Mapping[str, bytes]:
        """The input `made`: files that are neither in the tree nor added to it."""

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the packages."""

    def pack(self) -> Mapping[str, bytes]:
        """Return the input `pack`: what the packer reads."""


def about(work: Packing) -> PackageAbout:
    """Return what a package's header says of the product."""
    product, os, family = work.spec.product, work.image.os, families.of(work.image.family)
    return PackageAbout(
        name=product.name,
        version=product.version,
        release=product.release,
        dist=family.dist_tag(os.id, os.version),
        services=family.services(os.version),
        summary=product.summary or product.name,
        description=product.description or product.name,
        licence=product.licence,
        url=product.url,
        maintainer=product.maintainer,
    )


def changes(work: Packing) -> tuple[ChangelogEntry, ...]:
    """Return the changelog of the product's package."""
    source = work.manifest.source
    ref = source.version or source.ref or source.commit
    if source.kind in FOREIGN:
        ref += f"{f' of {source.url}' if source.url else ''} ({source.commit})"
    return product_package.changes(source.patches, epoch=work.epoch, version=work.spec.product.version, ref=ref)


def describe(work: Packing) -> ProductPackage:
    """Return the description of the product's package."""
    server = work.spec.product.server
    return ProductPackage(
        about=about(work),
        model=work.cell.model,
        target=work.cell.target,
        tree=work.entries(),
        conf=(server.conf.path,) if server is not None and server.conf is not None else (),
        server=server is not None,
        payload=work.rendered.contents,
        changes=changes(work),
        variant=work.variant,
        port=0 if server is None else server.port,
        debug=work.debug(),
    )


def check_tree(tree: Path) -> None:
    """Raise PackingError for a member of a compiled tree that cannot be an entry."""
    tree_entries(tree, folder="tree", prefix="/opt/tree")


def programs(work: Packing) -> tuple[str, ...]:
    """Return the packages with programs that the product runs."""
    return work.spec.packages_for(work.cell.image, purpose="runtime", allocator=work.cell.allocator)


def inputs(work: Packing) -> dict[str, Path | bytes]:
    """Return the inputs of the job whose files are packed."""
    return {"tree": work.inputs.tree, "debug": work.inputs.debug, "extra": work.extra}


def by_role(name: str, made: Sequence[tuple[str, Path]]) -> list[Packed]:
    """Return the packages of the product and of its debug information."""
    roles: tuple[Role, ...] = ("main", "debug")
    return [Packed(format=name, role=role, name=n, path=p) for role, (n, p) in zip(roles, made, strict=False)]


def build(
    work: Packing,
    script: str,
    what: str,
    described: PackageBuild,
    inputs: Mapping[str, Path | bytes],
    *,
    scripts: tuple[str, ...],
) -> list[tuple[str, Path]]:
    """Run rpm.sh or deb.sh; return names and paths of the packages."""
    paths = work.run(
        script,
        what,
        guest=scripts,
        inputs=(
            Input(folder="pack", archive=files(described.pack())),
            Input(folder="made", archive=files(described.extra)),
            *(Input(folder=folder, archive=archive) for folder, archive in inputs.items()),
        ),
        outputs=described.names,
    )
    return list(zip(described.names, paths, strict=True))
