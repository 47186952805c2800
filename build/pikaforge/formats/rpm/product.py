"""The product's RPM, and the RPM of its debug information. The allocator's are in `allocator`."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence

from pikaforge.audit.judge_linkage import highest
from pikaforge.formats.debuginfo import LICENSES, own_licences
from pikaforge.formats.layout import LICENCES, Entry
from pikaforge.formats.product_package import DOCS, ProductPackage, assemble
from pikaforge.formats.rpm.spec_file import Profile, RpmBuild, RpmSpec, SubPackage
from pikaforge.formats.versions import legal_release, legal_version

BITS = "(64bit)"
PRE_NEEDS = ("/bin/sh", "coreutils")
POST_NEEDS = ("/bin/sh", "shadow-utils")


def needs(versions: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return what programs and libraries need of the base system, as rpm's elfdeps names what that provides.

    Of each library the highest version of each namespace: `libc.so.6(GLIBC_2.34)(64bit)`. Its lower ones come with
    it. Versions of two libraries are never mixed: libc.so.6 does not define every GLIBC_ version that libm.so.6 does.

    Args:
        versions: `library_versions`.
    """
    found = []
    for soname, names in versions.items():
        top = highest(names)
        kept = [name for name in names if not (own := highest([name])) or own.items() <= top.items()]
        found.append(f"{soname}(){BITS}")
        found += [f"{soname}({name}){BITS}" for name in kept]
    return tuple(sorted(found))


def product(package: ProductPackage, *, requires: Sequence[str], profile: Profile) -> RpmBuild:
    """Return the product's RPM and, if there is debug information, that one's.

    Args:
        package: what is packed.
        requires: `needs` of the audit, and the programs that the product runs.
        profile: what the system's rpm reads.

    Raises:
        PackingError: something cannot be written into a package, or the tree lacks what the package must have.
    """
    about, base = package.about, package.about.name
    name = f"{base}-{package.variant}" if package.variant else base
    made = assemble(package, name)
    facts = {"model": package.model, "target": package.target}
    packages = [
        SubPackage(
            name=name,
            summary=about.summary,
            description=package.description,
            entries=(*made.entries, *_own_folders(made.entries, name, package.top)),
            requires=(*requires, "/bin/sh"),
            requires_pre=PRE_NEEDS,
            requires_post=POST_NEEDS if package.server else (),
            provides=provided_facts(base, **facts),
            conflicts=(*([base] if package.variant else []), *conflicts_with_others(base, "model", package.model)),
            scripts=made.scripts,
        )
    ]
    if package.debug:
        packages.append(
            SubPackage(
                name=f"{name}-debuginfo",
                summary=f"Debug information for {name}",
                description=f"For debuggers and profilers; it fits {name} of the same version and release only.",
                entries=(*package.debug, *own_licences(package.tree, top=package.top, name=base)),
                provides=provided_facts(f"{base}-debuginfo", **facts),
                conflicts=(f"{base}-debuginfo",) if package.variant else (),
            )
        )
    return RpmBuild(
        rpm=RpmSpec(
            version=legal_version(about.version),
            release=legal_release(about.release, package.model, about.dist),
            licence=about.licence,
            url=about.url,
            packages=tuple(packages),
            profile=profile,
            changes=package.changes,
            packager=about.maintainer,
        ),
        extra=made.files,
    )


def _own_folders(entries: Sequence[Entry], name: str, top: str) -> tuple[Entry, ...]:
    """Return the folder of the documents, and the link where rpm's systems look for licences."""
    documents = Entry(path=f"{DOCS}/{name}", kind="dir", mode=0o755)
    licences = f"{top}/{LICENCES}"
    if not any(entry.path == licences for entry in entries):
        return (documents,)
    return (documents, Entry(path=f"{LICENSES}/{name}", kind="link", target=posixpath.relpath(licences, LICENSES)))


def provided_facts(base: str, **facts: str) -> tuple[str, ...]:
    """Return what a package provides to be found by: `NAME(target) = sandybridge`, for `dnf repoquery`.

    `conflicts_with_others` names the same.
    """
    return tuple(f"{base}({key}) = {legal_release(value)}" for key, value in facts.items())


def conflicts_with_others(base: str, key: str, value: str) -> tuple[str, ...]:
    """Return conflicts with every other value.

    They do not keep a package from replacing the other one, which is an upgrade; they make `rpm -i` of a second one
    fail with this line instead of with one for each file.
    """
    legal = legal_release(value)
    return (f"{base}({key}) < {legal}", f"{base}({key}) > {legal}")
