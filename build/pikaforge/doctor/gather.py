"""Gather the facts: this machine is looked at, and the configuration's servers are asked, all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from pikaforge.config import load
from pikaforge.config.patch_series import Series
from pikaforge.config.schema import Spec
from pikaforge.doctor import look, servers
from pikaforge.doctor.facts import BaseSeen, ClockSeen, Facts, KeysSeen, LockSeen, ServerSeen, SourceSeen
from pikaforge.doctor.programs import PROGRAMS
from pikaforge.errors import ConfigError, HostError
from pikaforge.host import disk, engine_seen, process, questions
from pikaforge.host.docker import DockerEngine
from pikaforge.host.engine_seen import EngineSeen
from pikaforge.host.lockfile import NAME, Lock
from pikaforge.pipeline.image.base_image import REPOSITORY
from pikaforge.pipeline.source.origin import Origin
from pikaforge.plan.matrix import matching_image

SECONDS = 15.0
"""For the engine, and then for all other questions together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the command line says."""

    matrix: Path
    out: Path
    dist: Path
    os: str = ""
    """An image; `all`; or "" for the one that a build takes."""
    source: str = ""
    """As `--source`."""
    engine: Literal["docker", "host"] = "docker"
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Answers:
    """What came in in time."""

    servers: list[ServerSeen] = field(default_factory=list)
    bases: list[BaseSeen] = field(default_factory=list)
    source: SourceSeen | None = None
    keys: KeysSeen = field(default_factory=KeysSeen)


def facts(places: Places) -> Facts:
    """Return all facts. What fails is a fact, too.

    Raises:
        ConfigError: `--os` names no image.
    """
    spec, series, wrong = _configuration(places.matrix)
    images = wanted_images(spec, places.os)
    lock, problem = _lock(places)
    docker = DockerEngine()
    engine = _engine(places, docker)
    origin = look.origin_of(spec, places.source, base=places.matrix.parent, out=places.out)
    question = _Question(
        places=places,
        spec=spec,
        series=series,
        images=images,
        lock=lock,
        origin=origin,
        docker=None if engine.problem else docker,
    )
    answers = _ask(question)
    return Facts(
        configuration=wrong,
        spec=spec,
        images=images,
        installer=look.installer(),
        programs={name: process.find(name) for program in PROGRAMS for name in program.names},
        engine=engine,
        rooms=_rooms(places, engine),
        available=look.meminfo("MemAvailable"),
        bases=tuple(answers.bases),
        source=answers.source,
        servers=tuple(answers.servers),
        flags=look.flags(docker, engine),
        emulator=look.emulator(spec, engine),
        keys=answers.keys,
        logins=() if spec is None else tuple(look.logins(spec, places.environ)),
        lock=None if spec is None else _pins(question, problem),
        clock=ClockSeen(now=time.time(), newest=look.newest(places.out / "store")),
    )


def _configuration(path: Path) -> tuple[Spec | None, Series | None, tuple[str, ...]]:
    """Return specification and series, and the lines of the error that they make."""
    try:
        spec = load.load(path)
    except ConfigError as error:
        return None, None, tuple(error.lines())
    if spec.product.patches is None:
        return spec, None, ()
    try:
        load.check_series_files(path.parent / spec.product.patches)
        return spec, load.load_series(path.parent / spec.product.patches), ()
    except ConfigError as error:
        return spec, None, tuple(error.lines())


def wanted_images(spec: Spec | None, os: str) -> tuple[str, ...]:
    """Return the images that `--os` means, as for a build.

    Raises:
        ConfigError: there is no such image.
    """
    if spec is None:
        return ()
    if os == "all":
        return tuple(spec.images)
    if os and os not in spec.images:
        raise ConfigError(f"there is no image {os!r}", where="--os", hint=f"known: {', '.join(spec.images)}")
    return (os or matching_image(spec) or spec.defaults.image,)


def _lock(places: Places) -> tuple[Lock | None, str]:
    try:
        return Lock(places.matrix.parent / NAME), ""
    except ConfigError as error:
        return None, error.message


def _pins(question: _Question, problem: str) -> LockSeen:
    places, lock = question.places, question.lock
    path = places.matrix.parent / NAME
    if lock is None:
        return LockSeen(path=str(path), there=True, problem=problem)
    pinned = question.origin is None or bool(lock.pins("sources", question.origin.entry))
    images = question.images if places.engine == "docker" else ()
    return LockSeen(
        path=str(path),
        there=path.exists(),
        source=pinned,
        images=tuple(name for name in images if not lock.pins("images", name)),
    )


def _engine(places: Places, docker: DockerEngine) -> EngineSeen:
    """Return the engine; an engine that is silent is left alone."""
    if places.engine == "host":
        return engine_seen.this_machine(look.meminfo("MemTotal") or 0)
    found = questions.in_time({"engine": lambda: engine_seen.look(docker)}, SECONDS)
    silent = EngineSeen(kind="engine", problem=f"no answer in {SECONDS:g} s", hint="its own log may say why")
    return found.get("engine", silent)


def _rooms(places: Places, engine: EngineSeen) -> tuple[disk.Space, ...]:
    """Return the rooms of folders on this machine; that of an engine elsewhere cannot be seen."""
    rooms = [disk.room("results", places.out), disk.room("packages", places.dist)]
    if engine.local and engine.root and Path(engine.root).is_dir():
        # The engine writes there, and not this user.
        seen = disk.room("images", Path(engine.root))
        rooms.append(disk.Space(what=seen.what, folder=seen.folder, free=seen.free, device=seen.device))
    return tuple(rooms)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What decides who is asked."""

    places: Places
    spec: Spec | None
    series: Series | None
    images: tuple[str, ...]
    lock: Lock | None
    origin: Origin | None
    docker: DockerEngine | None
    """An engine that answers."""


