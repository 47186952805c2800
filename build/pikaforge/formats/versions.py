"""Versions and releases of packages, as rpm takes them. DEBs are made of the same texts, so that both sort alike."""

from __future__ import annotations

import re

from pikaforge.formats.layout import PackingError

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~]*")
"""As rpm takes it, but for `^`, which needs rpm 4.15."""
PRERELEASE = re.compile(r"(?<=[0-9])[-._]?(alpha|beta|dev|pre|preview|rc)(?=[-._]?[0-9]|$)", re.IGNORECASE)


def legal_version(version: str) -> str:
    """Return a version as rpm takes it, in the order that people mean.

    A leading `v` goes. What marks a pre-release gets a tilde, which sorts before the end (rpm >= 4.10): 1.0-rc1 is
    1.0~rc1. Any other dash becomes a plus, a separator like the dot, and no version here has one of its own: 1.0-1 is
    1.0+1, after 1.0 and before 1.1.

    Raises:
        PackingError: it has other characters than letters, digits and . _ - +.
    """
    text = re.sub(r"^[vV](?=[0-9])", "", version)
    return _part(PRERELEASE.sub(r"~\1", text))


def legal_release(*parts: str) -> str:
    """Return a release, its parts joined by dots: 1.R620.el7.

    Dashes in a part become pluses, so that no two models get one release.

    Raises:
        PackingError: as `legal_version`.
    """
    return ".".join(_part(part) for part in parts if part)


def _part(text: str) -> str:
    legal = text.replace("-", "+")
    if not VERSION.fullmatch(legal):
        raise PackingError(f"{text!r} cannot be a part of a package's version", hint="letters, digits and . _ - + only")
    return legal
