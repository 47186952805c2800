"""Evidence for Go programs, which keep CPUID's answers in variables of the package `internal/cpu`.

The runtime asks the CPU once, in `internal/cpu.doinit`, and keeps each answer in a byte (`internal/cpu.X86.HasAVX2`).
Other packages read these, mostly once in their `init`, and keep what follows in a byte of their own (`useAVX2`). Code
that needs a feature is behind a test of such a byte, in its own function or in all those that call it.

`library_run` cannot follow that: Go has calling conventions of its own. So what is shown here is less: that code needs
a test of such a byte, and that only functions which know the CPU's answers write to it; not, that it is the right bit.
Sources: Go's src/internal/cpu/cpu_x86.go, src/runtime/proc.go (cpuinit), src/cmd/compile (x86HasFMA).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

from pikaforge.audit.elf.layout import ET_EXEC, PT_LOAD, Buffer, Layout
from pikaforge.audit.isa.cuts import Cuts
from pikaforge.audit.isa.dispatch.game import forced, jumps, setter, starts_of
from pikaforge.audit.isa.dispatch.go_references import Asked, GoReferences, addresses_held, named, place_of, with_name
from pikaforge.audit.isa.dispatch.rows import AddressSet, Rows
from pikaforge.audit.isa.dispatch.steps import NONE, R8, R9, RAX, RBX, RCX, RDI, RIP, RSI, Body, InstructionStep, body
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.ranges import GAP, NOWHERE, CodeMap
from pikaforge.audit.isa.swept import QUICK_BYTES
from pikaforge.audit.isa.worker_pool import WorkerPool, chunks
from pikaforge.cpu import features

TABLE = "go_dispatchers.csv"
READERS = "go_readers.csv"
ARGUMENTS = (RAX, RBX, RCX, RDI, RSI, R8, R9)
"""Registers of integer arguments, in their order (Go src/cmd/compile/abi-internal.md, amd64)."""
MARK = re.compile(rb"\0internal/cpu\.(?:doinit|Initialize)\0")
CPU_PACKAGES = re.compile(r"(?:^|/)internal/cpu(?:info)?\.|(?:^|/)x/sys/cpu\.|/fips140deps/cpu\.|/cpuid(?:/v2)?\.")
"""Functions of packages that ask the CPU and keep its answers."""
CPU = re.compile(rb"cpu")
"""What all their names have."""
STARTERS = re.compile(r"\.init(?:\.\d+)?$|\.map\.init\.\d+$")
"""Functions that initialise a package's variables (Go specification, Package initialization)."""
RUNTIME = re.compile(r"^runtime\.")
DEPTH = 4
"""Calls that may be between the test and the code."""
CALLERS = 256
"""The most functions that are looked at for one piece of code."""
TABLES, TABLE_BYTES = 8, 1024
"""The most tables with a function's address that are looked at, and the bytes of the largest one."""
BODY = 256 << 10
"""Bytes of the largest function that is decoded."""
TEXT = (
    "Go: only after a look at what internal/cpu has kept of the CPU's answers (Go src/internal/cpu/cpu_x86.go); "
    "whether it is the right answer is not checked"
)


def is_go(code: CodeMap) -> bool:
    """Return whether a file is a Go program that asks the CPU as Go's runtime does."""
    return MARK.search(code.strings) is not None


def go_evidence(
    path: Path,
    data: Buffer,
    layout: Layout,
    code: CodeMap,
    wanted: Mapping[int, frozenset[str]],
    *,
    pool: WorkerPool,
) -> dict[tuple[int, str], str]:
    """Return the evidence for pieces of a Go program, by piece and feature; nothing for those without any.

    Args:
        path: the file.
        data: its bytes.
        layout: its layout.
        code: its pieces.
        wanted: features by the index of the piece with code that needs them.
        pool: the worker processes.
    """
    loads = [s for s in layout.segments if s.type == PT_LOAD]
    low, high = min(s.address for s in loads), max(s.address + s.memory_size for s in loads)
    read = pool.each(named, chunks(path, code), Asked(low, high, layout.type == ET_EXEC, code.size >= QUICK_BYTES))
    program = _Program(data, layout, code, Cuts(data, code), GoReferences(code, read))
    found = {}
    for piece, names in wanted.items():
        for feature in names:
            if program.guarded(piece, feature):
                found[piece, feature] = TEXT
            elif shown := _known().get((code.name(piece), feature)):
                found[piece, feature] = f"known Go function: {shown}"
    return found


@lru_cache(maxsize=1)
def _known() -> dict[tuple[str, str], str]:
    """Return why functions of Go's library may have code of a feature, by name and feature (`go_dispatchers.csv`)."""
    return {(row["function"], name): row["shown"] for row in features.rows(TABLE) for name in row["features"].split()}


@lru_cache(maxsize=1)
def _readers() -> dict[str, tuple[int, frozenset[str]]]:
    """Return functions that only read a flag, with the register of its address, and what must not be in the program."""
    return {
        row["function"]: (ARGUMENTS[int(row["argument"]) - 1], frozenset(row["unless"].split()))
        for row in features.rows(READERS)
    }


