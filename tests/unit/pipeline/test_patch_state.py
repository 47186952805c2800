"""What the guest says of each patch, as the stage keeps it and as a table shows it;
and what submodules patches move."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pikaforge.config import load
from pikaforge.config.patch_series import Series
from pikaforge.errors import HostError
from pikaforge.host import git, git_cache
from pikaforge.pipeline.source import patch_state, pointers, source
from pikaforge.pipeline.source.facts import Offset, PatchFacts, SourceFacts, State
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.source.patches import Patch
from pikaforge.pipeline.source.pointers import Move, moves

SHA = {letter: letter * 40 for letter in "abcdef"}


def patch(name: str, **more: Any) -> Patch:
    return Patch(name=name, kind="am", strip=1, sha256=f"sha-{name}", **more)


# ---- facts


def test_the_facts_of_each_patch() -> None:
    wanted = (patch("pull-1"), patch("file x.patch"), patch("quilt d/y.patch", already="refuse"))
    lines: patch_state.GuestLines = {
        "state": [("0000", "applied"), ("0001", "conflict"), ("0002", "present")],
        "offset": [("0000", "a.c", "2", "-3"), ("0000", "a.c", "1", "4")],
        "reason": [("0001", "it does not apply"), ("0001", "\x1b[31mhunk\u2028#1\x9b")],
        "note": [("0002", "it came with abc")],
    }
    one, two, three = patch_state.read(lines, wanted)
    assert one == PatchFacts(
        name="pull-1",
        sha256="sha-pull-1",
        state="applied",
        offsets=(Offset(path="a.c", hunk=2, lines=-3), Offset(path="a.c", hunk=1, lines=4)),
    )
    assert patch_state.findings(two, "skip") == ("it does not apply", " [31mhunk #1 "), "no patch speaks to a terminal"
    assert patch_state.refused(three, "refuse")
    assert patch_state.findings(three, "refuse") == (
        "patch quilt d/y.patch is in the source already, and `already: refuse` forbids that",
        "it came with abc",
    )
    assert patch_state.findings(one, "refuse") == ()


@pytest.mark.parametrize(
    "states", [[], [("0000", "maybe")], [("0000", "applied"), ("0000", "present")], [("0001", "applied")]]
)
def test_facts_that_do_not_fit(states: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match="pull-1"):
        patch_state.read({"state": states}, [patch("pull-1")])


def fact(name: str, state: State, **more: Any) -> PatchFacts:
    return PatchFacts(name=name, sha256="", state=state, **more)


def test_no_password_is_kept() -> None:
    given = patch("pull-1", url="https://user:secret@example.org/1.patch", why="a bug")
    [found] = patch_state.read({"state": [("0000", "present")]}, [given])
    assert (found.url, found.why) == ("https://***@example.org/1.patch", "a bug")


def parsed(*entries: dict[str, Any]) -> Series:
    return load.parse_series(yaml.safe_dump({"patches": list(entries)}), file="series.yaml")


def test_rows_of_a_quilt_folder_within_another() -> None:
    wanted = parsed({"quilt": "a"}, {"quilt": "a/x", "already": "refuse"}, {"quilt": "b/x"})
    facts = [fact(f"quilt {name}/y", "present") for name in ("a", "a/x", "b/x")]
    assert [(name, state) for name, state, _ in patch_state.rows(wanted, facts)] == [
        ("quilt a/y", "present"),
        ("quilt a/x/y", "refused"),
        ("quilt b/x/y", "present"),
    ]


def test_every_entry_has_a_row() -> None:
    wanted = parsed(
        {"pull": 1, "url": "https://example.org/1"},
        {"quilt": "debian", "already": "refuse"},
        {"pull": 2, "url": "https://example.org/2", "enabled": False, "why": "later"},
        {"quilt": "debian-more"},
        {"file": "x.patch"},
        {"file": "absent.patch", "enabled": False},
    )
    facts = [
        fact(
            "pull-1",
            "applied",
            offsets=(Offset(path="a.c", hunk=1, lines=3), Offset(path="a.c", hunk=2, lines=-1)),
        ),
        fact("quilt debian/a.patch", "present"),
        fact("quilt debian/b.patch", "applied"),
        fact("quilt debian-more/a.patch", "present", notes=("it came with abc",)),
        fact("file x.patch", "conflict", reasons=("patch x does not apply", "hunk #1 is rejected in a.c")),
    ]
    assert list(patch_state.rows(wanted, facts)) == [
        ("pull-1", "applies", "a.c: hunk #1 +3, #2 -1 lines"),
        ("quilt debian/a.patch", "refused", "-"),
        ("quilt debian/b.patch", "applies", "-"),
        ("pull-2", "disabled", "later"),
        ("quilt debian-more/a.patch", "present", "it came with abc"),
        ("file x.patch", "conflict", "hunk #1 is rejected in a.c"),
        ("file absent.patch", "disabled", "-"),
    ]


def test_what_a_source_has_already_is_said_in_a_line() -> None:
    facts = [fact("pull-1", "present"), fact("pull-2", "applied"), fact("pull-3", "present", notes=("x", "y"))]
    assert patch_state.remark(facts) == "in the source already, so not applied: pull-1, pull-3 (x; y)"
    assert patch_state.remark(facts[1:2]) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["the source is v2 of https://example.org/x.git (abc), not product.source; packages keep the version v1"]),
        ({"kind": "clone", "url": ""}, ["the source is v2 (abc), not product.source; packages keep the version v1"]),
        ({"kind": "product"}, []),
        ({"kind": "sample"}, []),
        (
            {"kind": "product", "patches": (fact("pull-1", "present"),)},
            ["in the source already, so not applied: pull-1"],
        ),
    ],
)
def test_remarks_on_a_source(changes: dict[str, Any], said: list[str]) -> None:
    facts = SourceFacts(
        kind="repository",
        url="https://example.org/x.git",
        ref="v2",
        tag="v2",
        version="v2",
        commit="abc",
        origin="x",
        head="abc",
        epoch=1,
        patches=(),
        submodules={},
    )
    assert list(source.remarks(facts.model_copy(update=changes), version="v1")) == said


# ---- submodules


def move(path: str, old: str, new: str) -> str:
    """A diff that moves a submodule."""
    parts = [f"diff --git a/{path} b/{path}", "index 1..2 160000"]
    parts += [f"--- {f'a/{path}' if old else '/dev/null'}", f"+++ {f'b/{path}' if new else '/dev/null'}", "@@ -1 +1 @@"]
    parts += [f"-Subproject commit {old}"] if old else []
    parts += [f"+Subproject commit {new}"] if new else []
    return "\n".join(parts) + "\n"


TEXT = "diff --git a/b.c b/b.c\n--- a/b.c\n+++ b/b.c\n@@ -1,2 +1,2 @@\n x\n-y\n+z\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (move("third/x", SHA["a"], SHA["b"]), [Move(path="third/x", old=SHA["a"], new=SHA["b"])]),
        (move("third/x", "", SHA["b"]), [Move(path="third/x", old="", new=SHA["b"])]),
        (move("third/x", SHA["a"], ""), [Move(path="third/x", old=SHA["a"], new="")]),
        (
            f"From x\n\n---\n{TEXT}{move('x', SHA['a'], SHA['b'])}{TEXT}{move('y', SHA['c'], SHA['d'])}-- \n2.39\n",
            [Move(path="x", old=SHA["a"], new=SHA["b"]), Move(path="y", old=SHA["c"], new=SHA["d"])],
        ),
        (move("x", "a" * 64, "b" * 64).replace("\n", "\r\n"), [Move(path="x", old="a" * 64, new="b" * 64)]),
        (TEXT, []),
        (move("x", "a" * 39, "b" * 41), []),
        ("", []),
    ],
)
def test_which_submodules_a_patch_moves(text: str, found: list[Move]) -> None:
    assert moves(text.encode()) == found


def test_the_strip_level_counts() -> None:
    assert moves(move("x", SHA["a"], SHA["b"]).replace("a/x", "x").replace("b/x", "x").encode(), 0)[0].path == "x"


class Repositories:
    """Submodules: which commit holds which, and what was fetched."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, stands: str, line: str = "abcdef", whole: bool = True
    ) -> None:
        self.line = line
        self.whole = whole
        self.asked: list[tuple[str, str]] = []
        self.fails: set[str] = set()
        monkeypatch.setattr(git, "submodules", lambda repository, commit: {"x": (stands, "../x.git")})
        monkeypatch.setattr(git, "holds", self.holds)
        monkeypatch.setattr(git_cache.Cache, "history", lambda cache, url, commit, ref="": self.history(url, commit))

    def history(self, url: str, commit: str) -> tuple[Path, bool]:
        self.asked.append((url, commit))
        if url in self.fails:
            raise HostError(f"cannot reach {url}")
        return Path("/x"), self.whole

    def holds(self, repository: Path, newer: str, older: str) -> bool:
        known = [commit[0] for commit in (newer, older)]
        return all(letter in self.line for letter in known) and self.line.index(known[0]) >= self.line.index(known[1])


