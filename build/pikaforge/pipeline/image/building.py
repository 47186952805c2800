"""What all images of the image stage have in common: how they are built, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pikaforge.config import compilers, families
from pikaforge.config.schema import Image, Spec
from pikaforge.errors import ConfigError, ImageError, StageError
from pikaforge.host import hashing
from pikaforge.host.docker import DockerEngine
from pikaforge.host.images import ImageFacts
from pikaforge.host.job import Job, files
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import GUEST, Workspace, failure, read_facts, run_job
from pikaforge.pipeline.image import libraries
from pikaforge.pipeline.image.base_image import REPOSITORY
from pikaforge.pipeline.image.facts import ImageStageFacts, OsReleaseFacts
from pikaforge.plan.cells import allocator_of, plain
from pikaforge.plan.plan import EMULATOR, TOOLS

STAGE_NAME = "image"
ADDED = "packages"
"""The folder beside a family's Dockerfile with the one that adds the packages of an allocator."""
COPIED = ("lib.sh", "specs.sh")
"""Guest scripts that the Dockerfiles copy."""
OWN = (TOOLS, EMULATOR)
"""Images of the tool itself. They are not in the matrix, do not have its packages, and have one target each."""


def entry_of(spec: Spec, label: str) -> str:
    """Return the image entry on which an image is made."""
    if label == EMULATOR:
        assert spec.defaults.emulator is not None  # the plan has no such node then
        return spec.defaults.emulator
    return spec.defaults.tools if label == TOOLS else plain(label)


def recipe_of(spec: Spec, label: str) -> str:
    """Return the folder below docker/ with the Dockerfile of an image."""
    if label in OWN:
        return label
    recipe = families.of(spec.images[plain(label)].family).recipe
    return recipe if allocator_of(label) is None else f"{recipe}/{ADDED}"


def check_family(spec: Spec, label: str, home: Path) -> None:
    """Raise ConfigError if an image has a family that no Dockerfile is for, or none for an allocator's packages."""
    folder, recipe = home / "docker", recipe_of(spec, label)
    if (folder / recipe / "Dockerfile").is_file():
        return
    if allocator := allocator_of(label):
        raise ConfigError(
            f"there is no docker/{recipe}/Dockerfile, which adds the packages of an allocator to an image",
            where=f"allocators.{allocator}.packages",
            hint=f"write it (docker/debian/{ADDED}/Dockerfile is a model), or name the packages in product.packages",
        )
    known = sorted({path.parent.name for path in folder.glob("*/Dockerfile")} - set(OWN))
    family = spec.images[entry_of(spec, label)].family
    raise ConfigError(
        f"the family {family!r} is unknown: there is no docker/{recipe}/Dockerfile",
        where=f"images.{entry_of(spec, label)}.family",
        hint=f"known: {', '.join(known)}; or write that Dockerfile (docker/debian/Dockerfile is a model)",
    )


def arguments_of(spec: Spec, label: str) -> dict[str, str]:
    """Return the arguments of the Dockerfile of an image of the matrix: its packages."""
    return {
        "BUILD_PACKAGES": " ".join(spec.packages_for(label, purpose="build")),
        "RUNTIME_PACKAGES": " ".join(spec.packages_for(label, purpose="runtime")),
    }


def tag_of(label: str, target: str, key: str) -> str:
    """Return the engine's name for an image that is made."""
    return f"{REPOSITORY}/{label.replace('+', '-')}-{target}:{key[:16]}"


def job_label(label: str) -> str:
    """Return the label of a job that looks at an image."""
    return f"{STAGE_NAME}-{label.replace('+', '-')}"


