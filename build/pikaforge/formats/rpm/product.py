"""What this house's RPMs are: the product's with its debug information's. The allocator's are in `allocator`.

All models' packages of a product have the same name; model and target are in the release and in what they provide. An
operator enables the one repository of a model and says `dnf install NAME`; nothing on the host depends on the model's
name, and a host that is moved to another model's repository gets the other build by a plain upgrade or `dnf swap`,
which the CPU gate in %pre refuses where it does not run. An allocator that is not the image's default has a name of
its own, because two packages of one name in one repository would replace each other by chance; it conflicts with the
default's package, whose paths it uses.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pikaforge.audit.judge_linkage import highest
from pikaforge.formats.layout import LICENCE, Entry, PackingError, with_folders
from pikaforge.formats.rpm import spec_file
from pikaforge.formats.rpm.spec_file import ChangelogEntry, Profile, RpmSpec, SubPackage
from pikaforge.host.os_families.family import Services

SCRIPTLETS = Path(__file__).resolve().parent
ASSETS = SCRIPTLETS.parent / "assets"
BITS = "(64bit)"
GATE = ("cpu-gate.sh", "cpu-features", "cpu-targets")
"""Files below utils/ that the CPU gate is made of."""
HERE_END = "END-OF-FORGE-FILE"
PRE_NEEDS = ("/bin/sh", "coreutils")
POST_NEEDS = ("/bin/sh", "shadow-utils")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the header says, and the release."""

    name: str
    version: str
    """As the product has it, `v3.4.0`."""
    release: str
    """The packager's count, `1`."""
    dist: str
    """`rpm.dist_tag`."""
    profile: Profile
    services: Services
    """Of the system."""
    summary: str
    description: str
    licence: str
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRpm:
    """The product's build for one cell."""

    about: About
    model: str
    target: str
    tree: tuple[Entry, ...]
    """`tree_entries` of the tree and of what goes in beside it; together, the tarball's contents."""
    conf: tuple[str, ...]
    """Paths in the tree of what operators may edit."""
    payload: Mapping[str, bytes]
    """`Rendered.contents`: utils/cpu-gate.sh and its lists, and the unit."""
    requires: tuple[str, ...]
    """`needs` of the audit, and the programs that it runs."""
    changes: tuple[ChangelogEntry, ...]
    variant: str = ""
    """The allocator, if it is not the image's default."""
    debug: tuple[Entry, ...] = ()
    """`debug_entries`; without any there is no package of debug information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmBuild:
    """A run of rpm.sh: what is packed, and the files that this adds to those of the inputs."""

    rpm: RpmSpec
    extra: Mapping[str, bytes]
    """The input `made`."""

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the packages, the main one first."""
        return tuple(spec_file.file_name(self.rpm, package) for package in self.rpm.packages)

    def pack(self) -> dict[str, bytes]:
        """The input `pack`."""
        return spec_file.inputs(self.rpm)


