"""The specification: what matrix.yaml may say, as frozen types.

The models refuse what they do not know (`extra="forbid"`) and never convert between types (`strict`), so that a
version written without quotes is an error and not another version. `config` reads the text, reports errors by
file, line and YAML path, and checks references between the parts. The JSON schema that editors use is made from
these classes (`invoke schema`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PACKAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.+_:~-]*$"
PATH_PATTERN = r"^[A-Za-z0-9._@][A-Za-z0-9._@/+-]*$"
COMPILER_PATTERN = r"^[0-9]+\.[0-9]+(\.[0-9]+)?$"
RELEASE_PATTERN = r"^[0-9][0-9.]*$"
BASE_PATTERN = r"^[a-z0-9][A-Za-z0-9._:/-]*$"
TAG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$"
LINE_PATTERN = r"\{key\}.*\{value\}"
URL_PATTERN = r"^(https?|file)://[^\s'\"]+$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
"""A name that becomes part of ids, paths, container names and tags; so no separators, no leading dot or dash."""
PackageName = Annotated[str, Field(pattern=PACKAGE_PATTERN, max_length=128)]


def _inside(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError("a path may not leave its folder: no `..`")
    return path


RelativePath = Annotated[str, Field(pattern=PATH_PATTERN, max_length=255), AfterValidator(_inside)]
"""A path below a folder the tool knows: never absolute, never with `..`."""
Argument = Annotated[str, Field(max_length=65536)]
CompilerVersion = Annotated[str, Field(pattern=COMPILER_PATTERN)]

EVERYTHING = "all"
"""The word that selects every value of an axis; refused as a name."""


class Strict(BaseModel):
    """Base of all parts of the specification."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(Strict):
    """A hardware model: a label that operators know, and the CPUs that are sold in it."""

    cpus: tuple[Name, ...] = Field(min_length=1, description="CPU microarchitectures by archspec name.")
    note: str = Field(default="", description="Where the list of CPUs comes from, or what is special.")


class OsRelease(Strict):
    """How /etc/os-release of a machine with this OS names itself; `version` may be a prefix up to a dot."""

    id: Name = Field(description="ID, such as debian.")
    version: str = Field(pattern=RELEASE_PATTERN, description='VERSION_ID, such as "22.04", in quotes.')


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
    gcc: CompilerVersion = Field(description="Version of the image's gcc, major.minor at least.")
    allocator: Name = Field(default="none", description="The allocator of a build that names none.")
    fallback: Literal["refuse", "nearest"] = Field(
        default="refuse",
        description="What to do for a target that the compiler cannot produce: refuse, or take the nearest.",
    )


class Packages(Strict):
    """Distribution packages, by purpose."""

    build: tuple[PackageName, ...] = Field(default=(), description="Installed into the build image.")
    runtime: tuple[PackageName, ...] = Field(default=(), description="Installed where the product runs.")


class Allocator(Strict):
    """A memory allocator choice. `none` is the C library's; `system` the image's own gperftools."""

    kind: Literal["none", "system"] = Field(description="Where the allocator comes from.")
    packages: dict[Name, Packages] = Field(default_factory=dict, description="By image, else by family.")
    frame_pointers: bool = Field(default=False, description="Compile with -fno-omit-frame-pointer.")


class Source(Strict):
    """Where the product's source comes from: a git repository at a tag, or a tarball."""

    git: str | None = Field(default=None, min_length=1, description="URL or path of the repository.")
    tag: str | None = Field(default=None, pattern=TAG_PATTERN, description="The tag to build.")
    tarball: str | None = Field(default=None, min_length=1, description="Path, relative to this file.")

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if (self.git is None) == (self.tarball is None):
            raise ValueError("give either `git` with `tag`, or `tarball`")
        if (self.git is None) != (self.tag is None):
            raise ValueError("`git` and `tag` go together")
        return self


