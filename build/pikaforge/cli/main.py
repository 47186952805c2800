"""The command line: arguments in, exit status out. Errors of all stages are caught here, once."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from pikaforge import __version__
from pikaforge.cli.context import Context
from pikaforge.config.registry import FORMATS
from pikaforge.errors import EXIT_INTERRUPTED, ForgeError, HostError
from pikaforge.plan import allocators

SELECTOR_HELP = "a model (R620), a cell id (R620-el7-none), a quoted glob over ids ('R6*-el7-*') or `all`"


VERBS: dict[str, tuple[str, str]] = {
    "build": ("build", "build"),
    "plan": ("plan", "plan"),
    "sweep": ("sweep", "sweep"),
    "matrix": ("plan", "matrix"),
    "audit": ("audit", "audit"),
    "bench": ("bench", "bench"),
    "verify": ("verify", "verify"),
    "publish": ("publish", "publish"),
    "lock": ("upkeep", "lock"),
    "patches": ("upkeep", "patches"),
    "images": ("upkeep", "images"),
    "cache": ("upkeep", "cache"),
    "sample": ("upkeep", "sample"),
    "schema": ("upkeep", "schema"),
    "clean": ("upkeep", "clean"),
}
"""Module under `commands` and function of each verb."""


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1024")
    return value


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not all(name in FORMATS.names for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of formats: {','.join(FORMATS.names)}")
    return names


Subparsers = argparse._SubParsersAction  # argparse has no public name for it
"""What verbs are added to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Options that several verbs have."""

    common: argparse.ArgumentParser
    chosen: argparse.ArgumentParser
    work: argparse.ArgumentParser
    targets: argparse.ArgumentParser
    running: argparse.ArgumentParser


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line."""
    top = argparse.ArgumentParser(prog="pikaforge", description=__doc__, allow_abbrev=False)
    top.add_argument("--version", action="version", version=__version__)
    groups = _groups()
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _build(verbs, groups)
    _judge(verbs, groups)
    _publish(verbs, groups.common, groups.chosen)
    _bench(verbs, groups.common, groups.chosen, groups.work)
    _upkeep(verbs, groups.common, groups.work)
    return top


def _groups() -> _Groups:
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
    work.add_argument(
        "--formats", type=_formats, default=(), metavar="LIST", help=f"of {','.join(FORMATS.names)}; else the image's"
    )
    targets = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    targets.add_argument(
        "--strict-targets", action="store_true", help="refuse the nearest target where an image's compiler is too old"
    )
    running = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    running.add_argument(
        "--require-run", action="store_true", help="refuse what cannot be run here, natively or emulated"
    )
    work.add_argument("--locked", action="store_true", help="refuse any input that sources.lock does not pin")
    return _Groups(common=common, chosen=chosen, work=work, targets=targets, running=running)


def _build(verbs: Subparsers[argparse.ArgumentParser], groups: _Groups) -> None:
    """Building, and what shows a build before it is made."""
    common, chosen, targets = groups.common, groups.chosen, groups.targets
    work, running = groups.work, groups.running
    build = verbs.add_parser(
        "build", parents=[common, chosen, work, targets, running], allow_abbrev=False, help="build and test packages"
    )
    _building(build)
    plan = verbs.add_parser(
        "plan", parents=[common, chosen, work, targets, running], allow_abbrev=False, help="what a build would do"
    )
    plan.add_argument("--json", action="store_true", help="for scripts")
    sweep = verbs.add_parser(
        "sweep",
        parents=[common, chosen, work, targets, running],
        allow_abbrev=False,
        help="build one cell of every compilation, and write docs/coverage.md",
    )
    _building(sweep)
    sweep.add_argument("--slice", default="", metavar="K/N", help="every N-th compilation, beginning with the K-th")
    sweep.add_argument("--to", default="", metavar="DIR", help="where the table is written (docs/)")
    matrix = verbs.add_parser(
        "matrix", parents=[common, chosen, targets], allow_abbrev=False, help="the cells of the matrix"
    )
    matrix.add_argument("--format", choices=("table", "json", "github"), default="table")


def _judge(verbs: Subparsers[argparse.ArgumentParser], groups: _Groups) -> None:
    """Judging what is built."""
    common = groups.common
    audit = verbs.add_parser(
        "audit", parents=[common], allow_abbrev=False, help="judge programs, libraries, folders and packages"
    )
    audit.add_argument("paths", nargs="+", metavar="FILE|DIR|PACKAGE", help="ELF file, folder, tar, rpm, deb or wheel")
    target = audit.add_mutually_exclusive_group(required=True)
    target.add_argument("--model", default="", metavar="MODEL", help="for all CPUs of this hardware model")
    target.add_argument("--target", default="", metavar="TARGET", help="for this microarchitecture (archspec's name)")
    audit.add_argument("--all", action="store_true", help="every line, not the first 40 of each kind")
    audit.add_argument("--json", action="store_true", help="for scripts")
    verify = verbs.add_parser(
        "verify",
        parents=[common],
        allow_abbrev=False,
        help="check digests, signatures, provenance and contents; audit again",
    )
    verify.add_argument("paths", nargs="+", metavar="FILE|DIR|URL")
    verify.add_argument("--key", action="append", default=[], metavar="FILE", help="public key; may be repeated")
    verify.add_argument("--unsigned", action="store_true", help="accept what is not signed")
    verify.add_argument("--json", action="store_true", help="for scripts")


