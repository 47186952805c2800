"""Images with the packages of an allocator, made from the build image and the runtime image of an OS image.

Only what is built for that allocator sees them. So a changed list of an allocator's packages compiles nothing anew for
the others, and their packages need nothing of it.
"""

from __future__ import annotations

from pathlib import Path

from pikaforge.config.schema import Spec
from pikaforge.host import hashing
from pikaforge.host.docker import DockerEngine
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace, guest_digests
from pikaforge.pipeline.image import abi, libraries
from pikaforge.pipeline.image.building import STAGE_NAME, build, check_compiler, inventory, keep, recipe_of, tag_of
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.plan.cells import allocator_of, extended, plain

SCRIPTS = ("packages.sh", abi.SCRIPT, libraries.SCRIPT)


def material(spec: Spec, image: str, allocator: str, home: Path) -> dict[str, object]:
    """Return the key material beside the image that it is made from: packages, Dockerfile, scripts."""
    recipe = recipe_of(spec, extended(image, allocator))
    return {
        "packages": {
            "build": list(spec.added_packages(image, allocator, purpose="build")),
            "runtime": list(spec.added_packages(image, allocator, purpose="runtime")),
        },
        "dockerfile": hashing.files_digest(home / "docker" / recipe, ["Dockerfile"]),
        "scripts": guest_digests(home, SCRIPTS),
    }


def make(workspace: Workspace, spec: Spec, image: Result, *, key: str, label: str) -> Result:
    """Add an allocator's packages to the images of a node; store `ImageStageFacts` as for any other image.

    Where the allocator adds no package to one of the two images, that one is taken as it is.

    Raises:
        StageError: the packages cannot be installed.
        HostError: they have brought another compiler.
    """
    engine = workspace.engine
    assert isinstance(engine, DockerEngine)
    name, allocator, log = plain(label), allocator_of(label), workspace.log_path(label, STAGE_NAME)
    assert allocator is not None
    before = image.read(ImageStageFacts)
    added = {
        "runtime": spec.added_packages(name, allocator, purpose="runtime"),
        "build": spec.added_packages(name, allocator, purpose="build"),
    }
    tags = {"runtime": before.runtime, "build": before.build}
    ids, packages, versions = dict(before.ids), dict(before.packages), before.abi
    for target, base in tuple(tags.items()):
        if not added[target]:
            continue
        tag = tags[target] = tag_of(label, target, key)
        given = {"PACKAGES": " ".join(added[target])}
        made = build(workspace, engine, spec, base, label=label, target="packages", tag=tag, log=log, arguments=given)
        ids = {**{known: id_ for known, id_ in ids.items() if known != base}, tag: made.id}
        held = inventory(workspace, tag, label, log)
        packages[target] = held.packages
        if target == "build":
            check_compiler(spec.images[name], name, held.compiler)
        else:
            versions = abi.measure(workspace, tag, stage=STAGE_NAME, label=label, log=log)
    facts = before.model_copy(
        update={"build": tags["build"], "runtime": tags["runtime"], "ids": ids, "packages": packages, "abi": versions}
    )
    return keep(workspace, facts, repr(sorted(packages.items())) + key, key=key, label=label, log=log)