ORIGIN = Origin(
    kind="git", spec="u", url="https://example.org/u/p.git", ref="v1", relative_to="https://example.org/u/p.git"
)
X = "https://example.org/u/x.git"


def look_up(*series_: tuple[str, str], origin: Origin = ORIGIN) -> pointers.SubmodulePointers:
    by_patch = {
        patch(f"pull-{number}"): [Move(path="x", old=SHA.get(old, ""), new=SHA.get(new, ""))]
        for number, (old, new) in enumerate(series_)
    }
    return pointers.look_up(
        by_patch, origin, repository=Path("/r"), commit="c" * 40, cache=git_cache.Cache(Path("/none"))
    )


@pytest.mark.parametrize(
    ("stands", "series_", "asked", "holds"),
    [
        ("a", [("a", "b")], [], []),
        ("b", [("a", "b")], [], []),
        ("c", [("a", "b")], [(X, "c")], [("b", "c")]),
        ("a", [("a", "b"), ("b", "c")], [], []),
        ("d", [("a", "b"), ("b", "c")], [(X, "d"), (X, "d")], [("b", "d"), ("c", "d")]),
        ("c", [("a", "b"), ("a", "c")], [(X, "c"), (X, "b")], [("b", "c")]),
        ("a", [("a", "c"), ("a", "b")], [(X, "c")], [("b", "c")]),
        # Back to an older commit: every later one holds that, which says nothing.
        ("e", [("c", "b")], [(X, "e")], []),
        ("f", [("", "b")], [(X, "f")], [("b", "f")]),
        ("f", [("b", "")], [], []),
    ],
)
def test_which_commits_hold_others(
    monkeypatch: pytest.MonkeyPatch,
    stands: str,
    series_: list[tuple[str, str]],
    asked: list[tuple[str, str]],
    holds: list[tuple[str, str]],
) -> None:
    repositories = Repositories(monkeypatch, stands=SHA[stands])
    found = look_up(*series_)
    assert [(url, commit[0]) for url, commit in repositories.asked] == asked, "no history that nobody needs"
    assert [(old[0], new[0]) for _, old, new in found.holds] == holds
    lines = "".join(f"x\t{SHA[old]}\t{SHA[new]}\n" for old, new in holds)
    assert found.inputs() == {"holds": lines.encode(), "trees": b""}
    assert found.unknown == {}


