"""RPMs as data, and the spec file that rpmbuild reads. docker/guest/rpm.sh runs rpmbuild.

The one rpm (4.18) of the tools image makes the RPMs of all systems. Systems differ in their `Profile`: how the payload
is compressed, and which rpmlib() features their rpm has. rpm.sh refuses a package that needs another feature.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from pikaforge.config import families
from pikaforge.config.scalars import MAINTAINER
from pikaforge.config.schema import OsRelease
from pikaforge.formats.layout import Entry, PackingError, layout_text
from pikaforge.formats.product_package import MOMENTS, ChangelogEntry, Moment
from pikaforge.formats.templates import render
from pikaforge.formats.text import names, one_line
from pikaforge.formats.versions import VERSION
from pikaforge.host.text import clean

ARCH = "x86_64"
BUILD_HOST = "pikaforge"
"""In the header, instead of the machine's name."""
COLUMNS = 76
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
DEPENDENCY = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9._+~:()/-]*( (<|<=|=|>=|>) ([0-9]+:)?[A-Za-z0-9._+~-]+)?")
"""A capability or file, with or without a version. It cannot begin with `(`: rich dependencies need rpm 4.12."""

COMMON_FEATURES = (
    "CompressedFileNames", "FileCaps", "FileDigests", "PayloadFilesHavePrefix", "PayloadIsXz", "TildeInVersions",
)  # fmt: skip
"""The rpmlib() features that EL7's rpm 4.11 has (its lib/rpmds.c) and that rpm 4.18 may use here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a system's rpm can read."""

    payload: str
    """rpm's `_binary_payload`. Without a `T` flag one thread compresses; the bytes of xz depend on their number."""
    features: tuple[str, ...]
    """Its rpmlib() features."""


OLD = Profile(payload="w6.gzdio", features=COMMON_FEATURES)
"""For any rpm since 4.6. A tree of 45 MB takes 3.8 s and becomes 15.1 MB; xz -2 takes 16 s for 12.4 MB."""
ZSTD = Profile(payload="w9.zstdio", features=(*COMMON_FEATURES, "PayloadIsZstd"))
"""For rpm 4.14 and later, if built with zstd. The same tree takes 2.1 s and becomes 13.8 MB; level 19 takes 34 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubPackage:
    """A binary package of an RPM build."""

    name: str
    summary: str
    description: str
    entries: tuple[Entry, ...]
    requires: tuple[str, ...] = ()
    requires_pre: tuple[str, ...] = ()
    """Needed by %pre."""
    requires_post: tuple[str, ...] = ()
    """Needed by %post."""
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    scripts: Mapping[Moment, str] = field(default_factory=dict)
    auto_requires: bool = False
    auto_provides: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmSpec:
    """The packages of one run of rpmbuild, which have one version and release. The first one names the spec file."""

    version: str
    release: str
    licence: str
    """An SPDX expression."""
    url: str
    packages: tuple[SubPackage, ...]
    profile: Profile
    changes: tuple[ChangelogEntry, ...]
    packager: str = MAINTAINER
    build_host: str = BUILD_HOST


def profile(family: str, os: OsRelease) -> Profile:
    """Return the profile of an image's system.

    Systems of other families do not install RPMs. RPMs for them are for tests and mirrors, and every rpm reads them.
    """
    return ZSTD if families.of(family).reads_zstd(os.version) else OLD


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmBuild:
    """A run of rpm.sh: the packages, and the files that they have beside those of the other inputs."""

    rpm: RpmSpec
    extra: Mapping[str, bytes]
    """The input `made`."""

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the packages, the main one first."""
        return tuple(file_name(self.rpm, package) for package in self.rpm.packages)

    def pack(self) -> dict[str, bytes]:
        """Return the input `pack`."""
        return inputs(self.rpm)


def file_name(rpm: RpmSpec, package: SubPackage) -> str:
    """Return `NAME-VERSION-RELEASE.x86_64.rpm`."""
    return f"{package.name}-{rpm.version}-{rpm.release}.{ARCH}.rpm"


def inputs(rpm: RpmSpec) -> dict[str, bytes]:
    """Return the files of the input `pack` of docker/guest/rpm.sh, by path.

    Raises:
        PackingError: something in the description cannot be written into a package.
    """
    entries = [entry for package in rpm.packages for entry in package.entries]
    texts = {
        "package.spec": spec_text(rpm),
        "layout.tsv": layout_text(entries),
        "names": "".join(f"{file_name(rpm, package)}\n" for package in rpm.packages),
        "features": "".join(f"{name}\n" for name in rpm.profile.features),
    }
    return {name: text.encode() for name, text in texts.items()}


