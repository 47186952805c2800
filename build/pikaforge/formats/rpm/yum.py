"""Metadata of a yum repository, made by createrepo_c's library.

What the metadata before says of packages is taken from there, letter by letter, and their files are not needed: so a
repository on a server is updated like one in a folder. Nothing depends on a clock or on who makes it: the same packages
and revision give the same bytes.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from xml.parsers import expat

from pikaforge.errors import PublishError
from pikaforge.formats.rpm.rpm_file import RpmError, read_rpm
from pikaforge.host import extras
from pikaforge.host.disk import refuse_full
from pikaforge.host.leftovers import temporary_folder

FOLDER = "repodata"
POINTER = f"{FOLDER}/repomd.xml"
NAMESPACE = "{http://linux.duke.edu/metadata/repo}"
KINDS = ("primary", "filelists", "other")
QUOTES = {"&quot;": '"', "&apos;": "'"}
RPM_SETTINGS = Path("/usr/lib/rpm/rpmrc")


LIMIT = 1 << 30
"""Bytes of a metadata file, unpacked. A package takes some 1 kB of the largest one."""
OPENING, OPENED, CLOSED = "<package", re.compile(r"<package[\s/>]", re.ASCII), "</package>"
TOGETHER = 256
"""Packages that the library writes in one call."""
HREF = re.compile(r'<location [^>]*?href="([^"]*)"')
CHECKSUM = re.compile(r'<checksum [^>]*?pkgid="YES"[^>]*>([^<]*)<')
PACKAGE_ID = re.compile(r'<package [^>]*?pkgid="([^"]*)"')

Entry = Mapping[str, str]
"""What each of the three files has of a package, by their kinds."""


def library() -> ModuleType:
    """Import createrepo_c. It complains if rpm's settings are not on this machine, so it gets empty ones then.

    Raises:
        HostError: it is missing, or cannot be loaded.
    """
    if not RPM_SETTINGS.exists() and "RPM_CONFIGDIR" not in os.environ:
        with temporary_folder("rpm") as folder:
            for name in ("rpmrc", "macros"):
                (Path(folder) / name).touch()
            os.environ["RPM_CONFIGDIR"] = str(folder)
            try:
                return _import()
            finally:
                del os.environ["RPM_CONFIGDIR"]
    return _import()


def _import() -> ModuleType:
    module: ModuleType = extras.load("createrepo_c", package="createrepo_c", extra="publish")
    return module


def digests(repomd: bytes) -> dict[str, str]:
    """Return the digests that a repomd.xml names, by path.

    Raises:
        ValueError: it cannot be read, or names none.
    """
    from xml.etree import ElementTree  # noqa: PLC0415  # only publications read metadata

    if b"<!" in repomd:  # there is no need for entities, which can be bombs
        raise ValueError("it has a document type or a comment")
    try:
        tree = ElementTree.fromstring(repomd)  # noqa: S314  # without entities
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from error
    found = {}
    for data in tree.iterfind(f"{NAMESPACE}data"):
        location, checksum = data.find(f"{NAMESPACE}location"), data.find(f"{NAMESPACE}checksum")
        if location is not None and checksum is not None and checksum.get("type") == "sha256":
            found[location.get("href", "")] = checksum.text or ""
    if not found:
        raise ValueError("it names no digests")
    return found


def metadata(
    packages: Mapping[str, Path | None], before: Mapping[str, bytes], *, revision: int
) -> tuple[dict[str, bytes], bytes]:
    """Return the metadata of a repository.

    Args:
        packages: by location relative to the folder with repodata/: the RPM, or None where the metadata before knows
            it.
        before: metadata files before, by name as repomd.xml has them; empty if there are none.
        revision: seconds since 1970 that all of it is dated.

    Returns:
        The files of repodata/ that are called after their digests, by name; and repomd.xml.

    Raises:
        PublishError: an RPM cannot be read, or the metadata before does not know a package that it should.
        FullDiskError: there is no room for temporary files.
        HostError: see `library`.
    """
    cr = library()
    with temporary_folder("yum") as folder, _write_errors(cr, folder):
        known = _known(before, {name for name, path in packages.items() if path is None})
        for name, path in packages.items():
            if path is not None:
                known[name] = _read(cr, name, path)
        return _write(cr, [known[name] for name in sorted(packages)], Path(folder), revision)


def _known(before: Mapping[str, bytes], wanted: Collection[str]) -> dict[str, Entry]:
    """Return what the metadata before says of packages, by location."""
    if not wanted:
        return {}
    from xml.sax.saxutils import unescape  # noqa: PLC0415  # it imports a client of HTTP

    parts = {kind: _entries(before, kind) for kind in KINDS}
    by_id = {kind: dict(zip(_all_found(PACKAGE_ID, parts[kind], kind), parts[kind], strict=True)) for kind in KINDS[1:]}
    filelists, other = (by_id[kind] for kind in KINDS[1:])
    names, ids = (_all_found(pattern, parts["primary"], "primary") for pattern in (HREF, CHECKSUM))
    found: dict[str, Entry] = {}
    for name, id_, part in zip(names, ids, parts["primary"], strict=True):
        location = unescape(name, QUOTES) if "&" in name else name
        if location in wanted and id_ in filelists and id_ in other:
            found[location] = {"primary": part, "filelists": filelists[id_], "other": other[id_]}
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise PublishError(f"the metadata does not know {missing[0]}, which it should name", where=FOLDER)
    return found


def _entries(before: Mapping[str, bytes], kind: str) -> list[str]:
    """Return what a metadata file has of each package.

    It is well-formed XML without comments, sections of text and instructions, and no package is in another one. So an
    entry that is written into other metadata is an entry there, whoever wrote it.

    Raises:
        PublishError: it is not, or there is no such file.
    """
    name = next((name for name in before if f"-{kind}.xml." in name), None)
    if name is None:
        raise PublishError(
            f"the metadata has no {kind}", where=FOLDER, hint="is the repository damaged? begin with a new root"
        )
    try:
        unpacker = zlib.decompressobj(wbits=31)
        data = unpacker.decompress(before[name], LIMIT)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("it is too large, or incomplete")
        text = data.decode()
        _plain_parser().Parse(data, True)
    except (zlib.error, expat.ExpatError, ValueError) as error:
        raise PublishError(f"the metadata cannot be read: {error}", where=f"{FOLDER}/{name}") from error
    parts = text.split(CLOSED)[:-1]  # a pattern for whole entries would take ten times as long
    if len(parts) != len(OPENED.findall(text)) or not all(map(OPENED.search, parts)):
        raise PublishError("the metadata has a package in a package", where=f"{FOLDER}/{name}")
    return [f"{part[part.index(OPENING) :]}{CLOSED}\n" for part in parts]


def _plain_parser() -> expat.XMLParserType:
    """Return a parser that raises ValueError at a document type, a comment, a section of text or an instruction.

    Expat finds them on its way, so that the text need not be searched for them.
    """

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type, a comment or an instruction")

    # Of another encoding than the one in which the entries are searched, it could have other tags.
    parser = expat.ParserCreate("UTF-8")
    parser.StartDoctypeDeclHandler = parser.CommentHandler = refuse
    parser.StartCdataSectionHandler = parser.ProcessingInstructionHandler = refuse
    return parser


def _all_found(pattern: re.Pattern[str], entries: Sequence[str], kind: str) -> list[str]:
    """Return what a pattern finds first in each entry."""
    found = [match[1] for match in map(pattern.search, entries) if match is not None]
    if len(found) != len(entries):
        raise PublishError(f"the metadata cannot be read: {kind} has a package without a name", where=FOLDER)
    return found


def _read(cr: ModuleType, name: str, path: Path) -> Entry:
    """Return what an RPM's headers say."""
    try:
        read_rpm(path)  # a file that is none is not given to a library in C
        package = cr.package_from_rpm(str(path), location_href=name, changelog_limit=10)
        package.time_file = package.time_build  # the file's own time differs from copy to copy
        dumps = {"primary": cr.xml_dump_primary, "filelists": cr.xml_dump_filelists, "other": cr.xml_dump_other}
        return {kind: dumps[kind](package) for kind in KINDS}
    except RpmError as error:
        raise PublishError(error.message, where=str(path)) from error
    except (cr.CreaterepoCError, OSError) as error:
        raise PublishError(f"createrepo_c cannot read it: {error}", where=str(path)) from error


