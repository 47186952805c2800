"""What GnuPG says of a secret key: which key signs, whether it can, who can verify its signatures, and why gpg fails.

gpg signs with the newest subkey that can sign now, and with the primary key where there is none (GnuPG's
g10/getkey.c, finish_lookup). It calls any other key `unusable`, without a reason.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pikaforge.errors import KeyFileError
from pikaforge.formats.text import REASON_LIMIT, last_line
from pikaforge.host.text import clean

RSA = "1"
"""OpenPGP's number of the algorithm that EL7 knows (RFC 4880, section 9.1)."""
NOISE = re.compile(
    r"gpg: (WARNING: |Note: |NOTE: |Total number |  |keybox .* created|\S*trustdb\.gpg: trustdb created|directory .* "
    r"created|using |key [0-9A-F]+: (public|secret) key .*imported)"
)
"""Lines of gpg that are no reason for a failure."""
FUTURE = re.compile(r"created .* in the future")
REASONS = 4
STUB = "#"
"""Field 15 of a secret key that the keyring does not have (GnuPG's doc/DETAILS)."""


def gpg_reason(errors: str) -> str:
    """Return why gpg has failed, from its standard error. Its last line alone names the step that failed."""
    lines = [clean(line.strip()) for line in errors.splitlines() if line.strip() and not NOISE.match(line)]
    lines = list(dict.fromkeys(lines))
    return "; ".join(lines[:REASONS])[: 2 * REASON_LIMIT] if lines else last_line(errors)


def hint_of(reason: str, otherwise: str) -> str:
    """Return what to do about a reason of gpg."""
    if FUTURE.search(reason):
        return "is the clock of this machine right? a key that is younger than now cannot be used"
    return otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeyRow:
    """A primary key or a subkey in gpg's list."""

    id: str
    validity: str
    algorithm: str
    created: int
    expires: int
    """0: never."""
    signs: bool
    here: bool
    """Whether the keyring has its secret part."""

    @classmethod
    def of(cls, row: Sequence[str]) -> _KeyRow:
        fields = [*row, *("" for _ in range(15 - len(row)))]
        return cls(
            id=fields[4],
            validity=fields[1],
            algorithm=fields[3],
            created=int(fields[5]) if fields[5].isdecimal() else 0,
            expires=int(fields[6]) if fields[6].isdecimal() else 0,
            signs="s" in fields[11],
            here=fields[14] != STUB,
        )

    def problem(self, now: float) -> str:
        """Return why it cannot be used; "" if it can."""
        if self.created > now:
            return f"is from the future: it was made at {_date(self.created)}, and it is {_date(now)} here"
        if self.validity == "r":
            return "was revoked"
        if self.validity == "e" or 0 < self.expires <= now:
            return f"has expired at {_date(self.expires)}" if self.expires else "has expired"
        if self.validity in ("i", "d", "n"):
            return "is invalid"
        return ""


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def judge_keys(colons: str, *, where: str, now: float | None = None) -> tuple[str, tuple[str, ...]]:
    """Return the fingerprint that `gpg --with-colons --list-secret-keys` prints (GnuPG's doc/DETAILS), and remarks.

    Args:
        colons: what it prints.
        where: the key's name in messages, behind that of the variable.
        now: seconds since 1970; None for the clock's.

    Raises:
        ConfigError: there is not exactly one secret key, or it cannot sign now.
    """
    rows = [line.split(":") for line in colons.splitlines()]
    primary = [(number, row) for number, row in enumerate(rows) if row[0] == "sec"]
    if len(primary) != 1:
        found = f"{len(primary)} secret keys" if primary else "no secret key"
        raise KeyFileError(
            f"there is {found} where one is wanted" if not primary else f"there are {found} where one is wanted",
            where=where,
            hint="export one alone: gpg --armor --export-secret-keys FINGERPRINT",
        )
    number, row = primary[0]
    fingerprint = next((r[9] for r in rows[number + 1 :] if r[0] == "fpr" and len(r) > 9), "")
    first = _KeyRow.of(row)
    subkeys = [_KeyRow.of(each) for each in rows[number + 1 :] if each[0] == "ssb"]
    signing = _signing(first, subkeys, where=where, now=time.time() if now is None else now)
    if first.algorithm == signing.algorithm == RSA:
        return fingerprint, ()
    what = f"the subkey {signing.id}, which signs," if first.algorithm == RSA else "the signing key"
    return fingerprint, (f"{what} is not RSA: GnuPG 2.0 and rpm 4.11 of EL7 do not verify its signatures",)


def _signing(primary: _KeyRow, subkeys: Sequence[_KeyRow], *, where: str, now: float) -> _KeyRow:
    """Return the key that signs.

    Raises:
        ConfigError: none can.
    """
    hint = "extend it (gpg --quick-set-expire), or take another key; is the clock of this machine right?"
    if problem := primary.problem(now):
        raise KeyFileError(f"the signing key {problem}", where=where, hint=hint)
    candidates = sorted((key for key in subkeys if key.signs and key.here), key=lambda key: key.created)
    usable = [key for key in candidates if not key.problem(now)]
    if usable:
        return usable[-1]
    if primary.signs and primary.here:
        return primary
    if candidates:
        newest = candidates[-1]
        raise KeyFileError(f"the signing subkey {newest.id} {newest.problem(now)}", where=where, hint=hint)
    raise KeyFileError(
        "the key cannot sign: neither it nor a subkey with its secret part here is made for that",
        where=where,
        hint="export it with its signing subkey: gpg --armor --export-secret-keys FINGERPRINT",
    )
