"""The manifest of a package, manifest.json: what the package was built from, and what proves it.

One class writes it and reads it again. Manifests of earlier versions are read, too: a field has a default if some
format since the first one lacks it. What a later version adds is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from pikaforge.errors import AuditError
from pikaforge.host import json_text

MANIFEST = "manifest.json"
FORMAT = 4
BUILT_HERE = "allocator"
"""The package that docker/guest/bundle.sh names for a library that was built with the allocator."""


class _ManifestPart(BaseModel):
    """Base of the manifest and its parts. Anybody may have written a package that is read."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)


class ManifestTarball(_ManifestPart):
    """A pinned tarball that an allocator was built from."""

    version: str
    url: str
    """Without credentials."""
    sha256: str


class ManifestAllocator(_ManifestPart):
    """The allocator: what was asked for, what was built, and what the audit found in use."""

    name: str
    kind: str
    library: str = ""
    """Soname or path of the library in use; empty if there is none."""
    unwinder: str = ""
    version: str | None = None
    """Of one that was built. The next two are of such a one, too."""
    tarballs: Mapping[str, ManifestTarball] | None = None
    """By folder of the job."""
    built: Mapping[str, str] | None = None
    """How it was asked to walk the stack, and how it does."""


class ManifestOs(_ManifestPart):
    """The OS of an image, as os-release(5) has it."""

    id: str
    version: str


class ManifestImage(_ManifestPart):
    """The OS image."""

    name: str
    os: ManifestOs
    base: str
    """Reference of the base image with its digest, or `bootstrap RELEASE`."""
    baseline: str = ""
    """The microarchitecture that the distribution compiles for; empty before format 3."""
    build_packages: Mapping[str, str]
    """Version by name."""
    runtime_packages: Mapping[str, str]


class ManifestOffset(_ManifestPart):
    """A hunk of a patch that fits, but not at its very lines."""

    path: str
    hunk: int
    lines: int
    """How much further down."""


class ManifestPatch(_ManifestPart):
    """A patch of the series."""

    name: str
    sha256: str
    url: str
    """Without credentials; empty for a local one."""
    why: str = ""
    state: str | None = None
    """`applied`, or `present` if the source has it already. Before it was written all were applied."""
    offsets: tuple[ManifestOffset, ...] | None = None
    notes: tuple[str, ...] | None = None
    """How a patch that is present came into the source."""

    @property
    def applied(self) -> bool:
        """Whether it was applied here."""
        return self.state in (None, "applied")


class ManifestSource(_ManifestPart):
    """The source."""

    kind: str = ""
    """`product`, `repository`, `clone`, `tarball` or `sample`."""
    url: str
    """Without credentials; empty if it is local."""
    ref: str
    tag: str = ""
    version: str = ""
    commit: str
    """The commit, or the digest of a tarball."""
    head: str
    """The commit after the series; empty for a tarball."""
    patches: tuple[ManifestPatch, ...]
    submodules: Mapping[str, str]
    """Commit by path."""


class ManifestLibrary(_ManifestPart):
    """A library that travels along; of the distribution's own, version and digest are those of its package."""

    soname: str
    path: str
    package: str
    version: str
    sha256: str = ""
    code: str | None = None
    """SHA-256 of the code of one of the distribution's own."""


class ManifestLicence(_ManifestPart):
    """The licences of the product, of a package whose library travels along, or of a part of the allocator."""

    of: str
    """Name of that."""
    names: tuple[str, ...] = ()
    """SPDX expressions; of a package its own words, which SPDX need not know."""
    files: tuple[str, ...] = ()
    """Their texts, relative to the manifest's folder."""


class ManifestDispatched(_ManifestPart):
    """A library of the distribution with code that runs only on CPUs that have it."""

    file: str
    package: str = ""
    version: str = ""
    sha256: str = ""
    functions: tuple[str, ...] = ()
    features: tuple[str, ...]
    evidence: tuple[str, ...]


