"""Shell lines for client machines, which all formats have. What goes into a line is checked or quoted."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator

from pikaforge.errors import DestinationError
from pikaforge.formats.format import InstallOffer
from pikaforge.host.download import FILE_PATTERN

SCRIPT = "detect-model.sh"
"""Finds the model of a machine."""
SCRIPT_PATH = f"utils/{SCRIPT}"
"""Below the published root."""
BASE_URL = re.compile(r"(https?|file)://[A-Za-z0-9._~:/%@+,=!()\[\]-]+")
"""Goes unquoted into a .repo file, where `$` begins a variable, and into a sources.list, where blanks separate."""
PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~/-]*")


def script_lines(base: str, option: str = "") -> Iterator[str]:
    """Return lines that fetch and run the script that finds a machine's model."""
    # It is saved first: a shell that reads from a pipe runs the first half of a script even if the rest is lost.
    yield f"curl -fsSO {shlex.quote(f'{base}/{SCRIPT_PATH}')} && sh {SCRIPT}{option}"


def fetch(base: str, path: str, into: str) -> str:
    """Return a line that downloads a file."""
    return f"curl -fsS -o {shlex.quote(into)} {shlex.quote(f'{base}/{path}')}"


def file_name(path: str) -> str:
    """Return the name of a file, quoted."""
    return shlex.quote(posixpath.basename(path))


def checked(base: str, path: str, then: str) -> tuple[str, ...]:
    """Return lines that download a file, compare it with SHA256SUMS, and run a command if it is right."""
    sums = shlex.quote(f"{base}/{posixpath.join(posixpath.dirname(path), 'SHA256SUMS')}")
    # awk, because sha256sum of EL7 cannot leave out the files that are not here.
    chosen = shlex.quote(f'$2 == "{posixpath.basename(path)}"')
    return (
        f"curl -fsSO {shlex.quote(f'{base}/{path}')}",
        f"curl -fsS {sums} | awk {chosen} | sha256sum -c - && {then}",
    )


def base_of(offer: InstallOffer) -> str:
    """Return the URL of the root for an offer's lines, after checks of the URL and of the package's path.

    Raises:
        ConfigError: the URL or the path cannot be written into a line.
    """
    base, path = checked_url(offer.base_url), offer.path
    if not PATH.fullmatch(path) or ".." in path.split("/") or not re.fullmatch(FILE_PATTERN, posixpath.basename(path)):
        raise DestinationError(
            f"{path!r} is no path of a published file", hint="letters, digits and . _ + ~ - in its parts"
        )
    return base


def checked_url(url: str) -> str:
    """Return a URL without slashes at its end; raise ConfigError if configuration files cannot hold it."""
    url = url.rstrip("/")
    if not BASE_URL.fullmatch(url):
        hint = "https://, http:// or file:// with letters, digits and . _ ~ : / % @ + , = ! ( ) [ ] -; others as %XX"
        raise DestinationError(f"{url!r} cannot be written into the files of package managers", hint=hint)
    return url
