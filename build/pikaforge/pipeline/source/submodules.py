"""Submodules: their files are put into the tree that names them, level by level."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.errors import ConfigError, HostError, StageError, StageFailure, UnreachableError
from pikaforge.host import git
from pikaforge.host.job import Input, Job, files
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
    """
    return [
        Link(
            path=path,
            commit=commit,
            url=url,
            relative_to=next((base for inner, base in bases.items() if path.startswith(f"{inner}/")), top),
        )
        for path, commit, url in facts.get("link", [])
    ]


def fetch(cache: git.Cache, url: str, commit: str, *, ref: str = "", where: str) -> Path:
    """Return a bare repository with a commit; fetch it, if need be.

    Raises:
        HostError: the repository cannot be reached.
    """
    try:
        return cache.fetch(url, commit, ref)
    except UnreachableError as error:
        raise HostError(error.message, where=where, hint=WAYS_ROUND) from error


def repository_tar(repository: Path, scratch: Path) -> Path:
    """Pack a bare repository: what git needs to fetch from it, without hooks and settings of this machine."""
    target = scratch / f"{repository.name}.tar"
    with tarfile.open(target, "w") as tar:
        for name in ("objects", "refs", "packed-refs", "shallow"):
            if (repository / name).exists():
                tar.add(repository / name, arcname=name)
        for name, text in (("HEAD", "ref: refs/heads/none\n"), ("config", "[core]\n\tbare = true\n")):
            (scratch / name).write_text(text, encoding="ascii")
            tar.add(scratch / name, arcname=name)
    return target


def kept(origin: Origin, path: str) -> str:
    """Return the URL of a local clone's own repository of a submodule; "" if it has none."""
    folder = None if origin.modules is None else origin.modules / path
    return git.url_of(folder) if folder is not None and git.is_repository(folder) else ""


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
            bases[link.path] = git.join(link.relative_to, link.url)
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
            outputs=("out/source.tar", "out/facts"),
            log=self.log,
        )
        failed = "the submodules could not be checked out"
        done = run_job(self.workspace, job, folder, stage=STAGE, label=self.label, failed=failed)
        return done.outputs["out/source.tar"], links(read_facts(done.outputs["out/facts"]), bases)

    def _repository(self, link: Link, url: str) -> Path:
        """Return a repository with a submodule's commit: from the local clone, if that has it, else from its URL."""
        cache = git.Cache(self.workspace.out / "git")
        if here := kept(self.origin, link.path):
            try:
                return cache.fetch(here, link.commit)
            except (HostError, ConfigError):
                pass  # it has other commits only, so the URL is asked
        return fetch(cache, url, link.commit, where=f"submodule {link.path}")
