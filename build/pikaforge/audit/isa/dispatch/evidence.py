"""Look for evidence that code which needs a feature runs only on CPUs that have it.

What functions show by themselves is looked for first, then what those around them show (`nearby`), then what the whole
file does (`search`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pikaforge.audit.elf.dynamic import DT_NEEDED, DynamicSection
from pikaforge.audit.elf.layout import ET_DYN, ET_EXEC, PT_INTERP, Buffer, Layout, mapped, read_layout
from pikaforge.audit.elf.pointers import CodePointers, read_pointers
from pikaforge.audit.isa.dispatch import known as known_table
from pikaforge.audit.isa.dispatch.fixed import Boundaries, with_fixed
from pikaforge.audit.isa.dispatch.go import go_evidence, is_go
from pikaforge.audit.isa.dispatch.graph import Graph
from pikaforge.audit.isa.dispatch.graph_edges import read_graph
from pikaforge.audit.isa.dispatch.known import Dispatcher
from pikaforge.audit.isa.dispatch.library import BODIES, BODY, Library
from pikaforge.audit.isa.dispatch.local import TESTED, local_evidence, skipped
from pikaforge.audit.isa.dispatch.nearby import PIECES, Nearby
from pikaforge.audit.isa.dispatch.search import Evidence, WholeSearch, text_of
from pikaforge.audit.isa.dispatch.static_glibc import asking_of_others, kept_by_glibc
from pikaforge.audit.isa.dispatch.steps import body
from pikaforge.audit.isa.ranges import GAP, CodeMap
from pikaforge.audit.isa.worker_pool import WorkerPool
from pikaforge.cpu.features import INVALID
from pikaforge.errors import AuditError

LIMIT = 64 << 20
"""Bytes of code above which the whole file is not searched, because it takes one or two more passes over the code."""


def find_evidence(
    path: Path,
    code: CodeMap,
    wanted: Mapping[int, frozenset[str]],
    asking: Iterable[int],
    pool: WorkerPool,
    *,
    known: Dispatcher | None = None,
) -> dict[tuple[int, str], Evidence]:
    """Look for evidence in one library.

    Args:
        path: the file.
        code: its pieces.
        wanted: features by the index of the piece with code that needs them.
        asking: indexes of the pieces that run cpuid or xgetbv.
        pool: the worker processes.
        known: the entry for the library in the table of known dispatchers, if there is one.

    Returns:
        The evidence by piece and feature; of a file that is no library, or is too large, only what functions themselves
        give.
    """
    if not wanted:
        return {}
    try:
        with mapped(path) as data:
            layout = read_layout(data, str(path))
            found = _locally(data, code, wanted)
            if is_go(code):
                texts = go_evidence(path, data, layout, code, wanted, pool=pool)
                return {**found, **{key: Evidence(proven=True, text=text) for key, text in texts.items()}}
            open_ = any((piece, name) not in found for piece, names in wanted.items() for name in names - {INVALID})
            read = known is not None and known.read_wholly(name for names in wanted.values() for name in names)
            if layout.type not in (ET_DYN, ET_EXEC) or not open_ or read:
                return {**_trusted(wanted, known), **found}
            pointers = read_pointers(data, layout, str(path))
            asked = frozenset(asking)
            near = _near(Nearby(path, data, layout, code=code, given=pointers, asking=asked), code, wanted, pool)
            found = {key: evidence for key, evidence in found.items() if key[1] == INVALID} | near
            wanted = _without(wanted, found)
            if code.size > LIMIT or not any(names - {INVALID} for names in wanted.values()):
                return {**_trusted(wanted, known), **found}
            needs = DynamicSection(data, layout, str(path)).strings(DT_NEEDED)
            linked = layout.segment(PT_INTERP) is not None or bool(needs)
            known = known or known_table.static_glibc(data, linked=linked, resolvers=bool(code.resolvers))
            graph = _graph(path, data, layout, code, pointers, pool)
            glibc = None
            if known is not None and known.soname == known_table.STATIC:
                glibc = kept_by_glibc(graph, asked)
                asked = asking_of_others(graph, asked, glibc)
            return {**found, **WholeSearch(Library(data, layout, graph, asked), glibc).look(wanted, known)}
    except AuditError as error:
        return {
            (piece, feature): Evidence(proven=False, text=f"its references cannot be read: {error.message}")
            for piece, names in wanted.items()
            for feature in names
        }


def _graph(  # noqa: PLR0917
    path: Path, data: Buffer, layout: Layout, code: CodeMap, given: CodePointers, pool: WorkerPool
) -> Graph:
    """Return the references in a file. Both steps use what is known of where instructions begin; then it is freed."""
    boundaries = Boundaries(data, code)
    pointers = with_fixed(given, data, layout, code, boundaries) if layout.type == ET_EXEC else given
    return read_graph(path, data, layout, code, pointers, pool=pool, boundaries=boundaries)


def _trusted(wanted: Mapping[int, frozenset[str]], known: Dispatcher | None) -> dict[tuple[int, str], Evidence]:
    """Return the evidence for features of which people have read how code for them is taken."""
    if known is None:
        return {}
    said = Evidence(proven=True, text=known.because(known.why))
    return {(piece, name): said for piece, names in wanted.items() for name in names - {INVALID} if known.trusts(name)}


def _locally(data: Buffer, code: CodeMap, wanted: Mapping[int, frozenset[str]]) -> dict[tuple[int, str], Evidence]:
    """Return the evidence that the functions themselves give, without the references of the whole file."""
    found = {}
    spent = 0
    for piece, names in wanted.items():
        start, end, offset = code.starts[piece], code.ends[piece], code.offsets[piece]
        spent += end - start
        if code.kinds[piece] == GAP or end - start > BODY or spent > BODIES:
            continue
        raw = bytes(data[offset : offset + end - start])
        for feature in names:
            text = skipped(raw, start, INVALID, set()) if feature == INVALID else ""
            if not text and feature in TESTED:
                text = local_evidence(body(raw, start), feature, set(), loose=start not in code.plain)
            if text:
                found[piece, feature] = Evidence(proven=True, text=text)
    return found


def _near(
    search: Nearby, code: CodeMap, wanted: Mapping[int, frozenset[str]], pool: WorkerPool
) -> dict[tuple[int, str], Evidence]:
    """Return the evidence that is found without the references of the whole file."""
    looked = {piece: names - {INVALID} for piece, names in wanted.items() if names - {INVALID}}
    doors = search.doors(looked, pool)
    texts = {key: text_of(code, led, search.given.resolvers, search.asking) for key, led in doors.items()}
    if len(looked) <= PIECES:
        texts |= {
            (piece, feature): text
            for piece, names in looked.items()
            for feature in names
            if (piece, feature) not in texts and (text := search.local(piece, feature))
        }
    return {key: Evidence(proven=True, text=text) for key, text in texts.items()}


def _without(
    wanted: Mapping[int, frozenset[str]], found: Mapping[tuple[int, str], Evidence]
) -> dict[int, frozenset[str]]:
    """Return the features, by piece, that have no evidence yet."""
    left = {piece: frozenset(name for name in names if (piece, name) not in found) for piece, names in wanted.items()}
    return {piece: names for piece, names in left.items() if names}
