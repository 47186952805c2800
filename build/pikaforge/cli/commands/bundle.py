"""`bundle`: write one archive with all that a build without network needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pikaforge.attest import signing
from pikaforge.bundle import tool_tree, wheels, writer
from pikaforge.bundle.collect import InputCollector
from pikaforge.bundle.contents import Contents
from pikaforge.bundle.listing import FOLDER, Listing
from pikaforge.bundle.writer import MemberFile
from pikaforge.cli import output
from pikaforge.cli.commands.build import PreparedRun, prepare, refuse_early, refuse_problems
from pikaforge.cli.context import Context
from pikaforge.cli.faces.opening import part_reporting
from pikaforge.errors import EXIT_DONE
from pikaforge.host.durable import write_atomically
from pikaforge.host.process import cwd
from pikaforge.host.store import sha256
from pikaforge.pipeline.stage import Request
from pikaforge.plan.cells import Cell


def bundle(context: Context) -> int:
    """Run `bundle`; return the exit status."""
    target = _target(context)
    writer.suffix_of(target)
    versions = tuple(map(wheels.check_version, dict.fromkeys(context.arguments.python))) or (wheels.running(),)
    keys = _keys(context)
    cells = context.cells()
    refuse_problems(cells)
    refuse_early(context, cells)
    tree = tool_tree.tool_tree(context.home, context.matrix, context.spec, context.series(), notice=_silent)
    with part_reporting(context) as reporter:
        run = prepare(context, reporter)
        with run.workspace.store.scratch() as scratch:
            members: dict[str, MemberFile] = {**keys}
            contents = _collect(context, run, cells, members, scratch)
            # Once more: sources.lock has all pins now.
            tree = tool_tree.tool_tree(context.home, context.matrix, context.spec, context.series(), notice=output.note)
            members.update(tree.members)
            members.update(_wheels(context, versions))
            listing = Listing(
                cells=tuple(cell.id for cell in cells),
                pythons=versions,
                arguments=_arguments(context, tree.matrix, contents),
                engine=context.arguments.engine,
                members=writer.members_of(members),
                contents=contents.model_dump(mode="json"),
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            writer.check_room(target, listing.members)
            output.show(_sizes(listing))
            writer.write(target, listing, members)
            digest = _describe(target, scratch)
    _print_end(target, listing, digest)
    return EXIT_DONE


def _silent(_text: str) -> None:
    """Say nothing: the same is said later."""


def _target(context: Context) -> Path:
    product = context.spec.product
    if output_file := str(context.arguments.output):
        return cwd() / output_file
    return context.out / f"{product.name}-{product.version}.bundle.tar.zst"


def _keys(context: Context) -> dict[str, MemberFile]:
    where = signing.settings(os.environ, base=cwd())
    return tool_tree.public_keys([*(cwd() / key for key in context.arguments.key), *where.public])


def _collect(
    context: Context, run: PreparedRun, cells: Sequence[Cell], members: dict[str, MemberFile], scratch: Path
) -> Contents:
    request = Request(spec=context.spec, origin=context.origin(), series=context.series())
    collector = InputCollector(workspace=run.workspace, request=request, scratch=scratch, members=members)
    images, results, tools = collector.images(run.pipeline, context.plan(run.machine, cells), run.reporter)
    commits = collector.commits(tools)
    downloads = collector.downloads(cells, output.note)
    source = collector.tarball()
    return Contents(
        source=f"{FOLDER}/{source}" if source else context.arguments.source,
        images=images,
        results=results,
        commits=commits,
        downloads=downloads,
    )


def _wheels(context: Context, versions: Sequence[str]) -> dict[str, MemberFile]:
    wanted = wheels.requirements(context.home / "pyproject.toml", context.arguments.extra)
    found: dict[str, MemberFile] = {}
    for version in versions:
        for path in wheels.wheels_for(version, wanted, context.out / "wheels"):
            found[f"wheels/{path.name}"] = MemberFile(path=path)
    return found


def _arguments(context: Context, matrix: str, contents: Contents) -> tuple[str, ...]:
    """Return the arguments with which a build from the bundle begins; those of its user come behind them."""
    given = context.arguments
    words = ["--matrix", f"{FOLDER}/{matrix}"]
    for option, value in (("source", contents.source), ("os", given.os), ("allocator", given.allocator)):
        words += [f"--{option}", value] if value else []
    words += ["--engine", "host"] if given.engine == "host" else []
    words += ["--strict-targets"] if given.strict_targets else []
    return tuple(words)


def _sizes(listing: Listing) -> str:
    rows: dict[str, list[int]] = {}
    for member in listing.members:
        row = rows.setdefault(member.name.partition("/")[0], [0, 0])
        row[0] += 1
        row[1] += member.size
    lines = [(room, str(number), output.size(size)) for room, (number, size) in sorted(rows.items())]
    total = (sum(number for number, _ in rows.values()), sum(size for _, size in rows.values()))
    return output.table(("PART", "FILES", "SIZE"), [*lines, ("all", str(total[0]), output.size(total[1]))])


def _describe(target: Path, scratch: Path) -> str:
    """Write the digest of a bundle to a file beside it, and sign that if there is a key; return the digest.

    A signature of the bundle itself would take as long again to make and to check.
    """
    digest = sha256(target)
    beside = target.with_name(f"{target.name}.sha256")
    write_atomically(beside, f"{digest}  {target.name}\n")
    where = signing.settings(os.environ, base=cwd())
    if where.key:
        with signing.open_signer(where, scratch) as signer:
            output.show(f"signed: {output.readable(signer.sign(beside), cwd())}")
    return digest


def _print_end(target: Path, listing: Listing, digest: str) -> None:
    shown = output.readable(target, cwd())
    output.show(f"{shown}: {output.size(target.stat().st_size)}, for {output.count(len(listing.cells), 'cell')}")
    output.show(f"sha256: {digest}")
    output.show(
        f"there, with Python {' or '.join(listing.pythons)}: tar xf {target.name} tool && "
        f"bash tool/setup.sh --bundle {target.name} {' '.join(listing.cells[:1])}"
    )
