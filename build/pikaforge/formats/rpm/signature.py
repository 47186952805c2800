"""The signature in an RPM's header, and rpm's own check of it.

The header is signed where the key is; rpm only puts the ready signature in (docker/guest/rpmsign.sh).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pikaforge.formats.embedded_signature import Insertion, SignatureVerdict, SignedPart
from pikaforge.formats.rpm.rpm_file import read_rpm
from pikaforge.formats.text import last_line
from pikaforge.host import process

SCRIPT = "rpmsign.sh"
TIMEOUT = 600.0
"""Seconds for one run of rpmkeys."""


class RpmSignature:
    """The signature of an RPM's header, which has the payload's digest. See `EmbeddedSignature`."""

    title = "RPM header signature"
    unsigned = "the RPM's header is not signed"
    program_title = "rpm's own check (rpmkeys)"
    program_missing = "there is no rpm on this machine"

    def signed_part(self, path: Path) -> SignedPart:
        """Return the main header and its signature."""
        rpm = read_rpm(path)
        return SignedPart(data=rpm.header.raw, signature=rpm.signature)

    def body(self, path: Path) -> str:
        """Return the SHA-256 of header and payload."""
        return read_rpm(path).body()

    def insertion(self, path: Path, part: SignedPart, signature: bytes, fingerprint: str) -> Insertion:
        """Return a run of rpmsign.sh."""
        return Insertion(
            path=path,
            script=SCRIPT,
            program="rpmsign",
            install="install the package rpm (Debian, Ubuntu) or rpm-sign (EL)",
            folder="sign",
            inputs={
                "package.rpm": path,
                "header": part.data,
                "signature": signature,
                "key": f"{fingerprint}\n".encode(),
            },
            output="out/package.rpm",
            failed="rpm does not take the signature",
            advice="is it the tools image's rpm, or an old one? rpm 4.14 or newer is needed",
        )

    def program_check(self, path: Path, keys: Path, folder: Path) -> SignatureVerdict | None:
        """Return what rpmkeys says, with a database that has the keys and no others."""
        rpmkeys = process.find("rpmkeys")
        if rpmkeys is None:
            return None
        database = folder / "rpm"
        if not database.is_dir():
            database.mkdir()
            done = process.run([rpmkeys, "--dbpath", str(database), "--import", str(keys)], timeout=TIMEOUT)
            if done.status != 0:
                shutil.rmtree(database)
                return SignatureVerdict(good=False, why=f"rpm does not take the keys: {last_line(done.errors())}")
        done = process.run([rpmkeys, "--dbpath", str(database), "--checksig", "--verbose", str(path)], timeout=TIMEOUT)
        return judge_rpmkeys(done.text(), done.status)


def judge_rpmkeys(text: str, status: int) -> SignatureVerdict:
    """Judge what `rpmkeys --checksig --verbose` prints: a line for each digest and signature.

    Its exit status alone says nothing: it is 0 for an RPM that nobody has signed.
    """
    lines = [line.strip() for line in text.splitlines()[1:] if ":" in line]
    bad = [line for line in lines if not line.endswith(": OK")]
    signatures = [line for line in lines if "signature" in line.lower()]
    if bad:
        return SignatureVerdict(good=False, why=f"rpm says: {bad[0]}")
    if not signatures:
        return SignatureVerdict(good=False, why="rpm finds no signature in it", missing=True)
    if status != 0:
        return SignatureVerdict(good=False, why=f"rpmkeys ends with exit status {status}")
    weak = [line for line in signatures if "/SHA1" in line or "MD5" in line]
    return SignatureVerdict(good=not weak, why=weak[0] if weak else f"{len(lines)} digests and signatures")
