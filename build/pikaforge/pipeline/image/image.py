"""The image stage: a build image and a clean runtime image per OS, the tools image, and the emulator.

The base comes from a registry, pinned by digest, or is bootstrapped from the distribution's own packages. With the
host engine nothing is built: this machine must have the right OS and the packages.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pikaforge.config import families
from pikaforge.config.schema import Spec
from pikaforge.errors import ImageError, UnreachableError
from pikaforge.host import hashing, machine
from pikaforge.host.docker import DockerEngine
from pikaforge.host.images import RegistryError
from pikaforge.host.job import Job
from pikaforge.host.lockfile import Lock
from pikaforge.host.os_families.family import OsFamily
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import Workspace, guest_digests, run_job
from pikaforge.pipeline.image import abi, bootstrap, extension, libraries
from pikaforge.pipeline.image.base_image import Base, identify
from pikaforge.pipeline.image.building import (
    COPIED,
    OWN,
    STAGE_NAME,
    Inventory,
    arguments_of,
    build,
    check_compiler,
    check_family,
    entry_of,
    inventory,
    keep,
    recipe_of,
    tag_of,
)
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan.cells import allocator_of, plain
from pikaforge.plan.plan import EMULATOR, TOOLS, Node
from pikaforge.plan.stages import Needs, Scope, Slot

SCRIPTS = ("packages.sh", abi.SCRIPT, libraries.SCRIPT)
EMULATOR_FOLDER = "emulator"
EMULATOR_FILE = "qemu-x86_64"
"""The file of the emulator, below the root of its image and in the result."""

_making: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""One lock for each base, because the tools image and an OS image may need the same one at the same time."""


def material(spec: Spec, label: str, base: Base | None, home: Path) -> dict[str, object]:
    """Return the key material: base, Dockerfile, package lists, scripts."""
    check_family(spec, label, home)
    recipe = recipe_of(spec, label)
    if (allocator := allocator_of(label)) is not None:
        return extension.material(spec, plain(label), allocator, home)
    packages = {} if label in OWN else arguments_of(spec, label)
    return {
        "base": None if base is None else [base.registry, base.suite, base.mirror],
        "dockerfile": hashing.files_digest(home / "docker" / recipe, ["Dockerfile"]),
        "packages": packages,
        # A changed version in matrix.yaml has to be compared with that of the image.
        "gcc": "" if label in OWN else spec.images[label].gcc,
        "scripts": guest_digests(home, [*SCRIPTS, *COPIED]),
    }


def usable(result: Result, workspace: Workspace) -> bool:
    """Return whether the engine still holds the images that a stored result names."""
    engine = workspace.engine
    if not isinstance(engine, DockerEngine):
        return True
    facts = result.read(ImageStageFacts)
    held = {reference: engine.image(reference) for reference in (facts.build, facts.runtime) if reference}
    return all(image is not None and image.id == facts.ids.get(reference) for reference, image in held.items())


def make(workspace: Workspace, spec: Spec, base: Base, *, key: str, label: str) -> Result:
    """Build the images; store `ImageStageFacts` with the record of the distribution's libraries, or with the emulator.

    The identity is that of the installed packages and their libraries: the same packages elsewhere give the same
    results.
    """
    engine = workspace.engine
    assert isinstance(engine, DockerEngine)
    log = workspace.log_path(label, STAGE_NAME)
    with _making[base.tag]:
        _ensure_base(engine, base, workspace, log)
    if label == EMULATOR:
        return _emulator(workspace, engine, spec, base, key=key, log=log)
    tags: dict[str, str] = {}
    ids: dict[str, str] = {}
    held: dict[str, Inventory] = {}
    for target in ("build",) if label == TOOLS else ("runtime", "build"):
        tag = tags[target] = tag_of(label, target, key)
        given = {} if label in OWN else arguments_of(spec, label)
        made = build(workspace, engine, spec, base.tag, label=label, target=target, tag=tag, log=log, arguments=given)
        ids[tag] = made.id
        held[target] = inventory(workspace, tag, label, log)
    found = held["build"]
    abi_versions: dict[str, str] = {}
    if label not in OWN:
        check_compiler(spec.images[label], label, found.compiler)
        abi_versions = abi.measure(workspace, tags["runtime"], stage=STAGE_NAME, label=label, log=log)
    if base.suite:
        _pin_packages(workspace.lock, base, workspace, log)
    facts = ImageStageFacts(
        base=_name_of(base),
        build=tags["build"],
        runtime=tags.get("runtime", ""),
        ids=ids,
        os=found.os,
        gcc="" if label in OWN else found.compiler,
        packages={target: each.packages for target, each in held.items()},
        abi=abi_versions,
    )
    return keep(workspace, facts, repr(sorted(facts.packages.items())) + key, key=key, label=label, log=log)


def _name_of(base: Base) -> str:
    return base.registry or f"bootstrap {base.suite}"


def _emulator(workspace: Workspace, engine: DockerEngine, spec: Spec, base: Base, *, key: str, log: Path) -> Result:
    """Store the emulator as a file; once it is in the store, its image is not needed any more."""
    tag = tag_of(EMULATOR, "build", key)
    build(workspace, engine, spec, base.tag, label=EMULATOR, target="build", tag=tag, log=log)
    if base.suite:
        _pin_packages(workspace.lock, base, workspace, log)
    with workspace.store.scratch() as scratch:
        wanted = (EMULATOR_FILE, "version")
        job = Job(
            label=f"{STAGE_NAME}-{EMULATOR}",
            image=tag,
            argv=("cp", *(f"/{EMULATOR_FOLDER}/{name}" for name in wanted), "out/"),
            env={},
            inputs=(),
            outputs=(f"out/{EMULATOR_FILE}",),
            facts=("out/version",),
            log=log,
        )
        done = run_job(
            workspace, job, scratch, stage=STAGE_NAME, label=EMULATOR, failed="the emulator cannot be fetched"
        )
        program = done.outputs[f"out/{EMULATOR_FILE}"]
        version = done.outputs["out/version"].read_text(encoding="utf-8").strip()
        return workspace.store.put(
            STAGE_NAME,
            key,
            identity=sha256(program),
            facts=ImageStageFacts(base=_name_of(base), version=version),
            files={EMULATOR_FILE: program},
        )


