"""Unpacks a bundle: `python3 -m pikaforge.bundle.reader`, which setup.sh calls before there is an environment.

Nothing in the archive is trusted. Its members have to be those that the manifest lists, in that order, plain files of
that size with that digest. They are written to a folder beside, which gets its name when all of them are right. That
name is the digest of the manifest.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pikaforge.bundle.listing import (
    DAMAGED,
    END,
    FOLDER,
    MANIFEST,
    MANIFEST_LIMIT,
    UNIT,
    BundleMember,
    Listing,
    header,
    parse,
)
from pikaforge.errors import BundleError, ForgeError, FullDiskError, HostError
from pikaforge.host import process
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.run_id import RunId
from pikaforge.host.text import printable, size_text

BLOCK = 1 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
NAME = 16
"""Letters of the manifest's digest in the name of the folder."""
BEGIN = ".new-"
SPARE = 64 << 20
"""Bytes that are left free on the disk."""


@contextmanager
def _opened(bundle: Path) -> Iterator[IO[bytes]]:
    """Open the tar archive in a bundle, whatever it is compressed by."""
    try:
        with bundle.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            if head[:2] == GZIP:
                with gzip.GzipFile(fileobj=file) as plain:
                    yield cast(IO[bytes], plain)
            elif head == ZSTD:
                process.require("zstd", hint="install the package `zstd`, or make the bundle with --output NAME.tar.gz")
                os.lseek(file.fileno(), 0, os.SEEK_SET)  # `seek` only moves in what was read already
                with process.output(["zstd", "-dcq"], stdin=file) as unpacked:
                    yield unpacked
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BundleError(
            f"the bundle is truncated or damaged: {error!s:.200}", where=str(bundle), hint=DAMAGED
        ) from error


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """Return so many bytes.

    Raises:
        EOFError: there are fewer.
    """
    data = bytearray()
    while len(data) < size:
        block = stream.read(size - len(data))
        if not block:
            raise EOFError(f"{size - len(data)} bytes are missing at its end")
        data += block
    return bytes(data)


