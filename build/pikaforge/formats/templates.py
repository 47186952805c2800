"""Texts that Jinja2 renders: spec files, documents of packages, configuration of clients.

The templates are files named `*.jinja` in this folder and below. They have the form of the text, and no decision: what
a value may hold is checked where the value is made, or by a filter. Scripts of packages are no templates of this kind,
because shellcheck reads them as they are, and the shell's `${#variable}` would begin a comment; see `host.text.filled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).resolve().parent


def render(template: str, /, *, functions: Mapping[str, Callable[..., object]] | None = None, **values: object) -> str:
    """Return the text of a template.

    Args:
        template: its path below `formats/`.
        functions: what it calls, by name. An exception of such a function passes through.
        values: what it shows, by name. One that is missing is an error.
    """
    return _environment().get_template(template).render(**values, **(functions or {}))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  # not for looking at a plan

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=False,  # noqa: S701  # the texts are no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
