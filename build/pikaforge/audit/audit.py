"""The audit: prove that a tree runs on every CPU of its target, or list the violations.

First it reads facts (`elf.facts`, `isa.decode`), then it judges them against data (the modules `judge_…`).
`audit_compiled` judges the result of the compile stage; `audit_paths` judges any file, folder or package. Neither
prints. A verdict is never an exception; a file that cannot be read is one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

from pikaforge.audit import hwcaps, judge_flags, judge_instructions, judge_linkage
from pikaforge.audit.allowed_features import Allowed, from_gcc, from_macros, of_baseline
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.audit.elf.code import code_digest
from pikaforge.audit.elf.facts import ElfFacts, read_build_id, read_facts
from pikaforge.audit.elf.layout import EM_386, EM_X86_64, machine_name
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.inputs import ElfTree, open_inputs, open_package
from pikaforge.audit.isa.decode import CodeSource, scan
from pikaforge.audit.isa.dispatch.known import known as known_dispatcher
from pikaforge.audit.isa.dispatch.known import known_file
from pikaforge.audit.judge_allocator import AllocatorVerdict
from pikaforge.audit.judge_allocator import judge as judge_allocator
from pikaforge.audit.waivers import Ledger
from pikaforge.cpu import features
from pikaforge.errors import AuditError
from pikaforge.host import hashing

REVISION = 3
"""Part of the key of a stored verdict: raise it when the audit judges differently."""


def material(rules: Rules, *, target: str, flags_used: Sequence[str], today: date) -> dict[str, object]:
    """Return the key material beside the compile stage's result.

    It is the rules, the tables, the decoder, and for each waiver whether it has expired. So a stored verdict becomes
    invalid on the day after a waiver's last day, and on no other day.
    """
    plain = asdict(replace(rules, waivers=(), memory=None, distribution=None))
    return {
        "revision": REVISION,
        "decoder": version("iced-x86"),
        "tables": {name: hashing.file_digest(features.FOLDER / name) for name in features.TABLES},
        "baseline": rules.distribution.baseline if rules.distribution is not None else "",
        "target": target,
        "flags": list(flags_used),
        "memory": [rules.memory.kind, list(rules.memory.programs), rules.memory.unwinder] if rules.memory else [],
        "rules": {**plain, "linkage": {**plain["linkage"], "maxima": dict(rules.linkage.maxima)}},
        "waivers": [[w.model_dump(mode="json"), w.expired(today)] for w in rules.waivers],
    }


def _top(tree: ElfTree) -> str:
    """Return the innermost folder that holds all files of a tree; empty if it is the tree's top."""
    folders = [posixpath.dirname(name) for name in tree.elves]
    return posixpath.commonpath(folders) if tree.whole and folders and all(folders) else ""


