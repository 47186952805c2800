"""The coverage of the matrix: what was built and tried, by image, target and allocator; docs/coverage.md, and as JSON.

A sweep makes a row for each distinct compilation from the outcomes of its nodes. A sweep of a part keeps the rows of
earlier ones. The table is always written from all rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.config.scalars import Strict
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine, lacking
from pikaforge.errors import ConfigError, UnreachableError
from pikaforge.host.durable import write_atomically
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.smoke.record import SmokeFacts, WayRecord

if TYPE_CHECKING:
    from pikaforge.pipeline.outcomes import NodeOutcome, Report
    from pikaforge.plan.cells import Cell

NAME = "coverage"
NOTHING = "-"
NOT_RUN = "not run: "
STAND_IN = "standin"
"""VARIANT_ID in the os-release of an image that stands in for another distribution's image."""

State = Literal["built", "refused", "not tried"]


class Row(Strict):
    """One compilation: an image, a target and an allocator."""

    image: str = Field(description="OS image.")
    target: str = Field(description="Microarchitecture that it is built for.")
    allocator: str = Field(description="Memory allocator.")
    models: tuple[str, ...] = Field(description="Hardware models whose packages hold it.")
    wanted: tuple[str, ...] = Field(default=(), description="Better targets that the image's compiler does not know.")
    stand_in: bool = Field(default=False, description="Whether the image only answers to the name of its base.")
    state: State = Field(description="How it ended.")
    audited: str = Field(default=NOTHING, description="The verdict of the audit.")
    native: str = Field(default=NOTHING, description="Checks that passed on the CPU of the machine, or why none ran.")
    emulated: str = Field(default=NOTHING, description="Checks that passed under emulation, or why none ran.")
    tried: str = Field(default="", description="The target that was run; another than `target` for a twin.")
    packages: tuple[str, ...] = Field(default=(), description="Formats that were packed.")
    why: str = Field(default="", description="Why it is not built, or not tried.")
    compiler: str = Field(default="", description="Version of the image's gcc.")
    day: str = Field(description="When it was tried, YYYY-MM-DD.")

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the compilation of the row."""
        return self.image, self.target, self.allocator


class Coverage(Strict):
    """docs/coverage.json."""

    format: Literal[1] = Field(default=1, description="Version of this file's layout.")
    product: str = Field(description="What is built.")
    version: str = Field(description="Its version.")
    source: str = Field(description="What it was built from.")
    tool: str = Field(description="Version of pikaforge.")
    machine: str = Field(description="The best microarchitecture that the machine of the last sweep can run.")
    emulator: str = Field(default="", description="Version of the emulator.")
    rows: tuple[Row, ...] = Field(description="In the order of the matrix.")


def best_of(machine: Machine) -> str:
    """Return the best microarchitecture that a machine's CPU can run, for people."""
    return microarch.best(name for name in microarch.known() if not lacking(name, machine.flags))


def rows(cells: Sequence[Cell], done: Report, *, day: date) -> Iterable[Row]:
    """Return a row for each compilation of a run.

    Args:
        cells: all cells of the matrix, which say which models share a compilation.
        done: the run; it has one cell of each compilation.
        day: when it was.
    """
    for cell in done.plan.cells:
        alike = [other for other in cells if other.group == cell.group]
        yield _row(cell, alike, done, day)


def _row(cell: Cell, alike: Sequence[Cell], done: Report, day: date) -> Row:
    failed = None if cell.problem else _cause(done, done.outcomes[f"package:{cell.id}"])
    images = (done.facts(node, ImageStageFacts) for node in cell.image_nodes if not cell.problem)
    image = next(filter(None, images), None)
    audit = done.facts(f"audit:{cell.group}", AuditRecord)
    smoke = done.facts(f"smoke:{cell.group}", SmokeFacts)
    packed = done.facts(f"package:{cell.id}", PackageFacts)
    artifacts = packed.artifacts if packed is not None else ()
    return Row(
        image=cell.image,
        target=cell.target,
        allocator=cell.allocator,
        models=tuple(dict.fromkeys(other.model for other in alike)),
        wanted=tuple(dict.fromkeys(other.wanted for other in alike if other.wanted != cell.target)),
        stand_in=image is not None and image.os.variant == STAND_IN,
        state="refused" if cell.problem else _state(failed),
        audited=_audited(audit),
        native=_ran(smoke.native) if smoke is not None else NOTHING,
        emulated=_ran(smoke.emulated) if smoke is not None else NOTHING,
        tried=smoke.tried if smoke is not None else "",
        packages=tuple(dict.fromkeys(artifact.format for artifact in artifacts if artifact.role == "main")),
        why=cell.problem or _why(failed),
        compiler=image.gcc if image is not None else "",
        day=day.isoformat(),
    )


def _state(failed: NodeOutcome | None) -> State:
    if failed is None:
        return "built"
    return "not tried" if _unreachable(failed) else "refused"


def _cause(done: Report, outcome: NodeOutcome) -> NodeOutcome | None:
    """Return the failure that kept a node from being made; None if it was made."""
    while outcome.status == "blocked":
        outcome = done.outcomes[outcome.blocked_by]
    return outcome if outcome.status == "failed" else None


