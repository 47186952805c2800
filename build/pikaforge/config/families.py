"""Find an OS family: by the name that an image gives, or by the ID that a system has."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pikaforge.config.registry import FAMILIES

if TYPE_CHECKING:
    from pikaforge.host.os_families.family import OsFamily


def of(name: str) -> OsFamily:
    """Return the family of an image.

    A name that is not listed is a folder below docker/ with a Dockerfile. `el10` is then as `el` but for its
    Dockerfile. Of other names nothing is known: they get a family with what every system takes.
    """
    from pikaforge.host.os_families.family import Family  # noqa: PLC0415  # only where a family is asked for

    if name in FAMILIES.names:
        return FAMILIES.get(name)
    base = re.sub(r"[0-9]+$", "", name)
    listed = FAMILIES.get(base) if base in FAMILIES.names else None
    if isinstance(listed, Family):
        return replace(listed, name=name, recipe=name)
    return Family(name=name, recipe=name)


def of_system(id: str) -> OsFamily:
    """Return the family that lists a system's ID; if none does, a family of which nothing is known."""
    return next((family for family in FAMILIES.all() if id in family.ids), of(""))


def alike(id: str) -> frozenset[str]:
    """Return the IDs of systems that run what is built for a system of the same release."""
    family = of_system(id)
    return family.ids if family.alike else frozenset({id})


def taking(format: str) -> frozenset[str]:
    """Return the names of the families whose package manager installs a package format."""
    return frozenset(family.name for family in FAMILIES.all() if format in family.formats)


def managed_by(manager: str) -> frozenset[str]:
    """Return the names of the families that have a package manager."""
    return frozenset(family.name for family in FAMILIES.all() if family.packages.name == manager)


def here(name: str) -> OsFamily:
    """Return the family whose package manager works on this machine, for an image of the named family.

    Raises:
        HostError: this machine has no package manager that is known.
    """
    from pikaforge.host import machine  # noqa: PLC0415  # only on the host engine

    if name in FAMILIES.names and FAMILIES.get(name).packages.is_here():
        return FAMILIES.get(name)
    return machine.family()
