"""The plan of memory: its arithmetic under each shell, budgets at the edge, and values that are not to be trusted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guest.helpers import SHELLS, need
from guest.operated_host import OperatedHost
from guest.watched_host import ENTRIES, attempt, lines, operate_of, watched_host

from pikaforge.config.operate_memory import Factor, Memory

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
MIB = 2**20
PIB = 2**50


def size(text: str) -> int:
    """Bytes of a text of a table."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", text)
    assert found, text
    return int(found[1]) * UNITS[found[2]]


def memory_of(entry: str) -> Memory:
    memory = operate_of(entry).memory
    assert memory is not None
    return memory


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> OperatedHost:
    need(SHELLS[request.param][0])
    return watched_host(tmp_path, SHELLS[request.param])


@pytest.fixture
def fast(tmp_path: Path) -> OperatedHost:
    """Under one shell: what only awk computes."""
    return watched_host(tmp_path, SHELLS["dash"])


def plans(host: OperatedHost, budgets: list[int], *pinned: str, conf: str = "") -> list[list[list[str]]]:
    """The lines of the plan of each budget."""
    (host.top / "c.conf").write_text(conf)
    calls = "".join(f"memory_plan {budget} {host.top}/c.conf {' '.join(pinned)}; echo END\n" for budget in budgets)
    text = lines(host, calls)
    return [[line.split("\t") for line in part.splitlines() if line] for part in text.split("END\n")[:-1]]


def holds(when: str | None, values: dict[str, str]) -> bool:
    if when is None:
        return True
    key, _, wanted = when.replace("!=", "=").partition("=")
    return (values.get(key, "") == wanted) is ("!=" not in when)


def taken(memory: Memory, values: dict[str, str]) -> dict[str, int]:
    """What each term takes, computed here."""
    found = {}
    for term in memory.terms:
        amount = size(values.get(term.key or "", term.value))
        factors: list[Factor] = [factor for factor in term.times if holds(factor.when, values)]
        for factor in factors:
            amount *= size(values.get(factor.key or "", factor.value))
        found[term.name] = amount
    return found


