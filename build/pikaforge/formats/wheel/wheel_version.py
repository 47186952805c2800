"""Names and versions of wheels (PEP 440, PEP 503)."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

from pikaforge.config.product import Product
from pikaforge.formats.layout import PackingError
from pikaforge.formats.manifest import Manifest

SERVER, TOOLS = "server", "tools"
"""NAME is PRODUCT-server, or PRODUCT-tools if it is none: in every index the product's own name is that of a library
for Python."""
ARCH = "x86_64"
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
