"""What containers may do, whose files they get, and how much of what they leave is read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pikaforge.config.limits import Limits
from pikaforge.errors import HostError
from pikaforge.host import confinement, logs, podman
from pikaforge.host.archives import extract, first_file
from pikaforge.host.confinement import NOBODY, USUAL, Abilities, Bounds, OutputError
from pikaforge.host.job import JobResult, files
from pikaforge.host.raw import Chunks

GIB = 1 << 30


# ---- rights and limits


def test_a_container_has_no_rights() -> None:
    given = confinement.options(USUAL, Abilities(memory=8 * GIB))
    assert given == {
        "user": "65534:65534",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "tmpfs": dict.fromkeys(("/tmp", "/var/tmp"), "rw,exec,nosuid,nodev,mode=1777"),
        "mem_limit": 7 * GIB,
        "memswap_limit": 7 * GIB,
        "pids_limit": 4096,
    }


def test_an_engine_is_asked_for_what_it_can_do_only() -> None:
    nothing = Abilities(memory=8 * GIB, limits_memory=False, limits_processes=False)
    assert not {"mem_limit", "memswap_limit", "pids_limit"} & set(confinement.options(USUAL, nothing))
    assert "mem_limit" not in confinement.options(USUAL, Abilities()), "an engine that does not say how much it has"
    asked: Any = confinement.options(Bounds(memory=GIB, processes=100), Abilities())
    assert (asked["mem_limit"], asked["pids_limit"]) == (GIB, 100)


def test_the_log_that_an_engine_keeps_has_an_end() -> None:
    assert confinement.log_options(Bounds(log=1000), podman=False) == {"max-size": "2000", "max-file": "2"}
    assert confinement.log_options(Bounds(log=1000), podman=True) == {"max-size": "2000"}


def test_limits_of_the_configuration() -> None:
    assert Limits().bounds() == USUAL, "the defaults are those of the engine's module"
    given = Limits(processes=100, memory_mib=2048, file_mib=64, log_mib=2, minutes=3)
    assert given.bounds() == Bounds(processes=100, memory=2 * GIB, file=64 << 20, log=2 << 20, seconds=180)


def test_podman_without_root_limits_files_by_a_shell() -> None:
    argv = podman.limited(("true",), {"core": 0, "fsize": 1 << 20})
    assert "ulimit -f 2048 && " in argv[2]
    assert "ulimit -f unlimited && " in podman.limited(("true",), {"core": 0})[2]


@pytest.mark.parametrize(
    ("status", "out_of_memory", "tail", "said"),
    [
        (137, True, [], "it needed more than 1 GiB of memory (limits.memory_mib, --memory)"),
        (153, False, [], "a file became larger than 2 MiB (limits.file_mib)"),
        (2, False, ["cc1plus: fatal error: x.s: File too large"], "a file became larger than 2 MiB (limits.file_mib)"),
        (2, False, ["make: fork: Resource temporarily unavailable"], "it may have had more than 9 processes at once"),
        (2, False, ["sh: 1: Cannot fork"], "it may have had more than 9 processes at once (limits.processes)"),
        (2, False, ["error: expected ';'"], ""),
        (137, False, [], ""),
    ],
)
def test_the_limit_that_was_met_is_named(status: int, out_of_memory: bool, tail: list[str], said: str) -> None:
    bounds = Bounds(memory=GIB, file=2 << 20, processes=9)
    found = confinement.reason(bounds, Abilities(), status=status, out_of_memory=out_of_memory, tail=tail)
    assert found.startswith(said)
    assert bool(found) == bool(said)


KILLED = "a program of it was killed, most likely because it needed more than 1 GiB of memory (limits.memory_mib, "


@pytest.mark.parametrize(
    ("status", "line", "said"),
    [
        (137, "", KILLED),
        (2, "g++: fatal error: Killed signal terminated program cc1plus", KILLED),
        (1, "clang: error: unable to execute command: Killed", KILLED),
        (2, "make[1]: *** [Makefile:12: db/db_impl.o] Killed", KILLED),
        (2, "make: *** [Makefile:9: all] Error 137", KILLED),
        (2, "Killed", KILLED),
        (2, "guest/script.sh: line 7:  4711 Killed                  ld -o pika *.o", KILLED),
        (1, "FAILED: [code=137] src/pika.o", KILLED),
        (101, "  process didn't exit successfully: `rustc` (signal: 9, SIGKILL: kill)", KILLED),
        (1, "go: link: signal: killed", KILLED),
        (2, "src/cgi.cc:137: error: Killed is not a type", ""),
        (2, "make: *** [cgi.o] Error 1", ""),
        (2, "make: *** [Makefile:137: Killed.o] Error 1", ""),
        (1, "signal: 95", ""),
        (1, "code=1375", ""),
        (137, "cc1plus: fatal error: x.s: File too large", "a file became larger than 2 MiB (limits.file_mib)"),
    ],
)
def test_a_program_that_was_killed_most_likely_lacked_memory(status: int, line: str, said: str) -> None:
    tail = ["compiling", line, "the end"]
    bounds = Bounds(memory=GIB, file=2 << 20)
    found = confinement.explained(bounds, Abilities(), JobResult(status=status), killed=False, tail=tail)
    assert found.exceeded.startswith(said)
    assert bool(found.exceeded) == bool(said)
    assert found.out_of_memory == (said == KILLED)


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"x" * 100_000 + b"\nlast\xff\n")
    lines = logs.last_lines(log, 1000)
    assert (len(lines[0]), lines[-1]) == (993, "last�")
    log.write_bytes(b"")
    assert logs.last_lines(log) == []


# ---- what goes in


def members(archive: bytes) -> dict[str, tuple[int, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: (info.uid, info.gid, info.mode) for info in tar}


def test_the_root_of_a_volume() -> None:
    given = confinement.volume_root("/forge", podman=False, mode=0o1777, folders={"a/b": NOBODY, "guest": 0, "": 0})
    assert members(given) == {
        "../forge": (0, 0, 0o1777),
        "a": (NOBODY, NOBODY, 0o755),
        "a/b": (NOBODY, NOBODY, 0o755),
        "guest": (0, 0, 0o755),
    }
    assert members(confinement.volume_root("/cache", podman=True, owner=NOBODY)) == {".": (NOBODY, NOBODY, 0o755)}


def test_small_archives_are_sent_with_the_root() -> None:
    held = confinement.plain(files({"a/b": b"text", "c": b""}, executable=["c"], owner=7), 1 << 20)
    assert held is not None
    made = confinement.volume_root("/forge", podman=True, folders={"in": 3}, contents=[("in", 5, held), ("", 0, held)])
    assert members(made) == {
        ".": (0, 0, 0o755),
        "in": (3, 3, 0o755),
        "in/a": (5, 5, 0o755),
        "in/a/b": (5, 5, 0o644),
        "in/c": (5, 5, 0o755),
        "a": (0, 0, 0o755),
        "a/b": (0, 0, 0o644),
        "c": (0, 0, 0o755),
    }
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        content = tar.extractfile("in/a/b")
        assert content is not None
        assert content.read() == b"text"


def test_only_plain_whole_archives_are_sent_with_others(tmp_path: Path) -> None:
    held = files({"a/b": b"text" * 1000})
    path = tmp_path / "tree.tar"
    path.write_bytes(held)
    for archive in (held, path):
        found = confinement.plain(archive, len(held))
        assert found is not None
        assert (found.tar.getnames(), found.size) == (["a", "a/b"], len(held))
    assert confinement.plain(held, len(held) - 1) is confinement.plain(path, len(held) - 1) is None
    for damaged in (b"", b"\x1f\x8b" * 300, held[:100], held[:3000]):
        assert confinement.plain(damaged, 1 << 20) is None, damaged[:20]


def given_away(archive: bytes, *, end: int | None = None) -> bytes:
    return b"".join(confinement.owned_by(NOBODY, io.BytesIO(archive), end))


def every_kind() -> bytes:
    """An archive with members of all kinds, long names, and the headers of other systems."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("s", tarfile.SYMTYPE), ("p", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "f" if kind == tarfile.SYMTYPE else "", 0
            info.uname = info.gname = "somebody"
            tar.addfile(info)
        for name, size in (("f", 5), ("long/" * 60 + "name", 512), ("empty", 0), ("large", 3_000_000)):
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mode = size, 1000, 0o640
            tar.addfile(info, io.BytesIO(b"x" * size))
        link = tarfile.TarInfo("h")
        link.type, link.linkname, link.size = tarfile.LNKTYPE, "f", 5  # as bsdtar writes it: a size, and no content
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("last"))
    return buffer.getvalue()


