"""Artifacts made by hand: a manifest, packages in several formats, and what lies beside them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from unit import elf_files as ef

from pikaforge.attest.contents import contents_of
from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS, describe
from pikaforge.attest.provenance import Builder
from pikaforge.formats.manifest import Manifest, read_manifest

MANIFEST: dict[str, Any] = {
    "format": 4,
    "product": "demo",
    "version": "v1.0",
    "cell": "R620-debian12-none",
    "model": "R620",
    "cpus": ["sandybridge", "ivybridge"],
    "target": "sandybridge",
    "wanted_target": "sandybridge",
    "flags": ["-march=sandybridge", "-mtune=sandybridge"],
    "allocator": {"name": "none", "kind": "none", "library": "", "unwinder": ""},
    "image": {
        "name": "debian12",
        "os": {"id": "debian", "version": "12"},
        "base": "debian@sha256:" + "b" * 64,
        "build_packages": {"gcc:amd64": "4:12.2.0-3", "zlib1g:amd64": "1:1.2.13.dfsg-1"},
        "runtime_packages": {},
    },
    "source": {
        "kind": "product",
        "url": "https://example.org/demo.git",
        "ref": "v1.0",
        "tag": "v1.0",
        "version": "v1.0",
        "commit": "c" * 40,
        "head": "d" * 40,
        "patches": [
            {
                "name": "pull-9",
                "sha256": "9" * 64,
                "url": "https://example.org/9.patch",
                "why": "a bug",
                "state": "applied",
            },
            {"name": "local", "sha256": "1" * 64, "url": "", "why": "", "state": "applied"},
        ],
        "submodules": {"third/pink": "e" * 40, "third/blue": "f" * 40},
    },
    "source_date_epoch": 1604318400,
    "compiler": ["gcc (Debian 12.2.0-14) 12.2.0", "12.2.0", "GNU ld (GNU Binutils for Debian) 2.40"],
    "dropped_flags": [],
    "bundled_libraries": [
        {"soname": "libz.so.1", "path": "lib/libz.so.1", "package": "zlib1g", "version": "1:1.2.13.dfsg-1"}
    ],
    "audit": {},
    "checks": ["version", "start", "ping", "stop"],
}
NAME = "demo-v1.0-R620.tar.gz"
TREE = {
    "bin/demo": ef.make(ef.Elf(text=ef.AVX + ef.RET, symbols=[("work", 0, 5, ef.FUNC)])),
    "conf/demo.conf": b"a : b\n",
}
PROGRAMS = frozenset({"bin/demo"})


def make_manifest(**changes: Any) -> dict[str, Any]:
    """A manifest; each argument replaces a value, `__` stepping into it: `source__commit=…`."""
    data = deepcopy(MANIFEST)
    for path, value in changes.items():
        *folders, last = path.split("__")
        part = data
        for name in folders:
            part = part[name]
        part[last] = value
    return data


def tar_bytes(contents: Mapping[str, bytes], *, executable: Collection[str] = (), mode: str = "w") -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755 if name in executable else 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def claimed(**changes: Any) -> Manifest:
    """The same as a model."""
    return read_manifest(make_manifest(**changes), where="test")


def listed(folder: Path, tree: Mapping[str, bytes], executable: Collection[str] = PROGRAMS) -> list[dict[str, str]]:
    """What the manifest of a tree lists."""
    path = folder / ".tree.tar"
    path.write_bytes(
        tar_bytes({f"./{name}": data for name, data in tree.items()}, executable={f"./{n}" for n in executable})
    )
    found = contents_of(path)
    path.unlink()
    return [item.model_dump(mode="json", exclude_none=True) for item in found]


def pack(path: Path, tree: Mapping[str, bytes], manifest: bytes, *, top: str = "demo") -> Path:
    """Pack a tree with its manifest, in the format that the name says."""
    contents = {f"{top}/{name}": data for name, data in {**tree, "manifest.json": manifest}.items()}
    executable = {f"{top}/{name}" for name in PROGRAMS}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**contents, "demo-1.dist-info/RECORD": b""}.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (0o755 if name in executable else 0o644) << 16
                archive.writestr(info, data)
    elif path.suffix == ".deb":
        data = tar_bytes(contents, executable=executable, mode="w:gz")
        head = f"{'data.tar.gz':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        path.write_bytes(b"!<arch>\n" + head + data)
    else:
        path.write_bytes(tar_bytes(contents, executable=executable, mode="w:gz"))
    return path


def manifest_bytes(data: Mapping[str, Any]) -> bytes:
    """A manifest as it is packed."""
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def deliver(folder: Path, name: str = NAME, *, tree: Mapping[str, bytes] = TREE, **changes: Any) -> Path:
    """An artifact with SBOM and provenance beside it, and the folder's SHA256SUMS; `changes` are of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {**make_manifest(**changes), "contents": listed(folder, tree)}
    path = pack(folder / name, tree, manifest_bytes(told))
    describe(path, builder=Builder())
    write_sums(folder)
    return path


def write_sums(folder: Path) -> None:
    """SHA256SUMS of everything in a folder but itself and the signatures."""
    names = sorted(p.name for p in folder.iterdir() if p.name != SUMS and p.suffix != SIGNATURE_SUFFIX)
    lines = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def flip(path: Path, offset: int = -20) -> None:
    """Alter one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
