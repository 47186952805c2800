"""Versions and releases of packages, as rpm takes them."""

from __future__ import annotations

import pytest

from pikaforge.formats import versions
from pikaforge.formats.layout import PackingError


@pytest.mark.parametrize(
    ("version", "legal"),
    [
        ("v3.4.0", "3.4.0"),
        ("3.4.0", "3.4.0"),
        ("v3.4.0-1", "3.4.0+1"),
        ("v3.4.0-rc1", "3.4.0~rc1"),
        ("3.4.0rc1", "3.4.0~rc1"),
        ("3.4.0_beta.2", "3.4.0~beta.2"),
        ("3.4.0-alpha", "3.4.0~alpha"),
        ("3.4.0-rc1-2", "3.4.0~rc1+2"),
        ("3.4.0-release", "3.4.0+release"),
        ("3.4.0-preview2", "3.4.0~preview2"),
        ("version5", "version5"),
        ("2023.05", "2023.05"),
    ],
)
def test_versions_are_legal(version: str, legal: str) -> None:
    assert versions.legal_version(version) == legal
    assert versions.VERSION.fullmatch(legal)


@pytest.mark.parametrize("version", ["", "1.0 2", "1.0^1", "%{x}", "-1", "1:2"])
def test_versions_that_cannot_be_made_legal(version: str) -> None:
    with pytest.raises(PackingError, match="cannot be a part"):
        versions.legal_version(version)


def test_releases_of_different_models_differ() -> None:
    assert versions.legal_release("1", "R620", "el7") == "1.R620.el7"
    assert versions.legal_release("1", "a-b", "el7") != versions.legal_release("1", "a_b", "el7")
    assert versions.legal_release("1", "", "el7") == "1.el7"
