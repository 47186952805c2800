"""Base images from a registry, a real one on loopback: pulled, pinned by digest, and held to the pin."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standins.registry import Registry, serve

if TYPE_CHECKING:
    from conftest import Engine, Project

pytestmark = pytest.mark.engine


@pytest.fixture
def registry(registry_program: Path, tmp_path: Path) -> Iterator[Registry]:
    """A registry that has nothing yet."""
    with serve(registry_program, tmp_path) as registry:
        yield registry


def only_images(project: Project, base: str) -> None:
    """Make debian12 a registry image without a bootstrap; the tools image is made from it, too."""

    def edit(content: dict[str, Any]) -> None:
        content["images"]["debian12"].pop("bootstrap")
        content["images"]["debian12"]["base"] = base

    project.change(edit)


def base_tag(engine: Engine) -> str:
    """The engine's name of the bootstrapped base of debian12."""
    tags = [tag for tag in engine.tags("pikaforge/base") if ":debian12-" in tag]
    assert tags, "no bootstrapped base: the fixture `warm` makes one"
    return tags[0]


@pytest.mark.usefixtures("warm")
def test_a_registry_base_is_pinned_by_digest_and_held_to_it(
    registry: Registry, project: Project, engine: Engine
) -> None:
    base = base_tag(engine)
    digest = registry.push(base, "debian:bookworm-slim")
    only_images(project, f"{registry.address}/debian:bookworm-slim")
    first = project.tool(*project.arguments("lock", "--image", "debian12", image=""), check=0)
    assert f"debian12: digest pinned to {digest}" in first.text
    assert project.pins("images") == {"debian12": {"digest": digest}}

    done = project.build("R620", check=0)
    assert "up to date" not in done.stdout
    with tarfile.open(project.dist / "debian12" / "pika-v3.4.0-R620.tar.gz") as tar:
        manifest = json.loads(tar.extractfile("pika/manifest.json").read())  # type: ignore[union-attr]
    assert manifest["image"]["base"] == f"{registry.address}/debian@{digest}"

    # The tag moves to another image: the pin still names the first one, so nothing changes.
    container = engine.client.containers.create(base, "true", labels={"org.pikaforge.kind": "test"})
    container.commit("pikaforge-test/moved", "latest", changes='LABEL moved="yes"')
    container.remove()
    moved = registry.push("pikaforge-test/moved:latest", "debian:bookworm-slim")
    engine.client.images.remove("pikaforge-test/moved:latest")
    assert moved != digest
    assert "everything is up to date" in project.build("R620", check=0).stdout

    # `lock --image` is the way to take the new one, and shows both.
    refreshed = project.tool(*project.arguments("lock", "--image", "debian12", image=""), check=0)
    assert f"debian12: digest {digest} -> {moved}" in refreshed.text
    assert project.pins("images")["debian12"] == {"digest": moved}


def test_a_pinned_base_that_the_registry_no_longer_has_is_told(registry: Registry, project: Project) -> None:
    base = f"{registry.address}/debian:bookworm-slim"
    only_images(project, base)
    gone = "sha256:" + "0" * 64
    project.lock_path.write_text(
        f'{{"version": 1, "sources": {{}}, "images": {{"debian12": {{"digest": "{gone}"}}}}}}', encoding="utf-8"
    )
    done = project.build("R620", check=3)
    assert f"cannot pull {registry.address}/debian@{gone}" in done.text
    assert "sources.lock, images, debian12" in done.text
    assert "invoke lock --image debian12" in done.text


def test_an_image_that_no_registry_has_and_cannot_be_bootstrapped_is_told(registry: Registry, project: Project) -> None:
    only_images(project, f"{registry.address}/nothing:here")
    done = project.build("R620", check=3)
    assert f"cannot pull {registry.address}/nothing:here" in done.text
    assert "where: images.debian12" in done.text