def _pattern(readers: Mapping[str, tuple[int, frozenset[str]]]) -> re.Pattern[bytes]:
    names = chain(readers, *(unless for _, unless in readers.values()))
    return re.compile(b"|".join(re.escape(name.encode()) for name in names))


@dataclass
class _Program:
    """A Go program and what is known of its flags."""

    data: Buffer
    layout: Layout
    code: CodeMap
    cuts: Cuts
    references: GoReferences
    _bodies: dict[int, Body] = field(default_factory=dict)
    _trusted: dict[int, bool] = field(default_factory=dict)
    _tables: dict[int, bool] = field(default_factory=dict)
    """Whether data hold an address within a table, by the table's."""

    @cached_property
    def kept(self) -> AddressSet:
        """Addresses of data that the packages which ask the CPU name."""
        return self.references.data_of(p for p in with_name(self.code, CPU) if CPU_PACKAGES.search(self.code.name(p)))

    @cached_property
    def pointed(self) -> Rows:
        """The offsets in the file at which data hold an address of code, by that address."""
        low, high = min(self.code.starts, default=0), max(self.code.ends, default=0)
        return addresses_held(self.data, self.layout, low, high)

    def body(self, piece: int) -> Body:
        """Return the instructions of a piece; of one that is too large none, which is not sound."""
        if piece not in self._bodies:
            start, end = self.code.starts[piece], self.code.ends[piece]
            begin = self.cuts.begin(piece)
            inner = {a for _, a in self.references.callers(piece)} - {begin}
            whole = end - start <= BODY and all(address > begin for address in inner)
            raw = self.cuts.raw(piece) if whole else b""
            self._bodies[piece] = body(raw, begin, inner)
        return self._bodies[piece]

    def guarded(self, piece: int, feature: str) -> bool:
        """Return whether the instructions of a piece which need a feature run only after a look at a flag."""
        held = self.body(piece)
        by_code = features_by_code()
        needing = {
            index
            for index, block in enumerate(held.blocks)
            if any(feature in by_code[step.code] for step in held.steps[block.first : block.last])
        }
        return self._kept_from(piece, needing) or self._behind(piece, {piece}, DEPTH)

    def _kept_from(self, piece: int, wanted: set[int]) -> bool:
        """Return whether flags alone can keep a function from some of its blocks."""
        held = self.body(piece)
        inner = {a for _, a in self.references.callers(piece)} - {held.start}
        if not held.sound or not wanted:
            return False
        starts = starts_of(held, inner, loose=False) - self._dead(held, inner)
        return not starts & forced(held, wanted, self._on_flag)

    def _dead(self, held: Body, inner: Set[int]) -> set[int]:
        """Return the blocks of a function to which nothing leads: no branch, no other code, no pointer.

        runtime.asyncPreempt has such blocks, for AVX and AVX-512, in programs without GOEXPERIMENT=simd (Go
        src/runtime/mkpreempt.go).
        """
        if jumps(held):
            return set()
        low, high = self.pointed.keys.searchsorted((held.start + 1, held.end))
        return set() if low < high else set(held.loose) - {held.block_at(address) for address in inner}

    def _behind(self, piece: int, seen: set[int], depth: int) -> bool:
        """Return whether all functions that lead to a piece do so only after a look at a flag."""
        through = self._through_tables(self.code.starts[piece])
        sources = self.references.callers(piece) | (through or frozenset())
        if not sources or len(sources) > CALLERS or depth == 0 or through is None:
            return False
        for source, address in sources:
            held = self.body(source)
            if self.code.kinds[source] == GAP or not held.sound:
                return False
            naming = {
                index
                for index, block in enumerate(held.blocks)
                if any(_names(step, address) for step in held.steps[block.first : block.last])
            }
            leaving = {i for i in naming if self._leaves(held, i, address)}
            if naming == leaving and naming:
                continue
            if self._kept_from(source, naming - leaving):
                continue
            if source in seen or not self._behind(source, seen | {source}, depth - 1):
                return False
        return True

    def _through_tables(self, function: int) -> frozenset[tuple[int, int]] | None:
        """Return the pieces that name a table with a function's address, each with the table's; None: others may, too.

        A table begins at the last address before the pointer that code names, as in `graph`.
        """
        found: set[tuple[int, int]] = set()
        offsets = self.pointed.get(function)
        if len(offsets) > TABLES:
            return None
        for offset in offsets:
            place = place_of(self.data, self.layout, offset)
            table = self.references.object_at(place)
            if table == NOWHERE or self.code.at(table) != NOWHERE or place - table > TABLE_BYTES:
                return None
            if table not in self._tables:
                self._tables[table] = self._is_pointed(table)
            if self._tables[table]:
                return None
            found.update((piece, table) for piece in self.references.users(table))
        return frozenset(found)

    def _is_pointed(self, table: int) -> bool:
        """Return whether data hold an address within a table."""
        held = addresses_held(self.data, self.layout, table, table + TABLE_BYTES)
        offsets = chain.from_iterable(held.get(int(key)) for key in held.keys)
        return any(place_of(self.data, self.layout, offset) != NOWHERE for offset in offsets)

    def _leaves(self, held: Body, index: int, address: int) -> bool:
        """Return whether a block names an address only as the target of a branch at its end that tests a flag."""
        block = held.blocks[index]
        steps = held.steps[block.first : block.last]
        return (
            steps[-1].flow == "branch"
            and steps[-1].target == address
            and self._on_flag(held, index)
            and not any(_names(step, address) for step in steps[:-1])
        )

    # ---- flags

    def _on_flag(self, held: Body, index: int) -> bool:
        """Return whether a block ends with a branch on a byte of data that keeps an answer of the CPU."""
        step = setter(held, index)
        address = None if step is None else _flag(held, index, step)
        return address is not None and self._is_flag(address)

    def _is_flag(self, address: int) -> bool:
        if address not in self._trusted:
            self._trusted[address] = False  # while it is looked at
            self._trusted[address] = self._looked_up(address)
        return self._trusted[address]

    def _looked_up(self, address: int) -> bool:
        """Return whether only functions that know the CPU's answers write to a byte, and one of them does.

        Go's linker places variables without a size at the start of a section, before the smallest one (Go
        src/cmd/link/internal/ld/data.go). Functions of other packages that take the address of the section's first byte
        take that of such a variable: they cannot name the byte, which its own package alone does.
        """
        writers, takers = set(), set()
        for piece in self.references.users(address):
            held = self.body(piece)
            if any(step.stores for step in held.steps if _takes(step, address)):
                writers.add(piece)
            elif any(_takes(step, address) for step in held.steps):
                if not self._only_handed(held, address):
                    takers.add(piece)
            elif not held.sound:
                return False
        own = {package_of(self.code.name(piece)) for piece in writers}
        if takers and (not self._begins(address) or any(package_of(self.code.name(p)) in own for p in takers)):
            return False
        return bool(writers) and all(self._knows(piece) for piece in writers)

    @cached_property
    def readers(self) -> dict[int, int]:
        """Functions that keep the address of a flag and only read it, with the register of the argument."""
        wanted = _readers()
        met = {self.code.name(piece): piece for piece in with_name(self.code, _pattern(wanted))}
        return {
            self.code.starts[met[name]]: register
            for name, (register, unless) in wanted.items()
            if name in met and not unless & set(met)
        }

    def _only_handed(self, held: Body, address: int) -> bool:
        """Return whether a function takes an address only to hand it to functions that only read there."""
        for index, step in enumerate(held.steps):
            if not _takes(step, address):
                continue
            register = step.operands[0].register
            after = held.steps[index + 1 :]
            call = next((s for s in after if s.flow != "next" or register in (*s.reads, *s.writes)), None)
            if call is None or call.flow != "call" or self.readers.get(call.target) != register:
                return False
        return held.sound

    def _begins(self, address: int) -> bool:
        """Return whether a section begins at an address."""
        return any(section.address == address and section.size for section in self.layout.sections)

    def _knows(self, piece: int) -> bool:
        """Return whether a function asks the CPU, or runs at the start and reads what it has answered."""
        name = self.code.name(piece)
        if CPU_PACKAGES.search(name):
            return True
        if not RUNTIME.match(name) and not STARTERS.search(name):
            return False
        return any(
            operand.kind == "m" and operand.register == RIP and operand.value in self.kept
            for step in self.body(piece).steps
            for operand in step.operands
        )


