"""Read the facts of all files of a tree, and why some of them are not judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.audit.elf.facts import ElfFacts, read_facts
from pikaforge.audit.elf.layout import EM_386, EM_X86_64, machine_name
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.inputs import ElfTree
from pikaforge.errors import AuditError

_LATER = "it is an object file for optimisation by the linker: it has what becomes code when it is linked"


@dataclass(slots=True)
class TreeFacts:
    """The facts of a tree's files, and why other files are not judged."""

    judged: list[ElfFacts] = field(default_factory=list)
    unreadable: list[LineRecord] = field(default_factory=list)
    not_judged: list[LineRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_tree(tree: ElfTree, forbidden: Sequence[str], debug: Mapping[str, Path]) -> TreeFacts:
    """Read the files of a tree.

    Args:
        tree: its ELF files on disk.
        forbidden: folders of the build, below which a file may hold no path.
        debug: separate debug information by path in the tree.

    Raises:
        AuditError: there is nothing to judge, or the file that was named cannot be read; in a folder or package that is
            a violation.
    """
    out = TreeFacts()
    for name, path in tree.elves.items():
        try:
            fact = read_facts(path, name=name, debug=debug.get(name), forbidden=forbidden)
        except AuditError as error:
            if not tree.whole:
                raise
            out.unreadable.append(LineRecord(where=name, what=error.message, do=error.hint))
            continue
        if fact.machine == EM_X86_64 and fact.bits == 64 and _has_code(fact):
            out.judged.append(fact)
            if fact.later:
                out.not_judged.append(LineRecord(where=name, what=f"{_LATER}; its own code is judged"))
        elif fact.machine in (EM_386, EM_X86_64) and fact.bits == 32 and fact.kind in ("exec", "dyn"):
            what = f"is 32-bit code ({machine_name(fact.machine)}), which is not judged here"
            out.unreadable.append(
                LineRecord(where=name, what=what, do="leave it out: a 64-bit package does not need it")
            )
        else:
            out.not_judged.append(LineRecord(where=name, what=_why_not(fact)))
    out.not_judged += [LineRecord(where=item.where, what=item.why) for item in tree.not_judged]
    if not out.judged and not out.unreadable:
        why = [f"{line.where}: not judged: {line.what}" for line in out.not_judged[:5]]
        raise AuditError("there is no x86-64 program or library to judge", where=tree.title, hint="\n".join(why))
    return out


def _has_code(fact: ElfFacts) -> bool:
    """Return whether there is something to judge. Of an object file without code there is nothing more to know."""
    return fact.kind in ("exec", "dyn", "rel") and bool(fact.regions or (fact.kind == "rel" and not fact.later))


def _why_not(fact: ElfFacts) -> str:
    if fact.machine not in (EM_386, EM_X86_64):
        return f"it is for {machine_name(fact.machine)}, so these CPUs never run it"
    if fact.kind == "rel" and fact.bits == 32:
        return "it is an object file of 32-bit code, which is not judged here"
    if fact.kind == "rel":
        return f"{_LATER}, and no code"
    return "it has no code" if fact.kind in ("exec", "dyn") else "it is neither a program nor a library"
