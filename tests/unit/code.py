"""Libraries with code of their own for unit tests: functions and data by name, references by label, no compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unit import elf_files as ef

RET, CPUID, XGETBV = ef.RET, ef.CPUID, ef.XGETBV
AVX2, BMI2 = ef.AVX2, bytes.fromhex("c4e279f7c7")  # shlx %eax,%edi,%eax
LEAF_7 = bytes.fromhex("b80700000031c9")  # mov $7,%eax; xor %ecx,%ecx
LEAF_1 = bytes.fromhex("b801000000")  # mov $1,%eax
HAS_AVX2 = bytes.fromhex("f6c320")  # test $0x20,%bl
HAS_BMI2 = bytes.fromhex("f6c701")  # test $1,%bh
HAS_SSE42 = bytes.fromhex("f7c100001000")  # test $0x100000,%ecx
TEST_EAX, TEST_EDI, TEST_RDI = bytes.fromhex("85c0"), bytes.fromhex("85ff"), bytes.fromhex("4885ff")
CMOVNE_RDX = bytes.fromhex("480f45c2")  # cmovne %rdx,%rax
SETNE_EAX = bytes.fromhex("0f95c00fb6c0")  # setne %al; movzbl %al,%eax
ZERO_EAX = bytes.fromhex("31c0")
SAVE_RBX, RESTORE_RBX = b"\x53", b"\x5b"


class Ref(NamedTuple):
    """An instruction that ends with the distance to a label."""

    opcode: bytes
    label: str


def je(label: str) -> Ref:
    """je label."""
    return Ref(b"\x0f\x84", label)


def jne(label: str) -> Ref:
    """jne label."""
    return Ref(b"\x0f\x85", label)


def js(label: str) -> Ref:
    """js label."""
    return Ref(b"\x0f\x88", label)


def jmp(label: str) -> Ref:
    """jmp label."""
    return Ref(b"\xe9", label)


def call(label: str) -> Ref:
    """call label."""
    return Ref(b"\xe8", label)


def lea_rax(label: str) -> Ref:
    """lea label(%rip),%rax."""
    return Ref(b"\x48\x8d\x05", label)


def lea_rdx(label: str) -> Ref:
    """lea label(%rip),%rdx."""
    return Ref(b"\x48\x8d\x15", label)


def store_rax(label: str) -> Ref:
    """mov %rax,label(%rip)."""
    return Ref(b"\x48\x89\x05", label)


def store_eax(label: str) -> Ref:
    """mov %eax,label(%rip)."""
    return Ref(b"\x89\x05", label)


def load_eax(label: str) -> Ref:
    """mov label(%rip),%eax."""
    return Ref(b"\x8b\x05", label)


def through(label: str) -> Ref:
    """jmp *label(%rip)."""
    return Ref(b"\xff\x25", label)


Part = bytes | Ref | str
"""Bytes, a reference, or a label (`name:`)."""


def library(
    functions: Mapping[str, Sequence[Part]],
    *,
    exports: Sequence[str] = (),
    data: Mapping[str, bytes] | None = None,
    pointers: Mapping[str, str] | None = None,
    resolvers: Sequence[str] = (),
    starters: Sequence[str] = (),
    soname: str = "",
    symbols: bool = True,
    imports: Mapping[str, str] | None = None,
    extra: bytes = b"",
    nameless: Sequence[str] = (),
    tables: Mapping[str, int] | None = None,
) -> bytes:
    """A shared library.

    Args:
        functions: their code by name; a label is local to the file.
        exports: functions and data that other files may use.
        data: what the program may write to, by name; 8 bytes apart at least.
        pointers: by name of data, what the loader writes there.
        resolvers: functions that the loader asks which one to take (ifunc).
        starters: functions that the loader calls when it has loaded the library.
        soname: of the library.
        symbols: whether the functions keep their names.
        imports: by name of data, the symbol of another file whose address the loader writes there.
        extra: bytes of .rodata.
        nameless: functions that neither a symbol nor the unwind table names: gaps.
        tables: by name of data, the bytes that its symbol has.
    """
    elf = ef.Elf(soname=soname, extra=extra)
    places: dict[str, int] = {}
    fixes: list[tuple[int, str]] = []
    text = bytearray()
    sizes: dict[str, int] = {}
    for name, parts in functions.items():
        text.extend(ef.NOP * (-len(text) % 16))
        places[name] = begin = len(text)
        for part in parts:
            if isinstance(part, str):
                places[part.removesuffix(":")] = len(text)
            elif isinstance(part, Ref):
                text.extend(part.opcode + bytes(4))
                fixes.append((len(text) - 4, part.label))
            else:
                text.extend(part)
        sizes[name] = len(text) - begin
    body = bytearray()
    elf.data_address = elf.address + (len(text) + ef.PAGE - 1) // ef.PAGE * ef.PAGE
    for name, content in (data or {}).items():
        body.extend(bytes(-len(body) % 8))
        places[name] = elf.data_address - elf.address + len(body)
        body.extend(content)
    if starters:
        body.extend(bytes(-len(body) % 8))
        places["starters"] = elf.data_address - elf.address + len(body)
        elf.starters = (places["starters"], 8 * len(starters))
        body.extend(bytes(8 * len(starters)))
    for at, label in fixes:
        text[at : at + 4] = (places[label] - at - 4).to_bytes(4, "little", signed=True)
    elf.text, elf.data = bytes(text), bytes(body)
    if symbols:
        elf.symbols = [(name, places[name], sizes[name], ef.FUNC) for name in functions if name not in nameless]
        elf.symbols += [(name, places[name], size, ef.OBJECT) for name, size in (tables or {}).items()]
    elf.frames = [(places[name], sizes[name]) for name in functions if name not in nameless]
    elf.exports = [(name, places[name]) for name in exports]
    elf.imports = [(name, places[at]) for at, name in (imports or {}).items()]
    elf.relocations = [(places[at], 8, places[to]) for at, to in (pointers or {}).items()]
    elf.relocations += [(places["starters"] + 8 * n, 8, places[name]) for n, name in enumerate(starters)]
    elf.relocations += [(places["got"], 37, places[name]) for name in resolvers]
    return ef.make(elf)
