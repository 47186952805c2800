"""`check`: say whether configuration files are right. Nothing is planned, started or written."""

from __future__ import annotations

from pathlib import Path

from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.cli.output import count
from pikaforge.config import load, yaml_text
from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, ConfigError
from pikaforge.host.process import cwd
from pikaforge.plan.matrix import all_cells

SERIES, WAIVERS = "patches", "waivers"
"""Keys by which a series of patches, or a file of waivers, is known; any other file is a matrix."""


def check(context: Context) -> int:
    """Run `check`; return the exit status. The mistakes of all files are shown."""
    files = [cwd() / name for name in context.arguments.files] or [context.matrix]
    wrong = 0
    for path in files:
        try:
            output.show(f"{output.readable(path, cwd())}: {_checked(path)}")
        except ConfigError as error:
            wrong += 1
            output.show_error(error)
    return EXIT_CONFIG if wrong else EXIT_DONE


def _checked(path: Path) -> str:
    """Return what a file has.

    Raises:
        ConfigError: with all that is wrong with it, and with the files that it names.
    """
    content = yaml_text.parse(yaml_text.read(path), file=str(path)).data
    keys = set(content) if isinstance(content, dict) else set()
    if keys == {SERIES}:
        load.check_series_files(path)
        return count(len(load.load_series(path).patches), "patch", "patches")
    if keys == {WAIVERS}:
        return count(len(load.load_waivers(path)), "waiver")
    return _checked_matrix(path)


def _checked_matrix(path: Path) -> str:
    spec = load.load(path)
    recipe = path.parent / spec.product.recipe
    if not recipe.is_file():
        raise ConfigError(
            f"there is no file {recipe}", where=f"{path}: product.recipe", hint="paths are relative to the matrix"
        )
    if spec.product.patches is not None:
        load.check_series_files(path.parent / spec.product.patches)
    cells = all_cells(spec)
    left = sum(bool(cell.problem) for cell in cells)
    return ", ".join(
        [
            count(len(spec.hardware), "model"),
            count(len(spec.images), "image"),
            count(len(cells), "cell"),
            *([f"{left} of which cannot be built"] if left else []),
        ]
    )
