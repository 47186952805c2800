"""Documents say what is there: links, anchors and paths of files are checked, and so are the lists in them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import documented
import pytest

from pikaforge.cli.arguments import parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/glossary.md",
    "docs/load-test.md", "docs/proof.md", "docs/recipes.md", "docs/decisions/README.md",
)  # fmt: skip
BASES = ("", "build/pikaforge", "tests", "docker")
"""Folders that a path in a document may be relative to, beside the document's own."""
SUFFIXES = (
    "cc", "csv", "css", "h", "html", "js", "json", "lock", "md", "py", "service", "sh", "toml", "tsv", "txt", "xml",
    "yaml", "yml",
)  # fmt: skip
"""Of files that a document may name without a folder."""
PLACEHOLDER = re.compile(r"<[a-z ]+>|\b(?:NAME|FAMILY|IMAGE|MODEL|NNNN)(?=\b|_)|(?<=_)(?:NAME|FAMILY|IMAGE|MODEL)\b")
"""What stands for a part of a path that the reader fills in."""
MADE = ("out", "dist", "repo", ".venv", ".nox", "src", "tree")
"""Folders that are made at run time, on this machine or in a job."""
PACKAGED = ("utils", "lib", "licenses", "bin", "conf", "include")
"""Folders of a package."""
MADE_FILES = (
    "sources.lock", "docs/coverage.md", "manifest.json", "report.json", "result.json", "repository.json", "repo.json",
    "index.html", "report.html", "repomd.xml", "X.sbom.json", "X.intoto.json",
)  # fmt: skip
"""Files that the tool writes, so that a checkout need not have them."""
SKIPPED = re.compile(r"\..*|__pycache__|download|out|dist|repo|repo-.*|.*\.egg-info")
KEPT = (".github", ".ci")
SAMPLE = "tests/sample/"
"""Documents below describe repositories that are made of what lies beside them, with paths as they are there."""

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()<>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.*?)\s*#*$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z0-9_.*<>/-]+")
SESSION = re.compile(r"\bnox -s ([a-z]+)([^`\n]*)")
TASK = re.compile(r"\binvoke (?!--)([a-z.*]+)([^`\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
TERM = re.compile(r"- \*\*(.+?)\*\*: \S.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The files of a checkout, without what is made in it."""

    root: Path
    files: frozenset[str]
    """Paths below the root."""
    folders: frozenset[str]
    names: frozenset[str] = field(default_factory=frozenset)
    """Of all files, without their folders."""

    @classmethod
    def of(cls, root: Path) -> Checkout:
        """Read the names of all files."""
        files = frozenset(path.relative_to(root).as_posix() for path in _walk(root, top=True))
        folders = {""}
        for name in files:
            while name := posixpath.dirname(name):
                folders.add(name)
        return cls(root=root, files=files, folders=frozenset(folders), names=frozenset(map(posixpath.basename, files)))

    @property
    def documents(self) -> list[str]:
        """Paths of all documents."""
        return sorted(name for name in self.files if name.endswith(".md"))

    def text(self, name: str) -> str:
        """Return the text of a file."""
        return (self.root / name).read_text(encoding="utf-8")

    def has(self, path: str) -> bool:
        """Return whether there is a file or folder at a path, in which `*` stands for a part of a name."""
        path = path.rstrip("/")
        if "*" not in path:
            return path in self.files or path in self.folders
        pattern = re.compile("[^/]*".join(re.escape(part) for part in re.split(r"\*+", path)))
        return any(pattern.fullmatch(name) for names in (self.files, self.folders) for name in names)

    def has_name(self, name: str) -> bool:
        """Return whether a file anywhere has a name."""
        pattern = re.compile("[^/]*".join(re.escape(part) for part in name.split("*")))
        return name in self.names or ("*" in name and any(pattern.fullmatch(each) for each in self.names))


def _walk(folder: Path, *, top: bool = False) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            # What is made has these names at the top only; and nothing that begins with a dot is ours elsewhere.
            made = SKIPPED.fullmatch(path.name) if top else path.name.startswith((".", "__pycache__"))
            if path.name in KEPT or (not made and path.name != "download"):
                yield from _walk(path)
        elif path.is_file() and path.name != ".git":
            yield path


def prose(text: str) -> str:
    """Return a document without its blocks of code."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number, made = 0, slug
        while made in found:
            number += 1
            made = f"{slug}-{number}"
        found.add(made)
    return found


def links(text: str) -> list[str]:
    """Return where a document's links lead."""
    text = CODE.sub("code", prose(text))
    return LINK.findall(text) + DEFINITION.findall(text)


def paths(text: str) -> list[str]:
    """Return the words in a document's code spans that are paths of files or folders, with `*` for placeholders."""
    found = []
    for _, span in CODE.findall(prose(text)):
        for word in span.split():
            name = PLACEHOLDER.sub("*", word.partition("::")[0].strip("'\",;"))
            if WORD.fullmatch(name) and _is_path(word, name):
                found.append(name)
    return found


def _is_path(word: str, name: str) -> bool:
    if word in MADE_FILES or name.startswith(("/", "-")) or not re.search("[a-z]", name):
        return False
    first, slash, _ = name.partition("/")
    if slash:
        return first not in MADE and first not in PACKAGED
    stem, dot, suffix = name.rpartition(".")
    return bool(dot and stem) and suffix in SUFFIXES


def faults(checkout: Checkout, document: str) -> list[str]:
    """Return what a document says of files that is not so."""
    text = checkout.text(document)
    here = posixpath.dirname(document)
    wrong = [fault for link in links(text) if (fault := _link_fault(checkout, document, here, link))]
    for path in () if document.startswith(SAMPLE) else paths(text):
        bases = [posixpath.normpath(posixpath.join(base, path)) for base in (here, *BASES)]
        if not any(map(checkout.has, bases)) and ("/" in path or not checkout.has_name(path)):
            wrong.append(f"there is no file {path}")
    return wrong


def _link_fault(checkout: Checkout, document: str, here: str, link: str) -> str:
    if ELSEWHERE.match(link):
        return ""
    path, _, anchor = link.partition("#")
    target = posixpath.normpath(posixpath.join(here, path)) if path else document
    if not checkout.has(target.replace("*", "?")) and target != ".":
        return f"the link {link} leads nowhere"
    if anchor and (target not in checkout.files or anchor not in anchors(checkout.text(target))):
        return f"the link {link} names no heading"
    return ""


def options_of(verb: str) -> set[str]:
    """Return the options of a verb of the tool; for `tool`, those of all verbs."""
    (verbs,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    chosen = verbs.values() if verb == "tool" else [verbs[verb]]
    return {option for each in chosen for action in each._actions for option in action.option_strings}


def command_faults(text: str) -> list[str]:
    """Return which sessions of nox, tasks of invoke, and options of both a document names that do not exist."""
    wrong = []
    sessions = re.findall(r"^def ([a-z]+)\(session: nox\.Session\)", this_checkout().text("noxfile.py"), re.MULTILINE)
    for name, rest in SESSION.findall(text):
        if name not in sessions:
            wrong.append(f"there is no session {name}")
        elif name not in ("tests", "lint", "docs"):  # their arguments are those of other programs
            unknown = set(OPTION.findall(rest.partition(" # ")[0])) - options_of(name)
            wrong += [f"session {name} has no option {option}" for option in sorted(unknown)]
    found = re.findall(r"^def (\w+)\(_:? ?", this_checkout().text("tasks.py"), re.MULTILINE)
    tasks = [name.replace("_", ".", 1) for name in found]
    for name, rest in TASK.findall(text):
        known = [task for task in tasks if task == name or (name.endswith(".*") and task.startswith(name[:-1]))]
        if not known:
            wrong.append(f"there is no task {name}")
        else:
            unknown = set(OPTION.findall(rest)) - options_of(known[0].partition(".")[0])
            wrong += [f"task {name} has no option {option}" for option in sorted(unknown)]
    return wrong


def terms(text: str) -> list[str]:
    """Return the words that a glossary explains, in its order."""
    return [found.group(1) for line in text.splitlines() if (found := TERM.fullmatch(line))]


def disorder(words: Iterable[str]) -> list[str]:
    """Return the words that are not behind the one before them in the alphabet."""
    listed = [word.casefold() for word in words]
    return [second for first, second in pairwise(listed) if first >= second]


@lru_cache(maxsize=1)
def this_checkout() -> Checkout:
    """Return this checkout."""
    return Checkout.of(ROOT)


# ---- the documents


def test_the_documents_are_found() -> None:
    assert set(DOCUMENTS) <= set(this_checkout().documents)
    assert "LICENSE" in this_checkout().files


@pytest.mark.parametrize("document", this_checkout().documents)
def test_links_and_paths_are_right(document: str) -> None:
    assert faults(this_checkout(), document) == []


@pytest.mark.parametrize("document", [name for name in this_checkout().documents if not name.startswith(SAMPLE)])
def test_commands_exist(document: str) -> None:
    assert command_faults(this_checkout().text(document)) == []


# ---- documents for operators


SCRIPTS = re.compile(r"(?:sh )?/opt/pika/utils/")
RUNS = re.compile(r"(deploy|instance|run|metrics)\.sh -?\S|(nox -s|invoke|redis-cli|systemctl) \S")
"""How a command begins that a document names in its text."""


def _words(command: str) -> list[str]:
    return SCRIPTS.sub("", command.partition(" #")[0]).replace("PORT", "9221").split()


def test_a_test_runs_each_command() -> None:
    """Or the same with arguments of its own; or it is said why none can."""
    blocks = [block for page in documented.pages() for block in documented.blocks(page)]
    ours = {(block.page, block.section) for block in blocks if block.language == documented.SHELL}
    assert len(ours) > 50
    ran = documented.sections_that_tests_run(ROOT / "tests/integration")
    there = set(this_checkout().documents)
    said = {key for key in documented.RUN_BY.keys() | documented.NOT_RUN.keys() if key[0] in there}
    whole = {page for page, section in said if section == documented.WHOLE}
    assert sorted(key for key in ours - ran - said if key[0] not in whole) == []
    assert sorted(key for key in said - ours if key[0] not in whole) == [], "these are no commands any more"
    assert sorted(said & ran) == [], "these are run"
    for (page, _), name in documented.RUN_BY.items():
        path, _, test = name.partition("::")
        assert page not in there or f"def {test}(" in this_checkout().text(path), name


def test_a_test_runs_each_command_for_operators() -> None:
    ours = [block for page in documented.PAGES for block in documented.blocks(page) if block.language == "sh"]
    assert len(ours) > 20
    ran = documented.sections_that_tests_run(ROOT / "tests/integration")
    assert sorted({(block.page, block.section) for block in ours} - ran) == []
    known = [_words(line) for block in ours for line in block.text.splitlines()]
    told = [(page, span) for page in documented.PAGES for _, span in CODE.findall(prose(this_checkout().text(page)))]
    wanted = [(page, span) for page, span in told if RUNS.match(span)]
    timed = [block for page in documented.PAGES for block in documented.blocks(page) if block.language == "crontab"]
    wanted += [(block.page, line.split(" root ")[1]) for block in timed for line in block.text.splitlines()]
    missing = [f"{page}: {span}" for page, span in wanted if not any(set(_words(span)) <= set(line) for line in known)]
    assert not missing, missing


def test_a_command_for_operators_that_no_test_runs_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("import documented\nfor x in documented.commands('docs/x.md', 'One'):\n    x\n")
    assert documented.sections_that_tests_run(tmp_path) == {("docs/x.md", "One")}


GLOSSARY = (
    "model", "target", "image", "allocator", "cell", "stage", "group", "node", "key", "generation", "waiver", "gate",
    "site", "destination", "twin", "fallback", "stand-in", "sweep", "series", "offset", "sample", "probe", "product",
    "recipe",
    "runner", "multi-server check", "expectation", "bulk writes", "journal", "diff", "transaction", "workspace", "dist",
    "build report", "repository state", "selector", "lock (sources.lock)", "tools image", "emulator", "dispatch",
    "distribution library", "baseline",
)  # fmt: skip


def test_the_glossary_has_a_line_for_each_word() -> None:
    text = this_checkout().text("docs/glossary.md")
    words = terms(text)
    assert set(GLOSSARY) - set(words) == set()
    assert disorder(words) == []
    lines = [line for line in text.splitlines() if line.startswith(("-", " "))]
    assert [line for line in lines if not TERM.fullmatch(line)] == []


def test_the_index_has_each_decision() -> None:
    folder = "docs/decisions"
    text = this_checkout().text(f"{folder}/README.md")
    records = sorted(name for name in this_checkout().files if re.fullmatch(rf"{folder}/\d{{4}}-[a-z0-9-]+\.md", name))
    assert [f"{folder}/{link}" for link in links(text)] == records
    assert [int(posixpath.basename(name)[:4]) for name in records] == list(range(1, len(records) + 1))
    for name in records:
        title, *sections = HEADING.findall(this_checkout().text(name))
        assert f"[{title}]({posixpath.basename(name)})" in text
        assert sections == ["Context", "Decision", "Consequences"]


RECIPES = (
    "hardware model", "OS image", "OS family", "package format", "stage", "kind of destination (site)", "allocator",
    "smoke check", "kind of probe", "command-line option", "product",
)  # fmt: skip


def test_each_recipe_names_files_a_test_and_a_check() -> None:
    _, _, recipes = this_checkout().text("CONTRIBUTING.md").partition("## Recipes of changes\n")
    parts = re.split(r"^### ", recipes, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == [f"A new {name}" for name in RECIPES]
    for part in parts:
        steps, test, check = re.split(r"^(?:Test|Check):", part, flags=re.MULTILINE)
        assert paths(steps), part
        assert [path for path in paths(test) if path.startswith("tests/")], part
        assert CODE.search(check) or "as for" in check, part


# ---- the checker


@pytest.fixture
def small(tmp_path: Path) -> Checkout:
    """A checkout of a few files; out/ is made by the tool."""
    for name, text in {
        "README.md": "# Top\n\n## Two words\n\n## Two words\n\n```\n# no heading\n```\n",
        "docs/page.md": "# A `code` & more\n",
        "build/pikaforge/plan/plan.py": "",
        "docker/debian/Dockerfile": "",
        "tests/unit/test_one.py": "",
        "out/made.md": "[wrong](nowhere.md)\n",
        ".venv/made.md": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return Checkout.of(tmp_path)


def said(checkout: Checkout, text: str) -> list[str]:
    (checkout.root / "docs" / "page.md").write_text(text, encoding="utf-8")
    return faults(checkout, "docs/page.md")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](nowhere.md)", "the link nowhere.md leads nowhere"),
        ("[a](README.md)", "the link README.md leads nowhere"),
        ("[a](../../outside.md)", "the link ../../outside.md leads nowhere"),
        ("a [link\nin two lines](../docs/none.md)", "the link ../docs/none.md leads nowhere"),
        ("[`code`](../none/)", "the link ../none/ leads nowhere"),
        ("[a][b]\n\n[b]: none.md", "the link none.md leads nowhere"),
        ("![picture](none.png)", "the link none.png leads nowhere"),
        ("[a](#none)", "the link #none names no heading"),
        ("[a](../README.md#two-words-2)", "the link ../README.md#two-words-2 names no heading"),
        ("[a](../README.md#no-heading)", "the link ../README.md#no-heading names no heading"),
        ("[a](../docker#debian)", "the link ../docker#debian names no heading"),
        ("`plan/none.py`", "there is no file plan/none.py"),
        ("`none/plan.py`", "there is no file none/plan.py"),
        ("`none.py`", "there is no file none.py"),
        ("`build/pikaforge/none/`", "there is no file build/pikaforge/none/"),
        ("`docker/<family>/none.sh`", "there is no file docker/*/none.sh"),
        ("`tests/unit/*.sh`", "there is no file tests/unit/*.sh"),
        ("`nox -s tests -- tests/unit/test_two.py::test_x`", "there is no file tests/unit/test_two.py"),
        ("`in two\ntests/lines.py`", "there is no file tests/lines.py"),
        ("``a ` and plan/none.py``", "there is no file plan/none.py"),
    ],
)
def test_what_is_wrong_is_found(small: Checkout, text: str, fault: str) -> None:
    assert said(small, text) == [fault]


@pytest.mark.parametrize(
    "text",
    [
        "[a](../README.md) [b](page.md) [c](../docs/) [d](https://example.org/none.md) [e](mailto:a@example.org)",
        "[a](../README.md#two-words) [b](../README.md#two-words-1)",
        "# A `code` & more\n\n[a](#a-code--more)",
        "`plan/plan.py` `build/pikaforge/plan/plan.py` `plan.py` `debian/Dockerfile` `unit/test_one.py` `docs/`",
        "`docker/<family>/Dockerfile` `docker/FAMILY/Dockerfile` `tests/unit/test_NAME.py` `tests/unit/*.py`",
        "`out/store/x.json` `dist/<image>/` `utils/gate.sh` `sources.lock` `/etc/none.md` `~/none.md` `--none/x`",
        "`v3.4.0` `a.b` `OWNER/NAME` `https://example.org/none.py` `$HOME/none.py`",
        "```\n[a](none.md) `none.py`\n```",
        "`[a](none.md)`",
    ],
)
def test_what_is_right_is_let_through(small: Checkout, text: str) -> None:
    assert said(small, text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`nox -s build -- R620 --locked`, `nox -s tests -- -k x --any`, `nox -s VERB -- --help`", []),
        ("`invoke lock --image debian12`, `invoke patches.*`, `invoke --list`, `nox -s tool -- lock --image el9`", []),
        ("`nox -s biuld -- R620`", ["there is no session biuld"]),
        ("```sh\n.venv/bin/nox -s plan -- R620 --jobs 3   # --nothing\n```", ["session plan has no option --jobs"]),
        ("`invoke patches.apply`", ["there is no task patches.apply"]),
        ("`invoke images.list --all`", ["task images.list has no option --all"]),
    ],
)
def test_commands_that_do_not_exist_are_found(text: str, found: list[str]) -> None:
    assert command_faults(text) == found


def test_what_is_made_is_no_document(small: Checkout) -> None:
    assert small.documents == ["README.md", "docs/page.md"]


def test_words_out_of_order_are_found() -> None:
    assert disorder(["a", "B", "c"]) == []
    assert disorder(["b", "A", "c", "c"]) == ["a", "c"]
    assert terms("# Words\n\n- **a b**: what it is.\n- **c** no colon\n- **d**: \n") == ["a b"]
