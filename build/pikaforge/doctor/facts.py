"""Facts about a machine and about what this project's configuration leads to. Nothing here judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pikaforge.config.schema import Spec
from pikaforge.host.disk import Space
from pikaforge.host.engine_seen import EngineSeen
from pikaforge.host.questions import Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a URL of the configuration is for."""

    what: str
    """For people: `patch pull-988`."""
    kind: Literal["patch", "tarball", "mirror", "packages", "publish", "store"]
    needed: bool
    """Whether a build of the wanted images asks for it."""
    held: bool = False
    """Whether what is behind it is here already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSeen:
    """A URL, and what came back from there."""

    url: str
    purpose: Purpose
    answer: Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSeen:
    """The repository of the product's source."""

    url: str
    """As it may be shown."""
    ref: str
    problem: str = ""
    """Why it cannot be used; "" if it answers and has the ref."""
    mend: tuple[str, ...] = ()
    held: bool = False
    """Whether the pinned commit was fetched before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSeen:
    """The base of an image."""

    image: str
    reference: str
    bootstrap: str
    """The suite; "" if it can only come from a registry."""
    held: bool
    """Whether the engine has it."""
    registry: str | None
    """Why the registry does not give it; "" if it would; None if it was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysSeen:
    """Keys to sign with and to verify with."""

    signing: str = ""
    """Fingerprint of the key that signs; "" without one."""
    remarks: tuple[str, ...] = ()
    signing_problem: str = ""
    signing_mend: tuple[str, ...] = ()
    verifying: tuple[str, ...] = ()
    """Files of public keys, by the variable's order."""
    verifying_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSeen:
    """Credentials of a destination."""

    destination: str
    url: str
    source: str
    """The variable or file that they are from; "" without any."""
    problem: str = ""
    mend: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSeen:
    """sources.lock."""

    path: str
    there: bool
    problem: str = ""
    source: bool = False
    """Whether it pins the source."""
    images: tuple[str, ...] = ()
    """The wanted images that it does not pin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSeen:
    """This machine's clock, and what it can be compared with. All in seconds since 1970."""

    now: float
    newest: float = 0.0
    """Of the newest file in the store; 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that checks judge. What could not be found out is absent, and no check speaks of it."""

    configuration: tuple[str, ...] = ()
    """Lines of the error that matrix.yaml or the series makes; empty if they are right."""
    spec: Spec | None = None
    images: tuple[str, ...] = ()
    """The wanted images."""
    installer: str = ""
    """The command that installs packages on this machine: `sudo apt-get install`; "" if it has none that is known."""
    programs: Mapping[str, str | None] = field(default_factory=dict)
    """Paths of programs by name."""
    engine: EngineSeen
    rooms: tuple[Space, ...] = ()
    available: int | None = None
    """Bytes of memory that programs may still take on this machine."""
    bases: tuple[BaseSeen, ...] = ()
    source: SourceSeen | None = None
    servers: tuple[ServerSeen, ...] = ()
    flags: frozenset[str] | None = None
    """Of the CPUs that run the smoke tests; None if they are not known."""
    emulator: str = ""
    """What emulates: an image of the configuration, or a path on this machine; "" for nothing."""
    keys: KeysSeen = field(default_factory=KeysSeen)
    logins: tuple[LoginSeen, ...] = ()
    lock: LockSeen | None = None
    clock: ClockSeen
