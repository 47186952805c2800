"""The command line: arguments in, exit status out. Errors of all stages are caught here, once."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from pikaforge import __version__
from pikaforge.errors import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STAGE,
    ConfigError,
    ForgeError,
    HostError,
)

if TYPE_CHECKING:
    from pikaforge.host.job import Engine
    from pikaforge.model import Series, Spec
    from pikaforge.pipeline import Pipeline, Report
    from pikaforge.plan import Cell, Plan
    from pikaforge.workshop import Workshop

SELECTOR_HELP = "a model (R620), a cell id (R620-el7-none), a quoted glob over ids ('R6*-el7-*') or `all`"


def _jobs(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of jobs: 1 to 1024")
    return value


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(prog="pikaforge", description=__doc__, allow_abbrev=False)
    top.add_argument("--version", action="version", version=__version__)
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--matrix", metavar="FILE", help="another matrix.yaml; paths in it are relative to it")
    common.add_argument("--out", metavar="DIR", help="where results, downloads and logs are kept (out/)")
    common.add_argument("--dist", metavar="DIR", help="where packages are put (dist/)")
    common.add_argument("--debug", action="store_true", help="show a traceback with an error")
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("selectors", nargs="*", metavar="SELECTOR", help=SELECTOR_HELP)
    chosen.add_argument("--os", default="", metavar="IMAGE", help="image, or `all`; else the one of this machine")
    chosen.add_argument("--allocator", default="", metavar="NAME", help="allocator, or `all`; else the image's default")
    work = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    work.add_argument(
        "--source", default="", metavar="SPEC", help="git URL, local clone, tarball (#REF behind) or `sample`"
    )
    work.add_argument(
        "--engine", choices=("docker", "host"), default="docker", help="containers, or this machine itself"
    )
    work.add_argument("--locked", action="store_true", help="refuse any input that sources.lock does not pin")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser(
        "build", parents=[common, chosen, work], allow_abbrev=False, help="build and test packages"
    )
    build.add_argument("--jobs", type=_jobs, metavar="N", help="compiler processes at once; else one per CPU")
    build.add_argument("--no-compiler-cache", action="store_true", help="compile everything anew (no ccache)")
    plan = verbs.add_parser("plan", parents=[common, chosen, work], allow_abbrev=False, help="what a build would do")
    plan.add_argument("--json", action="store_true", help="for scripts")
    matrix = verbs.add_parser("matrix", parents=[common, chosen], allow_abbrev=False, help="the cells of the matrix")
    matrix.add_argument("--format", choices=("table", "json", "github"), default="table")
    lock = verbs.add_parser("lock", parents=[common, work], allow_abbrev=False, help="refresh sources.lock")
    lock.add_argument("--image", action="append", default=[], metavar="IMAGE", help="pin this image's base anew, too")
    return top


def cwd() -> Path:
    """The folder that relative arguments mean: setup.sh and nox change it, and say where the user was."""
    return Path(os.environ.get("PIKAFORGE_CWD") or Path.cwd())


class Setting:
    """What one call of the tool works on, loaded piece by piece as it is needed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from pikaforge.workshop import HOME  # noqa: PLC0415

        self.arguments = arguments
        self.home = HOME
        self.matrix = cwd() / arguments.matrix if arguments.matrix else HOME / "matrix.yaml"
        self.out = cwd() / arguments.out if arguments.out else HOME / "out"
        self.dist = cwd() / arguments.dist if arguments.dist else HOME / "dist"
        self._spec: Spec | None = None

    @property
    def spec(self) -> Spec:
        """matrix.yaml."""
        if self._spec is None:
            from pikaforge import config  # noqa: PLC0415

            self._spec = config.load(self.matrix)
        return self._spec

    def series(self) -> Series | None:
        """The series file that the product names."""
        from pikaforge import config  # noqa: PLC0415

        path = self.spec.product.patches
        return None if path is None else config.load_series(self.matrix.parent / path)

    def cells(self) -> tuple[Cell, ...]:
        """The selected cells."""
        from pikaforge.host import hostos  # noqa: PLC0415
        from pikaforge.plan import Selection, all_cells, select  # noqa: PLC0415

        given = self.arguments
        if given.verb == "matrix" and not (given.selectors or given.os or given.allocator):
            return all_cells(self.spec)
        selection = Selection(
            selectors=tuple(given.selectors) or (("all",) if given.verb == "matrix" else ()),
            os=given.os,
            allocator=given.allocator,
            host_image=hostos.matching_image(self.spec),
            engine=getattr(given, "engine", "docker"),
        )
        return select(self.spec, selection)

    def engine(self) -> Engine:
        """The engine that was asked for; not yet verified."""
        kind: Literal["docker", "host"] = self.arguments.engine
        if kind == "host":
            from pikaforge.host.local import HostEngine  # noqa: PLC0415

            return HostEngine(self.out / "work")
        from pikaforge.host.engine import DockerEngine  # noqa: PLC0415

        return DockerEngine()

    def workshop(self, engine: Engine, *, refresh: bool = False) -> Workshop:
        """The surroundings of a run."""
        from pikaforge.host.store import Store  # noqa: PLC0415
        from pikaforge.lockfile import NAME, Lock  # noqa: PLC0415
        from pikaforge.workshop import Workshop  # noqa: PLC0415

        given = self.arguments
        base = self.matrix.parent
        return Workshop(
            base=base,
            out=self.out,
            dist=self.dist,
            engine=engine,
            store=Store(self.out / "store"),
            lock=Lock(base / NAME, strict=given.locked, refresh=refresh),
            jobs=getattr(given, "jobs", None) or 0,
            compiler_cache=not getattr(given, "no_compiler_cache", False),
        )

    def pipeline(self, workshop: Workshop) -> Pipeline:
        """The pipeline for the product and the source that was asked for."""
        from pikaforge.pipeline import Pipeline, Request  # noqa: PLC0415
        from pikaforge.stages import origin  # noqa: PLC0415

        product = self.spec.product
        source = origin.parse(product, self.arguments.source, base=self.matrix.parent, cwd=cwd(), out=self.out)
        return Pipeline(workshop, Request(spec=self.spec, origin=source, series=self.series()))


