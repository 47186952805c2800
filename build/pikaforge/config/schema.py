"""The specification: what matrix.yaml may say, as frozen types.

The models refuse keys that they do not know (`extra="forbid"`) and never convert between types (`strict`), so that a
version written without quotes is an error and not another version. `load` reads the text, reports errors by file, line
and YAML path, and checks references between the parts. The JSON schema that editors use is made from these classes
(`invoke schema`).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue

from pikaforge.config.limits import Limits
from pikaforge.config.patch_series import Series
from pikaforge.config.product import Packages, Product
from pikaforge.config.registry import ALLOCATORS, FORMATS, SITES
from pikaforge.config.scalars import (
    BASE_PATTERN,
    CLIENTS_PATTERN,
    DIGEST_PATTERN,
    EVERYTHING,
    LABEL_PATTERN,
    RELEASE_PATTERN,
    SERVER_PATTERN,
    URL_PATTERN,
    AllocatorName,
    CompilerVersion,
    Name,
    OneOf,
    Strict,
    without_login,
)
from pikaforge.config.shared_store import SharedStoreOptions
from pikaforge.config.waiver import Waiver

FOREIGN = ("repository", "clone", "tarball")
"""Kinds of sources that replace the product's own (`Origin.kind`); builds and changelogs name them."""


DMI_NAME = re.compile(r"[!#%&(-\[\]-_a-~]+( [!#%&(-\[\]-_a-~]+)*")
"""Printable ASCII without quotes, backquote, backslash and dollar sign: shells read these within quotes, too."""


def _dmi_name(name: str) -> str:
    if not DMI_NAME.fullmatch(name):
        raise ValueError(
            "a DMI product name is written as /sys/class/dmi/id/product_name has it: of ASCII characters, with single "
            "blanks, without quotes, backslash, dollar sign"
        )
    return name


DmiName = Annotated[str, Field(max_length=128), AfterValidator(_dmi_name)]
"""The name that a machine gives itself; it becomes data of a shell script."""


class Model(Strict):
    """A hardware model: a label that operators know, and the CPUs that are sold in it."""

    cpus: tuple[Name, ...] = Field(min_length=1, description="CPU microarchitectures by archspec name.")
    dmi: tuple[DmiName, ...] = Field(
        default=(), description="DMI product names, where they do not hold the model's name as a word."
    )
    note: str = Field(default="", description="Where the list of CPUs comes from, or what is special.")


class OsRelease(Strict):
    """How /etc/os-release of a machine with this OS names itself; `version` may be a prefix up to a dot."""

    id: Name = Field(description="ID, such as debian.")
    version: str = Field(pattern=RELEASE_PATTERN, description='VERSION_ID, such as "22.04", in quotes.')


FormatName = Annotated[str, OneOf(FORMATS)]


class Image(Strict):
    """An OS image: where its base comes from and what its compiler can do."""

    family: Name = Field(description="Folder under docker/ with the Dockerfile.")
    os: OsRelease = Field(description="ID and VERSION_ID as in /etc/os-release.")
    base: str = Field(pattern=BASE_PATTERN, description="Registry reference of the base image, with its tag.")
    bootstrap: Name | None = Field(
        default=None,
        description="Suite to bootstrap from the distribution's own packages where no registry is reachable.",
    )
    mirror: str | None = Field(
        default=None,
        pattern=URL_PATTERN,
        description="Package mirror for the bootstrap, instead of the distribution's own.",
    )
    baseline: Name = Field(
        default="x86_64",
        description="The microarchitecture, by archspec name, for which the distribution compiles its packages.",
    )
    gcc: CompilerVersion = Field(description="Version of the image's gcc, major.minor at least.")
    allocator: Name = Field(default="none", description="The allocator of a build that names none.")
    formats: tuple[FormatName, ...] = Field(default=("tar",), description="Which packages a build makes for it.")
    fallback: Literal["refuse", "nearest"] = Field(
        default="refuse",
        description="What to do for a target that the compiler cannot produce: refuse, or take the nearest.",
    )

    _mirror_has_no_login = field_validator("mirror")(without_login)


class Tarball(Strict):
    """A source tarball that is downloaded, known by its digest."""

    version: CompilerVersion = Field(description="Of what is in it, such as 2.7.")
    url: str = Field(pattern=URL_PATTERN, description="Where it is; its last part is the name of the file.")
    sha256: str = Field(pattern=DIGEST_PATTERN, description="As `sha256sum` prints it.")

    _url_has_no_login = field_validator("url")(without_login)

    @property
    def file(self) -> str:
        """Its file name, in the download folder and at mirrors."""
        return self.url.partition("?")[0].rpartition("/")[2]


