"""The product's package as system package managers have it: files, users, units, scripts and changelog.

RPM and DEB are made of the same description (`rpm/product.py`, `deb/product.py`). All models' packages of a product
have the same name; model and target are in the release and in what they provide. An operator enables the one
repository of a model and says `dnf install NAME`; nothing on the host depends on the model's name, and a host that is
moved to another model's repository gets the other build by a plain upgrade or `dnf swap`, which the CPU gate in the
first script refuses where it does not run. An allocator that is not the image's default has a name of its own, because
two packages of one name in one repository would replace each other by chance; it conflicts with the default's package,
whose paths it uses.
"""

from __future__ import annotations

import posixpath
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pikaforge.config.scalars import MAINTAINER
from pikaforge.formats.layout import LICENCE, LICENCES, Entry, PackingError, with_folders
from pikaforge.formats.manifest import ManifestPatch
from pikaforge.formats.templates import render
from pikaforge.host.os_families.family import Services
from pikaforge.host.text import filled

ASSETS = Path(__file__).resolve().parent / "assets"
Moment = Literal["pre", "post", "preun", "postun"]
"""When a script runs: before and after the package's files are installed, before and after they are removed."""
MOMENTS: tuple[Moment, ...] = ("pre", "post", "preun", "postun")
GATE = ("cpu-gate.sh", "cpu-features", "cpu-targets")
"""Files below utils/ that the first script needs before they are installed."""
DOCS = "/usr/share/doc"
COLUMNS = 88
EMBEDDED = ": @GATE@\n"
LISTS = "given_features='' given_targets=''\n"
"""The line of the CPU gate that gets the two lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageAbout:
    """What a package's header says of the product, and where the package is for."""

    name: str
    version: str
    """As the product has it, `v3.4.0`."""
    release: str
    """The packager's count, `1`."""
    dist: str
    """The last part of a release, `OsFamily.dist_tag`."""
    services: Services
    """Of the system."""
    summary: str
    description: str
    licence: str
    url: str = ""
    maintainer: str = MAINTAINER


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangelogEntry:
    """One entry of the changelog."""

    epoch: int
    """Seconds since 1970; its day is written in UTC."""
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductPackage:
    """The product's build for one cell."""

    about: PackageAbout
    model: str
    target: str
    tree: tuple[Entry, ...]
    """`tree_entries` of the tree and of the added files; together, the tarball's contents."""
    conf: tuple[str, ...]
    """Paths in the tree of what operators may edit."""
    payload: Mapping[str, bytes]
    """`Rendered.contents`: utils/cpu-gate.sh and its lists, and the unit."""
    changes: tuple[ChangelogEntry, ...]
    variant: str = ""
    """The allocator, if it is not the image's default."""
    port: int = 0
    """The usual one of an instance; 0 without a server."""
    debug: tuple[Entry, ...] = ()
    """`debug_entries`; without any there is no package of debug information."""
    server: bool = True
    """Whether it is a server, which has units and a user."""

    @property
    def top(self) -> str:
        """Where the tree is on a host."""
        return f"/opt/{self.about.name}"

    @property
    def description(self) -> str:
        """The product's description, and what the build is for."""
        built = f"This build is for {self.model} ({self.target}); it refuses to be installed where it does not run."
        return f"{self.about.description.strip()}\n\n{built}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What is packed of a product's package, whatever the format."""

    entries: tuple[Entry, ...]
    files: Mapping[str, bytes]
    """Files that are added to those of the job's inputs, by path: the input `made`."""
    scripts: Mapping[Moment, str]
    """Each is called with the count of packages of the name that are there afterwards, as rpm has it."""


def changes(patches: Sequence[ManifestPatch], *, epoch: int, version: str, ref: str) -> tuple[ChangelogEntry, ...]:
    """Return the changelog of a build: the source, and each patch with what it is for.

    Args:
        patches: of the manifest's source.
        epoch: SOURCE_DATE_EPOCH.
        version: of the product.
        ref: what was built: a tag or commit, and of which repository.
    """
    lines = [f"{version} from {ref}"]
    for patch in patches:
        why = patch.why or patch.url
        there = "" if patch.applied else " (in the source already)"
        lines.append((f"{patch.name}: {why}" if why else patch.name) + there)
    return (ChangelogEntry(epoch=epoch, lines=tuple(lines)),)


