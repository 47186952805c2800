"""Metadata of yum: what was there is taken over as it is, unless it could be something else in other metadata."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import small_packages
from unit.helpers import refusal

from pikaforge.errors import PublishError
from pikaforge.formats.rpm import yum

NAMES = ("demo", "demo+more", "other")


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name in NAMES:
        path = tmp_path / f"{name}-1.0-1.x86_64.rpm"
        path.write_bytes(small_packages.rpm(name, "1.0"))
        found[path.name] = path
    return found


def test_the_same_bytes_with_and_without_metadata_before(packages: dict[str, Path]) -> None:
    first, *others = packages
    before, _ = yum.metadata({first: packages[first]}, {}, revision=1)
    assert yum.metadata({**packages, first: None}, before, revision=2) == yum.metadata(packages, {}, revision=2)
    fewer = {name: packages[name] for name in others}
    whole, _ = yum.metadata(packages, {}, revision=1)
    assert yum.metadata(dict.fromkeys(others), whole, revision=2) == yum.metadata(fewer, {}, revision=2)


def changed(before: dict[str, bytes], kind: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """The metadata with another content of one file."""
    return {
        name: gzip.compress(change(gzip.decompress(data))) if f"-{kind}." in name else data
        for name, data in before.items()
    }


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "a comment": lambda text: text.replace(b"</package>", b"<!-- </package>", 1),
    "a text section": lambda text: text.replace(b"</package>", b"<![CDATA[</package>]]></package>", 1),
    "a document type": lambda text: text.replace(b"<metadata", b'<!DOCTYPE x [<!ENTITY a "b">]><metadata', 1),
    "an instruction": lambda text: text.replace(b"</package>", b"<?x?></package>", 1),
    "no end": lambda text: text.replace(b"</package>", b"", 1),
    "a package in a package": lambda text: text.replace(b"</package>", b"<package></package></package>", 1),
    "no XML": lambda _: b"<package>",
    "no UTF-8": lambda text: text.replace(b"demo", b"\xff"),
    "no location": lambda text: text.replace(b"<location", b"<place"),
    "no such package": lambda text: text.replace(b"demo+more", b"demo-more"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_could_be_something_else_elsewhere_is_refused(what: str, packages: dict[str, Path]) -> None:
    before, _ = yum.metadata(packages, {}, revision=1)
    with pytest.raises(PublishError):
        yum.metadata(dict.fromkeys(packages), changed(before, "primary", HOSTILE[what]), revision=2)


def test_a_file_that_grows_without_end_is_refused(packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = yum.metadata(packages, {}, revision=1)
    monkeypatch.setattr(yum, "LIMIT", 1000)
    with pytest.raises(PublishError) as error:
        yum.metadata(dict.fromkeys(packages), before, revision=2)
    assert refusal(error)[0] == "the metadata cannot be read: it is too large, or incomplete"


def test_a_file_that_is_cut_off_is_refused(packages: dict[str, Path]) -> None:
    before, _ = yum.metadata(packages, {}, revision=1)
    short = {name: data[:-20] for name, data in before.items()}
    with pytest.raises(PublishError):
        yum.metadata(dict.fromkeys(packages), short, revision=2)


def test_names_are_read_as_xml(packages: dict[str, Path]) -> None:
    odd = {"a&b\"'.rpm": packages["demo-1.0-1.x86_64.rpm"]}
    before, _ = yum.metadata(odd, {}, revision=1)
    assert yum.metadata(dict.fromkeys(odd), before, revision=1)[0] == before
