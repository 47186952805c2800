"""The copyright file of a DEB, with the licences of the product and of all libraries that travel along."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pikaforge.formats.deb.control_files import indented
from pikaforge.formats.layout import LICENCE, LICENCES
from pikaforge.formats.manifest import BUILT_HERE, Manifest, ManifestLicence
from pikaforge.formats.templates import render
from pikaforge.formats.text import one_line
from pikaforge.host.archives import tar_entries

NOTICE = re.compile(r"\W*(copyright|\(c\)|©).*[0-9]{4}", re.IGNORECASE)
"""A line of a licence that names the holder of the copyright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TravellingLicence:
    """The licence of libraries that travel along, from one package of the image or built with the allocator."""

    name: str
    """Of the package."""
    libraries: tuple[str, ...]
    """Their paths in the package."""
    texts: Mapping[str, str]
    """By path in the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Licences:
    """All licences in a tree."""

    own: Mapping[str, str]
    """The product's, by path in the package."""
    others: tuple[TravellingLicence, ...] = ()


NO_LICENCES = Licences(own={})


def licences(archive: Path | bytes, manifest: Manifest, *, prefix: str) -> Licences:
    """Return the licences in a tree.

    Args:
        archive: the tree, as for `tree_entries`.
        manifest: what says whose they are.
        prefix: the folder of the package that its top becomes.
    """
    texts = {}
    for member in tar_entries(archive):
        name = posixpath.normpath(member.name)
        if member.kind == "file" and (LICENCE.fullmatch(name) or name.startswith(f"{LICENCES}/")):
            texts[name] = member.read().decode("utf-8", "replace")
    texts = dict(sorted(texts.items()))
    libraries: dict[str, list[str]] = {}
    for library in manifest.bundled_libraries:
        libraries.setdefault(library.package, []).append(f"{prefix}/{library.path}")
    # What was built here is from no package of the image.
    parts = [licence for licence in manifest.licences if licence.of not in {manifest.product, *libraries}]

    def of(*found: ManifestLicence) -> dict[str, str]:
        return {f"{prefix}/{file}": texts[file] for licence in found for file in licence.files if file in texts}

    def of_package(package: str) -> dict[str, str]:
        return of(*parts) if package == BUILT_HERE else of(manifest.licence_of(package))

    at_top = {f"{prefix}/{name}": text for name, text in texts.items() if "/" not in name}
    return Licences(
        own={**at_top, **of(manifest.licence_of(manifest.product))},
        others=tuple(
            TravellingLicence(name=package, libraries=tuple(paths), texts=of_package(package))
            for package, paths in sorted(libraries.items())
        ),
    )


def copyright_text(name: str, *, licence: str, url: str, top: str, licences: Licences = NO_LICENCES) -> str:
    """Return the copyright file, in Debian's machine-readable format 1.0.

    Args:
        name: of the product.
        licence: its SPDX expression.
        url: its home page; empty if it has none.
        top: the folder of its tree.
        licences: of the tree; without any of its own the file says where they are.
    """
    notices, body = _notices(licences.own), _body(licences.own)
    if not body:
        body = [f"This package has no text of it: that is in the source, which {top}/manifest.json names."]
    others = [
        {
            "files": [path.removeprefix("/") for path in other.libraries],
            "holders": _notices(other.texts) or [f"the authors of {one_line(other.name)}"],
            "licence": f"LicenseRef-{one_line(other.name)}",
            "body": _body(other.texts) or ["The system on which this was built has no text of it."],
        }
        for other in licences.others
    ]
    return render(
        "deb/copyright.jinja",
        functions={"indented": indented},
        name=one_line(name),
        url=one_line(url) if url else "",
        top=top,
        holders=notices or [f"the authors of {one_line(name)}"],
        licence=one_line(licence),
        body=body,
        others=others,
    )


def _notices(texts: Mapping[str, str]) -> list[str]:
    """Return the lines of licences that name holders of the copyright, each once."""
    lines = [one_line(line) for text in texts.values() for line in text.splitlines() if NOTICE.match(line)]
    # The word is the field's own in files of this format.
    return list(dict.fromkeys(line.removeprefix("Copyright: ") for line in lines))


def _body(texts: Mapping[str, str]) -> list[str]:
    return [line for path, text in texts.items() for line in (f"{path}:", "", *text.strip().splitlines(), "")]
