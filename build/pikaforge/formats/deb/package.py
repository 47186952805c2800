"""The format `deb`: packages for dpkg, repositories for apt. See `format.Format`."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from pikaforge.formats import system_package
from pikaforge.formats.client_lines import base_of, checked, checked_url, fetch, file_name, script_lines
from pikaforge.formats.deb import apt, client, copyright, product
from pikaforge.formats.deb.deb_file import START, deb_members, deb_wrapping
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
from pikaforge.formats.layout import PackingError
from pikaforge.formats.packing import Packed, Packing
from pikaforge.host.archives import Member

FILE_NAME = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+?)(-(?P<release>[^_-]+))?_(?P<architecture>[^_.]+)\.deb")
GZIP = b"\x1f\x8b"


class AptIndex:
    """Metadata of a flat apt repository."""

    layout = IndexLayout(
        names=frozenset({*apt.LISTS, apt.RELEASE, apt.RELEASE_SIGNED, apt.RELEASE_SIGNATURE, "by-hash"}),
        pointer=apt.RELEASE,
        signature=apt.RELEASE_SIGNATURE,
        unchecked=frozenset({apt.RELEASE_SIGNED}),
        digests=apt.digests,
    )

    def verify(self) -> None:
        """Raise HostError unless python-debian can be loaded."""
        apt.library()

    def update(self, pool: Pool) -> IndexFiles:
        """Return Packages and Release, with signatures in it and beside it."""
        lists = [data for data in pool.known().values() if not data.startswith(GZIP)]
        immutable, pointers = apt.metadata(
            pool.packages(),
            lists[0] if lists else b"",
            revision=pool.revision,
            valid_until=pool.valid_until,
            origin=pool.product,
            label=f"{pool.product} for {pool.model}",
        )
        return IndexFiles(
            immutable=immutable,
            pointers=pointers,
            signatures=(
                Signature(path=apt.RELEASE_SIGNATURE, of=apt.RELEASE),
                Signature(path=apt.RELEASE_SIGNED, of=apt.RELEASE, clear=True),
            ),
        )


class DebFormat(BaseFormat):
    """The product's DEB, and the DEB of its debug information."""

    name = "deb"
    folder = "debs"
    suffixes = (".deb",)
    start = START
    scripts = ("deb.sh", "layout.sh")
    index: RepositoryIndex | None = AptIndex()

    def check_tree(self, tree: Path) -> None:
        """Check names, kinds and links of the members."""
        system_package.check_tree(tree)

    def pack(self, work: Packing) -> list[Packed]:
        """Make the DEBs in the tools image."""
        described = product.product(
            system_package.describe(work),
            depends=product.depends(work.inputs.library_versions, system_package.programs(work)),
            licences=copyright.licences(work.inputs.tree, work.manifest, prefix=work.top),
        )
        made = system_package.build(
            work, self.name, "DEB", described, system_package.inputs(work), scripts=self.scripts
        )
        return system_package.by_role(self.name, made)

    def members(self, path: Path) -> Iterator[Member]:
        """Return the members of data.tar."""
        return deb_members(path)

    def wrapping(self, path: Path) -> Iterator[Member]:
        """Return the members of the DEB itself, of which control.tar has the package's scripts."""
        return deb_wrapping(path)

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return the fields of the file's name, NAME_VERSION-RELEASE_ARCHITECTURE.deb."""
        found = FILE_NAME.fullmatch(path.name)
        if found is None:
            raise PackingError(f"{path.name!r} is no name of a DEB", hint="NAME_VERSION-RELEASE_ARCHITECTURE.deb")
        return Identity(**found.groupdict(default=""))

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return the .list file of one model."""
        assert offer.model is not None
        key = client.keyring(posixpath.basename(offer.key_url)) if offer.key_url else None
        return {
            client.apt_list_path(offer.product, offer.image, offer.model): client.apt_list(
                product=offer.product, image=offer.image, model=offer.model, base_url=offer.base_url, keyring=key
            )
        }

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return lines for apt. Without a key they install the file alone, and a fleet has no lines."""
        base, name = base_of(offer), shlex.quote(offer.package)
        if offer.key_url is None:
            if offer.model is None:
                return ()
            return checked(base, offer.path, f"apt-get install ./{file_name(offer.path)}")
        if offer.model is None:
            lines = tuple(script_lines(base, " --apt"))
        else:
            key_url = checked_url(offer.key_url)
            path = client.keyring(posixpath.basename(key_url))
            listed = client.apt_list_path(offer.product, offer.image, offer.model)
            lines = (
                f"mkdir -p {client.KEYRINGS}",
                f"curl -fsS -o {shlex.quote(path)} {shlex.quote(key_url)}",
                fetch(base, listed, f"/etc/apt/sources.list.d/{offer.product}.list"),
            )
        return (*lines, "apt-get update", f"apt-get install {name}")


FORMAT = DebFormat()
