"""The site of docs/, as `nox -s docs` builds it: without network, without a warning, and with all links right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from pikaforge.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
pytestmark = [
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("myst_parser", "furo")), reason="the extra `docs` has it"
    ),
    pytest.mark.xdist_group("docs-site"),  # one worker: the site is built once
    pytest.mark.long(40),
]
LOADED = {"link": "href", "script": "src", "img": "src"}
"""What a browser loads with a page: tags, and the attribute that says from where."""
ELSEWHERE = re.compile(r"(?:[a-z]+:)?//|[a-z]+:")


class Page(HTMLParser):
    """The ids of a page, where its links lead, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADED and LOADED[tag] in found and found.get("rel") not in ("index", "search", "next", "prev"):
            self.loaded.append(found[LOADED[tag]])


def sphinx(source: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Build a folder of pages with the settings of docs/."""
    words = ("-b", "html", "-W", "--keep-going", "-n", "-q", "-c", str(DOCS), "-d", str(to / "doctrees"))
    argv = [sys.executable, "-m", "sphinx", *words, str(source), str(to / "html")]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site."""
    out = tmp_path_factory.mktemp("docs")
    argv = [sys.executable, "docs/make.py", "--out", str(out)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_each_page_is_there_in_each_language(site: Path) -> None:
    names = [path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md") if "locale" not in path.parts]
    assert len(names) > 30
    for folder in (site, *(site / path.parent.name for path in (DOCS / "locale").glob("*/LC_MESSAGES"))):
        assert [name for name in names if not (folder / name).is_file()] == []


def test_links_lead_to_pages_and_headings(site: Path, pages: dict[Path, Page]) -> None:
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            if ELSEWHERE.match(target):
                continue
            there = (path.parent / unquote(target)).resolve() if target else path
            if not there.is_file() or (anchor and there in pages and unquote(anchor) not in pages[there].ids):
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert wrong == []


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert {url for page in pages.values() for url in page.loaded if ELSEWHERE.match(url)} == set()


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    front = {(site / unquote(urldefrag(link)[0])).resolve() for link in pages[site / "index.html"].links}
    ours = {path for path in pages if path.parent in (site, site / "reference")}
    made = {site / name for name in ("genindex.html", "search.html", "index.html")}
    assert {path.name for path in ours - made - front} == set()


def test_the_reference_has_all_verbs_and_all_types(pages: dict[Path, Page], site: Path) -> None:
    text = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert set(VERBS) <= pages[site / "reference/commands.html"].ids
    assert "--require-run" in text
    assert "made here" not in text
    for name in ("matrix", "report", "repo"):
        schema = json.loads((ROOT / f"{name}.schema.json").read_text(encoding="utf-8"))
        assert {each.lower() for each in schema["$defs"]} <= pages[site / f"reference/{name}.html"].ids


def test_links_out_of_the_pages_lead_to_the_repository(pages: dict[Path, Page], site: Path) -> None:
    links = [link for link in pages[site / "architecture.html"].links if link.endswith("README.md")]
    assert links == ["https://github.com/pikaforge/pikaforge/blob/main/README.md"]


WRONG = {
    "page": "[a](nowhere.md)",
    "heading": "[a](#no-heading)",
    "picture": "![a](nowhere.png)",
    "directive": "```{nonsense}\n```",
    "language": "```nonsense\n?\n```",
    "level": "#### c",
}
"""What must end the build, each on a page of its own."""


def test_what_is_wrong_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.md").write_text("# Top\n", encoding="utf-8")
    for name, text in WRONG.items():
        (tmp_path / f"pages/{name}.md").write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    done = sphinx(tmp_path / "pages", tmp_path)
    assert done.returncode != 0
    assert set(re.findall(r"/pages/(\w+)\.md:\d+: WARNING", done.stderr)) == set(WRONG), done.stderr


def test_pages_may_come_and_go(tmp_path: Path) -> None:
    """The navigation names pages that are not there, and has one that it does not name."""
    (tmp_path / "pages").mkdir()
    for name in ("index", "first-build", "something-new"):
        (tmp_path / f"pages/{name}.md").write_text(f"# The page {name}\n", encoding="utf-8")
    done = sphinx(tmp_path / "pages", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    front = Page(tmp_path / "html/index.html")
    assert {"first-build.html", "something-new.html"} <= set(front.links)