class Conf(Strict):
    """How the server's configuration file is made for a test run."""

    path: RelativePath = Field(description="In the tree; the base that `settings` change.")
    line: str = Field(description="One setting, with {key} and {value}.", pattern=LINE_PATTERN)
    settings: dict[str, str] = Field(description="What each instance sets; values may hold {port} and {data}.")
    testing: dict[str, str] = Field(
        default_factory=dict, description="Set on top in test runs, e.g. what a container's limits demand."
    )


class Start(Strict):
    """A command below the tree's top folder, with what it must answer."""

    command: tuple[Argument, ...] = Field(min_length=1, description="Program and arguments.")
    status: int = Field(default=0, description="The exit status that it must have.")
    match: str = Field(default="", description="Regular expression that the output must contain.")


class Stop(Strict):
    """How the server is asked to end, and how it must."""

    signal: Literal["TERM", "INT", "QUIT"] = Field(default="TERM", description="What asks it to end.")
    within: float = Field(default=20.0, gt=0, le=600, description="Seconds until it must be gone.")
    status: int = Field(default=0, description="The exit status that it must have.")


class Server(Strict):
    """How the product is started, reached and stopped."""

    command: tuple[Argument, ...] = Field(min_length=1, description="May hold {conf}, {port} and {data}.")
    conf: Conf
    port: int = Field(gt=0, lt=65536, description="Where clients connect.")
    offsets: tuple[int, ...] = Field(default=(0,), description="Further ports, relative to `port`.")
    within: float = Field(default=60.0, gt=0, le=600, description="Seconds until it must answer.")
    version: Start = Field(description="The command that shows the version.")
    stop: Stop = Field(default=Stop(), description="How it is stopped.")


Scalar = str | int | None
Reply = Scalar | tuple["Scalar | tuple[Scalar, ...]", ...]


class Step(Strict):
    """One exchange with the server: what is sent, and what the reply must be.

    Exactly one of `send` and `pipeline` (several requests in one packet; the reply is then the list of theirs), and
    exactly one expectation.
    """

    send: tuple[str | int, ...] | None = Field(default=None, min_length=1, description="One request.")
    pipeline: tuple[tuple[str | int, ...], ...] | None = Field(
        default=None, min_length=1, description="Several requests, sent in one packet."
    )
    expect: Reply = Field(default=None, description="The exact reply; null is the nil reply.")
    unordered: tuple[Scalar, ...] | None = Field(default=None, description="The reply's members in any order.")
    match: str | None = Field(default=None, description="Regular expression that the reply contains.")
    error: str | None = Field(default=None, description="Regular expression that the error reply contains.")
    within: float = Field(default=0.0, ge=0, le=600, description="Ask again until it holds, for so many seconds.")

    @model_validator(mode="after")
    def _one_of_each(self) -> Step:
        if (self.send is None) == (self.pipeline is None):
            raise ValueError("give either `send` or `pipeline`")
        given = {"expect", "unordered", "match", "error"} & self.model_fields_set
        if len(given) != 1:
            raise ValueError("give exactly one of `expect`, `unordered`, `match`, `error`")
        return self


class Check(Strict):
    """A named smoke check: a list of exchanges on one connection."""

    check: Name = Field(description="Its name in logs and reports.")
    why: str = Field(default="", description="The bug or promise that it stands for.")
    steps: tuple[Step, ...] = Field(min_length=1, description="Exchanges, in this order.")