def _refused(block: bytes, instead: str, where: str) -> BundleError:
    """Return the error of a header that is not the expected one."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        what = f"is none, or is damaged: {error!s:.100}" if any(block) else f"ends before {instead}"
        return BundleError(f"the bundle {what}", where=where, hint=DAMAGED)
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.DIRTYPE: "a folder",
        tarfile.REGTYPE: f"a file of {info.size} bytes",
    }
    kind = kinds.get(info.type, "no file")
    return BundleError(f"the bundle has {info.name!r:.100}, {kind}, in place of {instead}", where=where, hint=DAMAGED)


def _manifest(stream: IO[bytes], where: str) -> tuple[Listing, bytes]:
    block = _exactly(stream, UNIT)
    try:
        size = tarfile.TarInfo.frombuf(block, "utf-8", "replace").size
    except tarfile.HeaderError:
        size = 0
    if not 0 < size <= MANIFEST_LIMIT or block != header(MANIFEST, size):
        raise _refused(block, MANIFEST, where)
    text = _exactly(stream, size)
    _exactly(stream, -size % UNIT)
    return parse(text, where), text


def _take(stream: IO[bytes], member: BundleMember, folder: Path, where: str) -> None:
    """Write the next member to a folder; it has to be this one."""
    wanted = header(member.name, member.size, executable=member.executable)
    block = _exactly(stream, UNIT)
    if block != wanted[:UNIT] or _exactly(stream, len(wanted) - UNIT) != wanted[UNIT:]:
        raise _refused(block, f"{member.name} with {member.size}", where)
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), member.size
    with path.open("xb") as file:
        while left:
            block = stream.read(min(left, BLOCK))
            if not block:
                raise EOFError(f"{member.name} ends early")
            digest.update(block)
            file.write(block)
            left -= len(block)
    path.chmod(0o755 if member.executable else 0o644)
    _exactly(stream, -member.size % UNIT)
    if digest.hexdigest() != member.sha256:
        raise BundleError(f"{member.name} does not have the SHA-256 of the manifest", where=where, hint=DAMAGED)


def _end(stream: IO[bytes], where: str) -> None:
    """Check that the archive ends here: with zeros, and nothing behind them."""
    if any(_exactly(stream, END)):
        raise BundleError("the bundle has more than its manifest lists", where=where, hint=DAMAGED)
    while block := stream.read(BLOCK):
        if block.count(0) != len(block):
            raise BundleError("something is behind the end of the bundle", where=where, hint=DAMAGED)


def is_whole(folder: Path, listing: Listing) -> bool:
    """Return whether all members are in a folder as the manifest lists them. What was added there does not count."""
    for member in listing.members:
        path = folder / member.name
        try:
            if path.is_symlink() or path.stat().st_size != member.size:
                return False
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        except OSError:
            return False
        if digest.hexdigest() != member.sha256:
            return False
    return True


def read_listing(folder: Path) -> Listing:
    """Return the manifest of an unpacked bundle.

    Raises:
        BundleError: there is none.
    """
    try:
        return parse((folder / MANIFEST).read_bytes(), str(folder))
    except OSError as error:
        raise BundleError(
            f"there is no unpacked bundle: {error.strerror}", where=str(folder), hint="setup.sh --bundle FILE unpacks"
        ) from error


def about(bundle: Path) -> Listing:
    """Return the manifest of a bundle, of which nothing else is looked at."""
    with _opened(bundle) as stream:
        return _manifest(stream, str(bundle))[0]


def unpack(bundle: Path, root: Path) -> tuple[Path, Listing]:
    """Unpack a bundle below a folder, unless it is there already; return its folder and its manifest.

    Raises:
        BundleError: it is damaged, or something in it must not be there; then nothing of it is left.
        FullDiskError: the disk is too small for it.
    """
    with _opened(bundle) as stream, full_disk_errors(root):
        listing, text = _manifest(stream, str(bundle))
        target = root / hashlib.sha256(text).hexdigest()[:NAME]
        if target.is_dir() and is_whole(target, listing):
            return target, listing
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        shutil.rmtree(target, ignore_errors=True)  # it is damaged, or was changed
        _check_room(root, listing, bundle)
        beside = root / f"{BEGIN}{RunId.current().text}"
        try:
            beside.mkdir(mode=0o755)
            for member in listing.members:
                _take(stream, member, beside, str(bundle))
            _end(stream, str(bundle))
            (beside / MANIFEST).write_bytes(text)
            beside.rename(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return target, listing


def sweep(root: Path) -> None:
    """Remove what killed runs have left of bundles."""
    for folder in root.glob(f"{BEGIN}*"):
        made_by = RunId.parse(folder.name.removeprefix(BEGIN))
        if made_by is not None and made_by.gone():
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(root: Path, listing: Listing, bundle: Path) -> None:
    wanted = sum(member.size for member in listing.members) + SPARE
    free = shutil.disk_usage(root).free
    if free < wanted:
        raise FullDiskError(
            f"the bundle needs {size_text(wanted)} in {root}, where {size_text(free)} are free",
            where=str(bundle),
            hint="free space there, or unpack with a setup.sh that is on a larger disk",
        )


def main(argv: Sequence[str]) -> int:
    """Run `about FILE`, which prints the engine and versions of Python, or `unpack FILE FOLDER`.

    The latter prints, each on a line: the folder; the engine; the URL of the wheels; and arguments of a build.
    """
    try:
        match list(argv):
            case ["about", bundle]:
                found = about(Path(bundle))
                sys.stdout.write(" ".join((found.engine, *found.pythons)) + "\n")
            case ["unpack", bundle, root]:
                folder, listing = unpack(Path(bundle), Path(root).absolute())
                given = [argument.replace(FOLDER, str(folder)) for argument in listing.arguments]
                lines = [str(folder), listing.engine, (folder / "wheels").as_uri(), *given]
                sys.stdout.write("".join(f"{line}\n" for line in lines))
            case _:
                raise HostError("give `about FILE` or `unpack FILE FOLDER`")
    except ForgeError as error:
        sys.stderr.write(printable("\n".join(error.lines())) + "\n")
        return error.exit_code
    except OSError as error:
        text = f"error: {error.strerror or error}\n  where: {os.fsdecode(error.filename or '')}"
        sys.stderr.write(printable(text) + "\n")
        return HostError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
