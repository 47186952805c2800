"""Wheels: how they are made, listed for pip, and installed. See `format.Format`."""

from __future__ import annotations

import html
import posixpath
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from pikaforge.formats.client_lines import base_of, checked, file_name
from pikaforge.formats.format import (
    BaseFormat,
    BuildOrigin,
    Identity,
    IndexFiles,
    InstallOffer,
    Pool,
    RepositoryIndex,
)
from pikaforge.formats.layout import PackingError
from pikaforge.formats.packing import Packed, Packing
from pikaforge.formats.wheel import wheel, wheel_version
from pikaforge.host.archives import Member, told, zip_members

FILE_NAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)-[^-]+-[^-]+-(?P<platform>[^-]+)\.whl")
"""Without a build tag (PEP 427)."""


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


class WheelFormat(BaseFormat):
    """A wheel that holds the whole tree, and a command that runs it."""

    name = "wheel"
    folder = "wheels"
    suffixes = (".whl",)
    index: RepositoryIndex | None = Links()
    holds_links = False

    def pack(self, work: Packing) -> list[Packed]:
        """Make the wheel, without a container."""
        tree = wheel.read_tree(work.parts.tree, work.extra)
        made = wheel.build(tree, product=work.spec.product, variant=work.variant)
        path = work.scratch / made.name
        path.write_bytes(made.content)
        return [Packed(format=self.name, role="main", name=made.name, path=path)]

    def members(self, path: Path) -> Iterator[Member]:
        """Return the members of the zip archive that a wheel is."""
        with told(str(path)), path.open("rb") as stream:
            yield from zip_members(stream, str(path))

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return distribution and version, as the file's name has them."""
        found = FILE_NAME.fullmatch(path.name)
        if found is None:
            raise PackingError(f"{path.name!r} is no name of a wheel", hint="NAME-VERSION-PYTHON-ABI-PLATFORM.whl")
        return Identity(name=found["name"].replace("_", "-"), version=found["version"], architecture=wheel_version.ARCH)

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
