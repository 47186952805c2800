"""Flags that a product needs for some versions of the compiler: `product.compilers` of matrix.yaml. Pure.

A source is older than the compilers that come after it. Their new warnings must not fail its build: the compiler
wrapper takes care of that. What else a generation of compilers needs is data. Only flags are allowed that cannot break
a promise of a package: none that chooses the CPU, the folders, the linker or how the compiler optimises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from pikaforge.config.product import Adaptation
from pikaforge.config.scalars import plain
from pikaforge.config.schema import Spec

INCLUDE = "-include"
HEADER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
"""A header of the system, as a path below its folders of headers."""
SWITCHES = frozenset(
    {
        "-fcommon",
        "-fno-common",
        "-fpermissive",
        "-fgnu89-inline",
        "-fno-strict-aliasing",
        "-fno-lifetime-dse",
        "-fno-delete-null-pointer-checks",
        "-fwrapv",
        "-fno-char8_t",
        "-fno-aligned-new",
        "-fno-new-ttp-matching",
        "-fno-sized-deallocation",
    }
)
"""Switches for what older compilers did by default, and newer ones do not (gcc.gnu.org/gcc-N/porting_to.html)."""
STANDARD = {False: re.compile(r"-std=(c|gnu)[0-9][0-9a-z]"), True: re.compile(r"-std=(c|gnu)\+\+[0-9][0-9a-z]")}
"""The language standard, by whether it is C++."""
PATTERNS = (
    re.compile(r"-D[A-Za-z_][A-Za-z0-9_]*(=[A-Za-z0-9_.+-]*)?"),
    re.compile(r"-W(?!error)[a-z][a-z0-9+-]*(=[a-z0-9+-]+)?"),
)
ALLOWED = f"allowed are {INCLUDE} HEADER, -std=…, -DNAME[=VALUE], -WNAME, -Wno-NAME, {', '.join(sorted(SWITCHES))}"


def is_empty(versions: str) -> bool:
    """Return whether no version is in a range, because it ends where it begins or before."""
    ends = {part.operator: Version(part.version) for part in SpecifierSet(versions)}
    return "<" in ends and ends["<"] <= ends.get(">=", Version("0"))


@lru_cache(maxsize=512)
def includes(versions: str, gcc: str) -> bool:
    """Return whether a version of gcc is in a range such as `>=11,<13`."""
    return SpecifierSet(versions).contains(gcc)


def major_minor(version: str) -> str:
    """Return what targets and flags follow from, `12.2` of `12.2.0`; empty if the text is no version."""
    try:
        return ".".join(map(str, Version(version).release[:2]))
    except InvalidVersion:
        return ""


def faults(words: Sequence[str], *, cxx: bool) -> Iterator[tuple[int, str, str]]:
    """Yield what is wrong with a list of flags: index in the list, message, hint.

    Args:
        words: the list.
        cxx: whether it is for C++, else for C.
    """
    patterns = (STANDARD[cxx], *PATTERNS)
    expected = False
    for index, word in enumerate(words):
        if expected:
            expected = False
            if not HEADER.fullmatch(word):
                message = f"`{word}` is not the name of a header"
                yield index, message, "one that the compiler finds by itself, such as cstdint or sys/types.h"
        elif word == INCLUDE:
            expected = True
        elif word.startswith("-m"):
            yield index, f"`{word}` is not for `compilers`: the target decides about the CPU", "see `hardware`"
        elif word not in SWITCHES and not any(pattern.fullmatch(word) for pattern in patterns):
            yield index, f"`{word}` is not a flag that may be given for a compiler's version", ALLOWED
    if expected:
        yield len(words) - 1, f"`{INCLUDE}` names no header", f"write two words: [{INCLUDE}, cstdint]"


def adaptations(spec: Spec, image: str) -> tuple[Adaptation, ...]:
    """Return the entries of `product.compilers` that are for an image's compiler."""
    gcc = spec.images[image].gcc
    return tuple(entry for entry in spec.product.compilers if includes(entry.gcc, gcc))


def cflags(spec: Spec, image: str) -> tuple[str, ...]:
    """Return the flags that are added where C is compiled for an image."""
    return _merged(entry.cflags for entry in adaptations(spec, image))


def cxxflags(spec: Spec, image: str) -> tuple[str, ...]:
    """Return the flags that are added where C++ is compiled for an image."""
    return _merged(entry.cxxflags for entry in adaptations(spec, image))


def facts(spec: Spec, image: str) -> dict[str, object]:
    """Return what manifest and report hold: the `adaptations` to an image's compiler, and whether -Werror counts."""
    return {
        "adaptations": [plain(entry) for entry in adaptations(spec, image)],
        "keep_werror": spec.product.keep_werror,
    }


def _merged(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the options of several lists in order, each once, at its last place: the compiler obeys the last one."""
    options: dict[tuple[str, ...], None] = {}
    for words in lists:
        rest = iter(words)
        for word in rest:
            option = (word, next(rest)) if word == INCLUDE else (word,)
            options.pop(option, None)
            options[option] = None
    return tuple(word for option in options for word in option)
