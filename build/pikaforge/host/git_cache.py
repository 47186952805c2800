"""Fetched commits: bare repositories, one for each URL, as shallow as the server allows.

A run that was killed may leave locks of git or half a repository, and a disk may lose files. Each is looked for under
our own lock, said, and mended.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pikaforge.errors import ConfigError, GitError, HostError, OriginError, UnreachableError
from pikaforge.host import git as repositories
from pikaforge.host import git_packs, process
from pikaforge.host.disk import refuse_full
from pikaforge.host.git_program import failure, git, pristine, processes_with, refuse_offline, resolved
from pikaforge.host.git_urls import COMMIT, NETWORK, leaves, protocol, ref_refusal, refusal
from pikaforge.host.http import local_path, redacted
from pikaforge.host.store import locked, remove
from pikaforge.host.text import clean, ignore

Format = Literal["sha1", "sha256"]
FETCH = ("fetch", "--quiet", "--force", "--no-write-fetch-head")


def format_of(commit: str) -> Format:
    """Return the object format of the repository that has a commit: SHA-256 has longer names."""
    return "sha256" if len(commit) == 64 else "sha1"


class Cache:
    """Bare repositories below a folder, one for each URL."""

    def __init__(
        self,
        root: Path,
        *,
        local: bool = False,
        notice: Callable[[str], None] = ignore,
        wanted: Callable[[str, str], None] = git_packs.unnoticed,
    ) -> None:
        """Touch nothing yet.

        Args:
            root: the folder.
            local: whether URLs may name repositories of this machine: the user has named one.
            notice: gets, in one line, what was damaged and is made anew.
            wanted: gets the URL and commit of each fetch, whether it is there already or not.
        """
        self._root = root.absolute()
        self._local = local
        self._notice = notice
        self._wanted = wanted
        self._sound: set[Path] = set()

    def _named(self, url: str, commit: str) -> Path:
        """Return where the bare repository of a URL is, for commits of one format; it need not be there."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", urlsplit(url).path).strip("-.")[-40:] or "repository"
        form = format_of(commit)
        end = "" if form == "sha1" else f"-{form}"
        return self._root / f"{slug}-{hashlib.sha256(url.encode()).hexdigest()[:12]}{end}.git"

    def keeps(self, url: str, commit: str) -> bool:
        """Return whether a commit was fetched before. Nothing is made, and its files are not looked at."""
        path = self._named(url, commit)
        return path.is_dir() and self._kept(path, commit)

    def path(self, url: str, commit: str = "") -> Path:
        """Return the bare repository of a URL, for commits of one format. It is made if it is missing or damaged."""
        path = self._named(url, commit)
        form = format_of(commit)
        if path not in self._sound:
            if not _is_sound(path, form):
                with self._locked(path):
                    if not _is_sound(path, form):  # another run may have been first
                        self._renew(path, form)
            self._sound.add(path)
        return path

    @staticmethod
    def _locked(path: Path) -> AbstractContextManager[None]:
        """Keep other runs from changing the repository: git fails at its lock files instead of waiting."""
        return locked(path.with_suffix(".lock"))

    def _renew(self, path: Path, form: Format) -> None:
        """Make a repository; what is there instead is removed, with a notice."""
        if os.path.lexists(path):
            self._notice(f"{path} is damaged, and is made anew")
            remove(path)
        path.mkdir(parents=True)
        settings = {"GIT_DEFAULT_HASH": form, "GIT_TEMPLATE_DIR": ""}
        try:
            done = git("init", "--bare", "--quiet", "--", str(path), env={**pristine(path), **settings})
            if done.status != 0:
                refuse_full(path)
                raise GitError(f"cannot make {path}: {clean(done.errors().strip())}")
        except BaseException:  # half of one would be taken for a damaged one
            remove(path)
            raise

    def _free(self, path: Path) -> None:
        """Remove locks and parts that an interrupted git has left. Our own lock is held, so no other run has them."""
        left = [*path.glob("*.lock"), *(path / "refs").rglob("*.lock")]
        left += [found for pattern in ("*.lock", "tmp_*") for found in (path / "objects").rglob(pattern)]
        if not left:
            return
        for pid in processes_with(f"--git-dir={path}", "fetch"):  # one that has outlived its killed run
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        for lock in left:
            remove(lock)
        self._notice(f"removed {len(left)} files of an interrupted run from {path}")

    def _protocols(self, url: str, *wanted: str) -> tuple[str, ...]:
        """Return the protocols by which a URL may be fetched.

        Raises:
            ConfigError: it may not be, or something else is no name of a commit or ref.
        """
        reason = refusal(url, local=self._local)
        if reason:
            raise OriginError(
                f"the URL {clean(redacted(url))} {reason}",
                hint=f"a source may name others by {', '.join(NETWORK)}, and here only if you build a local clone\n"
                "is it the source that you mean? a mirror can be named by git's insteadOf rules",
            )
        for name in filter(None, wanted):
            if not COMMIT.fullmatch(name) and (why := ref_refusal(name)):
                raise OriginError(f"{clean(name)!r} {why}", hint="is sources.lock damaged?")
        if self._local:
            return (*NETWORK, "file")
        found = resolved(url)  # the user's rule may lead to a mirror on this machine, but to no other place there
        return (*NETWORK, "file") if found != url and protocol(found) == "file" and not leaves(url) else NETWORK

    def has(self, url: str, commit: str) -> bool:
        """Return whether a commit was fetched before, with all of its files."""
        path = self.path(url, commit)
        if not self._kept(path, commit):
            return False
        # It fails if an object is missing; those of a shallow commit's ancestors are not asked for.
        return git("rev-list", "--quiet", "--objects", "--no-walk", commit, repository=path).status == 0

    @staticmethod
    def _kept(path: Path, commit: str) -> bool:
        """Return whether a ref says that a commit was fetched."""
        return git("rev-parse", "--verify", "--quiet", f"refs/forge/{commit}", repository=path).status == 0

    def fetch(self, url: str, commit: str, ref: str = "") -> Path:
        """Fetch one commit; return the bare repository, which then has it as `refs/forge/<commit>`.

        It is asked for in three ways: by the commit alone, by its ref, and by fetching everything. Some servers give
        only commits that a ref names.

        Raises:
            UnreachableError: the repository did not answer.
            ConfigError: it has no such commit, or the URL is one that git must not get.
        """
        protocols = self._protocols(url, commit, ref)
        self._wanted(url, commit)
        path = self.path(url, commit)
        if self.has(url, commit):
            return path
        with self._locked(path):
            if self.has(url, commit):  # another run was first
                return path
            refuse_offline(url, commit)
            self._free(path)
            if self._kept(path, commit):  # and yet objects are missing
                self._renew(path, format_of(commit))
            try:
                return self._fetch(path, url, commit, ref, protocols)
            except UnreachableError:
                raise
            except (HostError, ConfigError):
                refuse_full(path)  # git does not say it each time, and what cannot grow is not damaged
                if _is_whole(path):
                    raise
            self._renew(path, format_of(commit))
            return self._fetch(path, url, commit, ref, protocols)

    def _fetch(self, path: Path, url: str, commit: str, ref: str, protocols: tuple[str, ...]) -> Path:
        keep = f"refs/forge/{commit}"
        attempts = [["--depth=1", "--no-tags", "--", url, f"+{commit}:{keep}"]]
        if ref and ref != commit:
            attempts.append(["--depth=1", "--no-tags", "--", url, f"+{ref}:refs/forge/ref"])
        attempts.append(["--tags", "--", url, "+refs/heads/*:refs/forge/heads/*", "+refs/*:refs/forge/all/*"])
        done: process.Completed | None = None
        for number, arguments in enumerate(attempts, 1):
            if number == len(attempts) and (path / "shallow").exists():
                arguments.insert(0, "--unshallow")  # else ancestors of what is here already would not be fetched
            done = git(*FETCH, *arguments, repository=path, protocols=protocols)
            if done.status == 0 and self._keep(path, commit, keep):
                return path
            failed = _failure(url, done) if done.status else None
            if failed is not None:
                self._free(path)  # git leaves its locks if it is killed
            if isinstance(failed, UnreachableError):
                raise failed
        if done is not None and done.status != 0:
            raise _failure(url, done)
        raise OriginError(f"{redacted(url)} has no commit {commit}", hint="was its history rewritten?")

    @staticmethod
    def _keep(path: Path, commit: str, keep: str) -> bool:
        found = git("cat-file", "-e", f"{commit}^{{tree}}", repository=path).status == 0
        return found and git("update-ref", keep, commit, repository=path).status == 0

    def add(self, url: str, commit: str, pack: Path, ends: Sequence[str]) -> None:
        """Put a commit into the repository of a URL as if it were fetched, from a file of `git_packs.export`.

        Args:
            url: of the repository.
            commit: the commit.
            pack: the file.
            ends: commits of it whose parents it does not have.

        Raises:
            ConfigError: the URL is one that git must not get.
            HostError: the pack is damaged, or does not have the commit with all of its files.
        """
        self._protocols(url, commit)
        path = self.path(url, commit)
        if self.has(url, commit):
            return
        with self._locked(path):
            self._free(path)
            git_packs.unpack(pack, path, ends)
            kept = self._keep(path, commit, f"refs/forge/{commit}")
        if not kept or not self.has(url, commit):
            raise HostError(f"{pack} does not have the commit {commit} of {redacted(url)}")

    def history(self, url: str, commit: str, ref: str = "") -> tuple[Path, bool]:
        """Fetch a commit with its ancestors; return the repository, and whether all of them are there.

        A repository that is shallow itself does not have all of them.

        Raises:
            UnreachableError: the repository did not answer.
            HostError: it answered, but does not give the commit.
            ConfigError: it has no such commit, or the URL is one that git must not get.
        """
        path = self.fetch(url, commit, ref)
        protocols = self._protocols(url)
        attempts = [f"+{commit}:refs/forge/{commit}", *([f"+{ref}:refs/forge/ref"] if ref else [])]
        with self._locked(path):
            self._free(path)
            for wanted in (*attempts, "+refs/*:refs/forge/all/*"):
                if self._is_complete(path, commit):
                    return path, True
                refuse_offline(url, f"the history of {commit}")
                done = git(*FETCH, "--no-tags", "--unshallow", "--", url, wanted, repository=path, protocols=protocols)
                failed = _failure(url, done) if done.status else None
                if isinstance(failed, UnreachableError):
                    raise failed
            return path, self._is_complete(path, commit)

    @staticmethod
    def _is_complete(path: Path, commit: str) -> bool:
        """Return whether no ancestor of a commit is missing."""
        try:
            ends = set((path / "shallow").read_text(encoding="ascii").split())
        except FileNotFoundError:
            return True
        first = git("rev-list", "--max-parents=0", commit, repository=path)
        return first.status == 0 and not ends.intersection(first.text().split())

    def mailbox(self, url: str, base: str, head: str) -> bytes:
        """Return the commits of a pull request as `git format-patch` writes them; needs their history.

        They are those of `head` that `base` does not have, or where `base` has merged `head`, those that the merge
        brought. The result is empty if `base` has them all without such a merge: nothing says where they begin.
        """
        path = self.fetch(url, base)  # `base` need not be an ancestor of `head`
        refuse_offline(url, head)
        protocols = self._protocols(url, head)
        begin = ("fetch", "--quiet", "--force", "--no-tags")
        with self._locked(path):
            self._free(path)
            wanted = f"+{head}:refs/forge/head-{head}"
            done = git(*begin, "--", url, wanted, repository=path, protocols=protocols)
            if done.status != 0:
                raise _failure(url, done)
            if (path / "shallow").exists():
                wanted = f"+{base}:refs/forge/{base}"
                git(*begin, "--unshallow", "--", url, wanted, repository=path, protocols=protocols)
        until = f"refs/forge/head-{head}"
        since = self._before(path, base, until)
        patch = git(
            "format-patch", "--stdout", "--no-signature", "--full-index", "--no-stat", "--binary",
            "--submodule=short", f"{since}..{until}",
            repository=path,
            env=pristine(path),
        )  # fmt: skip
        if patch.status != 0:
            raise GitError(f"git cannot make a patch of {head} in {redacted(url)}: {patch.errors().strip()[-300:]}")
        return patch.stdout

    @staticmethod
    def _before(path: Path, base: str, head: str) -> str:
        """Return `base`, or what it was before it merged `head`."""
        commit = git("rev-parse", "--verify", f"{head}^{{commit}}", repository=path).text().strip()
        merges = git("rev-list", "--merges", "--parents", base, f"^{commit}", repository=path)
        for line in reversed(merges.text().splitlines()):  # the oldest one
            _, first, *others = line.split()
            if commit in others:
                return first
        return base


