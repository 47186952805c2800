"""Parts of the tests that a plain run shortens, because they take long: PIKAFORGE_TEST_ALL asks for all of them.

Its value is a list of parts, such as `bare,readers`, or `all`. Modules of which others show much, too, take turns by
commit: a plain run has one share of each round, one with a module that the commit has changed before others. A module
that is named on the command line always runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar, get_args

import pytest

Part = Literal[
    "bare",
    "standins",
    "readers",
    "fuzz",
    "starts",
    "allocators",
    "audit",
    "failures",
    "turns",
    "shells",
    "defects",
    "builds",
    "survival",
]
Member = TypeVar("Member")
VARIABLE = "PIKAFORGE_TEST_ALL"
ROOT = Path(__file__).resolve().parents[1]
ROUNDS = (
    (
        ("test_allocator_build",),
        ("test_allocators", "test_newer_compilers"),
        ("test_bare_machine",),
        ("test_rpm_acceptance", "test_redis"),
        ("test_deb_acceptance", "test_products"),
    ),
    (
        ("test_operate_backup", "test_operate_docs"),
        ("test_operate_deploy", "test_operate_metrics"),
        ("test_operate_upgrade", "test_sample_operating"),
        ("test_ansible",),
        ("test_ansible_fleet",),
        ("test_ansible_packages",),
        ("test_hosts",),
    ),
    (
        ("test_podman", "test_sweep"),
        ("test_emulation", "test_standins"),
        ("test_bench_keys",),
        ("test_bench_test", "test_bench_load"),
    ),
    (("test_publish_clients",), ("test_publish_readers", "test_judges", "test_hostile_archives"), ("test_workflows",)),
    (("test_air_gap",), ("test_pipelines", "test_guides"), ("test_terminal_builds",)),
    (
        ("test_cleanup", "test_twins"),
        ("test_compile_errors", "test_registry", "test_images"),
        ("test_survive_kills", "test_survive_bits"),
        ("test_survive_engine", "test_survive_full"),
        ("test_farm",),
        ("test_survive_power", "test_survive_network", "test_survive_clock", "test_survive_users"),
    ),
)
"""Modules of tests/integration that take turns: rounds of shares, which cost about the same.

Each round is of one kind: builds of others and machines, operation, engines and load, publishing, ways to
build, failures. So each run
has a share of each kind, besides all modules that are not named here, which go through each stage.
"""
BUILDS = ("bytes", "image", "defect")
"""Builds of the sample that take turns: the same bytes under unlike conditions, a second image, a planted defect."""
SHELLS = ("dash", "bash", "busybox")
"""The shells that scripts are run by. They take turns in the tests of the scripts on hosts (`SHELL_TURNS`)."""
SHELL_TURNS = re.compile(r"test_operate_\w+|test_metrics|test_deploy_hosts|test_package_over_link")


def whole(part: Part) -> bool:
    """Whether a part is to be run in full.

    bare: README's commands and all tests on each bare machine, instead of a share of it on one machine.
    standins: the sample on each stand-in of an image, instead of on EL 9 alone.
    readers: 500 publications under readers, and 40 to a server, instead of 40 and 20.
    fuzz: 8,000 mutated inputs for the readers of packages and documents, instead of 1,600.
    allocators: gperftools in both ways for two targets each, instead of one each.
    audit: all of glibc with waivers, and the largest programs of this machine, too.
    failures: 24 failures of upgrades at random moments, instead of 3; 12 kills of each of backup, restore and rollback
        on a host, and not only with stand-ins.
    turns: every module of `ROUNDS`, instead of one share of each round.
    shells: each script on hosts in each shell, instead of in one of them.
    defects: each planted defect of the sample alone, instead of one of them.
    builds: each of `BUILDS`, instead of one of them.
    survival: the figures of docs/survival.md, such as 100 kills, instead of some.
    starts: each run of the tool in a process that Python has started for it, instead of a forked one.

    Raises:
        ValueError: the variable names a part that does not exist.
    """
    asked = {word.strip() for word in os.environ.get(VARIABLE, "").split(",")} - {""}
    if unknown := asked - {"all", *get_args(Part)}:
        raise ValueError(f"{VARIABLE}: there is no part {', '.join(sorted(unknown))}: {', '.join(get_args(Part))}, all")
    return bool(asked & {"all", part})


@lru_cache(maxsize=8)
def turn(what: str) -> int:
    """A number that changes with the commit, another one for each purpose."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return int(hashlib.sha256(f"{what} {done.stdout}".encode()).hexdigest(), 16)


def one_of(part: Part, members: Iterable[Member]) -> list[Member]:
    """The member of a part whose turn it is; all of them, where the part is asked for."""
    every = list(members)
    return every if whole(part) else [every[turn(part) % len(every)]]


@lru_cache(maxsize=1)
def changed_modules() -> frozenset[str]:
    """The modules of tests that the commit has changed, a merge in comparison with the branch that it was made on."""
    argv = ["git", "diff", "--name-only", "HEAD^1", "HEAD", "--", "tests"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return frozenset(Path(line).stem for line in done.stdout.splitlines())


def builds(which: Literal["bytes", "image", "defect"]) -> bool:
    """Whether it is the turn of a build of the sample."""
    return which in one_of("builds", BUILDS)


def others_turn(number: int, changed: Set[str] = frozenset()) -> frozenset[str]:
    """The modules that a plain run leaves to other commits.

    Args:
        number: says whose turn it is.
        changed: modules whose shares come before others of their round.
    """
    left = set()
    for shares in ROUNDS:
        number, at = divmod(number, len(shares))
        first = [share for share in shares if not changed.isdisjoint(share)] or shares
        left |= {module for share in shares if share is not first[at % len(first)] for module in share}
    return frozenset(left)


def others_shells(number: int) -> frozenset[str]:
    """The shells that a plain run leaves to other commits."""
    return frozenset(SHELLS) - {SHELLS[number % len(SHELLS)]}


def is_run_by(item: pytest.Item, shells: Set[str]) -> bool:
    """Whether a test runs a script on hosts by one of some shells: it has a parameter that is the shell's name."""
    params: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return any(value in shells for value in params.values() if isinstance(value, str)) and (
        SHELL_TURNS.fullmatch(item.path.stem) is not None
    )


def is_plain(arguments: Iterable[str], folders: Iterable[str]) -> bool:
    """Whether a run is of all tests: its arguments are the folders that a run without arguments has."""
    given, every = ({(ROOT / path).resolve() for path in paths} for paths in (arguments, folders))
    return given == every


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are marked `thorough(asked)` where `asked` is false, and the modules of other turns.

    They are not skipped, because nothing is missing on this machine.
    """
    left, shells = frozenset[str](), frozenset[str]()
    if is_plain(config.args, config.getini("testpaths")):
        left = frozenset() if whole("turns") else others_turn(turn("rounds"), changed_modules())
        shells = frozenset() if whole("shells") else others_shells(turn("shells"))
    marks = {item: item.get_closest_marker("thorough") for item in items}
    left_out = {
        item
        for item, mark in marks.items()
        if item.path.stem in left or (mark is not None and not mark.args[0]) or is_run_by(item, shells)
    }
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