def _names(step: InstructionStep, address: int) -> bool:
    return step.target == address or any(o.kind == "m" and o.value == address for o in step.operands)


def package_of(function: str) -> str:
    """Return the package of a function of Go, by its name (`a/b/package.function`, `a/b/package.(*Type).method`)."""
    folder, slash, last = function.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _takes(step: InstructionStep, address: int) -> bool:
    """Return whether an instruction writes to an address, or takes it."""
    named = any(o.kind == "m" and o.value == address for o in step.operands)
    return named and (step.stores or step.name == "LEA")


def _flag(held: Body, index: int, step: InstructionStep) -> int | None:
    """Return the address of the byte that an instruction compares with 0 or 1; None if it does something else."""
    if len(step.operands) != 2:
        return None
    first, second = step.operands
    if step.name == "CMP" and first.kind == "m" and first.size == 1 and second.kind == "i" and second.value in (0, 1):
        return _place(first.register, first.index_register, first.value, segment=first.segment)
    if step.name != "TEST" or first != second or first.kind != "r":
        return None
    block = held.blocks[index]
    before = [
        s for s in held.steps[block.first : block.last] if s.address < step.address and first.register in s.writes
    ]
    if not before or before[-1].name not in ("MOV", "MOVZX") or before[-1].operands[1].kind != "m":
        return None
    source = before[-1].operands[1]
    if source.size != 1:
        return None
    return _place(source.register, source.index_register, source.value, segment=source.segment)


def _place(register: int, index: int, value: int, *, segment: bool) -> int | None:
    return value if register == RIP and index == NONE and not segment else None
