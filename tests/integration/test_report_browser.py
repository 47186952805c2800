"""Pages in a real browser: clicks, filters, links, keys, sizes, colours, paper, and what a screen reader gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe
import pytest
import sample_reports as samples
from browser import DESKTOP, PHONE, Browser, Page, browser

from pikaforge.pipeline.report_page import page as report_page
from pikaforge.pipeline.report_record import BuildReport, CellRecord
from pikaforge.publish.page import page as index_page
from pikaforge.publish.state import Artifact, Catalogue, File, Repository

pytestmark = pytest.mark.xdist_group("browser")

NASTY = "</script><img src=x onerror=\"window.hurt=1\"><svg onload='window.hurt=1'>\"'&amp;<!--\u2028\u202e{{7*7}}"
CELL = "R620-os1-none"


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """A browser for this module."""
    with browser() as started:
        yield started


def written(folder: Path, report: BuildReport, **given: Any) -> str:
    """Write the page of a report; its URL."""
    target = folder / "report.html"
    report_page.write(target, report, report_page.sources(target, report, **given))
    return target.as_uri()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a page with 130 cells, of which some have failed and some have changed."""
    folder = tmp_path_factory.mktemp("page")
    report = samples.big(26, 5)
    earlier = samples.big(26, 5).model_copy(
        update={"cells": tuple(changed(each) if each.model == "R640" else each for each in report.cells)}
    )
    for artifact in next(each for each in report.cells if each.id == CELL).artifacts:
        (folder / artifact.path).parent.mkdir(exist_ok=True)
        (folder / artifact.path).write_bytes(b"a package")
    return written(folder, report, earlier=earlier, since="the last publication")


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a page with a little of everything: axe-core takes long for many cells."""
    report = samples.big(12, 2)
    cells = tuple(changed(each) if each.model == "R640" else each for each in report.cells)
    earlier = report.model_copy(update={"cells": cells})
    return written(tmp_path_factory.mktemp("smaller"), report, earlier=earlier, since="the last publication")


def changed(cell: CellRecord) -> CellRecord:
    return cell.model_copy(update={"flags": ("-march=other",)})


@pytest.fixture
def page(running: Browser, made: str) -> Iterator[Page]:
    """The page, opened; nothing may go wrong in it, and it may ask for nothing."""
    opened = running.page()
    opened.open(made)
    yield opened
    assert opened.troubles() == []
    opened.close()


def shown(page: Page, selector: str) -> list[str]:
    """Texts of the elements of a selector that can be seen."""
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].filter((e) => e.checkVisibility())"
        ".map((e) => e.innerText.trim())"
    )
    return found


SQUARES = "#grid td[data-cell]:not(.other)"


class TestOverview:
    def test_what_is_there(self, page: Page) -> None:
        assert len(shown(page, SQUARES)) == 130
        assert shown(page, "h2") == [
            "Failed",
            "Since the report of the last publication",
            "Models, images and allocators",
        ]
        assert len(shown(page, ".failures li")) == 5
        assert "5 of 130 cells have changed" in shown(page, ".changes p")[0]

    def test_a_search(self, page: Page) -> None:
        page.click("#q")
        page.write("r620 OS1")
        assert len(shown(page, SQUARES)) == 1
        assert shown(page, "#status") == ["1 of 130 cells"]
        page.wait("location.hash === '#q=r620+OS1'")
        page.click("#clear")
        page.wait("document.querySelector('#q').value === ''")
        page.settle()
        assert len(shown(page, SQUARES)) == 130

    def test_a_digest_finds_its_cell(self, page: Page) -> None:
        page.click("#q")
        page.write(samples.packages(CELL, "os1")[1]["sha256"][:12])
        assert shown(page, "#status") == ["1 of 130 cells"]
        assert page.evaluate(f"document.querySelector('{SQUARES}').dataset.cell") == CELL

    def test_a_link_has_the_filter(self, running: Browser, made: str) -> None:
        opened = running.page()
        opened.open(f"{made}#state=failed&image=os3")
        assert shown(opened, "#status") == ["1 of 130 cells"]
        assert opened.evaluate("document.querySelector('#state').value") == "failed"
        opened.open(f"{made}#changed=1")
        opened.wait("document.querySelector('#status').textContent === '5 of 130 cells'")
        opened.open(f"{made}#q=nothing+like+it")
        opened.wait("document.querySelector('#status').textContent === 'No cell matches.'")
        opened.close()

    def test_a_filter_leaves_out_the_columns_without_a_match(self, running: Browser, tmp_path: Path) -> None:
        opened = running.page()
        url = written(tmp_path, samples.big(3, 3, 2))
        opened.open(url)
        assert shown(opened, "#grid thead th") == ["model", "os1", "os2", "os3", *("none", "system") * 3]
        opened.open(f"{url}#image=os2")
        opened.wait("document.querySelector('#image').value === 'os2'")
        assert shown(opened, "#grid thead th") == ["model", "os2", "none", "system"]
        opened.open(f"{url}#image=os2&allocator=system")
        opened.wait("document.querySelector('#allocator').value === 'system'")
        assert shown(opened, "#grid thead th") == ["model", "os2", "system"]
        assert opened.evaluate("document.querySelector('th[data-image=os2]').colSpan") == 1
        assert len(shown(opened, SQUARES)) == 3
        opened.close()

    def test_keys_move_in_the_grid_and_open_a_cell(self, page: Page) -> None:
        page.evaluate("document.querySelector('#grid a').focus()")
        page.key("ArrowDown", times=2)
        page.key("ArrowRight")
        page.key("ArrowLeft")
        assert page.evaluate("document.activeElement.closest('td').dataset.cell") == CELL
        page.key("Enter")
        page.wait("!document.querySelector('#cell').hidden")
        assert page.evaluate("document.activeElement.id") == "cell-title"
        page.back()
        assert page.evaluate("document.activeElement.closest('td').dataset.cell") == CELL

    def test_the_grid_is_one_stop_of_the_tab_key(self, page: Page) -> None:
        assert page.evaluate("[...document.querySelectorAll('#grid a')].filter((e) => e.tabIndex === 0).length") == 1
        page.key("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.key("Enter")
        assert page.evaluate("[document.activeElement.id, location.hash]") == ["content", ""]


class TestCell:
    def test_a_click_opens_it_and_back_leads_to_the_search(self, page: Page) -> None:
        page.click("#q")
        page.write("os1")
        page.wait("location.hash === '#q=os1'")
        page.click(f"#grid td[data-cell='{CELL}'] a")
        page.wait(f"location.hash === '#{CELL}'")
        assert shown(page, "#overview") == []
        assert shown(page, "#cell-title")[0].startswith(CELL)
        assert page.evaluate("document.title").startswith(CELL)
        page.back()
        assert page.evaluate("location.hash") == "#q=os1"
        assert len(shown(page, SQUARES)) == 26
        assert shown(page, "#cell") == []

    def test_all_that_the_report_knows(self, page: Page, made: str) -> None:
        page.open(f"{made}#R640-os1-none")
        page.wait("!document.querySelector('#cell').hidden")
        text = page.evaluate("document.querySelector('#cell').innerText")
        for wanted in (
            "Changes since the last publication", "-march=other", "demo-v1-R640-os1-none.tar.gz", "13 min 33 s",
            "shared by 3 cells", "check 11", "emulated, as SandyBridge", "crc32_skylake_avx512_1", "waived",
            "dispatched", "only by init, which asks the CPU", "-march=native", "31", "GLIBC 2.34",
            "lib/libtcmalloc.so.4", "$ORIGIN",
            "https://example.org/pull/3", "it does not compile without", "300 packages", "manifest.json",
            samples.digest("compile", "os1-skylake_avx512-none"),
        ):  # fmt: skip
            assert wanted in text, wanted
        assert shown(page, "#cell section > h2") == [
            "Changes since the last publication", "Packages", "Stages", "Checks", "Audit", "Flags", "Linkage",
            "Source and system", "Keys and digests",
        ]  # fmt: skip

    def test_a_failed_one_says_what_failed_first(self, page: Page, made: str) -> None:
        page.click(".failures a")
        page.wait("!document.querySelector('#cell').hidden")
        assert "no such thing" in shown(page, ".remarks.failed")[0]
        assert "the recipe failed" in shown(page, ".remarks.failed")[0]
        assert "needs compile, which failed" in page.evaluate("document.querySelector('#cell').innerText")

    def test_packages_are_links_where_they_are(self, page: Page, made: str) -> None:
        page.open(f"{made}#{CELL}")
        page.wait("!document.querySelector('#cell').hidden")
        anchors = "document.querySelectorAll('#cell section:first-of-type tbody a')"
        links = page.evaluate(f"[...{anchors}].map((e) => e.href)")
        folder = made.rpartition("/")[0]
        assert links == [f"{folder}/{each['path']}" for each in samples.packages(CELL, "os1")]
        page.open(f"{made}#R630-os1-none")
        page.wait("document.querySelector('#cell-title').textContent.startsWith('R630')")
        assert page.evaluate(f"{anchors}.length") == 0

    def test_next_and_previous(self, page: Page, made: str) -> None:
        page.open(f"{made}#{CELL}")
        page.wait("!document.querySelector('#cell').hidden")
        page.click("#cell nav a:nth-of-type(3)")
        page.wait("location.hash === '#R620-os2-none'")
        page.click("#cell nav a:nth-of-type(2)")
        page.wait(f"location.hash === '#{CELL}'")

    def test_folded_parts_are_made_when_they_are_opened(self, page: Page, made: str) -> None:
        page.open(f"{made}#{CELL}")
        page.wait("!document.querySelector('#cell').hidden")
        assert not page.evaluate("document.querySelector('#cell').textContent.includes('build-299')")
        page.evaluate("for (const e of document.querySelectorAll('#cell details')) e.open = true")
        page.wait("document.querySelector('#cell').textContent.includes('run-119')")
        assert page.evaluate("document.querySelectorAll('#cell details:not(:has(> :nth-child(2)))').length") == 0

    def test_a_button_leads_to_a_part(self, page: Page, made: str) -> None:
        page.open(f"{made}#{CELL}")
        page.wait("!document.querySelector('#cell').hidden")
        page.click(".contents li:nth-child(5) button")
        assert page.evaluate("document.activeElement.textContent") == "Flags"
        assert page.evaluate("location.hash") == f"#{CELL}"


class TestReaders:
    @pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)])
    @pytest.mark.parametrize("where", ["", "#R640-os1-none", "#R700-os2-none"])
    def test_nothing_hinders_them(
        self, running: Browser, smaller: str, where: str, size: tuple[int, int], dark: bool
    ) -> None:
        opened = running.page(size=size, dark=dark)
        opened.open(smaller + where)
        opened.settle()
        opened.evaluate("for (const e of document.querySelectorAll('details')) e.open = true")
        opened.settle()
        assert axe.violations(opened) == []
        opened.close()

    @pytest.mark.parametrize("where", ["", f"#{CELL}", "#R820-os1-none"])
    def test_a_phone_need_not_scroll_to_the_side(self, running: Browser, made: str, where: str) -> None:
        opened = running.page(size=PHONE)
        opened.open(made + where)
        opened.settle()
        assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        opened.close()

    def test_paper_has_no_controls_and_light_colours(self, running: Browser, made: str) -> None:
        opened = running.page(dark=True)
        opened.open(f"{made}#{CELL}")
        opened.media(dark=True, printed=True)
        opened.settle()
        assert shown(opened, "button") == []
        assert shown(opened, "#cell nav") == []
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        opened.evaluate("dispatchEvent(new Event('beforeprint'))")
        opened.wait("document.querySelector('#cell').textContent.includes('run-119')")
        opened.close()

    def test_without_a_script_there_are_tables(self, running: Browser, made: str) -> None:
        opened = running.page(script=False)
        opened.open(f"{made}#{CELL}")
        tree = opened.send("DOMSnapshot.captureSnapshot", computedStyles=[], includeDOMRects=False)
        texts = " ".join(tree["strings"])
        assert "demo-v1-R620-os1-none.tar.gz" in texts
        document = opened.send("DOM.getDocument")["root"]["nodeId"]
        for selector, visible in (("#grid", True), ("#all table", True), ("#controls", False), ("#cell", False)):
            node = opened.send("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
            try:
                opened.send("DOM.getBoxModel", nodeId=node)
                seen = True
            except Exception:  # noqa: BLE001  # the protocol's way to say that it has no box
                seen = False
            assert seen is visible, selector
        opened.close()


class TestHostile:
    @pytest.fixture
    def opened(self, running: Browser, tmp_path: Path) -> Iterator[tuple[Page, str]]:
        huge = "x" * 2_000_000
        audit = json.loads(
            json.dumps(samples.audit("sandybridge")).replace("reason 1 ", f"{'Q' * 8}").replace("crc32", "Q" * 9)
        )
        text = json.dumps(audit).replace("Q" * 9, json.dumps(NASTY)[1:-1]).replace("Q" * 8, json.dumps(NASTY)[1:-1])
        manifest = samples.manifest("R620", "os1")
        manifest["source"].update(
            url="javascript:window.hurt=1", commit=NASTY, head=NASTY, patches=[
                {"name": NASTY, "url": "javascript:window.hurt=1", "why": NASTY},
                {"name": "data", "url": "data:text/html,x"},
            ],
        )  # fmt: skip
        manifest[NASTY] = NASTY
        manifest["image"]["build_packages"] = {NASTY: NASTY}
        bad = samples.cell(
            "R620", "os1", "none", target=NASTY, wanted=NASTY + "2", tried=NASTY, not_run=NASTY, flags=[NASTY],
            finished=NASTY, audit=json.loads(text), manifest=manifest,
            native=samples.way(NASTY, failed=["check 1"], problem=NASTY, rest={NASTY: NASTY}),
            emulated={"ran": False, "reason": NASTY},
            adaptations=[{"gcc": NASTY, "cflags": [NASTY], "cxxflags": [NASTY], "why": NASTY}],
            stages=[samples.stage("compile", NASTY, status="failed", error=[NASTY, huge], cache=NASTY, key=NASTY)],
            artifacts=[{**samples.packages(CELL, "os1")[0], "path": f"os1/{NASTY}"}],
        )  # fmt: skip
        report = BuildReport(product=NASTY, version=NASTY, cells=(bad,))
        earlier = BuildReport(product=NASTY, version="1", cells=(samples.cell("R620", "os1", "none"),))
        url = written(tmp_path, report, earlier=earlier, since=NASTY)
        page = running.page()
        page.open(url)
        yield page, url
        page.close()

    def test_texts_are_texts(self, opened: tuple[Page, str]) -> None:
        page, url = opened
        page.open(f"{url}#{CELL}")
        page.wait("!document.querySelector('#cell').hidden")
        page.evaluate("for (const e of document.querySelectorAll('#cell details')) e.open = true")
        page.settle()
        assert page.evaluate("typeof window.hurt") == "undefined"
        assert page.evaluate("document.querySelectorAll('img, svg, iframe, object, embed, base, link').length") == 0
        assert page.evaluate("document.querySelectorAll('[onerror], [onload], [onclick]').length") == 0
        text = page.evaluate("document.querySelector('#cell').innerText")
        assert text.count("<img src=x") > 15
        assert "\u202e" not in text
        assert "\\u202e" in text
        assert "more letters" in text
        assert len(text) < 1_000_000
        assert page.troubles() == []

    def test_no_link_leads_to_a_script(self, opened: tuple[Page, str]) -> None:
        page, url = opened
        for where in ("", f"#{CELL}"):
            page.open(url + where)
            page.settle()
            links = page.evaluate("[...document.querySelectorAll('a')].map((e) => e.protocol)")
            assert links
            assert set(links) <= {"file:", "https:"}


def test_the_index_page_in_a_browser(running: Browser, tmp_path: Path) -> None:
    def artifact(model: str) -> Artifact:
        path = f"x86_64/demo-1.0-1.{model}.el7.x86_64.rpm"
        return Artifact(
            path=path, sha256=samples.digest(path), bytes=12 << 20, format="rpm", role="main", package="demo",
            version=f"1.0-1.{model}.el7", product_version="v1.0", cell=f"{model}-el7-none", allocator="none",
            target="zen", epoch=1, built="2026-01-01T00:00:00Z", published="2026-01-02T00:00:00Z", since=1,
            beside=(File(path=f"{path}.asc", sha256=samples.digest(model), bytes=1),),
        )  # fmt: skip

    places = tuple(
        Repository(
            path=f"el7/{model}", image="el7", model=model, generation=1, published="2026-01-02T00:00:00Z",
            artifacts=(artifact(model),),
        )
        for model in ("R620", "R630")
    )  # fmt: skip
    told = Catalogue(product="demo", summary="A server", url="https://x.example.org", key=None, repositories=places)
    path = tmp_path / "index.html"
    path.write_text(index_page(told, lambda *_: ("install it",), lambda _: ("install any",)), encoding="utf-8")
    for dark in (False, True):
        opened = running.page(dark=dark)
        opened.open(path.as_uri())
        opened.click("#q")
        opened.write("r630")
        assert shown(opened, ".file .name") == ["demo-1.0-1.R630.el7.x86_64.rpm"]
        opened.click(".install")
        assert "install it" in shown(opened, ".lines")[0]
        opened.wait("location.hash === '#q=r630'")
        assert axe.violations(opened) == []
        assert opened.troubles() == []
        opened.close()
