"""The origin of a source: what `--source` may name, and the commit or digest that pins it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pikaforge.config.product import Product
from pikaforge.errors import HostError, OriginError, UnreachableError, UpstreamError
from pikaforge.host import git, git_program, git_urls, hashing, process
from pikaforge.host.http import redacted
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.lockfile import Lock
from pikaforge.host.run_id import RunId
from pikaforge.host.store import locked, remove, sha256
from pikaforge.host.text import clean
from pikaforge.pipeline.source.facts import OriginFacts

SAMPLE = "sample"
URL = re.compile(r"^([a-z][a-z0-9+.-]*://|[\w.-]+@[\w.-]+:)")
TARBALL = re.compile(r"\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2|txz)$")

WAYS_ROUND = (
    "give a local clone (--source DIR), a source tarball (--source FILE) or a mirror (--source URL)\n"
    "git's own insteadOf rules are honoured: git config --global url.MIRROR.insteadOf UPSTREAM\n"
    "or try the pipeline without any network: --source sample"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A source of which nothing was fetched yet."""

    kind: Literal["git", "tarball"]
    spec: str
    """Its name in the lock and in messages: as the user gave it, `sample`, or `default`."""
    url: str = ""
    """git: the URL to fetch from."""
    ref: str = ""
    """git: the tag, branch or commit."""
    tarball: Path | None = None
    worktree: Path | None = None
    """Of a local clone, the folder with its files; there may be submodules in it."""
    modules: tuple[Path, ...] = ()
    """The folders in which a local clone keeps the repositories of its submodules."""
    relative_to: str = ""
    """git: what relative submodule URLs are relative to."""
    pulls: Path | None = None
    """A folder with N.patch files that come before the series' URLs; the sample has one."""
    local: bool = False
    sample: bool = False
    own: bool = field(default=False, compare=False)
    """Whether it is `product.source` itself."""

    @property
    def entry(self) -> str:
        """Return the name of its pins in sources.lock."""
        if self.kind == "git":
            return f"{self.spec}#{self.ref}" if self.spec != self.url else f"{self.url}#{self.ref}"
        return self.spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A source whose identity is known, though it may not have been fetched yet."""

    origin: Origin
    identity: str
    """The commit, or `sha256:…` of a tarball."""
    patches: Mapping[str, str]
    """SHA-256 of each enabled patch, by its name, in order."""
    refused: tuple[str, ...] = ()
    """Entries of the series that the source must not have already."""


def parse(product: Product, text: str, *, base: Path, cwd: Path, out: Path) -> Origin:
    """Parse `--source`.

    Args:
        product: whose `source` is taken when `text` is empty.
        text: the option: a git URL, a local clone or `sample`, each with `#REF` behind it if need be, or a tarball.
        base: the folder of matrix.yaml.
        cwd: what relative paths in `text` are relative to.
        out: where the sample's repositories are made.

    Raises:
        ConfigError: `text` names nothing that exists.
    """
    found = _parse(product, text, base=base, cwd=cwd, out=out)
    source = product.source
    own = not text or (found.kind == "git" and (found.url, found.ref) == (source.git, source.tag))
    return replace(found, own=own)


def _parse(product: Product, text: str, *, base: Path, cwd: Path, out: Path) -> Origin:
    source = product.source
    if text.partition("#")[0] == SAMPLE:
        return _sample(product, text.partition("#")[2], base=base, out=out)
    if not text:
        if source.tarball is not None:
            return _tarball("default", base / source.tarball, "product.source.tarball")
        assert source.git is not None and source.tag is not None  # the model sees to it
        if not (base / source.git).exists():
            _check(source.git, source.git, "product.source.git")
        return _repository(source.git, source.git, source.tag, base)
    try:
        return _named(text, source.tag or "HEAD", cwd)
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise OriginError(f"{clean(text)[:200]!r} cannot be read: {error.strerror}", where="--source") from error


def _named(text: str, ref: str, cwd: Path) -> Origin:
    """Return the source that `--source` names; `ref` is what it is built at if it says nothing about that."""
    where, _, given = text.partition("#")
    if given and (cwd / text.removeprefix("file://")).exists():  # a path may have a `#` in it
        where, given = text, ""
    path = (cwd / where.removeprefix("file://")).resolve()
    if not path.exists():
        _check(text, where, "--source")
    if URL.match(where) and not where.startswith("file://"):
        return _repository(where, where, given or ref, cwd)
    if path.is_file():
        if given:
            raise OriginError(
                f"{where} is a file, in which there is no {given!r} to choose",
                where="--source",
                hint="#REF belongs behind a repository; a tarball is one tree",
            )
        return _tarball(where, path, "--source")
    if git.is_repository(path):
        return _repository(where, str(path), given or ref, cwd)
    if path.is_dir():
        raise OriginError(
            f"{path} is neither a git repository nor a tarball",
            where="--source",
            hint="make a tarball of it (tar czf source.tar.gz DIR), or give its repository",
        )
    raise OriginError(
        f"there is no {where!r}",
        where="--source",
        hint="give a git URL, a local clone, a source tarball, or `sample`",
    )


def _check(text: str, url: str, given: str) -> None:
    """Check a source that is no path.

    Args:
        text: as it was given; a password may have a `#` in it.
        url: the part of it that names a repository.
        given: the option or key.

    Raises:
        ConfigError: there are credentials in it, or it is one that git must not get.
    """
    secret = git_urls.credentials(text) or ("a query, which may be an access token" if git_urls.query(url) else "")
    if secret:
        shown = clean(git_urls.masked(text))
        raise OriginError(f"there is {secret} in {shown}", where=given, hint=git_urls.CREDENTIALS_HINT)
    if reason := git_urls.refusal(url, local=True):
        raise OriginError(f"{clean(git_urls.masked(url))!r} {reason}", where=given)


def _repository(spec: str, where: str, ref: str, cwd: Path) -> Origin:
    if reason := git_urls.ref_refusal(ref):
        raise OriginError(f"the ref {clean(ref)!r} {reason}", where="--source")
    if URL.match(where):
        return Origin(kind="git", spec=spec, url=where, ref=ref, relative_to=where)
    path = (cwd / where).resolve()
    if not git.is_repository(path):
        raise OriginError(f"{where} is not a git repository", where="product.source.git")
    return Origin(
        kind="git",
        spec=spec,
        url=git.url_of(path),
        ref=ref,
        worktree=path if (path / ".git").exists() else None,
        modules=git.module_folders(path),
        relative_to=git.origin(path) or git.url_of(path),
        local=True,
    )


def _tarball(spec: str, path: Path, given: str) -> Origin:
    if not path.is_file():
        raise OriginError(f"the source tarball {path} does not exist", where=given)
    if not TARBALL.search(path.name):
        raise OriginError(
            f"{path.name} does not look like a source tarball",
            where=given,
            hint="it must end in .tar[.gz|.bz2|.xz|.zst]",
        )
    return Origin(kind="tarball", spec=spec, tarball=path, local=True)


def make_sample(product: Product, *, base: Path, folder: Path) -> Path:
    """Make the sample's git repositories in a folder; return the path of the product's own.

    Raises:
        ConfigError: the product has no sample.
        HostError: its script failed.
    """
    if product.sample is None:
        raise OriginError(f"the product {product.name} has no sample", where="product.sample", hint="leave it out")
    script = base / product.sample
    if not script.is_file():
        raise OriginError(f"{script} does not exist", where="product.sample")
    process.require("git", hint="install the package `git`, or run `bash setup.sh`")
    with temporary_folder("sample") as scratch:  # the script's own, which it leaves if it is killed
        env = {**git_program.environment(), "TMPDIR": str(scratch)}
        done = process.run(["sh", "--", str(script), str(folder)], env=env, timeout=300)
    repository = folder / f"{product.name}.git"
    if done.status != 0 or not repository.is_dir():
        raise HostError(
            f"the sample's repositories could not be made (exit status {done.status})",
            where=str(script),
            hint=done.errors().strip()[-500:],
        )
    return repository


def _sample(product: Product, ref: str, *, base: Path, out: Path) -> Origin:
    """Return the sample; make its repositories once for each state of its files."""
    files = hashing.tree_digest((base / product.sample).parent) if product.sample else ""
    folder = out / "sample" / files[:16]
    repository = folder / f"{product.name}.git"
    complete = folder / "complete"
    if not (complete.is_file() and git.is_repository(repository)):
        with locked(folder.parent / ".lock"):
            if not (complete.is_file() and git.is_repository(repository)):  # another run may have been first
                beside = folder.with_name(f".{folder.name}-{RunId.current().text}")
                remove(beside)
                try:
                    make_sample(product, base=base, folder=beside)
                    (beside / complete.name).touch()
                    remove(folder)  # it is damaged: the result is there whole or not at all
                    beside.rename(folder)
                except BaseException:
                    remove(beside)
                    raise
    url = git.url_of(repository)
    return Origin(
        kind="git",
        spec=SAMPLE,
        url=url,
        ref=ref or product.source.tag or product.version,
        relative_to=url,
        pulls=folder / "pull",
        local=True,
        sample=True,
    )


def pin(origin: Origin, lock: Lock, *, offline: bool) -> str | None:
    """Return the commit of a source, or the digest of a tarball; None if that needs the network and `offline` is set.

    A source that is pinned is not looked up. The sample is part of this repository and needs no pin; a branch cannot
    have one, because it moves.

    Raises:
        HostError: the repository cannot be reached.
        ConfigError: it has no such tag, branch or commit, or a pin says otherwise.
    """
    if origin.kind == "tarball":
        assert origin.tarball is not None
        identity = f"sha256:{sha256(origin.tarball)}"
        if not offline:
            lock.check("sources", origin.entry, "tarball", identity)
        return identity
    pinned = lock.pins("sources", origin.entry).get("commit")
    if pinned is not None and not git_urls.COMMIT.fullmatch(pinned):
        raise OriginError(
            f"the pin of {origin.spec} is no commit: {clean(pinned)!r}",
            where=str(lock.path),
            hint="restore the file from version control, or remove the entry to pin anew",
        )
    if pinned is not None and not origin.local and not lock.refresh:
        return pinned
    if offline and not origin.local:
        return None
    try:
        ref = git.remote_ref(origin.url, origin.ref)
    except UnreachableError as error:
        raise UpstreamError(error.message, where=f"source {origin.spec}", hint=WAYS_ROUND) from error
    if ref is None:
        close = git.near_names(origin.url, origin.ref)
        raise OriginError(
            f"{origin.spec} has no tag, branch or commit {origin.ref!r}",
            where="--source" if origin.spec != origin.url else "product.source.tag",
            hint=(f"did you mean {' or '.join(close)}? " if close else "") + "name another with --source SPEC#REF",
        )
    if offline or origin.sample:
        return ref.commit
    if ref.moving and not git_urls.COMMIT.fullmatch(origin.ref):
        if lock.strict:
            raise OriginError(
                f"--locked: {origin.ref} of {origin.spec} is a branch, which cannot be pinned",
                where="--source",
                hint=f"name the commit: --source {origin.spec.partition('#')[0]}#{ref.commit}",
            )
        return ref.commit
    lock.check("sources", origin.entry, "commit", ref.commit)
    return ref.commit


def tag_of(origin: Origin, lock: Lock) -> str:
    """Return the name of the tag that a pinned source is taken from, or "" for a branch, a commit or a tarball.

    Raises:
        UnreachableError: the repository did not answer.
    """
    if origin.kind != "git" or git_urls.COMMIT.fullmatch(origin.ref):
        return ""
    if "commit" in lock.pins("sources", origin.entry):  # branches have none
        return origin.ref.removeprefix("refs/tags/")
    ref = git.remote_ref(origin.url, origin.ref)
    return ref.name.removeprefix("refs/tags/") if ref is not None and ref.name.startswith("refs/tags/") else ""


def describe(origin: Origin, identity: str, tag: str) -> OriginFacts:
    """Return where a source came from.

    Args:
        origin: the source.
        identity: its commit, or digest.
        tag: the tag that it is taken from, or "".
    """
    kind = "sample" if origin.sample else "clone" if origin.local else "repository"
    short = re.sub(r"^refs/(heads/|tags/)?", "", origin.ref)
    version = tag or f"{'' if git_urls.COMMIT.fullmatch(origin.ref) else f'{short}-'}g{identity[:12]}"
    if origin.tarball is not None:
        kind, version = "tarball", TARBALL.sub("", origin.tarball.name)
    return OriginFacts(
        kind="product" if origin.own else kind,
        url="" if origin.local else redacted(origin.url),
        ref=origin.ref,
        tag=tag,
        version=version,
        commit=identity,
    )
