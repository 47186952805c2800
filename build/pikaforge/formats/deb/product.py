"""What this house's DEBs are: the product's RPM told to dpkg, with its debug information's.

`house.product` decides paths, modes, confs, units and what the scripts do; here it gets Debian's names, versions,
dependencies, documents, and scripts that call the RPM's with the count of packages that rpm would give them. All
models' packages have the same name as there: dpkg keeps one package of a name, so models need no conflicts; the
version's revision and the provided names tell model and target.

An upgrade keeps an edited conf where nobody can be asked by `dpkg --force-confold`, or by apt's
`-o Dpkg::Options::=--force-confold`; the new one is then beside it as CONF.dpkg-dist. On a terminal dpkg asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pikaforge.audit.judge_linkage import highest
from pikaforge.formats.deb.control_files import (
    MAINTAINER,
    SECTION,
    BinaryPackage,
    Deb,
    DebBuild,
    Script,
    indented,
    legal_name,
    legal_version,
    one_line,
)
from pikaforge.formats.debuginfo import BUILD_IDS
from pikaforge.formats.layout import LICENCE, Entry, PackingError
from pikaforge.formats.rpm import product as house
from pikaforge.formats.rpm import spec_file
from pikaforge.formats.rpm.product import ProductRpm
from pikaforge.host.archives import tar_entries

MAINTAINER_SCRIPTS = Path(__file__).resolve().parent
DOCS = "/usr/share/doc"
NOTICE = re.compile(r"\W*(copyright|\(c\)|©).*[0-9]{4}", re.IGNORECASE)
"""A line of a licence that tells whose the work is."""
SCRIPTS: Mapping[Script, spec_file.Section] = {
    "preinst": "pre",
    "postinst": "post",
    "prerm": "preun",
    "postrm": "postun",
}
"""Scripts of a DEB, and the scriptlet that does their work."""
SHEBANG = "#!/bin/sh\n"
COMMON = "#@COMMON@\n"

LIBRARIES = {
    "libc6": ("ld-linux-x86-64", "libc", "libm", "libpthread", "libdl", "librt", "libresolv", "libutil"),
    "libstdc++6": ("libstdc++",),
    "libgcc-s1": ("libgcc_s",),
}
"""Packages of the base system by the libraries that they bring, without `.so.N`; in Debian since 11, in Ubuntu since
20.04 (libgcc_s.so.1 was in libgcc1 before)."""
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
"""By version of libstdc++'s symbols the package version that has it: the symbols files that Debian 12 and 13 install
with libstdc++6 (/var/lib/dpkg/info/libstdc++6:amd64.symbols), which dpkg-shlibdeps reads, too. Where they are higher
than the compiler's history (3.4.23), Debian wants more of the symbols than their version says."""


# --- what it needs


def depends(versions: Mapping[str, Sequence[str]], programs: Iterable[str] = ()) -> tuple[str, ...]:
    """What programs and libraries need of the base system, as packages: `libc6 (>= 2.34)`.

    Args:
        versions: `linkage.library_versions`, of the audit's facts.
        programs: more packages, those that the product asks for at run time.

    Raises:
        PackingError: a library, or a version of one, is in no package that is known here.
    """
    found: dict[str, set[str]] = {}
    for soname, names in versions.items():
        package = SONAMES.get(soname.partition(".so")[0])
        if package is None:
            raise PackingError(
                f"no Debian package is known that brings {soname}",
                hint="bundle it, or add its package to LIBRARIES in packing/debian.py",
            )
        top = highest(names)
        found.setdefault(package, set()).update(since(soname, *item) for item in top.items())
    lines = {f"{name} (>= {max(numbers, key=_number)})" if numbers else name for name, numbers in found.items()}
    return tuple(sorted({*lines, *programs}))


