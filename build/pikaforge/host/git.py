"""git on this machine: it fetches commits into bare repositories, one for each URL, as shallow as the server allows.

Only fetching is done here, because it needs the user's credentials, proxies and insteadOf rules. Checking out and
patching are done by guest scripts, without any configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pikaforge.errors import ConfigError, HostError, UnreachableError
from pikaforge.host import process
from pikaforge.host.http import redacted
from pikaforge.host.store import locked

TIMEOUT = 3600.0
"""Seconds for one fetch; large submodules over slow lines take many minutes."""

_UNREACHABLE = re.compile(
    r"could not resolve|couldn't resolve|connection (refused|timed out|reset)|failed to connect|couldn't connect"
    r"|network is unreachable|no route to host|operation timed out|unable to access|proxy|ssl|tls"
    r"|temporary failure in name resolution|early eof|hung up",
    re.IGNORECASE,
)
COMMIT = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")


def _environment() -> dict[str, str]:
    # git must not wait for a password, because nobody can type one.
    extra = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
    return process.environment(extra)


def _pristine(home: Path) -> dict[str, str]:
    """Return an environment without settings of the user and the machine: what git prints in it gets pinned."""
    kept = {name: value for name, value in _environment().items() if not name.startswith("GIT_CONFIG")}
    files = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    folders = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "GIT_ATTR_NOSYSTEM": "1"}
    return {**kept, **files, **folders}


def _git(*args: str, env: Mapping[str, str] | None = None, stdin: bytes | None = None) -> process.Completed:
    git = process.require("git", hint="install the package `git`, or run `bash setup.sh`")
    return process.run([git, *args], env=env or _environment(), stdin=stdin, timeout=TIMEOUT)


def _failure(url: str, done: process.Completed) -> HostError:
    lines = [line for line in done.errors().splitlines() if line.strip()]
    said = next((x for x in lines if x.startswith(("fatal:", "error:"))), lines[-1] if lines else "no message")
    said = re.sub(r"://[^\s/@]*@", "://***@", said)
    if "dubious ownership" in done.errors():
        return HostError(
            f"git refuses {url}: it belongs to another user",
            hint=f"git config --global --add safe.directory {urlsplit(url).path or url}",
        )
    if _UNREACHABLE.search(done.errors()):
        return UnreachableError(f"cannot reach {redacted(url)}: {said}")
    return HostError(f"git cannot read {redacted(url)}: {said}")


def is_repository(path: Path) -> bool:
    """Return whether a folder is a git work tree or a bare repository."""
    if not path.is_dir():
        return False
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def url_of(path: Path) -> str:
    """Return the URL of a local repository. git fetches shallowly from a URL only, not from a path."""
    return path.resolve().as_uri()


def origin(path: Path) -> str:
    """Return the URL from which a local clone was made; "" if it has none."""
    return _git("-C", str(path), "config", "--get", "remote.origin.url").text().strip()


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
    if COMMIT.match(name):
        return Ref(name=name, commit=name, moving=False)
    full = [name] if name.startswith("refs/") else [f"refs/tags/{name}", f"refs/heads/{name}"]
    wanted = [*full, *(f"{ref}^{{}}" for ref in full)] + (["HEAD"] if name == "HEAD" else [])
    done = _git("ls-remote", "--", url, *wanted)
    if done.status != 0:
        raise _failure(url, done)
    found = {ref: commit for commit, _, ref in (line.partition("\t") for line in done.text().splitlines())}
    for ref in ("HEAD", *full) if name == "HEAD" else full:
        if ref in found:
            # An annotated tag is listed twice. The line with ^{} has its commit.
            commit = found.get(f"{ref}^{{}}", found[ref])
            return Ref(name=ref, commit=commit, moving=not ref.startswith("refs/tags/"))
    return None


def near_names(url: str, name: str) -> list[str]:
    """Return tags and branches with similar names, for a hint."""
    import difflib  # noqa: PLC0415

    done = _git("ls-remote", "--tags", "--heads", "--", url)
    names = {line.partition("\t")[2].split("/", 2)[-1].removesuffix("^{}") for line in done.text().splitlines()}
    return difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.3)


class Cache:
    """Bare repositories below a folder, one for each URL."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, url: str) -> Path:
        """Return the bare repository of a URL. It is made if it is missing."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", urlsplit(url).path).strip("-.")[-40:] or "repository"
        path = self._root / f"{slug}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.git"
        if not (path / "HEAD").is_file():
            path.mkdir(parents=True, exist_ok=True)
            with self._locked(path):
                done = _git("init", "--bare", "--quiet", str(path))
            if done.status != 0:
                raise HostError(f"cannot make {path}: {done.errors().strip()}")
        return path

    @staticmethod
    def _locked(path: Path) -> AbstractContextManager[None]:
        """Keep other runs from changing the repository: git fails at its lock files instead of waiting."""
        return locked(path.with_suffix(".lock"))

    def has(self, url: str, commit: str) -> bool:
        """Return whether a commit was fetched before, with all of its files."""
        done = _git("-C", str(self.path(url)), "rev-parse", "--verify", "--quiet", f"refs/forge/{commit}")
        return done.status == 0

    def fetch(self, url: str, commit: str, ref: str = "") -> Path:
        """Fetch one commit; return the bare repository, which then has it as `refs/forge/<commit>`.

        It is asked for in three ways: by the commit alone, by its ref, and by fetching everything. Some servers give
        only commits that a ref names.

        Raises:
            UnreachableError: the repository did not answer.
            ConfigError: it has no such commit.
        """
        path = self.path(url)
        if self.has(url, commit):
            return path
        with self._locked(path):
            return self._fetch(path, url, commit, ref)

    def _fetch(self, path: Path, url: str, commit: str, ref: str) -> Path:
        keep = f"refs/forge/{commit}"
        attempts = [["--depth=1", "--no-tags", "--", url, f"+{commit}:{keep}"]]
        if ref and ref != commit:
            attempts.append(["--depth=1", "--no-tags", "--", url, f"+{ref}:refs/forge/ref"])
        attempts.append(["--tags", "--", url, "+refs/heads/*:refs/forge/heads/*", "+refs/*:refs/forge/all/*"])
        done: process.Completed | None = None
        for number, arguments in enumerate(attempts, 1):
            if number == len(attempts) and (path / "shallow").exists():
                arguments.insert(0, "--unshallow")  # else ancestors of what is here already would not be fetched
            done = _git("-C", str(path), "fetch", "--quiet", "--force", "--no-write-fetch-head", *arguments)
            if done.status == 0 and self._keep(path, commit, keep):
                return path
            failure = _failure(url, done) if done.status else None
            if isinstance(failure, UnreachableError):
                raise failure
        if done is not None and done.status != 0:
            raise _failure(url, done)
        raise ConfigError(f"{redacted(url)} has no commit {commit}", hint="was its history rewritten?")

    @staticmethod
    def _keep(path: Path, commit: str, keep: str) -> bool:
        found = _git("-C", str(path), "cat-file", "-e", f"{commit}^{{tree}}").status == 0
        return found and _git("-C", str(path), "update-ref", keep, commit).status == 0

    def history(self, url: str, commit: str, ref: str = "") -> tuple[Path, bool]:
        """Fetch a commit with its ancestors; return the repository, and whether all of them are there.

        A repository that is shallow itself does not have all of them.

        Raises:
            UnreachableError: the repository did not answer.
            HostError: it answered, but does not give the commit.
            ConfigError: it has no such commit.
        """
        path = self.fetch(url, commit, ref)
        begin = ("-C", str(path), "fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head", "--unshallow")
        attempts = [f"+{commit}:refs/forge/{commit}", *([f"+{ref}:refs/forge/ref"] if ref else [])]
        with self._locked(path):
            for wanted in (*attempts, "+refs/*:refs/forge/all/*"):
                if self._is_whole(path, commit):
                    return path, True
                done = _git(*begin, "--", url, wanted)
                failure = _failure(url, done) if done.status else None
                if isinstance(failure, UnreachableError):
                    raise failure
            return path, self._is_whole(path, commit)

    @staticmethod
    def _is_whole(path: Path, commit: str) -> bool:
        """Return whether no ancestor of a commit is missing."""
        try:
            ends = set((path / "shallow").read_text(encoding="ascii").split())
        except FileNotFoundError:
            return True
        first = _git("-C", str(path), "rev-list", "--max-parents=0", commit)
        return first.status == 0 and not ends.intersection(first.text().split())

    def mailbox(self, url: str, base: str, head: str) -> bytes:
        """Return the commits of a pull request as `git format-patch` writes them; needs their history.

        They are those of `head` that `base` does not have, or where `base` has merged `head`, those that the merge
        brought. The result is empty if `base` has them all without such a merge: nothing says where they begin.
        """
        path = self.fetch(url, base)  # `base` need not be an ancestor of `head`
        begin = ("-C", str(path), "fetch", "--quiet", "--force", "--no-tags")
        with self._locked(path):
            done = _git(*begin, "--", url, f"+{head}:refs/forge/head-{head}")
            if done.status != 0:
                raise _failure(url, done)
            if (path / "shallow").exists():
                _git(*begin, "--unshallow", "--", url, f"+{base}:refs/forge/{base}")
        until = f"refs/forge/head-{head}"
        since = self._before(path, base, until)
        patch = _git(
            "-C", str(path), "-c", "safe.directory=*",
            "format-patch", "--stdout", "--no-signature", "--full-index", "--no-stat", "--binary",
            "--submodule=short", f"{since}..{until}",
            env=_pristine(path),
        )  # fmt: skip
        if patch.status != 0:
            raise HostError(f"git cannot make a patch of {head} in {redacted(url)}: {patch.errors().strip()[-300:]}")
        return patch.stdout

    @staticmethod
    def _before(path: Path, base: str, head: str) -> str:
        """Return `base`, or what it was before it merged `head`."""
        commit = _git("-C", str(path), "rev-parse", "--verify", f"{head}^{{commit}}").text().strip()
        merges = _git("-C", str(path), "rev-list", "--merges", "--parents", base, f"^{commit}")
        for line in reversed(merges.text().splitlines()):  # the oldest one
            _, first, *others = line.split()
            if commit in others:
                return first
        return base


def submodules(repository: Path, commit: str) -> dict[str, tuple[str, str]]:
    """Return the submodules of a commit by path: the commit of each, and its URL as .gitmodules has it."""
    text = _git("-C", str(repository), "cat-file", "blob", f"{commit}:.gitmodules")
    found = {}
    for path, url in submodule_urls(text.stdout if text.status == 0 else b"").items():
        tree = _git("-C", str(repository), "--literal-pathspecs", "ls-tree", "-z", commit, "--", path)
        mode, _, rest = tree.text().partition(" ")
        if tree.status == 0 and mode == "160000":
            found[path] = (rest.split()[1], url)
    return found


def submodule_urls(gitmodules: bytes) -> dict[str, str]:
    """Return the URLs of submodules by path; nothing if the text is no .gitmodules."""
    listed = _git("config", "--null", "--file", "-", "--list", stdin=gitmodules)
    settings: dict[str, dict[str, str]] = {}
    for entry in listed.text().split("\0") if listed.status == 0 else []:
        name, _, value = entry.partition("\n")
        section, _, key = name.rpartition(".")
        settings.setdefault(section, {})[key] = value
    return {s["path"]: s["url"] for s in settings.values() if s.get("path") and s.get("url")}


def tree_of(repository: Path, commit: str) -> str:
    """Return the name of a commit's tree."""
    return _git("-C", str(repository), "rev-parse", "--verify", f"{commit}^{{tree}}").text().strip()


def holds(repository: Path, newer: str, older: str) -> bool:
    """Return whether a commit is another one or has it among its ancestors, as far as they are here."""
    return _git("-C", str(repository), "merge-base", "--is-ancestor", older, newer).status == 0


def join(base: str, url: str) -> str:
    """Return the URL of a submodule. A relative one (`../x.git`) is resolved as git does it.

    Args:
        base: URL of the repository that has the submodule.
        url: as .gitmodules has it.
    """
    if not url.startswith(("./", "../")):
        return url
    base, separator = base.rstrip("/"), "/"
    while True:
        if url.startswith("../"):
            url = url[3:]
            if "/" in base:
                base = base.rpartition("/")[0]
            elif ":" in base:  # user@host:folder; user@host is left
                base, separator = base.rpartition(":")[0], ":"
            else:
                base = "."
        elif url.startswith("./"):
            url = url[2:]
        else:
            return f"{base}{separator}{url.rstrip('/')}"
