"""Look at single things of this machine and of the configuration: each function returns a fact."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pikaforge.attest import signing
from pikaforge.attest.signatures import Verifier
from pikaforge.config.schema import Image, Spec
from pikaforge.doctor.facts import BaseSeen, KeysSeen, LoginSeen, SourceSeen
from pikaforge.errors import ConfigError, ForgeError, HostError
from pikaforge.host import git, process
from pikaforge.host.docker import DockerEngine
from pikaforge.host.engine_seen import EngineSeen
from pikaforge.host.git_cache import Cache
from pikaforge.host.git_urls import masked
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.lockfile import Lock
from pikaforge.host.machine import cpu_flags
from pikaforge.pipeline.image import base_image
from pikaforge.pipeline.smoke.smoke import host_emulator
from pikaforge.pipeline.source import origin
from pikaforge.pipeline.source.origin import Origin
from pikaforge.publish.sites.credentials import advice, credentials

INSTALLERS = ("apt-get", "dnf", "yum")
MEMINFO = Path("/proc/meminfo")


def origin_of(spec: Spec | None, given: str, *, base: Path, out: Path) -> Origin | None:
    """Return the source of a build; None for the sample, and where it cannot be known.

    Args:
        spec: the specification.
        given: as `--source`.
        base: folder of the specification.
        out: folder of results.

    Raises:
        ConfigError: `--source` names nothing.
    """
    if spec is None or given.partition("#")[0] == origin.SAMPLE:
        return None
    return origin.parse(spec.product, given, base=base, cwd=process.cwd(), out=out)


def source(named: Origin, lock: Lock | None, out: Path) -> SourceSeen:
    """Ask a repository for its ref, as the source stage does."""
    pin = "" if lock is None else lock.pins("sources", named.entry).get("commit", "")
    held = bool(pin) and process.find("git") is not None and Cache(out / "git").keeps(named.url, pin)
    problem, mend = "", tuple[str, ...]()
    try:
        if git.remote_ref(named.url, named.ref) is None:
            near = ", ".join(git.near_names(named.url, named.ref))
            problem = f"it has no {named.ref}"
            mend = (f"name another ref: {near}" if near else "name another ref",)
    except ForgeError as error:
        problem = error.message
        mend = tuple(error.hint.splitlines()) or (
            "is a proxy needed? git takes https_proxy, and `git config http.proxy`",
            "or build a clone of yours: --source DIR; or --source sample, without any network",
        )
    return SourceSeen(url=masked(named.url), ref=named.ref, problem=problem, mend=mend, held=held)


def base(docker: DockerEngine, name: str, entry: Image, lock: Lock | None) -> BaseSeen:
    """Ask the engine whether it has the base of an image, or could pull it."""
    pinned = None if lock is None else base_image.pinned(name, entry, lock)
    held = pinned is not None and docker.image(pinned.tag) is not None
    reference = pinned.registry if pinned is not None and pinned.registry else entry.base
    return BaseSeen(
        image=name,
        reference=entry.base,
        bootstrap=entry.bootstrap or "",
        held=held,
        registry="" if held else docker.registry_problem(reference),
    )


def keys(environ: Mapping[str, str], folder: Path) -> KeysSeen:
    """Open the keys that the environment names. Nothing of them is left."""
    found = signing.settings(environ, base=folder)
    signer, remarks, problem, mend, verifying = "", tuple[str, ...](), "", tuple[str, ...](), ""
    with temporary_folder("doctor") as scratch:
        if found.key:
            try:
                with signing.open_signer(found, scratch) as opened:
                    signer, remarks = opened.fingerprint, opened.notices
            except ForgeError as error:
                problem, mend = _placed(error), tuple(error.hint.splitlines())
        if found.public:
            ring = scratch / "public"
            ring.mkdir()
            try:
                Verifier.of_files(found.public, ring)
            except ForgeError as error:
                verifying = _placed(error)
    return KeysSeen(
        signing=signer,
        remarks=remarks,
        signing_problem=problem,
        signing_mend=mend,
        verifying=tuple(map(str, found.public)),
        verifying_problem=verifying,
    )


def _placed(error: ForgeError) -> str:
    """Return an error in one sentence, with its place."""
    return f"{error.message} ({error.where})" if error.where else error.message


def logins(spec: Spec, environ: Mapping[str, str]) -> Iterator[LoginSeen]:
    """Yield where the credentials of each destination on a server are from."""
    for name, destination in spec.publish.items():
        if destination.url is None:
            continue
        try:
            found = credentials(name, destination.url, environ)
        except ConfigError as error:
            mend = tuple(error.hint.splitlines())
            yield LoginSeen(destination=name, url=destination.url, source="", problem=error.message, mend=mend)
            continue
        mend = tuple(advice(name, destination.url).splitlines())
        yield LoginSeen(destination=name, url=destination.url, source=found.source if found else "", mend=mend)


def installer() -> str:
    """Return the command that installs packages here; "" if none is known."""
    program = next((name for name in INSTALLERS if process.find(name)), "")
    if not program:
        return ""
    sudo = "sudo " if os.geteuid() != 0 else ""
    return f"{sudo}{program} install"


def meminfo(name: str) -> int | None:
    """Return a line of /proc/meminfo in bytes; None if it is not there."""
    try:
        lines = MEMINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(f"{name}:")), [])
    return int(words[1]) << 10 if len(words) > 1 and words[1].isdecimal() else None


def newest(store: Path) -> float:
    """Return when the newest result of the store was written; 0 without one."""
    found = 0.0
    for stage in _entries(store):
        for result in _entries(stage.path) if stage.is_dir(follow_symlinks=False) else ():
            try:
                found = max(found, result.stat(follow_symlinks=False).st_mtime)
            except OSError:  # another run has removed it
                continue
    return found


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def flags(docker: DockerEngine, engine: EngineSeen) -> frozenset[str] | None:
    """Return the flags of the CPUs that run the smoke tests; None for an engine elsewhere that has no image yet."""
    if engine.local:
        return cpu_flags()
    try:
        return docker.known_cpu_flags()
    except HostError:
        return None


def emulator(spec: Spec | None, engine: EngineSeen) -> str:
    """Return what emulates other CPUs; "" for nothing."""
    if engine.kind == "host":
        return str(host_emulator() or "")
    return "" if spec is None else spec.defaults.emulator or ""
