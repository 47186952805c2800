"""Git repositories: what their names stand for, where a local clone keeps its own, and what commits have in them.

Only looking and fetching (see `git_cache`) is done on this machine, because it needs the user's credentials, proxies
and insteadOf rules. Checking out and patching are done by guest scripts, without any configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pikaforge.host.git_program import failure, git, refuse_offline
from pikaforge.host.git_urls import COMMIT, NETWORK
from pikaforge.host.watch import covered

ANY = (*NETWORK, "file")
"""Protocols of a URL that the user has given himself."""


def is_repository(path: Path) -> bool:
    """Return whether a folder is a git work tree or a bare repository."""
    if not path.is_dir():
        return False
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def url_of(path: Path) -> str:
    """Return the URL of a local repository. git fetches shallowly from a URL only, not from a path."""
    return path.resolve().as_uri()


def folders(path: Path) -> tuple[Path, ...]:
    """Return the folders in which git keeps a local repository: its own one and, of a linked work tree, the common one.

    See gitrepository-layout(5). git itself is not asked: it could be set not to find the repository of another user, or
    a bare one.
    """
    own = path / ".git"
    if own.is_file():  # of a submodule, or a linked work tree
        own = path / _line(own).removeprefix("gitdir: ")
    elif not own.is_dir():
        own = path
    common = _line(own / "commondir")
    return tuple(dict.fromkeys((own.resolve(), (own / common).resolve())))


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
    except OSError:
        return ""


def _settings(path: Path, pattern: str) -> str:
    """Return the values of a local repository's own settings whose names fit a pattern."""
    file = folders(path)[-1] / "config"
    return git("config", "--file", str(file), "--get-regexp", pattern).text()


def origin(path: Path) -> str:
    """Return the URL from which a local clone was made; "" if it has none."""
    return _settings(path, r"^remote\.origin\.url$").partition(" ")[2].partition("\n")[0].strip()


def is_partial(path: Path) -> bool:
    """Return whether a local repository is a partial clone, which fetches files from elsewhere as they are needed."""
    return bool(_settings(path, r"^(extensions\.partialclone|remote\..*\.(promisor|partialclonefilter))$").strip())


def module_folders(path: Path) -> tuple[Path, ...]:
    """Return the folders in which a local clone may keep the repositories of its submodules.

    A linked work tree has one of its own, and so has the clone that it belongs to.
    """
    return tuple(folder / "modules" for folder in folders(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A name in a remote repository, and the commit that it names."""

    name: str
    commit: str
    moving: bool
    """Whether it is a branch, which may name another commit tomorrow."""


def remote_ref(url: str, name: str) -> Ref | None:
    """Return the commit of a tag, branch or pull request (`refs/pull/N/head`); None if the repository has no such name.

    Raises:
        UnreachableError: the repository did not answer.
        HostError: it answered, but cannot be read.
    """
    if COMMIT.fullmatch(name):
        return Ref(name=name, commit=name, moving=False)
    full = [name] if name.startswith("refs/") else [f"refs/tags/{name}", f"refs/heads/{name}"]
    wanted = [*full, *(f"{ref}^{{}}" for ref in full)] + (["HEAD"] if name == "HEAD" else [])
    refuse_offline(url, name)
    with _reading_refs(url):
        done = git("ls-remote", "--", url, *wanted, protocols=ANY)
    if done.status != 0:
        raise failure(url, done)
    found = {ref: commit for commit, _, ref in (line.partition("\t") for line in done.text().splitlines())}
    for ref in ("HEAD", *full) if name == "HEAD" else full:
        if ref in found:
            # An annotated tag is listed twice. The line with ^{} has its commit.
            commit = found.get(f"{ref}^{{}}", found[ref])
            return Ref(name=ref, commit=commit, moving=not ref.startswith("refs/tags/"))
    return None


@contextmanager
def _reading_refs(url: str) -> Iterator[None]:
    """Say what git reads where it lists the refs of a local repository, so that the answer of a build can be kept.

    That is its refs (gitrepository-layout(5)) and the settings. Nothing is said of repositories that are made in
    another way, of servers, and where settings are in further files.
    """
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file://") else None
    own = folders(path) if path is not None else ()
    settings = [folder / "config" for folder in own] + _personal_settings()
    plain = [folder for folder in own if not (folder / "reftable").exists()]
    if not own or plain != list(own) or any(b"include" in _bytes(file) for file in settings):
        yield
        return
    refs = [place for folder in own for place in (folder / "refs", *(folder / "refs").rglob("*"))]
    files = [folder / name for folder in own for name in ("HEAD", "packed-refs", "commondir")]
    files += [*settings, *(place for place in refs if not place.is_dir())]
    with covered(*map(str, files), folders=tuple(str(place) for place in refs if place.is_dir())):
        yield


def _personal_settings() -> list[Path]:
    """Return the files with the settings of this user and of this machine; see git-config(1), FILES."""
    home = Path(os.environ.get("HOME") or "/")
    own = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "git" / "config"
    given = [Path(os.environ[name]) for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM") if os.environ.get(name)]
    return [Path("/etc/gitconfig"), own, home / ".gitconfig", *given]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def near_names(url: str, name: str) -> list[str]:
    """Return tags and branches with similar names, for a hint."""
    import difflib  # noqa: PLC0415

    done = git("ls-remote", "--tags", "--heads", "--", url, protocols=ANY)
    names = {line.partition("\t")[2].split("/", 2)[-1].removesuffix("^{}") for line in done.text().splitlines()}
    return difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.3)


def submodules(repository: Path, commit: str) -> dict[str, tuple[str, str]]:
    """Return the submodules of a commit by path: the commit of each, and its URL as .gitmodules has it."""
    text = git("cat-file", "blob", f"{commit}:.gitmodules", repository=repository)
    found = {}
    for path, url in submodule_urls(text.stdout if text.status == 0 else b"").items():
        tree = git("--literal-pathspecs", "ls-tree", "-z", commit, "--", path, repository=repository)
        mode, _, rest = tree.text().partition(" ")
        if tree.status == 0 and mode == "160000":
            found[path] = (rest.split()[1], url)
    return found


def submodule_urls(gitmodules: bytes) -> dict[str, str]:
    """Return the URLs of submodules by path; nothing if the text is no .gitmodules."""
    listed = git("config", "--null", "--file", "-", "--list", stdin=gitmodules)
    settings: dict[str, dict[str, str]] = {}
    for entry in listed.text().split("\0") if listed.status == 0 else []:
        name, _, value = entry.partition("\n")
        section, _, key = name.rpartition(".")
        settings.setdefault(section, {})[key] = value
    return {s["path"]: s["url"] for s in settings.values() if s.get("path") and s.get("url")}


def object_format(repository: Path) -> str:
    """Return the object format of a repository, sha1 or sha256; sha1 where git knows no other."""
    done = git("rev-parse", "--show-object-format", repository=repository)
    return done.text().strip() if done.status == 0 else "sha1"


def tree_of(repository: Path, commit: str) -> str:
    """Return the name of a commit's tree."""
    return git("rev-parse", "--verify", f"{commit}^{{tree}}", repository=repository).text().strip()


def holds(repository: Path, newer: str, older: str) -> bool:
    """Return whether a commit is another one or has it among its ancestors, as far as they are here."""
    return git("merge-base", "--is-ancestor", older, newer, repository=repository).status == 0
