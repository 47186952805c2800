"""series.sh by source.sh: what of a series is in a source, what applies to it, and what does neither.

The real scripts with this machine's git; each source is a repository (or a tarball) that the test makes.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from guest.helpers import GUEST, clean_env, need, sh

DATE = "2023-01-01T00:00:00+0000"
IDENTITY = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@sample.invalid",
    "GIT_AUTHOR_DATE": DATE,
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@sample.invalid",
    "GIT_COMMITTER_DATE": DATE,
    "HOME": "/nonexistent",
    "LC_ALL": "C",
}
OLD, NEW, LATER = "1" * 40, "2" * 40, "3" * 40
"""Commits of a submodule."""


def text(first: int = 1, last: int = 60, **changed: str) -> str:
    """A file of the lines `line 1` to `line 60`; `n7="x\\n"` puts another text in the place of line 7."""
    return "".join(changed.get(f"n{number}", f"line {number}\n") for number in range(first, last + 1))


class Repository:
    """A repository with a work tree."""

    def __init__(self, folder: Path) -> None:
        need("git")
        self.folder = folder
        folder.mkdir()
        self("init", "--quiet", "--initial-branch=main")

    def __call__(self, *words: str | Path, data: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", *map(str, words)],
            cwd=self.folder,
            env=clean_env(**IDENTITY),
            input=data,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.decode("utf-8", "replace").strip()

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Write files into the work tree; None removes one."""
        for name, content in files.items():
            path = self.folder / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def link(self, commit: str, path: str = "third/x") -> None:
        """Let a submodule stand at a commit."""
        self("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")

    def commit(
        self, files: Mapping[str, str | bytes | None] | None = None, subject: str = "change", *, link: str = ""
    ) -> str:
        """Commit files, and where the submodule stands; the commit."""
        self.write(files or {})
        for name in files or {}:
            self("add", "--all", "--force", name)
        if link:
            self.link(link)
        self("commit", "--quiet", "--allow-empty", "--message", subject)
        return self("rev-parse", "HEAD")

    def at(self, start: str, name: str) -> None:
        """Begin a branch."""
        self("checkout", "--quiet", "--force", "-B", name, start)

    def mailbox(self, since: str, until: str = "HEAD", *options: str) -> bytes:
        """Commits as a mailbox."""
        done = subprocess.run(
            ["git", "format-patch", "--stdout", "--full-index", "--binary", "--always", *options, f"{since}..{until}"],
            cwd=self.folder,
            env=clean_env(**IDENTITY),
            capture_output=True,
            check=True,
        )
        return done.stdout

    def diff(self, since: str, until: str = "HEAD", *options: str) -> bytes:
        """The change between two commits as a plain diff."""
        done = subprocess.run(
            ["git", "diff", "--no-renames", *options, since, until],
            cwd=self.folder,
            env=clean_env(**IDENTITY),
            capture_output=True,
            check=True,
        )
        return done.stdout


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What source.sh has found and made."""

    states: tuple[str, ...]
    facts: Mapping[str, Sequence[tuple[str, ...]]]
    tree: Path
    log: str

    def of(self, key: str, number: int = 0) -> list[tuple[str, ...]]:
        """The facts of one patch."""
        return [values[1:] for values in self.facts.get(key, []) if int(values[0]) == number]

    def reasons(self, number: int = 0) -> list[str]:
        """Why it is in conflict."""
        return [values[0] for values in self.of("reason", number)]

    def read(self, name: str) -> str:
        """A file of the tree."""
        return (self.tree / name).read_bytes().decode()

    @property
    def head(self) -> str:
        """The patched commit."""
        return self.facts["head"][0][0]


@dataclass(kw_only=True)
class Stage:
    """Runs source.sh."""

    folder: Path
    count: int = field(default=0)

    def __call__(
        self,
        source: Repository | Path,
        *patches: bytes | tuple[bytes, int],
        ref: str = "HEAD",
        holds: Sequence[tuple[str, str, str]] = (),
        trees: Sequence[tuple[str, str, str]] = (),
        history: bool = False,
        status: int = 0,
    ) -> Looked:
        """Look and apply.

        Args:
            source: a repository, or a tarball.
            patches: mailboxes and diffs, these perhaps with another strip level than 1.
            ref: the commit.
            holds: path, older and newer commit of submodules.
            trees: path, commit and tree of submodules.
            history: whether the history is given.
            status: what it must end with.
        """
        self.count += 1
        root = self.folder / str(self.count)
        (root / "patches").mkdir(parents=True)
        (root / "out").mkdir()
        (root / "guest").symlink_to(GUEST)
        env = {"PIKAFORGE_ROOT": str(root), "PATH": clean_env()["PATH"], "LC_ALL": "C"}
        if isinstance(source, Repository):
            (root / "git").mkdir()
            depth = [] if history else ["--depth=1"]
            commit = source("rev-parse", ref)
            source("branch", "--force", "wanted", commit)
            source("clone", "--quiet", "--bare", *depth, "--branch", "wanted", source.folder.as_uri(), root / "git/0")
            env["PIKAFORGE_COMMIT"] = commit
            if history:
                env["PIKAFORGE_HISTORY"] = "1"
        else:
            (root / "tarball").mkdir()
            (root / "tarball" / source.name).write_bytes(source.read_bytes())
            env["PIKAFORGE_TARBALL"] = source.name
        listed = ""
        for number, patch in enumerate(patches):
            data, strip = patch if isinstance(patch, tuple) else (patch, 1)
            (root / "patches" / f"{number:04}").write_bytes(data)
            kind = "am" if data.startswith(b"From ") else "diff"
            listed += f"{kind}\t{number:04}\t{strip}\tp{number}\n"
        (root / "patches" / "list").write_text(listed)
        for name, known in (("holds", holds), ("trees", trees)):
            (root / "patches" / name).write_text("".join("\t".join(line) + "\n" for line in known))
        done = sh("sh", root / "guest/source.sh", env=env, cwd=root)
        print(done.stdout, done.stderr)
        assert done.returncode == status, done.stderr
        facts: dict[str, list[tuple[str, ...]]] = {}
        for line in (root / "out/facts").read_text().splitlines():
            key, *values = line.split("\t")
            facts.setdefault(key, []).append(tuple(values))
        states = facts.get("state", [])
        assert [int(number) for number, _ in states] == list(range(len(patches)))
        return Looked(
            states=tuple(state for _, state in states),
            facts=facts,
            tree=root / "out/source",
            log=done.stdout + done.stderr,
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One commit: two files of 60 lines."""
    made = Repository(tmp_path / "repository")
    made.commit({"a.txt": text(), "b.txt": text()}, "base", link=OLD)
    made("tag", "base")
    return made