def _why(failed: NodeOutcome | None) -> str:
    """Return why it is not built, in one line.

    The message on an unreachable place is cut: what follows the colon differs between machines.
    """
    if failed is None or failed.error is None:
        return ""
    text = " ".join(failed.error.message.split())
    return text.partition(": ")[0] if _unreachable(failed) else text


def _unreachable(outcome: NodeOutcome) -> bool:
    """Return whether a failure says only that something cannot be reached from here, such as a registry or a mirror."""
    return isinstance(outcome.error, UnreachableError)


def unreachable(done: Report) -> frozenset[str]:
    """Return the ids of the nodes whose failure says only that something cannot be reached from here."""
    return frozenset(node for node, outcome in done.outcomes.items() if outcome.error and _unreachable(outcome))


def _audited(record: AuditRecord | None) -> str:
    if record is None:
        return NOTHING
    if not record.passed:
        return f"refused ({len(record.violations)})"
    dispatched = sorted({library.file for library in record.dispatched})
    return f"passed; dispatched: {', '.join(dispatched)}" if dispatched else "passed"


def _ran(way: WayRecord) -> str:
    if not way.ran:
        return f"{NOT_RUN}{why}" if (why := way.reason.rpartition(": ")[2]) else NOTHING
    if way.problem:
        return "failed"
    count = sum(check.passed for check in way.checks)
    return f"{count} checks on {way.cpu}" if way.cpu else f"{count} checks"


# ---- the files


def load(folder: Path) -> Coverage | None:
    """Read the rows of earlier sweeps; return None if there are none.

    Raises:
        ConfigError: it cannot be read: a sweep of a part would lose the rest.
    """
    path = folder / f"{NAME}.json"
    try:
        return Coverage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"it cannot be read: {str(error).splitlines()[0]}", where=str(path), hint="remove it to begin anew"
        ) from error


def merge(fresh: Coverage, earlier: Coverage | None, order: Sequence[tuple[str, str, str]]) -> Coverage:
    """Return the rows of a sweep, with those of earlier ones.

    Args:
        fresh: those of this sweep.
        earlier: those of earlier ones; none of it is kept if the product or its version is another.
        order: the compilations of the matrix; rows of others are dropped.
    """
    found: dict[tuple[str, str, str], Row] = {}
    if earlier is not None and (earlier.product, earlier.version) == (fresh.product, fresh.version):
        found = {row.key: row for row in earlier.rows}
    for row in fresh.rows:
        old = found.get(row.key)
        if row.state != "not tried" or old is None or old.state == "not tried":
            found[row.key] = row
    return fresh.model_copy(update={"rows": tuple(found[key] for key in order if key in found)})


def write(folder: Path, coverage: Coverage) -> tuple[Path, Path]:
    """Write the table and its data; return their paths."""
    text, data = folder / f"{NAME}.md", folder / f"{NAME}.json"
    write_atomically(data, json.dumps(coverage.model_dump(mode="json"), indent=1) + "\n")
    write_atomically(text, markdown(coverage))
    return text, data


HEADER = (
    "Image", "Target", "Allocator", "Models", "Audit", "Run natively", "Run emulated", "Packages", "gcc", "Day",
)  # fmt: skip


def markdown(coverage: Coverage) -> str:
    """Return docs/coverage.md."""
    count = {state: sum(row.state == state for row in coverage.rows) for state in ("built", "refused", "not tried")}
    lines = [
        "# Coverage",
        "",
        f"What of the matrix was built and tried: {coverage.product} {coverage.version} from {coverage.source}, by "
        f"pikaforge {coverage.tool}, on a machine that runs {coverage.machine} natively"
        + (f" and emulates with qemu-user {coverage.emulator}" if coverage.emulator else "")
        + ". `nox -s sweep` makes this table; the rows say when.",
        "",
        f"{count['built']} built, {count['refused']} refused, {count['not tried']} not tried here.",
        "",
        "- *as X*: neither the machine's CPU nor the emulator can run the target. The same source was compiled for X",
        "  and tried in its place; the code for the target itself was audited, and not run.",
        "- *(for X)*: the image's compiler does not know X, which the models could run; the nearest target is built.",
        "- *stand-in*: the image is made of another distribution's packages and only answers to its name. It walks the",
        "  code of this project, and proves nothing of the distribution.",
        "- *dispatched*: a library of the distribution has code beyond the target, which it takes after a look at the",
        "  CPU.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
        *(f"| {' | '.join(_columns(row))} |" for row in coverage.rows),
    ]
    return "\n".join(lines) + "\n"


def _columns(row: Row) -> list[str]:
    twin = f" as {row.tried}" if row.tried not in ("", row.target) else ""
    image = f"{row.image} (stand-in)" if row.stand_in else row.image
    target = f"{row.target} (for {', '.join(row.wanted)})" if row.wanted else row.target
    if row.state == "built":
        ways = [
            way if way == NOTHING or way.startswith(NOT_RUN) else f"{way}{twin}" for way in (row.native, row.emulated)
        ]
        proof = [row.audited, *ways, ", ".join(row.packages)]
    else:
        proof = [row.audited, row.native, row.emulated, f"{row.state}: {row.why}".replace("|", "\\|")]
    return [image, target, row.allocator, ", ".join(row.models), *proof, row.compiler or NOTHING, row.day]
