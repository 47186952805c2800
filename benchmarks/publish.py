"""Compare the time of an incremental publication with bare `createrepo_c --update` on the same packages.

    python benchmarks/publish.py [--sizes 500,1000,2000] [--add 20] [--rounds 5]

Some packages are added to a repository of N packages. Bare createrepo_c makes new metadata of a folder. Publishing
copies the packages, makes metadata with createrepo_c's library, checksums, a new generation with all files, the
catalogue and the index page, and reads back what it has written. Both are repeated in turn on fresh copies, and the
medians are compared. The ratios are the result: times depend on the machine. Nothing is signed, because GnuPG takes the
same time for any number of packages; if PIKAFORGE_SIGNING_KEY names a key, that time is printed by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build"), str(HERE / "tests")]

from publishing import Root, in_folder, spec  # noqa: E402

from pikaforge.attest import signing  # noqa: E402
from pikaforge.formats.rpm import yum  # noqa: E402
from pikaforge.publish.diff import Item  # noqa: E402

PAYLOAD = 100_000
"""Bytes of a package without its header."""
CREATEREPO = str(Path(sys.executable).with_name("createrepo_c"))
OPTIONS = ("--update", "--no-database", "--general-compress-type", "gz", "--quiet")


def items(root: Root, names: Sequence[int]) -> list[Item]:
    """Return packages of about the size of a small server's debuginfo package."""
    chance = random.Random(1)  # noqa: S311
    return [root.shelf.item("1.0", name=f"demo{number}", content=chance.randbytes(PAYLOAD)) for number in names]


def bare(folder: Path, new: Sequence[Path]) -> float:
    """Add packages to a folder; return the seconds of createrepo_c."""
    for path in new:
        shutil.copy2(path, folder)
    began = time.perf_counter()
    subprocess.run([CREATEREPO, *OPTIONS, str(folder)], check=True, capture_output=True)
    return time.perf_counter() - began


def measure(size: int, add: int, rounds: int, top: Path) -> tuple[float, float, float]:
    """Return medians in seconds: createrepo_c, publishing, and publishing one more package with a signature."""
    root = in_folder(top)
    old, new = items(root, range(size)), items(root, range(size, size + add))
    root.publish(*old)
    plain = top / "plain"
    plain.mkdir()
    for item in old:
        shutil.copy2(root.shelf.sources[item.place, item.artifact.path], plain)
    subprocess.run([CREATEREPO, *OPTIONS, str(plain)], check=True, capture_output=True)
    added = [root.shelf.sources[item.place, item.artifact.path] for item in new]
    times: list[tuple[float, float, float]] = []
    for number in range(rounds):
        copy = top / f"plain{number}"
        shutil.copytree(plain, copy, copy_function=shutil.copy2)
        first = bare(copy, added)
        shutil.rmtree(copy)
        again = in_folder(top / f"copy{number}")
        again.shelf = root.shelf
        shutil.copytree(top / "root", top / f"copy{number}" / "root", symlinks=True, copy_function=os.link)
        began = time.perf_counter()
        again.publish(*new)
        second = time.perf_counter() - began
        signed = 0.0
        with ExitStack() as stack:
            where = signing.settings(os.environ, base=Path.cwd())
            if where.key:
                again.signer = stack.enter_context(signing.open_signer(where, top / "key"))
                began = time.perf_counter()
                again.publish(*items(root, [10**6]))
                signed = time.perf_counter() - began
        shutil.rmtree(top / f"copy{number}")
        times.append((first, second, signed))
    return tuple(statistics.median(column) for column in zip(*times, strict=True))


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="500,1000,2000")
    parser.add_argument("--add", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    spec()
    yum.library()
    print(f"{'packages':>8}  {'added':>5}  {'createrepo_c':>12}  {'publish':>8}  ratio")
    for size in map(int, given.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="pikaforge-bench-") as folder:
            first, second, signed = measure(size, given.add, given.rounds, Path(folder))
        more = f"  one more, signed: {signed:.2f} s" if signed else ""
        print(f"{size:>8}  {given.add:>5}  {first:>10.3f} s  {second:>6.3f} s  {second / first:5.2f}{more}", flush=True)


if __name__ == "__main__":
    main()
