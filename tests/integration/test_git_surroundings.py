"""host/git_cache.py where its surroundings are hostile: sources, the caller's environment, settings, and damage."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pikaforge.errors import ConfigError, HostError
from pikaforge.host import git as forge_git
from pikaforge.host import git_program
from pikaforge.host.git_cache import Cache
from pikaforge.host.process import Completed

Git = Callable[..., str]


@pytest.fixture(autouse=True)
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gitconfig"
    path.write_text("[safe]\n\tdirectory = *\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(path))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    return path


@pytest.fixture
def upstream(tmp_path: Path, git: Git) -> Path:
    """A repository with two commits and a tag."""
    folder = tmp_path / "upstream"
    git("init", "--quiet", "--initial-branch=main", folder)
    for number in (1, 2):
        (folder / "a.txt").write_text(f"{number}\n")
        git("-C", folder, "add", "a.txt")
        git("-C", folder, "commit", "--quiet", "--message", f"commit {number}")
    git("-C", folder, "tag", "v1.0")
    return folder


def _head(folder: Path) -> str:
    done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def commit(upstream: Path) -> str:
    return _head(upstream)


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notices: list[str]) -> Cache:
    return Cache(tmp_path / "cache", local=True, notice=notices.append)


def _whole(path: Path, commit: str) -> bool:
    done = subprocess.run(
        ["git", f"--git-dir={path}", "rev-list", "--quiet", "--objects", "--no-walk", commit],
        check=False,
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
    )
    return done.returncode == 0


# ---- a hostile source


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    "url", ["--upload-pack=touch {mark};", "ext::sh -c touch% {mark}", "ssh://-oProxyCommand=touch%20{mark}/x"]
)
def test_a_url_runs_nothing(tmp_path: Path, user_config: Path, commit: str, url: str, local: bool) -> None:
    """Even where the user's settings would let it."""
    user_config.write_text('[protocol]\n\tallow = always\n[protocol "ext"]\n\tallow = always\n')
    mark = tmp_path / "mark"
    cache = Cache(tmp_path / "cache", local=local)
    for call in (cache.fetch, cache.history):
        with pytest.raises(ConfigError):
            call(url.format(mark=mark), commit)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["--upload-pack=touch x", "a:refs/heads/b", "a\nb"])
def test_neither_does_a_commit_or_a_ref(cache: Cache, upstream: Path, commit: str, name: str) -> None:
    with pytest.raises(ConfigError):
        cache.fetch(upstream.as_uri(), name)
    with pytest.raises(ConfigError):
        cache.fetch(upstream.as_uri(), commit, name)


def test_a_rule_of_the_user_that_runs_a_program_is_refused(
    tmp_path: Path, user_config: Path, upstream: Path, commit: str
) -> None:
    mark = tmp_path / "mark"
    user_config.write_text(
        f'[protocol "ext"]\n\tallow = always\n[url "ext::touch {mark} "]\n\tinsteadOf = https://one.invalid/\n'
        f'[url "{upstream.parent.as_uri()}/"]\n\tinsteadOf = https://two.invalid/\n[safe]\n\tdirectory = *\n'
    )
    cache = Cache(tmp_path / "cache")
    with pytest.raises(HostError, match="not allowed"):
        cache.fetch("https://one.invalid/upstream", commit)
    assert not mark.exists()
    assert _whole(cache.fetch("https://two.invalid/upstream", commit), commit), "a mirror on this machine"


def test_a_server_leads_to_no_repository_of_this_machine(
    tmp_path: Path, user_config: Path, upstream: Path, commit: str
) -> None:
    cache = Cache(tmp_path / "cache")
    user_config.write_text(
        f'[url "{(tmp_path / "mirror").as_uri()}/"]\n\tinsteadOf = https://up.invalid/\n[safe]\n\tdirectory = *\n'
    )
    for url in (upstream.as_uri(), str(upstream), "../upstream", "https://up.invalid/../upstream"):
        with pytest.raises((ConfigError, HostError)):
            cache.fetch(url, commit)
    own = Cache(tmp_path / "own", local=True)
    assert _whole(own.fetch(upstream.as_uri(), commit), commit), "where the user has named one"


# ---- the caller's environment and settings