@pytest.fixture
def look(tmp_path: Path) -> Stage:
    """Runs source.sh."""
    return Stage(folder=tmp_path / "runs with blanks")


def change(repository: Repository, **files: str | bytes | None) -> bytes:
    """A mailbox with one commit on the base; `a_txt=…` is the file a.txt."""
    repository.at("base", "patch")
    repository.commit({name.replace("_", "."): content for name, content in files.items()}, "fix: it")
    return repository.mailbox("base")


ONE = text(n20="twenty\n", n40="forty\nand more\n")


@pytest.fixture
def patch(repository: Repository) -> bytes:
    """A change of two hunks in a.txt and one in b.txt."""
    return change(repository, a_txt=ONE, b_txt=text(n30="thirty\n"))


# ---- it applies


def test_it_applies(repository: Repository, look: Stage, patch: bytes) -> None:
    done = look(repository, patch, ref="base")
    assert done.states == ("applied",)
    assert done.of("offset") == []
    assert (done.read("a.txt"), done.read("b.txt")) == (ONE, text(n30="thirty\n"))
    again = look(repository, patch, ref="base")
    assert again.head == done.head != repository("rev-parse", "base"), "the same commit each time"


def test_offsets_are_told(repository: Repository, look: Stage, patch: bytes) -> None:
    repository.at("base", "work")
    repository.commit({"a.txt": "zero\n" * 3 + text(), "b.txt": text(first=2)})
    done = look(repository, patch)
    assert done.states == ("applied",)
    assert done.of("offset") == [("a.txt", "1", "3"), ("a.txt", "2", "3"), ("b.txt", "1", "-1")]
    assert done.read("a.txt") == "zero\n" * 3 + ONE


# ---- it is there


