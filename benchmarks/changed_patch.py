"""Compare the compilation of a changed patch with and without a compiler cache, on redis of Debian's source package.

    python benchmarks/changed_patch.py [--model R620] [--out FOLDER]

A patch of one line is added to the series of tests/products/redis, and redis is built with `--share-compiler-cache`.
Then the line is changed. The new source is compiled with the same cache (warm), and with none (cold). The time is that
of the stage compile: the container, the recipe, the files that go in and out, and what is recorded. The lines after
that are changes that must compile nothing: a comment in the recipe, one in matrix.yaml, and a text of the packages.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
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


def build(product: Path, out: Path, model: str, *options: str) -> Mapping[str, float]:
    """Build; return the seconds of each node that was made."""
    argv = [sys.executable, "-m", "pikaforge", "build", model, "--os", "debian12", "--json", *options]
    places = ["--matrix", str(product / "matrix.yaml"), "--out", str(out), "--dist", str(out / "dist")]
    environment = {**os.environ, "PYTHONPATH": str(HERE / "build")}
    done = subprocess.run([*argv, *places], cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the build ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return dict(_made(done.stdout))


def _made(events: str) -> Iterator[tuple[str, float]]:
    for line in events.splitlines():
        event = json.loads(line)
        if event["event"] == "ended" and event["status"] == "done":
            yield event["node"], event["seconds"]


def compiled(made: Mapping[str, float]) -> float:
    """Return the seconds of the only compilation."""
    [seconds] = [seconds for node, seconds in made.items() if node.startswith("compile:")]
    return seconds


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
        first = compiled(build(product, out, given.model, SHARED))
        patch(product, -os.getpid())
        warm = compiled(build(product, out, given.model, SHARED))
        cold = compiled(build(product, out, given.model, NONE))
        print(f"compile: {first:.1f} s with the cache as it was before, {cold:.1f} s cold, {warm:.1f} s warm")
        print(f"ratio: {cold / warm:.1f}", flush=True)
        edit(product / "recipe.sh", "mkdir -p", "# a comment\nmkdir -p")
        print(f"a comment in the recipe makes: {sorted(build(product, out, given.model, NONE)) or 'nothing'}")
        edit(product / "matrix.yaml", "  recipe: recipe.sh", "  # a comment\n  recipe: recipe.sh")
        print(f"a comment in matrix.yaml makes: {sorted(build(product, out, given.model, NONE)) or 'nothing'}")
        edit(product / "matrix.yaml", "summary: Database", "summary: A database")
        print(f"another summary makes: {sorted(build(product, out, given.model, NONE)) or 'nothing'}")


if __name__ == "__main__":
    main()
