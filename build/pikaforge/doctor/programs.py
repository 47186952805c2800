"""Programs that this tool runs on the machine itself, and what each is for. setup.sh installs the same packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program, and how to get it."""

    names: tuple[str, ...]
    """The first one that is there is used."""
    stops: str
    """What does not work without it."""
    apt: str
    """Its package on Debian and Ubuntu."""
    dnf: str
    """Its package on Enterprise Linux; "" if its own repositories have none."""
    needed: bool = False
    """Whether every build runs it."""
    host: bool = False
    """Whether only builds without containers run it (`--engine host`)."""


PROGRAMS: Sequence[Program] = (
    Program(
        names=("git",), needed=True, apt="git", dnf="git", stops="the source stage: nothing can be fetched or patched"
    ),
    Program(
        names=("mmdebstrap",),
        apt="mmdebstrap",
        dnf="",
        stops="base images of Debian and Ubuntu where no registry is in reach",
    ),
    Program(
        names=("zstd",),
        apt="zstd",
        dnf="zstd",
        stops="`audit` and `verify` of packages that are compressed by zstd (RPM and DEB of others)",
    ),
    Program(names=("gpg2", "gpg"), apt="gpg", dnf="gnupg2", stops="signing of packages and repositories"),
    Program(names=("gpg-agent",), apt="gpg-agent", dnf="gnupg2", stops="signing of packages and repositories"),
    Program(names=("gpgv2", "gpgv"), apt="gpgv", dnf="gnupg2", stops="`verify` of signatures"),
    Program(names=("tar",), host=True, apt="tar", dnf="tar", stops="jobs: trees are packed and unpacked by it"),
    Program(names=("gzip",), host=True, apt="gzip", dnf="gzip", stops="jobs: packages are compressed by it"),
    Program(names=("gcc",), host=True, apt="gcc", dnf="gcc", stops="the compile stage"),
    Program(names=("g++",), host=True, apt="g++", dnf="gcc-c++", stops="the compile stage"),
    Program(names=("make",), host=True, apt="make", dnf="make", stops="the compile stage, for most recipes"),
)
"""Those that the package stage runs are in the tools image, and those of a compilation in the build image."""
