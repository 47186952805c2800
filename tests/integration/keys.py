"""OpenPGP keys for tests, made with GnuPG itself in keyrings of their own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pikaforge.attest.signing import KEY, PASSPHRASE, PUBLIC, Settings


@dataclass(frozen=True)
class Key:
    """A key in files, and the keyring that it was made in."""

    home: Path
    secret: Path
    public: Path
    passphrase: Path
    fingerprint: str

    @property
    def settings(self) -> Settings:
        """Where it is, for `open_signer`."""
        return Settings(key=str(self.secret), passphrase=self.passphrase)

    @property
    def environment(self) -> Mapping[str, str]:
        """Where it is, for the tool."""
        return {KEY: str(self.secret), PASSPHRASE: str(self.passphrase), PUBLIC: str(self.public)}

    def gpg(self, *args: str, stdin: bytes | None = None) -> bytes:
        """Run gpg with its keyring; what it prints."""
        fixed = ["gpg", "--homedir", str(self.home), "--batch", "--pinentry-mode", "loopback"]
        fixed += ["--passphrase-file", str(self.passphrase)]
        return subprocess.run([*fixed, *args], check=True, capture_output=True, timeout=120, input=stdin).stdout


@contextmanager
def new_key(
    folder: Path, algorithm: str = "rsa3072", passphrase: str = "", expires: str = "never", when: tuple[str, ...] = ()
) -> Iterator[Key]:
    """Make a key; its files are in `folder`. Its agent's sockets want a short path, so the keyring is elsewhere.

    Args:
        folder: an existing one.
        algorithm: as gpg has it.
        passphrase: empty: it has none.
        expires: as gpg has it.
        when: options of gpg that make it another time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="forge-key-"))
    (folder / "pass").write_text(passphrase)
    key = Key(home, folder / "secret.asc", folder / "public.asc", folder / "pass", "")
    try:
        key.gpg(*when, "--quick-gen-key", "Release <release@sample.invalid>", algorithm, "sign", expires)
        key.secret.write_bytes(key.gpg(*when, "--armor", "--export-secret-keys"))
        key.public.write_bytes(key.gpg("--armor", "--export"))
        listed = key.gpg("--with-colons", "--list-keys").decode()
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        yield Key(home, key.secret, key.public, key.passphrase, fingerprint)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=60)
        shutil.rmtree(home, ignore_errors=True)
