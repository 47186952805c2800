"""Signatures with a key that stays on this machine.

Environment variables say where keys are. `PIKAFORGE_SIGNING_KEY` is the file with the secret key, or the fingerprint of
a key that the user's agent has; or, for CI systems that keep secrets in variables, the secret key itself in text form.
`PIKAFORGE_SIGNING_PASSPHRASE` is a file with its passphrase. `PIKAFORGE_VERIFY_KEYS` are files with public keys,
separated by colons.

A key that is not in the user's agent is imported into a temporary keyring with an agent of its own; both are gone at
the end. The passphrase goes through a pipe. Key and passphrase are never an argument, in the environment of another
program, in a log, or in a container: a signature inside a file is made here, and a guest script only puts it in,
wherever that runs (`formats.embedded_signature`).

Signing needs GnuPG 2.1 or newer, and verifying only its small `gpgv`. EL7's GnuPG 2.0 and rpm 4.11 verify RSA, but know
no Ed25519 (GnuPG 2.1's NEWS): release keys should be RSA with 3072 or 4096 bits. Digests are SHA-256, because EL9
refuses SHA-1.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from pikaforge.attest.describe import SIGNATURE_SUFFIX
from pikaforge.attest.secret_keys import gpg_reason, hint_of, judge_keys
from pikaforge.attest.signatures import FINGERPRINT, GNUPG_HINT, Verifier
from pikaforge.errors import ForgeError, HostError, KeyFileError
from pikaforge.formats import format as formats
from pikaforge.formats.embedded_signature import Insert
from pikaforge.formats.text import last_line
from pikaforge.host import process
from pikaforge.host.disk import full_disk, is_full
from pikaforge.host.durable import write_atomically
from pikaforge.host.leftovers import temporary_folder

KEY, PASSPHRASE, PUBLIC = "PIKAFORGE_SIGNING_KEY", "PIKAFORGE_SIGNING_PASSPHRASE", "PIKAFORGE_VERIFY_KEYS"
PRIVATE = "-----BEGIN PGP PRIVATE KEY BLOCK-----"
HOME = "gnupg"
"""Begin of the name of a keyring's folder."""
HOME_LENGTH = 80
"""Bytes of a keyring's path. The agent's sockets are in it, and their paths may have 107 bytes (unix(7))."""
AGENT = ("disable-scdaemon", "no-allow-external-cache", "ignore-invalid-option s2k-count", "s2k-count 65536")
"""Configuration of the temporary agent. An agent encrypts the key with the passphrase, and derives a key from that for
each signature. By default that takes 0.3 s each time, to slow down somebody who has stolen the keyring. This keyring
is temporary, so it may be quick. GnuPG 2.1 may not know the option."""
TIMEOUT = 60.0


class SigningError(ForgeError):
    """A key cannot be used, or a file cannot be signed."""

    kind = "E-signing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where keys are."""

    key: str = ""
    """File with the secret key, a fingerprint, or the name of `text` for messages; empty if nothing is signed."""
    text: bytes = field(default=b"", repr=False)
    """The secret key itself, if the environment has it."""
    passphrase: Path | None = None
    public: tuple[Path, ...] = ()
    """Files with public keys, for verifying."""


def settings(environ: Mapping[str, str], *, base: Path) -> Settings:
    """Return where the environment says that keys are. Relative paths are relative to `base`."""
    key = environ.get(KEY, "").strip()
    inline = PRIVATE in key
    plain = "" if inline else key.replace(" ", "").upper()
    passphrase = environ.get(PASSPHRASE, "")
    return Settings(
        text=f"{key}\n".encode() if inline else b"",
        key=f"(in {KEY})" if inline else plain if FINGERPRINT.fullmatch(plain) else str(base / key) if key else "",
        passphrase=base / passphrase if passphrase else None,
        public=tuple(base / path for path in environ.get(PUBLIC, "").split(":") if path),
    )


