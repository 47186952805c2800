"""`--farm`: a build whose nodes are made by the workers of a Dask cluster. Imported where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pikaforge.cli.context import Context
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import UsageError
from pikaforge.farm.cluster import DaskCluster, connected
from pikaforge.farm.engine import FarmEngine
from pikaforge.farm.project import ProjectOptions, ProjectPlace, text_of
from pikaforge.farm.resources import FarmSeen, summary
from pikaforge.farm.runner import FarmProject, FarmRunner
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.outcomes import Events
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.plan.budget import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """A cluster that a build uses."""

    context: Context
    cluster: DaskCluster
    seen: FarmSeen

    @property
    def engine(self) -> FarmEngine:
        """Return the engine of this machine, which runs nothing."""
        return FarmEngine(self.seen, jobs=self.context.arguments.jobs or 0)

    @property
    def budget(self) -> Budget:
        """Return what nodes may use together, for the expected time."""
        return Budget(cores=max(1, sum(self.seen.cores)), memory=sum(self.seen.memory))

    def machine(self, machine: Machine) -> Machine:
        """Return a machine with what the workers' CPUs run, besides what is emulated."""
        return replace(machine, flags=frozenset(), others=self.seen.targets)

    def runner(self, pipeline: Pipeline, workspace: Workspace, events: Events) -> FarmRunner:
        """Return what makes the nodes of a run."""
        shared = workspace.shared
        if shared is None:
            raise UsageError(
                "results of a farm go through a shared store, and there is none",
                where="--farm",
                hint="name one that this machine and the workers reach: store: in matrix.yaml, or PIKAFORGE_STORE",
            )
        events.notice(f"the farm has {summary(self.seen)}")
        runner = FarmRunner(
            pipeline,
            workspace,
            self.cluster,
            shared,
            events,
            project=FarmProject(self._text(pipeline), workspace, shared),
            seen=self.seen,
        )
        self.cluster.notify(runner.begun)
        return runner

    def _text(self, pipeline: Pipeline) -> Callable[[], str]:
        """Return what reads the project's files."""
        context, arguments = self.context, self.context.arguments
        request = pipeline.context.request
        place = ProjectPlace(
            base=context.base,
            matrix=context.matrix,
            spec=context.spec,
            series=request.series,
            sample=request.origin.sample,
        )
        options = ProjectOptions(
            source=arguments.source,
            strict_targets=arguments.strict_targets,
            formats=tuple(arguments.formats),
            require_run=arguments.require_run,
            locked=arguments.locked,
            compiler_cache=pipeline.context.workspace.compiler_cache,
            today=request.today.isoformat(),
            emulates=context.spec.defaults.emulator is not None,
            targets=tuple(sorted(self.seen.targets)),
        )
        return lambda: text_of(place, options)


@contextmanager
def connection(context: Context) -> Iterator[Farm]:
    """Connect to the cluster that --farm names.

    Raises:
        UsageError: other arguments need this machine.
        ForgeError: it cannot be reached.
    """
    arguments = context.arguments
    if arguments.engine != "docker":
        raise UsageError("the workers of a farm have engines of their own", where="--farm", hint="leave --engine out")
    if getattr(arguments, "memory", 0):
        raise UsageError(
            "each worker has memory of its own",
            where="--memory",
            hint='leave it out; `dask worker --resources "memory=16e9"` bounds what nodes use on one',
        )
    if given := [f"--{name}" for name in context.given() if context.given()[name]]:
        raise UsageError(
            f"{', '.join(given)}: the workers of a farm do not see files of this machine",
            where="--farm",
            hint="leave it out: workers download what is pinned, from `mirrors` first",
        )
    with connected(arguments.farm) as cluster:
        yield Farm(context=context, cluster=cluster, seen=cluster.seen())
