"""Compare the compilation of a changed patch with and without a compiler cache, on redis of Debian's source package.

    python benchmarks/changed_patch.py [--model R620] [--out FOLDER] [--rounds 2]

A patch of one line is added to the series of tests/products/redis, and redis is compiled with `--share-compiler-cache`.
Then the line is changed, as often as there are rounds. Each time the new source is compiled with the same cache (warm)
and with none (cold), in turns. Both must leave the same bytes. The best of each counts, of four figures:

- cpu: CPU seconds of the product's recipe with all its compilers, as its shell says them (times);
- recipe: seconds on the clock of the recipe;
- stage: seconds on the clock of the stage compile: the container, its scripts, the recipe, the files that go in and
  out, and what is recorded;
- client: CPU seconds of this tool meanwhile, with the patch series and the source before.

The lines after that are changes that must compile nothing: a comment in the recipe, one in matrix.yaml, and a text of
the packages.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build")]

from pikaforge.cli import arguments  # noqa: E402
from pikaforge.cli.commands.bench_servers import compiled  # noqa: E402
from pikaforge.cli.context import Context  # noqa: E402
from pikaforge.cli.main import main as run_tool  # noqa: E402
from pikaforge.host.store import sha256  # noqa: E402

PRODUCT = HERE / "tests" / "products" / "redis"
CHANGED = "src/lolwut5.c"
"""The file that the patch changes."""
SHARED, NONE = "--share-compiler-cache", "--no-compiler-cache"


def patch(product: Path, number: int) -> None:
    """Write the patch: a function at the end of a file, which returns a number."""
    with tarfile.open(product / "download" / "redis.orig.tar.gz") as archive:
        [member] = [member for member in archive if member.name.endswith(f"/{CHANGED}")]
        content = archive.extractfile(member)
        assert content is not None
        old = content.read().decode().splitlines(keepends=True)
    new = [*old, "\n", f"int benchmarkChange(void) {{ return {number}; }}\n"]
    text = "".join(difflib.unified_diff(old, new, f"a/{CHANGED}", f"b/{CHANGED}"))
    (product / "change.patch").write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a compilation has cost, in seconds."""

    cpu: float
    recipe: float
    stage: float
    client: float


def compile_it(product: Path, out: Path, model: str, option: str) -> tuple[Cost, tuple[str, ...]]:
    """Compile for a model, and do nothing more; return what that has cost, and the digests of what it has left."""
    began = time.process_time()
    context = Context(arguments.parser().parse_args(words("build", product, out, model, option)))
    engine = context.engine()
    engine.verify()
    [cell] = context.cells()
    done = compiled(context, engine, [cell]).done
    if done.errors:
        raise SystemExit(str(done.errors[0]))
    outcome = done.outcomes[f"compile:{cell.group}"]
    assert outcome.result is not None
    said = (out / "logs" / cell.group / "compile.log").read_text(encoding="utf-8", errors="replace")
    cost = Cost(
        cpu=children_seconds(said),
        recipe=clock_seconds(said),
        stage=outcome.seconds,
        client=time.process_time() - began,
    )
    return cost, tuple(sha256(outcome.result.files[name]) for name in ("tree.tar", "debug.tar"))


def children_seconds(log: str) -> float:
    """Return the seconds of the last line that `times` has printed: user and system of a shell's children."""
    found = re.findall(r"^(\d+)m(\d+\.\d+)s (\d+)m(\d+\.\d+)s$", log, re.MULTILINE)
    user_minutes, user, system_minutes, system = map(float, found[-1])
    return 60 * (user_minutes + system_minutes) + user + system


def clock_seconds(log: str) -> float:
    """Return the seconds between the two times that the recipe has printed."""
    began, ended = (float(found) for found in re.findall(r"^clock (\d+\.\d+)$", log, re.MULTILINE))
    return ended - began


def compared(product: Path, out: Path, model: str, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """Return what changed patches have cost warm and cold."""
    warm, cold = [], []
    for number in range(rounds):
        patch(product, -os.getpid() - number)
        with_cache, same = compile_it(product, out, model, SHARED)
        without, bytes_ = compile_it(product, out, model, NONE)
        assert same == bytes_, "a compilation with the cache has left other bytes"
        warm.append(with_cache)
        cold.append(without)
    return warm, cold


def to_compile(product: Path, out: Path, model: str) -> list[str]:
    """Return the compilations that a build would make."""
    said = io.StringIO()
    with redirect_stdout(said):
        run_tool([*words("plan", product, out, model), "--json"])
    nodes = json.loads(said.getvalue())["nodes"]
    return [node["label"] for node in nodes if node["stage"] == "compile" and not node["cached"]]


def words(verb: str, product: Path, out: Path, model: str, *options: str) -> list[str]:
    """Return the words of a command line."""
    places = ["--matrix", str(product / "matrix.yaml"), "--out", str(out), "--dist", str(out / "dist")]
    return [verb, model, "--os", "debian12", *options, *places]


def edit(file: Path, old: str, new: str) -> None:
    """Change a text file in one place."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), encoding="utf-8")


def main() -> None:
    """Print the ratio, and what other changes make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="R620")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="results that are kept; default: a temporary folder")
    given = parser.parse_args()
    download = PRODUCT / "download"
    subprocess.run(["sh", str(PRODUCT.parent / "fetch.sh"), "redis", str(download)], check=True, capture_output=True)
    with tempfile.TemporaryDirectory(prefix="pikaforge-bench-") as folder:
        product, out = Path(folder) / "product", given.out or Path(folder) / "out"
        shutil.copytree(PRODUCT, product, ignore=shutil.ignore_patterns("sources.lock", "download.*"))
        with (product / "series.yaml").open("a", encoding="utf-8") as series:
            series.write("  - file: change.patch\n")
        edit(product / "recipe.sh", "set -eu\n", "set -eu\ndate +'clock %s.%N'\n")
        edit(product / "recipe.sh", "mkdir -p", "date +'clock %s.%N'\ntimes\nmkdir -p")
        patch(product, os.getpid())  # a source that no run before has compiled
        first, _ = compile_it(product, out, given.model, SHARED)
        print(f"the first one: recipe {first.recipe:.1f} s, stage {first.stage:.1f} s")
        warm, cold = compared(product, out, given.model, given.rounds)
        for name in Cost.__slots__:
            least, most = (min(getattr(each, name) for each in costs) for costs in (warm, cold))
            print(f"{name}: {most:.1f} s cold, {least:.1f} s warm: {most / least:.1f} times", flush=True)
        edit(product / "recipe.sh", "mkdir -p", "# a comment\nmkdir -p")
        edit(product / "matrix.yaml", "  recipe: recipe.sh", "  # a comment\n  recipe: recipe.sh")
        edit(product / "matrix.yaml", "summary: Database", "summary: A database")
        print(f"comments and another summary compile: {to_compile(product, out, given.model) or 'nothing'}")


if __name__ == "__main__":
    main()