def needs(versions: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What programs and libraries need of the base system, as rpm's elfdeps names what that provides.

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


def changes(patches: Sequence[Mapping[str, Any]], *, epoch: int, version: str, ref: str) -> tuple[ChangelogEntry, ...]:
    """The changelog of a build: the source, and each patch with what it is for.

    Args:
        patches: the manifest's `source.patches`: name, why, url, state.
        epoch: SOURCE_DATE_EPOCH.
        version: of the product.
        ref: what was built: a tag or commit, and of which repository.
    """
    lines = [f"{version} from {ref}"]
    for patch in patches:
        why = patch.get("why") or patch.get("url") or ""
        there = " (in the source already)" if patch.get("state") == "present" else ""
        lines.append((f"{patch['name']}: {why}" if why else patch["name"]) + there)
    return (ChangelogEntry(epoch=epoch, lines=tuple(lines)),)


def product(wanted: ProductRpm) -> RpmBuild:
    """The product's RPM and, if there is debug information, that one's.

    Raises:
        PackingError: something cannot be written into a package, or the tree lacks what the package must have.
    """
    about = wanted.about
    base, top = about.name, f"/opt/{about.name}"
    name = f"{base}-{wanted.variant}" if wanted.variant else base
    words = {"PRODUCT": base, "TOP": top}
    extra, system_files = _system_files(wanted, words)
    entries = _marked(with_folders(wanted.tree, below=top), {f"{top}/{path}" for path in wanted.conf}, top)
    paths = {entry.path for entry in entries}
    for path in (*wanted.conf, *(f"utils/{part}" for part in GATE)):
        if f"{top}/{path}" not in paths:
            raise PackingError(f"{name}: the tree has no {path}", hint="the package would be of no use without it")
    main = SubPackage(
        name=name,
        summary=about.summary,
        description=f"{about.description.strip()}\n\n{_made_for(wanted)}",
        entries=(*entries, *system_files),
        requires=(*wanted.requires, "/bin/sh"),
        requires_pre=PRE_NEEDS,
        requires_post=POST_NEEDS,
        provides=tells(base, model=wanted.model, target=wanted.target),
        conflicts=(*([base] if wanted.variant else []), *others(base, "model", wanted.model)),
        scripts={
            "pre": _filled(SCRIPTLETS / "rpm-pre.sh", words).replace("#@FILES@\n", _here_documents(wanted.payload)),
            "post": _filled(SCRIPTLETS / "rpm-post.sh", words),
            "preun": _filled(SCRIPTLETS / "rpm-preun.sh", words),
            "postun": _filled(SCRIPTLETS / "rpm-postun.sh", words),
        },
    )
    packages = [main]
    if wanted.debug:
        packages.append(
            SubPackage(
                name=f"{name}-debuginfo",
                summary=f"Debug information for {name}",
                description=f"For debuggers and profilers; it fits {name} of the same version and release only.",
                entries=wanted.debug,
                provides=tells(f"{base}-debuginfo", model=wanted.model, target=wanted.target),
                conflicts=(f"{base}-debuginfo",) if wanted.variant else (),
            )
        )
    return RpmBuild(
        rpm=RpmSpec(
            version=spec_file.legal_version(about.version),
            release=_release(about, wanted),
            licence=about.licence,
            url=about.url,
            packages=tuple(packages),
            profile=about.profile,
            changes=wanted.changes,
        ),
        extra=extra,
    )


def _release(about: About, wanted: ProductRpm) -> str:
    return spec_file.legal_release(about.release, wanted.model, about.dist)


def _made_for(wanted: ProductRpm) -> str:
    return f"This build is for {wanted.model} ({wanted.target}); it refuses to be installed where it does not run."


def tells(base: str, **facts: str) -> tuple[str, ...]:
    """`NAME(target) = sandybridge`: for `dnf repoquery --whatprovides`, and for `others`."""
    return tuple(f"{base}({key}) = {spec_file.legal_release(value)}" for key, value in facts.items())


def others(base: str, key: str, value: str) -> tuple[str, ...]:
    """Conflicts with every other value. They do not keep a package from replacing the other one, which is an upgrade;
    they make `rpm -i` of a second one fail with this line instead of with one for each file."""
    legal = spec_file.legal_release(value)
    return (f"{base}({key}) < {legal}", f"{base}({key}) > {legal}")


def _filled(template: Path, words: Mapping[str, str]) -> str:
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _here_documents(payload: Mapping[str, bytes]) -> str:
    parts = []
    for name in GATE:
        text = payload.get(f"utils/{name}", b"").decode()
        if HERE_END in text or not text.endswith("\n"):
            raise PackingError(f"utils/{name} cannot be embedded in a scriptlet", hint="it must be there, and whole")
        parts.append(f"cat >\"$here/{name}\" <<'{HERE_END}'\n{text}{HERE_END}\n")
    return "".join(parts)


def _system_files(wanted: ProductRpm, words: Mapping[str, str]) -> tuple[dict[str, bytes], tuple[Entry, ...]]:
    """Units and users: the input `made`, and where its files go."""
    base, services = wanted.about.name, wanted.about.services
    template = wanted.payload[f"systemd/{base}@.service"].decode()
    places = {
        f"{base}@.service": (services.units, _unit(template, base, words["TOP"])),
        f"{base}.target": (services.units, _filled(ASSETS / "instances.target", words)),
        f"tmpfiles/{base}.conf": (services.tmpfiles, _filled(ASSETS / "tmpfiles.conf", words)),
    }
    if services.sysusers:
        places[f"sysusers/{base}.conf"] = (services.sysusers, _filled(ASSETS / "sysusers.conf", words))
    entries = [
        Entry(path=f"{folder}/{posixpath.basename(name)}", source=f"made/{name}")
        for name, (folder, _) in places.items()
    ]
    # The environment files of the instances are the operator's; the folder is ours.
    entries.append(Entry(path=f"/etc/{base}", kind="dir", mode=0o755))
    return {name: text.encode() for name, (_, text) in places.items()}, tuple(entries)


def _unit(template: str, base: str, top: str) -> str:
    """The unit of an instance, in its place, and part of the target: that stops and restarts all of them, and starts
    those that are enabled."""
    head, wanted_by = "[Unit]\n", "WantedBy=multi-user.target\n"
    if template.count(head) != 1 or template.count(wanted_by) != 1:
        raise PackingError(f"the unit {base}@.service is not as expected", hint="see payload/instance.service")
    text = template.replace(head, f"{head}PartOf={base}.target\n")
    return text.replace(wanted_by, f"WantedBy=multi-user.target {base}.target\n").replace("@TOP@", top)


def _marked(entries: Sequence[Entry], conf: set[str], top: str) -> tuple[Entry, ...]:
    """The entries, with confs and licences marked."""
    found = []
    for entry in entries:
        file = entry.kind == "file"
        licence = file and posixpath.dirname(entry.path) == top and LICENCE.fullmatch(posixpath.basename(entry.path))
        found.append(replace(entry, config=file and entry.path in conf, licence=bool(licence)))
    return tuple(found)