def test_a_submodule_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    repositories = Repositories(monkeypatch, stands=SHA["c"])
    repositories.fails.add(X)
    found = look_up(("a", "b"))
    assert found.holds == []
    assert found.unknown == {"x": f"whether {SHA['c']} holds {SHA['b']} could not be looked up: cannot reach {X}"}


def test_a_submodule_whose_history_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    Repositories(monkeypatch, stands=SHA["f"], line="cdef", whole=False)
    found = look_up(("a", "b"))
    assert found.unknown == {"x": f"whether {SHA['f']} holds {SHA['b']} is not known: {X} is a shallow clone"}


def test_a_token_in_the_url_that_a_clone_came_from_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own clone may have one; it is used, and stays where it is."""
    repositories = Repositories(monkeypatch, stands=SHA["f"], line="cdef", whole=False)
    for secret in ("CANARY", "user:CANARY", "user:CA#NARY"):
        base = f"https://{secret}@example.org/u/p.git"
        origin = Origin(kind="git", spec="c", url="file:///c", relative_to=base, local=True)
        found = look_up(("a", "b"), origin=origin)
        assert repositories.asked[-1][0] == f"https://{secret}@example.org/u/x.git"
        assert "NARY" not in str(found.unknown)
        assert "https://***@example.org/u/x.git is a shallow clone" in found.unknown["x"]


def test_what_a_clone_has_of_a_submodule_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repositories = Repositories(monkeypatch, stands=SHA["c"])
    kept = tmp_path / "modules" / "x"
    (kept / "objects").mkdir(parents=True)
    (kept / "HEAD").write_text("ref: refs/heads/main\n")
    origin = Origin(
        kind="git", spec="c", url="file:///c", relative_to=ORIGIN.url, modules=(tmp_path / "modules",), local=True
    )
    assert look_up(("a", "b"), origin=origin).holds == [("x", SHA["b"], SHA["c"])]
    assert [url for url, _ in repositories.asked] == [kept.as_uri()]
    repositories.asked.clear()
    repositories.fails.add(kept.as_uri())
    found = look_up(("a", "b"), origin=origin)
    assert (found.holds, found.unknown) == ([("x", SHA["b"], SHA["c"])], {})
    assert [url for url, _ in repositories.asked] == [kept.as_uri(), X]


def packed(folder: Path, names: dict[str, str], suffix: str = ".tar.gz") -> Path:
    """A tarball."""
    path = folder / f"demo{suffix}"
    with tarfile.open(path, "w:xz" if suffix == ".tar.xz" else "w:gz") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return path


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was fetched; .gitmodules are lines of PATH=URL here, and the tree of a commit is its name backwards."""
    fetched: list[tuple[str, str]] = []

    def fetch(cache: git_cache.Cache, url: str, commit: str, ref: str = "") -> Path:
        fetched.append((url, commit))
        if "nowhere" in url:
            raise HostError(f"cannot reach {url}")
        return Path("/x")

    def urls(data: bytes) -> dict[str, str]:
        return dict(line.split("=") for line in data.decode().splitlines())

    monkeypatch.setattr(git, "submodule_urls", urls)
    monkeypatch.setattr(git_cache.Cache, "fetch", fetch)
    monkeypatch.setattr(git, "tree_of", lambda repository, commit: f"tree-{commit}")
    return fetched


