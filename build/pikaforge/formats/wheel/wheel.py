"""The wheel of a package: its tree, and a command that runs it or puts it on a host (`runtime/`).

    MODULE/cli.py and other modules         the command, the same for every product
    MODULE/about.json                       facts about the server, for the command
    MODULE/tree/                            the files of the tarball, byte for byte
    NAME-VERSION.dist-info/                 METADATA WHEEL entry_points.txt RECORD
    NAME-VERSION.dist-info/licenses/        copies of what the tree has in licenses/

Sources: layout, WHEEL and RECORD follow the binary distribution format (PEP 427), the platform tag PEP 600, the version
PEP 440, METADATA the core metadata specification 2.4, licences PEP 639, and the console script the entry points
specification.

A wheel has no links: pip writes a link's text into a plain file. So the wheel has a copy of the file that a symbolic
link leads to, and `about.json` lists the link; `deploy` makes it again.

The same tarball gives the same bytes with any clock, umask, time zone and user. Python's zlib makes the compressed
data: a host with zlib-ng instead of zlib gets other bytes with the same contents.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import posixpath
import stat
import textwrap
import zipfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from pikaforge.config.licences import NOASSERTION
from pikaforge.config.product import Product
from pikaforge.formats.layout import LICENCES, PATH, PackingError
from pikaforge.formats.manifest import MANIFEST, Manifest, read_manifest
from pikaforge.formats.payload import GATE
from pikaforge.formats.templates import render
from pikaforge.formats.wheel.platform_tags import platform_tags
from pikaforge.formats.wheel.wheel_version import ARCH, command_name, distribution, module, version_of
from pikaforge.host.archives import TarEntry, tar_entries
from pikaforge.host.durable import write_atomically
from pikaforge.operate.product_sh import highest_port
from pikaforge.operate.scripts import DEPLOY, SETTINGS

COMMAND = Path(__file__).resolve().parent / "runtime"
GENERATOR = "pikaforge"
"""Without the tool's version, so that another version makes the same bytes."""
PYTHON_TAG = "py3-none"
REQUIRES_PYTHON = ">=3.6"
NEEDED = (GATE, "utils/cpu-features", MANIFEST)
"""Files that every command needs."""
NOT_BEFORE = int(datetime(1980, 1, 1, tzinfo=timezone.utc).timestamp())
NOT_AFTER = int(datetime(2107, 12, 31, 23, 59, 58, tzinfo=timezone.utc).timestamp())
"""The times that a zip archive can hold (APPNOTE.TXT 4.4.6)."""
UNIX = 3
LEVEL = 6
"""Level 9 makes the sample tree of 6 MB smaller by 0.6 % in twice the time."""
COLUMNS = 88
LINKS_LIMIT = 40
"""Links that lead to links; the kernel's limit (path_resolution(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageTree:
    """The files of a package, by path below its top folder."""

    files: Mapping[str, bytes]
    """A link has the bytes of the file that it leads to."""
    executable: frozenset[str]
    links: Mapping[str, str] = field(default_factory=dict)
    """Targets of symbolic links, by path."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the package.

        Raises:
            AuditError: it is no manifest.
        """
        return read_manifest(self.files[MANIFEST], where="the package")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel that is not yet written."""

    name: str
    content: bytes


def file_name(manifest: Manifest, product: Product, variant: str = "") -> str:
    """Return `PRODUCT_server-3.4.0+r620.debian12-py3-none-manylinux_2_35_x86_64.whl`.

    Raises:
        PackingError: the version cannot be a wheel's, or there was no audit.
    """
    return f"{_file_stem(manifest, product, variant)}-{PYTHON_TAG}-{'.'.join(_tags(manifest))}.whl"


def _file_stem(manifest: Manifest, product: Product, variant: str) -> str:
    name = distribution(product).replace("-", "_")
    return f"{name}-{version_of(manifest, variant, product.release)}"


def _symbol_versions(manifest: Manifest) -> Mapping[str, str]:
    """Return the audit's symbol versions; raise PackingError without an audit, because then no tag would be right."""
    if manifest.audit.symbol_versions is None:
        raise PackingError("the manifest has no audit, so it is not known which hosts the wheel is for")
    return manifest.audit.symbol_versions


def _tags(manifest: Manifest) -> tuple[str, ...]:
    return platform_tags(_symbol_versions(manifest), manifest.audit.system_libraries)


def read_tree(*archives: Path | bytes, top: str = "") -> PackageTree:
    """Read the files that are packed.

    Args:
        archives: tar archives, compressed or not; if two have a file, the later one counts. Either the inputs of the
            tarball (the compile stage's tree, and the files that are added to it), or the tarball.
        top: the folder of the archives that all members are below; empty if there is none.

    Raises:
        AuditError: an archive cannot be read.
        PackingError: a member cannot be in a wheel.
    """
    files: dict[str, bytes] = {}
    executable: set[str] = set()
    links: dict[str, str] = {}
    for archive in archives:
        where = str(archive) if isinstance(archive, Path) else "the files that are added to the tree"
        for member in tar_entries(archive, where=where):
            if (path := _path_of(member, top, where)) == "":
                continue
            for known in (files, links):
                known.pop(path, None)
            executable.discard(path)
            if member.kind == "symlink":
                links[path] = member.target
                continue
            if member.kind == "other":
                raise _other(path, where)
            files[path] = member.read()
            if member.mode & 0o111:
                executable.add(path)
    for path in links:
        real = _file_of(path, links, files)
        files[path] = files[real]
        if real in executable:
            executable.add(path)
    return PackageTree(files=files, executable=frozenset(executable), links=links)


