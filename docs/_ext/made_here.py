"""What the site shows and no page has: the reference, the navigation, and links to files outside of docs/.

A page of the reference holds a remark such as `<!-- made here: matrix.schema.json -->`. When the site is built, what
the schema or the parser of the command line says stands there instead. The pages on GitHub have the remark only.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import commands_page
import schema_page
from pygments.lexers.special import TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/pikaforge/pikaforge/blob/main/"
MARK = re.compile(r"^<!-- made here: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(\]\()(\.\./[^()\s]*)(\))")
NAVIGATION: Sequence[tuple[str, Sequence[str]]] = (
    ("Begin", ("first-build", "building", "terminal", "selecting", "report", "doctor", "troubleshooting")),
    ("Add", ("add-a-model", "add-an-image", "add-a-patch", "add-an-allocator", "recipes")),
    ("Give to hosts", ("publishing", "signing", "verifying", "operating", "memory", "load-test")),
    ("Build elsewhere", ("engines", "farm", "shared-store", "offline", "air-gap", "github", "pipelines")),
    ("What is shown", ("proof", "survival", "coverage", "debian", "benchmarks")),
    ("Look up", ("reference/commands", "reference/matrix", "reference/report", "reference/repo", "glossary")),
    ("Change pikaforge", ("architecture", "decisions/README")),
)
"""Captions, and pages below each. A page that is not there is left out; one that no caption has comes last."""


def outside(docname: str, text: str) -> str:
    """Return a page whose links to files outside of docs/ lead to the repository."""

    def link(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(docname), found[2].partition("#")[0]))
        anchor = found[2].partition("#")[2]
        if path.startswith("docs/"):
            return found[0]
        return f"{found[1]}{REPOSITORY}{path}{'#' + anchor if anchor else ''}{found[3]}"

    return LINK.sub(link, text)


def navigation(pages: Sequence[str]) -> str:
    """Return the tables of contents of the front page."""
    listed = {page for _, below in NAVIGATION for page in below}
    rest = tuple(page for page in sorted(pages) if page not in listed and page != "index")
    blocks = []
    for caption, below in (*NAVIGATION, ("More", tuple(rest))):
        there = [page for page in below if page in pages and not page.startswith("decisions/0")]
        if there:
            blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *there, "```"]))
    return "\n\n".join(blocks)


def made(name: str) -> str:
    """Return what stands for a remark: by the name of a schema, or `commands`."""
    if name == "commands":
        return commands_page.text()
    return schema_page.text(json.loads((ROOT / name).read_text(encoding="utf-8")))


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Change the text of a page before it is parsed."""
    text = outside(docname, content[0])
    for name in MARK.findall(text):
        if name != "commands":
            app.env.note_dependency(str(ROOT / name), docname=docname)
    text = MARK.sub(lambda found: made(found[1]), text)
    if docname == "index":
        text += "\n" + navigation(sorted(app.env.found_docs)) + "\n"
    if docname == "decisions/README":
        records = sorted(page for page in app.env.found_docs if page.startswith("decisions/0"))
        names = [page.removeprefix("decisions/") for page in records]
        text += "\n" + "\n".join(["```{toctree}", ":hidden:", "", *names, "```"]) + "\n"
    content[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what Sphinx calls."""
    connect: Callable[..., object] = app.connect
    connect("source-read", _read)
    app.add_lexer("crontab", TextLexer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
