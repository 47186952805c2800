"""What the last build has left under dist/, and what has changed there since.

A build compares what it finds with what the last one has noted: the digests of packages, bills and provenances in
SHA256SUMS, those of packages in report.json, too, and that of report.json in itself. A difference is said, and the file
is made again: it is a wrong bit, or somebody has edited it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.attest import armor
from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS
from pikaforge.errors import PublishError
from pikaforge.pipeline import report
from pikaforge.pipeline.dist_folder import Sums, listed
from pikaforge.pipeline.report_record import BuildReport


@dataclass(slots=True, kw_only=True)
class Before:
    """The state of dist/ before a run writes there."""

    dist: Path
    report: BuildReport | None
    notices: list[str] = field(default_factory=list)
    _sums: dict[Path, Sums] = field(default_factory=dict)
    _packages: dict[Path, str] = field(default_factory=dict)

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

    def compare_sums(self, folder: Path, digests: dict[str, str], made: set[Path]) -> None:
        """Compare SHA256SUMS with the files of which it speaks.

        Args:
            folder: the folder.
            digests: of the files that are there now, by name.
            made: the files that this run has written: of these, it need not speak yet.
        """
        before = self._listed(folder)
        if not before.digests and not before.damaged:
            return
        left = (name for name in digests if folder / name not in made)
        if before.damaged or any(before.digests.get(name) != digests[name] for name in left):
            self.notices.append(f"{folder / SUMS} does not say what is there, and is written again")

    def drop_damaged_signature(self, path: Path) -> None:
        """Remove the signature of a file if it is damaged: there is no key to make it again."""
        beside = path.with_name(path.name + SIGNATURE_SUFFIX)
        if beside.is_file() and armor.is_damaged(beside.read_bytes()):
            beside.unlink()
            self.notices.append(f"{beside} is damaged, and is removed; a build or `publish` with the key signs again")


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
