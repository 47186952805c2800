"""Known dispatchers: libraries that keep the CPU's answer where the analysis cannot follow it.

They are asked only for what following a library does not show (`evidence`).
`dispatchers.csv` lists them by package, range of upstream versions and soname, with the features, the way in which they
ask the CPU, and the source of that. An entry vouches for one thing, and not for every function; the analysis must still
show the rest. The things are (column `by`):

- `flag`: the meaning of a flag. Each way into code which needs the features depends on a test of a flag (`decided`).
  Functions that the library exports under a name of its own for some CPUs (column `exports`) are no such way.
- `loader`: what the loader of glibc keeps. The code is chosen by ifunc resolvers that read it.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Literal, cast, get_args

from packaging.version import Version

from pikaforge.audit.elf.facts import read_build_id, read_defined
from pikaforge.audit.elf.layout import Buffer, find, mapped
from pikaforge.audit.isa.dispatch.flags import Answers, FlagTests
from pikaforge.audit.isa.dispatch.game import Game, forced, starts_of
from pikaforge.audit.isa.dispatch.steps import RAX, RDX, Body, InstructionStep
from pikaforge.cpu import features
from pikaforge.cpu.features import INVALID

TABLE, FORCING = "dispatchers.csv", "forcing_variables.csv"
UPSTREAM = re.compile(r"(?:\d+:)?(\d{1,9}(?:\.\d{1,9})*)(?:[-+].*)?")
"""Finds upstream's version in a package's, between epoch and the distribution's revision (deb-version(7), rpm)."""
Way = Literal["flag", "loader"]
_DIGESTS = re.compile(r"(?:-[0-9a-f]{8})+(?=\.(?:[0-9a-z]+\.)*so(?:\.|$))")
"""What a wheel's builder puts into the names of libraries."""
MODULE = "PyInit_"
"""What the name of the function begins with that initialises a module of Python; such a module has no soname
(docs.python.org/3/extending/building.html)."""
VERSIONS = 1000
"""Versions that are looked at in one file: libc names 50."""
NEVER_COMPILED = frozenset({"rtm", "hle_or_rtm", "pku"})
"""Features whose instructions gcc and clang write only where the source names them."""
STATIC, GLIBC = "static glibc", b"Fatal glibc error: "
"""The entry for programs with glibc built in, and a text that they have (glibc csu/libc-tls.c)."""
FLAGS_BACK = 32
"""Instructions before a load in which the flags are looked for that a conditional move after it tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    """One line of the table."""

    packages: frozenset[str]
    """Names of the distributions' packages."""
    since: Version
    until: Version
    """The first and the last upstream version that people have looked at."""
    soname: str
    """Its name as a library; of a module of Python, the function that initialises it. Empty: of any name, and known by
    its build id alone."""
    pattern: str
    """A regular expression that finds upstream's version in the library itself, as its group 1; the highest one counts.
    It is for libraries that no package explains. Empty: they have no version in them, and none is checked."""
    build_ids: frozenset[str]
    """Build ids of files that others have built of such source, for any CPU; of those with `trusted`, their code counts
    as looked at. A file without a build id has its sha256 here."""
    by: Way
    exports: str
    """A regular expression of the names of exported functions that say for which CPUs they are, and that no other file
    calls.
    """
    features: frozenset[str]
    """`*` stands for all."""
    shown: str
    """How it makes sure that the CPU is asked first."""
    trusted: frozenset[str]
    """Features for which nothing is looked at, because people have read how code for them is taken; `*` stands for all.
    """
    why: str
    """Why such code runs only on CPUs that have them."""
    source: str
    """Where its source shows that, and how it was tried."""
    variables: frozenset[str] = frozenset()
    """Variables of the environment by which a user forces code on any CPU; without them the CPU is asked."""
    vouched: bool = True
    """Whether package or build id say which file it is: then each test of few bytes is one of a flag, as people have
    read. In others it must be seen where the flag is from (`flags`).
    """

    @property
    def text(self) -> str:
        """The evidence, for people."""
        return self.because(self.shown)

    def because(self, reason: str) -> str:
        """Return evidence for people, with a reason."""
        which = f"{self.soname} {self.since} to {self.until}" if self.pattern else self.soname or "by its build id"
        return f"known dispatcher ({which}): {reason}"

    def covers(self, package: str, version: str, soname: str) -> bool:
        """Return whether the entry is for a library of a package."""
        found = UPSTREAM.fullmatch(version)
        name = package.partition(":")[0]  # dpkg appends the architecture
        return (
            found is not None
            and name in self.packages
            and soname == self.soname
            and self.since <= Version(found[1]) <= self.until
        )

    def fits(self, data: Buffer) -> bool:
        """Return whether the entry is for a library with its soname, by the version that is in the library's bytes."""
        if not self.pattern:
            return True
        found = islice(re.finditer(self.pattern.encode("latin-1"), data), VERSIONS)
        versions = {Version(match[1].decode("ascii")) for match in found}
        return bool(versions) and self.since <= max(versions) <= self.until

    def has(self, feature: str) -> bool:
        """Return whether the entry vouches for a feature."""
        return feature in self.features or "*" in self.features

    def trusts(self, feature: str) -> bool:
        """Return whether people have read all code that needs a feature."""
        return feature in self.trusted or "*" in self.trusted

    def read_wholly(self, wanted: Iterable[str]) -> bool:
        """Return whether people have read one very file, by its build id, for all of some features.

        Then nothing is looked for in it: the search of a large one takes a minute, and shows no more.
        """
        return not self.soname and all(name == INVALID or self.trusts(name) for name in wanted)

    def names(self, function: str) -> bool:
        """Return whether a function's name says for which CPUs it is."""
        return bool(self.exports) and re.search(self.exports, function) is not None


