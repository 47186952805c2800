"""Metadata of a flat apt repository: Packages by their digests, and a Release that names them.

A flat repository (`deb URL ./`) has packages and metadata in one folder. Release says Acquire-By-Hash, so that apt of
Debian 9 and later fetches lists by their digests. Then InRelease, which holds its signature, is the only file that must
be switched at one moment (https://wiki.debian.org/DebianRepository/Format). Nothing depends on a clock: the same
packages and date give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

from pikaforge.errors import PublishError
from pikaforge.formats.text import names
from pikaforge.host import extras
from pikaforge.host.store import sha256

BY_HASH = "by-hash/SHA256"
LIST = "Packages"
LISTS = (LIST, f"{LIST}.gz")
RELEASE, RELEASE_SIGNED, RELEASE_SIGNATURE = "Release", "InRelease", "Release.gpg"
ARCHITECTURE = "amd64"
FIRST = ("Package", "Version", "Architecture")
LAST = ("Filename", "Size", "SHA256", "Description")
"""Fields with a fixed place. apt takes any order; this one is easy to read."""


def library() -> tuple[ModuleType, ModuleType]:
    """Import python-debian: its modules deb822 and debfile.

    Raises:
        HostError: it is missing, or cannot be loaded.
    """
    deb822: ModuleType = extras.load("debian.deb822", package="python-debian", extra="publish")
    debfile: ModuleType = extras.load("debian.debfile", package="python-debian", extra="publish")
    return deb822, debfile


def digests(release: bytes) -> dict[str, str]:
    """Return the digests that a Release names, by path."""
    _, _, lines = release.decode("utf-8", "replace").partition("\nSHA256:\n")
    found = {}
    for line in lines.split("\n"):
        words = line.split()
        if not line.startswith(" ") or len(words) != 3:
            break
        found[words[2]] = words[0]
    if not found:
        raise ValueError("it names no digests")
    return found


def metadata(
    packages: Mapping[str, Path | None],
    before: bytes,
    *,
    revision: int,
    origin: str,
    label: str,
    valid_until: int | None = None,
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the metadata of a repository.

    Args:
        packages: the DEB by its path relative to the repository; None where the list before has it.
        before: the list before, Packages; empty if there is none.
        revision: the date of Release in seconds since 1970.
        origin: field of Release that clients can pin by (apt_preferences(5)).
        label: the same.
        valid_until: seconds since 1970 after which clients refuse Release; None: never.

    Returns:
        The lists by their paths below by-hash/; and the same by their names, with Release.

    Raises:
        PublishError: a DEB cannot be read, or the list before does not know a package that it should.
        HostError: see `library`.
    """
    deb822, debfile = library()
    wanted = {name for name, path in packages.items() if path is None}
    known = {str(p["Filename"]): str(p) for p in deb822.Packages.iter_paragraphs(before, use_apt_pkg=False)}
    stanzas = {name: text for name, text in known.items() if name in wanted}
    missing = sorted(wanted - set(stanzas))
    if missing:
        raise PublishError(f"the list does not know {missing[0]}, which it should name", where=LIST)
    for name, path in packages.items():
        if path is not None:
            stanzas[name] = _stanza(debfile, name, path)
    plain = "\n".join(stanzas[name] for name in sorted(stanzas)).encode()
    lists = {LIST: plain, f"{LIST}.gz": gzip.compress(plain, mtime=0)}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in lists.items()}
    dates = [f"Date: {_date(revision)}"]
    if valid_until is not None:
        dates.append(f"Valid-Until: {_date(valid_until)}")
    release = _release(lists, digests, [f"Origin: {origin}", f"Label: {label}", *dates])
    return {f"{BY_HASH}/{digests[name]}": data for name, data in lists.items()}, {**lists, RELEASE: release}


def _stanza(debfile: ModuleType, name: str, path: Path) -> str:
    """Return a package's control file, with location, size and digest of the package."""
    try:
        with debfile.DebFile(str(path)) as deb:
            control = deb.debcontrol()
    except (debfile.DebError, debfile.ArError, OSError, EOFError, ValueError) as error:
        raise PublishError(f"the DEB cannot be read: {error}", where=str(path)) from error
    fields = {str(key): str(control[key]) for key in control}
    fields |= {"Filename": name, "Size": str(path.stat().st_size), "SHA256": sha256(path)}
    order = [*FIRST, *(key for key in fields if key not in (*FIRST, *LAST)), *LAST]
    return "".join(f"{key}: {fields[key]}\n" for key in order if key in fields)


def _date(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    day, month = names(moment)
    return f"{day}, {moment.day:02d} {month} {moment:%Y %H:%M:%S} UTC"


def _release(lists: Mapping[str, bytes], digests: Mapping[str, str], head: Sequence[str]) -> bytes:
    lines = [
        *head,
        f"Architectures: {ARCHITECTURE}",
        "Acquire-By-Hash: yes",
        "SHA256:",
        *(f" {digests[name]} {len(lists[name])} {name}" for name in sorted(lists)),
    ]
    return ("\n".join(lines) + "\n").encode()