@contextmanager
def _write_errors(cr: ModuleType, folder: Path) -> Iterator[None]:
    """Raise this tool's errors for those of createrepo_c, which says of a full disk that an operation has failed."""
    try:
        yield
    except cr.CreaterepoCError as error:
        refuse_full(folder)
        raise PublishError(f"createrepo_c cannot write the metadata: {error}", where=FOLDER) from error


def _write(cr: ModuleType, packages: Sequence[Entry], folder: Path, revision: int) -> tuple[dict[str, bytes], bytes]:
    """Return the metadata of packages: files by name, and repomd.xml.

    They are compressed by gzip, because yum of EL7 reads nothing newer. There are no databases: yum makes its own, and
    dnf wants none.
    """
    makers = {"primary": cr.PrimaryXmlFile, "filelists": cr.FilelistsXmlFile, "other": cr.OtherXmlFile}
    repomd = cr.Repomd()
    repomd.set_revision(str(revision))
    files: dict[str, bytes] = {}
    for kind in KINDS:
        path = folder / f"{kind}.xml.gz"
        stat = cr.ContentStat(cr.SHA256)
        xml = makers[kind](str(path), cr.GZ_COMPRESSION, stat)
        xml.set_num_of_pkgs(len(packages))
        for start in range(0, len(packages), TOGETHER):  # each call passes through the compressor and a digest
            xml.add_chunk("".join([package[kind] for package in packages[start : start + TOGETHER]]))
        xml.close()
        record = cr.RepomdRecord(kind, str(path))
        record.load_contentstat(stat)
        record.fill(cr.SHA256)
        record.timestamp = revision
        record.rename_file()
        renamed = Path(record.location_real)
        files[renamed.name] = renamed.read_bytes()
        repomd.set_record(record)
    return files, repomd.xml_dump().encode()
