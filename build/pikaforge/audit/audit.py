"""The audit: prove that a tree runs on every CPU of its target, or list the violations.

First it reads facts (`elf.facts`, `isa.decode`), then it judges them against data (the modules `judge_…`).
`audit_compiled` judges the result of the compile stage; `audit_paths` judges any file, folder or package. Neither
prints. A verdict is never an exception; a file that cannot be read is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from pikaforge.audit import hwcaps, judge_flags, judge_instructions, judge_linkage
from pikaforge.audit.allowed_features import Allowed, from_gcc, from_macros, of_baseline
from pikaforge.audit.audit_result import AuditResult, Rules, TreeOrigin
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.audit.elf.code import code_digest
from pikaforge.audit.elf.facts import ElfFacts, read_build_id
from pikaforge.audit.identities import identities, symbol_files
from pikaforge.audit.inputs import ElfTree, open_inputs, open_package
from pikaforge.audit.isa import tzcnt
from pikaforge.audit.isa.decode import CodeSource, FileScan, scan
from pikaforge.audit.isa.dispatch.known import known as known_dispatcher
from pikaforge.audit.isa.dispatch.known import known_file
from pikaforge.audit.isa.tzcnt import TzcntUse
from pikaforge.audit.judge_allocator import AllocatorVerdict
from pikaforge.audit.judge_allocator import judge as judge_allocator
from pikaforge.audit.tree_facts import TreeFacts, read_tree
from pikaforge.audit.waivers import Ledger
from pikaforge.cpu import microarch
from pikaforge.errors import AuditError


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
    read = read_tree(tree, rules.forbidden, debug)
    packaged = _packaged(tree, read, allowed, rules.distribution)
    levels = _levels(tree, read)
    found = [_source(f, tree.elves[f.name], debug.get(f.name), packaged, rules) for f in read.judged]
    sources = [_at_level(source, allowed, levels) for source in found]
    ledger = _ledger(tree, read, allowed, rules, today)
    scans = scan(sources, allowed.sure, workers=workers, amd=microarch.runs_on_amd(allowed.target))
    return AuditResult(
        title=tree.title,
        target=allowed.target,
        files=tuple(read.judged),
        isa=judge_instructions.judge(
            scans,
            allowed,
            ledger,
            own=own,
            demand_waivers=rules.demand_waivers,
            distribution=packaged,
            uses=_tzcnt_uses(tree, scans, own),
            foreign=_foreign(rules),
            levels=levels,
        ),
        linkage=judge_linkage.judge(read.judged, tree.links, rules.linkage),
        flags=judge_flags.judge(read.judged, own=own, march=rules.march, dropped=dropped),
        memory=judge_allocator(read.judged, rules.memory) if rules.memory is not None else AllocatorVerdict(),
        unreadable=tuple(read.unreadable),
        notes=tuple(read.notes),
        packaged=packaged,
        scans=tuple(scans),
        not_judged=tuple(read.not_judged),
        strict=rules.strict,
        places=tree.elves,
    )


def _levels(tree: ElfTree, read: TreeFacts) -> dict[str, str]:
    """Return the files that the loader takes only on CPUs of a level, with the level; add a note for each."""
    if tree.whole:
        found = hwcaps.levels(read.judged, tree.links)
    else:
        libraries = [f.name for f in read.judged if f.kind == "dyn"]
        found = {name: level for name in libraries if (level := hwcaps.level_of(str(tree.elves[name])))}
    read.notes += [
        f"{name}: judged for {level}: the loader takes it only on such CPUs" for name, level in found.items()
    ]
    return found


def _at_level(source: CodeSource, allowed: Allowed, levels: Mapping[str, str]) -> CodeSource:
    """Return a file to decode; with the features of its level, if it is taken only on such CPUs."""
    level = levels.get(source.file)
    return source if level is None else replace(source, allowed=allowed.sure | of_baseline(level))


def _foreign(rules: Rules) -> bool:
    """Return whether evidence counts in all files of a tree.

    What was compiled here never dispatches; of a tree that its image explains, only the image's libraries do.
    """
    return not rules.demand_waivers and rules.distribution is None


def _tzcnt_uses(tree: ElfTree, scans: Iterable[FileScan], own: frozenset[str]) -> dict[tuple[str, str], TzcntUse]:
    """Return what functions use TZCNT for, in files that were not compiled for the target."""
    uses: dict[tuple[str, str], TzcntUse] = {}
    for file in scans:
        hits = [hit for hit in file.hits if hit.feature == judge_instructions.TZCNT and not hit.suspect]
        if hits and file.file not in own:
            found = tzcnt.look(tree.elves[file.file], file.file, [piece for hit in hits for piece in hit.pieces])
            uses |= {(hit.file, hit.function): tzcnt.worst(found[piece] for piece in hit.pieces) for hit in hits}
    return uses


def _ledger(tree: ElfTree, read: TreeFacts, allowed: Allowed, rules: Rules, today: date) -> Ledger:
    return Ledger(
        rules.waivers,
        today=today,
        image=rules.image,
        target=allowed.target,
        allocator=rules.allocator,
        has=allowed.sure,
        # The paths in waivers are those of a compiled tree; a package has that tree below one or two folders.
        files=identities(tree, read.judged, "" if rules.demand_waivers else rules.top),
    )


def _packaged(
    tree: ElfTree, read: TreeFacts, allowed: Allowed, distribution: Distribution | None
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
        known = known_file(path, fact.soname) if _foreign(rules) else None
        return CodeSource(file=fact.name, path=path, debug=debug, known=known)
    return CodeSource(
        file=fact.name,
        path=path,
        debug=debug,
        allowed=of_baseline(rules.distribution.baseline),
        known=known_dispatcher(library.package, library.version, fact.soname),
    )


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
    tree = replace(opened, title=label)
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
    origins: Mapping[str, TreeOrigin] | None = None,
    workers: int | None = None,
) -> list[AuditResult]:
    """Judge files, folders and packages of any origin, with one result for each.

    No file counts as compiled here: TZCNT may stand for BSF, flags and linkage are noted, libraries may come from the
    host, and waivers need not be used.

    Args:
        paths: the files, folders and packages.
        scratch: an empty folder for the content of packages; the caller removes it.
        target: archspec name of the target.
        rules: waivers and forbidden folders; else there are none.
        today: decides which waivers are valid.
        allowed: the features that the target's code may use; else this machine's gcc is asked, or archspec without it.
        origins: what is known of where trees come from, by path as in `paths`.
        workers: number of processes; else as the amount of code and the CPUs suggest.

    Raises:
        AuditError: a path cannot be read, or there is nothing to judge in it.
    """
    allowed = allowed or from_gcc(target)
    rules = rules or Rules()
    return [
        audit_foreign(
            tree,
            allowed,
            replace(rules, linkage=replace(rules.linkage, ours=False)),
            (origins or {}).get(tree.title, TreeOrigin()),
            scratch / f"symbols{number}",
            today=today,
            workers=workers,
        )
        for number, tree in enumerate(open_inputs(paths, scratch))
    ]


def audit_foreign(
    tree: ElfTree,
    allowed: Allowed,
    rules: Rules,
    origin: TreeOrigin,
    scratch: Path,
    *,
    today: date,
    workers: int | None = None,
) -> AuditResult:
    """Judge a tree by what is known of where it comes from.

    Args:
        tree: its ELF files on disk.
        allowed: the features that the target's code may use.
        rules: the other rules; what the origin says is set here.
        origin: image, allocator, and names of what was stripped.
        scratch: a folder for files of symbols, which is made if there are any.
        today: decides which waivers are valid.
        workers: number of processes; else as the amount of code and the CPUs suggest.

    Raises:
        AuditError: there is nothing to judge, or the file that was named cannot be read.
    """
    named = {entry.file for entry in origin.named} & tree.elves.keys()
    build_ids = {name: _build_id(tree.elves[name]) for name in named}
    return audit_tree(
        tree,
        allowed,
        replace(
            rules,
            distribution=origin.distribution,
            image=origin.image or rules.image,
            allocator=origin.allocator or rules.allocator,
            top=origin.top,
        ),
        today=today,
        debug=symbol_files(tree, origin.named, build_ids, scratch),
        workers=workers,
    )


def _build_id(path: Path) -> str:
    """Return the build id of a file; empty if it has none, or cannot be read, which the audit says of it later."""
    try:
        return read_build_id(path)
    except AuditError:
        return ""
