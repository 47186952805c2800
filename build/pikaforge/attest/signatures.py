"""Signatures judged by the keys that the user names, and by nothing else: no keyring of the user's, no web of trust.

It takes only `gpgv`, GnuPG's small verifier, which systems with signed packages have. The weakest digest that is
accepted is SHA-256: EL9 refuses SHA-1.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pikaforge.errors import ConfigError
from pikaforge.formats.rpm.rpm_file import last_line, read_rpm
from pikaforge.host import process

FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
GNUPG_HINT = "install GnuPG: the packages gnupg and gpgv (Debian, Ubuntu) or gnupg2 (EL)"
TIMEOUT = 600.0
STRONG_DIGESTS = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512"}
"""OpenPGP's numbers (RFC 4880, section 9.4)."""
ARMOR = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureVerdict:
    """What is to be said of a signature."""

    good: bool
    why: str
    """By which key it is; or what is wrong, as the end of a sentence."""


def judge_status(status: str, *, keys: str) -> SignatureVerdict:
    """The verdict by the lines that gpgv writes to its status file (GnuPG's doc/DETAILS).

    Args:
        status: those lines.
        keys: how the keys that are trusted are called, for the reason.
    """
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    told = {words[0]: words[1:] for words in lines if words}
    valid = [words[1:] for words in lines if words and words[0] == "VALIDSIG"]
    if "BADSIG" in told:
        return SignatureVerdict(
            good=False, why="the file is not what was signed: its bytes or the signature were altered"
        )
    if "NO_PUBKEY" in told or ("ERRSIG" in told and not valid):
        return SignatureVerdict(good=False, why=f"it is by the key {_signer(told)}, which is not among {keys}")
    for word, what in (("REVKEYSIG", "was revoked"), ("EXPKEYSIG", "has expired"), ("EXPSIG", "has expired")):
        if word in told:
            thing = "the signature itself" if word == "EXPSIG" else f"the key {told[word][0]}"
            return SignatureVerdict(good=False, why=f"{thing} {what}")
    if "GOODSIG" not in told or len(valid) != 1 or len(valid[0]) < 8:
        return SignatureVerdict(good=False, why="there is no OpenPGP signature in it that can be read")
    digest = STRONG_DIGESTS.get(valid[0][7])
    if digest is None:
        return SignatureVerdict(good=False, why="its digest is weaker than SHA-256")
    return SignatureVerdict(good=True, why=f"{digest}, key {valid[0][-1]}")


def _signer(told: Mapping[str, Sequence[str]]) -> str:
    """The fingerprint if the signature tells it, else the key id."""
    words = told.get("ERRSIG", ())
    if len(words) > 6 and FINGERPRINT.fullmatch(words[6]):
        return words[6]
    return (words or told.get("NO_PUBKEY") or ("?",))[0]


def dearmored(text: str, *, where: str) -> bytes:
    """The keys of a file as gpgv reads them.

    Raises:
        ConfigError: there is no public key in it, or it is damaged.
    """
    if "PGP PRIVATE KEY" in text:
        raise ConfigError("this is a secret key", where=where, hint="export the public one: gpg --armor --export")
    keys = b""
    for block in ARMOR.findall(text):
        _, _, body = block.replace("\r", "").partition("\n\n")  # after the headers; there may be none
        lines = [line.strip() for line in (body or block).splitlines()]
        try:
            keys += base64.b64decode("".join(line for line in lines if not line.startswith("=")), validate=True)
        except binascii.Error as error:
            raise ConfigError(f"the key is damaged: {error}", where=where, hint="fetch it anew") from error
    if not keys:
        hint = "export it in text form: gpg --armor --export"
        raise ConfigError("there is no public key in it", where=where, hint=hint)
    return keys