def merged(repository: Repository) -> None:
    repository.at("base", "source")
    repository("merge", "--quiet", "--no-ff", "--no-edit", "patch")


def picked(repository: Repository) -> None:
    repository.at("base", "source")
    repository.commit({"c.txt": "other\n"})
    repository("cherry-pick", "patch")


def squashed(repository: Repository) -> None:
    repository.at("base", "source")
    repository("merge", "--quiet", "--squash", "patch")
    repository.commit({"c.txt": "other\n"}, "All of it (#7)")


def shifted(repository: Repository) -> None:
    repository.at("base", "source")
    repository.commit({"a.txt": "zero\n" * 4 + text(), "b.txt": "zero\n" + text()})
    repository("cherry-pick", "patch")


@pytest.mark.parametrize(
    ("way", "kind"),
    [(merged, "mailbox"), (picked, "diff"), (squashed, "mailbox"), (shifted, "mailbox"), (shifted, "diff")],
)
def test_it_is_there(
    repository: Repository, look: Stage, patch: bytes, way: Callable[[Repository], None], kind: str
) -> None:
    way(repository)
    done = look(repository, patch if kind == "mailbox" else repository.diff("base", "patch"))
    assert done.states == ("present",)
    assert done.head == repository("rev-parse", "source"), "nothing is committed"
    assert done.read("a.txt").endswith(ONE)
    assert done.of("offset") == (
        [("a.txt", "1", "4"), ("a.txt", "2", "4"), ("b.txt", "1", "1")] if way is shifted else []
    )


def test_a_tarball_that_has_it(repository: Repository, look: Stage, patch: bytes, tmp_path: Path) -> None:
    """There is no history, and none is needed."""
    with tarfile.open(tmp_path / "x-1.tar.gz", "w:gz") as tar:
        for name, content in (("a.txt", ONE), ("b.txt", text(n30="thirty\n"))):
            (tmp_path / name).write_text(content)
            tar.add(tmp_path / name, arcname=f"x-1/{name}")
    done = look(tmp_path / "x-1.tar.gz", patch, repository.diff("base", "patch"))
    assert done.states == ("present", "present")


def test_some_are_there_and_some_are_not(repository: Repository, look: Stage, patch: bytes) -> None:
    squashed(repository)
    other = change(repository, b_txt=text(n50="fifty\n"))
    third = change(repository, new_txt="new\n")
    done = look(repository, other, patch, third, ref="source")
    assert done.states == ("applied", "present", "applied")
    assert done.read("b.txt") == text(n30="thirty\n", n50="fifty\n")
    assert done.read("new.txt") == "new\n"


def test_a_later_patch_changes_the_lines_of_an_earlier_one(repository: Repository, look: Stage, patch: bytes) -> None:
    """Neither can be looked at alone: the first cannot be taken back before the second."""
    repository.at("patch", "second")
    repository.commit({"a.txt": text(n20="TWENTY\n", n40="forty\nand more\n")}, "fix: it again")
    second = repository.mailbox("patch")
    assert look(repository, patch, second, ref="second").states == ("present", "present")
    assert look(repository, patch, second, ref="patch").states == ("present", "applied")
    done = look(repository, patch, second, ref="base")
    assert done.states == ("applied", "applied")
    assert done.read("a.txt") == repository("show", "second:a.txt") + "\n"


def test_an_entry_that_another_one_has_brought(repository: Repository, look: Stage, patch: bytes) -> None:
    done = look(repository, patch, repository.diff("base", "patch"), ref="base")
    assert done.states == ("applied", "present")


def test_patches_that_undo_each_other(repository: Repository, look: Stage, patch: bytes) -> None:
    back = repository.diff("patch", "base")
    done = look(repository, patch, back, ref="base")
    assert set(done.states) <= {"applied", "present"}
    assert done.read("a.txt") == text(), "whatever they are called, the tree is as it must be"
    assert look(repository, patch, back, ref="patch").read("a.txt") == text()


# ---- several mails


@pytest.fixture
def mails(repository: Repository) -> bytes:
    """Two mails, the second of which changes what the first has written, with a commit between that changes nothing."""
    repository.at("base", "patch")
    repository.commit({"a.txt": text(n20="twenty\n"), "b.txt": text(n30="thirty\n")}, "first")
    repository("tag", "first")
    repository.commit({}, "nothing")
    repository.commit({"a.txt": text(n20="TWENTY\n")}, "second")
    return repository.mailbox("base")


