"""Which of the long tests a commit runs: as many as fit into a budget of CPU seconds.

`PARTS` has modules, and parts of modules, of which others show much, too; what is not named there runs each time. The
parts are put into shares that cost about the same. A commit has one share, by its number in the history, so that each
part has its turn once in as many commits as there are shares. What is left of the budget goes to modules that the
commit has changed, and then to the share that is half of all shares away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from functools import lru_cache
from math import ceil

PARTS: Mapping[str, int] = {
    # builds of others, and machines
    "test_allocator_build": 225,
    "test_allocators::*libunwind*": 130,
    "test_allocators::*frame-pointers*": 90,
    "test_allocators::test_a_local_file_*": 60,
    "test_allocators": 60,
    "test_newer_compilers": 102,
    "test_bare_machine::TestReadme::*": 120,
    "test_bare_machine": 150,
    "test_rpm_acceptance": 45,
    "test_redis": 180,
    "test_deb_acceptance": 60,
    "test_products": 120,
    "test_distribution_libraries": 20,
    # operation of servers
    "test_operate_backup": 90,
    "test_operate_docs": 100,
    "test_operate_deploy": 180,
    "test_operate_metrics": 60,
    "test_operate_upgrade": 180,
    "test_sample_operating": 60,
    "guest/test_operate_backup": 20,
    "guest/test_operate_deploy": 20,
    "guest/test_operate_upgrade": 30,
    "guest/test_operate_kills": 23,
    "test_ansible": 100,
    "test_ansible_fleet": 178,
    "test_ansible_packages": 150,
    "test_hosts": 60,
    # engines and load
    "test_podman": 60,
    "test_sweep": 30,
    "test_emulation": 68,
    "test_standins": 48,
    "test_host_engine": 20,
    "test_bench": 34,
    "test_bench_keys": 30,
    "test_bench_test": 100,
    "test_bench_load": 30,
    # publishing
    "test_publish::TestServer::*": 30,
    "test_publish_clients": 65,
    "test_publish_readers": 70,
    "test_judges": 30,
    "test_hostile_archives": 20,
    "test_workflows": 40,
    # ways to build
    "test_air_gap": 180,
    "test_pipelines": 40,
    "test_guides": 150,
    "test_docs_site": 55,
    "test_terminal_builds": 15,
    "test_shared_builds": 40,
    # failures
    "test_cleanup": 30,
    "test_twins": 30,
    "test_compile_errors": 73,
    "test_registry": 40,
    "test_images": 33,
    "test_survive_kills": 300,
    "test_survive_bits": 120,
    "test_survive_engine": 200,
    "test_survive_full": 120,
    "test_survive_power": 80,
    "test_survive_network": 70,
    "test_survive_faults::*dist*": 60,
    "test_full_disk::test_images_on_*": 30,
    "test_survive_clock": 60,
    "test_survive_users": 100,
    "test_farm": 240,
    "test_farm_clusters": 30,
    "test_shared_bucket": 20,
}
"""CPU seconds by part. A part is a module of tests/integration, or `folder/module` of another folder, or
`module::pattern` for those of its tests whose names match; the module's own entry stands for all others of it.
`pytest --costs` prints the seconds; half a second is added for each start of a container. Those that no run has shown
yet are what the tests' marks `long` say."""
SHARE = 150
"""What a share costs at most, if it is not a single part that costs more."""
BUDGET = 350
"""What the parts of one run cost at most, if its share, or the first part that was changed, does not cost more."""


def shares(parts: Mapping[str, int] = PARTS, most: int = SHARE) -> list[list[str]]:
    """Put parts into shares: the dearest first, each where least is; no share costs more than `most` if it can."""
    order = sorted(parts, key=lambda part: (-parts[part], part))
    number = ceil(sum(parts.values()) / most)
    while True:
        found: list[list[str]] = [[] for _ in range(number)]
        for part in order:
            min(found, key=lambda share: cost(share, parts)).append(part)
        if all(len(share) == 1 or cost(share, parts) <= most for share in found):
            return found
        number += 1


def cost(chosen: Sequence[str], parts: Mapping[str, int] = PARTS) -> int:
    """Return the CPU seconds of some parts."""
    return sum(parts[part] for part in chosen)


def run_by(number: int, changed: Set[str] = frozenset()) -> list[str]:
    """Return the parts that a commit runs.

    Args:
        number: of the commit.
        changed: modules that it has changed.
    """
    every = shares()
    at = number % len(every)
    run = list(every[at])
    first = [part for part in _from(number, sorted(PARTS)) if module(part).rpartition("/")[2] in changed]
    others = [part for part in first if part not in run]
    for place, part in enumerate(others):
        if place == 0 or cost([*run, part]) <= BUDGET:
            run.append(part)
    more = [part for part in every[(at + len(every) // 2) % len(every)] if part not in run]
    return [*run, *more] if cost([*run, *more]) <= BUDGET else run


def _from(number: int, parts: Sequence[str]) -> Iterator[str]:
    """Yield all parts, beginning with another one for each number."""
    for at in range(len(parts)):
        yield parts[(number + at) % len(parts)]


def module(part: str) -> str:
    """Return the module of a part."""
    return part.partition("::")[0]


def part_of(name: str, test: str) -> str | None:
    """Return the part to which a test belongs; None if it runs each time.

    Args:
        name: of the test's module, with its folder if that is not tests/integration.
        test: what is behind the module in its id, such as `TestReadme::test_it_audits[bookworm]`.
    """
    patterns = _patterns().get(name, ())
    return next((part for part, pattern in patterns if fnmatchcase(test, pattern)), None)


@lru_cache(maxsize=1)
def _patterns() -> Mapping[str, list[tuple[str, str]]]:
    """Return by module its parts, each with the pattern of its tests."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part in PARTS:
        found.setdefault(module(part), []).append((part, part.partition("::")[2] or "*"))
    return found