def _plan(setting: Setting) -> Plan:
    from pikaforge.plan import expand  # noqa: PLC0415

    return expand(setting.spec, setting.cells(), engine=setting.arguments.engine)


def run_matrix(setting: Setting) -> int:
    """`matrix`: the cells, in a form for people, scripts or GitHub Actions."""
    from pikaforge import report  # noqa: PLC0415

    cells = setting.cells()
    form = setting.arguments.format
    report.show(report.matrix_text(cells, form))
    if form == "github":
        for cell in cells:
            if cell.problem:
                print(f"left out: {cell.id}: {cell.problem}", file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def run_plan(setting: Setting) -> int:
    """`plan`: what a build would do and why; status 2 if the build would refuse the selection."""
    from pikaforge import report  # noqa: PLC0415

    plan = _plan(setting)
    engine = setting.engine()

    def answers() -> bool:
        try:
            engine.verify()
        except HostError:
            return False
        return True

    views = setting.pipeline(setting.workshop(engine)).views(plan, engine_answers=answers)
    if setting.arguments.json:
        report.show(report.plan_json(plan, views))
    else:
        report.show(report.plan_text(plan, views))
    return EXIT_CONFIG if plan.problems else EXIT_DONE


def run_build(setting: Setting) -> int:
    """`build`: run the plan and put the packages under dist/."""
    from dataclasses import replace  # noqa: PLC0415

    from pikaforge import report  # noqa: PLC0415

    plan = _plan(setting)
    if plan.problems:
        raise ConfigError(
            f"{len(plan.problems)} of {len(plan.cells)} cells cannot be built; nothing was started",
            where="images",
            hint="\n".join(f"{cell.id}: {cell.problem}" for cell in plan.problems),
        )
    for warning in plan.warnings:
        report.show(f"warning: {warning}")
    engine = setting.engine()
    engine.verify()
    workshop = setting.workshop(engine)
    workshop = replace(workshop, jobs=workshop.jobs or engine.cores())
    left = engine.sweep() + workshop.store.sweep()
    if left:
        report.show(f"note: removed {left} leftovers of a run that was killed")
    pipeline = setting.pipeline(workshop)
    printer = report.Printer()
    done = pipeline.execute(plan, printer)
    _deliver(setting, workshop, done)
    return _status(done)


def _deliver(setting: Setting, workshop: Workshop, done: Report) -> None:
    """Put the packages that were made into dist/, and tell of them."""
    from pikaforge import report  # noqa: PLC0415
    from pikaforge.stages import package  # noqa: PLC0415

    start = cwd()
    sums: dict[str, dict[str, str]] = {}
    rows, fresh = [], 0
    for outcome in done.of(package.STAGE):
        if outcome.result is None:
            continue
        image = outcome.node.cells[0].image
        path, written = package.deliver(outcome.result, workshop.dist / image)
        fresh += written
        sums.setdefault(image, {})[path.name] = outcome.result.identity
        rows.append((outcome.result.identity, report.readable(path, start), report.size(path.stat().st_size)))
    for image, digests in sums.items():
        package.write_sums(workshop.dist / image, digests)
    ran = any(outcome.status != "cached" for outcome in done.outcomes.values())
    if rows and not ran and not fresh:
        report.show("everything is up to date")
    for digest, name, size in rows:
        report.show(f"{digest}  {name}  ({size})")


def _status(done: Report) -> int:
    """The exit status of a run: the one kind of error that occurred, or 4 if there were several."""
    codes = {error.exit_code for error in done.errors}
    if not codes:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_STAGE


def run_lock(setting: Setting) -> int:
    """`lock`: look all inputs up anew and show what changed in sources.lock."""
    from pikaforge import report  # noqa: PLC0415
    from pikaforge.stages import image  # noqa: PLC0415

    engine = setting.engine()
    workshop = setting.workshop(engine, refresh=True)
    pipeline = setting.pipeline(workshop)
    pipeline.refresh_source()
    for name in setting.arguments.image:
        if name not in setting.spec.images:
            raise ConfigError(f"there is no image {name!r}", where="--image")
        engine.verify()
        image.identify(name, setting.spec.images[name], workshop=workshop, offline=False)
    notices = workshop.lock.notices
    report.show("\n".join(notices) if notices else f"{workshop.lock.path.name}: nothing changed")
    return EXIT_DONE


VERBS = {"build": run_build, "plan": run_plan, "matrix": run_matrix, "lock": run_lock}


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that a cancelled CI job leaves nothing running."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; the exit status is 0, 2, 3, 4 or 5 (see `errors`), or 130 after Ctrl-C."""
    from pikaforge.report import show_error  # noqa: PLC0415

    arguments = parser().parse_args(argv)
    try:
        with _termination():
            return VERBS[arguments.verb](Setting(arguments))
    except ForgeError as error:
        if arguments.debug:
            traceback.print_exc()
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        show_error(ForgeError("interrupted; what was running is removed", hint="run it again: it goes on where it was"))
        return EXIT_INTERRUPTED
    except OSError as error:
        if arguments.debug:
            traceback.print_exc()
        show_error(
            HostError(
                f"{error.strerror or error}",
                where=str(error.filename or ""),
                hint="is the disk full, or a folder read-only?",
            )
        )
        return HostError.exit_code
