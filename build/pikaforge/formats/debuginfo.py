"""Debug information in packages of its own, at the paths where debuggers look for it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pikaforge.formats.layout import LICENCES, Entry, layout_text, tree_entries, with_folders

DEBUG = "/usr/lib/debug"
LICENSES = "/usr/share/licenses"
"""Folder of the licences of all packages."""
BUILD_IDS = f"{DEBUG}/.build-id"


def debug_entries(
    archive: Path | bytes, *, folder: str, prefix: str, build_ids: Mapping[str, str] | None = None
) -> tuple[Entry, ...]:
    """Return entries for a tree's debug information: files by path (.gnu_debuglink), and links by build id.

    Args:
        archive: the compile stage's debug.tar, PATH.debug for PATH in the tree.
        folder: the folder of the job into which it is unpacked.
        prefix: where the tree is on the host, `/opt/NAME`.
        build_ids: by path in the tree, from the audit's facts; files without a build id get no link.
    """
    top = f"{DEBUG}{prefix}"
    entries = [
        replace(entry, mode=0o644) for entry in tree_entries(archive, folder=folder, prefix=top) if entry.kind != "dir"
    ]
    if not entries:
        return ()
    files = {entry.path.removeprefix(f"{top}/").removesuffix(".debug"): entry.path for entry in entries}
    links: dict[str, Entry] = {}
    for name, build_id in sorted((build_ids or {}).items()):
        if name in files and len(build_id) > 2:
            link = f"{BUILD_IDS}/{build_id[:2]}/{build_id[2:]}.debug"
            target = posixpath.relpath(files[name], posixpath.dirname(link))
            links.setdefault(link, Entry(path=link, kind="link", target=target, mode=0o777))
    below = with_folders([*entries, *links.values()], below=DEBUG)
    # /usr/lib/debug itself is the system's.
    return tuple(entry for entry in below if entry.path != DEBUG)


def own_licences(tree: Iterable[Entry], *, top: str, name: str) -> tuple[Entry, ...]:
    """Return the product's licences, and their folders, for a package of debug information.

    Args:
        tree: `tree_entries` of the product's tree.
        top: where that is on the host.
        name: of the product.
    """
    own, folder = f"{top}/{LICENCES}/{name}/", f"{LICENSES}/{name}-debuginfo"
    found = [
        replace(entry, path=f"{folder}/{entry.path.removeprefix(own)}", licence=True)
        for entry in tree
        if entry.kind == "file" and entry.path.startswith(own)
    ]
    return with_folders(found, below=folder)


def debug_tarball(entries: Sequence[Entry]) -> dict[str, bytes]:
    """Return the input `pack` of docker/guest/debuginfo.sh, which makes a tarball of the files for `tar xf … -C /`."""
    return {"layout.tsv": layout_text(entries).encode()}
