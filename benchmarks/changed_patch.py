"""Compare the compilation of a changed patch with and without a compiler cache, on redis of Debian's source package.

    python benchmarks/changed_patch.py [--model R620] [--out FOLDER]

A patch of one line is added to the series of tests/products/redis, and redis is compiled with `--share-compiler-cache`.
Then the line is changed. The new source is compiled with the same cache (warm), and with none (cold). The time is that
of the stage compile: the container, the recipe, the files that go in and out, and what is recorded. The lines after
that are changes that must compile nothing: a comment in the recipe, one in matrix.yaml, and a text of the packages.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build")]

from pikaforge.cli import arguments  # noqa: E402
from pikaforge.cli.commands.bench_servers import compiled  # noqa: E402
from pikaforge.cli.context import Context  # noqa: E402
from pikaforge.cli.main import main as run_tool  # noqa: E402

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


def compile_it(product: Path, out: Path, model: str, option: str) -> float:
    """Compile for a model, and do nothing more; return the seconds of the compilation."""
    context = Context(arguments.parser().parse_args(words("build", product, out, model, option)))
    engine = context.engine()
    engine.verify()
    [cell] = context.cells()
    done = compiled(context, engine, [cell]).done
    if done.errors:
        raise SystemExit(str(done.errors[0]))
    return done.outcomes[f"compile:{cell.group}"].seconds


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
    parser.add_argument("--out", type=Path, help="results that are kept; default: a temporary folder")
    given = parser.parse_args()
    download = PRODUCT / "download"
    subprocess.run(["sh", str(PRODUCT.parent / "fetch.sh"), "redis", str(download)], check=True, capture_output=True)
    with tempfile.TemporaryDirectory(prefix="pikaforge-bench-") as folder:
        product, out = Path(folder) / "product", given.out or Path(folder) / "out"
        shutil.copytree(PRODUCT, product, ignore=shutil.ignore_patterns("sources.lock", "download.*"))
        with (product / "series.yaml").open("a", encoding="utf-8") as series:
            series.write("  - file: change.patch\n")
        patch(product, os.getpid())  # a source that no run before has compiled
        first = compile_it(product, out, given.model, SHARED)
        patch(product, -os.getpid())
        warm = compile_it(product, out, given.model, SHARED)
        cold = compile_it(product, out, given.model, NONE)
        print(f"compile: {first:.1f} s with the cache as it was before, {cold:.1f} s cold, {warm:.1f} s warm")
        print(f"ratio: {cold / warm:.1f}", flush=True)
        edit(product / "recipe.sh", "mkdir -p", "# a comment\nmkdir -p")
        edit(product / "matrix.yaml", "  recipe: recipe.sh", "  # a comment\n  recipe: recipe.sh")
        edit(product / "matrix.yaml", "summary: Database", "summary: A database")
        print(f"comments and another summary compile: {to_compile(product, out, given.model) or 'nothing'}")


if __name__ == "__main__":
    main()
