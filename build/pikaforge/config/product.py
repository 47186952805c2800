"""The product as matrix.yaml writes it: source, server, files, and what compilers need for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from pikaforge.config.licences import NOASSERTION, spdx_expression
from pikaforge.config.load_checks import LoadChecks
from pikaforge.config.operate import COMMAND_PATTERN, Operate
from pikaforge.config.operate_scalars import KEY_PATTERN, VALUE_PATTERN
from pikaforge.config.registry import ALLOCATORS, PROBES
from pikaforge.config.scalars import (
    LINE_PATTERN,
    MAINTAINER,
    MAINTAINER_PATTERN,
    RANGE_PATTERN,
    TAG_PATTERN,
    Argument,
    CompilerVersion,
    Flag,
    Name,
    OneOf,
    PackageName,
    RelativePath,
    Strict,
    without_login,
)
from pikaforge.config.smoke_checks import Check, Probe


class Packages(Strict):
    """Distribution packages, by purpose."""

    build: tuple[PackageName, ...] = Field(default=(), description="Installed into the build image.")
    runtime: tuple[PackageName, ...] = Field(default=(), description="Installed where the product runs.")


class Minimum(Strict):
    """The least version that a product runs with, and why."""

    version: CompilerVersion = Field(description="The first version that serves.")
    why: str = Field(min_length=1, description="What happens with an older one.")


class Source(Strict):
    """Where the product's source comes from: a git repository at a tag, or a tarball."""

    git: str | None = Field(default=None, min_length=1, description="URL or path of the repository.")
    tag: str | None = Field(default=None, pattern=TAG_PATTERN, description="The tag to build.")
    tarball: str | None = Field(default=None, min_length=1, description="Path, relative to this file.")

    _git_has_no_login = field_validator("git")(without_login)

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

    @property
    def separator(self) -> str:
        """What is between key and value."""
        return self.line.replace("{key}", "").replace("{value}", "")


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


RESP = "resp"
"""The kind of probe of servers that speak RESP."""


def _probe_of(ready: object) -> object:
    """Return a kind's name as a probe."""
    return {"kind": ready} if isinstance(ready, str) else ready


class Server(Strict):
    """How the product is started, reached and stopped."""

    command: tuple[Argument, ...] = Field(min_length=1, description="May hold {conf}, {port} and {data}.")
    conf: Conf | None = Field(default=None, description="Its configuration file; null: it has none.")
    ready: Annotated[
        Probe, BeforeValidator(_probe_of, json_schema_input_type=Annotated[str, OneOf(PROBES)] | Probe)
    ] = Field(
        default_factory=lambda: Probe(kind=RESP),
        description="How it is seen that it serves: a probe, or its kind alone; resp if it is not said.",
    )
    port: int = Field(gt=0, lt=65536, description="Where clients connect.")
    offsets: tuple[int, ...] = Field(default=(0,), description="Further ports, relative to `port`.")
    within: float = Field(default=60.0, gt=0, le=600, description="Seconds until it must answer.")
    unprivileged: bool = Field(
        default=False,
        description="Run it in tests as a user who may write its data folder alone, because it refuses to serve as "
        "root, or gives root's rights up and then cannot be looked at. Its unit always has a user of its own.",
    )
    version: Start = Field(description="The command that shows the version.")
    stop: Stop = Field(default=Stop.model_construct(), description="How it is stopped.")
    operate: Operate | None = Field(
        default=None, description="How its instances are operated on hosts; null: they are set up, and no more."
    )

    @model_validator(mode="after")
    def _can_be_operated(self) -> Server:
        if self.operate is None:
            return self
        if self.ready.kind != RESP:
            raise ValueError(f"`operate` is for servers that speak RESP, and this one is asked by {self.ready.kind!r}")
        if self.conf is None:
            raise ValueError("`operate` is for servers with a configuration file: give `conf`, or leave it out")
        texts = [(COMMAND_PATTERN, word) for word in self.command]
        texts += [(KEY_PATTERN, key) for key in self.conf.settings]
        texts += [
            (VALUE_PATTERN, value.replace('""', "")) for value in (*self.conf.settings.values(), self.conf.separator)
        ]
        wrong = next((text for pattern, text in texts if not re.fullmatch(pattern, text)), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong!r} cannot be used by the scripts of `operate`: no quotes, backslashes or controls"
            )
        return self


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


if TYPE_CHECKING:
    Minimums = Strict
else:  # a field for each kind of allocator that is built for a target
    Minimums = create_model(
        "Minimums",
        __base__=Strict,
        **{
            kind.name: (
                Minimum | None,
                Field(default=None, description=f"The least {kind.name} that it runs with, if any."),
            )
            for kind in ALLOCATORS.all()
            if kind.own
        },
    )


class Product(Minimums):
    """What is built. Nothing outside this entry and its recipe knows the product."""

    name: Name = Field(description="Begins the names of packages and files.")
    version: Name = Field(description="As packages carry it.")
    release: Name = Field(default="1", description="The packager's count of builds of one version.")
    summary: str = Field(default="", max_length=80, description="One line, for packages.")
    description: str = Field(default="", description="A paragraph, for packages.")
    licence: str = Field(default=NOASSERTION, description="SPDX expression.")
    licence_files: tuple[RelativePath, ...] = Field(
        default=(),
        description="Files of the source with licences and copyright notices; else all that have such a name.",
    )
    url: str = Field(default="", description="The project's page.")
    maintainer: str = Field(
        default=MAINTAINER,
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
    compilers: tuple[Adaptation, ...] = Field(
        default=(), description="What compilers newer or older than the source need, by version."
    )
    keep_werror: bool = Field(
        default=False,
        description="Whether -Werror of its build files counts; else the warnings of a newer compiler are no errors.",
    )
    server: Server | None = Field(default=None, description="The server that it is; null: a library, or tools.")
    smoke: tuple[Check, ...] = Field(default=(), description="Checks against the running server, or by commands.")
    bench: LoadChecks = Field(default=LoadChecks.model_construct(), description="What a load test asks the server.")

    @property
    def speaks_resp(self) -> bool:
        """Whether its server speaks RESP."""
        return self.server is not None and self.server.ready.kind == RESP

    _url_has_no_login = field_validator("url")(without_login)
    _licence_is_of_spdx = field_validator("licence")(spdx_expression)

    def least(self, allocator: str) -> Minimum | None:
        """Return the least version of a kind of allocator that the product runs with; None if any version serves."""
        found = getattr(self, allocator, None)
        return found if isinstance(found, Minimum) else None