def _ensure_base(engine: DockerEngine, base: Base, workspace: Workspace, log: Path) -> None:
    if engine.image(base.tag) is not None:
        return
    if base.registry:
        try:
            engine.pull(base.registry)
        except RegistryError as error:
            raise UnreachableError(
                error.message,
                where=f"sources.lock, images, {base.image}",
                hint="the base is pinned to a registry's image; make the registry reachable, or let\n"
                f"`invoke lock --image {base.image}` pin what can be had here",
            ) from error
        return
    with workspace.store.scratch() as scratch:
        archive = scratch / "base.tar"
        bootstrap.root_tar(base.suite, archive, mirror=base.mirror, log=log)
        engine.import_tar(archive, base.tag, {"org.pikaforge.base": base.suite})


def _pin_packages(lock: Lock, base: Base, workspace: Workspace, log: Path) -> None:
    """Pin a bootstrapped base by its package versions.

    They change with every security update of the distribution, so another value is refused under `--locked` only.
    """
    held = inventory(workspace, base.tag, base.image, log)
    # As lists, because such pins are in sources.lock files that users have.
    value = f"sha256:{hashing.digest(repr([list(package) for package in held.packages]))}"
    old = lock.pins("images", base.image).get("packages")
    if old is not None and old != value and not lock.strict:
        lock.replace("images", base.image, "packages", value)
    else:
        lock.check("images", base.image, "packages", value)


# ---- the host engine


def host_material(spec: Spec, label: str, home: Path) -> dict[str, object]:
    """Return the key material with the host engine: versions of the needed packages, compiler, scripts."""
    family = families.here(spec.images[plain(label)].family)
    return {
        "packages": family.packages.installed(_host_wanted(spec, label, family)),
        "compiler": machine.compiler_version(),
        "scripts": guest_digests(home, [abi.SCRIPT, libraries.SCRIPT]),
    }


def _host_wanted(spec: Spec, label: str, family: OsFamily) -> Sequence[str]:
    return (*family.toolchain, *spec.packages_for(plain(label), purpose="build", allocator=allocator_of(label)))


def run_host(workspace: Workspace, spec: Spec, *, key: str, label: str) -> Result:
    """Check that this machine has the packages that the image would have; install nothing.

    Raises:
        HostError: packages are missing; all of them are listed, with the command that installs them.
    """
    family = families.here(spec.images[plain(label)].family)
    wanted = _host_wanted(spec, label, family)
    versions: Mapping[str, str] = family.packages.installed(wanted)
    missing = [name for name in wanted if name not in versions]
    if missing:
        raise ImageError(
            f"packages are missing on this machine ({len(missing)}): {' '.join(missing)}",
            where=f"--engine host, image {label}",
            hint=f"{family.packages.install_command()} {' '.join(missing)}",
        )
    compiler = machine.compiler_version()
    check_compiler(spec.images[plain(label)], plain(label), compiler)
    log = workspace.log_path(label, STAGE_NAME)
    facts = ImageStageFacts(
        base="this machine",
        gcc=compiler,
        packages={"build": tuple(sorted(versions.items()))},
        abi=abi.measure(workspace, "", stage=STAGE_NAME, label=label, log=log),
    )
    return keep(workspace, facts, repr(facts.packages), key=key, label=label, log=log)


class ImageStage(BaseStage):
    """Makes the images that cells are built and tried on, and the tool's own two."""

    name = STAGE_NAME
    scope: Scope = "image"
    facts = ImageStageFacts
    shared = False  # it names images, which another machine's engine does not hold
    seconds = 60.0

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs nothing; with packages of an allocator, the image without them."""
        return Needs(ids=() if allocator_of(slot.label) is None else (f"image:{plain(slot.label)}",))

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return the pinned base and what is put into it; look the base up if it is not pinned, unless `offline`."""
        if run.workspace.engine.kind == "host":
            return Material(facts=host_material(run.spec, node.label, run.home))
        if allocator_of(node.label) is not None:  # it is made from another node's image
            return Material(facts=material(run.spec, node.label, None, run.home))
        name = entry_of(run.spec, node.label)
        base = identify(name, run.spec.images[name], workspace=run.workspace, offline=offline)
        return Material(facts=material(run.spec, node.label, base, run.home), pinned=base is not None, pin=base)

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Build the images; with the host engine, check this machine."""
        label = inputs.node.label
        if run.workspace.engine.kind == "host":
            return run_host(run.workspace, run.spec, key=key, label=label)
        if allocator_of(label) is not None:
            return extension.make(
                run.workspace, run.spec, inputs.results[f"image:{plain(label)}"], key=key, label=label
            )
        assert isinstance(inputs.pin, Base)  # see `material`
        return make(run.workspace, run.spec, inputs.pin, key=key, label=label)

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return why the engine does not have its images."""
        if not engine_answers():
            return "no engine answers that could hold it"
        return "" if usable(result, run.workspace) else "the engine does not hold it any more"


STAGE = ImageStage()
