"""Whether what is published can be signed, and verified, and sent."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis


class KeysCheck:
    """The signing key, the keys to verify with, and the credentials of destinations."""

    name = "keys"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield a finding for each of them."""
        keys = facts.keys
        if keys.signing_problem:
            yield Diagnosis(
                check=self.name,
                subject="signing key",
                state="lacking",
                says=keys.signing_problem,
                stops="the end of a build, and `publish`: what they write is to be signed",
                mend=keys.signing_mend,
            )
        elif keys.signing:
            remark = "; ".join(keys.remarks)
            yield Diagnosis(
                check=self.name,
                subject="signing key",
                state="warning" if remark else "ok",
                says=f"{keys.signing} can sign" + (f"; {remark}" if remark else ""),
                stops="verification on these systems" if remark else "",
                mend=("take an RSA key of 3072 or 4096 bits",) if remark else (),
            )
        else:
            yield Diagnosis(
                check=self.name,
                subject="signing key",
                state="warning",
                says="none is set",
                stops="signatures: packages and repositories have none",
                mend=("set PIKAFORGE_SIGNING_KEY to a file with the secret key, or to a fingerprint",),
            )
        if keys.verifying_problem:
            yield Diagnosis(
                check=self.name,
                subject="keys to verify with",
                state="warning",
                says=keys.verifying_problem,
                stops="`verify`, unless --key names others",
                mend=("set PIKAFORGE_VERIFY_KEYS to files with public keys, separated by colons",),
            )
        elif keys.verifying:
            yield Diagnosis(check=self.name, subject="keys to verify with", state="ok", says=", ".join(keys.verifying))
        yield from self._logins(facts)

    def _logins(self, facts: Facts) -> Iterator[Diagnosis]:
        for login in facts.logins:
            usable = bool(login.source) and not login.problem
            yield Diagnosis(
                check=self.name,
                subject=f"credentials of {login.destination}",
                state="ok" if usable else "warning",
                says=f"from {login.source}" if usable else login.problem or "there are none",
                stops="" if usable else f"`publish --to {login.destination}`, if {login.url} wants a login",
                mend=() if usable else login.mend,
            )


CHECK = KeysCheck()
