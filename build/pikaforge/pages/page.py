"""Pages for people. A page is one file that loads nothing: style, script and data are in it.

So it works at any URL and as a local file. Its Content-Security-Policy allows this style and this script by their
digests, and nothing else. Templates escape all values, so that no name can become markup. Data are JSON in script
elements that no browser runs. Text browsers, and servers whose own policy forbids scripts, have plain lists and tables;
the script puts search and details in their place.

The same values give the same bytes: there is no clock in a page that its values do not have.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pikaforge.host import extras

if TYPE_CHECKING:
    from types import ModuleType

    from jinja2 import Environment
    from pydantic import BaseModel

ASSETS = Path(__file__).resolve().parent / "assets"
SHARED = "shared"
"""Name of the style and of the script that all pages have."""
UNRESERVED = "/!'()*~"
"""What JavaScript's encodeURIComponent leaves unchanged, and the slash: page and script write the same links."""


def library() -> ModuleType:
    """Import Jinja2, which renders pages.

    Raises:
        HostError: it is not installed, or cannot be loaded.
    """
    module: ModuleType = extras.load("jinja2", package="Jinja2", extra="publish")
    return module


def render(name: str, elements: Mapping[str, object], /, **values: object) -> str:
    """Return the text of a page; see `pieces`."""
    return "".join(pieces(name, elements, **values))


def pieces(name: str, elements: Mapping[str, object], /, **values: object) -> Iterator[str]:
    """Return the text of a page in pieces: a large page has more data than should be held as one text.

    Args:
        name: of its template, style and script in `assets`.
        elements: what its script reads, by the id of the element that holds it: JSON, or models of it.
        values: what its template shows.

    Raises:
        HostError: Jinja2 is missing.
    """
    template = _environment().get_template(f"{name}.html.jinja")
    from markupsafe import Markup  # noqa: PLC0415  # Jinja2 brings it

    return template.generate(
        **values,
        # These three are made here, and are put into the page as they are.
        style=Markup("".join(_asset(f"{each}.css") for each in (SHARED, name))),  # noqa: S704
        script=Markup("".join(_asset(f"{each}.js") for each in (SHARED, name))),  # noqa: S704
        embedded=((id_, Markup(embedded(value))) for id_, value in elements.items()),  # noqa: S704
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    jinja2 = library()
    environment: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(link=link, basename=posixpath.basename, digest=_digest)
    return environment


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return what names an inline style or script in a policy (CSP 3, 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def link(parts: Iterable[str]) -> str:
    """Return a link to a file, relative to the page.

    A colon in the first part would make it a scheme, and a plus means a blank to some servers, so both are encoded.
    """
    return quote("/".join(parts), safe=UNRESERVED, errors="replace")


def _dumped(model: BaseModel) -> object:
    return model.model_dump(mode="json")


def embedded(value: object) -> str:
    """Return JSON that is safe in a script element.

    Nothing in it ends the element, begins a comment or another element, or ends a line of JavaScript. A lone half of a
    surrogate pair, which no file in UTF-8 can hold, is written as an escape.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_dumped)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
