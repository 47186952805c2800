"""The specification: what matrix.yaml may say, as frozen types.

The models refuse what they do not know (`extra="forbid"`) and never convert between types (`strict`), so that a
version written without quotes is an error and not another version. `config` reads the text, reports errors by
file, line and YAML path, and checks references between the parts. The JSON schema that editors use is made from
these classes (`invoke schema`).
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pikaforge.cpu.features import INVALID, table

DAY_PATTERN = r"^\d{4}-\d{2}-\d{2}$"


ANYTHING = re.compile(r"[*?\[\]!-]*")


def _feature(name: str) -> str:
    if name != INVALID and name not in table():
        close = difflib.get_close_matches(name, table(), n=1)
        raise ValueError(f"no feature is called {name!r}" + (f": did you mean {close[0]}?" if close else ""))
    return name


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


def _some(glob: str) -> str:
    if ANYTHING.fullmatch(glob):
        raise ValueError("a waiver names what it is for: not everything")
    return glob


class Waiver(BaseModel):
    """Instructions that a target's CPUs lack, allowed in named functions because they run only where they can."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: Annotated[str, AfterValidator(_some)] = Field(
        min_length=1, max_length=255, description="Glob over paths in the tree, such as lib/libzstd.so.*."
    )
    function: Annotated[str, AfterValidator(_some)] = Field(
        min_length=1, max_length=1024, description="Glob over symbol names as in the file (not demangled)."
    )
    features: tuple[Annotated[str, AfterValidator(_feature)], ...] = Field(
        min_length=1, description="Feature ids as the audit prints them, such as avx2."
    )
    reason: str = Field(min_length=10, description="How it is made sure that only CPUs with the features run it.")
    expires: Annotated[str, Field(pattern=DAY_PATTERN), AfterValidator(_day)] = Field(
        description="Last day on which it holds, YYYY-MM-DD."
    )
    image: str = Field(default="*", description="Glob over images that it is for.")
    target: str = Field(default="*", description="Glob over targets that it is for.")
    allocator: str = Field(default="*", description="Glob over allocators that it is for.")

    def covers(self, file: str, function: str, feature: str) -> bool:
        """Whether a finding is waived by this."""
        return (
            feature in self.features
            and fnmatch.fnmatchcase(file, self.file)
            and fnmatch.fnmatchcase(function, self.function)
        )

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return date.fromisoformat(self.expires) < today

    def title(self) -> str:
        """What it is for, in one line."""
        return f"waiver for {', '.join(self.features)} in {self.function} of {self.file}"


FOREIGN = ("repository", "clone", "tarball")
"""Kinds of sources that are not the product's own (`describe`): builds and changelogs name them."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PACKAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.+_:~-]*$"
PATH_PATTERN = r"^[A-Za-z0-9._@][A-Za-z0-9._@/+-]*$"
COMPILER_PATTERN = r"^[0-9]+\.[0-9]+(\.[0-9]+)?$"
RANGE_PATTERN = r"^(>=[0-9]+(\.[0-9]+){0,2}(, ?<[0-9]+(\.[0-9]+){0,2})?|<[0-9]+(\.[0-9]+){0,2})$"
WORD_PATTERN = r"^[A-Za-z0-9_=./+-]+$"
RELEASE_PATTERN = r"^[0-9][0-9.]*$"
BASE_PATTERN = r"^[a-z0-9][A-Za-z0-9._:/-]*$"
TAG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$"
LINE_PATTERN = r"\{key\}.*\{value\}"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
MAINTAINER_PATTERN = r"^[^<>\x00-\x1f]+ <[^<>@\s]+@[^<>@\s]+>$"
URL_PATTERN = r"^(https?|file)://[^\s'\"]+$"
SERVER_PATTERN = r"^https?://[^\s'\"@?#<>&]+$"
CLIENTS_PATTERN = r"^(https?|file)://[^\s'\"@?#<>&$]+$"
"""Without user, password, query or fragment: these could be secrets."""
DEFAULT_FOLDER = "repo"
"""Where a directory is that names no path, beside matrix.yaml."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
"""A name that becomes part of ids, paths, container names and tags; so no separators, no leading dot or dash."""
PackageName = Annotated[str, Field(pattern=PACKAGE_PATTERN, max_length=128)]


