"""Whether the configuration can be read, and which inputs are pinned."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis


class ConfigurationCheck:
    """matrix.yaml and the series of patches."""

    name = "configuration"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield the error that a build would end with."""
        if not facts.configuration:
            wanted = ", ".join(facts.images)
            yield Diagnosis(
                check=self.name, subject="matrix.yaml", state="ok", says=f"it is right; judged for {wanted}"
            )
            return
        yield Diagnosis(
            check=self.name,
            subject="matrix.yaml",
            state="lacking",
            says="\n".join(facts.configuration),
            stops="every build; and checks that need it were left out here",
            mend=("correct the file; `nox -s matrix` reads it again",),
        )


class PinsCheck:
    """sources.lock."""

    name = "lock"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield whether it can be read, and what it does not pin."""
        lock = facts.lock
        if lock is None:
            return
        absent = [*([] if lock.source else ["the source"]), *lock.images]
        if lock.problem:
            yield Diagnosis(
                check=self.name,
                subject="sources.lock",
                state="lacking",
                says=lock.problem,
                stops="every build",
                mend=("git checkout -- sources.lock", "or remove it, to pin anew"),
            )
        elif absent:
            there = "" if lock.there else "there is none yet; "
            yield Diagnosis(
                check=self.name,
                subject="sources.lock",
                state="warning",
                says=f"{there}not pinned: {', '.join(absent)}",
                stops="builds with --locked; a build without it pins what it uses",
                mend=("invoke lock" + "".join(f" --image {image}" for image in lock.images),),
            )
        else:
            yield Diagnosis(check=self.name, subject="sources.lock", state="ok", says="source and images are pinned")
