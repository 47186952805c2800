"""The index page of a published root: `index.html`, for people.

It is one file that loads nothing: style, script and data are in it, and links are relative to the root. So it works at
any URL and as a local file. Its Content-Security-Policy allows this style and this script by their digests, and
nothing else. The template escapes all values, so that no name can become markup. wget, text browsers, and servers whose
own policy forbids scripts have the plain list of files; the script puts the search in its place.

The same catalogue and lines give the same bytes: there is no clock in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pikaforge.host import extras
from pikaforge.publish.page_data import Fleet, Install, PageData, formats, moment, natural, page_data
from pikaforge.publish.state import CATALOGUE, Catalogue

if TYPE_CHECKING:
    from types import ModuleType

    from jinja2 import Environment

ASSETS = Path(__file__).resolve().parents[1] / "pages" / "assets"
TEMPLATE = "index.html.jinja"
UNRESERVED = "/!'()*~"
"""What JavaScript's encodeURIComponent leaves unchanged, and the slash: page and script write the same links."""


def library() -> ModuleType:
    """Import Jinja2, which renders the page.

    Raises:
        HostError: it is not installed, or cannot be loaded.
    """
    module: ModuleType = extras.load("jinja2", package="Jinja2", extra="publish")
    return module


def page(catalogue: Catalogue, install: Install, fleet: Fleet) -> str:
    """Return the text of `index.html`.

    Args:
        catalogue: what is published.
        install: returns the lines to copy for an artifact.
        fleet: returns the lines to copy for all models of an image.

    Raises:
        HostError: Jinja2 is missing.
    """
    template = _environment().get_template(TEMPLATE)
    from markupsafe import Markup  # noqa: PLC0415  # Jinja2 brings it

    repositories = catalogue.repositories
    data = page_data(catalogue, install, fleet)
    present = {artifact.format for repository in repositories for artifact in repository.artifacts}
    return template.render(
        catalogue=catalogue,
        data=data,
        data_file=CATALOGUE,
        files=sum(len(repository.artifacts) for repository in repositories),
        repositories=len(repositories),
        newest=max((moment(repository.published) for repository in repositories), default=""),
        models=sorted({repository.model for repository in repositories}, key=natural),
        images=sorted({repository.image for repository in repositories}, key=natural),
        formats=[kind.name for kind in formats() if kind.name in present],
        # These three are made here, and are put into the page as they are.
        style=Markup(_asset("index.css")),  # noqa: S704
        script=Markup(_asset("index.js")),  # noqa: S704
        json=Markup(_embedded(data)),  # noqa: S704
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
    environment.filters.update(link=_link, basename=posixpath.basename, digest=_digest)
    return environment


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return what names an inline style or script in a policy (CSP 3, 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _link(parts: Iterable[str]) -> str:
    """Return a link to a file, relative to the root.

    A colon in the first part would make it a scheme, and a plus means a blank to some servers, so both are encoded.
    """
    return quote("/".join(parts), safe=UNRESERVED)


def _embedded(data: PageData) -> str:
    """Return JSON that is safe in a script element.

    Nothing in it ends the element, begins a comment or another element, or ends a line of JavaScript.
    """
    value = data.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)