@pytest.mark.parametrize(("ref", "state"), [("base", "applied"), ("patch", "present")])
def test_several_mails(repository: Repository, look: Stage, mails: bytes, ref: str, state: str) -> None:
    done = look(repository, mails, ref=ref)
    assert done.states == (state,)
    assert done.read("a.txt") == text(n20="TWENTY\n")


def test_the_first_mail_is_there_and_the_second_is_not(repository: Repository, look: Stage, mails: bytes) -> None:
    done = look(repository, mails, ref="first", history=True)
    assert done.states == ("conflict",)
    assert done.reasons()[0] == "patch p0 ([PATCH 1/3] first) does not apply"
    assert "the change of a.txt (mail 1, [PATCH 1/3] first) is in the source already" in done.reasons()
    assert "the change of b.txt (mail 1, [PATCH 1/3] first) is in the source already" in done.reasons()
    assert "the change of a.txt (mail 3, [PATCH 3/3] second) is not" in done.reasons()


# ---- half of it is there


def test_one_file_of_two(repository: Repository, look: Stage, patch: bytes) -> None:
    repository.at("base", "source")
    repository.commit({"b.txt": text(n30="thirty\n")})
    for history in (False, True):
        done = look(repository, patch, history=history)
        assert done.states == ("conflict",)
        assert done.reasons() == [
            "patch p0 ([PATCH] fix: it) does not apply",
            "a part of it is in the source already, and a part is not",
            "b.txt: patch does not apply",
            "patch failed: b.txt:27",
            "hunk #1 is rejected in b.txt",
            "the change of b.txt is in the source already",
            "the change of a.txt is not",
            "nothing was changed; the lines around the hunks are in the log",
        ]
        assert "forge: rejected part of b.txt.rej:" in done.log
        assert done.read("a.txt") == text()


def test_one_hunk_of_two(repository: Repository, look: Stage, patch: bytes) -> None:
    repository.at("base", "source")
    repository.commit({"a.txt": text(n40="forty\nand more\n")})
    done = look(repository, patch)
    assert done.states == ("conflict",)
    assert "hunk #2 of a.txt is in the source already" in done.reasons()
    assert "hunk #1 of a.txt is not" in done.reasons()
    assert "the change of b.txt is not" in done.reasons()
    assert "hunk #2 is rejected in a.txt" in done.reasons()


def test_one_that_was_taken_out_in_part(repository: Repository, look: Stage, patch: bytes) -> None:
    """The history has it whole, but what the tree lacks of it counts."""
    merged(repository)
    repository.commit({"b.txt": text()}, "back out")
    assert look(repository, patch, history=True).states == ("conflict",)


def test_one_that_was_taken_out_in_part_and_changed_in_the_rest(
    repository: Repository, look: Stage, patch: bytes
) -> None:
    merged(repository)
    repository.commit({"a.txt": text(n20="TWENTY\n", n40="FORTY\n"), "b.txt": text()}, "back out")
    done = look(repository, patch, history=True)
    assert done.states == ("conflict",)
    assert not any("is in the source already" in reason for reason in done.reasons())


def test_the_others_are_looked_at_all_the_same(repository: Repository, look: Stage, patch: bytes) -> None:
    merged(repository)
    bad = change(repository, b_txt=text(n29="x\n"))
    other = change(repository, c_txt="c\n")
    done = look(repository, bad, patch, other, ref="source")
    assert done.states == ("conflict", "present", "applied")


# ---- what a patch may be made of

KINDS: dict[str, dict[str, str | bytes | None]] = {
    "new file": {"n.txt": "new\n"},
    "new program": {"n.sh": "#!/bin/sh\n"},
    "file removed": {"old1.txt": None},
    "renamed": {"old2.txt": None, "lib/old2.txt": text()},
    "renamed and changed": {"old3.txt": None, "lib/old3.txt": text(n9="nine\n")},
    "new binary file": {"blob": bytes(range(256)) * 4},
    "binary file changed": {"old": bytes(range(255, -1, -1)) * 4},
    "CRLF": {"crlf.txt": text(n7="seven\n").replace("\n", "\r\n")},
    "one CR": {"a.txt": text(n7="seven\r\n")},
    "no line end": {"end.txt": "no line end, longer"},
    "empty file": {"empty": b""},
    "odd names": {"with blank.txt": "x\n", 'q"uote.txt': "x\n", "umlaut-ü.txt": "x\n"},
    "mode alone": {"p.sh": "#!/bin/sh\n"},
}
"""What patches may be made of."""