@lru_cache(maxsize=1)
def table() -> tuple[Dispatcher, ...]:
    """Return all known dispatchers."""
    found = []
    forcing = {row["soname"]: row["variables"] for row in features.rows(FORCING)}
    for row in features.rows(TABLE):
        assert row["by"] in get_args(Way), row
        found.append(
            Dispatcher(
                packages=frozenset(row["packages"].split()),
                since=Version(row["since"]),
                until=Version(row["until"]),
                soname=row["soname"],
                pattern=row["version"],
                build_ids=frozenset(row["build_ids"].split()),
                by=cast(Way, row["by"]),
                exports=row["exports"],
                features=frozenset(row["features"].split()),
                shown=row["shown"],
                trusted=frozenset(row["trusted"].split()),
                why=row["why"],
                source=row["source"],
                variables=frozenset(forcing.get(row["soname"], "").split()),
            )
        )
    return tuple(found)


def known(package: str, version: str, soname: str) -> Dispatcher | None:
    """Return the entry for a library of a package; None if there is none."""
    return next((entry for entry in table() if entry.covers(package, version, soname)), None)


def known_file(path: Path, soname: str) -> Dispatcher | None:
    """Return the entry for a library that no package explains, by its soname and its own version; None without one.

    Soname and version say what its source is, and not for which CPU it was compiled: a libcrypto that was made with
    -march=haswell has them, too. So only the build id of a known file makes code trusted that is not looked at, but for
    features that no compiler uses by itself.

    Raises:
        AuditError: the file cannot be read.
    """
    names = {soname} if soname else _modules(path)
    fitting = [entry for entry in table() if entry.soname in names or _renamed(soname, entry.soname)]
    own = read_build_id(path) or _digest(path)
    named = (entry for entry in table() if entry.soname in ("", soname) or entry in fitting)
    if (exact := next((entry for entry in named if own in entry.build_ids), None)) is not None:
        return exact
    if not names:  # a program: only the build id says which one
        return None
    with mapped(path) as data:
        entry = next((entry for entry in fitting if entry.fits(data)), None)
    return None if entry is None else replace(entry, trusted=entry.trusted & NEVER_COMPILED, vouched=False)


def _renamed(soname: str, wanted: str) -> bool:
    """Return whether a library has a name that a wheel's builder has given to a copy of another one.

    `libzstd.so.1.5.7` becomes `libzstd-40ad5e7e.so.1.5.7` (auditwheel: repair.copylib), by the name of its file.
    """
    plain = _DIGESTS.sub("", soname)
    return plain != soname and bool(wanted) and (plain == wanted or plain.startswith(f"{wanted}."))


def _modules(path: Path) -> frozenset[str]:
    """Return the functions of the table's modules of Python by which the interpreter initialises a file."""
    named = frozenset(entry.soname.encode() for entry in table() if entry.soname.startswith(MODULE))
    return frozenset(name.decode() for name in read_defined(path, named))


