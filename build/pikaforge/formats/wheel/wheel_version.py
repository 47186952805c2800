"""Names and versions of wheels, as PEP 440 and PEP 600 have them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from packaging.version import InvalidVersion, Version

from pikaforge.formats.layout import PackingError
from pikaforge.formats.manifest import Manifest

SUFFIX = "server"
"""NAME is PRODUCT-server: the product's own name belongs to its clients in every index."""


ARCH = "x86_64"


LEAST_GLIBC = (2, 17)
"""EL7's, the oldest that any image here has. A tag may ask for more than a program needs, never for less."""


LEGACY_TAG = f"manylinux2014_{ARCH}"
"""Alias of manylinux_2_17 (PEP 600): pip 19.3 knows this one, and the others since 20.3 only. Older ones (EL7 and EL8
bring 9.0; 18.1 was tried) refuse both: `pip3 install 'pip<22'` first, which is the last one for Python 3.6."""


FIRST_RELEASE = "1"
"""The packager's count of a version's first build; later ones show in the wheel's version."""


def distribution(product: str) -> str:
    """The project's name, as indexes normalise it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", f"{product}-{SUFFIX}").lower()


def module(product: str) -> str:
    """The import package: also the name in files' names, where a dash separates fields."""
    name = distribution(product).replace("-", "_")
    return name if name.isidentifier() else f"_{name}"


def public_version(text: str) -> str:
    """A product's version in PEP 440's normal form: `v3.4.0` is 3.4.0, `7.2-rc1` is 7.2rc1.

    Raises:
        PackingError: it is none that PEP 440 knows, or has an epoch or a local part.
    """
    try:
        version = Version(text)
    except InvalidVersion:
        version = None
    if version is None or version.epoch or version.local:
        raise PackingError(
            f"the version {text!r} cannot be a wheel's",
            hint="numbers with dots, perhaps a1, b1, rc1, .post1 or .dev1 (PEP 440); leave the wheel out, or rename it",
        )
    return str(version)


def local_version(*parts: str) -> str:
    """Names as PEP 440 takes them behind the plus, in its normal form: R620, frame-pointers is r620.frame.pointers."""
    words = [word for part in parts for word in re.split(r"[^a-z0-9]+", part.lower()) if word]
    return ".".join(str(int(word)) if word.isdigit() else word for word in words)


def version_of(manifest: Manifest, variant: str = "", release: str = FIRST_RELEASE) -> str:
    """`3.4.0+r620.debian12`; the local part keeps models, images and allocators apart in one index.

    Args:
        manifest: of the package.
        variant: the allocator, if it is not the image's default.
        release: the packager's count of builds of one version; a later one sorts after the first.

    Raises:
        PackingError: the product's version is none that PEP 440 knows.
    """
    count = "" if release == FIRST_RELEASE else release
    local = local_version(manifest.model, manifest.image.name, variant, count)
    return f"{public_version(manifest.version)}+{local}"


def platform_tags(versions: Mapping[str, str]) -> tuple[str, ...]:
    """The platform tags for what the audit found: the glibc that a host must have, at least 2.17.

    Args:
        versions: the manifest's `audit.symbol_versions`: the highest of each namespace. One without GLIBC is of
            programs that need no C library of the host.

    Raises:
        PackingError: the version of GLIBC is none.
    """
    text = versions.get("GLIBC", "2.0")
    if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)*", text):
        raise PackingError(f"the audit tells of no version of glibc, but of {text!r}")
    major, minor, *more = map(int, text.split("."))
    needed = max((major, minor + (1 if any(more) else 0)), LEAST_GLIBC)
    tag = f"manylinux_{needed[0]}_{needed[1]}_{ARCH}"
    return (tag, LEGACY_TAG) if needed <= LEAST_GLIBC else (tag,)