def _building(verb: argparse.ArgumentParser) -> None:
    """Options of verbs that compile."""
    verb.add_argument("--jobs", type=_count, metavar="N", help="compiler processes at once; else one per CPU")
    for name in allocators.built():
        text = f"local file that serves for the pinned tarball of {name}"
        verb.add_argument(f"--{name}", default="", metavar="FILE", help=text)
    verb.add_argument("--no-compiler-cache", action="store_true", help="compile everything anew (no ccache)")


def _publish(verbs: Subparsers[argparse.ArgumentParser], *parents: argparse.ArgumentParser) -> None:
    """Publishing, and what is done with what was published."""
    publish = verbs.add_parser(
        "publish", parents=parents, allow_abbrev=False, help="put packages into repositories; shows what it would do"
    )
    publish.add_argument(
        "--to", action="append", default=[], metavar="NAME", help="of `publish` in matrix.yaml; may be repeated"
    )
    publish.add_argument("--yes", action="store_true", help="do it (so does CI=true together with --to)")
    publish.add_argument("--replace", action="store_true", help="let packages take the place of others of their name")
    publish.add_argument("--keep", type=_count, metavar="N", help="versions of each package, and generations, to keep")
    way = publish.add_mutually_exclusive_group()
    way.add_argument("--rollback", action="store_true", help="switch to the generation before")
    way.add_argument("--promote", default="", metavar="FROM→TO", help="copy what one has to another (also FROM:TO)")
    publish.add_argument("--json", action="store_true", help="for scripts")
    publish.set_defaults(engine="docker", source="", locked=False)


def _bench(verbs: Subparsers[argparse.ArgumentParser], *parents: argparse.ArgumentParser) -> None:
    """The load test."""
    bench = verbs.add_parser("bench", parents=parents, allow_abbrev=False, help="load test, with plots")
    bench.add_argument("--allocators", action="store_true", help="compare all allocators of the model and image")
    for name in allocators.built():
        bench.add_argument(f"--{name}", default="", metavar="FILE", help="as for build")
    bench.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of each run (30)")
    bench.add_argument("--rounds", type=_count, default=3, metavar="N", help="in which the servers take turns (3)")
    bench.add_argument("--connections", type=_count, default=32, metavar="N", help="in all (32)")
    bench.add_argument("--processes", type=_count, default=1, metavar="N", help="that make the load (1)")
    bench.add_argument("--pipeline", type=_count, default=16, metavar="N", help="requests in one packet (16)")
    bench.add_argument("--keyspace", type=int, metavar="N", help="different keys; else every key is a new one")


def _upkeep(
    verbs: Subparsers[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    work: argparse.ArgumentParser,
) -> None:
    """The verbs behind `invoke`."""

    def add(name: str, help_: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return verbs.add_parser(name, parents=[common, *parents], allow_abbrev=False, help=help_)

    lock = add("lock", "refresh sources.lock and show the difference", work)
    lock.add_argument("--image", action="append", default=[], metavar="IMAGE", help="pin this image's base anew, too")
    patches = add("patches", "the patch series", work)
    patches.add_argument("action", choices=("list", "check"), help="show it, or look at each entry on the source")
    images = add("images", "the images that were made", work)
    images.add_argument("action", choices=("list", "remove"))
    cache = add("cache", "stored results, downloads and the compiler cache", work)
    cache.add_argument("action", choices=("list", "clean"))
    sample = add("sample", "make the sample's git repositories in a folder")
    sample.add_argument("folder", metavar="DIR")
    add("schema", "write the JSON schemas of the configuration files anew")
    add("clean", "remove everything that the tool has made in the checkout")


def _verb(name: str) -> Callable[[Context], int]:
    """The function of a verb, with only the modules that it needs."""
    module, function = VERBS[name]
    found: Callable[[Context], int] = getattr(importlib.import_module(f"pikaforge.cli.commands.{module}"), function)
    return found


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
    from pikaforge.cli.output import show_error  # noqa: PLC0415

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that has no arrow gets a question mark, not a traceback
        sys.stdout.reconfigure(errors="replace")
    arguments = parser().parse_args(argv)
    try:
        with _termination():
            return _verb(arguments.verb)(Context(arguments))
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
