"""RPMs as files: headers, payload, signature; and what is damaged, which is refused without much memory."""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from unit.package_files import BIN, NAME, PAYLOAD_COMPRESSOR, STRING, cpio, cpio_member, make_rpm, rpm_header, rpm_of

from pikaforge.errors import AuditError
from pikaforge.formats.rpm.rpm_file import RpmError, read_rpm
from pikaforge.formats.rpm.signature import RpmSignature, judge_rpmkeys
from pikaforge.host import process
from pikaforge.host.archives import archive_errors

FILES = {"opt/demo/bin/demo": b"program" * 1000, "opt/demo/conf": b"port 1\n"}
HEADER = [(NAME, STRING, b"demo"), (PAYLOAD_COMPRESSOR, STRING, b"gzip")]


def written(folder: Path, content: bytes, name: str = "t.rpm") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def listed(path: Path) -> dict[str, tuple[str, bytes | str]]:
    """Kind, and content or target, of each member."""
    with archive_errors(str(path)):
        return {
            member.name: (member.kind, member.target if member.content is None else member.content.read())
            for member in read_rpm(path).members()
        }


class TestHeaders:
    def test_the_parts(self, tmp_path: Path) -> None:
        plain = read_rpm(written(tmp_path, make_rpm(b"about")))
        signed = read_rpm(written(tmp_path, make_rpm(b"about", signature=b"S" * 100), "s.rpm"))
        assert (plain.signature, signed.signature) == (b"", b"S" * 100)
        assert plain.header.raw == signed.header.raw
        assert plain.header.data(NAME) == b"about"
        assert plain.body() == signed.body()

    def test_texts(self, tmp_path: Path) -> None:
        header = read_rpm(written(tmp_path, rpm_of(HEADER, b""))).header
        assert header.text(NAME) == "demo"
        assert header.text(1, "nothing") == "nothing"
        assert header.data(NAME) == b"", "it is no value of bytes"

    @pytest.mark.parametrize("other", [make_rpm(b"About"), make_rpm(payload=b"Payload")])
    def test_another_body_is_another_rpm(self, tmp_path: Path, other: bytes) -> None:
        one, two = written(tmp_path, make_rpm()), written(tmp_path, other, "2.rpm")
        assert read_rpm(one).body() != read_rpm(two).body()

    @pytest.mark.parametrize("length", range(len(make_rpm(payload=b""))))
    def test_what_is_cut_off_is_refused(self, tmp_path: Path, length: int) -> None:
        with pytest.raises(RpmError):
            read_rpm(written(tmp_path, make_rpm(payload=b"")[:length]))

    @pytest.mark.parametrize(
        ("count", "size", "message"),
        [
            (0xFFFFFFFF, 0xFFFFFFFF, "a header has 4294967295 tags"),
            (0x10000, 0, "a header has 65536 tags"),
            (1, 0x10000000, "with 268435456 bytes"),
            (0xFFFF, 32 << 20, "its header is cut off"),
            (1, (32 << 20) + 1, "with 33554433 bytes"),
        ],
    )
    def test_sizes_that_cannot_be_take_no_memory(self, tmp_path: Path, count: int, size: int, message: str) -> None:
        data = bytearray(make_rpm())
        data[104:112] = struct.pack(">II", count, size)
        path = written(tmp_path, bytes(data))
        tracemalloc.start()
        with pytest.raises(RpmError, match=message):
            read_rpm(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1 << 20

    def test_a_tag_outside_of_its_header(self, tmp_path: Path) -> None:
        data = make_rpm(b"about")
        path = written(tmp_path, data.replace(struct.pack(">III", NAME, BIN, 0), struct.pack(">III", NAME, BIN, 99)))
        with pytest.raises(RpmError, match="tag 1000 is outside of its header"):
            read_rpm(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(RpmError, match="cannot be read: No such file"):
            read_rpm(tmp_path / "t.rpm")


class TestPayload:
    def test_files_and_links(self, tmp_path: Path) -> None:
        payload = cpio(FILES, {"opt/demo/link": "conf"}, {"opt/demo/conf": ("opt/demo/b", "opt/demo/a")})
        found = listed(written(tmp_path, rpm_of(HEADER, gzip.compress(payload))))
        assert found == {
            **{name: ("file", content) for name, content in FILES.items()},
            "opt/demo/link": ("symlink", "conf"),
            "opt/demo/a": ("hardlink", "opt/demo/conf"),
            "opt/demo/b": ("hardlink", "opt/demo/conf"),
        }

    def test_an_empty_file_with_several_names(self, tmp_path: Path) -> None:
        payload = cpio({"a": b""}, {}, {"a": ("b",)})
        assert listed(written(tmp_path, rpm_of(HEADER, payload))) == {"a": ("file", b""), "b": ("file", b"")}

    def test_a_member_that_is_read_in_part_or_not_at_all(self, tmp_path: Path) -> None:
        path = written(tmp_path, rpm_of(HEADER, gzip.compress(cpio(FILES, {}))))
        starts = [member.content.read(3) for member in read_rpm(path).members() if member.content is not None]
        assert starts == [content[:3] for content in FILES.values()]
        assert [member.name for member in read_rpm(path).members()] == list(FILES)

    def test_a_large_member_takes_no_memory(self, tmp_path: Path) -> None:
        size = 48 << 20
        path = written(tmp_path, rpm_of(HEADER, gzip.compress(cpio({"big": bytes(size)}, {}))))
        tracemalloc.start()
        (member,) = read_rpm(path).members()
        assert member.content is not None
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8 << 20

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (b"", "no cpio archive"),
            (b"070707" + b"0" * 200, "no cpio archive"),
            (b"07070X" + b"0" * 200, "above 4 GiB"),
            (b"070701" + b"+1" * 52, "bad header"),
            (cpio_member("a", 0o100644, b"x"), "no cpio archive"),
            (cpio_member("a", 0o100644, b"x", size=99), "truncated"),
            (cpio_member("a", 0o120777, b"x", size=1 << 20), "too large: 1048576 bytes"),
            (cpio_member("a", 0o100644, b"x", size=0xFFFFFFFF), "truncated"),
            (b"070701" + b"00000000" * 11 + b"ffffffff" + b"00000000", "a name in its payload has 4294967295"),
            (cpio_member("../../etc/passwd", 0o100644, b"x"), "leaves it"),
        ],
    )
    def test_what_is_damaged(self, tmp_path: Path, payload: bytes, message: str) -> None:
        path = written(tmp_path, rpm_of(HEADER, payload))
        with pytest.raises(AuditError, match=message) as caught:
            listed(path)
        assert caught.value.where == str(path)

    def test_any_damage_is_an_error_of_ours_or_none(self, tmp_path: Path) -> None:
        whole = rpm_of(HEADER, gzip.compress(cpio({"a": b"content" * 9, "b": b""}, {"c": "a"}, {"b": ("d",)})))
        chance = random.Random(12)
        for _ in range(400):
            data = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
            for _ in range(chance.randrange(4) if data else 0):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path = written(tmp_path, bytes(data))
            try:
                listed(path)
            except AuditError as error:
                assert error.where == str(path)


