"""Feed mutated inputs to every reader; run as a program, it prints what came of it as JSON.

    python hostile.py SEED COUNT FOLDER

An input is a good one with some bytes changed, cut, repeated or exchanged for numbers that readers stumble over. What a
reader says is either an error of this tool, or a result; anything else is a traceback.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

from unit.nested_files import ar, odc, old_cpio, zips
from unit.package_files import cpio, deb, rpm, rpm_of, tar, zipped

from pikaforge.attest.claims import Bill, ClaimError, parse, parse_statement
from pikaforge.attest.contents import read_package
from pikaforge.attest.verify import read_sums
from pikaforge.audit.elf.code import code_digest
from pikaforge.audit.elf.facts import read_facts
from pikaforge.audit.elf.frames import read_frames
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.elf.pointers import read_pointers
from pikaforge.audit.inputs import open_inputs
from pikaforge.cli import output
from pikaforge.config import load
from pikaforge.config.smoke_checks import Probe
from pikaforge.errors import AuditError, ForgeError
from pikaforge.formats.manifest import read_manifest
from pikaforge.host import workspace
from pikaforge.host.lockfile import Lock
from pikaforge.pipeline.smoke import resp, wire
from pikaforge.pipeline.smoke.probes import http_probe
from pikaforge.pipeline.smoke.session import Session
from pikaforge.pipeline.source import patch_state
from pikaforge.pipeline.source.patches import Patch
from pikaforge.publish.sites import journal, web_lock

FILES = {"opt/x/bin/x": b"\x7fELF" + bytes(60), "opt/x/manifest.json": b'{"a": [1, 2]}', "opt/x/t": b"text\n" * 50}
LINKS = {"opt/x/lib/l.so": "l.so.1", "opt/x/up": "../../../etc/passwd"}
NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\x00\x00\x00\x80", b"99999999")
WORDS = (
    b"\x1b[2J",
    b"../",
    b"/",
    b"\0",
    b"::error::",
    b"\n",
    b"\xed\xb2\x80",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"- " * 3000,
)
HOME = Path(__file__).parents[1]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return an input with one to three changes."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(7):
            case 0:
                out[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                out[at : at + 4] = chance.choice(NUMBERS)
            case 2:
                del out[at : at + chance.randint(1, 64)]
            case 3:
                out[at:at] = chance.choice(WORDS)
            case 4:
                out[at:at] = out[at : at + chance.randint(1, 600)]
            case 5:
                if chance.random() < 0.3:
                    del out[at:]
            case _:
                out[at : at + 1] = bytes([out[at] ^ 1 << chance.randrange(8)]) if at < len(out) else b""
    return bytes(out)


def elf(path: Path) -> None:
    """Read an ELF file by all that reads one, but for the decoder of instructions."""
    for read in (read_facts, code_digest, _tables):
        with contextlib.suppress(AuditError):
            read(path)


def _tables(path: Path) -> None:
    with mapped(path) as data:
        layout = read_layout(data, str(path))
        read_frames(data, layout)
        read_pointers(data, layout, str(path))


def package(path: Path) -> None:
    """Read a package as `verify` and `audit` do."""
    with contextlib.suppress(ForgeError):
        read_package(path)
    for tree in open_inputs([path], path.parent / "scratch"):
        for file in tree.elves.values():
            elf(file)


def documents(path: Path) -> None:
    """Read a text as each of the JSON documents."""
    data = path.read_bytes()
    for read in (
        lambda: parse_statement(data),
        lambda: parse(Bill, data),
        lambda: read_manifest(data, where="x"),
        lambda: web_lock.parse(data, {}),
        lambda: journal.Journal.parse(data),
        lambda: read_sums(data.decode("utf-8", "replace")),
        lambda: Lock(path),
    ):
        with contextlib.suppress(ForgeError, ClaimError):
            read()


def facts(path: Path) -> None:
    """Read facts of patches as the stage source does."""
    with contextlib.suppress(ValueError):  # which the stage makes an error of
        patch_state.read(workspace.read_facts(path), [Patch(name="p", kind="diff", strip=1, sha256="0" * 64)])


@contextlib.contextmanager
def _answering(path: Path) -> Iterator[None]:
    """Let connections be to a server that answers with a file, and closes then."""
    here, there = socket.socketpair()
    with here, there, mock.patch.object(socket, "create_connection", return_value=here):
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        there.sendall(path.read_bytes())
        there.shutdown(socket.SHUT_WR)
        yield


def replies(path: Path) -> None:
    """Read a file as what a server answers in RESP."""
    with _answering(path), resp.Connection("server", 1) as connection:
        try:
            connection.exchange([["PING"]] * 3)
        except wire.Closed as error:
            raise AuditError(str(error)) from error


def page(path: Path) -> None:
    """Read a file as what a server answers over HTTP."""
    asked = Probe(kind="http", path="/", match="well")
    with _answering(path):
        try:
            wrong = http_probe.KIND.ask(asked, Session(_none, lambda: wire.Wire("server", 1, limit=1 << 20)))
        except wire.Closed as error:
            raise AuditError(str(error)) from error
    if wrong:
        raise AuditError(wrong)


def _none() -> resp.Connection:
    raise AssertionError("it is asked over HTTP")


def seeds() -> dict[str, tuple[Callable[[Path], object], list[tuple[str, bytes]]]]:
    """Return the readers, each with good inputs and the names of their files."""
    library = small_elf()
    archive = tar({**FILES, "opt/x/lib/l.so.1": library}, LINKS, hard={"opt/x/h": "./opt/x/t"})
    plain = [(1000, 6, b"x"), (1125, 6, b"gzip")]
    manifest = b'{"product": "x", "contents": [{"path": "a", "mode": "0644", "sha256": "' + b"0" * 64 + b'"}]}'
    documented = [manifest, b'{"_type": "https://in-toto.io/Statement/v1", "predicate": {}}', b"0" * 64 + b"  a\n" * 3]
    matrix = (HOME / "matrix.yaml").read_bytes()
    head = b"HTTP/1.1 200 OK\r\nServer: x\r\n"
    chunks = b"Transfer-Encoding: chunked\r\n\r\n2\r\nwe\r\n2;x=y\r\nll\r\n0\r\nA: b\r\n\r\n"
    tars = [("x.tar", archive), ("x.tar.gz", gzip.compress(archive)), ("x.tar.bz2", bz2.compress(archive))]
    return {
        "rpm": (package, [("x.rpm", rpm(FILES, LINKS)), ("x.rpm", rpm_of(plain, cpio(FILES, LINKS)))]),
        "deb": (package, [("x.deb", deb(FILES, LINKS)), ("x.deb", plain_deb(archive))]),
        "tar": (package, [*tars, ("x.tar.xz", lzma.compress(archive))]),
        "wheel": (package, [("x.whl", zipped(FILES, LINKS))]),
        "nested": (package, nested()),
        "elf": (elf, [("x", library)]),
        "json": (documents, [("x.json", document) for document in documented]),
        "yaml": (load.load, [("matrix.yaml", matrix)]),
        "resp": (replies, [("x", b"+OK\r\n*3\r\n:-1\r\n$4\r\na\r\nb\r\n*2\r\n$-1\r\n+x\r\n-ERR no\r\n")]),
        "http": (
            page,
            [("x", head + b"Content-Length: 4\r\n\r\nwell"), ("x", head + chunks), ("x", head + b"\r\nwell")],
        ),
        "patches": (facts, [("facts", b"state\t0\tapplied\noffset\t0\ta.c\t1\t-3\nnote\t0\tn\nreason\t0\tr\n" * 3)]),
    }


def nested() -> list[tuple[str, bytes]]:
    """Return archives of other kinds, and a package with all of them."""
    script = b"#!/bin/sh\nexit 0\n"
    archive, program = tar(FILES, LINKS), FILES["opt/x/bin/x"]
    inner = {
        "ar": ar([("//", b"a-very-long-name.o/\n"), ("/0", program), ("#1/8", b"name.o\0\0" + program)]),
        "cpio": cpio(FILES, LINKS) + bytes(512) + gzip.compress(cpio(FILES)),
        "odc": odc("x", program),
        "old": old_cpio("x", program),
        "zip": zips([("x", program), ("x", zipped(FILES, LINKS))], stub=script),
        "script": script + lzma.compress(archive),
        "deb": deb(FILES, LINKS),
        "rpm": rpm(FILES, LINKS),
    }
    return [*inner.items(), ("x.tar", tar(inner, LINKS)), ("x.zip", zipped(inner, LINKS))]


def small_elf() -> bytes:
    """Return a small library with all that is read: the smallest one of Python's own, or nothing but a header."""
    found = [path for folder in sys.path for path in Path(folder).glob("lib-dynload/*.so")]
    found += [path for folder in sys.path for path in Path(folder).glob("*.so")]
    return min((path.read_bytes() for path in found), key=len, default=FILES["opt/x/bin/x"])


