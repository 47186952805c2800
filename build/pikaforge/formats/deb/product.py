"""The product's DEB, and the DEB of its debug information.

`product_package` decides paths, modes, configuration files, units and what the scripts do, for RPM and DEB alike. Here
they get Debian's names, versions, dependencies and documents, and scripts that call the common ones with the count of
packages that rpm would give them. dpkg keeps one package of a name, so models need no conflicts; the version's
revision and the provided names say which model and target it is for.

dpkg asks on a terminal whether an upgrade keeps an edited configuration file. Without a terminal, `dpkg
--force-confold`, or apt's `-o Dpkg::Options::=--force-confold`, keeps it, and the new one is beside it as
CONF.dpkg-dist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pikaforge.audit.judge_linkage import highest
from pikaforge.formats.deb.control_files import (
    SECTION,
    BinaryPackage,
    Deb,
    DebBuild,
    Script,
    legal_name,
    legal_version,
)
from pikaforge.formats.deb.copyright import NO_LICENCES, Licences, copyright_text
from pikaforge.formats.debuginfo import BUILD_IDS
from pikaforge.formats.layout import Entry, PackingError
from pikaforge.formats.product_package import DOCS, Moment, ProductPackage, assemble
from pikaforge.formats.templates import render
from pikaforge.formats.versions import legal_release
from pikaforge.formats.versions import legal_version as rpm_version
from pikaforge.host.text import filled

USER_TOOLS = ("passwd",)
"""useradd, where systemd-sysusers is not."""
OTHER_SECTION = "misc"
"""Of libraries and tools."""
MAINTAINER_SCRIPTS = Path(__file__).resolve().parent
OVERRIDES = "/usr/share/lintian/overrides"
SCRIPTS: Mapping[Script, Moment] = {
    "preinst": "pre",
    "postinst": "post",
    "prerm": "preun",
    "postrm": "postun",
}
"""Scripts of a DEB, and the common script that does their work."""
SHEBANG = "#!/bin/sh\n"
COMMON = "#@COMMON@\n"

LIBRARIES = {
    "libc6": ("ld-linux-x86-64", "libc", "libm", "libpthread", "libdl", "librt", "libresolv", "libutil"),
    "libstdc++6": ("libstdc++",),
    "libgcc-s1": ("libgcc_s",),
}
"""Packages of the base system, each with its libraries without `.so.N`: in Debian since 11, in Ubuntu since 20.04
(libgcc_s.so.1 was in libgcc1 before)."""
SONAMES = {stem: package for package, stems in LIBRARIES.items() for stem in stems}
OLDEST = "4.1.1"
SINCE: Mapping[str, Mapping[str, str]] = {
    "GLIBCXX": {
        **dict.fromkeys(("3.4", *(f"3.4.{number}" for number in range(1, 9))), OLDEST),
        "3.4.9": "4.2.1",
        "3.4.10": "4.3",
        **dict.fromkeys(("3.4.11", "3.4.12"), "4.4"),
        "3.4.13": "4.4.2",
        "3.4.14": "4.5",
        **dict.fromkeys(("3.4.15", "3.4.16"), "4.6"),
        "3.4.17": "4.7",
        **dict.fromkeys(("3.4.18", "3.4.19"), "4.8"),
        "3.4.20": "4.9",
        "3.4.21": "5.2",
        "3.4.22": "6",
        "3.4.23": "10.2",
        "3.4.24": "7",
        "3.4.25": "8",
        "3.4.26": "9",
        "3.4.27": "9.1",
        "3.4.28": "10.2",
        "3.4.29": "11",
        "3.4.30": "12",
        "3.4.31": "13",
        "3.4.32": "13.1",
        "3.4.33": "14",
    },
    "CXXABI": {
        **dict.fromkeys(("1.3", "1.3.1"), OLDEST),
        **dict.fromkeys((f"1.3.{number}" for number in range(2, 9)), "4.3"),
        "1.3.9": "5",
        "1.3.10": "6",
        "1.3.11": "10.2",
        "1.3.12": "9",
        "1.3.13": "11",
        "1.3.14": "13",
        "1.3.15": "14",
    },
    "CXXABI_TM": {"1": "4.7"},
}
"""The first package version with each version of libstdc++'s symbols. Source: the symbols files that Debian 12 and 13
install with libstdc++6 (/var/lib/dpkg/info/libstdc++6:amd64.symbols), which dpkg-shlibdeps reads, too. Where a version
is higher than in the compiler's history (3.4.23), some symbol of that version came later."""


# --- what it needs


