"""Patch series: the entries of a series become patch files, which the guest applies in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pikaforge.config.patch_series import PatchEntry, Series
from pikaforge.errors import AnswerError, PatchError, UnreachableError, UpstreamError
from pikaforge.host import git, git_cache, hashing, http
from pikaforge.host.durable import write_changed
from pikaforge.host.lockfile import Lock
from pikaforge.host.text import size_text
from pikaforge.pipeline.source.origin import WAYS_ROUND, Origin

MAIL_HEADERS = (b"From: ", b"Subject: ", b"Date: ")
HEADER = re.compile(rb"^--- ([^\t\r\n]+).*\n\+\+\+ ([^\t\r\n]+)", re.MULTILINE)
"""The two lines that name the files of a unified diff. A time may follow a tab (diffutils manual, Detailed Unified)."""
LIMIT = 64 << 20
"""Bytes; a patch series beyond that is a mistake."""


Already = Literal["skip", "refuse"]
"""What to do if the source has a patch already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A patch that is to be applied."""

    name: str
    """`pull-988`, `file fix.patch` or `quilt FOLDER/0001-x.patch`."""
    kind: Literal["am", "diff"]
    strip: int
    sha256: str
    why: str = ""
    url: str = ""
    already: Already = "skip"


def entry_name(entry: PatchEntry) -> str:
    """Return the name of an entry: `pull-988`, `file fix.patch`, `quilt FOLDER`."""
    if entry.pull is not None:
        return f"pull-{entry.pull}"
    return f"file {entry.file}" if entry.file is not None else f"quilt {entry.quilt}"


def patch_start(entry: PatchEntry) -> str:
    """Return how the names of a quilt folder's patches begin: with its path below the series' folder.

    A part of the path could be that of another folder, and a name that other entries decide would change with them.
    """
    return f"quilt {PurePosixPath(str(entry.quilt))}/"


def is_mailbox(data: bytes) -> bool:
    """Return whether `git am` can take a patch: it begins as a mail, with an author and a subject."""
    head = data[:8192]
    if re.match(rb"\AFrom [0-9a-f]{40} ", head):
        return True
    block = head.split(b"\n\n", 1)[0].splitlines()
    return all(any(line.startswith(h) for line in block) for h in MAIL_HEADERS)


def oddities(patch: Patch, data: bytes) -> tuple[str, ...]:
    """Return what is odd about a plain diff that does not apply, and may be the reason."""
    if patch.kind != "diff":
        return ()
    found = []
    if re.search(rb"^[-+ ].*\r$", data, re.MULTILINE):
        found.append(
            f"the lines of patch {patch.name} end with CR and LF: if the source's end with LF, convert it (dos2unix)"
        )
    pairs = [(old, new) for old, new in HEADER.findall(data) if b"/dev/null" not in (old, new)]
    if patch.strip == 1 and pairs and all(old == new for old, new in pairs):
        found.append(
            f"the paths in patch {patch.name} have no a/ and b/ before them, so it is made for -p0: put it into a "
            "quilt folder, whose file `series` has the line `NAME -p0`, and name that with `quilt:`"
        )
    return tuple(found)


def _read(path: Path, where: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PatchError(f"cannot read the patch {path}: {error.strerror}", where=where) from error
    if len(data) > LIMIT:
        raise PatchError(f"the patch {path} is larger than {size_text(LIMIT)}", where=where)
    return data


def _quilt(entry: PatchEntry, base: Path, where: str) -> list[tuple[str, int, bytes]]:
    """Return name, strip level and content of each patch of a quilt folder (quilt(1): `series` lists `NAME [-pN]`)."""
    folder = base / str(entry.quilt)
    series = _read(folder / "series", where).decode("utf-8", "replace")
    found: dict[str, tuple[str, int, bytes]] = {}
    for number, line in enumerate(series.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        strip = 1
        for option in words[1:]:
            level = re.fullmatch(r"-p([0-9])", option)
            if level is None:
                raise PatchError(f"the quilt option {option!r} is unknown", where=f"{folder / 'series'}:{number}")
            strip = int(level.group(1))
        if ".." in Path(words[0]).parts or words[0].startswith("/"):
            raise PatchError(f"{words[0]} leaves the quilt folder", where=f"{folder / 'series'}:{number}")
        name = f"{patch_start(entry)}{words[0]}"
        if name in found:
            raise PatchError(f"{words[0]} is here twice", where=f"{folder / 'series'}:{number}")
        found[name] = (name, strip, _read(folder / words[0], f"{folder / 'series'}:{number}"))
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSources:
    """Where patches come from, and where they are kept."""

    origin: Origin
    """The source. The sample brings its pull requests itself; a local clone may have them as refs."""
    commit: str
    """The source's, for pull requests that are taken from refs."""
    folder: Path
    """The folder of the series file."""
    lock: Lock
    """It pins the digests of fetched patches."""
    downloads: Path
    """A folder with the patches, named by their SHA-256."""
    cache: git_cache.Cache