def since(soname: str, namespace: str, number: str) -> str:
    """The package version that brought a version of symbols.

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
            f"{soname} must have {namespace}_{number}, and no version of its Debian package is known that has",
            hint="add it to SINCE in packing/debian.py, from the symbols file of a system that has it",
        )
    return version


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


# --- the product


def product(
    wanted: ProductRpm,
    *,
    depends: Sequence[str],
    licences: Mapping[str, str] | None = None,
    maintainer: str = MAINTAINER,
    section: str = SECTION,
) -> DebBuild:
    """The product's DEB and, if there is debug information, that one's.

    Args:
        wanted: as for the RPM; what it requires is not looked at.
        depends: as the function of that name gives it.
        licences: `licence_texts` of the tree.
        maintainer: `NAME <ADDRESS>`.
        section: where package managers list it.

    Raises:
        PackingError: as `house.product`.
    """
    told = house.product(replace(wanted, requires=()))
    base, top = wanted.about.name, f"/opt/{wanted.about.name}"
    main = told.rpm.packages[0]
    name = legal_name(base, wanted.variant)
    version = legal_version(told.rpm.version, told.rpm.release)
    built_for = (legal_name(base, "model", wanted.model), legal_name(base, "target", wanted.target))
    documents = (
        Entry(path=f"{DOCS}/{name}/copyright", source="made/doc/copyright", doc=True),
        Entry(path=f"{DOCS}/{name}/changelog.Debian.gz", source=f"zipped/{name}/changelog.gz", doc=True),
    )
    packages = [
        BinaryPackage(
            name=name,
            summary=main.summary,
            description=main.description,
            entries=(*main.entries, *documents),
            section=section,
            depends=(*depends, "passwd"),  # useradd, where systemd-sysusers is not
            provides=(*built_for, *_stands_for(wanted, version)),
            conflicts=(legal_name(base),) if wanted.variant else (),
            scripts={script: _script(script, main.scripts[SCRIPTS[script]], base) for script in SCRIPTS},
        )
    ]
    if wanted.debug:
        packages.append(_debug_package(wanted, name, version))
    text = copyright_text(base, licence=wanted.about.licence, url=wanted.about.url, top=top, texts=licences or {})
    return DebBuild(
        deb=Deb(
            source=legal_name(base),
            version=version,
            dist=wanted.about.dist,
            packages=tuple(packages),
            changes=wanted.changes,
            maintainer=maintainer,
            homepage=wanted.about.url,
        ),
        extra={**told.extra, "doc/copyright": text.encode()},
    )


def _stands_for(wanted: ProductRpm, version: str, suffix: str = "") -> tuple[str, ...]:
    """A variant provides the plain package, so that variants, too, conflict with each other."""
    return (f"{legal_name(wanted.about.name, suffix)} (= {version})",) if wanted.variant else ()


def _debug_package(wanted: ProductRpm, name: str, version: str) -> BinaryPackage:
    base = wanted.about.name
    build_ids = sorted(
        entry.path.removeprefix(f"{BUILD_IDS}/").removesuffix(".debug").replace("/", "")
        for entry in wanted.debug
        if entry.kind == "link" and entry.path.startswith(f"{BUILD_IDS}/")
    )
    own = legal_name(name, "dbgsym")
    return BinaryPackage(
        name=own,
        summary=f"Debug information for {name}",
        description=f"For debuggers and profilers; it fits {name} of the same version only.",
        entries=(*wanted.debug, Entry(path=f"{DOCS}/{own}", kind="link", target=name, mode=0o777)),
        section="debug",
        depends=(f"{name} (= {version})",),
        provides=_stands_for(wanted, version, "dbgsym"),
        conflicts=(legal_name(base, "dbgsym"),) if wanted.variant else (),
        fields={
            "Auto-Built-Package": "debug-symbols",
            **({"Build-Ids": " ".join(build_ids)} if build_ids else {}),
        },
    )


def _script(script: Script, scriptlet: str, base: str) -> str:
    """A script of the DEB: dpkg's way of calling it, and then the RPM's scriptlet."""
    text = (MAINTAINER_SCRIPTS / f"deb-{script}.sh").read_text(encoding="utf-8").replace("@PRODUCT@", base)
    if not scriptlet.startswith(SHEBANG) or text.count(COMMON) != 1:
        raise PackingError(f"the scriptlet for {script} is not as expected", hint=f"see payload/deb-{script}.sh")
    return text.replace(COMMON, scriptlet.removeprefix(SHEBANG))


# --- documents


def licence_texts(archive: Path | bytes, *, prefix: str) -> dict[str, str]:
    """The licences at the top of a tree, by their path in the package.

    Args:
        archive: as for `tree_entries`.
        prefix: the folder of the package that stands for its top.
    """
    found = {}
    for member in tar_entries(archive):
        name = member.name.removeprefix("./")
        if member.kind == "file" and LICENCE.fullmatch(name):
            found[f"{prefix}/{name}"] = member.read().decode("utf-8", "replace")
    return dict(sorted(found.items()))


def copyright_text(name: str, *, licence: str, url: str, top: str, texts: Mapping[str, str]) -> str:
    """The copyright file, in Debian's machine-readable format 1.0; without texts it says where they are."""
    notices = [line.strip() for text in texts.values() for line in text.splitlines() if NOTICE.match(line)]
    body = [line for path, text in texts.items() for line in (f"{path}:", "", *text.strip().splitlines(), "")]
    if not body:
        body = [f"This package has no text of it: that is in the source, which {top}/manifest.json names."]
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        f"Upstream-Name: {one_line(name)}",
        *([f"Source: {one_line(url)}"] if url else []),
        f"Comment: Libraries in {top}/lib are those of the system on which this was built;",
        f" {top}/manifest.json names their packages, which have licences of their own.",
        "",
        "Files: *",
        f"Copyright: {one_line(notices[0]) if notices else f'the authors of {one_line(name)}'}",
        *indented(dict.fromkeys(notices[1:])),
        f"License: {one_line(licence)}",
        *indented(body),
    ]
    return "\n".join(lines) + "\n"