def depends(versions: Mapping[str, Sequence[str]], programs: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the packages of the base system that programs and libraries need: `libc6 (>= 2.34)`.

    Args:
        versions: `library_versions` of the audit.
        programs: other packages that the product needs at run time.

    Raises:
        PackingError: no package is known for a library, or for a version of its symbols.
    """
    found: dict[str, set[str]] = {}
    for soname, names in versions.items():
        package = SONAMES.get(soname.partition(".so")[0])
        if package is None:
            raise PackingError(
                f"no Debian package is known that has {soname}",
                hint="bundle it, or add its package to LIBRARIES in formats/deb/product.py",
            )
        top = highest(names)
        found.setdefault(package, set()).update(since(soname, *item) for item in top.items())
    lines = {f"{name} (>= {max(numbers, key=_number)})" if numbers else name for name, numbers in found.items()}
    return tuple(sorted({*lines, *programs}))


def since(soname: str, namespace: str, number: str) -> str:
    """Return the first package version that has a version of a library's symbols.

    Raises:
        PackingError: none is known.
    """
    if namespace == "GLIBC":
        return number
    if namespace == "GCC":
        return re.sub(r"(\.0)+$", "", number)  # GCC_12.0.0 came with 12, whose first package is 12-20220428-1
    version = SINCE.get(namespace, {}).get(number)
    if version is None:
        raise PackingError(
            f"{soname} must have {namespace}_{number}, and no version of its Debian package is known to have that",
            hint="add it to SINCE in formats/deb/product.py, from the symbols file of a system that has it",
        )
    return version


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


# --- the product


def product(
    package: ProductPackage,
    *,
    depends: Sequence[str],
    licences: Licences = NO_LICENCES,
    section: str = SECTION,
) -> DebBuild:
    """Return the product's DEB and, if there is debug information, that one's.

    Args:
        package: what is packed.
        depends: `depends` of the audit's facts.
        licences: `licences` of the tree.
        section: of Debian's archive (Debian Policy 2.4).

    Raises:
        PackingError: something cannot be written into a package, or the tree lacks what the package must have.
    """
    about, base = package.about, package.about.name
    name = legal_name(base, package.variant)
    version = legal_version(rpm_version(about.version), legal_release(about.release, package.model, about.dist))
    made = assemble(package, name)
    documents = (
        Entry(path=f"{DOCS}/{name}/copyright", source="made/doc/copyright", doc=True),
        Entry(path=f"{DOCS}/{name}/changelog.Debian.gz", source=f"zipped/{name}/changelog.gz", doc=True),
        Entry(path=f"{OVERRIDES}/{name}", source="made/lintian/overrides"),
    )
    built_for = (legal_name(base, "model", package.model), legal_name(base, "target", package.target))
    packages = [
        BinaryPackage(
            name=name,
            summary=about.summary,
            description=package.description,
            entries=(*made.entries, *documents),
            section=section if package.server else OTHER_SECTION,
            depends=(*depends, *(USER_TOOLS if package.server else ())),
            provides=(*built_for, *_stands_for(package, version)),
            conflicts=(legal_name(base),) if package.variant else (),
            scripts=_scripts(made.scripts, base),
        )
    ]
    if package.debug:
        packages.append(_debug_package(package, name, version))
    text = copyright_text(base, licence=about.licence, url=about.url, top=package.top, licences=licences)
    return DebBuild(
        deb=Deb(
            source=legal_name(base),
            version=version,
            dist=about.dist,
            packages=tuple(packages),
            changes=package.changes,
            maintainer=about.maintainer,
            homepage=about.url,
        ),
        extra={
            **made.files,
            "doc/copyright": text.encode(),
            "lintian/overrides": _overrides(package, name, units="post" in made.scripts).encode(),
        },
    )


def _overrides(package: ProductPackage, name: str, *, units: bool) -> str:
    """Return what lintian says of a good package, with the reasons."""
    return render("deb/lintian-overrides.jinja", name=name, conf=bool(package.conf), units=units)


def _stands_for(package: ProductPackage, version: str, suffix: str = "") -> tuple[str, ...]:
    """Return the plain package for a variant to provide, so that variants also conflict with each other."""
    return (f"{legal_name(package.about.name, suffix)} (= {version})",) if package.variant else ()


def _debug_package(package: ProductPackage, name: str, version: str) -> BinaryPackage:
    base = package.about.name
    build_ids = sorted(
        entry.path.removeprefix(f"{BUILD_IDS}/").removesuffix(".debug").replace("/", "")
        for entry in package.debug
        if entry.kind == "link" and entry.path.startswith(f"{BUILD_IDS}/")
    )
    own = legal_name(name, "dbgsym")
    return BinaryPackage(
        name=own,
        summary=f"Debug information for {name}",
        description=f"For debuggers and profilers; it fits {name} of the same version only.",
        entries=(*package.debug, Entry(path=f"{DOCS}/{own}", kind="link", target=name, mode=0o777)),
        section="debug",
        depends=(f"{name} (= {version})",),
        provides=_stands_for(package, version, "dbgsym"),
        conflicts=(legal_name(base, "dbgsym"),) if package.variant else (),
        fields={
            "Auto-Built-Package": "debug-symbols",
            **({"Build-Ids": " ".join(build_ids)} if build_ids else {}),
        },
    )


def _scripts(common: Mapping[Moment, str], base: str) -> dict[Script, str]:
    """Return the scripts of the DEB that have a common one."""
    return {script: _script(script, common[moment], base) for script, moment in SCRIPTS.items() if moment in common}


def _script(script: Script, common: str, base: str) -> str:
    """Return a script of the DEB: what dpkg's arguments mean, and then the common script."""
    text = filled(MAINTAINER_SCRIPTS / f"deb-{script}.sh", {"PRODUCT": base})
    if not common.startswith(SHEBANG) or text.count(COMMON) != 1:
        raise PackingError(f"the script {script} is not as expected", hint=f"see formats/deb/deb-{script}.sh")
    return text.replace(COMMON, common.removeprefix(SHEBANG))
