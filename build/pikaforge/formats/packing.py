"""Packing of a cell: what every format gets, and the package files that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pikaforge.config.schema import Image, Spec
from pikaforge.formats import debuginfo
from pikaforge.formats.artifact import Role
from pikaforge.formats.layout import Entry, tree_entries
from pikaforge.formats.manifest import Manifest
from pikaforge.formats.package_inputs import PackageInputs
from pikaforge.formats.payload import Rendered
from pikaforge.host.hashing import files_digest
from pikaforge.host.job import Input, Job
from pikaforge.host.workspace import Workspace, run_job
from pikaforge.plan.cells import Cell

STAGE = "package"
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A package file that was made."""

    format: str
    role: Role
    name: str
    """The file name under dist/."""
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What the packages of a cell are made from, whatever the format."""

    workspace: Workspace
    spec: Spec
    cell: Cell
    inputs: PackageInputs
    manifest: Manifest
    rendered: Rendered
    extra: bytes
    """Files that are added to the tree, manifest included, as a tar archive."""
    tools: str
    """The tools image."""
    scratch: Path
    """A folder for the packages; the caller removes it."""

    @property
    def image(self) -> Image:
        """The cell's image."""
        return self.spec.images[self.cell.image]

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH."""
        return self.inputs.epoch

    @property
    def variant(self) -> str:
        """The allocator, unless it is the image's default."""
        return "" if self.cell.allocator == self.image.allocator else self.cell.allocator

    @property
    def top(self) -> str:
        """The folder of the tree on a host."""
        return f"/opt/{self.spec.product.name}"

    def entries(self) -> tuple[Entry, ...]:
        """Return the tree and the added files, as packages install them."""
        return (
            *tree_entries(self.inputs.tree, folder="tree", prefix=self.top),
            *tree_entries(self.extra, folder="extra", prefix=self.top),
        )

    def debug(self) -> tuple[Entry, ...]:
        """Return the debug information at the paths where debuggers look for it; nothing if the tree has none."""
        ids = self.inputs.build_ids
        return debuginfo.debug_entries(self.inputs.debug, folder="debug", prefix=self.top, build_ids=ids)

    def run(
        self, script: str, what: str, *, guest: Sequence[str], inputs: Sequence[Input], outputs: Sequence[str]
    ) -> list[Path]:
        """Run a guest script in the tools image.

        Args:
            script: its name without `.sh`.
            what: name of the product of the script, for logs and errors.
            guest: all scripts that it needs.
            inputs: files that it reads.
            outputs: files that it writes, below out/.

        Returns:
            The files, in the order of `outputs`.
        """
        job = Job(
            label=f"{STAGE}-{self.cell.id}",
            image=self.tools,
            argv=("sh", "guest/run.sh", script),
            env={"PIKAFORGE_PRODUCT": self.spec.product.name, "SOURCE_DATE_EPOCH": str(self.epoch)},
            inputs=(self.workspace.guest(*guest), *inputs),
            outputs=tuple(f"out/{name}" for name in outputs),
            log=self.workspace.log_path(self.cell.id, f"{STAGE}-{what}"),
        )
        failed = f"the {what} could not be made"
        done = run_job(self.workspace, job, self.scratch, stage=STAGE, label=self.cell.id, failed=failed)
        return [done.outputs[f"out/{name}"] for name in outputs]


def sources() -> dict[str, str]:
    """Return the digests of all files of `formats/` by path, as key material.

    That is modules, templates, and the scripts and units that get into packages.
    """
    return files_digest(FOLDER, _files(FOLDER))


@lru_cache(maxsize=2)
def _files(folder: Path) -> tuple[str, ...]:
    """Return the files of a folder of this tool; while it runs there come no further ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return tuple(sorted(path.relative_to(folder).as_posix() for path in files))
