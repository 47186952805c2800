"""The format `wheel`: packages for pip, with a page of links. See `format.Format`."""

from __future__ import annotations

import html
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from pikaforge.formats.client_lines import base_of, checked, file_name
from pikaforge.formats.format import (
    BaseFormat,
    BuildOrigin,
    Identity,
    IndexFiles,
    IndexLayout,
    InstallOffer,
    Pool,
    RepositoryIndex,
)
from pikaforge.formats.layout import PackingError
from pikaforge.formats.packing import Packed, Packing
from pikaforge.formats.wheel import copies, wheel, wheel_version
from pikaforge.host.archives import Member, archive_errors
from pikaforge.host.memo import library_version
from pikaforge.host.zips import zip_members

FILE_NAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)-[^-]+-[^-]+-(?P<platform>[^-]+)\.whl")
"""Without a build tag."""


PAGE = "index.html"
LINK = re.compile(rb'<a href="([^"#]+)#sha256=([0-9a-f]{64})">')


def linked(page: bytes) -> dict[str, str]:
    """Return the digests that a page of links names, by path."""
    return {unquote(path.decode("utf-8", "replace")): digest.decode() for path, digest in LINK.findall(page)}


class Links:
    """A page of links, which `pip install --find-links` reads."""

    layout = IndexLayout(names=frozenset({PAGE}), pointer=PAGE, digests=linked)

    def verify(self) -> None:
        """Do nothing: the standard library makes the page."""

    def update(self, pool: Pool) -> IndexFiles:
        """Return the page."""
        links = "".join(
            f'<a href="{quote(location)}#sha256={package.sha256}">{html.escape(package.name)}</a><br>\n'
            for location, package in pool.listed.items()
        )
        page = f"<!doctype html>\n<title>{html.escape(pool.place)}</title>\n{links}"
        return IndexFiles(pointers={PAGE: page.encode()})


class WheelFormat(BaseFormat):
    """A wheel that holds the whole tree, and a command that runs it."""

    name = "wheel"
    folder = "wheels"
    suffixes = (".whl",)
    index: RepositoryIndex | None = Links()
    holds_links = False

    def material(self) -> Mapping[str, object]:
        """Return the version of the policies that decide the platform tag."""
        return {"auditwheel": library_version("auditwheel")}

    def check_tree(self, tree: Path) -> None:
        """Check names, kinds and links of the members."""
        wheel.check_tree(tree)

    def pack(self, work: Packing) -> list[Packed]:
        """Make the wheel, without a container."""
        tree = wheel.read_tree(work.inputs.tree, work.extra)
        made = wheel.build(tree, product=work.spec.product, variant=work.variant)
        path = work.scratch / made.name
        path.write_bytes(made.content)
        return [Packed(format=self.name, role="main", name=made.name, path=path)]

    def members(self, path: Path) -> Iterator[Member]:
        """Return the members of the zip archive that a wheel is."""
        with archive_errors(str(path)), path.open("rb") as stream:
            yield from zip_members(stream, str(path), links=False)

    def copies(self, path: Path) -> Mapping[str, str]:
        """Return the copies that about.json calls links; nothing without a good one."""
        return copies.copies(path)

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return the fields of the file's name, NAME-VERSION-PYTHON-ABI-PLATFORM.whl (PEP 427)."""
        found = FILE_NAME.fullmatch(path.name)
        if found is None:
            raise PackingError(f"{path.name!r} is no name of a wheel", hint="NAME-VERSION-PYTHON-ABI-PLATFORM.whl")
        return Identity(name=found["name"].replace("_", "-"), version=found["version"], architecture=wheel_version.ARCH)

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return lines for pip."""
        base = base_of(offer)
        if base.startswith("http:"):
            # pip ignores a page of links that is no secure origin. A single file it takes from anywhere.
            return checked(base, offer.path, f"python3 -m pip install --no-index ./{file_name(offer.path)}")
        # No index: a public one may have another project of this name.
        folder = shlex.quote(f"{base}/{posixpath.dirname(offer.path)}/")
        wanted = shlex.quote(f"{offer.package}=={offer.version}")
        return (f"python3 -m pip install --no-index --find-links {folder} {wanted}",)


FORMAT = WheelFormat()
