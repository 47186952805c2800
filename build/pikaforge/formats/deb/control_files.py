"""DEBs as data, and the control files that dpkg-deb reads. docker/guest/deb.sh runs dpkg-deb.

dpkg-deb packs in the tools image, and Python does not pack here: xz and gzip of the image are pinned, while the bytes
that Python writes depend on the libraries of the machine on which the tool runs.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from pikaforge.config.scalars import MAINTAINER
from pikaforge.formats.layout import Entry, PackingError, layout_text
from pikaforge.formats.product_package import ChangelogEntry
from pikaforge.formats.text import names, one_line
from pikaforge.host.text import clean

ARCH = "amd64"
COLUMNS = 76
SECTION = "database"
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
"""Debian Policy 5.6.1."""
VERSION = re.compile(r"[0-9][A-Za-z0-9.+~]*-[A-Za-z0-9.+~]+")
"""Debian Policy 5.6.12, without epochs and with one dash."""
DEPENDENCY = re.compile(rf"{NAME.pattern}( \((<<|<=|=|>=|>>) [0-9][A-Za-z0-9.+~-]*\))?")
PERSON = re.compile(r"[^<>,\n]*[^<>,\s] <[^<>@\s]+@[^<>@\s]+>")
Script = Literal["preinst", "postinst", "prerm", "postrm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryPackage:
    """A binary package."""

    name: str
    summary: str
    description: str
    entries: tuple[Entry, ...]
    section: str = SECTION
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    """They are also replaced, so that apt removes them."""
    scripts: Mapping[Script, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other fields of the control file, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """The packages of one run of deb.sh, which have one version. The first one has the documents."""

    source: str
    """Name of the source in the changelog."""
    version: str
    dist: str
    packages: tuple[BinaryPackage, ...]
    changes: tuple[ChangelogEntry, ...]
    """At least one. They become one entry, because dpkg's changelog has one entry for each version."""
    maintainer: str = MAINTAINER
    homepage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebBuild:
    """A run of deb.sh: the packages, and the files that they have beside those of the other inputs."""

    deb: Deb
    extra: Mapping[str, bytes]
    """The input `made`."""

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the packages, the main one first."""
        return tuple(file_name(self.deb, package) for package in self.deb.packages)

    def pack(self) -> dict[str, bytes]:
        """Return the input `pack`."""
        return inputs(self.deb)


# --- names and versions


def legal_name(*parts: str) -> str:
    """Return a package's name: its parts in lower case, joined by dashes, with dashes for underscores.

    Raises:
        PackingError: the result is no name of a Debian package.
    """
    name = "-".join(part.lower().replace("_", "-") for part in parts if part)
    if not NAME.fullmatch(name):
        raise PackingError(
            f"{name!r} is no name of a Debian package", hint="two or more letters, digits and . + -, not at its start"
        )
    return name


def legal_version(version: str, release: str) -> str:
    """Return a version as dpkg takes it, made of `versions.legal_version` and `legal_release`. The order is the same.

    dpkg knows no underscores: they become two pluses, so that no two models get the same version. A version that does
    not begin with a digit gets `0+` before it, and sorts below all that do.

    Raises:
        PackingError: the result is no version.
    """
    upstream = version if version[:1].isdigit() else f"0+{version}"
    legal = f"{upstream}-{release}".replace("_", "++")
    if not VERSION.fullmatch(legal):
        raise PackingError(f"{legal!r} is no version that dpkg takes", hint="see formats/versions.py")
    return legal


def file_name(deb: Deb, package: BinaryPackage) -> str:
    """Return `NAME_VERSION_amd64.deb`."""
    return f"{package.name}_{deb.version}_{ARCH}.deb"


# --- what deb.sh reads


def changelog_text(deb: Deb) -> str:
    """Return the changelog: one entry with the newest change first. Its date is in UTC.

    Raises:
        PackingError: there is no change, or the maintainer is not `NAME <ADDRESS>`.
    """
    if not deb.changes:
        raise PackingError(f"{deb.source}: the changelog is empty", hint="see product_package.changes")
    changes = sorted(deb.changes, key=lambda change: -change.epoch)
    lines = [f"{deb.source} ({deb.version}) {deb.dist}; urgency=medium", ""]
    for line in (line for change in changes for line in change.lines):
        lines += textwrap.wrap(
            one_line(line),
            COLUMNS,
            initial_indent="  * ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    lines += ["", f" -- {_person(deb)}  {_moment(changes[0].epoch)}"]
    return "\n".join(lines) + "\n"


def _person(deb: Deb) -> str:
    if not PERSON.fullmatch(deb.maintainer):
        raise PackingError(f"{deb.maintainer!r} is no maintainer", hint="NAME <ADDRESS>")
    return deb.maintainer


def _moment(epoch: int) -> str:
    """Return `Mon, 02 Nov 2020 12:00:00 +0000`; `strftime` would use the locale."""
    moment = datetime.fromtimestamp(epoch, timezone.utc)
    weekday, month = names(moment)
    return f"{weekday}, {moment.day:02d} {month} {moment.year} {moment:%H:%M:%S} +0000"


def inputs(deb: Deb) -> dict[str, bytes]:
    """Return the files of the input `pack` of docker/guest/deb.sh, by path.

    Raises:
        PackingError: something in the description cannot be written into a package.
    """
    if not deb.packages or len({package.name for package in deb.packages}) != len(deb.packages):
        raise PackingError("a build has packages, each with a name of its own")
    texts = {"names": "".join(f"{package.name}\t{file_name(deb, package)}\n" for package in deb.packages)}
    for package in deb.packages:
        for entry in package.entries:
            if (entry.owner, entry.group) != ("root", "root"):
                raise PackingError(f"{entry.path}: all of a DEB is root's", hint="change the owner in the postinst")
        files = sorted((entry for entry in package.entries if entry.kind == "file"), key=lambda entry: entry.path)
        texts[f"{package.name}/control"] = control_text(deb, package)
        texts[f"{package.name}/layout.tsv"] = layout_text(package.entries)
        # As debhelper does it: dpkg itself keeps the sums of configuration files.
        texts[f"{package.name}/summed"] = "".join(f"{entry.path[1:]}\n" for entry in files if not entry.config)
        if any(entry.config for entry in files):
            texts[f"{package.name}/conffiles"] = "".join(f"{entry.path}\n" for entry in files if entry.config)
        texts |= {f"{package.name}/{script}": text for script, text in package.scripts.items()}
    texts[f"{deb.packages[0].name}/changelog"] = changelog_text(deb)
    return {name: text.encode() for name, text in texts.items()}


def control_text(deb: Deb, package: BinaryPackage) -> str:
    """Return the control file. deb.sh fills in Installed-Size.

    Raises:
        PackingError: a name, version or relation is not one that dpkg takes, or a value is empty.
    """
    if legal_name(package.name) != package.name:
        raise PackingError(f"{package.name!r} is no name of a Debian package", hint="see legal_name")
    if not VERSION.fullmatch(deb.version):
        raise PackingError(f"{deb.version!r} is no version that dpkg takes", hint="see legal_version")
    fields = {
        "Package": package.name,
        "Source": deb.source if deb.source != package.name else "",
        "Version": deb.version,
        "Architecture": ARCH,
        "Maintainer": _person(deb),
        "Installed-Size": "0",
        "Depends": _relation(package, package.depends),
        "Provides": _relation(package, package.provides),
        "Conflicts": _relation(package, package.conflicts),
        "Replaces": _relation(package, package.conflicts),
        "Section": one_line(package.section),
        "Priority": "optional",
        "Homepage": one_line(deb.homepage) if deb.homepage else "",
        **{name: one_line(value) for name, value in package.fields.items()},
        "Description": one_line(package.summary),
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    return "\n".join([*lines, *indented(_filled(package.description))]) + "\n"


def _relation(package: BinaryPackage, texts: Iterable[str]) -> str:
    for text in texts:
        if not DEPENDENCY.fullmatch(text):
            raise PackingError(f"{package.name}: {text!r} is no relation", hint="NAME or NAME (OP VERSION)")
    return ", ".join(texts)


def _filled(text: str) -> list[str]:
    """Return the lines of a description, filled; empty lines separate its paragraphs."""
    lines: list[str] = []
    for part in re.split(r"\n\s*\n", clean(text).strip()):
        words = " ".join(part.split())
        lines += ["", *textwrap.wrap(words, COLUMNS, break_long_words=False, break_on_hyphens=False)]
    return lines[1:]


def indented(lines: Iterable[str]) -> list[str]:
    """Return the further lines of a field (Debian Policy 5.1, 5.6.13).

    A dot stands for an empty line. A second blank before a line that begins with a dot keeps that from being read so.
    """
    found = []
    for line in map(str.rstrip, map(clean, lines)):
        if not line:
            found.append(" .")
        else:
            found.append(f"  {line}" if line.startswith(".") else f" {line}")
    while found and found[-1] == " .":
        found.pop()
    return found
