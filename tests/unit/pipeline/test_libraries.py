"""The record of the distribution's own libraries: what is in it, and what never gets there."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from unit import elf_files as ef
from unit.helpers import Ending, FakeEngine

from pikaforge.audit.elf.code import code_digest
from pikaforge.errors import StageError
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image import libraries
from pikaforge.pipeline.image.libraries import Libraries

LIBRARY = ef.Elf(text=ef.AVX + ef.RET, symbols=[("work", 0, 5, ef.FUNC)], soname="liba.so.1")
GOOD = ef.make(LIBRARY)
PATH = "/usr/lib/x86_64-linux-gnu/liba.so.1.2"


def packed(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def row(digest: str, path: str = PATH, package: str = "liba1", version: str = "1.2-3") -> str:
    return f"{package}\t{version}\t{digest}\t{path}\n"


def record(
    workspace: Workspace, fake: FakeEngine, tmp_path: Path, files: Mapping[str, bytes], owned: str | bytes
) -> Libraries:
    text = owned if isinstance(owned, bytes) else owned.encode()
    fake.endings["image-"] = Ending(outputs={"out/libraries.tar": packed(files), "out/owned": text, "out/list": b""})
    (tmp_path / "into").mkdir()
    path = libraries.measure(
        workspace, "image:1", stage="image", label="debian12", log=tmp_path / "log", into=tmp_path / "into"
    )
    return libraries.read(Result(stage="image", key="k", identity="i", facts={}, files={libraries.FILE: path}))


def test_a_library_as_its_package_has_brought_it(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    found = record(workspace, fake, tmp_path, {PATH: GOOD}, row(md5(GOOD)))
    [library] = found.libraries
    place = tmp_path / "same"
    place.write_bytes(GOOD)
    assert (library.path, library.package, library.version) == (PATH, "liba1", "1.2-3")
    assert library.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert library.code == code_digest(place) != ""
    assert found.altered == ()
    assert found.by_digest() == {library.sha256: library}
    [job] = fake.jobs
    assert (job.image, job.argv) == ("image:1", ("sh", "guest/libraries.sh"))


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", "sha512"])
def test_digests_of_every_package_database(kind: str, workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    digest = hashlib.new(kind, GOOD, usedforsecurity=False).hexdigest()
    assert len(record(workspace, fake, tmp_path, {PATH: GOOD}, row(digest)).libraries) == 1


@pytest.mark.parametrize("named", [PATH, PATH.removeprefix("/usr")])
def test_merged_usr_has_one_file_under_two_names(
    named: str, workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    assert record(workspace, fake, tmp_path, {PATH: GOOD}, row(md5(GOOD), named)).libraries[0].path == PATH


def test_a_library_that_was_altered_after_its_installation(
    workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    other = PATH.replace("liba", "libb")
    files = {PATH: GOOD + b"\0", other: GOOD}
    found = record(workspace, fake, tmp_path, files, row(md5(GOOD)) + row(md5(GOOD), other))
    assert [library.path for library in found.libraries] == [other]
    assert found.altered == (PATH,)


def test_names_that_could_write_on_a_terminal_are_not_recorded(
    workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    evil = "/usr/lib/\x1b[2J.so"
    files = {PATH: GOOD, evil: GOOD}
    owned = row(md5(GOOD), evil) + row(md5(GOOD), package="a\x1b[2J") + row(md5(GOOD), version="1\x07")
    found = record(workspace, fake, tmp_path, files, owned)
    assert (found.libraries, found.altered) == ((), ())


def test_the_libraries_of_this_machine_are_read_where_they_are(
    workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    place = tmp_path / "liba.so.1"
    place.write_bytes(GOOD)
    outputs = {
        "out/libraries.tar": b"",
        "out/list": f"{place}\n".encode(),
        "out/owned": row(md5(GOOD), str(place)).encode(),
    }
    fake.kind = "host"
    fake.endings["image-"] = Ending(outputs=outputs)
    path = libraries.measure(workspace, "", stage="image", label="x", log=tmp_path / "log", into=tmp_path)
    [library] = Libraries.model_validate_json(path.read_bytes()).libraries
    assert (library.path, library.package) == (str(place), "liba1")
    assert fake.jobs[0].env == {"PIKAFORGE_ARCHIVE": "0"}
    place.unlink()
    path = libraries.measure(workspace, "", stage="image", label="x", log=tmp_path / "log", into=tmp_path)
    assert Libraries.model_validate_json(path.read_bytes()).libraries == (), "what cannot be read is not recorded"


def test_what_no_package_has_brought_is_not_recorded(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    found = record(workspace, fake, tmp_path, {PATH: GOOD, "/opt/x/libx.so": GOOD}, row(md5(GOOD)))
    assert [library.path for library in found.libraries] == [PATH]
    assert found.altered == ()


@pytest.mark.parametrize(
    "owned",
    [b"", b"\xff\xfe\t\t\t\n", row("0" * 31).encode(), row("").encode(), b"one\ttwo\n", b"a\t" * 9000 + b"\n"],
)
def test_lines_that_say_nothing_own_nothing(
    owned: bytes, workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    found = record(workspace, fake, tmp_path, {PATH: GOOD}, owned)
    assert (found.libraries, found.altered) == ((), ())


@pytest.mark.parametrize("data", [b"", b"text", b"\x7fELF", GOOD[:100], ef.make(replace(LIBRARY, text_flags=7))])
def test_what_has_no_code_that_can_be_told_has_no_digest_of_it(
    data: bytes, workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    [library] = record(workspace, fake, tmp_path, {PATH: data}, row(md5(data))).libraries
    assert library.code == ""


@pytest.mark.parametrize(("limit", "value"), [("LIMIT", 1), ("SIZE_LIMIT", 100), ("TOTAL_LIMIT", len(GOOD) + 1)])
def test_more_than_a_distribution_has_is_refused(
    limit: str, value: int, workspace: Workspace, fake: FakeEngine, tmp_path: Path
) -> None:
    other = PATH.replace("liba", "libb")
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(StageError, match="the image's libraries cannot be recorded"),
    ):
        patched.setattr(libraries, limit, value)
        record(workspace, fake, tmp_path, {PATH: GOOD, other: GOOD}, row(md5(GOOD)) + row(md5(GOOD), other))


def test_an_archive_that_is_none(workspace: Workspace, fake: FakeEngine, tmp_path: Path) -> None:
    fake.endings["image-"] = Ending(outputs={"out/libraries.tar": b"x" * 1000, "out/owned": b"", "out/list": b""})
    with pytest.raises(StageError, match="the image's libraries cannot be recorded"):
        libraries.measure(workspace, "", stage="image", label="x", log=tmp_path / "log", into=tmp_path)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"libraries": 1, "altered": []}', b"\xff"])
def test_a_record_that_cannot_be_read_is_an_empty_one(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(text)
    result = Result(stage="image", key="k", identity="i", facts={}, files={libraries.FILE: tmp_path / "x"})
    assert libraries.read(result) == Libraries(libraries=(), altered=())
    assert libraries.read(replace(result, files={})) == Libraries(libraries=(), altered=())


# ---- the identity of code


def digest(elf: ef.Elf, tmp_path: Path) -> str:
    path = tmp_path / "x"
    path.write_bytes(ef.make(elf))
    return code_digest(path)


def test_the_code_is_the_same_whatever_is_around_it(tmp_path: Path) -> None:
    first = digest(LIBRARY, tmp_path)
    assert digest(replace(LIBRARY, soname="libb.so", runpath="$ORIGIN", needed=["libc.so.6"]), tmp_path) == first
    assert digest(replace(LIBRARY, symbols=[], debug={".debug_info": b"x"}), tmp_path) == first


def test_the_code_is_another_with_one_byte_or_another_place(tmp_path: Path) -> None:
    first = digest(LIBRARY, tmp_path)
    assert digest(replace(LIBRARY, text=ef.AVX2 + ef.RET), tmp_path) != first
    assert digest(replace(LIBRARY, text=ef.AVX + ef.RET + ef.NOP), tmp_path) != first
    assert digest(replace(LIBRARY, address=0x402000), tmp_path) != first


def test_code_that_is_loaded_from_elsewhere_than_its_section_says(tmp_path: Path) -> None:
    """The audit decodes sections; what runs is what the segments load."""
    data = bytearray(ef.make(LIBRARY))
    at = next(i for i in range(64, 400, 56) if data[i : i + 8] == b"\x01\0\0\0\x05\0\0\0")  # PT_LOAD r-x
    data[at + 8 : at + 16] = (0x800).to_bytes(8, "little")  # its offset in the file
    (tmp_path / "x").write_bytes(data)
    assert code_digest(tmp_path / "x") == ""
