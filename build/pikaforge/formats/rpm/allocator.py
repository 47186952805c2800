"""RPMs of the allocator, for those who want it apart from the product.

The packages are `NAME-WHAT-libs` and `-devel`, below /opt/NAME-WHAT. That is off the loader's path, so that nothing
takes them for the distribution's; nor do they have its provides.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pikaforge.formats.layout import LICENCE, Entry, PackingError, with_folders
from pikaforge.formats.product_package import ChangelogEntry, PackageAbout
from pikaforge.formats.rpm.product import conflicts_with_others, provided_facts
from pikaforge.formats.rpm.spec_file import Profile, RpmBuild, RpmSpec, SubPackage
from pikaforge.formats.versions import legal_release, legal_version


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorPackage:
    """An allocator that was built for a product."""

    about: PackageAbout
    """Its name is the product's, its version that of the allocator."""
    what: str
    """The allocator's name."""
    unwinder: str
    """How it walks the stack, `libunwind` or `frame-pointers`; empty where that is no question."""
    target: str
    """The CPU microarchitecture that it was built for."""
    prefix: tuple[Entry, ...]
    """`tree_entries` of the allocator's tree, below `allocator_top`."""
    requires: tuple[str, ...]
    """`needs` of its libraries."""
    changes: tuple[ChangelogEntry, ...]

    @property
    def stem(self) -> str:
        """What the names of its packages begin with."""
        return f"{self.about.name}-{self.what}"

    @property
    def top(self) -> str:
        """The folder of its packages."""
        return allocator_top(self.about.name, self.what)

    @property
    def facts(self) -> dict[str, str]:
        """The facts that its packages differ in."""
        return {**({"unwinder": self.unwinder} if self.unwinder else {}), "target": self.target}

    @property
    def text(self) -> str:
        """What it is, in one sentence."""
        unwinder = f" with {self.unwinder}" if self.unwinder else ""
        built = f"{self.what} {self.about.version}{unwinder} for {self.target}"
        return f"{built}, as {self.about.name} is built with, below {self.top}."


def packages(allocator: AllocatorPackage, *, profile: Profile) -> RpmBuild:
    """Return the RPMs of an allocator.

    Args:
        allocator: what is packed.
        profile: what the system's rpm reads.

    Raises:
        PackingError: there is no library in the tree.
    """
    about, top = allocator.about, allocator.top
    files = [entry for entry in with_folders(allocator.prefix, below=top) if entry.kind != "dir"]
    runtime = [entry for entry in files if _is_runtime(entry.path.removeprefix(f"{top}/"))]
    if not any(entry.path.startswith(f"{top}/lib/") for entry in runtime):
        hint = "see the log of the allocator's build"
        raise PackingError(f"{allocator.stem}: the tree has no library lib/*.so.N", hint=hint)
    version = legal_version(about.version)
    release = legal_release(about.release, *allocator.facts.values(), about.dist)
    libs = _libs(allocator, runtime)
    devel = _devel(allocator, [entry for entry in files if entry not in runtime], libs, f"{version}-{release}")
    return RpmBuild(
        rpm=RpmSpec(
            version=version,
            release=release,
            licence=about.licence,
            url=about.url,
            packages=(libs, *devel),
            profile=profile,
            changes=allocator.changes,
            packager=about.maintainer,
        ),
        extra={},
    )


def _libs(allocator: AllocatorPackage, files: Sequence[Entry]) -> SubPackage:
    stem, top, facts = allocator.stem, allocator.top, allocator.facts
    return SubPackage(
        name=f"{stem}-libs",
        summary=f"Memory allocator of {allocator.about.name} as shared libraries",
        description=f"{allocator.text}\nTo use it: LD_PRELOAD, or -Wl,-rpath,{top}/lib.",
        entries=_documents(with_folders(files, below=top), top),
        requires=allocator.requires,
        provides=provided_facts(stem, **facts),
        conflicts=tuple(line for key, value in facts.items() for line in conflicts_with_others(stem, key, value)),
    )


def _devel(
    allocator: AllocatorPackage, files: Sequence[Entry], libs: SubPackage, version: str
) -> tuple[SubPackage, ...]:
    """Return the package of what programs are built with; none if there are no such files."""
    if not files:
        return ()
    stem, top = allocator.stem, allocator.top
    entries = [entry for entry in with_folders(files, below=top) if entry not in libs.entries]
    return (
        SubPackage(
            name=f"{stem}-devel",
            summary=f"Headers and link libraries of {libs.name}",
            description=f"{allocator.text}\nTo build with it: -I{top}/include -L{top}/lib.",
            entries=_documents(entries, top),
            requires=(f"{libs.name} = {version}",),
        ),
    )


def allocator_top(name: str, what: str) -> str:
    """Return the folder of the packages of a product's allocator."""
    return f"/opt/{name}-{what}"


def _is_runtime(path: str) -> bool:
    """Return whether programs need it when they run: libraries with a version, and documentation.

    Headers, archives, programs, and what linkers look for are not.
    """
    folder, _, name = path.partition("/")
    return path.startswith("share/doc/") or (folder == "lib" and ".so." in name and "/" not in name)


def _documents(entries: Iterable[Entry], top: str) -> tuple[Entry, ...]:
    """Return the entries, with documentation and licences marked."""
    folders = (f"{top}/share/doc/", f"{top}/share/man/")
    found = []
    for entry in entries:
        document = entry.kind == "file" and entry.path.startswith(folders)
        licence = document and LICENCE.fullmatch(posixpath.basename(entry.path)) is not None
        found.append(replace(entry, doc=document and not licence, licence=licence))
    return tuple(found)