@pytest.fixture
def rich(repository: Repository) -> Repository:
    """The base has files of several kinds."""
    repository.commit(
        {
            "old": bytes(range(256)) * 4,
            "crlf.txt": text().replace("\n", "\r\n"),
            "end.txt": "no line end",
            "p.sh": "#!/bin/sh\n",
            **{f"old{number}.txt": text() for number in (1, 2, 3)},
        }
    )
    repository("tag", "--force", "base")
    return repository


@pytest.mark.parametrize("form", ["mailbox", "diff"])
def test_what_a_patch_may_be_made_of(rich: Repository, look: Stage, form: str) -> None:
    """One patch of each kind, in one series."""
    rich.at("base", "patch")
    patches = []
    for files in KINDS.values():
        before = rich("rev-parse", "HEAD")
        rich.write(files)
        for name in files:
            if name.endswith(".sh"):
                (rich.folder / name).chmod(0o755)
        rich("add", "--all")
        rich.link(OLD)
        rich.commit()
        patches.append(
            rich.mailbox(before, "HEAD", "--find-renames")
            if form == "mailbox"
            else rich.diff(before, "HEAD", "--binary")
        )
    done = look(rich, *patches, ref="base")
    assert dict(zip(KINDS, done.states, strict=True)) == dict.fromkeys(KINDS, "applied")
    for name, content in {name: content for files in KINDS.values() for name, content in files.items()}.items():
        data = content.encode() if isinstance(content, str) else content
        if (form, name) == ("mailbox", "a.txt") and data is not None:
            data = data.replace(b"\r\n", b"\n")  # as git am does with what came by mail
        path = done.tree / name
        assert (path.read_bytes() if path.exists() else None) == data, name
        assert data is None or bool(path.stat().st_mode & 0o100) is name.endswith(".sh"), name
    done = look(rich, *patches, ref="patch")
    assert dict(zip(KINDS, done.states, strict=True)) == dict.fromkeys(KINDS, "present")
    assert done.head == rich("rev-parse", "patch")


def test_a_new_program_that_is_there_without_its_mode(rich: Repository, look: Stage) -> None:
    rich.at("base", "patch")
    rich.write({"n.sh": "#!/bin/sh\n"})
    (rich.folder / "n.sh").chmod(0o755)
    rich.commit({"n.sh": "#!/bin/sh\n"})
    patch = rich.mailbox("base")
    rich.at("base", "source")
    (rich.folder / "n.sh").unlink(missing_ok=True)
    rich.commit({"n.sh": "#!/bin/sh\n"})
    assert look(rich, patch).states == ("conflict",)


def test_a_new_file_that_is_there_with_other_content(repository: Repository, look: Stage) -> None:
    patch = change(repository, new_txt="new\n")
    repository.at("base", "source")
    repository.commit({"new.txt": "other\n"})
    done = look(repository, patch)
    assert done.states == ("conflict",)
    assert "new.txt: already exists in index" in done.reasons()


@pytest.mark.parametrize("kind", ["mailbox", "diff"])
def test_a_patch_that_was_sent_with_other_line_ends(
    repository: Repository, look: Stage, patch: bytes, kind: str
) -> None:
    data = (patch if kind == "mailbox" else repository.diff("base", "patch")).replace(b"\n", b"\r\n")
    assert look(repository, data, ref="base").states == ("applied",)
    assert look(repository, data, ref="patch").states == ("present",)


def test_a_diff_with_another_strip_level(repository: Repository, look: Stage, patch: bytes) -> None:
    data = repository.diff("base", "patch", "--no-prefix")
    assert look(repository, (data, 0), ref="base").states == ("applied",)
    assert look(repository, (data, 0), ref="patch").states == ("present",)


