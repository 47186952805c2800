"""Whether there is memory for what a job may use."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis
from pikaforge.host.confinement import USUAL, memory_of
from pikaforge.host.text import size_text
from pikaforge.plan.budget import COMPILER


class MemoryCheck:
    """Memory of the machine that runs the jobs, against `limits.memory_mib` and the number of compilers."""

    name = "memory"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield whether a job's limit fits into the machine, and whether all compilers fit into a job."""
        engine = facts.engine
        if engine.problem or not engine.abilities.memory:
            return
        total = engine.abilities.memory
        limit = memory_of(facts.spec.limits.bounds() if facts.spec is not None else USUAL, engine.abilities)
        if limit > total:
            yield Diagnosis(
                check=self.name,
                subject="limits.memory_mib",
                state="warning",
                says=f"a job may use {size_text(limit)}, and the machine has {size_text(total)}",
                stops="the limit: the kernel ends programs of the machine before a job meets it",
                mend=(f"set limits.memory_mib in matrix.yaml to {(total * 7 // 8) >> 20} at most, or leave it out",),
            )
        usable = min(limit, total)
        jobs = usable // COMPILER
        if jobs < engine.cores:
            yield Diagnosis(
                check=self.name,
                subject="compilers",
                state="lacking" if jobs < 1 else "warning",
                says=f"{engine.cores} compilers at once may take {size_text(COMPILER * engine.cores)}, and a job has "
                f"{size_text(usable)}",
                stops="the compile stage: the kernel ends a compiler, with `Killed` in the log"
                if jobs < 1
                else f"some of the CPUs: a build runs {jobs} at once",
                mend=("--memory SIZE, where the compilers of your sources need less",),
            )
        elif limit <= total:
            says = f"a job may use {size_text(limit)} of {size_text(total)}; {engine.cores} compilers fit into it"
            yield Diagnosis(check=self.name, subject="jobs", state="ok", says=says)
        yield from self._available(facts)

    def _available(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield a warning if other programs leave no room for one compiler now."""
        if facts.engine.local and facts.available is not None and facts.available < COMPILER:
            yield Diagnosis(
                check=self.name,
                subject="free now",
                state="warning",
                says=f"other programs leave {size_text(facts.available)}",
                stops="the compile stage, as long as they run",
                mend=("`ps -eo rss,pid,comm --sort=-rss | head` shows what takes the memory",),
            )


CHECK = MemoryCheck()
