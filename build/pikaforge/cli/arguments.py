"""The grammar of the command line."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pikaforge import __version__
from pikaforge.cli import bundle_arguments
from pikaforge.cli import option_groups as groups
from pikaforge.cli.argument_types import amount as _amount
from pikaforge.cli.argument_types import count as _count
from pikaforge.cli.argument_types import share as _share
from pikaforge.cli.verbs import ABOUT, VERBS, listing, statuses
from pikaforge.host.text import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PROGRAM = "python -m pikaforge"
HINT = "`nox -s tool -- VERB --help` shows the options of a verb, with examples."
WIDTH = 100
"""Columns of a help page at most: longer lines are hard to read."""


class Help(argparse.HelpFormatter):
    """Fills the paragraphs of texts, and keeps the indented lines in them."""

    def __init__(self, prog: str, width: int = 0) -> None:
        columns = width or min(shutil.get_terminal_size().columns, WIDTH)
        super().__init__(prog, max_help_position=26, width=columns - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            paragraph if "\n " in paragraph else super(Help, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


# ---- options that several verbs have


# ---- verbs


def _build(verb: argparse.ArgumentParser) -> None:
    groups.chunk(groups.cells(verb))
    inputs = groups.inputs(verb)
    groups.tarballs(inputs)
    groups.require_run(groups.targets(verb))
    engine = groups.engine(verb)
    groups.budget(engine)
    groups.farm(engine)
    engine.add_argument("--no-compiler-cache", action="store_true", help="compile everything again, without ccache")
    groups.formats(verb.add_argument_group("packages"))
    groups.faces(verb)


def _plan(verb: argparse.ArgumentParser) -> None:
    groups.json(verb)
    groups.chunk(groups.cells(verb))
    groups.inputs(verb)
    groups.require_run(groups.targets(verb))
    groups.engine(verb)
    groups.formats(verb.add_argument_group("packages"))


def _bundle(verb: argparse.ArgumentParser) -> None:
    bundle_arguments.add(verb)
    groups.cells(verb)
    groups.tarballs(groups.inputs(verb))
    groups.require_run(groups.targets(verb))
    groups.engine(verb)


def _matrix(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--format",
        choices=("table", "json", "github", "gitlab"),
        default="table",
        help="for people (default), scripts, or the jobs of GitHub or GitLab",
    )
    verb.add_argument(
        "--chunks", type=_count, metavar="N", help="jobs at most; default: 256 for GitHub, and 200 for GitLab"
    )
    shown = verb.add_mutually_exclusive_group()
    shown.add_argument("--all", action="store_true", help="a line for each cell, not only for each model")
    shown.add_argument("--why", default="", metavar="CELL", help="explain a cell: target, flags, fallback, exclusion")
    groups.cells(
        verb,
        os="all for people, else that of this machine, else defaults.image",
        allocator="all for people, else the image's",
    )
    groups.targets(verb)


def _sweep(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--slice", default="", metavar="K/N", help="only every N-th compilation, from the K-th on")
    verb.add_argument("--to", default="", metavar="DIR", help="folder of the table, instead of docs/")
    _build(verb)


def _audit(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("paths", nargs="+", metavar="PATH", help="ELF file, folder or package")
    target = verb.add_mutually_exclusive_group(required=True)
    target.add_argument("--model", default="", metavar="MODEL", help="a hardware model: all of its CPUs must run it")
    target.add_argument("--target", default="", metavar="TARGET", help="a microarchitecture, by archspec's name")
    verb.add_argument("--all", action="store_true", help="print all lines, not the first 40 of each kind")
    verb.add_argument("--strict", action="store_true", help="refuse what is not proven or not judged, too")
    verb.add_argument(
        "--waivers", action="append", default=[], metavar="FILE", help="a file with further waivers; may be repeated"
    )
    verb.add_argument("--os", default="", metavar="IMAGE", help="the image that files are of, for waivers of images")
    verb.add_argument("--allocator", default="", metavar="NAME", help="the allocator that files are of, likewise")
    verb.add_argument("--draft-waivers", action="store_true", help="print waivers for what is refused, to be examined")
    groups.json(verb)


def _check(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a matrix, a series of patches, or a file of waivers; default: --matrix",
    )


def _verify(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("paths", nargs="+", metavar="PATH", help="package, folder or URL")
    verb.add_argument(
        "--key", action="append", default=[], metavar="FILE", help="a file with public keys; may be repeated"
    )
    verb.add_argument("--unsigned", action="store_true", help="accept what is not signed")
    groups.json(verb)


def _bench(verb: argparse.ArgumentParser) -> None:
    load = verb.add_argument_group("load")
    load.add_argument("--connections", type=_count, default=32, metavar="N", help="of all processes (default: 32)")
    load.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="processes that make the load (default: 1)"
    )
    load.add_argument("--pipeline", type=_count, default=16, metavar="N", help="requests in one packet (default: 16)")
    test = verb.add_argument_group("load test of one server")
    size = test.add_mutually_exclusive_group()
    size.add_argument(
        "--keys",
        type=_amount,
        metavar="N",
        help="write so many random keys, each once; with K, M or G behind it: thousands, millions, billions",
    )
    size.add_argument(
        "--lasting",
        type=_amount,
        metavar="S",
        help="write as many keys as take about S seconds here, by a trial of 3 seconds (default: 60)",
    )
    test.add_argument(
        "--expire-share", type=_share, metavar="F", help="share of keys with a time to live, from 0 to 1 (default: 0.2)"
    )
    test.add_argument("--ttl", type=_amount, metavar="S", help="that time, in seconds (default: 86400)")
    test.add_argument("--key-bytes", type=_amount, metavar="N", help="length of keys (default: 50)")
    test.add_argument("--value-bytes", type=_amount, metavar="N", help="length of values (default: 40)")
    test.add_argument("--seed", type=_amount, metavar="N", help="determines all keys and values (default: 1)")
    test.add_argument("--anew", action="store_true", help="forget a test that was interrupted, and its data")
    turns = verb.add_argument_group("comparison of several servers, in turns")
    turns.add_argument("--seconds", type=float, metavar="S", help="length of each run (default: 30)")
    turns.add_argument("--rounds", type=_count, metavar="N", help="runs of each server (default: 3)")
    turns.add_argument("--keyspace", type=int, metavar="N", help="number of different keys; default: each key is new")
    turns.add_argument("--allocators", action="store_true", help="compare all allocators of the model and image")
    groups.cells(verb)
    groups.tarballs(groups.inputs(verb))
    groups.engine(verb)


def _publish(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="NAME",
        help="a destination of matrix.yaml; may be repeated; default: defaults.publish",
    )
    verb.add_argument("--yes", action="store_true", help="make the changes (so does CI=true together with --to)")
    verb.add_argument(
        "--replace", action="store_true", help="replace packages that have the same name and other contents"
    )
    verb.add_argument("--keep", type=_count, metavar="N", help="versions of each package, and generations, to keep")
    way = verb.add_mutually_exclusive_group()
    way.add_argument("--rollback", action="store_true", help="go back to the generation before")
    way.add_argument(
        "--promote", default="", metavar="FROM→TO", help="copy from one destination to another (also FROM:TO)"
    )
    groups.json(verb)
    groups.cells(verb, os="all", allocator="all")
    verb.set_defaults(engine="docker", source="", locked=False)


def _doctor(verb: argparse.ArgumentParser) -> None:
    groups.json(verb)
    group = verb.add_argument_group("what is to be built")
    group.add_argument(
        "--os", default="", metavar="IMAGE", help="an OS image, or `all`; default: that of this machine, else another"
    )
    group.add_argument("--source", default="", metavar="SPEC", help="as for `build`; `sample` needs no server")
    groups.engine(verb)


def _report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "folders", nargs="*", metavar="DIR", help="a folder with a report.json, or with such folders; default: dist/"
    )
    verb.add_argument(
        "--since",
        default="",
        metavar="PUBLISHED",
        help="show what has changed since this report: a report.json, or a folder or URL of a published root with one",
    )
    verb.add_argument("--page", default="", metavar="FILE", help="the page to write; default: dist/report.html")
    verb.add_argument("--logs", default="", metavar="DIR", help="show the ends of the logs below this folder: out/logs")


def _lock(verb: argparse.ArgumentParser) -> None:
    inputs = groups.inputs(verb)
    inputs.add_argument(
        "--image", action="append", default=[], metavar="IMAGE", help="also pin the base of this image; may be repeated"
    )
    groups.engine(verb)


def _patches(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("action", choices=("list", "check"), help="list the entries, or check each one")
    groups.inputs(verb)
    groups.engine(verb)


def _images(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("action", choices=("list", "remove"), help="list the images, or remove them")
    groups.engine(verb)


def _cache(verb: argparse.ArgumentParser) -> None:
    actions = ("list", "info", "prune", "verify", "clean")
    verb.add_argument(
        "action",
        choices=actions,
        help="list the folders; show the sizes of results, and the shared store; remove results that were not used for "
        "long; compare results with their digests; remove everything",
    )
    verb.add_argument("--keep", type=_amount, metavar="N", help="prune: bytes of results that may stay, such as 20G")
    verb.add_argument(
        "--older-than", type=_count, metavar="N", help="prune: days; remove what was not used for so long"
    )
    verb.add_argument("--yes", action="store_true", help="verify: remove what is damaged")
    groups.json(verb)
    groups.engine(verb)


def _completion(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("shell", choices=("bash", "zsh", "names"), help="the shell; `names` writes the list of names")


def _sample(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", metavar="DIR", help="the folder to write to")


OPTIONS: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "build": _build,
    "plan": _plan,
    "bundle": _bundle,
    "matrix": _matrix,
    "sweep": _sweep,
    "audit": _audit,
    "check": _check,
    "verify": _verify,
    "bench": _bench,
    "publish": _publish,
    "doctor": _doctor,
    "report": _report,
    "lock": _lock,
    "patches": _patches,
    "images": _images,
    "cache": _cache,
    "completion": _completion,
    "sample": _sample,
}
"""What adds a verb's own options; other verbs have none."""

