"""Which targets the smoke tests can run here."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.cpu import emulation
from pikaforge.cpu.emulation import Machine
from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis
from pikaforge.plan.matrix import all_cells


class EmulatorCheck:
    """The emulator, and the targets of the wanted images that run here by the CPU, emulated, or not at all."""

    name = "emulator"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield whether there is an emulator, and what runs here."""
        if facts.spec is None:
            return
        if not facts.emulator:
            host = facts.engine.kind == "host"
            mend = f"{facts.installer or 'install'} qemu-user-static"
            yield Diagnosis(
                check=self.name,
                subject="emulator",
                state="warning",
                says="this machine has none" if host else "none is configured (defaults.emulator)",
                stops="smoke tests of targets beyond this CPU; those are tried as twins, or refused by --require-run",
                mend=(mend,) if host else ("set defaults.emulator in matrix.yaml to a Debian image, 13 at least",),
            )
        else:
            yield Diagnosis(check=self.name, subject="emulator", state="ok", says=f"from {facts.emulator}")
        if facts.flags is not None:
            yield self._targets(facts, facts.flags)

    def _targets(self, facts: Facts, flags: frozenset[str]) -> Diagnosis:
        assert facts.spec is not None
        targets = dict.fromkeys(
            cell.target for cell in all_cells(facts.spec) if cell.image in facts.images and not cell.problem
        )
        machine = Machine(flags=flags, emulates=bool(facts.emulator))
        native = [target for target in targets if not emulation.lacking(target, flags)]
        emulated = [target for target in targets if target not in native and machine.runs(target)]
        neither = [target for target in targets if target not in native and target not in emulated]
        ways = (("natively", native), ("emulated", emulated), ("neither", neither))
        says = "; ".join(f"{way}: {', '.join(names)}" for way, names in ways if names)
        if not neither:
            return Diagnosis(check=self.name, subject="targets", state="ok", says=says)
        return Diagnosis(
            check=self.name,
            subject="targets",
            state="warning",
            says=says,
            stops="smoke tests of these targets themselves: a twin is tried in their place; --require-run refuses that",
            mend=("build on a machine whose CPUs have all of them, or reach one with DOCKER_HOST",),
        )


CHECK = EmulatorCheck()
