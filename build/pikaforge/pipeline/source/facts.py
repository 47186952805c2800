"""Facts of the source stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pikaforge.config.scalars import Strict

State = Literal["applied", "present", "conflict"]


class Offset(Strict):
    """A hunk that fits, but not at its very lines."""

    path: str
    hunk: int
    lines: int
    """How much further down."""


class PatchFacts(Strict):
    """One patch of the series, and its state on the source."""

    name: str
    """`pull-988`, `file fix.patch` or `quilt FOLDER/0001-x.patch`."""
    sha256: str
    url: str = ""
    """Without credentials."""
    why: str = ""
    state: State
    offsets: tuple[Offset, ...] = ()
    notes: tuple[str, ...] = ()
    """If it is present: how it came into the source."""
    reasons: tuple[str, ...] = ()
    """If it is in conflict: why it does not apply."""


class SeriesFacts(Strict):
    """The patches of a series, in order: all that is known after a conflict."""

    patches: tuple[PatchFacts, ...]


class OriginFacts(Strict):
    """Where a source came from, without any path of this machine."""

    kind: str
    """`product` (product.source itself), `repository`, `clone`, `tarball` or `sample`."""
    url: str
    """Without credentials; empty if it is local."""
    ref: str
    """As it was asked for."""
    tag: str
    """The tag that `ref` names; empty if it names none."""
    version: str
    """The tag, else the ref and the commit as git describe writes them; of a tarball its name."""
    commit: str
    """The commit, or `sha256:…` of a tarball."""


class SourceFacts(OriginFacts, SeriesFacts):
    """Facts of a source tree."""

    origin: str
    """As the user named the source."""
    head: str
    """The commit after the series; empty for a tarball."""
    epoch: int
    """Date of the source in seconds since 1970."""
    submodules: Mapping[str, str]
    """The commit of each submodule, by its path."""