class Verifier:
    """Judges signatures by some public keys and no others: neither a keyring of the user's nor trust has a say."""

    def __init__(self, texts: Mapping[str, str], folder: Path) -> None:
        """Take the keys.

        Args:
            texts: public keys in text form, by what to call them.
            folder: an empty one, for the keyring; the caller removes it.

        Raises:
            ConfigError: a text has no public key.
            HostError: gpgv is missing.
        """
        self._gpgv = process.find("gpgv2") or process.require("gpgv", hint=GNUPG_HINT)
        self._folder = folder
        self._called = ", ".join(texts) or "no keys"
        self._armored = folder / "keys.asc"
        self._armored.write_text("".join(f"{text.rstrip()}\n" for text in texts.values()), encoding="utf-8")
        self._ring = folder / "keys.gpg"
        self._ring.write_bytes(b"".join(dearmored(text, where=where) for where, text in texts.items()))
        self._database: Path | None = None

    @classmethod
    def of_files(cls, files: Sequence[Path], folder: Path) -> Verifier:
        """With the keys of some files.

        Raises:
            ConfigError: one cannot be read.
        """
        texts = {}
        for path in files:
            try:
                texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
            except OSError as error:
                raise ConfigError(
                    f"cannot read the key: {error.strerror}", where=str(path), hint="name a file with public keys"
                ) from error
        return cls(texts, folder)

    def check(self, data: Path, signature: Path) -> SignatureVerdict:
        """Judge a detached signature."""
        done = process.run(
            [
                *(self._gpgv, "--homedir", str(self._folder), "--keyring", str(self._ring), "--status-fd", "1"),
                *("--", str(signature), str(data)),
            ],
            timeout=TIMEOUT,
        )
        verdict = judge_status(done.text(), keys=self._called)
        if verdict.good and done.status != 0:
            return SignatureVerdict(good=False, why=f"gpgv says no (exit status {done.status})")
        return verdict

    def check_header(self, rpm: Path) -> SignatureVerdict:
        """Judge the signature in an RPM's own header; rpm itself is not needed for that.

        Raises:
            RpmError: it is no RPM.
        """
        parts = read_rpm(rpm)
        if not parts.signature:
            return SignatureVerdict(good=False, why="the RPM's header is not signed")
        header, signature = self._folder / "header", self._folder / "header.sig"
        header.write_bytes(parts.header)
        signature.write_bytes(parts.signature)
        return self.check(header, signature)

    def check_by_rpm(self, rpm: Path) -> SignatureVerdict | None:
        """What rpm itself says of an RPM, its digests among that; None where this machine has no rpmkeys."""
        rpmkeys = process.find("rpmkeys")
        if rpmkeys is None:
            return None
        if self._database is None:
            self._database = self._folder / "rpm"
            self._database.mkdir()
            done = process.run(
                [rpmkeys, "--dbpath", str(self._database), "--import", str(self._armored)], timeout=TIMEOUT
            )
            if done.status != 0:
                return SignatureVerdict(good=False, why=f"rpm does not take the keys: {last_line(done.errors())}")
        done = process.run(
            [rpmkeys, "--dbpath", str(self._database), "--checksig", "--verbose", str(rpm)], timeout=TIMEOUT
        )
        return judge_rpmkeys(done.text(), done.status)


def judge_rpmkeys(text: str, status: int) -> SignatureVerdict:
    """The verdict by what `rpmkeys --checksig --verbose` prints: a line for each digest and signature.

    Its exit status alone says nothing: it is 0 for an RPM that nobody has signed.
    """
    lines = [line.strip() for line in text.splitlines()[1:] if ":" in line]
    bad = [line for line in lines if not line.endswith(": OK")]
    signatures = [line for line in lines if "signature" in line.lower()]
    if bad:
        return SignatureVerdict(good=False, why=f"rpm says: {bad[0]}")
    if not signatures:
        return SignatureVerdict(good=False, why="rpm finds no signature in it")
    if status != 0:
        return SignatureVerdict(good=False, why=f"rpmkeys ends with exit status {status}")
    weak = [line for line in signatures if "/SHA1" in line or "MD5" in line]
    return SignatureVerdict(good=not weak, why=weak[0] if weak else f"{len(lines)} digests and signatures")
