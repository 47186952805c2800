"""A bundle is written and read: the same bytes each time, and nothing is left of one that is damaged or hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pikaforge.bundle import reader, writer
from pikaforge.bundle.listing import MANIFEST, BundleMember, Listing, parse, refusal
from pikaforge.bundle.writer import MemberFile
from pikaforge.errors import BundleError, ConfigError, FullDiskError, HostError

FILES = {
    "tool/setup.sh": b"#!/bin/sh\n",
    "downloads/x-1.0.tar.gz": bytes(range(256)) * 9000,
    "images/" + "0" * 64: b"",
    "wheels/a-1.0-py3-none-any.whl": b"wheel",
}


def made(folder: Path, name: str = "x.tar.gz", files: dict[str, bytes] | None = None) -> Path:
    """A bundle with some files."""
    sources = {}
    for number, (member, content) in enumerate((FILES if files is None else files).items()):
        path = folder / f"file-{number}"
        path.write_bytes(content)
        sources[member] = MemberFile(path=path, executable=member.endswith(".sh"))
    listing = Listing(
        cells=("R620-debian12-none",),
        pythons=("3.11",),
        arguments=("--matrix", "{folder}/tool/matrix.yaml", "--source", "sample"),
        engine="docker",
        members=writer.members_of(sources),
        contents={"source": "sample"},
    )
    writer.write(folder / name, listing, sources)
    return folder / name


def left(root: Path) -> list[str]:
    """What is in the folder that bundles are unpacked in."""
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    bundle = made(tmp_path, name)
    folder, listing = reader.unpack(bundle, tmp_path / "root")
    assert {member.name for member in listing.members} == set(FILES)
    for member, content in FILES.items():
        assert (folder / member).read_bytes() == content
    assert (folder / "tool/setup.sh").stat().st_mode & 0o777 == 0o755
    assert (folder / "wheels/a-1.0-py3-none-any.whl").stat().st_mode & 0o777 == 0o644
    assert left(tmp_path / "root") == [folder.name]
    assert reader.read_listing(folder) == listing


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_the_same_files_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    files = list(FILES.items())
    first = made(tmp_path / "one", name)
    assert made(tmp_path / "two", name, dict(reversed(files))).read_bytes() == first.read_bytes()
    assert [path.name for path in tmp_path.glob("one/*new*")] == []


def test_a_second_time_nothing_is_unpacked_and_damage_is_mended(tmp_path: Path) -> None:
    bundle, root = made(tmp_path), tmp_path / "root"
    folder, _ = reader.unpack(bundle, root)
    (folder / "tool" / "made-here").touch()
    assert reader.unpack(bundle, root)[0] == folder
    assert (folder / "tool" / "made-here").exists()
    (folder / "tool/setup.sh").write_bytes(b"#!/bin/xh\n")
    assert reader.unpack(bundle, root)[0] == folder
    assert (folder / "tool/setup.sh").read_bytes() == FILES["tool/setup.sh"]
    assert not (folder / "tool" / "made-here").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_truncated_bundle_is_refused(tmp_path: Path, name: str, share: float) -> None:
    bundle = made(tmp_path, name)
    data = bundle.read_bytes()
    end = len(data.rstrip(b"\0")) if name == "x.tar" else len(data)
    bundle.write_bytes(data[: int(end * share)])
    with pytest.raises(BundleError, match=r"bundle|damaged"):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []


def test_each_byte_that_is_changed_is_found(tmp_path: Path) -> None:
    bundle = made(tmp_path, "x.tar", {"tool/a": b"some text", "tool/b": b"more"})
    data = bundle.read_bytes()
    for place in range(0, len(data.rstrip(b"\0")), 7):
        changed = bytearray(data)
        changed[place] ^= 0x55
        bundle.write_bytes(changed)
        root = tmp_path / "root"
        try:
            folder, listing = reader.unpack(bundle, root)
        except BundleError:
            assert left(root) == []
        else:  # what the manifest says of cells
            assert reader.is_whole(folder, listing)
            assert (folder / "tool/a").read_bytes() == b"some text"
            shutil.rmtree(root)


# ---- hostile archives


def manifest_of(members: Sequence[BundleMember], /, **changes: object) -> bytes:
    """The text of a manifest."""
    listing = Listing(
        cells=("a",), pythons=("3.11",), arguments=(), engine="docker", members=tuple(members), contents={}
    )
    return json.dumps({**json.loads(listing.text()), **changes}).encode()


def archive(*members: tuple[tarfile.TarInfo, bytes], manifest: bytes, format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive as somebody else would write it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))
        for each, content in members:
            tar.addfile(each, io.BytesIO(content))
    return stream.getvalue()


def file(name: str, size: int = 1, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def member(name: str, content: bytes = b"x") -> BundleMember:
    return BundleMember(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", "leads out of the folder"),
        ("tool/../../x", "leads out of the folder"),
        ("/etc/x", "is absolute"),
        ("tool//x", "is no plain path"),
        ("tool/./x", "is no plain path"),
        ("tool/", "is no plain path"),
        ("tool/a\nb", "is no plain path"),
        ("tool/\x1b[2J", "is no plain path"),
        ("tool\\x", "is no plain path"),
        ("other/x", "is in none of the folders"),
        ("tool", "is in none of the folders"),
        ("manifest.json", "is in none of the folders"),
        ("tool/" + "x" * 300, "is too long"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, why: str) -> None:
    assert why in refusal(name)
    bundle = tmp_path / "x.tar"
    bundle.write_bytes(archive(manifest=manifest_of([member(name)])))
    with pytest.raises(BundleError, match=why) as caught:
        reader.unpack(bundle, tmp_path / "root")
    assert "\x1b" not in "".join(caught.value.lines())
    assert left(tmp_path / "root") == []


@pytest.mark.parametrize(
    ("info", "content", "message"),
    [
        (file("tool/y"), b"x", "has 'tool/y', a file of 1 bytes, in place of tool/x with 1"),
        (file("tool/x", 2), b"xx", "'tool/x', a file of 2 bytes, in place of tool/x with 1"),
        (file("tool/x"), b"y", "does not have the SHA-256"),
        (file("tool/x", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"", "a symbolic link"),
        (file("tool/x", 0, type=tarfile.LNKTYPE, linkname="/etc/passwd"), b"", "a hard link"),
        (file("tool/x", 0, type=tarfile.CHRTYPE), b"", "a device"),
        (file("tool/x", 0, type=tarfile.BLKTYPE), b"", "a device"),
        (file("tool/x", 0, type=tarfile.FIFOTYPE), b"", "a pipe"),
        (file("tool/x", 0, type=tarfile.DIRTYPE), b"", "a folder"),
        (file("../x"), b"x", "in place of tool/x"),
        (file("/etc/x"), b"x", "in place of tool/x"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, info: tarfile.TarInfo, content: bytes, message: str) -> None:
    bundle = tmp_path / "x.tar"
    bundle.write_bytes(archive((info, content), manifest=manifest_of([member("tool/x")])))
    with pytest.raises(BundleError, match=message):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []
    assert not (tmp_path / "x").exists()


def test_a_member_twice_or_too_many_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "x.tar"
    twice = [(file("tool/x"), b"x"), (file("tool/x"), b"x")]
    bundle.write_bytes(archive(*twice, manifest=manifest_of([member("tool/x")])))
    with pytest.raises(BundleError, match="more than its manifest lists"):
        reader.unpack(bundle, tmp_path / "root")
    bundle.write_bytes(archive(*twice, manifest=manifest_of([member("tool/x"), member("tool/x")])))
    with pytest.raises(BundleError, match="names a file twice"):
        reader.unpack(bundle, tmp_path / "root")
    bundle.write_bytes(archive(manifest=manifest_of([member("tool/x"), member("tool/x/y")])))
    with pytest.raises(BundleError, match="tool/x is a file, and tool/x/y is in it"):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []


def test_something_behind_the_end_is_refused(tmp_path: Path) -> None:
    bundle = made(tmp_path, "x.tar")
    bundle.write_bytes(bundle.read_bytes() + b"more")
    with pytest.raises(BundleError, match="behind the end"):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"members": [{"name": "tool/x", "size": 1 << 50, "sha256": "0" * 64}]},
        {"members": [{"name": "tool/x", "size": -1, "sha256": "0" * 64}]},
        {"members": [{"name": "tool/x", "size": True, "sha256": "0" * 64}]},
        {"members": [{"name": "tool/x", "size": 1, "sha256": "0"}]},
        {"members": [{"name": 7, "size": 1, "sha256": "0" * 64}]},
        {"members": {}, "contents": 7},
        {"members": None},
        {"arguments": ["a\nb"]},
        {"pythons": ["3.11; rm -rf /"]},
        {"engine": "other"},
        {"format": 2},
        {"format": "\x1b[2J"},
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    bundle = tmp_path / "x.tar"
    bundle.write_bytes(archive(manifest=manifest_of([], **changes)))
    with pytest.raises(BundleError) as caught:
        reader.unpack(bundle, tmp_path / "root")
    assert "\x1b" not in "".join(caught.value.lines())
    assert left(tmp_path / "root") == []


def test_a_manifest_of_many_bytes_or_levels_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "x.tar"
    head = file(MANIFEST, 1 << 32).tobuf(tarfile.GNU_FORMAT)
    bundle.write_bytes(gzip.compress(head))
    with pytest.raises(BundleError, match=r"in place of manifest\.json"):
        reader.unpack(bundle, tmp_path / "root")
    with pytest.raises(BundleError, match="the manifest of the bundle is wrong"):
        parse(b"[" * 1_000_000, "x")


LONG = f"wheels/{'x' * 200}"


def test_a_long_name(tmp_path: Path) -> None:
    folder, _ = reader.unpack(made(tmp_path, files={LONG: b"x", "tool/y": b"y"}), tmp_path / "root")
    assert ((folder / LONG).read_bytes(), (folder / "tool/y").read_bytes()) == (b"x", b"y")


@pytest.mark.parametrize(
    ("name", "format"),
    [(LONG, tarfile.PAX_FORMAT), (LONG[:-1], tarfile.GNU_FORMAT), (f"{LONG}y", tarfile.GNU_FORMAT)],
)
def test_other_long_names_are_refused(tmp_path: Path, name: str, format: int) -> None:
    """Their headers say how many bytes of a name are to be read."""
    bundle = tmp_path / "x.tar"
    bundle.write_bytes(archive((file(name), b"x"), manifest=manifest_of([member(LONG)]), format=format))
    with pytest.raises(BundleError, match=", in place of"):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []


@pytest.mark.parametrize("field", [{"mtime": 1}, {"uid": 7}, {"mode": 0o4755}, {"uname": "root"}, {"linkname": "x"}])
def test_headers_say_nothing_else(tmp_path: Path, field: dict[str, Any]) -> None:
    bundle = tmp_path / "x.tar"
    bundle.write_bytes(archive((file("tool/x", **field), b"x"), manifest=manifest_of([member("tool/x")])))
    with pytest.raises(BundleError, match="in place of tool/x"):
        reader.unpack(bundle, tmp_path / "root")


@pytest.mark.parametrize("content", [b"", b"text", bytes(1024), b"\x1f\x8b\x08", b"\x7fELF" + bytes(2000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    bundle = tmp_path / "x"
    bundle.write_bytes(content)
    with pytest.raises(BundleError):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = made(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1 << 20))
    with pytest.raises(FullDiskError, match=r"needs 66 MiB in .*, where 1 MiB are free"):
        reader.unpack(bundle, tmp_path / "root")
    assert left(tmp_path / "root") == []
    listing = reader.about(bundle)
    with pytest.raises(FullDiskError, match=r"may need"):
        writer.check_room(tmp_path / "y.tar.gz", listing.members)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = made(tmp_path)
    assert reader.main(["about", str(bundle)]) == 0
    assert capsys.readouterr().out == "docker 3.11\n"
    assert reader.main(["unpack", str(bundle), str(tmp_path / "a b")]) == 0
    folder, engine, wheels, *arguments = capsys.readouterr().out.splitlines()
    assert (engine, arguments) == ("docker", ["--matrix", f"{folder}/tool/matrix.yaml", "--source", "sample"])
    assert wheels == f"file://{tmp_path}/a%20b/{Path(folder).name}/wheels"
    bundle.write_bytes(b"text")
    assert reader.main(["unpack", str(bundle), str(tmp_path / "b")]) == BundleError.exit_code
    assert "error: the bundle is truncated" in capsys.readouterr().err
    assert reader.main(["unpack", str(tmp_path / "none"), str(tmp_path / "b")]) == HostError.exit_code
    assert reader.main([]) == HostError.exit_code


# ---- the writer


def test_a_name_that_says_no_compression_is_refused() -> None:
    with pytest.raises(ConfigError, match="no name of a bundle"):
        writer.suffix_of(Path("x.zip"))


def test_a_file_that_shrinks_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    sources = {"tool/file": MemberFile(path=path)}
    listing = replace(reader.about(made(tmp_path)), members=writer.members_of(sources))
    path.write_bytes(b"0")
    with pytest.raises(HostError, match="has changed"):
        writer.write(tmp_path / "y.tar", listing, sources)
    assert [each.name for each in tmp_path.iterdir() if "y.tar" in each.name] == []


def test_what_cannot_be_a_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(HostError, match="is in none of the folders"):
        writer.members_of({"elsewhere/x": MemberFile(path=tmp_path / "x")})
