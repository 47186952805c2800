"""Judgement of signatures by the keys that the user names. Neither the user's keyring nor the web of trust counts.

It needs only `gpgv`, GnuPG's small verifier, which systems with signed packages have. Digests weaker than SHA-256 are
refused: EL9 refuses SHA-1.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pikaforge.errors import KeyFileError
from pikaforge.formats.embedded_signature import EmbeddedSignature, SignatureVerdict
from pikaforge.host import process

FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
GNUPG_HINT = "install GnuPG: the packages gnupg and gpgv (Debian, Ubuntu) or gnupg2 (EL)"
TIMEOUT = 600.0
STRONG_DIGESTS = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512"}
"""OpenPGP's numbers (RFC 4880, section 9.4)."""
UNUSABLE = {
    "4": "is of an algorithm that gpgv of this machine does not know",
    "6": "is from the future by the clock of this machine, or is damaged",
}
"""What GnuPG's errors in ERRSIG mean of a key: GPG_ERR_PUBKEY_ALGO and GPG_ERR_BAD_PUBKEY (libgpg-error)."""
ARMOR = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)


def judge_status(status: str, *, keys: str) -> SignatureVerdict:
    """Judge the lines that gpgv writes to its status file (GnuPG's doc/DETAILS).

    Args:
        status: those lines.
        keys: names of the trusted keys, for the reason.
    """
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    found = {words[0]: words[1:] for words in lines if words}
    valid = [words[1:] for words in lines if words and words[0] == "VALIDSIG"]
    if "BADSIG" in found:
        return SignatureVerdict(
            good=False, why="the file is not what was signed: its bytes or the signature were altered"
        )
    if "NO_PUBKEY" in found or ("ERRSIG" in found and not valid):
        why = "" if "NO_PUBKEY" in found else UNUSABLE.get(_error(found), "")
        why = why or f"is not among {keys}"
        return SignatureVerdict(good=False, why=f"it is by the key {_signer(found)}, which {why}")
    for word, what in (("REVKEYSIG", "was revoked"), ("EXPKEYSIG", "has expired"), ("EXPSIG", "has expired")):
        if word in found:
            thing = "the signature itself" if word == "EXPSIG" else f"the key {found[word][0]}"
            return SignatureVerdict(good=False, why=f"{thing} {what}")
    if "GOODSIG" not in found or len(valid) != 1 or len(valid[0]) < 8:
        return SignatureVerdict(good=False, why="there is no OpenPGP signature in it that can be read")
    digest = STRONG_DIGESTS.get(valid[0][7])
    if digest is None:
        return SignatureVerdict(good=False, why="its digest is weaker than SHA-256")
    return SignatureVerdict(good=True, why=f"{digest}, key {valid[0][-1]}")


def _error(found: Mapping[str, Sequence[str]]) -> str:
    """Return the number of gpgv's error; empty if it names none."""
    words = found.get("ERRSIG", ())
    return words[5] if len(words) > 5 else ""


def _signer(found: Mapping[str, Sequence[str]]) -> str:
    """Return the fingerprint if the signature has it, else the key id."""
    words = found.get("ERRSIG", ())
    if len(words) > 6 and FINGERPRINT.fullmatch(words[6]):
        return words[6]
    return (words or found.get("NO_PUBKEY") or ("?",))[0]


def dearmored(text: str, *, where: str) -> bytes:
    """Return the keys of a text as gpgv reads them.

    Raises:
        ConfigError: there is no public key in it, or it is damaged.
    """
    if "PGP PRIVATE KEY" in text:
        raise KeyFileError("this is a secret key", where=where, hint="export the public one: gpg --armor --export")
    keys = b""
    for block in ARMOR.findall(text):
        _, _, body = block.replace("\r", "").partition("\n\n")  # after the headers; there may be none
        lines = [line.strip() for line in (body or block).splitlines()]
        try:
            keys += base64.b64decode("".join(line for line in lines if not line.startswith("=")), validate=True)
        except binascii.Error as error:
            raise KeyFileError(f"the key is damaged: {error}", where=where, hint="fetch it anew") from error
    if not keys:
        hint = "export it in text form: gpg --armor --export"
        raise KeyFileError("there is no public key in it", where=where, hint=hint)
    return keys


class Verifier:
    """Judges signatures by some public keys and no others."""

    def __init__(self, texts: Mapping[str, str], folder: Path) -> None:
        """Read the keys, and write a keyring.

        Args:
            texts: public keys in text form, by their names for messages.
            folder: an empty folder for the keyring; the caller removes it.

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

    @classmethod
    def of_files(cls, files: Sequence[Path], folder: Path) -> Verifier:
        """Return a verifier with the keys of some files.

        Raises:
            ConfigError: one cannot be read.
        """
        texts = {}
        for path in files:
            try:
                texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
            except OSError as error:
                raise KeyFileError(
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

    def check_embedded(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict:
        """Judge the signature inside a file. The format's own program is not needed for that.

        Raises:
            AuditError: the file is not of that format, or is damaged.
        """
        part = embedded.signed_part(path)
        if not part.signature:
            return SignatureVerdict(good=False, why=embedded.unsigned, missing=True)
        data, signature = self._folder / "part", self._folder / "part.sig"
        data.write_bytes(part.data)
        signature.write_bytes(part.signature)
        return self.check(data, signature)

    def check_by_program(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict | None:
        """Return what the format's own program says of a file, its digests included; None where it is missing."""
        return embedded.program_check(path, self._armored, self._folder)