def test_only_owners_change() -> None:
    before, after = every_kind(), given_away(every_kind())
    assert len(before) == len(after)
    with tarfile.open(fileobj=io.BytesIO(before)) as old, tarfile.open(fileobj=io.BytesIO(after)) as new:
        for one, other in zip(old, new, strict=True):
            assert (other.uid, other.gid, other.uname, other.gname) == (NOBODY, NOBODY, "", "")
            for info in (one, other):
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.chksum = 0
            assert one.get_info() == other.get_info()
            if one.isreg():
                first, second = old.extractfile(one), new.extractfile(other)
                assert first is not None
                assert second is not None
                assert first.read() == second.read()


@pytest.mark.parametrize("text", [b"", b"no archive" * 1000, bytes(2000), b"\x1f\x8b" + bytes(range(256)) * 10])
def test_what_is_no_archive_stays(text: bytes) -> None:
    assert given_away(text) == text


def test_zeros_and_what_follows_the_end_stay() -> None:
    archive = files({"a": bytes(5000)}) + bytes(100_000)
    assert given_away(archive)[1024:] == archive[1024:]
    assert given_away(archive + b"rest" * 1000).endswith(b"rest" * 1000)
    assert len(given_away(archive, end=7168)) == 7168


# ---- what comes out


class Sized(io.RawIOBase):
    """A stream of zeros that tells how much of it was read."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        size = min(self.left, size if size >= 0 else self.left)
        self.left -= size
        self.given += size
        return bytes(size)


def test_a_file_is_copied_within_its_bound(tmp_path: Path) -> None:
    stream: Any = Sized(5 * GIB)
    with pytest.raises(OutputError, match=r"^out/facts is larger than 16 MiB$"):
        confinement.copied(stream, tmp_path / "x", confinement.FACTS_LIMIT, "out/facts")
    assert stream.given <= confinement.FACTS_LIMIT + confinement.CHUNK, "and it is not read on"
    confinement.copied(io.BytesIO(b"12345"), tmp_path / "x", 5, "x")
    assert (tmp_path / "x").read_bytes() == b"12345"


def endless() -> Iterator[bytes]:
    while True:
        yield b"y\n" * 500


def test_what_is_printed_is_read_within_its_bound() -> None:
    assert len(confinement.start_of(endless(), 12_345)) == 12_345
    assert confinement.start_of(iter([b"ab", b"c"]), 100) == b"abc"
    with pytest.raises(OutputError, match=r"^the folder is larger than 1000 bytes$"):
        confinement.whole(endless(), 1000, "the folder")
    assert confinement.whole(iter([b"ab", b"c"]), 3, "the folder") == b"abc"


def test_blocks_as_a_stream() -> None:
    stream = Chunks(iter([b"abc", b"", b"defg", b"h"]))
    assert [stream.read(2), stream.read(3), stream.read(0), stream.read(), stream.read(1)] == [
        *(b"ab", b"cde", b"", b"fgh", b""),
    ]
    archive = files({"a": b"text"})
    with first_file(iter([archive[:700], archive[700:]])) as content:
        assert content is not None
        assert content.read() == b"text"


@pytest.mark.parametrize("name", ["link/evil", "link/deeper/evil", "./link/evil", "link"])
def test_nothing_is_unpacked_through_a_link(tmp_path: Path, name: str) -> None:
    """Not even through one that stays in the folder: by several of them, a path can lead out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("d/f"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "d"
        tar.addfile(link)
        control = buffer.getvalue() + bytes(1024)
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(HostError, match="goes through a link"):
        extract(buffer.getvalue(), tmp_path / "a")
    extract(control, tmp_path / "b")
    assert (tmp_path / "b/link").is_symlink()
