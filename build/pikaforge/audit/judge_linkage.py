"""Judge how a tree's files are linked: what they need, where the loader looks for it, and how they are hardened."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pikaforge.audit.finding import LineRecord

if TYPE_CHECKING:
    from pikaforge.audit.elf.facts import ElfFacts

_VERSION = re.compile(r"^([A-Z][A-Z0-9_]*?)_(\d{1,9}(?:\.\d{1,9})*)$")
"""Namespace and number of a symbol version. It is no version of PEP 440: 3.4 and 3.4.0 differ."""
_ORIGIN = re.compile(r"^(\$ORIGIN|\$\{ORIGIN\})(?=/|$)")
ABI_TAGS = {"GLIBC_ABI_DT_RELR": ("GLIBC", "2.36")}
"""Version names that stand for a release (glibc NEWS 2.36: DT_RELR)."""
LINK_LIMIT = 40
"""Symbolic links on one path, as in Linux (path_resolution(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkageRules:
    """The rules for the linkage of a tree."""

    base_libraries: tuple[str, ...] = ()
    """Globs of the sonames that every host with the image's OS has."""
    maxima: Mapping[str, str] = field(default_factory=dict)
    """The highest symbol version that the image has, by namespace (GLIBC, GLIBCXX, CXXABI, GCC)."""
    closed: bool = True
    """Whether all other libraries must be in the tree; else they may come from the host."""
    ours: bool = True
    """Whether the tree was built here; else there are only notes, because none of it matters to the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """Protections of one file; they are reported and not judged."""

    file: str
    pie: str
    """`pie`, `fixed` for a program at a fixed address, `library`."""
    relro: str
    canary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkageVerdict:
    """The verdict on the linkage of a tree."""

    violations: tuple[LineRecord, ...]
    notes: tuple[str, ...]
    highest: Mapping[str, str]
    """The highest symbol version that the tree needs of the host's libraries, by namespace."""
    system: tuple[str, ...]
    """Sonames of the libraries that the tree takes from the host."""
    hardening: tuple[Hardening, ...]


@dataclass(slots=True)
class _Judge:
    files: Mapping[str, ElfFacts]
    links: Mapping[str, str]
    rules: LinkageRules
    violations: list[LineRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    highest: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The highest version and the file that needs it, by namespace."""
    system: dict[str, None] = field(default_factory=dict)
    found: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """The tree's file that the loader finds, by file and soname that it needs; None if it finds none."""

    def fail(self, where: str, what: str, do: str, *, always: bool = False) -> None:
        if not (self.rules.ours or always):
            self.notes += [note] if (note := f"{where}: {what}") not in self.notes else []
            return
        line = LineRecord(where=where, what=what, do=do)
        if line not in self.violations:
            self.violations.append(line)


def judge(facts: Sequence[ElfFacts], links: Mapping[str, str], rules: LinkageRules) -> LinkageVerdict:
    """Judge the linkage of a tree.

    Args:
        facts: its x86-64 files, named by their paths in the tree.
        links: symbolic links of the tree by path, with the path in the tree that each points to.
        rules: the rules.
    """
    facts = [fact for fact in facts if fact.kind != "rel"]  # no loader reads an object file
    work = _Judge(files={f.name: f for f in facts}, links=links, rules=rules)
    for fact in facts:
        _run_paths(work, fact)
        _memory(work, fact)
        _paths(work, fact)
    _closure(work)
    for fact in facts:
        _versions(work, fact)
    for namespace, (version, file) in sorted(work.highest.items()):
        limit = rules.maxima.get(namespace)
        if limit is not None and _number(version) > _number(limit):
            work.fail(
                file,
                f"needs {namespace}_{version}, the image has at most {namespace}_{limit}",
                "build it in that image, or bring the library along",
            )
    return LinkageVerdict(
        violations=tuple(work.violations),
        notes=tuple(work.notes),
        highest={namespace: version for namespace, (version, _) in sorted(work.highest.items())},
        system=tuple(sorted(work.system)),
        hardening=tuple(_hardening(f) for f in facts),
    )


def highest(names: Iterable[str]) -> dict[str, str]:
    """Return the highest of some symbol versions, such as GLIBC_2.34, by namespace."""
    found: dict[str, str] = {}
    for name in names:
        match = _VERSION.match(name)
        namespace, number = ABI_TAGS.get(name) or (match.groups() if match else ("", ""))
        if number and _number(number) > _number(found.get(namespace, "0")):
            found[namespace] = number
    return found


def library_versions(files: Iterable[ElfFacts], system: Iterable[str]) -> dict[str, list[str]]:
    """Return the symbol versions that a tree needs of each library of the base system, sorted.

    Args:
        files: the tree's programs and libraries.
        system: sonames of the libraries that the tree takes from the host (`LinkageVerdict.system`).
    """
    versions: dict[str, set[str]] = {soname: set() for soname in system}
    for fact in files:
        for library, wanted in fact.version_needs:
            if library in versions:
                versions[library].update(wanted)
    return {soname: sorted(names) for soname, names in sorted(versions.items())}


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _hardening(fact: ElfFacts) -> Hardening:
    pie = "pie" if fact.pie else "fixed" if fact.kind == "exec" else "library"
    return Hardening(file=fact.name, pie=pie, relro=fact.relro, canary=fact.canary)


def _run_paths(work: _Judge, fact: ElfFacts) -> None:
    for kind, entries in (("RPATH", fact.rpath), ("RUNPATH", fact.runpath)):
        for entry in entries:
            match = _ORIGIN.match(entry)
            if match is None:
                shown = entry or "an empty entry, which means the current folder"
                work.fail(
                    fact.name, f"its {kind} has {shown}", "set one that begins with $ORIGIN (patchelf --set-rpath)"
                )
            elif work.rules.closed and _beside(fact.name, entry[match.end() :]) is None:
                work.fail(fact.name, f"its {kind} {entry} leaves the tree", "keep its libraries in the tree")


def _beside(file: str, rest: str) -> str | None:
    """Return the folder in the tree that `$ORIGIN` + `rest` means for a file; None if it is outside of the tree."""
    folder = posixpath.normpath(posixpath.join(posixpath.dirname(file) or ".", rest.lstrip("/") or "."))
    return None if folder == ".." or folder.startswith("../") else folder


def _memory(work: _Judge, fact: ElfFacts) -> None:
    if fact.executable_stack:
        why = "asks for an executable stack" if fact.stack_header else "has no PT_GNU_STACK: its stack is executable"
        work.fail(fact.name, why, "give its assembly files a .note.GNU-stack section, or link with -z noexecstack")
    for part in fact.writable_code:
        work.fail(
            fact.name, f"{part} is writable and executable", "do not mix code and data: look at the linker script"
        )
    if fact.text_relocations:
        work.notes.append(f"{fact.name}: text relocations make its code writable at start; compile it with -fPIC")


def _paths(work: _Judge, fact: ElfFacts) -> None:
    paths = fact.build_paths
    if paths.count:
        more = f" and {paths.count - len(paths.examples)} more" if paths.count > len(paths.examples) else ""
        work.fail(
            fact.name,
            f"holds paths of the build: {', '.join(paths.examples)}{more}",
            "map them (-ffile-prefix-map), or do not compile them in",
            always=True,  # nobody looks for such paths but those who forbid them
        )


# --- the loader, as ld.so(8) describes it -----------------------------------------------------------------------


def _is_base(work: _Judge, soname: str) -> bool:
    return any(fnmatch.fnmatchcase(soname, glob) for glob in work.rules.base_libraries)


def _real(work: _Judge, path: str) -> str | None:
    """Return the ELF file of the tree that a path leads to, through links of files and folders; None without one."""
    for _ in range(LINK_LIMIT):
        if path in work.files:
            return path
        parts = path.split("/")
        for depth in range(len(parts), 0, -1):
            target = work.links.get("/".join(parts[:depth]))
            if target is not None:
                path = posixpath.normpath("/".join([target, *parts[depth:]]))
                break
        else:
            return None
    return None


def _closure(work: _Judge) -> None:
    """Load each program, then each library that no program loads: a program may open it at run time."""
    reached: set[str] = set()
    programs = [n for n, f in work.files.items() if f.program]
    for name in [*programs, *(n for n in work.files if n not in programs)]:
        if name in programs or name not in reached:
            reached |= _load(work, name)


def _load(work: _Judge, root: str) -> set[str]:
    """Load one file with all libraries that it needs, breadth first; return all loaded files."""
    loaded: dict[str, str] = {}  # by soname: a library that is loaded serves every later need of it
    queue: list[tuple[str, tuple[str, ...]]] = [(root, ())]  # with the files that led to it
    seen = {root}
    for name, parents in queue:
        fact = work.files[name]
        interpreter = fact.interpreter.rpartition("/")[2]
        if interpreter and not _is_base(work, interpreter) and work.rules.base_libraries:
            work.fail(name, f"its loader is {fact.interpreter}", "link it with the loader of the base system")
        for soname in fact.needed:
            if soname in loaded:
                work.found.setdefault((name, soname), loaded[soname])
                continue
            target = None if "/" in soname else _search(work, soname, name, parents)
            if target is None:
                _outside(work, name, soname)
                continue
            work.found[name, soname] = target
            loaded[soname] = target
            loaded.setdefault(work.files[target].soname or soname, target)
            if target not in seen:
                seen.add(target)
                queue.append((target, (*parents, name)))
    return seen


def _search(work: _Judge, soname: str, name: str, parents: tuple[str, ...]) -> str | None:
    fact = work.files[name]
    # DT_RUNPATH is for the needs of its own file only. DT_RPATH is also for those of the libraries that the file loads,
    # if they have no DT_RUNPATH themselves.
    holders = [name] if fact.runpath else [n for n in (name, *reversed(parents)) if not work.files[n].runpath]
    for holder in holders:
        for entry in work.files[holder].run_path:
            match = _ORIGIN.match(entry)
            folder = _beside(holder, entry[match.end() :]) if match else None
            if folder is not None:
                target = _real(work, posixpath.normpath(posixpath.join(folder, soname)))
                if target is not None:
                    return target
    return None


def _outside(work: _Judge, name: str, soname: str) -> None:
    """Judge a need for which the tree has no file."""
    work.found.setdefault((name, soname), None)
    if "/" in soname:
        work.fail(name, f"needs {soname} by its path", "link it with -l, or give the library a soname")
    elif _is_base(work, soname) or not work.rules.closed:
        work.system[soname] = None
    else:
        work.fail(
            name,
            f"needs {soname}, which is neither on its run path in the tree nor promised by the base system",
            "put it into lib/ with a run path of $ORIGIN/../lib, or add it to defaults.base_libraries",
        )


# --- symbol versions --------------------------------------------------------------------------------------------


def _versions(work: _Judge, fact: ElfFacts) -> None:
    for library, versions in fact.version_needs:
        server = work.found.get((fact.name, library))
        if server is not None:
            absent = [v for v in versions if v not in work.files[server].version_definitions]
            if absent:
                work.fail(
                    fact.name,
                    f"needs {', '.join(absent)} of {library}, which {server} does not have",
                    "bring the library along that it was linked with",
                )
            continue
        if "GLIBC_PRIVATE" in versions:
            work.notes.append(
                f"{fact.name}: needs GLIBC_PRIVATE of {library}: it runs only with the very glibc it is from"
            )
        for namespace, number in highest(versions).items():
            if _number(number) > _number(work.highest.get(namespace, ("0", ""))[0]):
                work.highest[namespace] = (number, fact.name)