@pytest.mark.parametrize(
    "data", [b"", b"nothing\n", b"From " + b"0" * 40 + b" Mon Sep 17 00:00:00 2001\nFrom: a <a@b>\n"]
)
def test_a_patch_without_a_change(repository: Repository, look: Stage, data: bytes) -> None:
    done = look(repository, data)
    assert done.states == ("conflict",)
    assert done.reasons() == ["patch p0 holds no change that git reads"]


def test_a_damaged_patch(repository: Repository, look: Stage, patch: bytes) -> None:
    done = look(repository, patch[: patch.index(b"+forty")])
    assert done.states == ("conflict",)
    assert any("corrupt patch" in reason for reason in done.reasons())


def test_a_mail_that_git_does_not_take(repository: Repository, look: Stage, patch: bytes) -> None:
    """Its change fits, but nobody has written it; the next one is looked at on a tree without it."""
    bad = patch.replace(b"From: Test <test@sample.invalid>", b"From: <>")
    other = change(repository, b_txt=text(n50="fifty\n"))
    done = look(repository, bad, other, ref="base")
    assert done.states == ("conflict", "applied")
    assert done.reasons()[0] == "patch p0 does not apply"
    assert any("ident" in reason for reason in done.reasons()), done.reasons()
    assert (done.read("a.txt"), done.read("b.txt")) == (text(), text(n50="fifty\n"))


def test_what_a_patch_says_reaches_no_terminal(repository: Repository, look: Stage) -> None:
    repository.at("base", "patch")
    repository.commit({"b.txt": text(n29="x\n")}, "\x1b]0;gone\x07 and\ttab")
    patch = repository.mailbox("base")
    repository.at("base", "source")
    repository.commit({"b.txt": text(n28="y\n")})
    done = look(repository, patch)
    assert done.reasons()[0] == "patch p0 ([PATCH] ]0;gone and tab) does not apply"


# ---- submodules


@pytest.fixture
def moved(repository: Repository) -> bytes:
    """A move of the submodule, and a change of a file."""
    repository.at("base", "patch")
    repository.commit({"b.txt": text(n30="thirty\n")}, "move", link=NEW)
    return repository.mailbox("base")


@pytest.mark.parametrize(
    ("stands", "holds", "state"),
    [
        (OLD, (), "applied"),
        (NEW, (), "present"),
        (LATER, ("third/x", NEW, LATER), "present"),
        (LATER, (), "conflict"),
        (LATER, ("third/y", NEW, LATER), "conflict"),
        (LATER, ("third/x", LATER, NEW), "conflict"),
    ],
)
def test_a_submodule(
    repository: Repository, look: Stage, stands: str, holds: tuple[str, str, str] | tuple[()], state: str
) -> None:
    """A patch that only moves one, and a patch that changes a file, too."""
    repository.at("base", "pure")
    repository.commit({}, "move", link=NEW)
    pure = repository.mailbox("base")
    repository.at("base", "mixed")
    repository.commit({"b.txt": text(n30="thirty\n")}, "move", link=NEW)
    mixed = repository.mailbox("base")
    for patch, files in ((pure, {}), (mixed, {} if state == "applied" else {"b.txt": text(n30="thirty\n")})):
        repository.at("base", "source")
        repository.commit(files, link=stands)
        done = look(repository, patch, holds=[holds] if holds else [])
        assert done.states == (state,)
        later = f"third/x stands at {LATER[:12]}, which holds {NEW[:12]}"
        assert done.of("note") == ([(later,)] if (state, stands) == ("present", LATER) else [])
        if state == "conflict":
            said = f"the patch moves the submodule third/x from {OLD} to {NEW}; it stands at {LATER}"
            assert said in done.reasons()


def test_a_submodule_that_went_elsewhere(repository: Repository, look: Stage, moved: bytes) -> None:
    """The history had it at the patch's commit, but where it stands now that is not known to be."""
    merged(repository)
    repository.commit({"b.txt": text(n30="THIRTY\n")}, "elsewhere", link=LATER)
    assert look(repository, moved, history=True).states == ("conflict",)
    assert look(repository, moved, history=True, holds=[("third/x", NEW, LATER)]).states == ("present",)


def test_two_moves_of_one_submodule(repository: Repository, look: Stage) -> None:
    repository.at("base", "patch")
    repository.commit({}, "one", link=NEW)
    repository("tag", "one")
    repository.commit({}, "two", link=LATER)
    first, second = repository.mailbox("base", "one"), repository.mailbox("one", "patch")
    assert look(repository, first, second, ref="base").states == ("applied", "applied")
    assert look(repository, first, second, ref="one").states == ("present", "applied")
    assert look(repository, first, second, ref="patch").states == ("present", "present")


