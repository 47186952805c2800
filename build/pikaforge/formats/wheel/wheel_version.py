"""Names and versions of wheels (PEP 440, PEP 503), and their platform tags (PEP 600)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from packaging.version import InvalidVersion, Version

from pikaforge.config.product import Product
from pikaforge.formats.layout import PackingError
from pikaforge.formats.manifest import Manifest

SERVER, TOOLS = "server", "tools"
"""NAME is PRODUCT-server, or PRODUCT-tools if it is none: in every index the product's own name is that of a library
for Python."""
ARCH = "x86_64"
LEAST_GLIBC = (2, 17)
"""EL7's, the oldest of all images. A tag may ask for more than a program needs, and never for less."""
LEGACY_TAG = f"manylinux2014_{ARCH}"
"""Alias of manylinux_2_17 (PEP 600). pip knows it since 19.3, and the other tags since 20.3. Older pips (EL7 and EL8
have 9.0; 18.1 was tried) refuse both: `pip3 install 'pip<22'` first, the last one for Python 3.6."""
FIRST_RELEASE = "1"
"""The packager's count of a version's first build. Later counts are part of the wheel's version."""


def command_name(product: Product) -> str:
    """Return the name of the command that a product's wheel installs."""
    return f"{product.name}-{TOOLS if product.server is None else SERVER}"


def distribution(product: Product) -> str:
    """Return the project's name, as indexes normalise it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", command_name(product)).lower()


def module(product: Product) -> str:
    """Return the name of the import package."""
    name = distribution(product).replace("-", "_")
    return name if name.isidentifier() else f"_{name}"


def public_version(text: str) -> str:
    """Return a product's version in PEP 440's normal form: `v3.4.0` is 3.4.0, `7.2-rc1` is 7.2rc1.

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
    """Return names as the local part of a version in PEP 440's normal form, such as `r620.frame.pointers`."""
    words = [word for part in parts for word in re.split(r"[^a-z0-9]+", part.lower()) if word]
    return ".".join(str(int(word)) if word.isdigit() else word for word in words)


def version_of(manifest: Manifest, variant: str = "", release: str = FIRST_RELEASE) -> str:
    """Return `3.4.0+r620.debian12`. The local part keeps models, images and allocators apart in one index.

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
    """Return the platform tags for the glibc that a host must have, at least 2.17.

    Args:
        versions: the manifest's `audit.symbol_versions`, the highest of each namespace. There is no GLIBC if the
            programs need no C library of the host.

    Raises:
        PackingError: the version of GLIBC is not made of numbers.
    """
    text = versions.get("GLIBC", "2.0")
    if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)*", text):
        raise PackingError(f"the audit names no version of glibc, but {text!r}")
    major, minor, *more = map(int, text.split("."))
    needed = max((major, minor + (1 if any(more) else 0)), LEAST_GLIBC)
    tag = f"manylinux_{needed[0]}_{needed[1]}_{ARCH}"
    return (tag, LEGACY_TAG) if needed <= LEAST_GLIBC else (tag,)
