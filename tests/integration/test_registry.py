"""Base images from a registry: pulled, pinned by digest, and held to the pin. The registry is a real one, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Engine, Project

pytestmark = pytest.mark.engine

CONFIGURATION = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
log: {{level: error}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry that runs, and what was pushed to it."""

    address: str
    engine: Engine

    def push(self, image: str, name: str) -> str:
        """Push an image of the engine under `name:tag`; its digest."""
        reference = f"{self.address}/{name}"
        self.engine.client.images.get(image).tag(reference)
        events: list[dict[str, Any]] = list(self.engine.client.images.push(reference, stream=True, decode=True))
        self.engine.client.images.remove(reference)
        digests = [event["aux"]["Digest"] for event in events if "aux" in event]
        assert digests, events
        return str(digests[0])


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def registry(engine: Engine, tmp_path: Path) -> Iterator[Registry]:
    """A registry on a free port of the loopback interface; the engine trusts those without TLS."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed: `bash setup.sh tests` brings it where the distribution has it")
    port = free_port()
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path / "registry", port=port), encoding="utf-8")
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(configuration)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "registry.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, "the registry does not listen"
        yield Registry(address=f"127.0.0.1:{port}", engine=engine)
    finally:
        process.terminate()
        process.wait(30)


def only_images(project: Project, base: str) -> None:
    """Make debian12 a registry image without a bootstrap; the tools image is made from it, too."""

    def edit(content: dict[str, Any]) -> None:
        content["images"]["debian12"].pop("bootstrap")
        content["images"]["debian12"]["base"] = base

    project.change(edit)


def base_tag(engine: Engine, project: Project) -> str:
    """The engine's name of the bootstrapped base of debian12."""
    tags = [tag for image in engine.client.images.list("pikaforge/base") for tag in image.tags if ":debian12-" in tag]
    assert tags, "no bootstrapped base: the fixture `warm` makes one"
    return tags[0]


@pytest.mark.usefixtures("warm")
def test_a_registry_base_is_pinned_by_digest_and_held_to_it(
    registry: Registry, project: Project, engine: Engine
) -> None:
    base = base_tag(engine, project)
    digest = registry.push(base, "debian:bookworm-slim")
    only_images(project, f"{registry.address}/debian:bookworm-slim")
    first = project.tool(*project.arguments("lock", "--image", "debian12", image=""), check=0)
    assert f"debian12: digest pinned to {digest}" in first.text
    assert project.pins("images") == {"debian12": {"digest": digest}}

    done = project.build("R620", check=0)
    assert "up to date" not in done.stdout
    manifest = project.manifest("R620") if hasattr(project, "manifest") else None
    if manifest is not None:
        assert manifest["image"]["base"] == f"{registry.address}/debian@{digest}"

    # The tag moves to another image: the pin still names the first one, so nothing changes.
    engine.client.api.commit(
        engine.client.containers.create(base, "true", labels={"org.pikaforge.kind": "test"}).id,
        repository="pikaforge-test/moved",
        tag="latest",
        changes=['LABEL moved="yes"'],
    )
    moved = registry.push("pikaforge-test/moved:latest", "debian:bookworm-slim")
    engine.client.images.remove("pikaforge-test/moved:latest")
    assert moved != digest
    assert "everything is up to date" in project.build("R620", check=0).stdout

    # `lock --image` is the way to take the new one, and shows both.
    refreshed = project.tool(*project.arguments("lock", "--image", "debian12", image=""), check=0)
    assert f"debian12: digest {digest} -> {moved}" in refreshed.text
    assert project.pins("images") == {"debian12": {"digest": moved}}


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
