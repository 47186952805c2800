"""Load matrix.yaml or a series: from text to a specification whose parts fit together.

There are three checks, one after the other. The text must be plain YAML (`yaml_text`, which stops at the first
problem). Its parts must be as the models say (`schema`, `patch_series`). What they name must exist
(`cross_references`). The last two report all problems in one `ConfigError`, in the order of the file, each with its
line, its YAML path and what to do.
"""

from __future__ import annotations

from pathlib import Path

from pikaforge.config import cross_references, patch_series, yaml_text
from pikaforge.config.diagnostics import Diagnostics, validate
from pikaforge.config.schema import Spec
from pikaforge.config.waiver import Waiver, WaiverFile
from pikaforge.config.yaml_words import KeyPath


def load(path: Path) -> Spec:
    """Return the specification in a file.

    Raises:
        ConfigError: with all that is wrong with it.
    """
    return parse(yaml_text.read(path), file=str(path))


def parse(text: str, *, file: str) -> Spec:
    """Return the specification in a text. Pure.

    Args:
        text: the content of matrix.yaml.
        file: its name in errors.

    Raises:
        ConfigError: with all that is wrong with it.
    """
    document = yaml_text.parse(text, file=file)
    spec = validate(Spec, document)
    diagnostics = Diagnostics(document=document)
    cross_references.check(spec, diagnostics)
    diagnostics.raise_any()
    return spec


def load_series(path: Path) -> patch_series.Series:
    """Return the series of patches in a file.

    Raises:
        ConfigError: with all that is wrong with it.
    """
    return parse_series(yaml_text.read(path), file=str(path))


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """Return the waivers in a file of its own.

    Raises:
        ConfigError: with all that is wrong with it.
    """
    return validate(WaiverFile, yaml_text.parse(yaml_text.read(path), file=str(path))).waivers


def check_series_files(path: Path) -> None:
    """Raise ConfigError if a patch file that an enabled entry of a series names is missing, with the line of each."""
    parse_series(yaml_text.read(path), file=str(path), beside=path.parent)


def parse_series(text: str, *, file: str, beside: Path | None = None) -> patch_series.Series:
    """Return the series of patches in a text. Pure without `beside`.

    Args:
        text: the content of series.yaml.
        file: its name in errors.
        beside: the folder in which the patches of enabled entries must be; None: they are not looked for.

    Raises:
        ConfigError: with all that is wrong with it.
    """
    document = yaml_text.parse(text, file=file)
    series = validate(patch_series.Series, document)
    diagnostics = Diagnostics(document=document)
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
                diagnostics.add(path, message, "remove one of them")
            elif beside is not None and entry.enabled and entry.needed is not None:
                _check_there(beside / entry.needed, path, diagnostics)
    diagnostics.raise_any()
    return series


def _check_there(file: Path, path: KeyPath, diagnostics: Diagnostics) -> None:
    """Report a patch file, or the `series` of a quilt folder, that is missing."""
    if not file.is_file():
        diagnostics.add(path, f"there is no file {file}", "add it, or disable the entry (enabled: false)")
