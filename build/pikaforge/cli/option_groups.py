"""Groups of options that several verbs have."""

from __future__ import annotations

import argparse

from pikaforge.cli.argument_types import count, format_list, memory_size
from pikaforge.config.registry import FORMATS
from pikaforge.plan import allocators


def cells(
    verb: argparse.ArgumentParser,
    *,
    os: str = "that of this machine, else defaults.image",
    allocator: str = "the image's",
) -> argparse._ArgumentGroup:
    """Add what selects cells; `os` and `allocator` say what is taken without these options. Return the group."""
    group = verb.add_argument_group("cells")
    group.add_argument(
        "selectors",
        nargs="*",
        metavar="SELECTOR",
        help="a model (R620), a cell id (R620-el7-none), a glob over ids in quotes ('R6*-el7-*'), or `all`",
    )
    group.add_argument("--os", default="", metavar="IMAGE", help=f"an OS image, or `all`; default: {os}")
    group.add_argument("--allocator", default="", metavar="NAME", help=f"an allocator, or `all`; default: {allocator}")
    return group


def inputs(verb: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add where the source comes from; return the group of such options."""
    group = verb.add_argument_group("inputs")
    group.add_argument(
        "--source",
        default="",
        metavar="SPEC",
        help="a git URL, a local clone or `sample`, each with #REF behind it if you like; or a source tarball; "
        "default: product.source in matrix.yaml",
    )
    group.add_argument("--locked", action="store_true", help="refuse any input that sources.lock does not pin")
    return group


def tarballs(group: argparse._ArgumentGroup) -> None:
    """Add files in place of pinned tarballs."""
    for name in allocators.built():
        text = f"a local file in place of the pinned tarball of {name}"
        group.add_argument(f"--{name}", default="", metavar="FILE", help=text)


def formats(group: argparse._ArgumentGroup) -> None:
    """Add the formats of packages."""
    names = ",".join(FORMATS.names)
    group.add_argument(
        "--formats", type=format_list, default=(), metavar="LIST", help=f"of {names}; default: the image's formats"
    )


def targets(verb: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what refuses targets; return the group of such options."""
    group = verb.add_argument_group("targets")
    group.add_argument(
        "--strict-targets",
        action="store_true",
        help="refuse a target that the image's compiler does not know; without it, the nearest one may be built",
    )
    return group


def require_run(group: argparse._ArgumentGroup) -> None:
    """Add what refuses targets that cannot be run here."""
    group.add_argument(
        "--require-run",
        action="store_true",
        help="refuse a target that runs here neither natively nor emulated; without it, a lower one is tried instead",
    )


def engine(verb: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the engine; return the group of such options."""
    group = verb.add_argument_group("engine")
    group.add_argument(
        "--engine", choices=("docker", "host"), default="docker", help="containers, or this machine itself (host)"
    )
    return group


def farm(group: argparse._ArgumentGroup) -> None:
    """Add a farm."""
    group.add_argument(
        "--farm",
        default="",
        metavar="URL",
        help="make nodes on the workers of a Dask cluster: the scheduler's address, tcp://HOST:8786 or tls://HOST:8786",
    )


def budget(group: argparse._ArgumentGroup) -> None:
    """Add what jobs may use together."""
    group.add_argument(
        "--jobs", type=count, metavar="N", help="cores for all compilations together; default: all of the engine's"
    )
    group.add_argument(
        "--memory",
        type=memory_size,
        metavar="SIZE",
        help="memory for all jobs together, as 6G; default: seven eighths of the engine's",
    )


def json(verb: argparse.ArgumentParser) -> None:
    """Add JSON in place of text."""
    verb.add_argument("--json", action="store_true", help="print JSON, for scripts")


def faces(verb: argparse.ArgumentParser) -> None:
    """Add how a run is shown."""
    group = verb.add_argument_group("output").add_mutually_exclusive_group()
    group.add_argument("--quiet", action="store_true", help="print only warnings and what failed, on standard error")
    group.add_argument("--json", action="store_true", help="print one event a line as JSON (events.schema.json)")


def common(verb: argparse.ArgumentParser) -> None:
    """Add what all verbs have."""
    group = verb.add_argument_group("files and errors")
    group.add_argument("--matrix", metavar="FILE", help="another matrix.yaml; paths in it are relative to it")
    group.add_argument("--out", metavar="DIR", help="folder of results, downloads and logs, instead of out/")
    group.add_argument("--dist", metavar="DIR", help="folder of packages, instead of dist/")
    group.add_argument("--debug", action="store_true", help="show a traceback with an error")


def chunk(group: argparse._ArgumentGroup) -> None:
    """Add the choice of one job's share."""
    group.add_argument(
        "--chunk",
        default="",
        metavar="K/N",
        help="only what the K-th of at most N jobs builds; jobs share no compilation, and --os defaults to "
        "defaults.image on every machine",
    )