def _ask(question: _Question) -> _Answers:
    """Ask everybody, at the same time."""
    places, spec, origin = question.places, question.spec, question.origin
    asking: dict[str, Callable[[], object]] = {"keys": partial(look.keys, places.environ, places.matrix.parent)}
    wanted: list[servers.WantedUrl] = []
    if spec is not None:
        wanted += servers.of_spec(spec, question.images, out=places.out)
        if places.engine == "docker":
            asking.update(_of_images(question, spec))
    if origin is not None:
        wanted += servers.of_series(question.series, question.lock, origin.entry, out=places.out)
        if origin.kind == "git" and not origin.local:
            asking["source"] = partial(look.source, origin, question.lock, places.out)
    asking.update({f"server {each.url}": partial(servers.asked, each) for each in wanted})
    found = questions.in_time(asking, SECONDS)
    for each in wanted:
        late = ServerSeen(
            url=each.url, purpose=each.purpose, answer=questions.Answered(reason=f"silent for {SECONDS:g} s")
        )
        found.setdefault(f"server {each.url}", late)
    answers = _Answers()
    _sort(found, answers)
    return answers


def _of_images(question: _Question, spec: Spec) -> dict[str, Callable[[], object]]:
    """Return the questions about the wanted images."""
    docker, made = question.docker, _made(question.docker)
    asking: dict[str, Callable[[], object]] = {}
    for name in question.images:
        asking[f"packages {name}"] = partial(_packages, spec, name, held=name in made)
        if docker is not None:
            asking[f"base {name}"] = partial(look.base, docker, name, spec.images[name], question.lock)
    return asking


def _sort(found: Mapping[str, object], answers: _Answers) -> None:
    """Put answers where they belong, by their type, in the order of their names."""
    for name in sorted(found):
        match found[name]:
            case ServerSeen() as server:
                answers.servers.append(server)
            case BaseSeen() as base:
                answers.bases.append(base)
            case SourceSeen() as source:
                answers.source = source
            case KeysSeen() as keys:
                answers.keys = keys
            case tuple() as several:
                answers.servers += [each for each in several if isinstance(each, ServerSeen)]


def _packages(spec: Spec, image: str, *, held: bool) -> tuple[ServerSeen, ...]:
    """Ask the package repositories of an image."""
    return tuple(map(servers.asked, servers.of_packages(spec, image, held=held)))


def _made(docker: DockerEngine | None) -> frozenset[str]:
    """Return the names of images of which the engine holds a build image, perhaps one of earlier inputs."""
    if docker is None:
        return frozenset()
    try:
        tags = [tag for _, tags, _ in docker.owned_images() for tag in tags]
    except HostError:
        return frozenset()
    names = (tag.rpartition(":")[0].removeprefix(f"{REPOSITORY}/") for tag in tags)
    return frozenset(name.removesuffix("-build") for name in names if name.endswith("-build"))