def _meaning(field: str) -> str:
    """Return what a field of an allocator means; the kind that has the field says it."""
    return next(kind.fields[field] for kind in ALLOCATORS.all() if field in kind.fields)


def _describe_kinds(schema: JsonDict) -> None:
    """Put the kinds into the description of `Allocator` in the JSON schema."""
    kinds = "; ".join(f"`{kind.name}` {kind.about}" for kind in ALLOCATORS.all())
    schema["description"] = f"A memory allocator choice. {kinds}."


class Allocator(Strict):
    """A memory allocator choice. The kinds define what its fields mean."""

    model_config = ConfigDict(json_schema_extra=_describe_kinds)

    kind: AllocatorName = Field(description="Where the allocator comes from.")
    packages: dict[Name, Packages] = Field(default_factory=dict, description="By image, else by family.")
    unwinder: Literal["libunwind", "frame-pointers"] | None = Field(default=None, description=_meaning("unwinder"))
    tarball: Name | None = Field(default=None, description=_meaning("tarball"))
    tarballs: dict[Name, Name] = Field(default_factory=dict, description="Others by image, else by family.")
    libunwind: Name | None = Field(
        default=None,
        description="By name in `tarballs`: built, too, for images for which `packages` names nothing.",
    )

    @property
    def frame_pointers(self) -> bool:
        """Whether the product is compiled with -fno-omit-frame-pointer."""
        return self.unwinder == "frame-pointers"

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Allocator:
        kind = ALLOCATORS.get(self.kind)
        given = [name for name in ("unwinder", "tarball", "tarballs", "libunwind") if getattr(self, name)]
        if not set(kind.required) <= set(given):
            raise ValueError(f"kind {self.kind} needs {' and '.join(f'`{name}`' for name in kind.required)}")
        for name in given:
            if name not in kind.required and name not in kind.optional:
                raise ValueError(f"kind {self.kind} takes no `{name}`")
        kind.check(self)
        return self


class Rule(Strict):
    """Part of the matrix by globs; an absent axis means every value."""

    model: str = Field(default="*", description="Glob over the names in `hardware`.")
    image: str = Field(default="*", description="Glob over the names in `images`.")
    allocator: str = Field(default="*", description="Glob over the names in `allocators`.")
    reason: str = Field(default="", description="Shown where somebody asks for what is excluded.")


class Axes(Strict):
    """The values of each axis; `[all]` is everything defined above."""

    model: tuple[Name, ...] = Field(default=(EVERYTHING,), description="Names in `hardware`.")
    image: tuple[Name, ...] = Field(default=(EVERYTHING,), description="Names in `images`.")
    allocator: tuple[Name, ...] = Field(default=(EVERYTHING,), description="Names in `allocators`.")


class Matrix(Strict):
    """Which combinations exist: the axes' product, without `exclude`, then with `include`."""

    axes: Axes = Field(default=Axes.model_construct(), description="What is combined.")
    exclude: tuple[Rule, ...] = Field(default=(), description="Combinations that are not built.")
    include: tuple[Rule, ...] = Field(default=(), description="Combinations that are built nevertheless.")


class Defaults(Strict):
    """What is taken when the command line does not say."""

    image: Name = Field(description="The image where none of them matches the machine.")
    tools: Name = Field(description="The image on which the tools image (git, tar, packers) is made.")
    emulator: Name | None = Field(
        default=None,
        description="The image from whose packages the emulator is taken, Debian 13 at least; null: none is used.",
    )
    publish: Name | None = Field(default=None, description="The destination where none is named.")
    base_libraries: tuple[str, ...] = Field(
        min_length=1, description="Globs of sonames that every base system promises; all others travel in lib/."
    )


SiteName = Annotated[str, OneOf(SITES)]


