"""Which nodes begin in a budget, and what they get: never too much, each at some time, and always the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from unit.helpers import make_spec, the_cell

from pikaforge.plan.budget import (
    AFTER_KILL,
    BESIDE,
    COMPILER,
    COMPILES,
    MARGIN,
    Allotter,
    Budget,
    Demand,
    Share,
    learnt,
)
from pikaforge.plan.plan import Node
from pikaforge.plan.schedule import Blocking, Queue, Simulated, least_seconds, simulate, ways

GIB = 1 << 30
LIGHT = Demand()
CELL = the_cell(make_spec(), "R620-debian12-none")


def node(name: str, *needs: str) -> Node:
    """A node, whose id is its name with a colon."""
    return Node(stage=name, label="", needs=tuple(f"{need}:" for need in needs), cells=(CELL,))


def demands(found: Mapping[str, Demand]) -> Callable[[Node], Demand]:
    """What nodes need, by their names."""
    return lambda each: found.get(each.stage, LIGHT)


def begun(budget: Budget, ready: Sequence[str], of: Mapping[str, Demand]) -> dict[str, int]:
    """The nodes that begin where nothing runs, with their jobs."""
    allotter = Allotter(budget, demands(of))
    return {each.stage: allotter.share(each).jobs for each in allotter.next([node(name) for name in ready], [])}


# ---- what compilations get


@pytest.mark.parametrize(
    ("cores", "ready", "jobs"),
    [
        (2, 1, [2]),
        (2, 2, [1, 1]),
        (2, 9, [1, 1]),
        (8, 1, [8]),
        (8, 3, [3, 3, 2]),
        (8, 5, [2, 2, 2, 1, 1]),
        (64, 2, [32, 32]),
        (1, 3, [1]),
    ],
)
def test_compilations_that_are_ready_share_what_is_free(cores: int, ready: int, jobs: list[int]) -> None:
    names = [f"c{number}" for number in range(ready)]
    found = begun(Budget(cores=cores), names, dict.fromkeys(names, COMPILES))
    assert list(found.values()) == jobs


@pytest.mark.parametrize(
    ("memory", "each", "jobs"),
    [(0, 0, [4, 4]), (8 * COMPILER, 0, [4, 4]), (3 * COMPILER, 0, [3]), (5 * COMPILER, 0, [4, 1]), (1, 0, [1]),
     (0, 2 * COMPILER, [2, 6 - 4])],
)  # fmt: skip
def test_no_more_compilers_than_the_memory_holds(memory: int, each: int, jobs: list[int]) -> None:
    budget = Budget(cores=8, memory=memory, each=each)
    assert list(begun(budget, ["a", "b"], {"a": COMPILES, "b": COMPILES}).values()) == jobs


def test_a_compilation_gets_what_others_leave() -> None:
    """Others use no more than a core beside all that compile, and a compilation never waits for their cores alone."""
    budget = Budget(cores=2, beside=BESIDE)
    allotter = Allotter(budget, demands({"c": COMPILES}))
    lights = [node(f"l{number}") for number in range(6)]
    assert allotter.next(lights, []) == lights[:4], "without a compilation, no more than there are cores"
    (compiling,) = allotter.next([node("c"), *lights[4:]], lights[:4])
    assert allotter.share(compiling).jobs == 1
    assert allotter.next(lights[4:], [*lights[:4], compiling]) == [], "the core beside is used, too"
    again = Allotter(budget, demands({"c": COMPILES}))
    assert again.next([node("c"), *lights], []) == [node("c"), *lights[:2]]
    assert again.share(node("c")).jobs == 2


def test_others_share_what_is_free_when_they_begin() -> None:
    assert begun(Budget(cores=8), ["a"], {}) == {"a": 8}
    assert begun(Budget(cores=8), ["a", "b"], {}) == {"a": 4, "b": 7}
    assert begun(Budget(cores=2), ["a", "b", "c", "d", "e"], {}) == dict.fromkeys("abcd", 1)


def test_what_needs_more_than_there_is_runs_alone() -> None:
    large = Demand(cores=16, memory=64 * GIB)
    budget = Budget(cores=2, memory=GIB)
    allotter = Allotter(budget, demands({"a": large, "b": large}))
    a, b = node("a"), node("b")
    assert allotter.next([a, b], []) == [a]
    assert allotter.share(a) == Share(cores=2, memory=GIB, jobs=1)
    assert allotter.next([b], [a]) == []
    assert allotter.next([b], []) == [b]


def test_a_node_that_does_not_fit_is_not_overtaken_for_ever() -> None:
    large = Demand(memory=GIB)
    budget = Budget(cores=4, memory=GIB)
    allotter = Allotter(budget, demands({"large": large}))
    running, waiting = [node("x")], node("large")
    assert allotter.next(running, []) == running
    overtakers = 0
    for number in range(100):
        fresh = node(f"l{number}")
        begins = allotter.next([waiting, fresh], running)
        if waiting in begins:
            break
        overtakers += len(begins)
        running = [*running[1:], *begins]
    assert overtakers == budget.cores
    assert waiting in begins


@pytest.mark.parametrize("ready", [100, 10_000])
def test_a_decision_looks_at_the_first_nodes_only(ready: int) -> None:
    """So a run of ten thousand nodes takes a hundred times as long as one of a hundred, and not ten thousand times."""
    asked: list[str] = []

    def demand(each: Node) -> Demand:
        asked.append(each.id)
        return LIGHT

    nodes = [node(f"n{number}") for number in range(ready)]
    assert len(Allotter(Budget(cores=2), demand).next(nodes, [])) == 4
    assert len(set(asked)) == 20


# ---- whole runs


def made_up(chance: random.Random) -> tuple[list[Node], dict[str, Demand], dict[str, float]]:
    """A plan of any shape, with what its nodes need, and how long they take."""
    nodes: list[Node] = []
    of: dict[str, Demand] = {}
    for number in range(chance.randrange(1, 60)):
        needs = chance.sample([each.stage for each in nodes], min(len(nodes), chance.randrange(4)))
        nodes.append(node(f"n{number}", *needs))
        memory = chance.randrange(4 * GIB)
        of[f"n{number}"] = replace(COMPILES, memory=memory) if chance.random() < 0.4 else chance.choice(
            (LIGHT, Demand(cores=1, memory=memory), Demand(cores=3, memory=memory))
        )  # fmt: skip
    return nodes, of, {each.id: chance.choice((0.0, 1.0, chance.random() * 100)) for each in nodes}


def run(
    nodes: Sequence[Node],
    of: Mapping[str, Demand],
    seconds: Mapping[str, float],
    budget: Budget,
    shares: dict[str, Share] | None = None,
) -> Simulated:
    """Simulate a run; `shares` gets what each node has had."""

    def took(each: Node, share: Share) -> float:
        if shares is not None:
            shares[each.id] = share
        return seconds[each.id]

    return simulate(Queue(nodes, seconds), Allotter(budget, demands(of)), took)


@pytest.mark.parametrize("seed", range(60))
def test_any_run_ends_within_its_budget(seed: int) -> None:
    chance = random.Random(seed)
    nodes, of, seconds = made_up(chance)
    memory = chance.choice((0, chance.randrange(1, 16 * GIB)))
    budget = Budget(cores=chance.randrange(1, 33), memory=memory, beside=chance.choice((0.0, BESIDE)))
    shares: dict[str, Share] = {}
    done = run(nodes, of, seconds, budget, shares)
    assert done.ends.keys() == {each.id for each in nodes}, "each node has its turn"
    for each in nodes:
        assert all(done.ends[need] <= done.begins[each.id] for need in each.needs)
    for moment in {*done.begins.values()}:
        now = [shares[name] for name in done.ends if done.begins[name] <= moment < done.ends[name]]
        assert sum(share.cores for share in now if share.elastic) <= budget.cores
        assert sum(share.cores for share in now if not share.elastic) <= budget.cores
        assert sum(share.cores for share in now) <= budget.cores + budget.beside
        assert not memory or sum(share.memory for share in now) <= memory
    assert run(nodes, of, seconds, budget) == done, "the same each time"


@pytest.mark.parametrize("seed", range(20))
def test_a_run_takes_less_than_twice_as_long_as_any_could(seed: int) -> None:
    """What Graham has proven of nodes that need one worker each (doi.org/10.1137/0117039)."""
    nodes, _, seconds = made_up(random.Random(seed))
    for workers in (1, 2, 7, 64):
        one = dict.fromkeys((each.stage for each in nodes), Demand(cores=1))
        took = run(nodes, one, seconds, Budget(cores=workers)).seconds
        least = least_seconds(nodes, seconds, workers)
        assert least - 1e-6 <= took <= least * 2


# ---- the order


def test_the_longest_way_to_the_end_begins_first() -> None:
    nodes = [node("a"), node("b"), node("c"), node("d", "b"), node("e", "d")]
    seconds = {"a:": 5.0, "b:": 1.0, "c:": 5.0, "d:": 1.0, "e:": 4.0}
    assert ways(nodes, seconds) == {"a:": 5.0, "b:": 6.0, "c:": 5.0, "d:": 5.0, "e:": 4.0}
    queue = Queue(nodes, seconds)
    assert [each.stage for each in queue.ready] == ["b", "a", "c"], "and else the plan's order"
    queue.take(nodes[1])
    queue.done(nodes[1])
    assert [each.stage for each in queue.ready] == ["a", "c", "d"]


def test_what_needs_a_failed_node_is_found_once_and_in_order() -> None:
    nodes = [node("a"), node("b", "a"), node("c"), node("d", "a", "c"), node("e", "d", "b"), node("f", "c")]
    blocking = Blocking(nodes)
    assert [each.stage for each in blocking.by(nodes[0])] == ["b", "d", "e"]
    assert [each.stage for each in blocking.by(nodes[2])] == ["d", "e", "f"]
    assert list(blocking.by(nodes[4])) == []


def test_plans_that_cannot_be_run_are_refused() -> None:
    with pytest.raises(ValueError, match="a: needs what is not in the plan: x:"):
        Queue([node("a", "x")], {})
    with pytest.raises(ValueError, match="cycle"):
        Queue([node("a", "b"), node("b", "a")], {})


def test_nothing_to_do_takes_no_time() -> None:
    assert run([], {}, {}, Budget(cores=1)).seconds == 0.0


# ---- what earlier runs say


def test_what_is_not_known_is_what_the_stage_says() -> None:
    assert learnt(COMPILES, 0) == COMPILES
    assert learnt(LIGHT, 0, killed=True) == LIGHT


def test_a_node_gets_what_it_has_used_with_a_margin() -> None:
    assert learnt(LIGHT, GIB) == Demand(memory=int(GIB * MARGIN))
    assert learnt(LIGHT, GIB, killed=True) == Demand(memory=int(GIB * AFTER_KILL))
    budget = Budget(cores=4, memory=2 * GIB)
    known = {"a": learnt(LIGHT, GIB), "b": learnt(LIGHT, GIB)}
    assert list(begun(budget, ["a", "b"], known)) == ["a"], "two of them do not fit"
    assert list(begun(budget, ["a", "b"], {})) == ["a", "b"], "of two that are not known, that is not seen"


def test_a_small_compilation_leaves_memory_for_others() -> None:
    budget = Budget(cores=8, memory=4 * COMPILER)
    small = learnt(COMPILES, COMPILER // 8)
    assert begun(budget, ["a"], {"a": COMPILES}) == {"a": 4}
    assert begun(budget, ["a"], {"a": small}) == {"a": 8}
    assert begun(budget, ["a", "b"], {"a": small, "b": small}) == {"a": 4, "b": 4}


def test_a_small_compilation_still_has_room_for_one_compiler() -> None:
    small = learnt(COMPILES, COMPILER // 8)
    allotter = Allotter(Budget(cores=2, memory=COMPILER * 3 // 2), demands({"a": small, "b": small}))
    a, b = node("a"), node("b")
    assert allotter.next([a, b], []) == [a]
    assert allotter.share(a) == Share(cores=1, memory=COMPILER, jobs=1, elastic=True)
    assert allotter.next([b], [a]) == []
    assert allotter.next([b], []) == [b]


def test_a_compilation_that_was_killed_gets_fewer_processes_each_time() -> None:
    """A machine with 8 GiB: each process turns out to need as much as all processes were killed with."""
    budget, jobs, found = Budget(cores=8, memory=8 * GIB), [], COMPILES
    for _ in range(4):
        (got,) = begun(budget, ["a"], {"a": found}).values()
        jobs.append(got)
        found = learnt(COMPILES, 8 * GIB // got, killed=True)
    assert jobs == [8, 4, 2, 1]