def keep(workspace: Workspace, facts: ImageStageFacts, identity: str, *, key: str, label: str, log: Path) -> Result:
    """Store the result; if the image is not the tool's own, with the record of the distribution's libraries."""
    with workspace.store.scratch() as scratch:
        files: dict[str, Path] = {}
        if label not in OWN:
            path = libraries.measure(workspace, facts.build, stage=STAGE_NAME, label=label, log=log, into=scratch)
            files[libraries.FILE] = path
            identity += sha256(path)
        return workspace.store.put(STAGE_NAME, key, identity=hashing.digest(identity), facts=facts, files=files)


def build(
    workspace: Workspace,
    engine: DockerEngine,
    spec: Spec,
    base: str,
    *,
    label: str,
    target: str,
    tag: str,
    log: Path,
    arguments: Mapping[str, str] = MappingProxyType({}),
) -> ImageFacts:
    """Build a stage of the Dockerfile of an image, unless the engine has it.

    Args:
        workspace: where it is built.
        engine: of the workspace.
        spec: the specification.
        base: the engine's name of the image that it is made from.
        label: the label of the node.
        target: the stage of the Dockerfile.
        tag: the engine's name for the image.
        log: the log of the node.
        arguments: of the Dockerfile, beside BASE.

    Raises:
        StageError: a step of the Dockerfile failed.
    """
    recipe = recipe_of(spec, label)
    folder = workspace.home / "docker" / recipe
    context: dict[str, bytes | Path] = {"Dockerfile": folder / "Dockerfile"}
    context.update({f"guest/{name}": workspace.home / GUEST / name for name in COPIED})
    given = {"BASE": base, **arguments}
    wanted = {name: value for name, value in given.items() if _declares(folder / "Dockerfile", name)}
    # The tag has the key in it, so an image that another checkout has made under it is the right one.
    image = engine.image(tag) or engine.build(
        context=files(context), target=target, tag=tag, args=wanted, labels={"org.pikaforge.image": label}, log=log
    )
    if image is None:
        raise StageError(
            f"the {target} image of {label} could not be built",
            failure(stage=STAGE_NAME, label=label, log=log),
            hint=f"see docker/{recipe}/Dockerfile and the package lists of the "
            + ("product" if allocator_of(label) is None else "allocator"),
        )
    return image


def _declares(dockerfile: Path, name: str) -> bool:
    return any(line.strip() == f"ARG {name}" for line in dockerfile.read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The contents of an image."""

    packages: tuple[tuple[str, str], ...]
    """As (name, version)."""
    compiler: str
    """Version of its gcc; empty if it has none."""
    os: OsReleaseFacts


def inventory(workspace: Workspace, image: str, label: str, log: Path) -> Inventory:
    """Look at what an image holds."""
    with workspace.store.scratch() as scratch:
        job = Job(
            label=job_label(label),
            image=image,
            argv=("sh", "guest/packages.sh"),
            env={},
            inputs=(workspace.guest("packages.sh"),),
            facts=("out/packages", "out/facts"),
            log=log,
        )
        done = run_job(
            workspace, job, scratch, stage=STAGE_NAME, label=label, failed="the image's packages cannot be listed"
        )
        lines = done.outputs["out/packages"].read_text(encoding="utf-8").splitlines()
        facts = read_facts(done.outputs["out/facts"])
        id_, version, variant, *_ = (*facts.get("os", [()])[0], "", "", "")
        return Inventory(
            packages=tuple((name, found) for name, _, found in (line.partition("\t") for line in lines)),
            compiler=facts.get("gcc", [("",)])[0][0],
            os=OsReleaseFacts(id=id_, version=version, variant=variant),
        )


def check_compiler(entry: Image, label: str, found: str) -> None:
    """Raise HostError if an image has another compiler than matrix.yaml says."""
    if compilers.major_minor(found) != compilers.major_minor(entry.gcc):
        raise ImageError(
            f"the image {label} has gcc {found or '(none)'}, but matrix.yaml says {entry.gcc}",
            where=f"images.{label}.gcc",
            hint=f'write gcc: "{compilers.major_minor(found)}" there; targets and flags follow from it',
        )
