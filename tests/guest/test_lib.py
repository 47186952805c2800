"""docker/guest/lib.sh: what the guest scripts share, in every shell that an image may have."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import GUEST, SHELLS, clean_env, need, sh

from pikaforge.host.text import REASON

Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(params=SHELLS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a script that reads lib.sh, in one of the shells."""
    shell = SHELLS[request.param]
    need(shell[0])
    folder = tmp_path / "guest folder"
    folder.mkdir()
    shutil.copy(GUEST / "lib.sh", folder)

    def call(text: str, **env: str) -> CompletedProcess[str]:
        (folder / "job.sh").write_text(f'#!/bin/sh\nset -eu\n. "${{0%/*}}/lib.sh"\n{text}\n')
        return sh(*shell, folder / "job.sh", env=clean_env(**env), cwd=tmp_path)

    return call


def test_fail_gives_the_reason_and_the_status(run: Run) -> None:
    done = run("fail 65 'the recipe made no bin/x: 100% %s \\n'; echo not reached")
    assert (done.returncode, done.stdout) == (65, "")
    assert REASON.findall(done.stderr) == ["the recipe made no bin/x: 100% %s \\n"]


def test_a_reason_is_seen_while_output_is_captured(run: Run) -> None:
    done = run("found() { fail 66 'none'; }\nresult=$(found)\necho \"not reached: $result\"")
    assert (done.returncode, done.stdout, done.stderr) == (66, "", "forge: reason: none\n")


def test_a_note_is_no_reason(run: Run) -> None:
    done = run("note 'this image has no cc'")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "forge: this image has no cc\n")
    assert REASON.findall(done.stderr) == []


def test_what_must_be_set(run: Run) -> None:
    done = run("need_set ONE TWO THREE FOUR", ONE="$(touch x)", TWO="", FOUR="1")
    assert (done.returncode, done.stderr) == (2, "forge: reason: not set: TWO THREE\n")
    assert run("need_set ONE", ONE="two\nlines").returncode == 0


def test_a_program_that_is_missing(run: Run) -> None:
    done = run("need_program sh 'of no use'\nneed_program no-such-program 'install it'")
    assert (done.returncode, done.stderr) == (66, "forge: reason: no-such-program is not installed: install it\n")


def test_settings(run: Run) -> None:
    done = run(
        'umask; echo "$LC_ALL $TZ"; printf "%s|%s|" "$tab" "$newline"; sh -c "echo \\$LC_ALL \\$TZ"', TZ="Asia/Tokyo"
    )
    assert done.stdout == "0022\nC UTC\n\t|\n|C UTC\n"


def test_an_ldconfig_that_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ldconfig").write_text("#!/bin/sh\necho half; exit 1\n")
    (tmp_path / "ldconfig").chmod(0o755)
    path = f"{tmp_path}:{clean_env()['PATH']}"
    done = run("loader_list >list; echo not reached", PATH=path)
    assert (done.returncode, done.stdout) == (22, "")
    assert done.stderr == "forge: reason: ldconfig does not list the system's libraries\n"
    (tmp_path / "ldconfig").write_text('#!/bin/sh\necho "$*"\n')
    done = run('before=$PATH; loader_list; [ "$PATH" = "$before" ]', PATH=path)
    assert (done.returncode, done.stdout) == (0, "-p\n")


def test_an_archive_has_no_owners_and_clocks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "some files").mkdir()
    (tmp_path / "some files/x").write_text("x")
    done = run('archive "made.tar" 12 --directory "some files" --mode=u+rw,go-w,a+rX --no-recursion x')
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "made.tar") as tar:
        (member,) = tar.getmembers()
    assert (member.name, member.uid, member.gid, member.uname, member.mtime) == ("x", 0, 0, "", 12)


