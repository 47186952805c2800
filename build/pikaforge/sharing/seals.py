"""Signatures of listings: by the key of this machine, judged by the keys that are trusted.

`PIKAFORGE_STORE_SIGNING_KEY` and `PIKAFORGE_STORE_SIGNING_PASSPHRASE` name a key for shared results only, so that
machines that build need not have the one of releases; without it, `PIKAFORGE_SIGNING_KEY` counts.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pikaforge.attest import signing
from pikaforge.attest.signatures import Verifier
from pikaforge.attest.signing import Settings, Signer
from pikaforge.host.leftovers import temporary_folder

KEY, PASSPHRASE = "PIKAFORGE_STORE_SIGNING_KEY", "PIKAFORGE_STORE_SIGNING_PASSPHRASE"
PURPOSE = "store"


class Seals:
    """Makes and judges signatures. Several threads may do so."""

    def __init__(self, where: Settings, trusted: Sequence[Path]) -> None:
        """Open no key yet.

        Args:
            where: the key that signs; it may name none.
            trusted: files with public keys; without any, what this machine's own key has signed is trusted, and if it
                has none, everything.
        """
        self._where = where
        self._trusted = tuple(trusted)
        self._lock = threading.Lock()
        self._open: Signer | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], *, cwd: Path, keys: Sequence[Path]) -> Seals:
        """Return what configuration and environment say.

        Args:
            environ: says which key signs, and which keys verify.
            cwd: paths in the environment are relative to it.
            keys: files with trusted keys, of the configuration.
        """
        own = {signing.KEY: environ[KEY], signing.PASSPHRASE: environ.get(PASSPHRASE, "")} if environ.get(KEY) else {}
        where = signing.settings({**environ, **own}, base=cwd)
        return cls(replace(where, public=()), (*keys, *where.public))

    @property
    def signs(self) -> bool:
        """Whether there is a key to sign with."""
        return bool(self._where.key)

    @property
    def judges(self) -> bool:
        """Whether only what is signed is taken."""
        return bool(self._trusted) or self.signs

    def sign(self, data: bytes) -> str:
        """Return a signature; "" without a key.

        Raises:
            ForgeError: the key cannot be used.
        """
        if not self.signs:
            return ""
        with self._lock:
            return self._signer().detached(data).decode("ascii")

    def refusal(self, data: bytes, signature: str) -> str:
        """Return why a text is not trusted; "" if it is.

        Raises:
            ForgeError: a trusted key cannot be read, or GnuPG is missing.
        """
        if not self.judges:
            return ""
        if not signature:
            return "it is not signed"
        with temporary_folder(PURPOSE) as folder:
            verdict = self._verifier(folder).check(*_files(folder, data, signature))
        return "" if verdict.good else verdict.why

    def check(self) -> None:
        """Look at the trusted keys, so that a wrong path is found before something is built.

        Raises:
            ConfigError: one cannot be read.
            HostError: GnuPG is missing.
        """
        if self._trusted:
            with temporary_folder(PURPOSE) as folder:
                self._verifier(folder)

    def _verifier(self, folder: Path) -> Verifier:
        if self._trusted:
            return Verifier.of_files(self._trusted, folder)
        with self._lock:
            return Verifier({"the signing key": self._signer().public}, folder)

    def _signer(self) -> Signer:
        """Return the open key. It stays open until the program ends: a key takes a third of a second to open."""
        if self._open is None:
            with ExitStack() as stack:
                scratch = stack.enter_context(temporary_folder(PURPOSE))
                self._open = stack.enter_context(signing.open_signer(self._where, scratch))
                atexit.register(_close, stack.pop_all(), os.getpid())
        return self._open


def _close(stack: ExitStack, pid: int) -> None:
    if os.getpid() == pid:
        stack.close()


def _files(folder: Path, data: bytes, signature: str) -> tuple[Path, Path]:
    """Write a text and its signature into a folder; return their paths."""
    text, detached = folder / "statement", folder / "statement.asc"
    text.write_bytes(data)
    detached.write_text(signature, encoding="utf-8", errors="replace")
    return text, detached
