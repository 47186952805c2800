"""What the base system of an image promises to programs: the symbol versions of its C and C++ libraries.

Measured in the runtime image and not looked up in a table of distributions, so it holds for every image entry.
"""

from __future__ import annotations

from pathlib import Path

from pikaforge.audit import judge_linkage
from pikaforge.audit.elf.facts import read_facts
from pikaforge.host.job import Job
from pikaforge.host.workspace import Workspace, run_job

SCRIPT = "abi.sh"
LIBRARIES = ("libc.so.6", "libstdc++.so.6", "libgcc_s.so.1")
"""What defines the namespaces GLIBC, GLIBCXX with CXXABI, and GCC."""


def measure(workspace: Workspace, image: str, *, stage: str, label: str, log: Path) -> dict[str, str]:
    """By namespace of symbol versions the highest that a system has: `{"GLIBC": "2.36", …}`.

    A library that is not there promises nothing; its namespaces are missing, and are not judged.

    Args:
        workspace: where it is run.
        image: the runtime image; nothing with the host engine.
        stage: of the node, for errors.
        label: of the node.
        log: of the node.

    Raises:
        StageError: the libraries cannot be fetched.
        AuditError: one of them is no ELF file.
    """
    with workspace.store.scratch() as scratch:
        job = Job(
            label=f"{stage}-{label}",
            image=image,
            argv=("sh", f"guest/{SCRIPT}", *LIBRARIES),
            env={},
            inputs=(workspace.guest(SCRIPT),),
            outputs=tuple(f"out/{name}" for name in LIBRARIES),
            log=log,
        )
        done = run_job(workspace, job, scratch, stage=stage, label=label, failed="the base libraries cannot be read")
        held = [path for path in done.outputs.values() if path.stat().st_size]
        names = [version for path in held for version in read_facts(path).version_definitions]
        return judge_linkage.highest(names)