@dataclass(slots=True)
class _TreeFacts:
    """The facts of a tree's files, and why other files are not judged."""

    judged: list[ElfFacts] = field(default_factory=list)
    unreadable: list[LineRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def audit_tree(
    tree: ElfTree,
    allowed: Allowed,
    rules: Rules,
    *,
    today: date,
    own: frozenset[str] = frozenset(),
    debug: Mapping[str, Path] | None = None,
    dropped: Sequence[tuple[int, str]] = (),
    workers: int | None = None,
) -> AuditResult:
    """Judge one tree.

    Args:
        tree: its ELF files on disk.
        allowed: the features that the target's code may use.
        rules: the other rules.
        today: decides which waivers are valid.
        own: files that were compiled for the target, by path in the tree.
        debug: separate debug information by path in the tree.
        dropped: the compiler wrapper's count of dropped flags.
        workers: number of processes; else as the amount of code and the CPUs suggest.

    Raises:
        AuditError: there is nothing to judge, or the file that was named cannot be read.
    """
    debug = debug or {}
    read = _read(tree, rules, debug)
    if not read.judged and not read.unreadable:
        raise AuditError(
            "there is no x86-64 program or library to judge", where=tree.title, hint="\n".join(read.notes[:5])
        )
    packaged = _packaged(tree, read, allowed, rules.distribution)
    levels = _levels(tree, read)
    sources = [_source(f, tree.elves[f.name], debug.get(f.name), packaged, rules) for f in read.judged]
    higher = {name: allowed.sure | of_baseline(level) for name, level in levels.items()}
    ledger = _ledger(tree, allowed, rules, today)
    return AuditResult(
        title=tree.title,
        target=allowed.target,
        files=tuple(read.judged),
        isa=judge_instructions.judge(
            scan([replace(s, allowed=higher.get(s.file, s.allowed)) for s in sources], allowed.sure, workers=workers),
            allowed,
            ledger,
            own=own,
            demand_waivers=rules.demand_waivers,
            distribution=packaged,
            # What was compiled here never dispatches; of a tree that its image explains, only the image's libraries do.
            foreign=not rules.demand_waivers and rules.distribution is None,
            levels=levels,
        ),
        linkage=judge_linkage.judge(read.judged, tree.links, rules.linkage),
        flags=judge_flags.judge(read.judged, own=own, march=rules.march, dropped=dropped),
        memory=judge_allocator(read.judged, rules.memory) if rules.memory is not None else AllocatorVerdict(),
        unreadable=tuple(read.unreadable),
        notes=tuple(read.notes),
        packaged=packaged,
    )


def _levels(tree: ElfTree, read: _TreeFacts) -> dict[str, str]:
    """Return the files that the loader takes only on CPUs of a level, with the level; add a note for each."""
    if tree.whole:
        found = hwcaps.levels(read.judged, tree.links)
    else:
        found = {name: level for name, path in tree.elves.items() if (level := hwcaps.level_of(str(path)))}
    read.notes += [
        f"{name}: judged for {level}: the loader takes it only on such CPUs" for name, level in found.items()
    ]
    return found


def _ledger(tree: ElfTree, allowed: Allowed, rules: Rules, today: date) -> Ledger:
    return Ledger(
        rules.waivers,
        today=today,
        image=rules.image,
        target=allowed.target,
        allocator=rules.allocator,
        has=allowed.sure,
        # The paths in waivers are those of a compiled tree; a package has that tree below one or two folders.
        below="" if rules.demand_waivers else _top(tree),
    )


def _packaged(
    tree: ElfTree, read: _TreeFacts, allowed: Allowed, distribution: Distribution | None
) -> dict[str, PackagedRecord]:
    """Return the files that are the distribution's own; add a note for each that is not accepted as such.

    None is accepted if the target lacks a feature of the distribution's baseline.
    """
    if distribution is None:
        return {}
    named = {fact.name for fact in read.judged}
    doubts = {name: why for name, why in distribution.strangers.items() if name in named}
    lacking = sorted(of_baseline(distribution.baseline) - allowed.sure)
    found = {}
    for name, library in distribution.libraries.items():
        if name not in named:
            continue
        if lacking:
            doubts[name] = f"its distribution is for {distribution.baseline}, and {allowed.target} lacks {lacking[0]}"
        elif not library.code or code_digest(tree.elves[name]) != library.code:
            doubts[name] = f"its code is not that of {library.package} {library.version}"
        else:
            found[name] = library
    read.notes += [f"{name}: not taken for the distribution's own: {why}" for name, why in sorted(doubts.items())]
    return found


def _source(
    fact: ElfFacts, path: Path, debug: Path | None, packaged: Mapping[str, PackagedRecord], rules: Rules
) -> CodeSource:
    """Return a file to decode; in a distribution's own library every feature beyond the baseline is a finding."""
    library = packaged.get(fact.name)
    if library is None or rules.distribution is None:
        others = not rules.demand_waivers and rules.distribution is None
        return CodeSource(
            file=fact.name, path=path, debug=debug, known=known_file(path, fact.soname) if others else None
        )
    return CodeSource(
        file=fact.name,
        path=path,
        debug=debug,
        allowed=of_baseline(rules.distribution.baseline),
        known=known_dispatcher(library.package, library.version, fact.soname),
    )


def _read(tree: ElfTree, rules: Rules, debug: Mapping[str, Path]) -> _TreeFacts:
    out = _TreeFacts()
    for name, path in tree.elves.items():
        try:
            fact = read_facts(path, name=name, debug=debug.get(name), forbidden=rules.forbidden)
        except AuditError as error:
            if not tree.whole:
                raise
            out.unreadable.append(LineRecord(where=name, what=error.message, do=error.hint))
            continue
        if fact.machine == EM_X86_64 and fact.bits == 64 and fact.kind in ("exec", "dyn") and fact.regions:
            out.judged.append(fact)
        elif fact.machine in (EM_386, EM_X86_64) and fact.bits == 32 and fact.kind in ("exec", "dyn"):
            what = f"is 32-bit code ({machine_name(fact.machine)}), which is not judged here"
            out.unreadable.append(
                LineRecord(where=name, what=what, do="leave it out: a 64-bit package does not need it")
            )
        else:
            out.notes.append(f"{name}: not judged: {_why_not(fact)}")
    return out


def _why_not(fact: ElfFacts) -> str:
    if fact.machine != EM_X86_64:
        return f"it is for {machine_name(fact.machine)}, so these CPUs never run it"
    if fact.kind == "rel":
        return "it is an object file; judge what it is linked into"
    return "it has no code" if fact.kind in ("exec", "dyn") else "it is neither a program nor a library"


def audit_compiled(
    tree_tar: Path,
    debug_tars: Sequence[Path],
    scratch: Path,
    *,
    label: str,
    target: str,
    flags_used: Sequence[str],
    macros: Sequence[str],
    bundled: Sequence[str],
    dropped: Sequence[tuple[int, str]],
    rules: Rules,
    today: date,
    workers: int | None = None,
) -> AuditResult:
    """Judge the result of the compile stage.

    Args:
        tree_tar: the product's tree.
        debug_tars: debug information of its files: `PATH.debug` for PATH in the tree, or found by build id.
        scratch: an empty folder for the ELF files of both; the caller removes it.
        label: of the node, for reports.
        target: archspec name of the target.
        flags_used: the target's compiler flags (`Cell.flags`).
        macros: the macros that the compiler predefines with these flags (fact `macros`).
        bundled: paths in the tree of libraries that were built elsewhere (fact `bundled`, `path`).
        dropped: how often the compiler wrapper dropped which flag (fact `dropped`).
        rules: the rules; `march` and `demand_waivers` are set here.
        today: decides which waivers are valid.
        workers: number of processes; else as the amount of code and the CPUs suggest.

    Raises:
        AuditError: an archive is bad, or the compiler's macros are missing.
    """
    if not macros:
        raise AuditError(
            "the compile stage left no compiler macros", where=label, hint="compile anew: facts/macros.txt is empty"
        )
    opened = open_package(tree_tar, scratch / "tree")
    tree = ElfTree(title=label, whole=True, elves=opened.elves, links=opened.links, others=opened.others)
    debug: dict[str, Path] = {}
    for number, archive in enumerate(debug_tars):
        debug |= _debug_of(tree, open_package(archive, scratch / f"debug{number}").elves)
    full = replace(rules, march=rules.march or judge_flags.march_of(flags_used), demand_waivers=True)
    return audit_tree(
        tree,
        from_macros(macros, target, source=f"the compiler's macros for {' '.join(flags_used)}"),
        full,
        today=today,
        own=frozenset(tree.elves) - frozenset(bundled),
        debug=debug,
        dropped=dropped,
        workers=workers,
    )


def _debug_of(tree: ElfTree, found: Mapping[str, Path]) -> dict[str, Path]:
    """Return files of debug information by the path in the tree of the file that they belong to.

    A library that is in the tree under another name is found by its build id.
    """
    named = {name.removesuffix(".debug"): path for name, path in found.items()}
    debug = {name: path for name, path in named.items() if name in tree.elves}
    others = {read_build_id(path): path for name, path in named.items() if name not in debug}
    for name, path in tree.elves.items():
        if name not in debug and others and (build_id := read_build_id(path)) in others and build_id:
            debug[name] = others[build_id]
    return debug


def audit_paths(
    paths: Sequence[Path],
    scratch: Path,
    *,
    target: str,
    rules: Rules | None = None,
    today: date,
    allowed: Allowed | None = None,
    distributions: Mapping[str, Distribution] | None = None,
    workers: int | None = None,
) -> list[AuditResult]:
    """Judge files, folders and packages of any origin, with one result for each.

    No file counts as compiled here: TZCNT is a warning, flags are noted, libraries may come from the host, and waivers
    need not be used.

    Args:
        paths: the files, folders and packages.
        scratch: an empty folder for the content of packages; the caller removes it.
        target: archspec name of the target.
        rules: waivers and forbidden folders; else there are none.
        today: decides which waivers are valid.
        allowed: the features that the target's code may use; else this machine's gcc is asked, or archspec without it.
        distributions: what is known of the distribution's own libraries, by path as in `paths`.
        workers: number of processes; else as the amount of code and the CPUs suggest.

    Raises:
        AuditError: a path cannot be read, or there is nothing to judge in it.
    """
    allowed = allowed or from_gcc(target)
    known = distributions or {}
    return [
        audit_tree(
            tree,
            allowed,
            replace(rules or Rules(), distribution=known.get(tree.title)),
            today=today,
            workers=workers,
        )
        for tree in open_inputs(paths, scratch)
    ]
