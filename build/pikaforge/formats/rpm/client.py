"""Configuration of yum and dnf on client machines. The same inputs give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pikaforge.config import families
from pikaforge.config.schema import OsRelease
from pikaforge.formats.client_lines import SCRIPT, checked_url
from pikaforge.formats.templates import render
from pikaforge.host.os_families.family import major

METADATA_EXPIRE = 300
"""Seconds for which yum and dnf do not fetch metadata again. Their own values are 6 and 48 hours: a new package would
not be found for that time, and clients would ask a repository that keeps few versions for files that are gone. What
they fetch is repomd.xml, a few kilobytes, and only while somebody works with packages."""
NO_VARIABLE = re.compile(r"[^a-z0-9_]")


def fleet_repo_path(product: str, image: str) -> str:
    """Return where `fleet_repo_file` is published: `el7/PRODUCT.repo`."""
    return f"{image}/{product}.repo"


def model_repo_path(product: str, image: str, model: str) -> str:
    """Return where `model_repo_file` is published: `el7/PRODUCT-R620.repo`."""
    return f"{image}/{product}-{model}.repo"


def installer(os: OsRelease | None) -> str:
    """Return the program that installs RPMs on a system, `yum` or `dnf`. None is an image that the matrix lost."""
    family = families.of_system(os.id) if os is not None else None
    if os is None or family is None or "rpm" not in family.formats:
        return "dnf"
    return family.packages.installer(major(os.version))


def yum_variable(product: str) -> str:
    """Return the name of the variable that holds a machine's model.

    It has small letters, digits and underscores only: yum looks `$Name` up as `name`, and ends a name at any other
    character (yum.conf(5)).
    """
    return f"{NO_VARIABLE.sub('', product.lower())}model"


def fleet_repo_file(*, product: str, image: str, base_url: str, key_url: str | None) -> str:
    """Return the .repo file for all machines of an image.

    Raises:
        ConfigError: a URL cannot be written into it.
    """
    variable = yum_variable(product)
    return _repo_file(
        (
            f"{product} for {image}: each machine takes the packages of its hardware model, which {SCRIPT}",
            f"writes to /etc/yum/vars/{variable}. Without that file there is nothing at the address below.",
        ),
        name=product,
        # Without braces: yum of EL7 knows `$name` alone.
        title=f"{product} for {image}, ${variable}",
        folder=f"{checked_url(base_url)}/{image}/${variable}",
        key_url=key_url,
    )


def model_repo_file(*, product: str, image: str, model: str, base_url: str, key_url: str | None) -> str:
    """Return the .repo file for machines of one model.

    Raises:
        ConfigError: a URL cannot be written into it.
    """
    return _repo_file(
        (f"{product} for {image} on {model}, whatever machine this is.",),
        name=f"{product}-{model}",
        title=f"{product} for {image}, {model}",
        folder=f"{checked_url(base_url)}/{image}/{model}",
        key_url=key_url,
    )


def _repo_file(comments: Sequence[str], *, name: str, title: str, folder: str, key_url: str | None) -> str:
    return render(
        "rpm/client.repo.jinja",
        comments=comments,
        name=name,
        title=title,
        folder=folder,
        key_url=None if key_url is None else checked_url(key_url),
        metadata_expire=METADATA_EXPIRE,
    )