def _variables() -> list[str]:
    """Those that git itself calls local to a repository, and others that change where or how it works."""
    local = subprocess.run(["git", "rev-parse", "--local-env-vars"], check=True, capture_output=True, text=True)
    more = (
        "GIT_ALLOW_PROTOCOL GIT_ATTR_SOURCE GIT_CEILING_DIRECTORIES GIT_CONFIG GIT_DEFAULT_HASH GIT_DEFAULT_REF_FORMAT "
        "GIT_DIFF_OPTS GIT_DISCOVERY_ACROSS_FILESYSTEM GIT_EXTERNAL_DIFF GIT_FLUSH GIT_GLOB_PATHSPECS "
        "GIT_ICASE_PATHSPECS GIT_LITERAL_PATHSPECS GIT_NAMESPACE GIT_NOGLOB_PATHSPECS GIT_OPTIONAL_LOCKS GIT_PAGER "
        "GIT_PROTOCOL_FROM_USER GIT_QUARANTINE_PATH GIT_REDIRECT_STDERR GIT_REDIRECT_STDOUT GIT_REF_PARANOIA "
        "GIT_TEMPLATE_DIR GIT_TRACE GIT_TRACE2 GIT_TRACE2_EVENT GIT_TRACE_CURL GIT_TRACE_PACKET GIT_TRACE_SETUP"
    )
    # The settings of GIT_CONFIG_COUNT are the user's; the next test is about them.
    return sorted({*local.stdout.split(), *more.split()} - {"GIT_CONFIG_COUNT"})