class TestSignature:
    def test_what_is_signed(self, tmp_path: Path) -> None:
        path = written(tmp_path, make_rpm(b"about", signature=b"SIGNATURE"))
        part = RpmSignature().signed_part(path)
        assert part.data == rpm_header([(NAME, BIN, b"about")])
        assert part.signature == b"SIGNATURE"

    def test_nothing_secret_goes_where_rpm_runs(self, tmp_path: Path) -> None:
        path, embedded = written(tmp_path, make_rpm()), RpmSignature()
        job = embedded.insertion(path, embedded.signed_part(path), b"signature", "F" * 40)
        header = read_rpm(path).header.raw
        assert job.inputs == {
            "package.rpm": path, "header": header, "signature": b"signature", "key": b"F" * 40 + b"\n",
        }  # fmt: skip
        assert (job.script, job.output) == ("rpmsign.sh", "out/package.rpm")

    def test_keys_are_imported_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Sequence[str]] = []

        def run(argv: Sequence[str], **_: Any) -> process.Completed:
            asked.append(argv)
            text = "t.rpm:\n    Header V4 RSA/SHA256 Signature, key ID 8c1e50e3: OK\n"
            return process.Completed(argv=tuple(argv), status=0, stdout=text.encode(), stderr=b"")

        monkeypatch.setattr(process, "find", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(process, "run", run)
        path = written(tmp_path, make_rpm())
        for _ in range(2):
            verdict = RpmSignature().program_check(path, tmp_path / "keys.asc", tmp_path)
            assert verdict is not None
            assert verdict.good
        assert ["--import" in argv for argv in asked] == [True, False, False]

    def test_keys_that_rpm_does_not_take(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(argv: Sequence[str], **_: Any) -> process.Completed:
            return process.Completed(argv=tuple(argv), status=1, stdout=b"", stderr=b"error: key 1 import failed.\n")

        monkeypatch.setattr(process, "find", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(process, "run", run)
        for _ in range(2):
            verdict = RpmSignature().program_check(tmp_path / "t.rpm", tmp_path / "keys.asc", tmp_path)
            assert verdict is not None
            assert verdict.why == "rpm does not take the keys: error: key 1 import failed."


class TestRpmkeys:
    """What rpm itself says of a file."""

    HEAD = "t.rpm:\n"
    GOOD = "    Header V4 RSA/SHA256 Signature, key ID 8c1e50e3: OK\n    Header SHA256 digest: OK\n    MD5 digest: OK\n"

    def test_a_signed_package(self) -> None:
        assert judge_rpmkeys(self.HEAD + self.GOOD, 0).good

    @pytest.mark.parametrize(
        ("text", "status", "why"),
        [
            (HEAD + "    Header SHA256 digest: OK\n", 0, "rpm finds no signature in it"),
            (HEAD + GOOD.replace("8c1e50e3: OK", "8c1e50e3: NOKEY"), 1, "NOKEY"),
            (HEAD + GOOD.replace("MD5 digest: OK", "MD5 digest: BAD (Expected a != b)"), 1, "MD5 digest: BAD"),
            (HEAD + GOOD.replace("SHA256 Sig", "SHA1 Sig"), 0, "SHA1"),
            (HEAD + GOOD, 1, "exit status 1"),
            ("", 0, "no signature"),
        ],
    )
    def test_any_other(self, text: str, status: int, why: str) -> None:
        verdict = judge_rpmkeys(text, status)
        assert not verdict.good
        assert why in verdict.why
