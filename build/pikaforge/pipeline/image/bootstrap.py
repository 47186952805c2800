"""Base images from a distribution's own packages, for engines that reach no registry.

mmdebstrap needs no mirror for the distributions it knows, so none is named here; with SOURCE_DATE_EPOCH two runs on
the same packages give the same bytes (reproducible-builds.org, mmdebstrap(1)).
"""

from __future__ import annotations

import re
from pathlib import Path

from pikaforge.errors import UnreachableError
from pikaforge.host import offline, process

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
    """
    offline.refuse(f"the base image {suite}, which is made from the distribution's packages,")
    tool = process.require("mmdebstrap", hint=HINT)
    argv = [tool, "--variant=minbase", "--format=tar", suite, str(target), *([mirror] if mirror else [])]
    done = process.run(argv, env=process.environment({"SOURCE_DATE_EPOCH": "0"}), timeout=TIMEOUT)
    with log.open("ab") as stream:
        stream.write(done.stdout + done.stderr)
    if done.status != 0:
        lines = [line for line in done.errors().splitlines() if line.startswith(("E:", "W:", "Err"))]
        raise UnreachableError(
            f"the base image could not be bootstrapped from {suite}: {lines[-1] if lines else 'no message'}",
            where=str(log),
            hint="is the distribution's package mirror reachable? `mirror` of the image entry names another",
        )