@dataclass(slots=True, kw_only=True)
class Signer:
    """A key that can sign until the block of `open_signer` ends."""

    fingerprint: str
    """Of the primary key."""
    public: str
    """The public key in text form, for those who verify."""
    notices: tuple[str, ...] = ()
    """Remarks on the key for the user."""
    _gpg: Gpg
    _verifier: Verifier
    made: list[Path] = field(default_factory=list)
    """Files that were signed; not those that had a good signature already."""

    def sign(self, path: Path) -> Path:
        """Make `X.asc` beside X, unless there is a good one, so that a second run changes nothing. Return its path.

        Raises:
            SigningError: the key cannot sign.
        """
        beside = path.with_name(path.name + SIGNATURE_SUFFIX)
        if beside.is_file() and self._verifier.check(path, beside).good:
            return beside
        write_atomically(beside, self._gpg.signature(path, self.fingerprint, armor=True))
        self.made.append(path)
        return beside

    def sign_inside(self, path: Path, insert: Insert) -> bool:
        """Put a signature into a file, if its format has that. Return whether the file was changed.

        A file that has a good signature by this key stays as it is.

        Raises:
            SigningError: the key cannot sign, or more than the signature was changed.
            AuditError: the file is not of the format that its name says.
        """
        kind = formats.of_file(path)
        embedded = kind.embedded if kind is not None else None
        if embedded is None:
            return False
        part = embedded.signed_part(path)
        if part.signature and self._verifier.check_embedded(path, embedded).good:
            return False
        job = embedded.insertion(path, part, self.detached(part.data, armor=False), self.fingerprint)
        content = insert(job)
        beside = self._gpg.home / f"signed-{path.name}"
        beside.write_bytes(content)
        if embedded.body(beside) != embedded.body(path) or not self._verifier.check_embedded(beside, embedded).good:
            raise SigningError(
                f"{job.program} has not put the signature into the file, or has changed more",
                where=str(path),
                hint=job.advice,
            )
        beside.unlink()
        write_atomically(path, content)
        self.made.append(path)
        return True

    def detached(self, data: bytes, *, armor: bool = True) -> bytes:
        """Return a detached signature of some bytes, as text or binary.

        Raises:
            SigningError: the key cannot sign.
        """
        return self._gpg.signature(self._put(data), self.fingerprint, armor=armor)

    def clearsigned(self, data: bytes) -> bytes:
        """Return a text with its signature around it, as apt's InRelease is.

        Raises:
            SigningError: the key cannot sign.
        """
        return self._gpg.signature(self._put(data), self.fingerprint, armor=True, clear=True)

    def _put(self, data: bytes) -> Path:
        path = self._gpg.home / "data"
        path.write_bytes(data)
        return path


@contextmanager
def open_signer(where: Settings, scratch: Path) -> Iterator[Signer]:
    """Yield the configured key, ready to sign. Nothing of it is left when the block ends.

    Args:
        where: where the key is.
        scratch: a folder. The keyring is made below it, or below the system's folder for temporary files if the path
            is too long for an agent's sockets.

    Raises:
        ConfigError: no key is configured, or it cannot be read or used.
        HostError: GnuPG is missing or too old.
    """
    if not where.key:
        raise KeyFileError(
            "there is no key to sign with", where=KEY, hint=f"set {KEY} to a file with the secret key, or a fingerprint"
        )
    program = _gpg_program()
    secret = _read(where.passphrase, PASSPHRASE).rstrip(b"\r\n") if where.passphrase else b""
    with _home(scratch) as home:
        gpg = Gpg(program=program, home=home, passphrase=secret, own_agent=not FINGERPRINT.fullmatch(where.key))
        try:
            if where.text:
                gpg.take_text(where.text, where=KEY)
            elif gpg.own_agent:
                gpg.take_text(_read(Path(where.key), KEY), where=f"{KEY}: {where.key}")
            else:
                gpg.take_agent(where.key)
            fingerprint, notices = gpg.key(where.key)
            public = gpg.run("--armor", "--export", fingerprint).text()
            folder = home / "verify"
            folder.mkdir()
            verifier = Verifier({"the signing key": public}, folder)
            yield Signer(fingerprint=fingerprint, public=public, notices=notices, _gpg=gpg, _verifier=verifier)
        finally:
            gpg.end()


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}", where=where, hint="name a file there") from error


def _gpg_program() -> str:
    """Return gpg, 2.1 or newer. Older versions ask for a passphrase in a window, and keep secret keys elsewhere."""
    program = process.find("gpg2") or process.require("gpg", hint=GNUPG_HINT)
    found = re.search(r"\d+\.\d+", process.run([program, "--version"], timeout=TIMEOUT).text())
    if found is None or Version(found[0]) < Version("2.1"):
        raise HostError(
            f"{program} is GnuPG {found[0] if found else 'of an unknown version'}; signing needs 2.1 or newer",
            hint="sign on another machine; old versions verify signatures by RSA keys",
        )
    return program


