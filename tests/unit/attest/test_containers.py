"""`verify` reads a package as programs unpack it, or refuses it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from unit.nested_files import FINE, tars, zips

from pikaforge.attest.contents import read_package
from pikaforge.errors import AuditError


def link_and_file(names: tuple[str, str]) -> bytes:
    """A file, a hard link to it, and another file of either name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, target, content in (("a", "", b"1"), (names[0], "a", b""), (names[1], "", b"2")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (tarfile.LNKTYPE, target) if target else (tarfile.REGTYPE, "")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


REFUSED = {
    "a file in the place of a link": ("x.tar", link_and_file(("b", "b")), "b is in the package twice"),
    "a file in the place of a file": ("x.tar", tars([("a", b"1"), ("a", b"2")]), "a is in the package twice"),
    "an archive behind the end": ("x.tar", tars([("a", b"1")]) + tars([("a", b"2")]), "do not read alike"),
    "a program before a zip": ("x.zip", zips([("a", b"1")], stub=FINE), "do not read alike"),
}
TAKEN = {
    "links of other names": ("x.tar", link_and_file(("b", "c"))),
    "zeros behind the end": ("x.tar", tars([("a", b"1")]) + bytes(10240)),
    "a zip": ("x.zip", zips([("a", b"1")])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_programs_unpack_differently_is_refused(tmp_path: Path, name: str) -> None:
    file, data, message = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises(AuditError, match=message):
        read_package(path)


@pytest.mark.parametrize("name", TAKEN)
def test_what_they_unpack_alike_is_read(tmp_path: Path, name: str) -> None:
    file, data = TAKEN[name]
    path = tmp_path / file
    path.write_bytes(data)
    assert "a" in read_package(path).files