class Product(Strict):
    """What is built. Nothing outside this entry and its recipe knows the product."""

    name: Name = Field(description="Begins the names of packages and files.")
    version: Name = Field(description="As packages carry it.")
    warning: str = Field(default="", description="Shown by plan, e.g. that upstream gave this version up.")
    source: Source
    sample: RelativePath | None = Field(
        default=None, description="Script that makes the repositories of a stand-in, for `--source sample`."
    )
    patches: RelativePath | None = Field(default=None, description="The series file.")
    recipe: RelativePath = Field(description="Shell script that compiles the tree, run in the build image.")
    binaries: tuple[RelativePath, ...] = Field(min_length=1, description="ELF files that the recipe must leave.")
    files: tuple[RelativePath, ...] = Field(default=(), description="Other files that it must leave.")
    packages: dict[Name, Packages] = Field(description="By image, else by family.")
    server: Server
    smoke: tuple[Check, ...] = Field(default=(), description="Checks against the running server.")


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

    axes: Axes = Field(default=Axes(), description="What is combined.")
    exclude: tuple[Rule, ...] = Field(default=(), description="Combinations that are not built.")
    include: tuple[Rule, ...] = Field(default=(), description="Combinations that are built nevertheless.")


class Defaults(Strict):
    """What is taken when the command line does not say."""

    image: Name = Field(description="The image where none of them matches the machine.")
    tools: Name = Field(description="The image on which the tools image (git, tar, packers) is made.")
    base_libraries: tuple[str, ...] = Field(
        min_length=1, description="Globs of sonames that every base system promises; all others travel in lib/."
    )


class Spec(Strict):
    """The whole of matrix.yaml."""

    product: Product = Field(description="What is built, and what it must do.")
    hardware: dict[Name, Model] = Field(min_length=1, description="Hardware models by name.")
    images: dict[Name, Image] = Field(min_length=1, description="OS images by name.")
    allocators: dict[Name, Allocator] = Field(min_length=1, description="Memory allocators by name.")
    matrix: Matrix = Field(default=Matrix(), description="Which combinations exist.")
    defaults: Defaults = Field(description="What is taken when the command line does not say.")
    publish: dict[Name, Any] = Field(default_factory=dict, max_length=0, description="No targets exist yet.")

    def packages_for(self, image: str, *, purpose: Literal["build", "runtime"]) -> tuple[str, ...]:
        """Distribution packages that `image` needs for the product and its allocators, in order, once each."""
        family = self.images[image].family
        tables = [self.product.packages, *(a.packages for a in self.allocators.values())]
        found: dict[str, None] = {}
        for table in tables:
            entry = table.get(image) or table.get(family)
            if entry is not None:
                found.update(dict.fromkeys(entry.build if purpose == "build" else entry.runtime))
        return tuple(found)


class PatchEntry(Strict):
    """One entry of a series: a pull request, a local patch, or a quilt folder."""

    pull: int | None = Field(default=None, gt=0, description="Number of the pull request.")
    url: str | None = Field(default=None, pattern=URL_PATTERN, description="Its mailbox (.patch).")
    file: RelativePath | None = Field(default=None, description="A patch file beside the series.")
    quilt: RelativePath | None = Field(default=None, description="A folder with a quilt series, beside the series.")
    why: str = Field(default="", description="What it repairs or adds.")
    enabled: bool = Field(default=True, description="An entry that is not enabled is kept, and not applied.")

    @model_validator(mode="after")
    def _one_kind(self) -> PatchEntry:
        if sum(kind is not None for kind in (self.pull, self.file, self.quilt)) != 1:
            raise ValueError("give exactly one of `pull`, `file`, `quilt`")
        if (self.pull is None) != (self.url is None):
            raise ValueError("`pull` and `url` go together")
        return self


class Series(Strict):
    """patches/<version>/series.yaml: the patches in the order in which they apply."""

    patches: tuple[PatchEntry, ...] = Field(description="In the order in which they apply.")


def series_schema() -> dict[str, Any]:
    """JSON schema of a series file."""
    return _schema(Series)


def matrix_schema() -> dict[str, Any]:
    """JSON schema of matrix.yaml, as checked in beside it."""
    return _schema(Spec)


def _schema(top: type[Strict]) -> dict[str, Any]:
    """As pydantic makes it, with names refused that fit no pattern: it leaves those to the models."""
    schema = top.model_json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        for entry in part.get("properties", {}).values():
            if "patternProperties" in entry:
                entry["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