def _value(name: str, caller: Path) -> str:
    """Return a value with which git would work elsewhere, or otherwise."""
    other = str(caller.parent / "other")
    inner = caller / ".git"
    return {
        "GIT_DIR": str(inner),
        "GIT_COMMON_DIR": str(inner),
        "GIT_INDEX_FILE": str(inner / "index"),
        "GIT_OBJECT_DIRECTORY": str(inner / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(inner / "objects"),
        "GIT_WORK_TREE": str(caller),
        "GIT_TEMPLATE_DIR": str(caller),
        "GIT_QUARANTINE_PATH": str(caller),
        "GIT_CONFIG_PARAMETERS": "'core.bare=false' 'core.worktree=/nowhere'",
        "GIT_CONFIG": other,
        "GIT_SHALLOW_FILE": other,
        "GIT_GRAFT_FILE": other,
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_DEFAULT_REF_FORMAT": "reftable",
        "GIT_ALLOW_PROTOCOL": "ext:none",
        "GIT_NAMESPACE": "elsewhere",
        "GIT_ATTR_SOURCE": "HEAD",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_DIFF_OPTS": "--unified=0",
        "GIT_PAGER": "false",
    }.get(name, "1")


def _state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _use(cache: Cache, upstream: Path, commit: str) -> tuple[str, bool, str, bool, bytes]:
    """All that is done with a cache."""
    url = upstream.as_uri()
    ref = forge_git.remote_ref(url, "v1.0")
    assert ref is not None
    path = cache.fetch(url, commit, "refs/tags/v1.0")
    shallow = (path / "shallow").is_file()
    _, whole = cache.history(url, commit)
    tree = forge_git.tree_of(path, commit)
    return (
        ref.commit,
        shallow and whole and _whole(path, commit),
        tree,
        path.is_dir(),
        cache.mailbox(url, f"{commit}", "refs/heads/main"),
    )


@pytest.mark.parametrize("name", _variables())
def test_no_variable_of_git_leads_elsewhere(
    git: Git, upstream: Path, commit: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tmp_path = upstream.parent
    expected = _use(Cache(tmp_path / "before", local=True), upstream, commit)
    caller = tmp_path / "caller"
    git("init", "--quiet", caller)
    (caller / "file").write_text("mine")
    git("-C", caller, "add", "file")
    git("-C", caller, "commit", "--quiet", "--message", "mine")
    before, source = _state(caller), _state(upstream)
    monkeypatch.chdir(caller)
    monkeypatch.setenv(name, _value(name, caller))
    assert _use(Cache(tmp_path / "after", local=True), upstream, commit) == expected
    assert _state(caller) == before, "nothing was written into the caller's repository"
    assert _state(upstream) == source


SETTINGS = [
    "[safe]\n\tbareRepository = explicit\n",
    "[init]\n\tdefaultObjectFormat = sha256\n\tdefaultRefFormat = reftable\n\tdefaultBranch = x\n",
    "[init]\n\ttemplateDir = TEMPLATE\n",
    "[core]\n\thooksPath = HOOKS\n\tlogAllRefUpdates = always\n",
    "[core]\n\tbare = false\n\tworktree = /nowhere\n\tsharedRepository = 0666\n",
    "[fetch]\n\tprune = true\n\tpruneTags = true\n\trecurseSubmodules = true\n\twriteCommitGraph = true\n",
    "[submodule]\n\trecurse = true\n[gc]\n\tauto = 1\n[maintenance]\n\tauto = true\n",
    "[protocol]\n\tallow = never\n",
    "[protocol \"file\"]\n\tallow = never\n",
    "[color]\n\tui = always\n[column]\n\tui = always\n[core]\n\tquotePath = true\n\tpager = false\n",
    "[trace2]\n\tnormalTarget = 2\n\teventTarget = 2\n\tperfTarget = 2\n",
    "[remote \"origin\"]\n\turl = https://nobody.invalid/\n\tfetch = +refs/*:refs/*\n",
]  # fmt: skip


@pytest.mark.parametrize("way", ["file", "variables"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_no_setting_of_the_user_decides_about_the_cache(
    upstream: Path, user_config: Path, monkeypatch: pytest.MonkeyPatch, settings: str, way: str
) -> None:
    tmp_path, commit = upstream.parent, _head(upstream)
    expected = _use(Cache(tmp_path / "before", local=True), upstream, commit)
    (tmp_path / "template" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / "template" / "description").write_text("theirs")
    (tmp_path / "hooks").mkdir()
    hook = tmp_path / "hooks" / "reference-transaction"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    text = settings.replace("TEMPLATE", str(tmp_path / "template")).replace("HOOKS", str(tmp_path / "hooks"))
    if way == "file":
        user_config.write_text(f"{user_config.read_text()}{text}")
    else:
        (tmp_path / "more").write_text(text)
        listed = subprocess.run(
            ["git", "config", "--null", "--file", tmp_path / "more", "--list"],
            check=True,
            capture_output=True,
            text=True,
        )
        pairs = [entry.partition("\n") for entry in listed.stdout.split("\0") if entry]
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(pairs)))
        for number, (key, _, value) in enumerate(pairs):
            monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
            monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    cache = Cache(tmp_path / "after", local=True)
    assert _use(cache, upstream, commit) == expected
    path = cache.path(upstream.as_uri())
    assert not (path / "description").exists()
    assert not (path / "logs").exists()
    assert "sha256" not in (path / "config").read_text()


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({}, "ssh -o BatchMode=yes"),
        ({"GIT_SSH_COMMAND": "ssh -i key"}, "ssh -i key"),
        ({"GIT_SSH": "/opt/ssh"}, None),
    ],
)
def test_the_users_way_to_ssh_is_honoured(
    monkeypatch: pytest.MonkeyPatch, user_config: Path, given: dict[str, str], command: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = git_program._for_servers(git_program.environment(), ("ssh",))
    assert found.get("GIT_SSH_COMMAND") == command
    assert found["GIT_ALLOW_PROTOCOL"] == "ssh"
    user_config.write_text("[core]\n\tsshCommand = ssh -F mine\n")
    if not given:
        assert "GIT_SSH_COMMAND" not in git_program._for_servers(git_program.environment(), ("ssh",))


def test_a_source_with_long_hashes(tmp_path: Path, git: Git, cache: Cache) -> None:
    folder = tmp_path / "long"
    git("init", "--quiet", "--object-format=sha256", folder)
    (folder / "a").write_text("a")
    git("-C", folder, "add", "a")
    git("-C", folder, "commit", "--quiet", "--message", "a")
    commit = git("-C", folder, "rev-parse", "HEAD")
    path = cache.fetch(folder.as_uri(), commit)
    assert _whole(path, commit)
    assert forge_git.object_format(path) == "sha256"


# ---- damage


def _lock(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text("")


def _drop(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.rmtree(path / name)


def _replace(path: Path, by: Callable[[Path], object]) -> None:
    shutil.rmtree(path)
    by(path)


def _packs(path: Path) -> None:
    for pack in (path / "objects").rglob("*"):
        if pack.is_file():
            pack.unlink()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "shallow.lock": (_lock("shallow.lock"), "interrupted"),
    "config.lock": (_lock("config.lock"), "interrupted"),
    "packed-refs.lock": (_lock("packed-refs.lock"), "interrupted"),
    "HEAD.lock": (_lock("HEAD.lock"), "interrupted"),
    "refs/forge/x.lock": (_lock("refs/forge/NEXT.lock"), "interrupted"),
    "tmp_pack": (_lock("objects/pack/tmp_pack_x"), "interrupted"),
    "no objects": (_drop("objects"), "damaged"),
    "no refs": (_drop("refs"), "damaged"),
    "no HEAD": (lambda path: (path / "HEAD").unlink(), "damaged"),
    "empty HEAD": (lambda path: (path / "HEAD").write_text(""), "damaged"),
    "broken config": (lambda path: (path / "config").write_text("[core"), "damaged"),
    "no packs": (_packs, "damaged"),
    "a file": (lambda path: _replace(path, Path.touch), "damaged"),
    "a dangling link": (lambda path: _replace(path, lambda p: p.symlink_to("/nowhere")), "damaged"),
    "an empty folder": (lambda path: _replace(path, Path.mkdir), "damaged"),
    "another format": (
        lambda path: _replace(path, lambda p: _init(p, "--object-format=sha256")), "damaged"
    ),
}  # fmt: skip


def _init(path: Path, *options: str) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", *options, path], check=True)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_said_and_mended(git: Git, upstream: Path, commit: str, notices: list[str], kind: str) -> None:
    tmp_path = upstream.parent
    url = upstream.as_uri()
    first = git("-C", upstream, "rev-parse", "HEAD~1")
    path = Cache(tmp_path / "cache", local=True, notice=notices.append).fetch(url, first)
    assert notices == []
    change, said = DAMAGE[kind]
    next_lock = path / "refs" / "forge" / f"{commit}.lock"
    change(path)
    if (path / "refs" / "forge" / "NEXT.lock").exists():
        (path / "refs" / "forge" / "NEXT.lock").rename(next_lock)
    again = Cache(tmp_path / "cache", local=True, notice=notices.append)  # the next run
    assert _whole(again.fetch(url, commit), commit)
    assert _whole(again.fetch(url, first), first)
    assert [said in text for text in notices] == [True], notices
    assert not list(path.rglob("*.lock"))
    assert not list(path.rglob("tmp_*"))


def test_a_fetch_that_has_outlived_its_run_is_ended(
    cache: Cache, upstream: Path, commit: str, notices: list[str]
) -> None:
    path = cache.path(upstream.as_uri())
    (path / "shallow.lock").write_text("")
    begin = ("sh", "-c", "sleep 60; true", "sh")
    left = subprocess.Popen([*begin, f"--git-dir={path}", "fetch"], start_new_session=True)
    reader = subprocess.Popen([*begin, f"--git-dir={path}", "rev-parse"], start_new_session=True)
    other = subprocess.Popen([*begin, f"--git-dir={path}.other", "fetch"], start_new_session=True)
    try:
        assert _whole(cache.fetch(upstream.as_uri(), commit), commit)
        assert left.wait(10) == -9
        assert (other.poll(), reader.poll()) == (None, None)
    finally:
        for each in (left, other, reader):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
    assert len(notices) == 1


# ---- local sources


def test_a_linked_work_tree_finds_its_modules(tmp_path: Path, git: Git, upstream: Path) -> None:
    git("-C", upstream, "worktree", "add", "--quiet", tmp_path / "linked", "v1.0")
    inner = upstream / ".git"
    assert forge_git.folders(upstream) == (inner,)
    assert forge_git.folders(tmp_path / "linked") == (inner / "worktrees" / "linked", inner)
    assert forge_git.module_folders(tmp_path / "linked") == (
        inner / "worktrees" / "linked" / "modules",
        inner / "modules",
    )
    git("clone", "--quiet", upstream.as_uri(), tmp_path / "clone")
    git("-C", tmp_path / "clone", "worktree", "add", "--quiet", tmp_path / "second", "v1.0")
    assert forge_git.origin(tmp_path / "second") == forge_git.origin(tmp_path / "clone") == upstream.as_uri()
    git("clone", "--quiet", "--bare", upstream.as_uri(), tmp_path / "bare.git")
    assert forge_git.folders(tmp_path / "bare.git") == (tmp_path / "bare.git",)


def test_a_bare_source_where_bare_ones_must_be_named(
    tmp_path: Path, git: Git, upstream: Path, user_config: Path
) -> None:
    git("clone", "--quiet", "--bare", upstream.as_uri(), tmp_path / "bare.git")
    user_config.write_text("[safe]\n\tbareRepository = explicit\n\tdirectory = *\n")
    assert forge_git.origin(tmp_path / "bare.git") == upstream.as_uri()


def test_a_partial_clone_is_named(tmp_path: Path, git: Git, upstream: Path, commit: str, cache: Cache) -> None:
    git("-C", upstream, "config", "uploadpack.allowFilter", "true")
    git("-C", upstream, "config", "uploadpack.allowAnySHA1InWant", "true")
    partial = tmp_path / "a partial#clone"
    git("clone", "--quiet", "--bare", "--filter=tree:0", upstream.as_uri(), partial)
    upstream.rename(upstream.with_name("gone"))
    assert forge_git.is_partial(partial)
    assert not forge_git.is_partial(upstream.with_name("gone"))
    with pytest.raises(HostError, match=r"partial clone \(git clone --filter\), which lacks files") as caught:
        cache.fetch(partial.as_uri(), commit)
    assert f"git -C '{partial}' fetch --refetch --no-filter" in caught.value.hint
    assert "%" not in re.sub(r"fatal:.*", "", caught.value.message)


def test_the_hint_about_another_users_repository_has_its_path(tmp_path: Path) -> None:
    done = Completed(argv=("git",), status=128, stdout=b"", stderr=b"fatal: detected dubious ownership in '/x'")
    error = git_program.failure((tmp_path / "a b#c%").as_uri(), done)
    assert error.message == f"git refuses {tmp_path}/a b#c%: it belongs to another user"
    assert error.hint == f"git config --global --add safe.directory '{tmp_path}/a b#c%'"