def assemble(package: ProductPackage, name: str) -> Assembly:
    """Return what is packed.

    Args:
        package: the description.
        name: of the package, for errors.

    Raises:
        PackingError: something cannot be written into a package, or the tree lacks what the package must have.
    """
    top, words = package.top, {"PRODUCT": package.about.name, "TOP": package.top}
    files, system_files = _system_files(package, words) if package.server else ({}, ())
    entries = _marked(with_folders(package.tree, below=top), {f"{top}/{path}" for path in package.conf}, top)
    paths = {entry.path for entry in entries}
    for path in (*package.conf, *(f"utils/{file}" for file in GATE)):
        if f"{top}/{path}" not in paths:
            raise PackingError(f"{name}: the tree has no {path}", hint="the package would be of no use without it")
    files["doc/README"] = _readme(package, has_licences=f"{top}/{LICENCES}" in paths).encode()
    document = Entry(path=f"{DOCS}/{name}/README", source="made/doc/README", doc=True)
    # The others are about units and the user.
    moments = MOMENTS if package.server else ("pre",)
    scripts: dict[Moment, str] = {m: filled(ASSETS / f"scriptlet-{m}.sh", words) for m in moments}
    scripts["pre"] = scripts["pre"].replace(EMBEDDED, _embedded_gate(package.payload))
    return Assembly(entries=(*entries, *system_files, document), files=files, scripts=scripts)


def _readme(package: ProductPackage, *, has_licences: bool) -> str:
    return render(
        "readme.txt.jinja",
        about="\n\n".join(textwrap.fill(part, COLUMNS) for part in package.description.split("\n\n")),
        product=package.about.name,
        top=package.top,
        port=package.port,
        deploy="utils/deploy.sh" in package.payload,
        licences=LICENCES if has_licences else "",
    )


def _embedded_gate(payload: Mapping[str, bytes]) -> str:
    """Return the text of the CPU gate with its two lists in it."""
    gate, *lists = (payload.get(f"utils/{name}", b"").decode() for name in GATE)
    if gate.count(LISTS) != 1 or not gate.endswith("\n") or not all(lists) or "'" in "".join(lists):
        raise PackingError("utils/cpu-gate.sh cannot be embedded in a script", hint="it and its lists must be whole")
    features, targets = (text.rstrip("\n") for text in lists)
    return gate.replace(LISTS, f"given_features='{features}'\ngiven_targets='{targets}'\n")


def _system_files(package: ProductPackage, words: Mapping[str, str]) -> tuple[dict[str, bytes], tuple[Entry, ...]]:
    """Return units and users: the files of the input `made`, and where they go."""
    base, services = package.about.name, package.about.services
    template = package.payload[f"systemd/{base}@.service"].decode()
    places = {
        f"{base}@.service": (services.units, _unit(template, base, package.top)),
        f"{base}.target": (services.units, filled(ASSETS / "instances.target", words)),
        f"tmpfiles/{base}.conf": (services.tmpfiles, filled(ASSETS / "tmpfiles.conf", words)),
    }
    # Units beside that of an instance: they name no folder of the host but the tree.
    for path, content in sorted(package.payload.items()):
        folder, _, name = path.rpartition("/")
        if folder == "systemd" and name != f"{base}@.service":
            places[name] = (services.units, content.decode().replace("@TOP@", package.top))
    if services.sysusers:
        places[f"sysusers/{base}.conf"] = (services.sysusers, filled(ASSETS / "sysusers.conf", words))
    entries = [
        Entry(path=f"{folder}/{posixpath.basename(name)}", source=f"made/{name}")
        for name, (folder, _) in places.items()
    ]
    # The environment files of the instances are the operator's; the folder is ours.
    entries.append(Entry(path=f"/etc/{base}", kind="dir", mode=0o755))
    return {name: text.encode() for name, (_, text) in places.items()}, tuple(entries)


def _unit(template: str, base: str, top: str) -> str:
    """Return the unit of an instance as a part of the target, which stops and restarts all instances and starts those
    that are enabled."""
    head, wanted_by = "[Unit]\n", "WantedBy=multi-user.target\n"
    if template.count(head) != 1 or template.count(wanted_by) != 1:
        raise PackingError(f"the unit {base}@.service is not as expected", hint="see operate/assets/instance.service")
    text = template.replace(head, f"{head}PartOf={base}.target\n")
    return text.replace(wanted_by, f"WantedBy=multi-user.target {base}.target\n").replace("@TOP@", top)


def _marked(entries: Sequence[Entry], conf: set[str], top: str) -> tuple[Entry, ...]:
    """Return the entries, with configuration files and licences marked."""
    found = []
    for entry in entries:
        file = entry.kind == "file"
        at_top = posixpath.dirname(entry.path) == top and LICENCE.fullmatch(posixpath.basename(entry.path))
        licence = file and (bool(at_top) or entry.path.startswith(f"{top}/{LICENCES}/"))
        found.append(replace(entry, config=file and entry.path in conf, licence=licence))
    return tuple(found)