@pytest.mark.parametrize("entry", ENTRIES)
def test_plans_stay_below_their_budgets(tmp_path: Path, entry: str) -> None:
    host = watched_host(tmp_path, SHELLS["dash"], entry)
    memory = memory_of(entry)
    budgets = [300 * MIB, 512 * MIB, 2**30, 5 * 10**9, 2**31, 2**32 + 1, 8 * 2**30, 2**37, 2**43, PIB - 1, PIB]
    for budget, plan in zip(budgets, plans(host, budgets), strict=True):
        values = {line[1]: line[2] for line in plan if line[0] == "set"}
        assert memory.settings.items() <= values.items()
        terms = {line[1]: int(line[2]) for line in plan if line[0] == "term"}
        assert terms == taken(memory, values), budget
        (reserve,) = (int(line[1]) for line in plan if line[0] == "reserve")
        assert reserve >= max(budget * memory.reserve.percent // 100, size(memory.reserve.least))
        (total,) = (int(line[1]) for line in plan if line[0] == "total")
        assert total == sum(terms.values()) + reserve <= budget
        for term in memory.terms:
            if term.share:
                value = int(values[term.key or ""])
                assert size(term.least) <= value <= size(term.most or "1024T")
                assert value % size(term.step) == 0
        # The last term takes the rest, but for less than one of its steps, and its factors.
        rest = memory.terms[-1]
        step = size(rest.step) * taken(memory, values)[rest.name] // int(values[rest.key or ""])
        assert budget - total < 2 * step


def test_all_shells_plan_the_same(host: OperatedHost) -> None:
    plan = plans(host, [8 * 2**30], conf="maxclients : 1000\nblock-cache : 4K\n")[0]
    assert [line[1:3] for line in plan if line[0] == "set"] == [
        ["share-block-cache", "yes"],
        ["cache-index-and-filter-blocks", "yes"],
        ["maxclients", "1000"],
        ["max-cache-files", "3400"],
        ["write-buffer-size", "115343360"],
        ["block-cache", "3747610624"],
    ]
    for text, known in {
        "8G": 8 * 2**30, "1": 1, "512m": 512 * MIB, "1024T": PIB, "007K": 7168, "1125899906842624": PIB,
    }.items():  # fmt: skip
        assert lines(host, f"memory_bytes {text}") == f"{known}\n"


REFUSED = ["", "0", "-1", "1.5G", "8 G", "8GB", "0x10", "1e9", "1025T", "9999999999999999999999", "8G;id", "$(id)", "G"]


def test_budgets_that_are_none(fast: OperatedHost) -> None:
    for text in REFUSED:
        assert attempt(fast, f"memory_bytes '{text}'")[:2] == (1, ""), text


@pytest.mark.parametrize("entry", ENTRIES)
def test_too_small_budgets_name_the_least_that_serves(tmp_path: Path, entry: str) -> None:
    host = watched_host(tmp_path, SHELLS["dash"], entry)
    conf = host.top / "c.conf"
    conf.write_text("")
    status, output, error = attempt(host, f"memory_plan 1048576 {conf}")
    found = re.search(r"1\.0M is too little: at least ([0-9]+)M serve\n", error)
    assert (status, output) == (1, "")
    assert found, error
    least = int(found[1])
    assert plans(host, [least * MIB])
    assert attempt(host, f"memory_plan {(least - 1) * MIB} {conf}")[0] == 1


def test_pinned_values_stay_and_are_blamed(fast: OperatedHost) -> None:
    conf = "maxclients : 20000\nwrite-buffer-size : 256M\nmax-write-buffer-num : 4\n"
    plan = plans(fast, [2**34], "maxclients", "write-buffer-size", conf=conf)[0]
    values = {line[1]: line[2] for line in plan if line[0] == "set"}
    assert not {"maxclients", "write-buffer-size"} & values.keys()
    terms = {line[1]: int(line[2]) for line in plan if line[0] == "term"}
    assert terms["write buffers"] == 256 * MIB * 4 * 10
    status, _, error = attempt(fast, f"memory_plan {2**33} {fast.top}/c.conf maxclients write-buffer-size")
    assert status == 1
    assert "hint: write buffers takes 10.0G of that: write-buffer-size is set by hand" in error
    # A setting that the plan would make is pinned, too: then each family has a cache of its own.
    conf = "share-block-cache : no\n"
    plan = plans(fast, [2**34], "share-block-cache", conf=conf)[0]
    values = {line[1]: line[2] for line in plan if line[0] == "set"}
    terms = {line[1]: int(line[2]) for line in plan if line[0] == "term"}
    assert terms["block cache"] == 10 * int(values["block-cache"])


WRONG = ["$(touch HACKED)", "`id`", "8G; rm -rf /", "1e9", "0x10", "9" * 40, "1,000", "a\\tb", "-5"]


def test_values_that_are_no_numbers(fast: OperatedHost) -> None:
    conf = fast.top / "c.conf"
    for value in WRONG:
        conf.write_text(f"write-buffer-size : {value}\n")
        status, output, error = attempt(fast, f"memory_plan {2**33} {conf} write-buffer-size")
        assert (status, output) == (1, ""), value
        assert error.startswith("lines: error: --memory: write-buffer-size is "), value
    conf.write_text("write-buffer-size : 1023T\nmaxclients : 9223372036854775807\n")
    for pinned in ("write-buffer-size", "maxclients"):
        status, output, error = attempt(fast, f"memory_plan {PIB} {conf} {pinned}")
        assert (status, output) == (1, "")
        assert "too much for any memory" in error or "no number" in error
    assert not list(fast.top.rglob("HACKED"))


def shown(host: OperatedHost, conf: str, budget: int = 0) -> dict[str, list[str]]:
    (host.top / "c.conf").write_text(conf)
    text = lines(host, f"memory_lines show {budget} {host.top}/c.conf")
    return {line.split("\t")[1 if line.startswith("term") else 0]: line.split("\t") for line in text.splitlines()}


def test_what_a_configuration_takes(fast: OperatedHost) -> None:
    found = shown(fast, "block-cache : 1G\n")
    assert int(found["block cache"][2]) == 10 * 2**30
    assert int(shown(fast, "block-cache : 1G\nshare-block-cache : yes\n")["block cache"][2]) == 2**30
    found = shown(fast, "max-cache-files : -1\n")
    assert found["table readers"][2:4] == ["-", "max-cache-files -1 is no bound"]
    assert found["total"][1] == "-"
    fast.run("instance.sh", "7000", "memory")


def test_the_arithmetic_is_written_into_the_configuration(host: OperatedHost) -> None:
    conf = host.top / "c.conf"
    conf.write_text("# port : 1\nport : 7000\nrequirepass : s3cret\nblock-cache : 1\nblock-cache : 2\n")
    for budget in (4 * 2**30, 2**33):
        new = lines(host, f"memory_configured {budget} {conf}")
        conf.write_text(new)
        assert new.count("# memory plan: begin\n") == new.count("# memory plan: end\n") == 1
        assert f"# planned for {budget} bytes ({budget >> 30}.0G):\n" in new
        assert new.startswith("# port : 1\nport : 7000\nrequirepass : s3cret\nblock-cache : ")
        assert new.count("\nblock-cache : ") == 1
        assert re.search(
            r"\n#    [0-9. ]+[MG]  write buffers: write-buffer-size [0-9]+ \* max-write-buffer-num 2 \* 10\n", new
        )
        assert lines(host, f"memory_budget {conf}") == f"{budget}\n"
        total = int(shown(host, new, budget)["total"][1])
        assert total <= budget
    assert list((host.top / "run").iterdir()) == []