MOVED = {patch("pull-1"): [Move(path="x", old=SHA["a"], new=SHA["b"]), Move(path="y", old=SHA["a"], new="")]}


@pytest.mark.parametrize("name", [".gitmodules", "./.gitmodules", "demo-1/.gitmodules", "./demo-1/.gitmodules"])
@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz"])
def test_a_tarballs_submodules_are_known_by_their_files(
    tmp_path: Path, trees: list[tuple[str, str]], name: str, suffix: str
) -> None:
    tarball = packed(tmp_path, {"demo-1/deep/.gitmodules": f"x={X}0", name: f"x={X}", "demo-1/a": ""}, suffix)
    found = pointers.look_up_trees(MOVED, tarball, cache=git_cache.Cache(tmp_path))
    assert trees == [(X, SHA["b"])]
    assert found.inputs() == {"holds": b"", "trees": f"x\t{SHA['b']}\ttree-{SHA['b']}\n".encode()}


@pytest.mark.parametrize("text", ["", "x=../x.git", "x=/x.git", "z=https://example.org/z.git"])
def test_a_tarball_whose_submodules_have_no_url(tmp_path: Path, trees: list[tuple[str, str]], text: str) -> None:
    found = pointers.look_up_trees(MOVED, packed(tmp_path, {".gitmodules": text}), cache=git_cache.Cache(tmp_path))
    assert (trees, found.trees, found.unknown) == ([], [], {})


def test_a_tarball_whose_submodule_cannot_be_had(tmp_path: Path, trees: list[tuple[str, str]]) -> None:
    tarball = packed(tmp_path, {".gitmodules": "x=https://nowhere.invalid/x.git"})
    found = pointers.look_up_trees(MOVED, tarball, cache=git_cache.Cache(tmp_path))
    said = f"whether x is as in {SHA['b']} could not be looked up: cannot reach https://nowhere.invalid/x.git"
    assert found.unknown == {"x": said}


@pytest.mark.parametrize("damage", [b"no archive", b""])
def test_a_tarball_that_cannot_be_read_here(tmp_path: Path, trees: list[tuple[str, str]], damage: bytes) -> None:
    (tmp_path / "x.tar.zst").write_bytes(damage)
    assert (
        pointers.look_up_trees(MOVED, tmp_path / "x.tar.zst", cache=git_cache.Cache(tmp_path))
        == pointers.SubmodulePointers()
    )