USAGE: Mapping[str, str] = {
    "audit": "(--model M | --target T) [options] PATH ...",
    "check": "[options] [FILE ...]",
    "verify": "[options] PATH ...",
    "report": "[options] [DIR ...]",
    "patches": "[options] {list,check}",
    "images": "[options] {list,remove}",
    "cache": "[options] {list,info,prune,verify,clean}",
    "completion": "[options] {bash,zsh,names}",
    "sample": "[options] DIR",
    "doctor": "[options]",
    "lock": "[options]",
    "manual": "[options]",
    "schema": "[options]",
    "clean": "[options]",
}
"""What stands behind the verb, where that is no SELECTOR."""


class Parser(argparse.ArgumentParser):
    """A parser whose messages are printable: they repeat the arguments."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(printable(message), file)


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line."""
    top = Parser(
        prog=PROGRAM,
        usage="%(prog)s [-h] [--version] VERB [options]",
        description="\n\n".join((ABOUT, listing(), HINT)),
        epilog=statuses(),
        formatter_class=Help,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=__version__, help="print the version and exit")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", help=argparse.SUPPRESS)
    for name, verb in VERBS.items():
        page = verbs.add_parser(
            name,
            help=verb.summary,
            prog=f"{PROGRAM} {name}",
            usage=f"%(prog)s {USAGE.get(name, '[options] [SELECTOR ...]')}",
            description=verb.description(),
            epilog=verb.epilog(),
            formatter_class=Help,
            allow_abbrev=False,
        )
        if name in OPTIONS:
            OPTIONS[name](page)
        groups.common(page)
    return top