def spec_text(rpm: RpmSpec) -> str:
    """Return the text of a spec file.

    Raises:
        PackingError: a name, version or dependency is not one that rpm takes, or rpm would read a text as syntax.
    """
    for what, text in (("version", rpm.version), ("release", rpm.release)):
        if not VERSION.fullmatch(text):
            raise PackingError(f"{text!r} is no {what} that rpm takes", hint="see formats/versions.py")
    if not rpm.packages or len({p.name for p in rpm.packages}) != len(rpm.packages):
        raise PackingError("a build has packages, each with a name of its own")
    if not NAME.fullmatch(rpm.build_host):
        raise PackingError(f"{rpm.build_host!r} is no name of a host")
    return render(
        "rpm/package.spec.jinja",
        functions={
            "name": _name,
            "tag": tag,
            "dependency": _dependency,
            "paragraph": paragraph,
            "script": script,
            "entries": _entries,
            "marks": _marks,
            "day": _day,
        },
        rpm=rpm,
        build_host=rpm.build_host,
        arch=ARCH,
        moments=MOMENTS,
        changes=sorted(rpm.changes, key=lambda change: -change.epoch),
    )


def _name(package: SubPackage) -> str:
    if not NAME.fullmatch(package.name):
        raise PackingError(f"{package.name!r} is no name of a package", hint="letters, digits and . _ + - only")
    return package.name


def _dependency(package: SubPackage, text: str) -> str:
    if not DEPENDENCY.fullmatch(text):
        raise PackingError(
            f"{package.name}: {text!r} is no dependency that every rpm takes", hint="NAME or NAME OP EVR"
        )
    return text


def _entries(package: SubPackage) -> list[Entry]:
    return sorted(package.entries, key=lambda entry: entry.path)


def _marks(entry: Entry) -> str:
    """Return what stands before a path in %files."""
    # The mode of a link is the system's.
    mode = "-" if entry.kind == "link" else f"{entry.mode:04o}"
    marks = (
        f"%attr({mode}, {entry.owner}, {entry.group})",
        "%dir" if entry.kind == "dir" else "",
        "%config(noreplace)" if entry.config else "",
        "%license" if entry.licence else "",
        "%doc" if entry.doc else "",
    )
    return " ".join(filter(None, marks))


def plain(text: str) -> str:
    """Return a text without control characters other than line ends, its percent signs doubled."""
    return clean(text).replace("%", "%%")


def tag(text: str) -> str:
    """Return the value of a tag: one line, its percent signs doubled.

    Raises:
        PackingError: there is nothing in it.
    """
    return one_line(text).replace("%", "%%")


def paragraph(text: str) -> str:
    """Return a description, filled. Empty lines separate its paragraphs.

    Raises:
        PackingError: a line begins with a percent sign.
    """
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", plain(text).strip()))
    return _no_sections(
        "description", "\n\n".join(textwrap.fill(part, COLUMNS, break_long_words=False) for part in parts)
    )


def script(text: str) -> str:
    """Return a scriptlet that rpmbuild puts into the package unchanged.

    Raises:
        PackingError: a line begins with a percent sign, as sections and conditions do, or has control characters.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if plain(line.replace("\t", " ")) != line.replace("\t", " ").replace("%", "%%"):
            raise PackingError(f"line {number} of a scriptlet holds control characters: {line!r}")
    return _no_sections("scriptlet", text.rstrip("\n").replace("%", "%%"))


def _no_sections(what: str, text: str) -> str:
    """Return a text; raise PackingError if a line begins with a percent sign.

    rpm looks for sections and conditions after it has expanded macros, so doubling the sign does not help.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("%"):
            raise PackingError(
                f"line {number} of a {what} would be read as spec syntax: {line!r}",
                hint="no line may begin with a percent sign",
            )
    return text


def _day(epoch: int) -> str:
    """Return `Mon Nov 02 2020`; `strftime` would use the locale."""
    day = datetime.fromtimestamp(epoch, timezone.utc)
    weekday, month = names(day)
    return f"{weekday} {month} {day.day:02d} {day.year}"