def _inside(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError("a path may not leave its folder: no `..`")
    return path


RelativePath = Annotated[str, Field(pattern=PATH_PATTERN, max_length=255), AfterValidator(_inside)]
"""A path below a folder the tool knows: never absolute, never with `..`."""


def _below(path: str) -> str:
    if path.startswith("/"):
        raise ValueError("a path below a server's data does not begin with `/`")
    return _inside(path)


Below = Annotated[str, Field(max_length=255), AfterValidator(_below)]
"""A path or glob below a server's data folder; may hold {today}."""
Argument = Annotated[str, Field(max_length=65536)]
CompilerVersion = Annotated[str, Field(pattern=COMPILER_PATTERN, max_length=32)]

MAIN = "main"
"""The instance that steps ask which name none."""
PEER = re.compile(r"\{(ip|port):([A-Za-z0-9][A-Za-z0-9._-]*)\}")
"""{ip:NAME} and {port:NAME} in words that are sent."""

EVERYTHING = "all"
"""The word that selects every value of an axis; refused as a name."""


class Strict(BaseModel):
    """Base of all parts of the specification."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


DMI_NAME = re.compile(r"[!#%&(-\[\]-_a-~]+( [!#%&(-\[\]-_a-~]+)*")
"""Printable ASCII but for what shells take for more than itself within quotes; no blanks at the ends, none doubled."""


def _dmi_name(name: str) -> str:
    if not DMI_NAME.fullmatch(name):
        raise ValueError(
            "a DMI product name is written as /sys/class/dmi/id/product_name has it: of ASCII characters, with single "
            "blanks, without quotes, backslash, dollar sign"
        )
    return name


DmiName = Annotated[str, Field(max_length=128), AfterValidator(_dmi_name)]
"""What a machine calls itself; becomes data of a shell script."""


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


Format = Literal["tar", "rpm", "deb", "wheel"]


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
    formats: tuple[Format, ...] = Field(default=("tar",), description="Which packages a build makes for it.")
    fallback: Literal["refuse", "nearest"] = Field(
        default="refuse",
        description="What to do for a target that the compiler cannot produce: refuse, or take the nearest.",
    )


class Packages(Strict):
    """Distribution packages, by purpose."""

    build: tuple[PackageName, ...] = Field(default=(), description="Installed into the build image.")
    runtime: tuple[PackageName, ...] = Field(default=(), description="Installed where the product runs.")


class Tarball(Strict):
    """A source tarball that is downloaded, known by its digest."""

    version: CompilerVersion = Field(description="Of what is in it, such as 2.7.")
    url: str = Field(pattern=URL_PATTERN, description="Where it is; its last part is the name of the file.")
    sha256: str = Field(pattern=DIGEST_PATTERN, description="As `sha256sum` prints it.")

    @property
    def file(self) -> str:
        """Its file name, in the download folder and at mirrors."""
        return self.url.partition("?")[0].rpartition("/")[2]


class Allocator(Strict):
    """A memory allocator choice. `none` is the C library's; `system` the image's own gperftools; `gperftools` is built
    for the target from a pinned tarball."""

    kind: Literal["none", "system", "gperftools"] = Field(description="Where the allocator comes from.")
    packages: dict[Name, Packages] = Field(default_factory=dict, description="By image, else by family.")
    unwinder: Literal["libunwind", "frame-pointers"] | None = Field(
        default=None,
        description="How a gperftools that is built walks the stack; with frame-pointers the product has them, too.",
    )
    tarball: Name | None = Field(default=None, description="The gperftools that is built, by name in `tarballs`.")
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
        if self.kind == "gperftools" and (self.unwinder is None or self.tarball is None):
            raise ValueError("kind gperftools needs `unwinder` and `tarball`")
        if self.kind != "gperftools":
            for name in ("unwinder", "tarball", "tarballs", "libunwind"):
                if getattr(self, name):
                    raise ValueError(f"kind {self.kind} takes no `{name}`")
        if self.unwinder == "frame-pointers" and self.libunwind:
            raise ValueError("unwinder frame-pointers takes no `libunwind`")
        return self


class Minimum(Strict):
    """The least version that a product runs with, and why."""

    version: CompilerVersion = Field(description="The first version that serves.")
    why: str = Field(min_length=1, description="What happens with an older one.")


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


class Refusal(Strict):
    """How a server must refuse to start: it ends by itself and says why."""

    match: str = Field(min_length=1, description="Regular expression that what it printed must contain.")
    status: int | None = Field(default=None, description="Its exit status (128 + N for signal N); null: any but 0.")


class Data(Strict):
    """What a server finds in its data folder at its first start: a copy of another one's data, or of a part."""

    of: Name = Field(description="The instance whose data it is; it may be running.")
    folder: Below = Field(default="", description="A folder below that one's data, may hold {today}; empty: all.")
    to: Below = Field(default="", description="Where its content goes, below the new one's data; empty: the top.")


class Load(Strict):
    """Many numbered writes over several connections, each of which must be acknowledged."""

    send: tuple[str | int, ...] = Field(min_length=1, description="One write; {n} stands for its number.")
    expect: Scalar = Field(default="OK", description="The reply that acknowledges it.")
    count: int = Field(gt=0, le=1_000_000, description="How many, numbered from 1.")
    connections: int = Field(default=4, gt=0, le=64, description="Connections at once.")
    batch: int = Field(default=50, gt=0, le=1000, description="Requests in one packet.")
    kill_at: int | None = Field(
        default=None,
        gt=0,
        description="SIGKILL for the server once so many are acknowledged, while it is at the others. Those that are "
        "not acknowledged then are not wanted back; a `start` step brings it up again.",
    )

    @model_validator(mode="after")
    def _killed_meanwhile(self) -> Load:
        if self.kill_at is not None and self.kill_at + self.connections * self.batch > self.count:
            raise ValueError("`count` must exceed `kill_at` by more than one batch per connection")
        return self


class Reading(Strict):
    """How the acknowledged writes of the `write` step before are read back."""

    send: tuple[str | int, ...] = Field(min_length=1, description="One request; {n} stands for the write's number.")
    expect: Scalar = Field(description="The reply; {n} stands for the write's number.")
    batch: int = Field(default=50, gt=0, le=1000, description="Requests in one packet.")


class Served(Strict):
    """How much memory tcmalloc must have had, by the statistics that it prints at a program's end."""

    at_least: float = Field(gt=0, description="MiB that it had got from the system, at its most.")


EXPECTATIONS = ("expect", "unordered", "match", "error")
STEP_OPTIONS: dict[str, frozenset[str]] = {
    "send": frozenset({"at", "within", *EXPECTATIONS}),
    "pipeline": frozenset({"at", "within", *EXPECTATIONS}),
    "start": frozenset({"data", "refused"}),
    "stop": frozenset({"signal"}),
    "write": frozenset({"at"}),
    "verify": frozenset({"at"}),
    "files": frozenset({"at", "within", "match", "at_least"}),
    "served": frozenset({"at"}),
}
"""The kinds of steps, and what else each of them may say."""


class Step(Strict):
    """One step of a check: an exchange with a server, or something done to one.

    Exactly one of `send`, `pipeline`, `start`, `stop`, `write`, `verify`, `files` and `served`. An exchange (`send`, or
    `pipeline`: several requests in one packet, whose reply is the list of theirs) has exactly one expectation.
    The other kinds are for checks with `instances` of their own. There, words that are sent may hold {ip:NAME} and
    {port:NAME}, where the others reach an instance, and paths may hold {today}, the server's date as YYYYMMDD.
    """

    at: Name = Field(default=MAIN, description="The instance that is asked.")
    send: tuple[str | int, ...] | None = Field(default=None, min_length=1, description="One request.")
    pipeline: tuple[tuple[str | int, ...], ...] | None = Field(
        default=None, min_length=1, description="Several requests, sent in one packet."
    )
    expect: Reply = Field(default=None, description="The exact reply; null is the nil reply.")
    unordered: tuple[Scalar, ...] | None = Field(default=None, description="The reply's members in any order.")
    match: str | None = Field(
        default=None, description="Regular expression that the reply contains, or (`files`) each file."
    )
    error: str | None = Field(default=None, description="Regular expression that the error reply contains.")
    within: float = Field(default=0.0, ge=0, le=600, description="Ask again until it holds, for so many seconds.")
    start: Name | None = Field(
        default=None, description="Start this instance and wait until it answers; again after a stop, with its data."
    )
    data: Data | None = Field(default=None, description="With the first `start`: what its data folder holds.")
    refused: Refusal | None = Field(default=None, description="With `start`: it must refuse, and how.")
    stop: Name | None = Field(
        default=None,
        description="End this instance. It must be gone in time, and not by another signal than the one sent; its "
        "exit status is left to the check `stop`, so that one defect is told once.",
    )
    signal: Literal["TERM", "INT", "QUIT", "KILL"] | None = Field(
        default=None, description="With `stop`: instead of the signal in `server.stop`."
    )
    write: Load | None = Field(default=None, description="Many writes, whose acknowledgements are recorded.")
    verify: Reading | None = Field(default=None, description="Read every acknowledged write of `write` back.")
    files: Below | None = Field(
        default=None,
        description="A glob over the paths of regular files below the instance's data; `*` matches slashes, too.",
    )
    at_least: int = Field(default=1, gt=0, description="With `files`: how many must be there.")
    served: Served | None = Field(
        default=None,
        description="End this instance as `stop` does, and see that its memory was served by tcmalloc; in a cell whose "
        "allocator is none, that it was not.",
    )

    @property
    def kind(self) -> str:
        """Which of the kinds of steps this is."""
        return next(kind for kind in STEP_OPTIONS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _one_of_each(self) -> Step:
        kinds = [kind for kind in STEP_OPTIONS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {_quoted(STEP_OPTIONS)}")
        for name in sorted(self.model_fields_set - STEP_OPTIONS[kinds[0]] - STEP_OPTIONS.keys()):
            if getattr(self, name) is not None or name == "expect":
                raise ValueError(f"`{kinds[0]}` takes no `{name}`")
        if kinds[0] in ("send", "pipeline") and len(set(EXPECTATIONS) & self.model_fields_set) != 1:
            raise ValueError(f"give exactly one of {_quoted(EXPECTATIONS)}")
        return self


class Instance(Strict):
    """A server of a check's own, in a clean place of its own; `start` steps start it.

    Instances of one check reach each other over a private network, and nothing else reaches them there.
    """

    settings: dict[str, str] = Field(
        default_factory=dict, description="Configuration on top of the product's; values may hold {port} and {data}."
    )
    unprivileged: bool = Field(
        default=False,
        description="Run it as a user who may write its data folder alone: not the folder of its configuration.",
    )
    open_files: int | None = Field(
        default=None, gt=0, description="Its limit of open files (RLIMIT_NOFILE), soft and hard."
    )


class Check(Strict):
    """A named smoke check: steps in order, each exchange on one connection per server.

    A check without `instances` is a list of exchanges with the one server that all such checks share.
    """

    check: Name = Field(description="Its name in logs and reports.")
    why: str = Field(default="", description="The bug or promise that it stands for.")
    instances: dict[Name, Instance] = Field(
        default_factory=dict, description="Servers of its own; steps without `at` ask the one called main."
    )
    steps: tuple[Step, ...] = Field(min_length=1, description="What is done, in this order.")
    required: bool = Field(
        default=True, description="Whether its failure fails the stage; if not, it is only recorded."
    )
    needs: tuple[Name, ...] = Field(
        default=(), description="Earlier checks without which this one means nothing: if one fails, it is skipped."
    )
    allocators: tuple[Literal["none", "system", "gperftools"], ...] = Field(
        default=(), description="Kinds of allocators that it is for; empty: all."
    )
    emulated: bool | None = Field(
        default=None,
        description="Whether it also runs under emulation of the target; null: if it has no instances of its own.",
    )

    @property
    def shared(self) -> bool:
        """Whether it asks the server that such checks share."""
        return not self.instances

    def serves(self, kind: str) -> bool:
        """Whether it is for cells with this kind of allocator."""
        return not self.allocators or kind in self.allocators

    @property
    def runs_emulated(self) -> bool:
        """Whether it is among the checks under emulation."""
        return self.shared if self.emulated is None else self.emulated

    @model_validator(mode="after")
    def _fits_together(self) -> Check:
        for number, step in enumerate(self.steps):
            where = f"steps[{number}]"
            if self.shared:
                if step.kind not in ("send", "pipeline"):
                    raise ValueError(f"{where}: `{step.kind}` needs `instances` of the check's own")
                if "at" in step.model_fields_set:
                    raise ValueError(f"{where}: `at` needs `instances` of the check's own")
                continue
            for name in _named(step):
                if name not in self.instances:
                    raise ValueError(f"{where}: there is no instance {name!r}; known are {_quoted(self.instances)}")
            if step.kind == "verify" and not any(s.kind == "write" for s in self.steps[:number]):
                raise ValueError(f"{where}: `verify` needs a `write` step before it")
        return self


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _named(step: Step) -> Iterator[str]:
    """The instances that a step names."""
    if step.kind in ("start", "stop"):
        yield step.start or step.stop or ""
    else:
        yield step.at
    if step.data is not None:
        yield step.data.of
    for request in step.pipeline or [step.send or ()]:
        for word in request:
            if isinstance(word, str):
                yield from (found.group(2) for found in PEER.finditer(word))


Flag = Annotated[str, Field(pattern=WORD_PATTERN, max_length=128)]
"""One word for a compiler; `compilers` says which there may be."""


class Adaptation(Strict):
    """What the product needs of some versions of the compiler beyond the target's flags."""

    gcc: str = Field(
        pattern=RANGE_PATTERN, max_length=64, description='Range of versions, such as ">=11", "<13" or ">=11,<13".'
    )
    cflags: tuple[Flag, ...] = Field(default=(), description="Added where C is compiled, one word each.")
    cxxflags: tuple[Flag, ...] = Field(default=(), description="Added where C++ is compiled, one word each.")
    why: str = Field(min_length=1, description="What does not compile without, and where that was found.")

    @model_validator(mode="after")
    def _adds_something(self) -> Adaptation:
        if not self.cflags and not self.cxxflags:
            raise ValueError("give `cflags`, `cxxflags` or both")
        return self


class Product(Strict):
    """What is built. Nothing outside this entry and its recipe knows the product."""

    name: Name = Field(description="Begins the names of packages and files.")
    version: Name = Field(description="As packages carry it.")
    release: Name = Field(default="1", description="The packager's count of builds of one version.")
    summary: str = Field(default="", max_length=80, description="One line, for packages.")
    description: str = Field(default="", description="A paragraph, for packages.")
    licence: str = Field(default="NOASSERTION", description="SPDX expression.")
    url: str = Field(default="", description="The project's page.")
    maintainer: str = Field(
        default="pikaforge <pikaforge@localhost>",
        pattern=MAINTAINER_PATTERN,
        description="Who answers for the packages: NAME <ADDRESS>.",
    )
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
    gperftools: Minimum | None = Field(default=None, description="The least gperftools that it runs with, if any.")
    compilers: tuple[Adaptation, ...] = Field(
        default=(), description="What compilers newer or older than the source need, by version."
    )
    keep_werror: bool = Field(
        default=False,
        description="Whether -Werror of its build files counts; else the warnings of a newer compiler are no errors.",
    )
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
    emulator: Name | None = Field(
        default=None,
        description="The image from whose packages the emulator is taken, Debian 13 at least; null: none is used.",
    )
    publish: Name | None = Field(default=None, description="The destination where none is named.")
    base_libraries: tuple[str, ...] = Field(
        min_length=1, description="Globs of sonames that every base system promises; all others travel in lib/."
    )


class Destination(Strict):
    """Where packages are published: a folder, an HTTP server that takes PUT, or a Python index.

    Credentials are never part of it: they come from the environment, a file or a netrc.
    """

    kind: Literal["directory", "http", "index"] = Field(description="What it is.")
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
        default=None, pattern=SERVER_PATTERN, description="Of an index: its list of packages; else `url` + simple/."
    )
    keep: int | None = Field(
        default=None, ge=1, le=1000, description="Versions of each package, and generations, that stay; else all."
    )
    requires: Literal["run"] | None = Field(
        default=None, description="run: refuse packages whose own target was never run, only a twin's."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Destination:
        if self.kind == "directory":
            wrong = [name for name in ("url", "simple") if getattr(self, name)]
        else:
            wrong = [
                name
                for name in ("path", *(("clients", "keep") if self.kind == "index" else ("simple",)))
                if getattr(self, name)
            ]
            if self.url is None:
                raise ValueError(f"kind {self.kind} needs `url`")
        if wrong:
            raise ValueError(f"kind {self.kind} takes no `{wrong[0]}`")
        return self

    @property
    def folder(self) -> str:
        """A directory's path."""
        return self.path or DEFAULT_FOLDER


class Spec(Strict):
    """The whole of matrix.yaml."""

    product: Product = Field(description="What is built, and what it must do.")
    hardware: dict[Name, Model] = Field(min_length=1, description="Hardware models by name.")
    images: dict[Name, Image] = Field(min_length=1, description="OS images by name.")
    allocators: dict[Name, Allocator] = Field(min_length=1, description="Memory allocators by name.")
    matrix: Matrix = Field(default=Matrix(), description="Which combinations exist.")
    defaults: Defaults = Field(description="What is taken when the command line does not say.")
    tarballs: dict[Name, Tarball] = Field(default_factory=dict, description="Sources that are downloaded, by name.")
    mirrors: tuple[Annotated[str, Field(pattern=URL_PATTERN)], ...] = Field(
        default=(), description="Folders that are asked for tarballs before their own URLs."
    )
    waivers: tuple[Waiver, ...] = Field(
        default=(), description="Findings of the audit that somebody has looked at: by name, with a reason and an end."
    )
    publish: dict[Name, Destination] = Field(default_factory=dict, description="Where packages are published, by name.")

    def packages_for(self, image: str, *, purpose: Literal["build", "runtime"]) -> tuple[str, ...]:
        """Distribution packages that `image` needs for the product and its allocators, in order, once each."""
        family = self.images[image].family
        tables = [self.product.packages, *(a.packages for a in self.allocators.values())]
        found: dict[str, None] = {}
        for lists in tables:
            entry = lists.get(image) or lists.get(family)
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
    already: Literal["skip", "refuse"] = Field(
        default="skip", description="What to do where the source has it already: leave it out, or end with an error."
    )

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
    return schema_of(Series)


def matrix_schema() -> dict[str, Any]:
    """JSON schema of matrix.yaml, as checked in beside it."""
    return schema_of(Spec)


def schema_of(top: type[Strict]) -> dict[str, Any]:
    """A model's JSON schema as pydantic makes it, with names refused that fit no pattern: it leaves those to us."""
    schema = top.model_json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        for entry in part.get("properties", {}).values():
            if "patternProperties" in entry:
                entry["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
