"""Prometheus, its promtool and node-exporter, unpacked from Debian's packages: to install them starts services."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("prometheus", "prometheus-node-exporter")


class NoPrometheus(Exception):
    """The programs are not on this machine, and cannot be had; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Paths of the programs."""

    folder: Path

    @property
    def promtool(self) -> Path:
        return self.folder / "promtool"

    @property
    def prometheus(self) -> Path:
        return self.folder / "prometheus"

    @property
    def node_exporter(self) -> Path:
        return self.folder / "prometheus-node-exporter"

    def complete(self) -> bool:
        return all(path.is_file() for path in (self.promtool, self.prometheus, self.node_exporter))


def programs(folder: Path) -> Programs:
    """Return the programs: the installed ones, else those of Debian's packages, downloaded once into a folder.

    Raises:
        NoPrometheus: apt-get is not there, or cannot download them.
    """
    installed = Programs(folder=Path("/usr/bin"))
    if installed.complete():
        return installed
    unpacked = Programs(folder=folder / "root/usr/bin")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers want the same ones at the same time
        if not unpacked.complete():
            _download(folder)
    return unpacked


def _download(folder: Path) -> None:
    if shutil.which("apt-get") is None:
        raise NoPrometheus("no Prometheus on this machine, and no apt-get to download it")
    got = subprocess.run(
        ["apt-get", "download", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    packages = sorted(folder.glob("*.deb"))
    if len(packages) < len(PACKAGES):
        raise NoPrometheus(f"apt-get cannot download {' and '.join(PACKAGES)}: {got.stderr.strip()[-200:]}")
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", str(package), str(folder / "root")], check=True, timeout=120)
        package.unlink()
