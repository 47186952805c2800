"""The ABI of an image's base system: the symbol versions of its C and C++ libraries.

It is measured in the runtime image, and not taken from a table of distributions. So it is right for every image entry.
"""

from __future__ import annotations

from pathlib import Path

from pikaforge.audit import judge_linkage
from pikaforge.host.job import Job
from pikaforge.host.workspace import Workspace, run_job

SCRIPT = "abi.sh"
LIBRARIES = ("libc.so.6", "libstdc++.so.6", "libgcc_s.so.1")
"""They define the namespaces GLIBC, GLIBCXX with CXXABI, and GCC."""


def measure(workspace: Workspace, image: str, *, stage: str, label: str, log: Path) -> dict[str, str]:
    """Return the highest symbol version of each namespace that a system has: `{"GLIBC": "2.36", …}`.

    The namespaces of a library that is missing are not in it, and are not judged.

    Args:
        workspace: where it is run.
        image: the runtime image; "" with the host engine.
        stage: the stage of the node, for errors.
        label: the label of the node.
        log: the log of the node.

    Raises:
        StageError: the libraries cannot be fetched.
        AuditError: one of them is no ELF file.
    """
    from pikaforge.audit.elf.facts import read_facts  # noqa: PLC0415  # keys need none of it

    with workspace.store.scratch() as scratch:
        job = Job(
            label=f"{stage}-{label}".replace("+", "-"),
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
