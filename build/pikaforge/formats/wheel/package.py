"""Wheels: how they are made, listed for pip, and installed. See `format.Format`."""

from __future__ import annotations

import html
import posixpath
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pikaforge.formats.client_lines import base_of, checked, file_name
from pikaforge.formats.format import BuildOrigin, IndexFiles, InstallOffer, Packed, Packing, Pool, RepositoryIndex
from pikaforge.formats.wheel import wheel


class Links:
    """A page of links, which `pip install --find-links` reads."""

    def verify(self) -> None:
        """Do nothing: the standard library makes it."""

    def update(self, pool: Pool) -> IndexFiles:
        """Return the page."""
        links = "".join(
            f'<a href="{quote(location)}#sha256={package.sha256}">{html.escape(package.name)}</a><br>\n'
            for location, package in pool.listed.items()
        )
        page = f"<!doctype html>\n<title>{html.escape(pool.place)}</title>\n{links}"
        return IndexFiles(pointers={"index.html": page.encode()})


class WheelFormat:
    """A wheel that holds the whole tree, and a command that runs it."""

    name = "wheel"
    folder = "wheels"
    families: frozenset[str] = frozenset()
    scripts: tuple[str, ...] = ()
    index: RepositoryIndex | None = Links()

    def pack(self, work: Packing) -> list[Packed]:
        """Make the wheel, without a container."""
        tree = wheel.read_tree(work.parts.tree, work.extra)
        made = wheel.build(tree, product=work.spec.product, variant=work.variant)
        path = work.scratch / made.name
        path.write_bytes(made.content)
        return [Packed(format=self.name, role="main", name=made.name, path=path)]

    def material(self) -> Mapping[str, Any]:
        """Return what the command's sources and the versions of the makers are."""
        return wheel.material()

    def identity(self, path: Path, of: BuildOrigin) -> tuple[str, str]:
        """Return distribution and version, as the file's name has them."""
        name, version, _ = path.stem.split("-", 2)
        return name.replace("_", "-"), version

    def body(self, path: Path) -> str:
        """Return "": its signature is beside it."""
        return ""

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return nothing: pip is told on its command line."""
        return {}

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return lines for pip."""
        base = base_of(offer)
        if base.startswith("http:"):
            # pip looks for packages at none but safe places; a file it takes from anywhere.
            return checked(base, offer.path, f"python3 -m pip install --no-index ./{file_name(offer.path)}")
        # No index: another one may have something else of this name.
        folder = shlex.quote(f"{base}/{posixpath.dirname(offer.path)}/")
        wanted = shlex.quote(f"{offer.package}=={offer.version}")
        return (f"python3 -m pip install --no-index --find-links {folder} {wanted}",)


FORMAT = WheelFormat()
