"""host/git.py against real repositories: what a name stands for, how commits come, what cannot be reached."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pikaforge.errors import ConfigError, HostError, UnreachableError
from pikaforge.host import git as forge_git
from pikaforge.host import git_program
from pikaforge.host.git_cache import Cache
from pikaforge.host.git_urls import join

Git = Callable[..., str]
DATE = {"GIT_AUTHOR_DATE": "2023-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2023-01-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own configuration: at first nothing but what every test here needs."""
    path = tmp_path / "gitconfig"
    path.write_text("[safe]\n\tdirectory = *\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(path))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return path


def _configure(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


class Repository:
    """A repository to fetch from: three commits on main, tags of both kinds, a pull request from the first one."""

    def __init__(self, folder: Path, git: Git) -> None:
        self.folder = folder
        self._git = git
        git("init", "--quiet", "--initial-branch=main", folder)
        self.commits = [self.commit("a.txt", f"{n}\n" * 3, f"commit {n}") for n in range(3)]
        self("tag", "light", self.commits[0])
        self("tag", "--annotate", "--message", "a tag", "v1.0", self.commits[1])
        self("checkout", "--quiet", "-b", "work", self.commits[0])
        self.pull = self.commit("b.txt", "grüße\r\nende", "fix: grüße\n\nFixes #7")
        self("update-ref", "refs/pull/7/head", self.pull)
        self("checkout", "--quiet", "main")

    def __call__(self, *args: str) -> str:
        return self._git("-C", self.folder, *args, env=DATE)

    def commit(self, name: str, text: str, message: str) -> str:
        (self.folder / name).write_bytes(text.encode())
        self("add", name)
        self("commit", "--quiet", "--message", message)
        return self("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return self.folder.as_uri()


@pytest.fixture
def repository(tmp_path: Path, git: Git) -> Repository:
    return Repository(tmp_path / "upstream", git)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", local=True)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nobody listens, and which nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


# ---- what a name stands for


def test_names(repository: Repository) -> None:
    first, second, third = repository.commits
    expected = {
        "light": ("refs/tags/light", first, False),
        "v1.0": ("refs/tags/v1.0", second, False),  # annotated: the commit, not the tag object
        "main": ("refs/heads/main", third, True),
        "refs/heads/main": ("refs/heads/main", third, True),
        "refs/tags/v1.0": ("refs/tags/v1.0", second, False),
        "refs/pull/7/head": ("refs/pull/7/head", repository.pull, True),
        "HEAD": ("HEAD", third, True),
    }
    for name, (full, commit, moving) in expected.items():
        found = forge_git.remote_ref(repository.url, name)
        assert found == forge_git.Ref(name=full, commit=commit, moving=moving), name


@pytest.mark.parametrize("name", ["absent", "v1", "refs/pull/8/head", "mai*", "ain", "heads/main", "--all"])
def test_names_that_stand_for_nothing(repository: Repository, name: str) -> None:
    assert forge_git.remote_ref(repository.url, name) is None


def test_a_tag_goes_before_a_branch_of_the_same_name(repository: Repository) -> None:
    repository("branch", "light", repository.commits[2])
    found = forge_git.remote_ref(repository.url, "light")
    assert found == forge_git.Ref(name="refs/tags/light", commit=repository.commits[0], moving=False)


@pytest.mark.parametrize("commit", ["0" * 40, "ab" * 32])
def test_a_commit_stands_for_itself_and_nobody_is_asked(commit: str) -> None:
    found = forge_git.remote_ref("http://127.0.0.1:1/nobody", commit)
    assert found == forge_git.Ref(name=commit, commit=commit, moving=False)


def test_near_names(repository: Repository) -> None:
    assert forge_git.near_names(repository.url, "v1.1")[0] == "v1.0"
    assert forge_git.near_names(repository.url, "lihgt")[0] == "light"


def test_what_a_repository_is(tmp_path: Path, repository: Repository, git: Git) -> None:
    git("clone", "--quiet", "--bare", repository.folder, tmp_path / "bare.git")
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("")
    found = {name: forge_git.is_repository(tmp_path / name) for name in ("upstream", "bare.git", "plain", "file", "no")}
    assert found == {"upstream": True, "bare.git": True, "plain": False, "file": False, "no": False}
    git("-C", repository.folder, "worktree", "add", "--quiet", tmp_path / "tree", "light")
    assert forge_git.is_repository(tmp_path / "tree")
    assert forge_git.origin(repository.folder) == ""
    git("clone", "--quiet", repository.url, tmp_path / "clone")
    assert forge_git.origin(tmp_path / "clone") == repository.url


def test_a_folder_with_strange_letters_is_a_url(tmp_path: Path, git: Git, cache: Cache) -> None:
    strange = Repository(tmp_path / "a b#c%é", git)
    url = forge_git.url_of(strange.folder)
    found = forge_git.remote_ref(url, "main")
    assert found is not None
    assert cache.fetch(url, found.commit) == cache.path(url)


# ---- fetching


def _has(path: Path, commit: str) -> bool:
    done = subprocess.run(["git", "-C", path, "cat-file", "-e", f"{commit}^{{tree}}"], check=False, capture_output=True)
    return done.returncode == 0


def test_one_commit_is_fetched_and_no_history(repository: Repository, cache: Cache) -> None:
    second = repository.commits[1]
    assert not cache.has(repository.url, second)
    path = cache.fetch(repository.url, second)
    assert cache.has(repository.url, second)
    assert _has(path, second)
    assert not _has(path, repository.commits[0])
    assert (path / "shallow").read_text().split() == [second]


def test_what_is_there_is_not_asked_for_again(repository: Repository, cache: Cache) -> None:
    path = cache.fetch(repository.url, repository.commits[1])
    repository.folder.rename(repository.folder.with_name("gone"))
    assert cache.fetch(repository.url, repository.commits[1]) == path


def test_each_url_has_a_repository_of_its_own(cache: Cache) -> None:
    first, second = cache.path("https://example.org/x/y.git"), cache.path("https://example.org/x-y.git")
    assert first != second
    assert cache.path("https://example.org/x/y.git") == first
    assert first.name.startswith("x-y.git-")


@pytest.fixture
def picky(user_config: Path) -> None:
    """Protocol 0, in which servers give out only what a ref names."""
    _configure(user_config, "[protocol]\n\tversion = 0\n")


@pytest.mark.usefixtures("picky")
def test_a_server_that_gives_out_only_refs(repository: Repository, cache: Cache) -> None:
    url, (first, second, third) = repository.url, repository.commits
    done = subprocess.run(
        ["git", "-C", cache.path(url), "fetch", "--depth=1", url, second], check=False, capture_output=True, text=True
    )
    assert "not our ref" in done.stderr or "unadvertised object" in done.stderr, "this git does not refuse: no test"
    path = cache.fetch(url, third, "refs/heads/main")
    assert not _has(path, second), "by its ref, as shallow as can be"
    # Behind the end of what is there already: everything is fetched.
    assert _has(cache.fetch(url, second, "refs/heads/main"), second)
    assert _has(cache.fetch(url, first), first)
    assert _has(cache.fetch(url, repository.pull), repository.pull)


@pytest.mark.usefixtures("picky")
def test_a_branch_that_moved_on_meanwhile(repository: Repository, cache: Cache) -> None:
    """Its commit is asked for by a ref that names another one now."""
    wanted = repository.commits[2]
    repository.commit("a.txt", "later", "later")
    assert _has(cache.fetch(repository.url, wanted, "refs/heads/main"), wanted)


@pytest.mark.parametrize("ref", ["", "refs/heads/main"])
@pytest.mark.parametrize("version", [0, 2])
def test_a_commit_that_is_not_there(
    repository: Repository, cache: Cache, user_config: Path, ref: str, version: int
) -> None:
    _configure(user_config, f"[protocol]\n\tversion = {version}\n")
    with pytest.raises(ConfigError) as caught:
        cache.fetch(repository.url, "1" * 40, ref)
    assert (caught.value.message, caught.value.hint) == (
        f"{repository.url} has no commit {'1' * 40}",
        "was its history rewritten?",
    )


def test_a_repository_that_is_not_there(tmp_path: Path, cache: Cache) -> None:
    url = (tmp_path / "nowhere").as_uri()
    with pytest.raises(HostError, match=rf"^git cannot read {url}: fatal: .*does not (exist|appear)"):
        forge_git.remote_ref(url, "main")
    with pytest.raises(HostError, match=rf"^git cannot read {url}: fatal: "):
        cache.fetch(url, "1" * 40)


def test_a_url_that_is_no_option(cache: Cache) -> None:
    """Those of submodules are as the source says."""
    url = "--upload-pack=false"
    with pytest.raises(ConfigError, match=rf"^the URL {url} begins with `-`, as an option does$"):
        cache.fetch(url, "1" * 40)


@pytest.mark.parametrize("scheme", ["http", "git"])
def test_a_server_that_is_not_there_is_out_of_reach(scheme: str, closed_port: int, cache: Cache) -> None:
    url = f"{scheme}://127.0.0.1:{closed_port}/x.git"
    with pytest.raises(UnreachableError) as caught:
        forge_git.remote_ref(url, "main")
    assert caught.value.message.startswith(f"cannot reach {url}: fatal: ")
    with pytest.raises(UnreachableError):
        cache.fetch(url, "1" * 40)


def test_a_server_whose_name_is_not_known(cache: Cache) -> None:
    with pytest.raises(UnreachableError, match=r"^cannot reach http://nobody\.invalid/x\.git: fatal: "):
        forge_git.remote_ref("http://nobody.invalid/x.git", "main")


def test_the_users_mirrors_are_honoured(repository: Repository, cache: Cache, user_config: Path) -> None:
    _configure(user_config, f'[url "{repository.folder.parent.as_uri()}/"]\n\tinsteadOf = https://upstream.invalid/\n')
    url = "https://upstream.invalid/upstream"
    found = forge_git.remote_ref(url, "v1.0")
    assert found is not None
    assert found.commit == repository.commits[1]
    assert _has(cache.fetch(url, found.commit), found.commit)


def test_nobody_is_asked_for_a_password() -> None:
    environment = git_program.environment()
    assert environment["GIT_TERMINAL_PROMPT"] == "0"
    assert environment["GIT_ASKPASS"] == "/bin/false"


# ---- mailboxes


def _mailbox(repository: Repository, cache: Cache) -> bytes:
    return cache.mailbox(repository.url, repository.commits[1], "refs/pull/7/head")


def test_the_mailbox_of_a_pull_request(repository: Repository, cache: Cache) -> None:
    """Its commits and not those of the tag, which is no ancestor of it."""
    text = _mailbox(repository, cache)
    assert text.startswith(f"From {repository.pull} Mon Sep 17 00:00:00 2001\n".encode())
    assert text.count(b"\nSubject: ") == 1
    assert b"Fixes #7" in text
    assert b"+++ b/b.txt" in text
    assert b"a.txt" not in text


def test_a_mailbox_after_the_tag_was_fetched_shallowly(repository: Repository, cache: Cache) -> None:
    cache.fetch(repository.url, repository.commits[1], "refs/tags/v1.0")
    cache.fetch(repository.url, repository.pull)
    assert _mailbox(repository, cache).count(b"\nSubject: ") == 1


def test_a_mailbox_applies(repository: Repository, cache: Cache, git: Git, tmp_path: Path) -> None:
    mailbox = tmp_path / "mailbox"
    mailbox.write_bytes(_mailbox(repository, cache))
    git("clone", "--quiet", "--branch", "v1.0", repository.url, tmp_path / "clone")
    git("-C", tmp_path / "clone", "am", "--quiet", "--keep-cr", mailbox)
    assert (tmp_path / "clone" / "b.txt").read_bytes() == "grüße\r\nende".encode()


SETTINGS = [
    "[diff]\n\tnoprefix = true\n",
    "[diff]\n\tmnemonicPrefix = true\n",
    "[diff]\n\talgorithm = patience\n\trenames = copies\n\tcontext = 0\n\tinterHunkContext = 9\n",
    "[diff]\n\tsrcPrefix = x/\n\tdstPrefix = y/\n",
    "[diff]\n\texternal = false\n",
    "[diff]\n\torderFile = /dev/null\n\tsuppressBlankEmpty = true\n\trelative = true\n",
    "[color]\n\tui = always\n\tdiff = always\n",
    "[core]\n\tautocrlf = true\n\tabbrev = 4\n\tquotePath = false\n\teol = crlf\n",
    "[core]\n\tattributesFile = ATTRIBUTES\n",
    "[format]\n\tattach = true\n",
    "[format]\n\tsignOff = true\n\tsubjectPrefix = RFC\n\tnumbered = true\n\theaders = \"X-Mine: 1\\n\"\n",
    "[format]\n\tfrom = Me <me@example.org>\n\tto = you@example.org\n\tcc = them@example.org\n",
    "[format]\n\tcoverLetter = true\n\tthread = true\n\tnotes = true\n",
    "[format]\n\tencodeEmailHeaders = false\n\tpretty = oneline\n",
    "[format]\n\tsuffix = .txt\n\tsignature = mine\n\tnoprefix = true\n",
    "[format]\n\tuseAutoBase = whenAble\n",
    "[i18n]\n\tlogOutputEncoding = ISO-8859-1\n",
    "[log]\n\tshowSignature = true\n\tdate = relative\n\tdecorate = full\n",
    "[mailmap]\n\tfile = MAILMAP\n",
    "[user]\n\tname = Other\n\temail = other@example.org\n",
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_setting_of_the_user_changes_a_mailbox(
    repository: Repository, tmp_path: Path, user_config: Path, settings: str
) -> None:
    before = _mailbox(repository, Cache(tmp_path / "before", local=True))
    (tmp_path / "attributes").write_text("* diff=mine\n*.txt -diff\n")
    (tmp_path / "mailmap").write_text("Changed <changed@example.org> <test@sample.invalid>\n")
    settings = settings.replace("ATTRIBUTES", str(tmp_path / "attributes")).replace(
        "MAILMAP", str(tmp_path / "mailmap")
    )
    _configure(user_config, settings)
    assert _mailbox(repository, Cache(tmp_path / "after", local=True)) == before


def test_a_mailbox_keeps_binary_files_and_submodules(repository: Repository, cache: Cache) -> None:
    repository("checkout", "--quiet", "work")
    (repository.folder / "blob").write_bytes(bytes(range(256)))
    repository("add", "blob")
    repository("update-index", "--add", "--cacheinfo", f"160000,{'c' * 40},third/x")
    repository("commit", "--quiet", "--message", "binary and submodule")
    repository("update-ref", "refs/pull/7/head", "HEAD")
    text = _mailbox(repository, cache)
    assert text.count(b"\nSubject: ") == 2
    assert b"GIT binary patch" in text
    assert f"+Subproject commit {'c' * 40}".encode() in text


def test_the_mailbox_of_a_pull_request_that_was_merged(repository: Repository, cache: Cache) -> None:
    """Its commits are those that came with the merge, whatever was merged or committed since."""
    before = _mailbox(repository, cache)
    for number in (8, 9):
        repository("merge", "--quiet", "--no-ff", "--no-edit", "work" if number == 8 else "again")
        repository.commit("c.txt", f"{number}", "on main")
        repository("checkout", "--quiet", "-b", "again" if number == 8 else "last")
        repository.commit("d.txt", f"{number}", "another pull request")
        repository("checkout", "--quiet", "main")
    merged = repository("rev-parse", "main")
    assert cache.mailbox(repository.url, merged, "refs/pull/7/head") == before
    shallow = Cache(cache.path(repository.url).parent / "other", local=True)
    shallow.fetch(repository.url, merged)
    assert shallow.mailbox(repository.url, merged, "refs/pull/7/head") == before


def test_the_mailbox_of_a_pull_request_that_the_branch_moved_on_to(repository: Repository, cache: Cache) -> None:
    """Nothing tells where it begins."""
    assert cache.mailbox(repository.url, repository.pull, "refs/pull/7/head") == b""


# ---- histories and submodules


def test_the_history_of_a_commit(repository: Repository, cache: Cache) -> None:
    first, second, third = repository.commits
    cache.fetch(repository.url, third)
    cache.fetch(repository.url, repository.pull)
    path, whole = cache.history(repository.url, third)
    assert whole
    assert _has(path, first)
    assert forge_git.holds(path, third, first)
    assert forge_git.holds(path, third, third)
    assert not forge_git.holds(path, first, third)
    assert not forge_git.holds(path, third, repository.pull)
    assert not forge_git.holds(path, third, "1" * 40)
    assert not forge_git.holds(path, second, repository.pull)
    repository.folder.rename(repository.folder.with_name("gone"))
    assert cache.history(repository.url, third) == (path, True), "what is there is not asked for again"


@pytest.mark.usefixtures("picky")
def test_the_history_from_a_server_that_gives_out_only_refs(repository: Repository, cache: Cache) -> None:
    url, (first, second, _) = repository.url, repository.commits
    cache.fetch(url, repository.commits[2], "refs/heads/main")
    path, whole = cache.history(url, second, "refs/tags/v1.0")
    assert (whole, forge_git.holds(path, second, first)) == (True, True)


def test_a_history_that_ends_early(repository: Repository, cache: Cache, tmp_path: Path, git: Git) -> None:
    git("clone", "--quiet", "--depth=2", repository.url, tmp_path / "shallow")
    url, third = (tmp_path / "shallow").as_uri(), repository.commits[2]
    path, whole = cache.history(url, third)
    assert not whole
    assert forge_git.holds(path, third, repository.commits[1])
    assert not forge_git.holds(path, third, repository.commits[0])


def test_the_submodules_of_a_commit(repository: Repository, cache: Cache) -> None:
    settings = {
        "third/x": "../x.git",
        "with blank": "https://example.org/y.git",
        "none": "../none.git",
        ":odd*": "../o.git",
    }
    file = str(repository.folder / ".gitmodules")
    for number, (name, url) in enumerate(settings.items(), 1):
        repository("config", "--file", file, f"submodule.s.{number}.path", name)
        repository("config", "--file", file, f"submodule.s.{number}.url", url)
        if name != "none":
            repository("update-index", "--add", "--cacheinfo", f"160000,{str(number) * 40},{name}")
    repository("add", ".gitmodules")
    repository("commit", "--quiet", "--message", "submodules")
    commit = repository("rev-parse", "HEAD")
    path = cache.fetch(repository.url, commit)
    assert forge_git.submodules(path, commit) == {
        "third/x": ("1" * 40, "../x.git"),
        "with blank": ("2" * 40, "https://example.org/y.git"),
        ":odd*": ("4" * 40, "../o.git"),
    }
    assert forge_git.submodules(cache.fetch(repository.url, repository.commits[0]), repository.commits[0]) == {}


# ---- relative URLs of submodules

BASES = [
    "https://example.org/team/demo.git",
    "https://example.org/team/demo.git/",
    "https://example.org/demo",
    "ssh://git@example.org:22/team/demo.git",
    "git@example.org:team/demo.git",
    "git@example.org:demo.git",
    "file:///srv/git/demo.git",
    "/srv/git/demo.git",
]
RELATIVE = [
    "../other.git",
    "../../else/other.git",
    "./nested.git",
    ".././other.git",
    "./../other.git",
    "../other.git/",
    "../a/../other.git",
    "https://example.com/absolute.git",
    "git@example.com:absolute.git",
    "/absolute/path.git",
]


@pytest.mark.parametrize("base", BASES)
def test_relative_urls_are_joined_as_git_does(tmp_path: Path, git: Git, base: str) -> None:
    folder = tmp_path / "super"
    git("init", "--quiet", folder)
    git("-C", folder, "remote", "add", "origin", base)
    expected, joined = {}, {}
    for number, url in enumerate(RELATIVE):
        name = f"m{number}"
        for key, value in (("path", name), ("url", url)):
            git("-C", folder, "config", "--file", ".gitmodules", f"submodule.{name}.{key}", value)
        git("-C", folder, "update-index", "--add", "--cacheinfo", f"160000,{'c' * 40},{name}")
        tried = subprocess.run(
            ["git", "submodule", "--quiet", "init", name],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
            capture_output=True,
        )
        if tried.returncode != 0:  # more `..` than the base has folders
            continue
        expected[url] = git("-C", folder, "config", f"submodule.{name}.url")
        joined[url] = join(base, url)
    assert len(expected) > 6
    assert joined == expected
