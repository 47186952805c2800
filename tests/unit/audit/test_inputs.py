"""What may be audited: files, folders and packages, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from unit import elf_files as ef
from unit.package_files import deb, rpm, tar, zipped

from pikaforge.audit.inputs import ElfTree, open_inputs
from pikaforge.errors import AuditError
from pikaforge.host import process
from pikaforge.host.archives import clean

PROGRAM = ef.make(ef.Elf(text=ef.AVX2 + ef.RET))
LIBRARY = ef.make(ef.Elf(soname="libx.so.1"))
FILES = {"bin/x": PROGRAM, "lib/libx.so.1.2": LIBRARY, "etc/x.conf": b"a = 1\n"}
LINKS = {"lib/libx.so.1": "libx.so.1.2"}


PACKAGES: dict[str, bytes] = {
    "x.tar": tar(FILES, LINKS),
    "x.tar.gz": gzip.compress(tar(FILES, LINKS)),
    "x.tgz": gzip.compress(tar(FILES, LINKS, prefix="/")),
    "x.tar.xz": lzma.compress(tar(FILES, LINKS, prefix="")),
    "x.tar.bz2": bz2.compress(tar(FILES, LINKS)),
    "x.zip": zipped(FILES, LINKS),
    "x-1.0-py3-none-any.whl": zipped(FILES, LINKS),
    "x_1.0_amd64.deb": deb(FILES, LINKS),
    "x-1.0.x86_64.rpm": rpm(FILES, LINKS),
    "y-1.0.x86_64.rpm": rpm(FILES, LINKS, method="gzip", pack=gzip.compress),
    "z-1.0.x86_64.rpm": rpm(FILES, LINKS, method="lzma", pack=lambda c: lzma.compress(c, format=lzma.FORMAT_ALONE)),
}


def opened(path: Path) -> ElfTree:
    [tree] = open_inputs([path], path.parent / "scratch")
    return tree


@pytest.mark.parametrize("name", PACKAGES)
def test_packages(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PACKAGES[name])
    tree = opened(path)
    assert tree.whole
    assert {n: p.read_bytes() for n, p in tree.elves.items()} == {"bin/x": PROGRAM, "lib/libx.so.1.2": LIBRARY}
    # pip writes what has a link's mode as a file.
    assert tree.links == ({} if name.endswith(".whl") else {"lib/libx.so.1": "lib/libx.so.1.2"})
    assert tree.not_judged == ()
    assert all(p.is_relative_to(tmp_path / "scratch") for p in tree.elves.values())


def wheel(links: object, files: Mapping[str, bytes]) -> bytes:
    """A wheel with an about.json."""
    about = {"demo/about.json": json.dumps({"name": "demo", "links": links}).encode()}
    return zipped({**about, **{f"demo/tree/{name}": data for name, data in files.items()}}, {})


COPIES = {"lib/libx.so": LIBRARY, "lib/libx.so.1": LIBRARY, "lib/libx.so.1.2": LIBRARY, "bin/x": PROGRAM}


def test_the_copies_of_a_wheel_are_links(tmp_path: Path) -> None:
    """A wheel has none; a waiver for the file has to cover its copies, too."""
    path = tmp_path / "x-1.0-py3-none-any.whl"
    path.write_bytes(wheel({"lib/libx.so": "libx.so.1", "lib/libx.so.1": "libx.so.1.2"}, COPIES))
    tree = opened(path)
    assert set(tree.elves) == {"demo/tree/bin/x", "demo/tree/lib/libx.so.1.2"}
    assert tree.links == dict.fromkeys(
        ("demo/tree/lib/libx.so", "demo/tree/lib/libx.so.1"), "demo/tree/lib/libx.so.1.2"
    )


@pytest.mark.parametrize(
    "links",
    [
        {},
        {"lib/libx.so": "../bin/x"},  # other bytes: it would hide a file
        {"lib/libx.so": "libx.so"},
        {"lib/libx.so": "gone"},
        {"lib/libx.so": "../../../../lib/libx.so.1.2"},
        {"lib/libx.so": 1},
        [],
        None,
    ],
)
def test_what_only_says_that_it_is_a_copy_is_judged(tmp_path: Path, links: object) -> None:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    path.write_bytes(wheel(links, COPIES))
    tree = opened(path)
    assert set(tree.elves) == {f"demo/tree/{name}" for name in COPIES}
    assert tree.links == {}


@pytest.mark.parametrize("name", PACKAGES)
def test_truncated_packages_are_told_and_no_traceback(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    content = PACKAGES[name]
    for end in {len(content) // 3, len(content) // 2, 100, 20, 3}:
        path.write_bytes(content[:end])
        with pytest.raises(AuditError) as caught:
            opened(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil"])
def test_members_that_leave_their_package(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({name: PROGRAM}, {}))
    with pytest.raises(AuditError, match="leaves it"):
        opened(path)
    assert not (tmp_path / "evil").exists()
    assert clean("./a//b", "x") == "a/b"


def test_links_that_leave_their_package_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar(FILES, {"a": "../../etc/passwd", "lib/b": "../bin/x", "c": "/bin/x"}))
    assert opened(path).links == {"lib/b": "bin/x", "c": "bin/x"}


def test_hard_links_count_once(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar(FILES, {}, hard={"bin/y": "./bin/x"}))
    tree = opened(path)
    assert tree.links == {"bin/y": "bin/x"}
    assert len(tree.elves) == 2


def test_a_folder_and_its_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "lib/libx.so.1").symlink_to("libx.so.1.2")
    (root / "lib64").symlink_to("lib")
    (root / "outside").symlink_to(tmp_path)
    os.link(root / "bin/x", root / "bin/y")
    tree = opened(root)
    assert set(tree.elves) == {"bin/x", "lib/libx.so.1.2"}
    assert tree.links["lib64"] == "lib"
    assert tree.links["bin/y"] == "bin/x"
    assert tree.others == 1


def test_a_file_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(PROGRAM)
    (tmp_path / "name").symlink_to("real")
    tree = opened(tmp_path / "name")
    assert (tree.elves, tree.whole) == ({"name": tmp_path / "real"}, False)


@pytest.mark.parametrize("content", [None, b"#!/bin/sh\n", b""])
def test_what_cannot_be_audited(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AuditError) as caught:
        opened(path)
    assert caught.value.where == str(path)


def test_an_rpm_compressed_by_something_unknown(tmp_path: Path) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(rpm(FILES, LINKS, method="zpaq", pack=lambda c: b"zPQ" + c))
    with pytest.raises(AuditError, match="zpaq"):
        opened(path)


def test_zstd_without_anything_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("pikaforge.host.streams.importlib.import_module", absent)
    monkeypatch.setattr(process, "find", lambda _name: None)
    path = tmp_path / "x.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 20)
    with pytest.raises(AuditError, match="zstd") as caught:
        opened(path)
    assert "install the program zstd" in caught.value.hint


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pikaforge.audit.containers.TOTAL_LIMIT", 1 << 20)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar({"a": b"\x7fELF" + b"\0" * (3 << 20)}, {})))
    with pytest.raises(AuditError, match="unpacks to more than"):
        opened(path)
