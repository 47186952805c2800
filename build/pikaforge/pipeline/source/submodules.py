"""Submodules: their files are put into the tree that names them, level by level."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.errors import (
    ConfigError,
    HostError,
    OriginError,
    StageError,
    StageFailure,
    UnreachableError,
    UpstreamError,
)
from pikaforge.host import git, git_cache
from pikaforge.host.git_urls import COMMIT, join
from pikaforge.host.job import Input, Job, files
from pikaforge.host.text import clean
from pikaforge.host.workspace import Workspace, read_facts, run_job
from pikaforge.pipeline.source.origin import WAYS_ROUND, Origin

STAGE = "source"
SCRIPT = "submodules.sh"
DEPTH_LIMIT = 8
"""Submodules within submodules; deeper than any real tree, and an end to circles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A submodule that a tree names."""

    path: str
    commit: str
    url: str
    """As .gitmodules has it; it may be relative."""
    relative_to: str
    """The URL of the repository whose .gitmodules it is."""


def links(facts: Mapping[str, Sequence[tuple[str, ...]]], bases: Mapping[str, str], top: str = "") -> list[Link]:
    """Return the submodules that a guest script has found.

    Args:
        facts: lines of source.sh or submodules.sh, by key.
        bases: URLs of the submodules that the links are in, by path.
        top: the URL for links outside all of them.

    Raises:
        HostError: it has found something else.
    """
    found = []
    for line in facts.get("link", []):
        path, commit, url = line if len(line) == 3 else ("", "", "")
        if not COMMIT.fullmatch(commit) or not path or not url:
            raise HostError(f"a submodule cannot be understood: {clean(' '.join(line))!r}", where=".gitmodules")
        base = next((base for inner, base in bases.items() if path.startswith(f"{inner}/")), top)
        found.append(Link(path=path, commit=commit, url=url, relative_to=base))
    return found


def fetched(workspace: Workspace, origin: Origin) -> git_cache.Cache:
    """Return the fetched commits, for a source: only one that is a clone on this machine may name others there."""
    return git_cache.Cache(
        workspace.out / "git",
        local=origin.local and origin.kind == "git",
        notice=workspace.lock.notices.append,
        wanted=workspace.git_wanted,
    )


def fetch(cache: git_cache.Cache, url: str, commit: str, *, ref: str = "", where: str) -> Path:
    """Return a bare repository with a commit; fetch it, if need be.

    Raises:
        HostError: the repository cannot be reached.
    """
    try:
        return cache.fetch(url, commit, ref)
    except UnreachableError as error:
        raise UpstreamError(error.message, where=where, hint=WAYS_ROUND) from error
    except ConfigError as error:
        raise OriginError(error.message, where=error.where or where, hint=error.hint) from error


def repository_tar(repository: Path, scratch: Path) -> Path:
    """Pack a bare repository: what git needs to fetch from it, without hooks and settings of this machine."""
    target = scratch / f"{repository.name}.tar"
    with tarfile.open(target, "w") as tar:
        for name in ("objects", "refs", "packed-refs", "shallow"):
            if (repository / name).exists():
                tar.add(repository / name, arcname=name)
        for name, text in (("HEAD", "ref: refs/heads/none\n"), ("config", _config(repository))):
            (scratch / name).write_text(text, encoding="ascii")
            tar.add(scratch / name, arcname=name)
    return target


def _config(repository: Path) -> str:
    """Return the settings of a repository that say how to read it."""
    plain = "[core]\n\tbare = true\n"
    if git.object_format(repository) == "sha1":
        return plain
    return f"{plain}\trepositoryFormatVersion = 1\n[extensions]\n\tobjectFormat = sha256\n"


def kept(origin: Origin, path: str) -> str:
    """Return the URL of a local clone's own repository of a submodule; "" if it has none."""
    if ".." in path.split("/") or path.startswith("/"):
        return ""
    places = [folder / path for folder in origin.modules]
    if origin.worktree is not None and (origin.worktree / path).resolve().is_relative_to(origin.worktree.resolve()):
        # The work tree knows it by its path. The folder of the repository has the submodule's name, which may differ.
        places.insert(0, origin.worktree / path)
    return next((git.url_of(place) for place in places if git.is_repository(place)), "")


@dataclass(slots=True, kw_only=True)
class SubmoduleFiller:
    """Puts the files of submodules into one tree."""

    workspace: Workspace
    origin: Origin
    image: str
    label: str
    log: Path
    epoch: int
    """Seconds; the time of every file in the tree."""
    commits: dict[str, str] = field(default_factory=dict)
    """The commit of each submodule that was put in, by its path."""

    def fill(self, tree: Path, wanted: list[Link], scratch: Path) -> Path:
        """Return the tree with all submodules, and their submodules.

        Args:
            tree: tar archive of the tree so far.
            wanted: its submodules.
            scratch: a folder for intermediate files and the result.

        Raises:
            HostError: a repository cannot be reached.
            StageError: they are nested too deep, or cannot be checked out.
        """
        for level in range(DEPTH_LIMIT):
            if not wanted:
                return tree
            folder = scratch / f"level-{level}"
            folder.mkdir()
            tree, wanted = self._level(tree, wanted, folder)
        raise StageError(
            f"submodules are nested deeper than {DEPTH_LIMIT} levels",
            StageFailure(stage=STAGE, label=self.label, findings=tuple(link.path for link in wanted)),
            hint="is a repository its own submodule?",
        )

    def _level(self, tree: Path, wanted: list[Link], folder: Path) -> tuple[Path, list[Link]]:
        inputs = [self.workspace.guest(SCRIPT), Input(folder="tree", archive=tree)]
        lines: list[str] = []
        bases: dict[str, str] = {}
        for number, link in enumerate(wanted):
            bases[link.path] = join(link.relative_to, link.url)
            self.commits[link.path] = link.commit
            numbered = folder / str(number)
            numbered.mkdir()
            archive = repository_tar(self._repository(link, bases[link.path]), numbered)
            inputs.append(Input(folder=f"git/{number}", archive=archive))
            lines.append(f"{number}\t{link.path}\t{link.commit}\n")
        inputs.append(Input(folder="modules", archive=files({"list": "".join(lines).encode()})))
        job = Job(
            label=f"{STAGE}-{self.label}-modules",
            image=self.image,
            argv=("sh", "guest/run.sh", "submodules", "source"),
            env={"SOURCE_DATE_EPOCH": str(self.epoch)},
            inputs=tuple(inputs),
            outputs=("packed/source.tar",),
            facts=("out/facts",),
            log=self.log,
        )
        failed = "the submodules could not be checked out"
        done = run_job(self.workspace, job, folder, stage=STAGE, label=self.label, failed=failed)
        return done.outputs["packed/source.tar"], links(read_facts(done.outputs["out/facts"]), bases)

    def _repository(self, link: Link, url: str) -> Path:
        """Return a repository with a submodule's commit: from the local clone, if that has it, else from its URL."""
        cache = fetched(self.workspace, self.origin)
        if here := kept(self.origin, link.path):
            try:
                return cache.fetch(here, link.commit)
            except (HostError, ConfigError):
                pass  # it has other commits only, so the URL is asked
        return fetch(cache, url, link.commit, where=f"submodule {link.path}")
