"""Compare the speed of the audit's decoder with `objdump -d FILE | awk`, in one run on the same cores.

    python benchmarks/audit.py [FILE…] [--rounds N] [--cores N] [--target NAME]

Without FILE it takes the file with the most code of a few large ones (libLLVM, cc1plus, gdb). Both read every
executable section of all files. awk counts lines with a ymm register, which is the least that a check by text has to
do; the audit also names functions and judges each feature. The two alternate, and the best time of each counts. The
exit status is 1 if the audit is not five times as fast, or if a process takes more than 150 MB. Less than 25 MB of code
is not judged.
"""

# ruff: noqa: PTH207  # a script: it prints, it runs objdump, and its patterns are absolute
from __future__ import annotations

import argparse
import glob
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build"))

from pikaforge.audit.allowed_features import from_gcc
from pikaforge.audit.isa.decode import CodeSource, code_regions, scan

CANDIDATES = (
    "/usr/lib/x86_64-linux-gnu/libLLVM*.so*",
    "/usr/lib64/libLLVM*.so*",
    "/usr/lib/gcc/x86_64-linux-gnu/*/cc1plus",
    "/usr/libexec/gcc/x86_64*/*/cc1plus",
    "/usr/bin/gdb",
)
GOAL = 5.0
MEMORY = 150
"""MB that one process may take."""
LARGE = 25_000_000
"""Bytes of code from which on the ratio is judged: with less, the start of processes takes too much of the time."""


def largest() -> Path:
    """Return the file with the most code among the candidates."""
    paths = {Path(p).resolve() for pattern in CANDIDATES for p in glob.glob(pattern)}
    if not paths:
        sys.exit("no large program found: name one")
    return max(paths, key=size_of)


def size_of(path: Path) -> int:
    """Return the bytes of executable code in a file."""
    return sum(region.size for region in code_regions(path, str(path)))


def by_text(paths: list[Path]) -> tuple[float, int]:
    """Run `objdump -d | awk`; return its seconds and the lines that it counted."""
    start = time.perf_counter()
    disassembly = subprocess.Popen(["objdump", "-d", *map(str, paths)], stdout=subprocess.PIPE)
    done = subprocess.run(
        ["awk", "/%ymm/ {n++} END {print n + 0}"], stdin=disassembly.stdout, capture_output=True, check=True
    )
    if disassembly.wait() != 0:
        sys.exit("objdump failed")
    return time.perf_counter() - start, int(done.stdout)


def by_audit(paths: list[Path], target: str) -> tuple[float, str]:
    """Run the audit's decoder; return its seconds, with the start of its processes, and its result."""
    allowed = from_gcc(target).sure
    start = time.perf_counter()
    found = scan([CodeSource(file=path.name, path=path) for path in paths], allowed)
    seconds = time.perf_counter() - start
    data = sum(size for one in found for _, size in one.data)
    return seconds, (
        f"{sum(one.pieces for one in found)} pieces, {sum(len(one.hits) for one in found)} findings; bytes decoded "
        f"{sum(one.decoded for one in found)}, data {data}, unclassified {sum(one.unclassified for one in found)}"
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--target", default="sandybridge", help="what code may use is that of this microarchitecture")
    given = parser.parse_args()
    if shutil.which("objdump") is None:
        sys.exit("objdump is missing: install binutils")
    cores = sorted(os.sched_getaffinity(0))[: given.cores]
    os.sched_setaffinity(0, cores)
    paths = [path.resolve() for path in given.file or [largest()]]
    size = sum(map(size_of, paths))
    print(f"{', '.join(map(str, paths))}: {size / 1e6:.1f} MB of code, {len(cores)} cores, best of {given.rounds}")
    texts, audits = [], []
    for number in range(given.rounds):
        texts.append(by_text(paths))
        audits.append(by_audit(paths, given.target))
        print(f"  round {number + 1}: objdump | awk {texts[-1][0]:6.2f} s   audit {audits[-1][0]:6.2f} s")
    text, audit = min(texts), min(audits)
    own, children = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"objdump | awk: {text[0]:.2f} s, {text[1]} lines with ymm")
    print(f"audit:         {audit[0]:.2f} s, {audit[1]}; peak {own:.0f} MiB here, {children:.0f} MiB in any one child")
    peak = max(own, children) * 1.048576
    ratio = text[0] / audit[0]
    print(f"ratio:         {ratio:.1f} (goal {GOAL:.0f})")
    if size < LARGE:
        print(f"note: less than {LARGE / 1e6:.0f} MB of code: not judged")
        return 0
    return 0 if ratio >= GOAL and peak < MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
