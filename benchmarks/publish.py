"""Compare an incremental publication with bare `createrepo_c --update` on the same packages: CPU and wall time.

    python benchmarks/publish.py [--sizes 500,1000,2000] [--add 20] [--rounds 3] [--before 2] [--createrepo PATH]

Some packages are added to a repository of N packages. Bare createrepo_c makes new metadata of a folder. Publishing
copies the packages, makes metadata with createrepo_c's library, checksums, a new generation with all files, the
catalogue and the index page, and reads back what it has written. Both are repeated in turn on fresh copies, and the
best of each is compared. The ratios are the result: times depend on the machine. Createrepo_c is the program of the
Python package, which is the one that the tool's library comes with; `--createrepo` names another one. The packages
before came in several publications, as they do: `--before 0` measures the second publication of a repository, which
makes a folder of hard links, while later ones take over that of an old generation.

Nothing is signed, because GnuPG takes the same time for any number of packages; if PIKAFORGE_SIGNING_KEY names a key,
that time is printed by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a step took."""

    cpu: float
    """Seconds of this process and its children."""
    wall: float
    """Seconds."""


def cost_of(work: Callable[[], object]) -> Cost:
    """Do some work; return what it took."""
    before, began = _cpu(), time.perf_counter()
    work()
    return Cost(cpu=_cpu() - before, wall=time.perf_counter() - began)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def items(root: Root, names: Sequence[int]) -> list[Item]:
    """Return packages of about the size of a small server's debuginfo package."""
    chance = random.Random(1)  # noqa: S311
    return [root.shelf.item("1.0", name=f"demo{number}", content=chance.randbytes(PAYLOAD)) for number in names]


def update(program: str, folder: Path) -> None:
    """Make the metadata of a folder anew."""
    subprocess.run([program, *OPTIONS, str(folder)], check=True, capture_output=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is measured."""

    programs: tuple[str, ...]
    """Createrepo_c, of one or several origins."""
    add: int
    before: int
    """Publications of so many packages before the one that is measured, besides the first one."""
    rounds: int


def measure(course: Course, size: int, top: Path) -> tuple[list[Cost], Cost, float]:
    """Return the best costs of createrepo_c and of publishing, and the seconds of one more package with a signature."""
    add, rounds = course.add, course.rounds
    root = in_folder(top)
    old, new = items(root, range(size)), items(root, range(size, size + add))
    first = size - min(course.before, (size - 1) // add) * add
    for start, end in ((0, first), *((at, at + add) for at in range(first, size, add))):
        root.publish(*old[start:end])
    plain = top / "plain"
    plain.mkdir()
    for item in old:
        shutil.copy2(root.shelf.sources[item.place, item.artifact.path], plain)
    update(course.programs[0], plain)
    added = [root.shelf.sources[item.place, item.artifact.path] for item in new]
    bare: list[list[Cost]] = [[] for _ in course.programs]
    published: list[Cost] = []
    signed: list[float] = []
    for number in range(rounds):
        for program, costs in zip(course.programs, bare, strict=True):
            copy = top / f"plain{number}"
            shutil.copytree(plain, copy, copy_function=shutil.copy2)
            for path in added:
                shutil.copy2(path, copy)
            os.sync()
            costs.append(cost_of(lambda: update(program, copy)))  # noqa: B023
            shutil.rmtree(copy)
        again = in_folder(top / f"copy{number}")
        again.shelf = root.shelf
        shutil.copytree(top / "root", top / f"copy{number}" / "root", symlinks=True, copy_function=os.link)
        os.sync()
        published.append(cost_of(lambda: again.publish(*new)))  # noqa: B023
        signed.extend(_signed(again, items(root, [10**6]), top / "key"))
        shutil.rmtree(top / f"copy{number}")
    return [_best(costs) for costs in bare], _best(published), min(signed, default=0.0)


def _signed(root: Root, new: Sequence[Item], folder: Path) -> list[float]:
    """Return the seconds of a publication that is signed; nothing without a key."""
    where = signing.settings(os.environ, base=Path.cwd())
    if not where.key:
        return []
    with ExitStack() as stack:
        root.signer = stack.enter_context(signing.open_signer(where, folder))
        return [cost_of(lambda: root.publish(*new)).wall]


def _best(costs: Sequence[Cost]) -> Cost:
    return Cost(cpu=min(cost.cpu for cost in costs), wall=min(cost.wall for cost in costs))


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="500,1000,2000")
    parser.add_argument("--add", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=int, default=2, help="earlier additions; default: %(default)s")
    parser.add_argument("--createrepo", action="append", help=f"can be given several times; default: {CREATEREPO}")
    given = parser.parse_args()
    programs = tuple(given.createrepo or [CREATEREPO])
    course = Course(programs=programs, add=given.add, before=given.before, rounds=given.rounds)
    spec()
    yum.library()
    print("packages  added   createrepo_c: CPU, wall      publish: CPU, wall   ratio: CPU  wall")
    for size in map(int, given.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="pikaforge-bench-") as folder:
            bare, made, signed = measure(course, size, Path(folder))
        for program, plain in zip(programs, bare, strict=True):
            print(
                f"{size:>8}  {given.add:>5}       {plain.cpu:>6.3f} s  {plain.wall:>6.3f} s    {made.cpu:>6.3f} s  "
                f"{made.wall:>6.3f} s       {made.cpu / plain.cpu:>5.2f} {made.wall / plain.wall:>5.2f}  {program}",
                flush=True,
            )
        if signed:
            print(f"          one more, signed: {signed:.2f} s", flush=True)


if __name__ == "__main__":
    main()
