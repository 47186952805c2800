"""Whether programs are there that this tool runs on the machine itself."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis
from pikaforge.doctor.programs import PROGRAMS, Program


class ToolsCheck:
    """Programs, by what each would stop."""

    name = "tools"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield a finding for each program that this kind of build may run."""
        for program in PROGRAMS:
            if program.host and facts.engine.kind != "host":
                continue
            found = next((path for name in program.names if (path := facts.programs.get(name))), None)
            subject = program.names[-1]
            if found is not None:
                yield Diagnosis(check=self.name, subject=subject, state="ok", says=found)
                continue
            yield Diagnosis(
                check=self.name,
                subject=subject,
                state="lacking" if program.needed or program.host else "warning",
                says="it is not installed, or not on PATH",
                stops=program.stops,
                mend=install(program, facts.installer),
            )


def install(program: Program, installer: str) -> tuple[str, ...]:
    """Return the line that installs a program on a machine, and what else does it."""
    package = program.apt if installer.endswith("apt-get install") else program.dnf
    if not installer:
        return (f"install {program.apt} (Debian, Ubuntu)" + (f" or {program.dnf} (EL)" if program.dnf else ""),)
    if not package:
        return (f"it is not in this system's own repositories; EPEL has it: {installer} {program.apt}",)
    return (f"{installer} {package}", "or `bash setup.sh`, which installs all that is missing")


CHECK = ToolsCheck()