def _failure(url: str, done: process.Completed) -> HostError:
    here = local_path(url) if url.startswith("file:") else None
    return failure(url, done, partial=here is not None and here.is_dir() and repositories.is_partial(here))


def _is_sound(path: Path, form: Format) -> bool:
    """Return whether there is a bare repository of a format, its refs in files, as `_renew` makes it."""
    if path.is_symlink() or not all((path / name).is_dir() for name in ("objects", "refs")):
        return False
    if not all((path / name).is_file() for name in ("HEAD", "config")) or (path / "reftable").exists():
        return False
    done = git("rev-parse", "--is-bare-repository", "--show-object-format", repository=path)
    return done.status == 0 and done.text().split() == ["true", form]


def _is_whole(path: Path) -> bool:
    """Return whether all that the refs of a repository need is in it and can be read."""
    return git("fsck", "--connectivity-only", "--no-dangling", "--no-progress", repository=path).status == 0


def drop_damaged(root: Path, notice: Callable[[str], None]) -> int:
    """Remove the repositories below a folder in which not every object is what its name says; return how many.

    A fetch does not look at each, because that takes as long as to read all of them.
    """
    dropped = 0
    for path in sorted(root.absolute().glob("*.git")):
        with locked(path.with_suffix(".lock")):
            if git("fsck", "--full", "--no-dangling", "--no-progress", repository=path).status != 0:
                notice(f"{path} is damaged, and is made anew")
                remove(path)
                dropped += 1
    return dropped