def _digest(path: Path) -> str:
    """Return the sha256 of a file, by which the table names those without a build id."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def static_glibc(data: Buffer, *, linked: bool, resolvers: bool) -> Dispatcher | None:
    """Return the entry for a program with glibc built in; None if it is none.

    Args:
        data: the program.
        linked: whether it needs a loader.
        resolvers: whether it has ifunc resolvers.
    """
    if linked or not resolvers or find(data, GLIBC) < 0:
        return None
    return next(entry for entry in table() if entry.soname == STATIC)


def decided(
    code: Body,
    targets: Set[int],
    entries: Set[int],
    answers: Answers | None,
    *,
    loose: bool,
    stubs: Mapping[int, int] | None = None,
) -> set[int]:
    """Return those of some addresses that a function uses only after a test of a flag.

    It is a game of two players: the first one chooses the way at each branch that tests a flag, the second one at all
    other branches. An address is decided if the first player can keep the function from every instruction that names
    the address: so the flags' values alone decide whether it is used. In a file that nobody vouches for, it must be
    possible to keep it from all of them at once: on one way of a test there may be no other implementation that needs
    a flag.

    Args:
        code: the function.
        targets: the addresses.
        entries: addresses in the function, beside its start, at which other code enters it.
        answers: where the library keeps the CPU's answers; None if each test of few bytes is one of a flag.
        loose: whether other code may enter blocks without a visible predecessor (exception handlers).
        stubs: other names that the code has for some of the addresses.
    """
    if not code.sound:
        return set()
    starts = starts_of(code, entries, loose=loose)
    tests = FlagTests(code, answers)
    game = Game(code, tests.decisive)
    out, used = set[int](), set[int]()
    for target, naming_ in _naming(code, targets, stubs or {}).items():
        # What is only compared leads nowhere.
        numbers = [number for number in naming_ if code.steps[number].name != "CMP"]
        blocks = {number: bisect_right(code.blocks, number, key=attrgetter("first")) - 1 for number in numbers}
        naming = {
            i
            for number, i in blocks.items()
            if not _taken_by_flag(tests, code, code.blocks[i].last, number)
            and not _dropped_by_flag(tests, code, i, number)
        }
        own = {i for i in naming if _leaves_by_flag(tests, code, i, target)}
        if not starts & game.forced(naming - own):  # without any, only conditional moves take it
            out.add(target)
            used |= naming - own
    return set() if answers is not None and starts & game.forced(used) else out


def _naming(code: Body, targets: Set[int], stubs: Mapping[int, int]) -> dict[int, list[int]]:
    """Return the instructions that name some addresses, by address, as their indexes in the function."""
    found: dict[int, list[int]] = {}
    for number, step in enumerate(code.steps):
        named = {step.target, *(o.value for o in step.operands if o.kind in ("m", "i"))}
        for target in (named & targets) | {stubs[address] for address in named & stubs.keys()}:
            found.setdefault(target, []).append(number)
    return found


def decided_within(code: Body, needing: Set[int], entries: Set[int], answers: Answers | None, *, loose: bool) -> bool:
    """Return whether a function runs some of its blocks only after a test of a flag; see `decided`."""
    if not code.sound or not needing:
        return False
    return not starts_of(code, entries, loose=loose) & forced(code, needing, FlagTests(code, answers).decisive)


def _names(step: InstructionStep, address: int) -> bool:
    return step.target == address or any(o.kind in ("m", "i") and o.value == address for o in step.operands)


def _taken_by_flag(tests: FlagTests, code: Body, end: int, number: int) -> bool:
    """Return whether an instruction loads an address into a register from which only conditional moves take it.

    These must test a flag. `end` is the index after the last instruction of its block.
    """
    first = code.steps[number]
    if first.name not in ("LEA", "MOV") or first.operands[0].kind != "r":
        return False
    register = first.operands[0].register
    flags: InstructionStep | None = None
    for at in range(number - 1, max(number - FLAGS_BACK, 0) - 1, -1):
        if code.steps[at].flags:
            flags = code.steps[at]
            break
    for at in range(number + 1, end):
        step = code.steps[at]
        if step.name == "CMOV" and register in step.reads and step.operands[-1].kind == "r":
            bit = flags is not None and (flags.name == "BT") == (step.condition in ("b", "ae"))
            fitting = step.condition in ("e", "ne", "b", "ae") and bit
            if flags is None or not fitting or not tests.tests(flags, code.steps[:at]):
                return False
            if step.operands[0].register == register:
                return True
        elif register in step.reads or step.flow in ("call", "call?"):
            return False
        elif register in step.writes:
            return True
        if step.flags:
            flags = step
    return code.steps[end - 1].flow == "return" and register not in (RAX, RDX)


def _dropped_by_flag(tests: FlagTests, code: Body, index: int, number: int) -> bool:
    """Return whether an instruction loads an address into a register that one way after the block overwrites.

    The branch at the end of the block must test a flag, and nothing before it may read the register.
    """
    block, first = code.blocks[index], code.steps[number]
    if first.name not in ("LEA", "MOV") or first.operands[0].kind != "r" or not tests.decisive(code, index):
        return False
    register = first.operands[0].register
    if any(register in step.reads for step in code.steps[number + 1 : block.last]):
        return False
    for target in code.following[index]:
        for step in code.steps[code.blocks[target].first : code.blocks[target].last]:
            if register in step.reads or step.flow != "next":
                break
            if register in step.writes and step.name in ("LEA", "MOV"):
                return True
    return False


def _leaves_by_flag(tests: FlagTests, code: Body, index: int, target: int) -> bool:
    """Return whether a block names an address only as the target of a branch at its end that tests a flag."""
    block = code.blocks[index]
    steps = code.steps[block.first : block.last]
    return (
        steps[-1].target == target
        and tests.decisive(code, index)
        and not any(_names(step, target) for step in steps[:-1])
        and code.following[index] != ()
    )
