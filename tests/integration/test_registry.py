"""Base images from a registry, a real one on loopback: pulled, pinned by digest, and held to the pin."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Engine, Project, Shared

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


@pytest.fixture(scope="session")
def registry_program(shared: Shared) -> Path:
    """The registry server of Debian's package, unpacked and not installed: that would start a service."""
    installed = shutil.which("docker-registry")
    if installed is not None:
        return Path(installed)
    if shutil.which("apt-get") is None:
        pytest.skip("no docker-registry on this machine, and no apt-get to download one")
    with shared.once("registry") as folder:
        if folder is not None:
            got = subprocess.run(
                ["apt-get", "download", "docker-registry"], cwd=folder, capture_output=True, text=True, check=False
            )
            packages = list(folder.glob("*.deb"))
            if not packages:
                pytest.skip(f"apt-get cannot download docker-registry: {got.stderr.strip()[-200:]}")
            subprocess.run(["dpkg-deb", "--extract", str(packages[0]), str(folder)], check=True, timeout=60)
    return shared.folder / "registry" / "usr/bin/docker-registry"


@pytest.fixture
def registry(engine: Engine, tmp_path: Path, registry_program: Path) -> Iterator[Registry]:
    """A registry on a free port of the loopback interface; the engine trusts those without TLS."""
    port = free_port()
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path / "registry", port=port), encoding="utf-8")
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen([str(registry_program), "serve", str(configuration)], stdout=log, stderr=log)
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


def base_tag(engine: Engine) -> str:
    """The engine's name of the bootstrapped base of debian12."""
    tags = [tag for image in engine.client.images.list("pikaforge/base") for tag in image.tags if ":debian12-" in tag]
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
