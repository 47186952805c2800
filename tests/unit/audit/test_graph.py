"""The graph of a library's references in arrays, compared with one that is made of sets by plain loops."""

from __future__ import annotations

import _hashlib
import random
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from pikaforge.audit.elf.executable import executable, regions
from pikaforge.audit.elf.layout import Layout, mapped, read_layout
from pikaforge.audit.elf.pointers import CodePointers, read_pointers
from pikaforge.audit.isa.dispatch import references as references_module
from pikaforge.audit.isa.dispatch.graph import NOT_REACHED, Graph
from pikaforge.audit.isa.dispatch.graph_edges import read_graph
from pikaforge.audit.isa.dispatch.references import Found, references
from pikaforge.audit.isa.dispatch.rows import AddressSet, Rows, is_in, row_of
from pikaforge.audit.isa.ranges import NOWHERE, CodeMap, read_map
from pikaforge.audit.isa.worker_pool import WorkerPool, chunks

MODULE = Path(_hashlib.__file__)
Read = tuple[Graph, Found, CodePointers, Layout]


@pytest.fixture(scope="module", params=[True, False], ids=["at once", "one by one"])
def read(request: pytest.FixtureRequest) -> Read:
    """Return the graph of a real module, and what it is made of."""
    with mapped(MODULE) as data, pytest.MonkeyPatch.context() as patched:
        patched.setattr(references_module, "QUICK_BYTES", 0 if request.param else 1 << 40)
        layout = read_layout(data, MODULE.name)
        code = read_map(data, layout, executable(data, layout, MODULE.name), MODULE.name)
        given = read_pointers(data, layout, MODULE.name)
        with WorkerPool(1) as pool:
            graph = read_graph(MODULE, data, layout, code, given, pool=pool)
        loads = tuple((s.address, s.address + s.memory_size) for s in layout.segments if s.type == 1)
        found = [row for chunk in chunks(MODULE, code) for row in references(chunk, loads)]
        running = [(r.address, r.address + r.size) for r in regions(data, layout, MODULE.name)]
        assert all(low <= code.starts[0] or high > code.starts[0] for low, high in running)
        return graph, found, given, layout


def test_callers_users_and_pointers_are_those_of_plain_loops(read: Read) -> None:
    """Each reference is that of one caller or user; each pointer is in the object that begins before it."""
    graph, found, given, _ = read
    code, stubs = graph.code, {graph.code.at(stub) for stub in graph.stubs}
    rows = {p: [graph.stubs.get(a, a) for a in addresses] for p, addresses, _, _ in found if p not in stubs}
    assert {p: list(graph.references.get(p)) for p in range(len(code)) if p in graph.references} == rows
    through = {p for p, _, on, _ in found if on and p not in stubs}
    assert set(np.flatnonzero(graph.through).tolist()) == through
    callers: dict[int, set[tuple[int, int]]] = {}
    for piece, addresses in rows.items():
        for address in [*addresses, *([_onward(code, rows, piece)] if piece in through else [])]:
            if (target := code.at(address)) not in (NOWHERE, piece):
                callers.setdefault(target, set()).add((piece, address))
            elif target == NOWHERE and address in graph.users:
                assert piece in graph.users.get(address)
    assert {p: set(graph.callers.get(p)) for p in range(len(code)) if graph.callers.get(p)} == callers
    pairs = list(zip(*given.stored, strict=True))
    assert len(pairs) > 100
    for place, value in pairs:
        if not any(low <= place < high for low, high in given.arrays):
            held = graph.object_at(place)
            assert held is not None and value in graph.pointers.get(held)
            if (piece := code.at(value)) != NOWHERE:
                assert held in graph.holders_of(piece) and value in graph.pointed_in(piece) and graph.is_pointed(piece)
            elif (other := graph.object_at(value)) is not None:
                assert held in graph.table_holders(other)


def _onward(code: CodeMap, rows: dict[int, list[int]], piece: int) -> int:
    address = code.ends[piece]
    while (following := code.at(address)) != NOWHERE and following not in rows:
        address = code.ends[following]
    return address


@pytest.mark.parametrize("seed", range(4))
def test_the_same_is_reached_by_the_same_ways_as_one_by_one(read: Read, seed: int) -> None:
    """All nodes of a distance at once give what a queue gives, with the same first ways."""
    graph = read[0]
    rng = random.Random(seed)
    pieces = [p for p in range(len(graph.code)) if p in graph.references]
    changed = rng.sample(pieces, 6 * seed)
    open_ = {p: set(list(graph.targets(p))[: rng.randrange(3)]) for p in changed}
    roots = graph.roots.tolist()
    without = set(rng.sample(roots, len(roots) * seed // 10))
    reach = graph.reach(open_, without=without)
    expected = _by_a_queue(graph, open_, without)
    assert {p: int(s) for p, s in enumerate(reach.sources) if s != NOT_REACHED} == expected
    assert len(expected) > (0 if seed else 20)
    some = rng.choice(list(expected))
    assert some in reach
    assert reach.way(some)[-1:] == [expected[some]] or expected[some] == NOWHERE


def _by_a_queue(graph: Graph, open_: dict[int, set[int]], without: set[int]) -> dict[int, int]:
    begin = dict.fromkeys(map(graph.node, sorted(set(graph.roots.tolist()) - without)), NOWHERE)
    seen, waiting, out = set(begin), deque(begin.items()), dict[int, int]()
    count = len(graph.code)
    while waiting:
        node, source = waiting.popleft()
        if node == NOWHERE:
            continue
        if node < count:
            out[node], source = source, node
            led = sorted(open_[node]) if node in open_ else list(graph.targets(node))
        else:
            led = list(graph.pointers.get(graph.objects[node - count]))
        for target in dict.fromkeys(map(graph.node, led)):
            if target not in seen:
                seen.add(target)
                waiting.append((target, source))
    return out


def test_rows_and_addresses() -> None:
    """Numbers of a key keep their order; an address is in a range or in none."""
    rows = Rows(np.array([5, 3, 5, 9], np.uint64), np.array([7, 1, 2, 1 << 63], np.uint64))
    assert [list(rows.get(key)) for key in (3, 5, 9, 4, -1)] == [[1], [7, 2], [1 << 63], [], []]
    assert (3 in rows, 4 in rows) == (True, False)
    held = AddressSet(np.array([8, 2, 8, 5], np.uint64))
    assert (list(held), 5 in held, 6 in held, -1 in held) == ([2, 5, 8], True, False, False)
    assert (list(held.between(3, 8)), held.any_between(6, 8), held.any_between(-7, 3)) == ([5], False, True)
    starts, ends = np.array([2, 10], np.uint64), np.array([4, 12], np.uint64)
    assert row_of(starts, ends, np.array([1, 2, 4, 11, 12], np.uint64)).tolist() == [-1, 0, -1, 1, -1]
    assert is_in(np.array([1, 2, 3], np.uint64), np.array([2, 9], np.uint64)).tolist() == [False, True, False]
