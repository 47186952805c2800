"""The context of one call: its arguments, and what they name. Each part is loaded when it is first needed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pikaforge.host.process import cwd
from pikaforge.plan import allocators, matrix

if TYPE_CHECKING:
    from pikaforge.config.patch_series import Series
    from pikaforge.config.schema import Spec
    from pikaforge.cpu.emulation import Machine
    from pikaforge.host.job import Engine
    from pikaforge.host.workspace import Workspace
    from pikaforge.pipeline.pipeline import Pipeline
    from pikaforge.pipeline.source.origin import Origin
    from pikaforge.plan.cells import Cell
    from pikaforge.plan.plan import Plan
    from pikaforge.sharing.results import SharedResults


KEPT = "answers"
"""Folder below `out/` of what is kept of configuration files; answers of calls are there, too."""


def _load(path: Path) -> Spec:
    """Return the specification in a file. Most calls find it kept, and need no reader of YAML."""
    from pikaforge.config import load  # noqa: PLC0415

    return load.load(path)


def _load_series(path: Path) -> Series:
    """Return the series of patches in a file; likewise."""
    from pikaforge.config import load  # noqa: PLC0415

    return load.load_series(path)


class Context:
    """The arguments of one call, and what they name: configuration, folders, cells, engine.

    Modules are imported in the methods that need them, so that a verb does not wait for libraries that it never uses.
    """

    def __init__(self, arguments: argparse.Namespace, argv: Sequence[str] = ()) -> None:
        from pikaforge.host.workspace import HOME  # noqa: PLC0415

        self.arguments, self.argv = arguments, tuple(argv)
        self.home = HOME
        self.matrix = cwd() / arguments.matrix if arguments.matrix else HOME / "matrix.yaml"
        self.out = cwd() / arguments.out if arguments.out else HOME / "out"
        self.dist = cwd() / arguments.dist if arguments.dist else HOME / "dist"
        self._spec: Spec | None = None

    @property
    def base(self) -> Path:
        """The folder of matrix.yaml. Paths in it are relative to this folder."""
        return self.matrix.parent

    @property
    def spec(self) -> Spec:
        """The configuration, with what --formats and --strict-targets change in it."""
        if self._spec is None:
            from pikaforge.config.kept import kept  # noqa: PLC0415

            spec = kept(self.matrix, self.out / KEPT, _load)
            if getattr(self.arguments, "strict_targets", False):
                images = {name: image.model_copy(update={"fallback": "refuse"}) for name, image in spec.images.items()}
                spec = spec.model_copy(update={"images": images})
            if formats := getattr(self.arguments, "formats", ()):
                images = {name: image.model_copy(update={"formats": formats}) for name, image in spec.images.items()}
                spec = spec.model_copy(update={"images": images})
            self._spec = spec
        return self._spec

    def series(self) -> Series | None:
        """Return the patch series of the product; None if it has no patches."""
        from pikaforge.config.kept import kept  # noqa: PLC0415

        path = self.spec.product.patches
        return None if path is None else kept(self.base / path, self.out / KEPT, _load_series)

    def check_patches(self) -> None:
        """Raise ConfigError if a patch file of the product is missing."""
        path, series = self.spec.product.patches, self.series()
        if path is None or series is None:
            return
        wanted = [entry.needed for entry in series.patches if entry.enabled and entry.needed]
        if not all(((self.base / path).parent / name).is_file() for name in wanted):
            from pikaforge.config import load  # noqa: PLC0415

            load.check_series_files(self.base / path)

    def cells(self) -> tuple[Cell, ...]:
        """Return the selected cells; with --chunk, those of one job."""
        from pikaforge.plan.jobs import one_chunk  # noqa: PLC0415

        chunk: str = getattr(self.arguments, "chunk", "")
        return one_chunk(self.cells_for_jobs(), chunk) if chunk else self._selected(matrix.matching_image(self.spec))

    def cells_for_jobs(self) -> tuple[Cell, ...]:
        """Return the selected cells of which each job with --chunk builds a part: the same ones on every machine.

        The host engine builds for its own machine only.
        """
        host = getattr(self.arguments, "engine", "") == "host"
        return self._selected(matrix.matching_image(self.spec) if host else "")

    def _selected(self, host_image: str) -> tuple[Cell, ...]:
        """Return the selected cells; `host_image` comes before the default image of the specification."""
        from pikaforge.plan.matrix import all_cells  # noqa: PLC0415
        from pikaforge.plan.selectors import Selection, select  # noqa: PLC0415

        arguments = self.arguments
        if arguments.verb == "matrix" and not (arguments.selectors or arguments.os or arguments.allocator):
            return all_cells(self.spec)
        # A person who asks what there is of a model means all of it; a script gets what a build would take.
        usual = "all" if arguments.verb == "matrix" and arguments.format == "table" else ""
        selection = Selection(
            selectors=tuple(arguments.selectors) or (("all",) if arguments.verb == "matrix" else ()),
            os=arguments.os or usual,
            allocator=arguments.allocator or usual,
        )
        engine: Literal["docker", "host"] = getattr(arguments, "engine", "docker")
        return select(self.spec, selection, host_image=host_image, engine=engine)

    def plan(self, machine: Machine | None, cells: Sequence[Cell]) -> Plan:
        """Return the plan of some cells, with warnings about the recipe.

        Args:
            machine: what can be run; None if that is not known.
            cells: the cells.
        """
        from pikaforge.pipeline.recipe import old_names  # noqa: PLC0415
        from pikaforge.plan.plan import expand  # noqa: PLC0415

        arguments = self.arguments
        made = expand(self.spec, cells, engine=arguments.engine, machine=machine, require_run=arguments.require_run)
        recipe = self.spec.product.recipe
        notice = old_names(self.base / recipe, str(recipe))
        return replace(made, warnings=(*made.warnings, notice)) if notice else made

    def machine(self, flags: frozenset[str]) -> Machine:
        """Return what can be run on the engine's machine, whose CPUs have `flags`."""
        from pikaforge.cpu.emulation import Machine  # noqa: PLC0415

        if self.arguments.engine == "host":
            from pikaforge.pipeline.smoke.smoke import host_emulator  # noqa: PLC0415

            return Machine(flags=flags, emulates=host_emulator() is not None)
        return Machine(flags=flags, emulates=self.spec.defaults.emulator is not None)

    def engine(self) -> Engine:
        """Return the engine of --engine; it is not verified yet."""
        kind: Literal["docker", "host"] = self.arguments.engine
        if kind == "host":
            from pikaforge.host.no_container import HostEngine  # noqa: PLC0415

            return HostEngine(self.out / "work")
        from pikaforge.host.docker import DockerEngine  # noqa: PLC0415

        return DockerEngine()

    def workspace(self, engine: Engine, *, refresh: bool = False) -> Workspace:
        """Return the workspace of a run: folders, engine, store, lock and downloads."""
        from pikaforge.host.download import Downloads  # noqa: PLC0415
        from pikaforge.host.lockfile import NAME, Lock  # noqa: PLC0415
        from pikaforge.host.release import builds_release  # noqa: PLC0415
        from pikaforge.host.store import Store  # noqa: PLC0415
        from pikaforge.host.workspace import Workspace  # noqa: PLC0415

        arguments = self.arguments
        lock = Lock(self.base / NAME, strict=arguments.locked, refresh=refresh)
        options = self.given()
        return Workspace(
            base=self.base,
            matrix=self.matrix,
            out=self.out,
            dist=self.dist,
            engine=engine,
            store=Store(self.out / "store"),
            lock=lock,
            downloads=Downloads(
                self.out / "downloads",
                mirrors=self.spec.mirrors,
                notice=lock.notices.append,
                option=" or ".join(f"--{name} FILE" for name in options),
            ),
            given={name: cwd() / file for name, file in options.items() if file},
            jobs=getattr(arguments, "jobs", None) or 0,
            memory=getattr(arguments, "memory", None) or 0,
            compiler_cache=not (
                getattr(arguments, "no_compiler_cache", False) or arguments.locked or builds_release(os.environ)
            ),
            shares_cache=getattr(arguments, "share_compiler_cache", False),
            bounds=self.spec.limits.bounds(),
            shared=self.shared_store(lock.notices.append),
        )

    def shared_store(self, notice: Callable[[str], None]) -> SharedResults | None:
        """Return the store that machines share; None if none is configured.

        Args:
            notice: takes what is to be said of it.

        Raises:
            ConfigError: it cannot be used as it is configured.
        """
        if self.arguments.verb == "plan" or (self.spec.store is None and not os.environ.get("PIKAFORGE_STORE")):
            return None  # a plan asks nobody
        from pikaforge.host.release import builds_release  # noqa: PLC0415
        from pikaforge.sharing.opening import opened  # noqa: PLC0415

        limit = self.spec.limits.bounds().file
        return opened(
            self.spec.store,
            os.environ,
            base=self.base,
            cwd=cwd(),
            file_limit=limit,
            notice=notice,
            release=builds_release(os.environ),
        )

    def given(self) -> dict[str, str]:
        """Return the files that are given for the tarballs of allocators, by the name of the option."""
        return {name: getattr(self.arguments, name.replace("-", "_"), "") for name in allocators.built()}

    def check_given(self, cells: Iterable[Cell]) -> None:
        """Raise ConfigError if a file that is given for an allocator of the cells is not the pinned one.

        A build would look at it only when the images are made.
        """
        from pikaforge.host.download import PinnedFile, verified  # noqa: PLC0415

        given = {name: cwd() / file for name, file in self.given().items() if file}
        wanted = {
            (kind.name, next(iter(sources.values())))
            for cell in cells
            if (kind := allocators.kind_of(self.spec, cell.allocator)).name in given
            and (sources := allocators.sources(self.spec, cell.image, cell.allocator))
        }
        for name, tarball in wanted:
            verified(given[name], PinnedFile(name=tarball.file, url=tarball.url, sha256=tarball.sha256))

    def origin(self) -> Origin:
        """Return the source of --source, or the product's own."""
        from pikaforge.pipeline.source import origin  # noqa: PLC0415

        return origin.parse(self.spec.product, self.arguments.source, base=self.base, cwd=cwd(), out=self.out)

    def pipeline(self, workspace: Workspace) -> Pipeline:
        """Return the pipeline for the product and its source."""
        from pikaforge.pipeline.pipeline import Pipeline  # noqa: PLC0415
        from pikaforge.pipeline.stage import Request  # noqa: PLC0415

        return Pipeline(workspace, Request(spec=self.spec, origin=self.origin(), series=self.series()))