class ManifestWaived(_ManifestPart):
    """A function that a waiver covers, and where it is: packages have no symbols."""

    file: str
    build_id: str
    function: str
    features: tuple[str, ...]
    code: tuple[tuple[int, int], ...]
    """Addresses of the first byte of its code and of the one behind it."""


class ManifestAudit(_ManifestPart):
    """What the audit found."""

    allow_list: str = ""
    features_used: tuple[str, ...] = ()
    kernel_flags: tuple[str, ...] = ()
    symbol_versions: Mapping[str, str] | None = None
    """The highest of each namespace that a host must have; None where there was no audit."""
    system_libraries: tuple[str, ...] = ()
    dispatched: tuple[ManifestDispatched, ...] = ()
    waived: tuple[ManifestWaived, ...] | None = None
    """None where no waiver was used."""


class ManifestAdaptation(_ManifestPart):
    """What the product needs of some versions of the compiler."""

    gcc: str
    cflags: tuple[str, ...]
    cxxflags: tuple[str, ...]
    why: str


class ManifestRun(_ManifestPart):
    """The target whose tree was run."""

    target: str
    not_run: str
    """For people: what was not run, if that is another target than the package's."""


class ManifestFile(_ManifestPart):
    """A file or symbolic link of a package."""

    path: str
    """Relative to the manifest's folder."""
    mode: str | None = None
    """Of a file, octal as it is packed: 0755 or 0644."""
    sha256: str | None = None
    """Of a file."""
    link: str | None = None
    """Of a link: where it leads."""


class Manifest(_ManifestPart):
    """What a package says of itself. Every value is decided by the inputs, none by the moment of building."""

    format: int = FORMAT
    product: str
    version: str
    cell: str
    model: str
    cpus: tuple[str, ...]
    target: str
    wanted_target: str
    flags: tuple[str, ...]
    allocator: ManifestAllocator
    image: ManifestImage
    source: ManifestSource
    source_date_epoch: int
    """Date of the source in seconds since 1970."""
    compiler: tuple[str, ...]
    """Lines that compiler and linker print of themselves."""
    adaptations: tuple[ManifestAdaptation, ...] = ()
    keep_werror: bool = False
    dropped_flags: tuple[tuple[int, str], ...]
    bundled_libraries: tuple[ManifestLibrary, ...]
    licences: tuple[ManifestLicence, ...] = ()
    """Empty in packages that were made before licences travelled."""
    audit: ManifestAudit = ManifestAudit.model_construct()
    checks: tuple[str, ...]
    """Names of the smoke checks that have passed."""
    tried: ManifestRun | None = None
    """None before format 4: every package was run as what it is."""
    contents: tuple[ManifestFile, ...] | None = None
    """Files and links of the package, sorted by path; not the manifest itself, nor folders."""

    def licence_of(self, *names: str) -> ManifestLicence:
        """Return the licences of something by one of its names; empty where none are known."""
        known = {licence.of: licence for licence in self.licences}
        return next((known[name] for name in names if name in known), ManifestLicence(of=names[0]))

    def as_json(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return self.model_dump(mode="json", exclude_none=True)

    def text(self) -> str:
        """Return it as the package has it."""
        return json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n"


def read_manifest(data: bytes | Mapping[str, object], *, where: str) -> Manifest:
    """Read a manifest.

    Args:
        data: its text, or the JSON of that.
        where: the file, for errors.

    Raises:
        AuditError: it is none.
    """
    try:
        if isinstance(data, bytes):
            json_text.verify_size(data)
            return Manifest.model_validate_json(data)
        # JSON that was read has lists and no tuples.
        return Manifest.model_validate(data, strict=False)
    except json_text.JsonError as error:
        raise AuditError(f"{MANIFEST} cannot be read: {error}", where=where) from error
    except ValidationError as error:
        raise AuditError(f"{MANIFEST} cannot be read: {first_error(error)}", where=where) from error


def first_error(error: ValidationError) -> str:
    """Return the first of a model's errors in one line: where it is, and what is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