def resolve(series: Series, sources: PatchSources) -> tuple[Patch, ...]:
    """Return the enabled patches of a series; fetch those that are not in `sources.downloads` yet.

    Raises:
        HostError: a pull request cannot be fetched.
        ConfigError: a local patch cannot be read, or a pin says otherwise.
    """
    patches: list[Patch] = []
    for index, entry in enumerate(series.patches):
        where = f"{sources.folder / 'series.yaml'}, patches[{index}]"
        if not entry.enabled:
            continue
        if entry.pull is not None:
            patches.append(_pull(entry, sources))
        elif entry.file is not None:
            data = _read(sources.folder / entry.file, where)
            kind: Literal["am", "diff"] = "am" if is_mailbox(data) else "diff"
            patches.append(_keep(sources, entry, data, name=entry_name(entry), kind=kind))
        elif entry.quilt is not None:
            patches.extend(
                _keep(sources, entry, data, name=name, kind="diff", strip=strip)
                for name, strip, data in _quilt(entry, sources.folder, where)
            )
    return tuple(patches)


def _keep(
    sources: PatchSources,
    entry: PatchEntry,
    data: bytes,
    *,
    name: str,
    kind: Literal["am", "diff"] = "am",
    strip: int = 1,
) -> Patch:
    sha256 = hashing.digest(data)
    path = sources.downloads / sha256
    write_changed(path, data)
    return Patch(
        name=name,
        kind=kind,
        strip=strip,
        sha256=sha256,
        why=entry.why,
        url=entry.url or "",
        already=entry.already,
    )


def _pull(entry: PatchEntry, sources: PatchSources) -> Patch:
    name, url = entry_name(entry), str(entry.url)
    origin, lock, downloads = sources.origin, sources.lock, sources.downloads
    pinned = lock.pins("sources", origin.entry).get(f"patch {name}")
    if pinned is not None and not lock.refresh and (path := downloads / pinned).is_file():
        data = path.read_bytes()
        if hashing.digest(data) == pinned:
            return _keep(sources, entry, data, name=name)
    data = _fetch_pull(entry, sources)
    if not is_mailbox(data):
        raise AnswerError(
            f"{http.redacted(url)} is no mailbox patch; it begins {data[:60]!r}",
            where=f"pull request {entry.pull}",
            hint="a proxy's error page, perhaps? save the patch beside the series and name it with `file:`",
        )
    patch = _keep(sources, entry, data, name=name)
    if not origin.sample:
        lock.check("sources", origin.entry, f"patch {name}", patch.sha256)
    return patch


def _fetch_pull(entry: PatchEntry, sources: PatchSources) -> bytes:
    """Return the mailbox of a pull request: the sample's own, that of a ref in a local clone, or what its URL gives."""
    origin = sources.origin
    if origin.pulls is not None:
        return _read(origin.pulls / f"{entry.pull}.patch", f"pull request {entry.pull}")
    if origin.kind == "git" and origin.local:
        ref = git.remote_ref(origin.url, f"refs/pull/{entry.pull}/head")
        if ref is not None and (data := sources.cache.mailbox(origin.url, sources.commit, ref.name)):
            return data
    try:
        return http.get(str(entry.url), limit=LIMIT)
    except UnreachableError as error:
        raise UpstreamError(
            error.message,
            where=f"pull request {entry.pull}",
            hint=f"{WAYS_ROUND}\nor save it beside the series file and name it there with `file:`",
        ) from error


def pinned_digests(series: Series, origin: Origin, *, folder: Path, lock: Lock) -> dict[str, str] | None:
    """Return the digests of all enabled patches, by name, without network; None if some are not known yet."""
    pins = lock.pins("sources", origin.entry)
    digests: dict[str, str] = {}
    for entry in series.patches:
        if not entry.enabled:
            continue
        if entry.pull is not None:
            name = entry_name(entry)
            if origin.pulls is not None:
                digests[name] = hashing.digest(_read(origin.pulls / f"{entry.pull}.patch", name))
            elif (pinned := pins.get(f"patch {name}")) is not None:
                digests[name] = pinned
            else:
                return None
        elif entry.file is not None:
            digests[entry_name(entry)] = hashing.digest(_read(folder / entry.file, entry.file))
        elif entry.quilt is not None:
            for name, strip, data in _quilt(entry, folder, entry.quilt):
                if name in digests:
                    raise PatchError(f"the patch {name} is in the series twice", where=f"quilt {entry.quilt}")
                digests[name] = _material(strip, hashing.digest(data))
    return digests


def _material(strip: int, sha256: str) -> str:
    return sha256 if strip == 1 else f"-p{strip} {sha256}"


def digests_of(patches: Sequence[Patch]) -> dict[str, str]:
    """Return the same mapping as `pinned_digests`, from patches that are there."""
    return {patch.name: _material(patch.strip, patch.sha256) for patch in patches}
