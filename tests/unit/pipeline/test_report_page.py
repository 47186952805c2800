"""The page of a build report: what is in it is safe, complete and the same every time; and reports become one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import sample_reports as samples
from unit.helpers import make_spec

from pikaforge.cli import main
from pikaforge.errors import ConfigError
from pikaforge.host import http
from pikaforge.pages.page import ASSETS
from pikaforge.pipeline import report, report_file
from pikaforge.pipeline.report_page import changes, data, merge, page, states
from pikaforge.pipeline.report_page.merge import FoundReport
from pikaforge.pipeline.report_record import BuildReport, CellRecord
from pikaforge.plan.matrix import all_cells

NASTY = "</script><img src=x onerror=alert(1)>\"'&amp;<!--\u2028\u202e"
HERE = Path("/somewhere/report.html")
CELL = "R620-debian12-none"


def of(*cells: CellRecord, version: str = "v1.0", product: str = "demo") -> BuildReport:
    return BuildReport(product=product, version=version, cells=cells)


def cell(model: str = "R620", image: str = "debian12", allocator: str = "none", **changes: Any) -> CellRecord:
    return samples.cell(model, image, allocator, **changes)


def text(made: BuildReport, **given: Any) -> str:
    return page.text(made, page.sources(HERE, made, **given))


class Reader(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._script = attributes.get("id", "") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def json(self, id_: str) -> Any:
        """The data of a script element."""
        return json.loads(self.scripts[id_])


class TestSafety:
    @pytest.fixture
    def hostile(self) -> BuildReport:
        bad = samples.stage("compile", NASTY, status="failed", error=[NASTY], cache=NASTY, key=NASTY)
        artifacts = [{**samples.packages(CELL, "debian12")[0], "path": f"debian12/{NASTY}.tar.gz"}]
        manifest = {"source": {"url": "javascript:alert(1)", "patches": [{"name": NASTY, "url": NASTY}]}, NASTY: NASTY}
        one = cell(
            target=NASTY, wanted=NASTY + "2", not_run=NASTY, stages=[bad], status="failed", artifacts=artifacts,
            manifest=manifest, finished=NASTY, flags=[NASTY],
            native=samples.way(reason=NASTY, problem=NASTY, cpu=NASTY),
        )  # fmt: skip
        return of(one, product=NASTY, version=NASTY)

    def test_no_text_leaves_its_place(self, hostile: BuildReport) -> None:
        read, plain = Reader(text(hostile, earlier=hostile, since=NASTY)), Reader(text(of(cell())))
        assert {tag for tag, _ in read.tags} <= {tag for tag, _ in plain.tags} | {"ul", "li"}
        assert not [name for _, attributes in read.tags for name in attributes if name.startswith(("on", "style"))]
        assert not [a for _, a in read.tags if {"src", "srcset", "action", "background"} & a.keys()]

    def test_every_link_stays_here(self, hostile: BuildReport) -> None:
        for _, attributes in Reader(text(hostile)).tags:
            assert not re.match(r"\s*[a-z]+:|//", attributes.get("href", ""), re.IGNORECASE)

    def test_data_have_no_letter_that_means_something_around_them(self, hostile: BuildReport) -> None:
        read = Reader(text(hostile))
        held = {name: content for name, content in read.scripts.items() if name}
        assert {"data", data.CELL + CELL} <= held.keys()
        for content in held.values():
            assert not re.search("[<>&\u2028\u2029]", content)
        assert read.json("data")["product"] == NASTY

    def test_what_turns_other_text_round_is_an_escape_in_what_needs_no_script(self, hostile: BuildReport) -> None:
        visible = re.sub(r"<script.*?</script>", "", text(hostile), flags=re.DOTALL)
        assert "\u202e" not in visible
        assert "\\u202e" in visible

    def test_the_policy_forbids_all_but_the_page_itself(self) -> None:
        (policy,) = [a["content"] for _, a in Reader(text(of(cell()))).tags if "http-equiv" in a]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy


class TestContent:
    def test_the_same_report_gives_the_same_bytes(self) -> None:
        assert text(samples.big(4, 2, 2)) == text(samples.big(4, 2, 2))

    def test_each_cell_has_a_row_a_square_and_a_page(self) -> None:
        made = samples.big(26, 5)
        read = Reader(text(made))
        ids = {each.id for each in made.cells}
        squares = [a["data-cell"] for tag, a in read.tags if tag == "td" and "data-cell" in a]
        rows = [a["id"] for tag, a in read.tags if tag == "tr" and "id" in a]
        assert len(ids) == 130
        assert set(squares) == set(rows) == ids
        assert len(squares) == len(rows) == 130
        assert {data.CELL + id_ for id_ in ids} <= read.scripts.keys()

    def test_facts_that_cells_share_are_there_once(self) -> None:
        made = of(*(cell(f"R{number}") for number in range(600, 640)))
        one, forty = len(text(of(made.cells[0]))), len(text(made))
        assert forty < 3 * one
        facts = [name for name in Reader(text(made)).scripts if name.startswith(data.FACT)]
        assert len(facts) == len(set(facts)) == len([n for n in Reader(text(of(cell()))).scripts if "fact:" in n])

    def test_nodes_that_cells_share_are_one(self) -> None:
        overview = Reader(text(of(cell("R620"), cell("R720")))).json("data")
        assert {node["stage"]: node["cells"] for node in overview["nodes"] if node["cells"] == 2} == dict.fromkeys(
            ("source", "image", "compile", "audit", "smoke"), 2
        )
        assert [node["label"] for node in overview["nodes"] if node["cells"] == 1] == [
            "R620-debian12-none", "R720-debian12-none",
        ]  # fmt: skip

    def test_states_have_a_sign_beside_their_colour(self) -> None:
        made = of(cell(), samples.failed_cell("R630", "debian12", "none"), cell("R640", not_run="its twin was"))
        named = [(a["class"], a["data-cell"]) for tag, a in Reader(text(made)).tags if tag == "td" and "data-cell" in a]
        assert [state for state, _ in named] == ["passed", "failed", "partly"]
        assert len({state.sign for state in states.STATES.values()}) == len(states.STATES)

    def test_a_package_is_a_link_only_where_it_is(self, tmp_path: Path) -> None:
        made = of(cell())
        tar = made.cells[0].artifacts[0].path
        (tmp_path / "debian12").mkdir()
        for suffix in ("", ".sbom.json"):
            (tmp_path / f"{tar}{suffix}").write_bytes(b"")
        whole = page.text(made, page.sources(tmp_path / "report.html", made))
        packages = Reader(whole).json(data.CELL + CELL)["packages"]
        assert [each["beside"] for each in packages] == [[["SBOM", f"{tar}.sbom.json"]], None]

    def test_the_ends_of_logs(self, tmp_path: Path) -> None:
        label = "debian12-sandybridge-none"
        (tmp_path / "out" / label).mkdir(parents=True)
        lines = [f"line {number}" for number in range(100)]
        (tmp_path / "out" / label / "compile.log").write_text("\n".join(lines))
        made = of(cell())
        whole = page.text(made, page.sources(tmp_path / "dist" / "report.html", made, logs=tmp_path / "out"))
        read = Reader(whole)
        (log,) = [log for node in read.json("data")["nodes"] for log in node["logs"]]
        assert (log["name"], log["path"]) == (f"{label}/compile.log", f"../out/{label}/compile.log")
        assert read.json(data.FACT + log["end"]).splitlines() == lines[-data.LOG_LINES :]

    def test_cells_of_the_matrix_that_no_report_has(self) -> None:
        spec = make_spec()
        planned = all_cells(spec)
        overview = Reader(text(of(cell()), planned=planned)).json("data")
        absent = {row["id"] for row in overview["cells"] if row["state"] == "absent"}
        assert absent == {each.id for each in planned} - {CELL}
        assert absent

    def test_links_lead_to_cells(self) -> None:
        links = [
            a["href"] for tag, a in Reader(text(samples.big(3, 2))).tags if tag == "a" and "#" in a.get("href", "")
        ]
        ids = {each.id for each in samples.big(3, 2).cells}
        assert {unquote(link[1:]) for link in links} == ids | {"content"}


class TestRemarks:
    def test_what_is_left_open(self) -> None:
        clean = cell(audit=samples.audit("sandybridge", functions=0) | {"waived": []})
        assert states.remarks(clean) == ()
        assert states.state_of(clean) == "passed"
        fallback = clean.model_copy(update={"wanted": "haswell"})
        assert states.remarks(fallback) == ("built for sandybridge, because the compiler knows no haswell",)

    def test_the_first_error(self) -> None:
        assert (
            states.first_error(samples.failed_cell("R620", "os", "none"))
            == "the recipe failed: main.cc:3:1: error: no such thing"
        )
        blocked = samples.stage("audit", "x", status="blocked", blocked_by="compile")
        assert states.first_error(cell(status="failed", stages=[blocked])) == "compile failed"
        assert states.first_error(cell()) == ""


def found(folder: Path, *cells: CellRecord, **changes: Any) -> FoundReport:
    return FoundReport(folder=folder, report=of(*cells, **changes))


class TestMerge:
    def test_paths_are_relative_to_the_page(self, tmp_path: Path) -> None:
        whole = merge.merged([found(tmp_path / "a", cell("R620")), found(tmp_path / "b", cell("R630"))], base=tmp_path)
        assert [each.artifacts[0].path for each in whole.cells] == [
            "a/debian12/demo-v1-R620-debian12-none.tar.gz", "b/debian12/demo-v1-R630-debian12-none.tar.gz",
        ]  # fmt: skip

    def test_26_models_of_5_jobs(self, tmp_path: Path) -> None:
        jobs = [
            found(tmp_path / f"job-{number}", *(c for c in samples.big(26, 5).cells if c.image == f"os{number}"))
            for number in range(1, 6)
        ]
        whole = merge.merged(jobs, base=tmp_path)
        assert [each.id for each in whole.cells] == [each.id for each in samples.big(26, 5).cells]

    def test_the_later_one_counts(self, tmp_path: Path) -> None:
        old = cell(finished="2026-01-01T00:00:00+00:00", not_run="x")
        new = samples.failed_cell("R620", "debian12", "none", finished="2026-01-02T00:00:00+00:00")
        for order in ((old, new), (new, old)):
            whole = merge.merged([found(tmp_path, each) for each in order], base=tmp_path)
            assert whole.cells == (new,)

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            (found(Path("b"), cell(), version="v2.0"), "demo v1.0 in a; demo v2.0 in b"),
            (found(Path("b"), cell(), product="other"), "demo v1.0 in a; other v1.0 in b"),
            (found(Path("b"), cell(audit=samples.audit("zen"))), "the audit stage has two results under one key"),
            (
                found(Path("b"), cell(manifest=samples.manifest("R620", "debian12", commit="e" * 40))),
                "the package stage has two results under one key",
            ),
            (found(Path("b"), cell(model="R630", id=CELL)), "its model is R620 and R630"),
            (found(Path("b"), cell(status="failed")), "it is done and failed at the same moment"),
        ],
    )
    def test_contradictions(self, other: FoundReport, said: str) -> None:
        if other.report.cells[0].model == "R630":
            moved = other.report.cells[0].model_copy(update={"id": CELL})
            other = found(Path("b"), moved)
        with pytest.raises(ConfigError, match="contradict each other") as caught:
            merge.merged([found(Path("a"), cell()), other], base=Path())
        assert said in caught.value.hint


class TestChanges:
    def changed(self, old: CellRecord, new: CellRecord) -> dict[str, tuple[str, str]]:
        lines = changes.changes(of(new), of(old))[CELL]
        return {line["what"]: (line["before"], line["after"]) for line in lines}

    def test_nothing(self) -> None:
        assert self.changed(cell(), cell(finished="2027-01-01T00:00:00+00:00")) == {}

    def test_a_new_cell_and_another_version(self) -> None:
        assert changes.changes(of(cell()), of())[CELL] == [{"what": "cell", "before": "", "after": "new"}]
        (line,) = changes.changes(of(cell(), version="v2"), of(cell(), version="v1"))[CELL]
        assert line == {"what": "version", "before": "v1", "after": "v2"}

    def test_what_is_compared(self) -> None:
        old = cell()
        new = cell(
            target="haswell", wanted="haswell", manifest=samples.manifest("R620", "debian12", commit="e" * 40),
            audit=samples.audit("haswell") | {"kernel_flags": ["avx", "avx2"]},
            native=samples.way(failed=["check 3"]),
            artifacts=samples.packages(CELL, "debian12", seed="other"),
        )  # fmt: skip
        found = self.changed(old, new)
        assert found["target"] == ("sandybridge", "haswell")
        assert found["commit"] == ("c" * 40, "e" * 40)
        assert found["flags a host's CPU must have"] == ("popcnt, sse4_2", "avx2")
        assert found["checks, native"] == ("check 3 (passed)", "check 3 (failed)")
        assert found["tar (main)"][0] != found["tar (main)"][1]
        assert "packages of the build image" not in found

    def test_a_failed_cell_says_only_that(self) -> None:
        assert self.changed(cell(), samples.failed_cell("R620", "debian12", "none")) == {"state": ("passed", "failed")}

    def test_the_page_says_what_has_changed(self) -> None:
        made = of(cell(), cell("R630"))
        earlier = of(cell(flags=["-march=other"]), cell("R630"), cell("R640"))
        whole = text(made, earlier=earlier, since="the shop")
        assert "Since the report of the shop" in whole
        assert "1 of 2 cells have changed" in whole
        assert "1 cell of that report is not in this one" in whole


class TestVerb:
    def write(self, folder: Path, *cells: CellRecord, **changes: Any) -> Path:
        folder.mkdir(parents=True)
        (folder / report.NAME).write_bytes(report_file.text(of(*cells, **changes)))
        return folder

    def test_folders_become_one_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(tmp_path / "dist" / "a", cell("R620"))
        self.write(tmp_path / "dist" / "b", cell("R630"))
        assert main.main(["report", str(tmp_path / "dist"), "--dist", str(tmp_path / "dist")]) == 0
        assert "2 cells of 2 reports, 0 failed" in capsys.readouterr().out
        overview = Reader((tmp_path / "dist" / "report.html").read_text()).json("data")
        assert [row["id"] for row in overview["cells"]] == [CELL, "R630-debian12-none"]

    def test_since(self, tmp_path: Path) -> None:
        self.write(tmp_path / "dist", cell())
        old = self.write(tmp_path / "root", cell(flags=["-march=other"]))
        for since in (old, old / report.NAME):
            target = tmp_path / "page.html"
            words = ["report", str(tmp_path / "dist"), "--since", str(since), "--page", str(target)]
            assert main.main(words) == 0
            (line,) = Reader(target.read_text()).json(data.CELL + CELL)["changes"]
            assert line["what"] == "compiler flags"

    @pytest.mark.parametrize(
        "url", ["https://a.example/root", "https://a.example/root/", "https://a.example/report.json"]
    )
    def test_since_a_published_root(self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def get(address: str, *, limit: int) -> bytes:
            asked.append(address)
            return report_file.text(of(cell(flags=["-march=other"])))

        monkeypatch.setattr(http, "get", get)
        self.write(tmp_path / "dist", cell())
        target = tmp_path / "page.html"
        assert main.main(["report", str(tmp_path / "dist"), "--since", url, "--page", str(target)]) == 0
        assert asked == [url if url.endswith(".json") else "https://a.example/root/report.json"]
        assert Reader(target.read_text()).json(data.CELL + CELL)["changes"] != []

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["report", "nowhere"], "there is no such folder"),
            (["report", "."], "there is no build report"),
            (["report", "broken"], "no build report that this version reads"),
            (["report", "dist", "--since", "nowhere"], "cannot read it"),
            (["report", "dist", "--since", "broken"], "no build report that this version reads"),
            (["report", "dist", "--since", "other"], "a report of other, and not of demo"),
            (["report", "dist", "other"], "contradict each other"),
        ],
    )
    def test_errors(
        self, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setenv("PIKAFORGE_CWD", str(tmp_path / "here"))
        here = tmp_path / "here"
        here.mkdir()
        self.write(here / "deep" / "er" / "dist", cell())
        (here / "deep" / "er" / "dist").rename(here / "dist")
        self.write(here / "deep" / "er" / "other", cell(), product="other")
        (here / "deep" / "er" / "other").rename(here / "other")
        (here / "broken").mkdir()
        (here / "broken" / report.NAME).write_text("{}")
        if words[1] == ".":
            words = ["report", "deep"]
        assert main.main(words) == 2
        assert said in capsys.readouterr().err


HARNESS = """
const [script, told, hashes] = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const page = require(script);
const data = page.prepare(told);
const ids = new Set(data.cells.map((cell) => cell.id));
const answers = hashes.map((hash) => {
  const where = page.readHash(hash, ids);
  if (where.cell !== undefined) return { cell: where.cell };
  return { found: page.search(data, where.asked).map((cell) => cell.id), hash: page.writeHash(where.asked) };
});
process.stdout.write(JSON.stringify({
  answers, visible: page.visible("a\\u202eb\\u0007"), seconds: [0, 59.9, 61, 3725].map(page.seconds),
  addresses: ["https://a.example/x", "javascript:alert(1)", " JaVaScRiPt:alert(1)", "data:text/html,x", "//x", "x"]
    .map(page.webAddress),
}));
"""
DONE, FAILED = "R620-debian12-none", "R630-debian12-none"
SEARCHES: dict[str, tuple[list[str], str]] = {
    "": ([DONE, FAILED], ""),
    "#q=r620": ([DONE], "#q=r620"),
    "#R63": ([FAILED], "#q=R63"),
    "#q=debian12+failed": ([FAILED], "#q=debian12+failed"),
    "#q=the+recipe": ([FAILED], "#q=the+recipe"),
    "#q=sandybridge": ([DONE, FAILED], "#q=sandybridge"),
    f"#q=sha256:{samples.packages(DONE, 'debian12')[0]['sha256'][:8]}": (
        [DONE], f"#q=sha256%3A{samples.packages(DONE, 'debian12')[0]['sha256'][:8]}",
    ),
    "#state=failed": ([FAILED], "#state=failed"),
    "#model=R620&state=failed": ([], "#state=failed&model=R620"),
    "#changed=1": ([DONE], "#changed=1"),
    "#q=%": ([], "#q=%25"),
    "#unknown=1": ([DONE, FAILED], ""),
}  # fmt: skip
"""By hash: the cells that it finds, and how it is written again."""


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the page's own script says; only for a fixture of the module, before the first test is sealed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is missing: it runs the page's script without a browser")
    new = of(cell("R620"), samples.failed_cell("R630", "debian12", "none"))
    old = of(cell("R620", flags=["-march=other"]), samples.failed_cell("R630", "debian12", "none"))
    told = Reader(text(new, earlier=old, since="x")).json("data")
    hashes = [*SEARCHES, f"#{DONE}", f"#{DONE.replace('-', '%2D')}"]
    given = json.dumps([str(ASSETS / "report.js"), told, hashes])
    ran = subprocess.run([node, "-e", HARNESS], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return {**found, "answers": dict(zip(hashes, found["answers"], strict=True))}


class TestScript:
    @pytest.mark.parametrize("asked", SEARCHES)
    def test_what_a_search_finds(self, asked: str, answers: dict[str, Any]) -> None:
        found, written = SEARCHES[asked]
        assert answers["answers"][asked] == {"found": found, "hash": written}

    def test_a_hash_that_is_a_cell(self, answers: dict[str, Any]) -> None:
        for asked in (f"#{DONE}", f"#{DONE.replace('-', '%2D')}"):
            assert answers["answers"][asked] == {"cell": DONE}

    def test_letters_that_control_are_shown(self, answers: dict[str, Any]) -> None:
        assert answers["visible"] == "a\\u202eb\\u0007"

    def test_times(self, answers: dict[str, Any]) -> None:
        assert answers["seconds"] == ["0 s", "59.9 s", "1 min 1 s", "1 h 2 min"]

    def test_only_addresses_of_the_web_are_links(self, answers: dict[str, Any]) -> None:
        assert answers["addresses"] == ["https://a.example/x", None, None, None, None, None]
