"""What the last build has left under dist/, and what has changed there since.

A build compares what it finds with what the last one has noted: the digests of packages, bills and provenances in
SHA256SUMS, those of packages in report.json, too, and that of report.json in itself. A difference is said, and the file
is made again: it is a wrong bit, or somebody has edited it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.attest import armor
from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS
from pikaforge.errors import PublishError
from pikaforge.host.store import sha256
from pikaforge.pipeline import report
from pikaforge.pipeline.dist_folder import Sums, descriptions, listed
from pikaforge.pipeline.report_record import BuildReport

SHOWN = 5
"""Cells that a notice names."""


@dataclass(slots=True, kw_only=True)
class Before:
    """The state of dist/ before a run writes there."""

    dist: Path
    report: BuildReport | None
    notices: list[str] = field(default_factory=list)
    _sums: dict[Path, Sums] = field(default_factory=dict)
    _packages: dict[Path, str] = field(default_factory=dict)
    _cells: dict[Path, str] = field(default_factory=dict)
    """Ids of cells by the paths of their packages."""

    @classmethod
    def of(cls, dist: Path, product: str) -> Before:
        """Read the report of a product."""
        path = dist / report.name_of(dist, product)
        found = report.load(dist, path.name)
        before = cls(dist=dist, report=found)
        if found is None and path.exists():
            before.notices.append(
                f"{path} is damaged, or not of this version: it is written again, with the cells of this run"
            )
        for cell in found.cells if found is not None else ():
            before._packages |= {dist / artifact.path: artifact.sha256 for artifact in cell.artifacts}
            before._cells |= {dist / artifact.path: cell.id for artifact in cell.artifacts}
        return before

    def _listed(self, folder: Path) -> Sums:
        if folder not in self._sums:
            self._sums[folder] = listed(folder)
        return self._sums[folder]

    def digests(self, path: Path) -> frozenset[str]:
        """Return the digests of a file that the last build has noted: one, unless a note is damaged."""
        noted = (self._listed(path.parent).digests.get(path.name), self._packages.get(path))
        return frozenset(filter(None, noted))

    def changed(self, path: Path) -> None:
        """Take note of a file that has changed since, and is made again."""
        self.notices.append(f"{path} is not as the last build has left it, and is made again")

    def compare_sums(self, folder: Path, digests: Mapping[str, str], made: Set[Path]) -> dict[str, str]:
        """Compare SHA256SUMS with the files of which it speaks, and with the report.

        Args:
            folder: the folder.
            digests: of the files of this run's cells that are there now, by name.
            made: the files that this run has written: of these, it need not speak yet.

        Returns:
            Digests of other cells' packages that it does not have as the report has them.
        """
        before = self._listed(folder)
        others = {path for path in self._packages if path.parent == folder and path.name not in digests}
        others = {path for path in others if path.is_file()}
        if not before.digests and not before.damaged and not others:
            return {}
        lost = {path.name: self._packages[path] for path in others if self._differs(path, before)}
        left = (name for name in digests if folder / name not in made)
        if before.damaged or lost or any(before.digests.get(name) != digests[name] for name in left):
            self.notices.append(f"{folder / SUMS} does not say what is there, and is written again")
        self._look_for_descriptions(folder, others, before)
        return lost

    def _differs(self, package: Path, sums: Sums) -> bool:
        """Return whether a package's line is missing or wrong. One that was signed by hand has a line that is right."""
        digest = sums.digests.get(package.name)
        return digest != self._packages[package] and (digest is None or digest != sha256(package))

    def _look_for_descriptions(self, folder: Path, packages: Set[Path], sums: Sums) -> None:
        """Say which cells have files whose digests are lost: nobody but a build of theirs knows these."""
        cells = {
            self._cells[package]
            for package in packages
            if any(file.name not in sums.digests and file.is_file() for file in descriptions(package))
        }
        if cells:
            self.notices.append(
                f"{folder / SUMS} does not list what describes the packages of {_some(sorted(cells))}: "
                "a build of these cells lists it again"
            )

    def look_for_others(self, cells: Set[str]) -> None:
        """Say which cells lose their place in the report because some of their packages are missing.

        Args:
            cells: ids of the run's own; what they miss is made again.
        """
        packages: dict[str, list[Path]] = {}
        for path, cell in self._cells.items():
            if cell not in cells:
                packages.setdefault(cell, []).append(path)
        for cell, paths in sorted(packages.items()):
            missing = [path for path in paths if not path.is_file()]
            if 0 < len(missing) < len(paths):  # who has removed all of them does not want the cell
                self.notices.append(f"{missing[0]} is missing: the report has {cell} no more until it is built again")

    def drop_damaged_signature(self, path: Path) -> None:
        """Remove the signature of a file if it is damaged: there is no key to make it again."""
        beside = path.with_name(path.name + SIGNATURE_SUFFIX)
        if beside.is_file() and armor.is_damaged(beside.read_bytes()):
            beside.unlink()
            self.notices.append(f"{beside} is damaged, and is removed; a build or `publish` with the key signs again")


def _some(names: Sequence[str]) -> str:
    """Return names in one line, not more than can be read."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def refuse_changed(file: Path, digest: str, noted: Mapping[str, str]) -> None:
    """Refuse what describes a package if it is not what SHA256SUMS says.

    Args:
        file: the file.
        digest: its SHA-256.
        noted: digests of its folder by name, as SHA256SUMS has them.

    Raises:
        PublishError: nobody's key vouches for such a thing.
    """
    if noted.get(file.name, digest) != digest:
        raise PublishError(
            f"what describes a package is not what {SUMS} says",
            where=str(file),
            hint="build it again: that makes such a file again",
        )
