"""Descriptions of the demo's package, as RPM and DEB are made of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unit.helpers import about, make_spec

from pikaforge.formats import payload, product_package
from pikaforge.formats.layout import Entry, tree_entries
from pikaforge.formats.manifest import ManifestPatch
from pikaforge.formats.product_package import ChangelogEntry, ProductPackage

EPOCH = 1604318400
TOP = "/opt/demo"


def archive(*members: tuple[str, str | bytes | None, int]) -> bytes:
    """A tar archive: a text is a link's target, None a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content, mode in members:
            info = tarfile.TarInfo(name)
            info.mode = mode
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


TREE = archive(
    ("./", None, 0o755),
    ("./bin", None, 0o700),
    ("./bin/demo", b"program", 0o775),
    ("./bin/LICENSE", b"not at the top", 0o644),
    ("./conf/demo.conf", b"port : 7000\n", 0o600),
    ("./lib/libx.so.1", b"library", 0o755),
    ("./lib/libx.so", "libx.so.1", 0o777),
    ("./LICENSE", b"As you like.\n\n.hidden\n", 0o644),
)
DEBUG = archive(("./", None, 0o755), ("bin/demo.debug", b"x", 0o644))


def rendered(image: str, features: Sequence[str] = ("avx", "lm")) -> payload.Rendered:
    """What goes in beside the tree."""
    return payload.render(make_spec().product, model="R620", target="sandybridge", image=image, features=features)


def package(image: str = "el9", features: Sequence[str] = ("avx", "lm"), **changes: Any) -> ProductPackage:
    """The description; changes are those of its fields, or of its header's."""
    beside = rendered(image, features).contents
    entries = archive(*((name, data, 0o644) for name, data in beside.items()))
    header = about(dist=image)
    plain = ProductPackage(
        about=replace(header, **{name: value for name, value in changes.items() if hasattr(header, name)}),
        model="R620",
        target="sandybridge",
        tree=(
            *tree_entries(TREE, folder="tree", prefix=TOP),
            *tree_entries(entries, folder="extra", prefix=TOP),
        ),
        conf=("conf/demo.conf",),
        payload=beside,
        changes=changes_of(patch("pull-1", "it fails")),
    )
    return replace(plain, **{name: value for name, value in changes.items() if not hasattr(header, name)})


def patch(name: str, why: str = "", url: str = "", state: str = "applied") -> ManifestPatch:
    """A patch of the series."""
    return ManifestPatch(name=name, sha256="1" * 64, url=url, why=why, state=state)


def changes_of(*patches: ManifestPatch) -> tuple[ChangelogEntry, ...]:
    """The changelog of a build with these patches."""
    return product_package.changes(patches, epoch=EPOCH, version="v1.0", ref="v1.0")


def without(package: ProductPackage, path: str) -> tuple[Entry, ...]:
    """The entries of a package's tree but one."""
    return tuple(entry for entry in package.tree if entry.path != f"{TOP}/{path}")