def test_a_submodule_moved_and_the_file_not(repository: Repository, look: Stage, moved: bytes) -> None:
    repository.at("base", "source")
    repository.commit({}, link=NEW)
    done = look(repository, moved)
    assert done.states == ("conflict",)
    assert "the change of third/x is in the source already" in done.reasons()
    assert "the change of b.txt is not" in done.reasons()


def test_a_submodule_that_is_added(repository: Repository, look: Stage) -> None:
    repository.at("base", "patch")
    repository.write({".gitmodules": "x\n"})
    repository.link(NEW, "third/new")
    repository("add", ".gitmodules")
    repository.commit({}, "add")
    patch = repository.mailbox("base")
    assert look(repository, patch, ref="base").states == ("applied",)
    assert look(repository, patch, ref="patch").states == ("present",)


def test_a_tarball_with_the_files_of_a_submodule(
    repository: Repository, look: Stage, moved: bytes, tmp_path: Path
) -> None:
    """It has no commits, but it can be seen whether its files are those of one."""
    files = {"third/x/one.c": "1\n", "third/x/sub/two.sh": "#!/bin/sh\n"}
    submodule = Repository(tmp_path / "submodule")
    submodule.commit({name.removeprefix("third/x/"): content for name, content in files.items()})
    tree = submodule("rev-parse", "HEAD^{tree}")
    with tarfile.open(tmp_path / "x-1.tar", "w") as tar:
        for name, content in {**files, "b.txt": text(n30="thirty\n")}.items():
            info = tarfile.TarInfo(f"x-1/{name}")
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content.encode()))
    done = look(tmp_path / "x-1.tar", moved, trees=[("third/x", NEW, tree)])
    assert done.states == ("present",)
    assert done.read("third/x/sub/two.sh") == "#!/bin/sh\n"
    for trees in ([], [("third/x", LATER, tree)]):
        assert look(tmp_path / "x-1.tar", moved, trees=trees).states == ("conflict",)


# ---- lines that repeat

ITEM = "item {\n  value\n}\n"


def items(count: int, start: str = "begin\n", end: str = "end\n") -> str:
    return start + ITEM * count + end


def test_a_block_that_could_be_added_again(repository: Repository, look: Stage) -> None:
    """Both ways fit at the very lines; the names of the blobs tell."""
    repository.commit({"items.txt": items(5)}, "items")
    repository("tag", "--force", "base")
    repository.at("base", "patch")
    repository.commit({"items.txt": items(6)}, "one more")
    patch = repository.mailbox("base")
    assert look(repository, patch, ref="patch").states == ("present",)
    done = look(repository, patch, ref="base")
    assert done.states == ("applied",)
    assert done.read("items.txt") == items(6)


def test_a_block_in_a_file_that_was_changed(repository: Repository, look: Stage) -> None:
    """Neither the tree nor the blobs tell, so it is not guessed; but the history knows the very change."""
    repository.commit({"items.txt": items(5, start=text())}, "items")
    repository("tag", "--force", "base")
    repository.at("base", "patch")
    repository.commit({"items.txt": items(6, start=text())}, "one more")
    patch = repository.mailbox("base")
    repository.at("base", "source")
    repository.commit({"items.txt": items(5, start="another\n" + text())}, "begin")
    repository("tag", "without")
    repository("cherry-pick", "patch")
    done = look(repository, patch)
    assert done.states == ("conflict",)
    assert done.reasons() == [
        "patch p0 ([PATCH] one more) fits the source both as if it were in it and as if it were not",
        "with more lines of context (git format-patch -U10) it would fit in one way",
    ]
    assert look(repository, patch, history=True).states == ("present",)
    assert look(repository, patch, ref="without", history=True).states == ("conflict",)
    repository("revert", "--no-edit", "source")
    assert look(repository, patch, history=True).states == ("conflict",), "it was taken out again"