@pytest.mark.parametrize("writable", [False, True])
def test_rpm_reads_a_database_that_it_cannot_write_beside(writable: bool) -> None:
    """Of a copy, which is made once: sqlite refuses a database in WAL mode where it can make no files."""
    with tempfile.TemporaryDirectory() as name:  # that others may enter
        top = Path(name)
        top.chmod(0o755)
        database, root = top / "database", top / "root"
        for folder in (database, root, top / "bin"):
            folder.mkdir()
        (database / "rpmdb.sqlite").write_text("packages\n")
        (database / ".rpm.lock").write_text("")
        lib = (GUEST / "lib.sh").read_text().replace("/var/lib/rpm", str(database))
        (top / "lib.sh").write_text(lib)
        (top / "job.sh").write_text('. "${0%/*}/lib.sh"\nfirst=$(rpm_query -qf "a b")\necho "$first"\nrpm_query -qa\n')
        (top / "bin/rpm").write_text('#!/bin/sh\necho "$#: $*"\n')
        (top / "bin/rpm").chmod(0o755)
        root.chmod(0o777)
        database.chmod(0o777 if writable else 0o555)
        other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
        env = clean_env(PIKAFORGE_ROOT=str(root), PATH=f"{top}/bin:{os.environ.get('PATH', os.defpath)}")
        done = sh(*other, "sh", top / "job.sh", env=env, cwd=top)
        copy = f"--dbpath {root}/rpmdb "
        expected = "2: -qf a b\n1: -qa\n" if writable else f"4: {copy}-qf a b\n3: {copy}-qa\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
        assert [path.name for path in root.rglob("*.sqlite")] == ([] if writable else ["rpmdb.sqlite"])


def test_a_reason_in_several_parts_is_one_line(run: Run) -> None:
    done = run("IFS=:; fail 2 'first:' \"$(printf 'the %s' second)\"")
    assert (done.returncode, done.stderr) == (2, "forge: reason: first: the second\n")


# ---- submodules

LINKS = """
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x
seal_git /dev/null "$PWD"
git init --quiet tree
git -C tree update-index --add --cacheinfo "160000,$COMMIT,third/x"
git -C tree update-index --add --cacheinfo "160000,$COMMIT,a b"
printf '%s' "$MODULES" >tree/.gitmodules
submodule_links tree 'start/'
"""
COMMIT = "c" * 40
GOOD = '[submodule "one"]\n\tpath = third/x\n\turl = ../x.git\n'
LINE = f"link\tstart/third/x\t{COMMIT}\t../x.git\n"


@pytest.mark.parametrize(
    ("modules", "lines"),
    [
        (GOOD, LINE),
        (GOOD + '[submodule "a name"]\n\tpath = a b\n\turl = https://example.org/y\n',
         f"{LINE}link\tstart/a b\t{COMMIT}\thttps://example.org/y\n"),
        (GOOD + '[submodule "gone"]\n\tpath = third/gone\n\turl = x\n', LINE),
        (GOOD + '[submodule "glob"]\n\tpath = :(glob)**\n\turl = x\n', LINE),
        (GOOD + '[submodule "star"]\n\tpath = *\n\turl = x\n', LINE),
        (GOOD + '[submodule "up"]\n\tpath = ../../x\n\turl = x\n', LINE),
        (GOOD + '[submodule "option"]\n\tpath = --others\n\turl = x\n', LINE),
        ("[--global]\n\tpath = third/x\n\turl = x\n" + GOOD, LINE),
        ("[other]\n\tpath = third/x\n\turl = x\n" + GOOD, LINE),
    ],
)  # fmt: skip
def test_submodules_of_a_tree(run: Run, modules: str, lines: str) -> None:
    """Whatever .gitmodules says: it names only what is one in the tree, in one line each."""
    need("git")
    done = run(LINKS, COMMIT=COMMIT, MODULES=modules)
    assert (done.returncode, done.stdout) == (0, lines), done.stderr


@pytest.mark.parametrize("url", ["x\\nlink\\tq\\tq\\tq", "x\\ty", "x\x1b[31my", "x\\by"])
def test_a_url_with_a_control_character_ends_the_job(run: Run, url: str) -> None:
    need("git")
    modules = f'[submodule "one"]\n\tpath = third/x\n\turl = "{url}"\n'
    done = run(f"{LINKS}\necho not reached", COMMIT=COMMIT, MODULES=modules)
    assert (done.returncode, done.stdout) == (21, ""), done.stdout
    reason = "the submodule submodule.one.path has a control character in its path or URL"
    assert REASON.findall(done.stderr) == [reason]
