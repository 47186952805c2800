"""Which shared store a run has: what matrix.yaml says, and what the environment changes in it.

`PIKAFORGE_STORE` names another store. `PIKAFORGE_STORE_MODE` is `read` (take results, put none there), `write` or
`off`; it comes before `store.write`. Credentials are those of a destination of the name `store`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from pikaforge.config.registry import STORES
from pikaforge.config.shared_store import PLACE_PATTERN, SharedStoreOptions
from pikaforge.errors import DestinationError, ProgramError, UsageError
from pikaforge.host import offline
from pikaforge.host.http import redacted
from pikaforge.host.text import one_line
from pikaforge.publish.sites.client import warn_if_plain
from pikaforge.publish.sites.credentials import advice, credentials
from pikaforge.sharing.objects import EXTRA, NAME, ObjectStoreKind, ObjectStoreSettings
from pikaforge.sharing.results import SharedResults
from pikaforge.sharing.seals import Seals

URL, MODE = "PIKAFORGE_STORE", "PIKAFORGE_STORE_MODE"
MODES = ("read", "write", "off")
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


def opened(
    options: SharedStoreOptions | None,
    environ: Mapping[str, str],
    *,
    base: Path,
    cwd: Path,
    file_limit: int,
    notice: Callable[[str], None],
    release: bool = False,
) -> SharedResults | None:
    """Return the shared store; None if there is none, or if it cannot be used here, which is a notice.

    Args:
        options: of matrix.yaml.
        environ: variables.
        base: the folder of matrix.yaml.
        cwd: paths in the environment are relative to it.
        file_limit: bytes that a file of a result may have.
        notice: takes messages for the user.
        release: whether the run makes a release, which takes only what a trusted key has signed.

    Raises:
        ConfigError: a variable, the URL, a key or the credentials cannot be used.
        HostError: there are keys, and GnuPG is missing.
    """
    mode = environ.get(MODE, "")
    if mode not in ("", *MODES):
        raise UsageError(f"{MODE} is none of {', '.join(MODES)}: {mode!r}", where=MODE)
    named = environ.get(URL, "").strip()
    place = named or (options.url if options is not None else "")
    if not place or mode == "off":
        return None
    url = _absolute(place, cwd if named else base, where=URL if named else "store.url")
    scheme = url.partition(":")[0]
    if offline.active() and scheme != "file":
        notice(f"the shared store {redacted(url)} is not asked: {offline.VARIABLE} forbids the network")
        return None
    found = options or SharedStoreOptions(url=url)
    write = mode == "write" or (mode == "" and found.write)
    seals = Seals.of(environ, cwd=cwd, keys=[base / key for key in found.keys])
    seals.check()
    if release and not seals.judges:
        notice(f"the shared store {redacted(url)} is not used: a release takes only signed results (store.keys)")
        return None
    known = None if scheme == "file" else credentials(NAME, url, environ)
    settings = ObjectStoreSettings(
        url=url, endpoint=found.endpoint or "", timeout=found.timeout, credentials=known, environ=environ, write=write
    )
    try:
        objects = _kind(scheme).open(settings)
    except ProgramError as error:
        why = f"{one_line(error.message)} (pip install 'pikaforge[{EXTRA}]', or what {scheme}:// needs)"
        notice(f"the shared store {redacted(url)} is not used in this run: {why}")
        return None
    warn_if_plain(url, known, notice)
    return SharedResults(objects, seals, write=write, file_limit=file_limit, notice=notice)


def _absolute(place: str, folder: Path, *, where: str) -> str:
    """Return a URL with a scheme; of a folder, with its absolute path.

    Raises:
        ConfigError: there are credentials or blanks in it.
    """
    if "@" in place:
        raise DestinationError(
            f"there are credentials in {redacted(place)}", where=where, hint=f"take them out; {advice(NAME, place)}"
        )
    if not re.fullmatch(PLACE_PATTERN, place) or not place.isprintable():
        raise DestinationError(f"{redacted(place)!r} is neither a folder nor a URL", where=where)
    if SCHEME.match(place):
        return place
    return (folder / place).absolute().as_uri()


def _kind(scheme: str) -> ObjectStoreKind:
    """Return the kind of a scheme."""
    if scheme in STORES.names:
        return cast(ObjectStoreKind, STORES.get(scheme))
    from pikaforge.sharing.file_systems import OTHER  # noqa: PLC0415  # imports what fsspec has

    return OTHER
