"""From the text of matrix.yaml, or of a series, to a specification whose parts fit together.

Three sieves, one after the other: the text must be plain YAML (`yamltext`, which stops at the first problem),
its parts must be as the models say (`model`), and what they name must exist (`references`). The latter two report all
that they find in one `ConfigError`, in the order of the file, each problem with its line, its YAML path and
what to do.
"""

from __future__ import annotations

from pathlib import Path

from pikaforge.config import cross_references, patch_series, yaml_text
from pikaforge.config import schema as model
from pikaforge.config.diagnostics import Diagnostics, validate


def load(path: Path) -> model.Spec:
    """The specification in the file `path`; raises `ConfigError` with all that is wrong with it."""
    return parse(yaml_text.read(path), file=str(path))


def parse(text: str, *, file: str) -> model.Spec:
    """The specification in `text`; `file` is its name in errors. Pure. Raises `ConfigError`."""
    document = yaml_text.parse(text, file=file)
    spec = validate(model.Spec, document)
    problems = Diagnostics(document=document)
    cross_references.check(spec, problems)
    problems.raise_any()
    return spec


def load_series(path: Path) -> patch_series.Series:
    """The patches that the series file `path` lists; raises `ConfigError` with all that is wrong with it."""
    return parse_series(yaml_text.read(path), file=str(path))


def parse_series(text: str, *, file: str) -> patch_series.Series:
    """The series in `text`; `file` is its name in errors. Pure. Raises `ConfigError`."""
    document = yaml_text.parse(text, file=file)
    series = validate(patch_series.Series, document)
    problems = Diagnostics(document=document)
    seen: dict[tuple[str, str | int], tuple[str | int, ...]] = {}
    for index, entry in enumerate(series.patches):
        for kind in ("pull", "file", "quilt"):
            value = getattr(entry, kind)
            if value is None:
                continue
            path = ("patches", index, kind)
            first = seen.setdefault((kind, value), path)
            if first != path:
                message = f"`{kind}: {value}` is here twice; first in line {document.position(first)[0]}"
                problems.add(path, message, "remove one of them")
    problems.raise_any()
    return series
