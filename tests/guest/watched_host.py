"""An operated server whose memory, state, snapshots and logs are known, as those of a product's entry are."""

from __future__ import annotations

import os
from pathlib import Path

from guest.operated_host import OperatedHost, operated_host

from pikaforge.config import load
from pikaforge.config.operate import Operate
from pikaforge.operate import tables

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = {"main": ROOT / "matrix.yaml", "redis": ROOT / "tests/products/redis/matrix.yaml"}
APPLETS = (
    *("awk", "cmp", "cp", "cut", "date", "df", "du", "find", "grep", "head", "mkdir"),
    *("mv", "readlink", "rm", "sed", "sort", "stat", "tail", "tr", "wc"),
)
LIBRARIES = ("info", "memory", "json", "logs", "snapshot")


def operate_of(entry: str) -> Operate:
    """The section of a product's entry."""
    server = load.load(ENTRIES[entry]).product.server
    assert server is not None
    assert server.operate is not None
    return server.operate


def watched_host(top: Path, shell: tuple[str, ...], entry: str = "main") -> OperatedHost:
    """A machine with the demo's scripts, and the tables of a product's entry."""
    host = operated_host(top, shell)
    for name, content in tables.of_parts(operate_of(entry)).items():
        path = top / "opt/demo" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    if "busybox" in shell:
        # Its tools, too, as on a system that has no others.
        for name in APPLETS:
            path = top / "bin" / name
            path.write_text(f'#!/bin/sh\nexec busybox {name} "$@"\n')
            path.chmod(0o755)
    gate = top / "opt/demo/utils/cpu-gate.sh"
    gate.write_text("#!/bin/sh\nexit 0\n")
    return host


def lines(host: OperatedHost, code: str) -> str:
    """Run lines of shell after all libraries; what they print. They must succeed."""
    done = attempt(host, code)
    assert (done[0], done[2]) == (0, "")
    return done[1]


def attempt(host: OperatedHost, code: str) -> tuple[int, str, str]:
    """Run lines of shell after all libraries: exit status, output, errors."""
    sources = "".join(f'. "$utils/lib/{name}.sh"\n' for name in LIBRARIES)
    done = host.lib(sources + code)
    return done.returncode, done.stdout, done.stderr


def runs_as(host: OperatedHost, port: int, pid: int = 0) -> None:
    """Let a process stand for an instance's server: this one unless another is given."""
    pid = pid or os.getpid()
    began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    (host.top / f"run/demo-{port}.pid").write_text(f"{pid} {began} {pid}\n")
