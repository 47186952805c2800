"""RPMs of the allocator, for those who want it apart from the product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pikaforge.formats.layout import Entry, PackingError, with_folders
from pikaforge.formats.rpm import spec_file
from pikaforge.formats.rpm.product import About, RpmBuild, others, tells
from pikaforge.formats.rpm.spec_file import ChangelogEntry, RpmSpec, SubPackage


def packages(
    about: About,
    *,
    what: str,
    unwinder: str,
    target: str,
    prefix: tuple[Entry, ...],
    requires: Sequence[str],
    changes_: Sequence[ChangelogEntry],
) -> RpmBuild:
    """Return `NAME-WHAT-libs` and `-devel`, below /opt/NAME-WHAT.

    That is off the loader's path, so that nothing takes them for the distribution's; nor do they have its provides.

    Args:
        about: its name is the product's, its version that of the allocator.
        what: the allocator's name.
        unwinder: how it walks the stack, `libunwind` or `frame-pointers`; "" where that is no question.
        target: the CPU microarchitecture that it was built for.
        prefix: `tree_entries` of the allocator's tree, below `allocator_top(about.name, what)`.
        requires: `needs` of its libraries.
        changes_: the changelog.

    Raises:
        PackingError: there is no library in the tree.
    """
    stem, top = f"{about.name}-{what}", allocator_top(about.name, what)
    facts = {**({"unwinder": unwinder} if unwinder else {}), "target": target}
    entries = with_folders(prefix, below=top)
    files = [entry for entry in entries if entry.kind != "dir"]
    runtime = [entry for entry in files if _is_runtime(entry.path.removeprefix(f"{top}/"))]
    if not any(entry.path.startswith(f"{top}/lib/") for entry in runtime):
        raise PackingError(f"{stem}: the tree has no library lib/*.so.N", hint="see the log of the allocator's build")
    devel = [entry for entry in files if entry not in runtime]
    release = spec_file.legal_release(about.release, *facts.values(), about.dist)
    version = spec_file.legal_version(about.version)
    built = f"{what} {about.version} with {unwinder}" if unwinder else f"{what} {about.version}"
    text = f"{built} for {target}, as {about.name} is built with, below {top}."
    made = [
        SubPackage(
            name=f"{stem}-libs",
            summary=f"Memory allocator of {about.name} as shared libraries",
            description=f"{text}\nTo use it: LD_PRELOAD, or -Wl,-rpath,{top}/lib.",
            entries=_documents(with_folders(runtime, below=top), top),
            requires=tuple(requires),
            provides=tells(stem, **facts),
            conflicts=tuple(line for key, value in facts.items() for line in others(stem, key, value)),
        )
    ]
    if devel:
        parents = [entry for entry in with_folders(devel, below=top) if entry not in made[0].entries]
        made.append(
            SubPackage(
                name=f"{stem}-devel",
                summary=f"Headers and link libraries of {stem}-libs",
                description=f"{text}\nTo build with it: -I{top}/include -L{top}/lib.",
                entries=_documents(parents, top),
                requires=(f"{stem}-libs = {version}-{release}",),
            )
        )
    return RpmBuild(
        rpm=RpmSpec(
            version=version,
            release=release,
            licence=about.licence,
            url=about.url,
            packages=tuple(made),
            profile=about.profile,
            changes=tuple(changes_),
        ),
        extra={},
    )


def allocator_top(name: str, what: str) -> str:
    """Return the folder of the packages of a product's allocator."""
    return f"/opt/{name}-{what}"


def _is_runtime(path: str) -> bool:
    """Libraries with a version, and documentation; not headers, archives, programs, and what linkers look for."""
    folder, _, name = path.partition("/")
    return path.startswith("share/doc/") or (folder == "lib" and ".so." in name and "/" not in name)


def _documents(entries: Iterable[Entry], top: str) -> tuple[Entry, ...]:
    return tuple(
        replace(e, doc=True)
        if e.kind == "file" and e.path.startswith((f"{top}/share/doc/", f"{top}/share/man/"))
        else e
        for e in entries
    )