def check_tree(archive: Path) -> None:
    """Raise PackingError for a member of a compiled tree that cannot be in a wheel; contents are not read."""
    files: set[str] = set()
    links: dict[str, str] = {}
    for member in tar_entries(archive, where="tree"):
        if (path := _path_of(member, "", "tree")) == "":
            continue
        if member.kind == "other":
            raise _other(path, "tree")
        if member.kind == "symlink":
            links[path] = member.target
        else:
            files.add(path)
    for path in links:
        _file_of(path, links, files)


def _other(path: str, where: str) -> PackingError:
    return PackingError(f"{path} is neither file, folder nor link", where=where)


def _file_of(path: str, links: Mapping[str, str], files: Container[str]) -> str:
    """Return the file that a link leads to; raise PackingError if there is none."""
    real = followed(path, links)
    if real not in files:
        hint = "a wheel has no links; the recipe must leave out those to folders and to nothing"
        raise PackingError(f"the link {path} leads to {links[path]}, which is no file of it", hint=hint)
    return real


def _path_of(member: TarEntry, top: str, where: str) -> str:
    """Return a member's path below the top; empty for a folder."""
    name = posixpath.normpath(member.name)
    path = name
    if top:
        first, _, path = name.partition("/")
        if first != top:
            raise PackingError(f"{member.name!r} is not in the folder {top}/", where=where)
    if member.kind == "folder":
        return ""
    if not PATH.fullmatch(f"/{path}") or ".." in path.split("/"):
        raise PackingError(f"the path {member.name!r} cannot be written into a wheel", where=where)
    return path


def followed(path: str, links: Mapping[str, str]) -> str:
    """Return the path where a link ends, through other links; empty if they form a loop."""
    for _ in range(LINKS_LIMIT):
        if path not in links:
            return path
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), links[path]))
    return ""


