"""Whether the clock is right: against the servers that answered, and against what was written here before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from statistics import median_low

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.figures import APT_FUTURE, WRONG_CLOCK
from pikaforge.doctor.finding import Diagnosis
from pikaforge.host.questions import shown

MEND = ("timedatectl set-ntp true", "or, in a virtual machine, let its host set the clock")


class ClockCheck:
    """The clock."""

    name = "clock"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield how far it is from the servers' time, and whether it has gone back."""
        said = {shown(seen.url): seen.answer.ahead for seen in facts.servers if seen.answer.ahead is not None}
        if said:
            yield self._against_servers(median_low(said.values()), len(said))
        behind = facts.clock.newest - facts.clock.now
        if behind > 1:
            yield Diagnosis(
                check=self.name,
                subject="store",
                state="warning",
                says=f"a result in out/ is from {_date(facts.clock.newest)}, and here it is {_date(facts.clock.now)}",
                stops="certificates, keys and mirrors' metadata that are younger than the clock are refused",
                mend=MEND,
            )
        elif not said:
            says = "no server has said its time; nothing in out/ is from the future"
            yield Diagnosis(check=self.name, subject="store", state="ok", says=says)

    def _against_servers(self, ahead: float, servers: int) -> Diagnosis:
        """Return a finding about the median: a server may be wrong, too."""
        off = abs(ahead)
        way = "ahead of" if ahead > 0 else "behind"
        many = f"{servers} servers" if servers > 1 else "the one server that said it"
        says = f"{off:.0f} s {way} the time of {many}"
        if off <= APT_FUTURE:
            return Diagnosis(check=self.name, subject="servers", state="ok", says=says)
        return Diagnosis(
            check=self.name,
            subject="servers",
            state="lacking" if off > WRONG_CLOCK else "warning",
            says=says,
            stops="certificates are refused, apt refuses mirrors (`is not valid yet`), and keys cannot sign",
            mend=MEND,
        )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


CHECK = ClockCheck()