def test_what_fits_at_its_very_lines_goes_before_what_fits_elsewhere(repository: Repository, look: Stage) -> None:
    same = "x\n" * 7
    for name, before, after, end in (
        ("there", same + same, same + "y\n" + same, "present"),
        ("lacking", same + same, same + "y\n" + same, "applied"),
    ):
        repository.at("base", f"{name}-base")
        base = repository.commit({"x.txt": before + "tail 1\n"})
        repository.commit({"x.txt": after + "tail 1\n"})
        patch = repository.mailbox(base)
        source = after if name == "there" else before + same + "y\n" + same
        repository.commit({"x.txt": source + "tail 2\n"})
        assert look(repository, patch).states == (end,), name


def test_lines_that_are_missing_prove_nothing_elsewhere(repository: Repository, look: Stage) -> None:
    """A patch that takes a line away, for a source in which the line was changed, and the lines around it repeat."""
    around = "}\n\n}\n"
    repository.commit({"c.txt": f"a\n{around}LOG(1)\n{around}b\n"}, "log")
    repository("tag", "--force", "base")
    patch = change(repository, c_txt=f"a\n{around}{around}b\n")
    repository.at("base", "source")
    repository.commit({"c.txt": f"a\n{around}LOG(2)\n{around}b\n{around}{around}c\n"})
    assert look(repository, patch, ref="source").states == ("conflict",)
    assert look(repository, patch, ref="patch").states == ("present",)


# ---- what the history says


@pytest.fixture
def went_on(repository: Repository, patch: bytes) -> bytes:
    """A source that has the patch, and has changed the same lines since."""
    squashed(repository)
    repository.commit({"a.txt": text(n20="TWENTY\n", n40="forty\nand more\n")}, "Shout")
    return patch


def test_its_lines_were_changed_since(repository: Repository, look: Stage, went_on: bytes) -> None:
    alone = look(repository, went_on)
    assert alone.states == ("conflict",)
    assert "the change of b.txt is in the source already" in alone.reasons()
    done = look(repository, went_on, history=True)
    assert done.states == ("present",)
    commit = repository("log", "-1", "--format=%h", "HEAD^")
    assert done.of("note") == [(f"it came with {commit} (All of it (#7)), and its lines were changed since",)]
    assert done.read("a.txt") == text(n20="TWENTY\n", n40="forty\nand more\n")


def test_it_came_with_a_merge_and_was_changed_since(repository: Repository, look: Stage, patch: bytes) -> None:
    """A branch that began before it, and touches its files, was merged after it: that does not take it out."""
    repository.at("base", "side")
    repository.commit({"a.txt": text(n5="five\n")}, "on the side")
    merged(repository)
    repository("merge", "--quiet", "--no-ff", "--no-edit", "side")
    repository.commit({"a.txt": text(n5="five\n", n20="TWENTY\n", n40="forty\nand more\n")}, "Shout")
    assert look(repository, patch, history=True).states == ("present",)


def test_it_was_taken_out_and_written_anew(repository: Repository, look: Stage, patch: bytes) -> None:
    merged(repository)
    repository("revert", "--no-edit", "-m", "1", "HEAD")
    repository.commit({"a.txt": text(n20="20\n"), "b.txt": text(n30="30\n")}, "in another way")
    done = look(repository, patch, history=True)
    assert done.states == ("conflict",)


def test_the_history_does_not_know_it(repository: Repository, look: Stage, patch: bytes) -> None:
    repository.at("base", "source")
    repository.commit({"a.txt": text(n20="20\n", n40="40\n"), "b.txt": text(n30="30\n")}, "fix: it (#7)")
    done = look(repository, patch, history=True)
    assert done.states == ("conflict",), "a subject is no evidence"
    assert "none of the 2 commits that changed its files has it whole" in done.reasons()


def test_all_came_in_one_commit_and_were_changed_since(repository: Repository, look: Stage, patch: bytes) -> None:
    """In no commit could the first one be taken back alone."""
    repository.at("patch", "second")
    repository.commit({"a.txt": text(n20="TWENTY\n", n40="forty\nand more\n")}, "fix: it again")
    second = repository.mailbox("patch")
    repository.at("base", "source")
    repository("merge", "--quiet", "--squash", "second")
    repository.commit({}, "All at once")
    repository.commit({"a.txt": text(n20="2 0\n", n40="forty\nand more\n")}, "Whisper")
    assert look(repository, patch, second, history=True).states == ("present", "present")