def _about_json(tree: PackageTree, product: Product, version: str) -> bytes:
    """Return about.json. Its `build` differs between two builds of one version, because it is made of their files."""
    server = product.server
    conf = server.conf if server is not None else None
    files = {
        path: ["0755" if path in tree.executable else "0644", hashlib.sha256(data).hexdigest()]
        for path, data in tree.files.items()
        if path not in tree.links
    }
    listed = json.dumps([files, dict(tree.links)], sort_keys=True).encode()
    content = {
        "name": command_name(product),
        "product": product.name,
        "version": version,
        "build": hashlib.sha256(listed).hexdigest()[:12],
        "summary": _summary(tree.manifest),
        "command": list(server.command) if server is not None else [],
        "conf": conf.path if conf is not None else "",
        "separator": conf.separator if conf is not None else "",
        "port": server.port if server is not None else 0,
        "highest": highest_port(server) if server is not None else 0,
        "files": files,
        "links": dict(tree.links),
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _summary(manifest: Manifest) -> str:
    return f"{manifest.product} {manifest.version} for {manifest.model} ({manifest.target}, {manifest.image.name})"


def licence_files(tree: PackageTree) -> dict[str, bytes]:
    """Return the licences in a tree, by path below `licenses` of the dist-info folder."""
    start = f"{LICENCES}/"
    return {path.removeprefix(start): data for path, data in sorted(tree.files.items()) if path.startswith(start)}


def metadata(manifest: Manifest, product: Product, variant: str = "", *, licences: Iterable[str] = ()) -> str:
    """Return the text of METADATA; `licences` are names of `licence_files`.

    Raises:
        PackingError: a value has line ends or control characters, or the version cannot be a wheel's.
    """
    fields = {
        "Metadata-Version": "2.4",
        "Name": distribution(product),
        "Version": version_of(manifest, variant, product.release),
        "Summary": _summary(manifest),
        "Home-page": product.url,
        "Maintainer-email": product.maintainer,
        "License-Expression": "" if product.licence == NOASSERTION else product.licence,
        "Platform": f"linux_{ARCH}",
        "Requires-Python": REQUIRES_PYTHON,
        "Description-Content-Type": "text/plain; charset=UTF-8",
    }
    for name, value in fields.items():
        if not value.isprintable():
            raise PackingError(f"{name} of a wheel is one line, not {value!r}")
    head = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    head += "".join(f"License-File: {name}\n" for name in licences)
    return f"{head}\n{_description(manifest, product)}"


def _description(manifest: Manifest, product: Product) -> str:
    versions = _symbol_versions(manifest)
    system = manifest.image.os
    rows = {
        "hardware model": manifest.model,
        "its CPUs": ", ".join(manifest.cpus),
        "compiled for": manifest.target,
        "made on": f"{manifest.image.name} ({system.id} {system.version})",
        "allocator": manifest.allocator.name,
        "a host must have": ", ".join(f"{name} {versions[name]}" for name in sorted(versions)) or "nothing",
    }
    what = "tools of" if product.server is None else "server"
    about = product.description or product.summary or f"The {what} {product.name}."
    return render(
        "wheel/description.txt.jinja",
        about=textwrap.fill(about, COLUMNS),
        rows=list(rows.items()),
        width=max(map(len, rows)),
        command=command_name(product),
        port=product.server.port if product.server is not None else 0,
    )


def record(contents: Mapping[str, bytes], own: str) -> str:
    """Return the text of RECORD: path, SHA-256 in unpadded URL-safe base64, and size of each file.

    Args:
        contents: all files but RECORD, by path.
        own: the path of RECORD, which is listed without digest and size.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for path in sorted(contents):
        digest = base64.urlsafe_b64encode(hashlib.sha256(contents[path]).digest()).rstrip(b"=").decode()
        rows.writerow((path, f"sha256={digest}", len(contents[path])))
    rows.writerow((own, "", ""))
    return text.getvalue()


def build(tree: PackageTree, *, product: Product, variant: str = "") -> Wheel:
    """Make the wheel of a package.

    Args:
        tree: the files; model, image, versions and time are those of their manifest.
        product: the product.
        variant: the allocator, if it is not the image's default.

    Raises:
        PackingError: the tree is of another product, a file is missing, or the version cannot be a wheel's.
        AuditError: the manifest cannot be read.
    """
    for path in (*product.binaries, *NEEDED, *_deployed(product)):
        if path not in tree.files:
            raise PackingError(f"the package has no {path}")
    manifest = tree.manifest
    if manifest.product != product.name:
        raise PackingError(f"the package is of {manifest.product}, not of {product.name}")
    name = file_name(manifest, product, variant)
    package = module(product)
    info = f"{_file_stem(manifest, product, variant)}.dist-info"
    contents = {f"{package}/{path.name}": path.read_bytes() for path in _command_files()}
    contents[f"{package}/about.json"] = _about_json(tree, product, version_of(manifest, variant, product.release))
    contents.update({f"{package}/tree/{path}": data for path, data in tree.files.items()})
    tags = "".join(f"Tag: {PYTHON_TAG}-{tag}\n" for tag in _tags(manifest))
    licences = licence_files(tree)
    described = {
        **{f"{info}/licenses/{name}": data for name, data in licences.items()},
        f"{info}/METADATA": metadata(manifest, product, variant, licences=licences).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: {GENERATOR}\nRoot-Is-Purelib: false\n{tags}".encode(),
        f"{info}/entry_points.txt": f"[console_scripts]\n{command_name(product)} = {package}.cli:main\n".encode(),
    }
    # PEP 427 wants the dist-info at the end of the archive; RECORD comes last.
    listed = record({**contents, **described}, f"{info}/RECORD")
    ordered = [(path, part[path]) for part in (contents, described) for path in sorted(part)]
    executable = {f"{package}/tree/{path}" for path in tree.executable}
    members = [*ordered, (f"{info}/RECORD", listed.encode())]
    return Wheel(name=name, content=_zipped(members, executable, epoch=manifest.source_date_epoch))


def _deployed(product: Product) -> tuple[str, ...]:
    """Return the files that the command needs to run a server, or to put it on a host."""
    if product.server is None:
        return ()
    conf = product.server.conf
    return (DEPLOY,) if conf is None else (DEPLOY, SETTINGS, conf.path)


def _command_files() -> list[Path]:
    return sorted(COMMAND.glob("*.py"))


def _zipped(members: list[tuple[str, bytes]], executable: set[str], *, epoch: int) -> bytes:
    """Return a zip archive. Order, times (UTC) and modes follow from the arguments alone."""
    when = datetime.fromtimestamp(min(max(epoch, NOT_BEFORE), NOT_AFTER), tz=timezone.utc).timetuple()
    stream = io.BytesIO()
    # Written here and not in `host.archives`, which only reads: order, times and attributes are this format's.
    with zipfile.ZipFile(stream, "w") as archive:
        for path, data in members:
            info = zipfile.ZipInfo(path, date_time=when[:6])
            info.create_system = UNIX
            # pip makes executable what has any x here, and leaves other modes to the umask.
            info.external_attr = (stat.S_IFREG | (0o755 if path in executable else 0o644)) << 16
            archive.writestr(info, data, compress_type=zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
    return stream.getvalue()


def pack(tarball: Path, *, product: Product, variant: str = "", into: Path) -> Path:
    """Make the wheel of a tarball whose top folder is PRODUCT/, write it into a folder, and return its path.

    Raises:
        AuditError, PackingError: as `read_tree` and `build`; nothing is written.
    """
    wheel = build(read_tree(tarball, top=product.name), product=product, variant=variant)
    path = into / wheel.name
    write_atomically(path, wheel.content)
    return path