@contextmanager
def _home(scratch: Path) -> Iterator[Path]:
    """Yield a folder for a keyring, mode 0700; it is removed when the block ends.

    Raises:
        HostError: there is no place where it can be.
    """
    home = _home_in(scratch)
    if home is None:
        with temporary_folder(HOME, longest=HOME_LENGTH) as home:
            yield home
        return
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _home_in(scratch: Path) -> Path | None:
    """Return a new folder in the caller's; None if its path leaves no room for the names of sockets.

    Raises:
        FullDiskError: its disk is full.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix=f"{HOME}-", dir=scratch.resolve()))
    except OSError as error:
        if is_full(error):
            raise full_disk(error) from error
        return None
    if len(os.fsencode(home)) > HOME_LENGTH:
        home.rmdir()
        return None
    return home


@dataclass(slots=True, kw_only=True)
class Gpg:
    """gpg with a temporary keyring."""

    program: str
    home: Path
    passphrase: bytes = field(repr=False)
    own_agent: bool

    def run(self, *arguments: str, stdin: bytes | None = None) -> process.Completed:
        """Run gpg with the keyring.

        Raises:
            SigningError: it fails. The error has gpg's reasons, which never have a secret.
        """
        done = self.try_(*arguments, stdin=stdin)
        if done.status != 0:
            raise SigningError(
                f"gpg failed: {gpg_reason(done.errors())}", where=KEY, hint="try the key by hand: gpg --sign"
            )
        return done

    def try_(self, *arguments: str, stdin: bytes | None = None) -> process.Completed:
        """Run gpg with the keyring, whatever its exit status."""
        fixed = ("--homedir", str(self.home), "--batch", "--no-tty", "--no-auto-key-locate", "--disable-dirmngr")
        return process.run([self.program, *fixed, *arguments], env=self._environment(), stdin=stdin, timeout=TIMEOUT)

    def _environment(self) -> dict[str, str]:
        return process.environment({"GNUPGHOME": str(self.home)})

    def take_text(self, data: bytes, *, where: str) -> None:
        """Import a secret key. That needs no passphrase.

        Raises:
            ConfigError: there is none.
        """
        (self.home / "gpg-agent.conf").write_text("".join(f"{line}\n" for line in AGENT), encoding="ascii")
        done = self.try_("--import", stdin=data)
        if done.status != 0:
            reason = gpg_reason(done.errors())
            raise KeyFileError(
                f"the key cannot be imported: {reason}",
                where=where,
                hint=hint_of(reason, "export it: gpg --armor --export-secret-keys FINGERPRINT"),
            )

    def take_agent(self, fingerprint: str) -> None:
        """Use a key of the user's agent: import its public half, and redirect the agent's socket.

        Raises:
            ConfigError: the user's keyring does not have it.
        """
        exported = process.run(
            [self.program, "--batch", "--no-tty", "--armor", "--export", fingerprint], timeout=TIMEOUT
        )
        if not exported.stdout:
            raise KeyFileError(
                f"your keyring has no key {fingerprint}", where=KEY, hint="import its public half: gpg --import FILE"
            )
        theirs = process.run(["gpgconf", "--list-dirs", "agent-socket"], timeout=TIMEOUT).text().strip()
        # This starts the user's agent if it does not run.
        process.run(["gpg-connect-agent", "/bye"], timeout=TIMEOUT)
        # A file of this form in place of a socket leads to another one (libassuan's assuan_sock_set_sockaddr_un).
        self._socket().write_text(f"%Assuan%\nsocket={theirs}\n", encoding="utf-8")
        self.run("--import", stdin=exported.stdout)  # not before: gpg would start an agent for this keyring

    def _socket(self) -> Path:
        """Return the socket of this keyring's agent: in the keyring, or in a folder of the user below /run."""
        listed = process.run(["gpgconf", "--list-dirs", "agent-socket"], env=self._environment(), timeout=TIMEOUT)
        path = Path(listed.text().strip())
        if path.parent != self.home:
            process.run(["gpgconf", "--create-socketdir"], env=self._environment(), timeout=TIMEOUT)
        return path

    def key(self, where: str) -> tuple[str, tuple[str, ...]]:
        """Return the fingerprint of the one secret key, and remarks on it.

        Raises:
            ConfigError: there is none, or more than one.
        """
        listed = self.run("--with-colons", "--list-secret-keys").text()
        return judge_keys(listed, where=f"{KEY}: {where}")

    def signature(self, path: Path, fingerprint: str, *, armor: bool, clear: bool = False) -> bytes:
        """Return a detached signature with SHA-256; with `clear`, the text with its signature around it.

        Raises:
            ConfigError: the passphrase is wrong, or missing.
            SigningError: the key cannot sign.
        """
        out = self.home / "signature"
        out.unlink(missing_ok=True)
        # If no passphrase is configured, the user's agent may ask for it. The temporary agent has nobody to ask.
        piped = self.own_agent or bool(self.passphrase)
        done = self.try_(
            *(("--pinentry-mode", "loopback", "--passphrase-fd", "0") if piped else ()),
            *("--digest-algo", "SHA256", "--armor" if armor else "--no-armor"),
            *("--local-user", fingerprint, "--output", str(out)),
            *("--clear-sign" if clear else "--detach-sign", "--", str(path)),
            stdin=self.passphrase if piped else None,
        )
        if done.status != 0 or not out.is_file():
            reason = last_line(done.errors())
            if "passphrase" in reason.lower():
                raise KeyFileError(
                    f"the signing key cannot be used: {reason.rpartition(': ')[2]}",
                    where=PASSPHRASE,
                    hint="a file with the passphrase of the key, and nothing else",
                )
            reason = gpg_reason(done.errors())
            raise SigningError(
                f"cannot sign {path.name}: {reason}", where=KEY, hint=hint_of(reason, "has the key expired?")
            )
        return out.read_bytes()

    def end(self) -> None:
        """End the temporary agent; the user's agent goes on."""
        if self.own_agent:
            process.run(["gpgconf", "--kill", "all"], env=self._environment(), timeout=TIMEOUT)
        process.run(["gpgconf", "--remove-socketdir"], env=self._environment(), timeout=TIMEOUT)
