"""Base images from a distribution's own packages, for engines that reach no registry.

mmdebstrap needs no mirror for the distributions it knows, so none is named here; with SOURCE_DATE_EPOCH two runs on
the same packages give the same bytes (reproducible-builds.org, mmdebstrap(1)).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pikaforge.errors import FullDiskError, UnreachableError
from pikaforge.host import offline, process
from pikaforge.host.disk import lasting, who_has_no_room
from pikaforge.host.leftovers import temporary_folder

TIMEOUT = 1800.0
SHOWN_WITHIN = 30.0
SHOW = 'cat "$1"/etc/apt/sources.list; exit 1'
"""A hook that runs before apt is asked for anything: it prints what apt would get, and ends the bootstrap.

What hooks print comes on standard error."""
LINE = re.compile(r"^deb (?:\[[^]]*\] )?(https?://\S+) (\S+)", re.MULTILINE)
"""URL and suite in a line of sources.list(5)."""
HINT = (
    "install the package `mmdebstrap` (Debian, Ubuntu), or run `bash setup.sh`\nor make a container registry reachable"
)


def repositories(suite: str, *, mirror: str | None) -> tuple[str, ...]:
    """Return the URLs of the files by which apt knows the repositories of a bootstrap.

    Without a mirror, mmdebstrap itself says which ones it would use; nothing is downloaded.

    Raises:
        HostError: mmdebstrap is missing.
    """
    if mirror:
        return (f"{mirror.rstrip('/')}/dists/{suite}/InRelease",)
    tool = process.require("mmdebstrap", hint=HINT)
    argv = [tool, "--quiet", "--variant=custom", f"--setup-hook={SHOW}", suite, "/dev/null"]
    done = process.run(argv, env=process.environment(), timeout=SHOWN_WITHIN)
    return tuple(f"{url.rstrip('/')}/dists/{name}/InRelease" for url, name in LINE.findall(done.errors()))


def root_tar(suite: str, target: Path, *, mirror: str | None, log: Path) -> None:
    """Write the root file system of a minimal installation of `suite` to the tar archive `target`.

    Raises:
        HostError: mmdebstrap is missing, or its mirror cannot be reached.
        FullDiskError: there is no room for the archive, or for the files in TMPDIR from which it is made.
    """
    offline.refuse(f"the base image {suite}, which is made from the distribution's packages,")
    tool = process.require("mmdebstrap", hint=HINT)
    argv = [*_alone(), tool, "--variant=minbase", "--format=tar", suite, str(target), *([mirror] if mirror else [])]
    # If this run is killed, the folder is removed by a later one; what mmdebstrap makes in TMPDIR would stay.
    with temporary_folder("base") as folder:
        folder.chmod(0o711)  # apt fetches as another user
        env = process.environment({"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(folder)})
        try:
            done = process.run(argv, env=env, timeout=TIMEOUT)
        except FullDiskError as error:
            temporary, out = folder.parent, lasting(target.parent)
            raise FullDiskError(
                f"no space left in {who_has_no_room(out, temporary)} for the base image {suite}",
                hint=f"while it is made, its files are in {temporary} (TMPDIR), and its archive in {out}\n{error.hint}",
            ) from error
    with log.open("ab") as stream:
        stream.write(done.stdout + done.stderr)
    if done.status != 0:
        lines = [line for line in done.errors().splitlines() if line.startswith(("E:", "W:", "Err"))]
        raise UnreachableError(
            f"the base image could not be bootstrapped from {suite}: {lines[-1] if lines else 'no message'}",
            where=str(log),
            hint="is the distribution's package mirror reachable? `mirror` of the image entry names another",
        )


def _alone() -> list[str]:
    """Return the begin of the command line of a program whose mounts end with it, also if it is killed.

    As root, mmdebstrap mounts /proc, /sys and others below its folder. Killed, it leaves them to the machine.
    """
    unshare = process.find("unshare")
    if os.geteuid() != 0 or unshare is None:
        return []
    argv = [unshare, "--mount", "--"]
    return argv if process.run([*argv, "true"], timeout=SHOWN_WITHIN).status == 0 else []