def plain_deb(archive: bytes) -> bytes:
    """Return a DEB whose files are not compressed."""
    return b"!<arch>\n" + f"{'data.tar':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(archive):<10}`\n".encode() + archive


def feed(reader: Callable[[Path], object], path: Path) -> str:
    """Return how a reader ends: `read`, `refused` or a traceback. What it says is printed as the tool prints it."""
    try:
        reader(path)
    except ForgeError as error:
        said = io.StringIO()
        output.show_error(error, said)
        shown = said.getvalue()
        if any(letter != "\n" and not letter.isprintable() for letter in shown):
            return f"escape: {shown!r}"
        return "refused"
    except BaseException:  # noqa: BLE001  # that is what is looked for
        return traceback.format_exc()
    return "read"


def main(seed: int, count: int, folder: Path) -> None:
    """Feed `count` inputs, the readers in turn; leave nothing in the folder but the inputs' own files."""
    chance = random.Random(seed)
    readers = seeds()
    ends: Counter[str] = Counter()
    bad: list[str] = []
    for number in range(count):
        name = list(readers)[number % len(readers)]
        reader, good = readers[name]
        file, data = chance.choice(good)
        path = folder / file
        path.write_bytes(mutated(data, chance))
        end = feed(reader, path)
        path.unlink()
        ends[f"{name} {end if end in ('read', 'refused') else 'bad'}"] += 1
        if end not in ("read", "refused"):
            bad.append(f"{name}, input {number}: {end}")
    peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    left = sorted(path.name for path in folder.iterdir() if path.name != "scratch")
    print(json.dumps({"ends": ends, "bad": bad[:5], "peak": int(peak), "left": left}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