class Destination(Strict):
    """Where packages are published: a folder, an HTTP server that takes PUT, or a Python index.

    Credentials are never part of it: they come from the environment, a file or a netrc.
    """

    kind: SiteName = Field(description="What it is.")
    path: str | None = Field(
        default=None, min_length=1, max_length=1024, description="Of a directory: relative to this file, or absolute."
    )
    url: str | None = Field(
        default=None, pattern=SERVER_PATTERN, description="Of a server or an index: where files are sent to."
    )
    clients: str | None = Field(
        default=None,
        pattern=CLIENTS_PATTERN,
        description="Where clients find it, if not at `url`; a directory's is its path unless a server is named here.",
    )
    simple: str | None = Field(
        default=None,
        pattern=SERVER_PATTERN,
        description="Of an index: its list of packages; else `url` + simple/. {model}, {image} and {allocator} in both "
        "are replaced: there is an index for each then.",
    )
    pinned: bool = Field(
        default=False,
        description="Of an index: all clients name the version, so wheels of several models may be in it.",
    )
    keep: int | None = Field(
        default=None, ge=1, le=1000, description="Versions of each package, and generations, that stay; else all."
    )
    valid_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        description="Days for which apt accepts metadata (Valid-Until); publish again before half of them are over.",
    )
    requires: Literal["run"] | None = Field(
        default=None, description="run: refuse packages whose own target was never run, only a twin's."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Destination:
        kind = SITES.get(self.kind)
        given = [name for name in type(self).model_fields if getattr(self, name) and name not in ("kind", "requires")]
        for name in type(self).model_fields:
            if name in kind.required and name not in given:
                raise ValueError(f"kind {self.kind} needs `{name}`")
        for name in given:
            if name not in kind.required | kind.optional:
                raise ValueError(f"kind {self.kind} takes no `{name}`")
        return self


RunnerLabel = Annotated[str, Field(pattern=LABEL_PATTERN, max_length=100)]
"""A label of a CI service's machine."""


class Spec(Strict):
    """The whole of matrix.yaml."""

    product: Product = Field(description="What is built, and what it must do.")
    hardware: dict[Name, Model] = Field(min_length=1, description="Hardware models by name.")
    images: dict[Name, Image] = Field(min_length=1, description="OS images by name.")
    allocators: dict[Name, Allocator] = Field(min_length=1, description="Memory allocators by name.")
    matrix: Matrix = Field(default=Matrix.model_construct(), description="Which combinations exist.")
    defaults: Defaults = Field(description="What is taken when the command line does not say.")
    tarballs: dict[Name, Tarball] = Field(default_factory=dict, description="Sources that are downloaded, by name.")
    mirrors: tuple[Annotated[str, Field(pattern=URL_PATTERN), AfterValidator(without_login)], ...] = Field(
        default=(), description="Folders that are asked for tarballs before their own URLs."
    )
    waivers: tuple[Waiver, ...] = Field(
        default=(), description="Findings of the audit that somebody has looked at: by name, with a reason and an end."
    )
    publish: dict[Name, Destination] = Field(default_factory=dict, description="Where packages are published, by name.")
    limits: Limits = Field(
        default=Limits.model_construct(), description="How much memory, time and space a job may use."
    )
    store: SharedStoreOptions | None = Field(
        default=None, description="A store of results that machines share; PIKAFORGE_STORE names another one."
    )

    runners: dict[Name, Annotated[tuple[RunnerLabel, ...], Field(min_length=1, max_length=20)]] = Field(
        default_factory=dict,
        description="Labels of the machines of GitHub that build a target (sapphirerapids) or a model (R660), the "
        "model's first: jobs get them as `runs-on`. Where a CPU has all of the target, the smoke test runs natively. "
        "Models with one target are built by one job: give them the same labels.",
    )

    def packages_for(
        self, image: str, *, purpose: Literal["build", "runtime"], allocator: str | None = None
    ) -> tuple[str, ...]:
        """Return the distribution packages that an image needs for the product and perhaps an allocator, once each."""
        family = self.images[image].family
        tables = [self.product.packages, *([] if allocator is None else [self.allocators[allocator].packages])]
        found: dict[str, None] = {}
        for lists in tables:
            entry = lists.get(image) or lists.get(family)
            if entry is not None:
                found.update(dict.fromkeys(entry.build if purpose == "build" else entry.runtime))
        return tuple(found)

    def added_packages(self, image: str, allocator: str, *, purpose: Literal["build", "runtime"]) -> tuple[str, ...]:
        """Return the distribution packages that an allocator needs in an image, and the product does not."""
        known = self.packages_for(image, purpose=purpose)
        return tuple(p for p in self.packages_for(image, purpose=purpose, allocator=allocator) if p not in known)


def series_schema() -> JsonSchemaValue:
    """Return the JSON schema of a series file."""
    return schema_of(Series)


def matrix_schema() -> JsonSchemaValue:
    """Return the JSON schema of matrix.yaml, which is checked in beside it."""
    return schema_of(Spec)


def schema_of(top: type[BaseModel]) -> JsonSchemaValue:
    """Return a model's JSON schema, as pydantic makes it, but closed for names that fit no pattern.

    Pydantic puts the patterns of a mapping's keys into `patternProperties`, which refuses no other key by itself.
    """
    schema = top.model_json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        for entry in part.get("properties", {}).values():
            if "patternProperties" in entry:
                entry["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
