"""The container engine and the images: what is missing is told with the way to get it, what is gone is made anew."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from integration.registry_stub import put_image

if TYPE_CHECKING:
    from conftest import Engine, Project
    from integration.registry_stub import Answers

WAYS = ("systemctl start docker", "bash setup.sh", "DOCKER_HOST", "--engine host")


def closed_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- the engine


@pytest.mark.parametrize("where", ["no-socket", "nothing-listens", "no-engine"])
def test_no_engine(where: str, project: Project, answers: Answers) -> None:
    url = {
        "no-socket": "unix:///nonexistent",
        "nothing-listens": f"tcp://127.0.0.1:{closed_port()}",
        "no-engine": f"tcp://127.0.0.1:{answers.port}",
    }[where]
    done = project.build("R620", env={"DOCKER_HOST": url})
    assert done.returncode == 3, done.text
    assert "error: no container engine answers: " in done.stderr
    for way in WAYS:
        assert way in done.stderr, way
    assert "Traceback" not in done.text
    assert not project.dist.exists()


def test_engine_for_another_system(project: Project, answers: Answers) -> None:
    answers.bodies["/version"] = ("application/json", json.dumps({"ApiVersion": "1.41"}).encode())
    info = {"OSType": "windows", "Architecture": "x86_64", "NCPU": 8}
    answers.bodies["/info"] = ("application/json", json.dumps(info).encode())
    done = project.build("R620", env={"DOCKER_HOST": f"tcp://127.0.0.1:{answers.port}"})
    assert done.returncode == 3, done.text
    assert "error: the container engine is for windows on x86_64; x86-64 Linux is needed" in done.stderr
    assert "hint: set DOCKER_HOST to an engine on an x86-64 machine" in done.stderr


def test_plan_needs_no_engine(project: Project) -> None:
    done = project.tool(
        *project.arguments("plan", "R620", "--json"), env={"DOCKER_HOST": "unix:///nonexistent"}, check=0
    )
    nodes = json.loads(done.stdout)["nodes"]
    assert nodes
    assert not any(node["cached"] for node in nodes)


# ---- base images


@pytest.mark.engine
def test_image_that_can_neither_be_pulled_nor_bootstrapped(ready: Project) -> None:
    registry = f"127.0.0.1:{closed_port()}"
    ready.change(lambda matrix: matrix["images"]["el7"].update(base=f"{registry}/centos:7"))
    done = ready.build("R620", image="el7")
    assert done.returncode == 3, done.text
    assert f"error: cannot pull {registry}/centos:7: " in done.text
    assert "  where: images.el7" in done.text
    for way in ("make a registry reachable", "docker load", "images with `bootstrap` need no registry"):
        assert way in done.text, way
    assert "package  R620-el7-none not run: " in done.stdout


@pytest.fixture
def registry(engine: Engine, answers: Answers) -> Iterator[Answers]:
    """A registry on this machine's loopback interface, which engines use without TLS."""
    if not engine.client.api.base_url.startswith("http+"):
        pytest.skip("the engine is on another machine and cannot reach a registry on this one")
    yield answers
    forget(engine, answers)


def forget(engine: Engine, registry: Answers) -> None:
    """Remove the images that came from a registry, with what failed builds have made of them."""
    from docker.errors import ImageNotFound

    held = engine.client.api.images(all=True)

    def remove(id_: str) -> None:
        for row in held:
            if row["ParentId"] == id_:
                remove(row["Id"])
        with contextlib.suppress(ImageNotFound):  # it went with its last child
            engine.client.images.remove(id_, force=True)

    prefix = f"127.0.0.1:{registry.port}/"
    for row in held:
        if any(name.startswith(prefix) for name in (*(row["RepoTags"] or ()), *(row["RepoDigests"] or ()))):
            remove(row["Id"])


@pytest.mark.engine
def test_base_from_a_registry_is_pinned_by_digest(ready: Project, registry: Answers, engine: Engine) -> None:
    """The pin outlives a moved tag; `lock --image` moves it; without the registry the message says what to do."""
    name = f"127.0.0.1:{registry.port}/forge/base"
    first = put_image(registry, "forge/base", b"first")
    ready.change(lambda matrix: matrix["images"]["ubuntu2204"].update(base=f"{name}:latest"))
    arguments = ready.arguments("lock", "--image", "ubuntu2204")
    done = ready.tool(*arguments, check=0)
    if not registry.seen:
        pytest.skip("the engine does not see this machine's loopback interface")
    assert f"sources.lock: ubuntu2204: digest pinned to {first}" in done.stdout.splitlines()
    assert ready.pins("images")["ubuntu2204"] == {"digest": first}

    second = put_image(registry, "forge/base", b"second")
    assert first != second
    forget(engine, registry)
    registry.seen.clear()
    failed = ready.build("R620", image="ubuntu2204")
    assert failed.returncode == 4, "the base has no shell, so its Dockerfile fails"
    assert "error: the runtime image of ubuntu2204 could not be built" in failed.stdout
    asked = [path for path in registry.seen if "/manifests/" in path]
    assert asked, "it was pulled anew"
    assert all(path.endswith(first) for path in asked), "and not by its tag"
    assert ready.pins("images")["ubuntu2204"] == {"digest": first}

    moved = ready.tool(*arguments, check=0)
    assert f"sources.lock: ubuntu2204: digest {first} -> {second}" in moved.stdout.splitlines()

    forget(engine, registry)
    registry.bodies.clear()
    gone = ready.build("R620", image="ubuntu2204")
    assert gone.returncode == 3, gone.text
    assert f"error: cannot pull {name}@{second}: " in gone.stdout
    assert "where: sources.lock, images, ubuntu2204" in gone.stdout
    assert "`invoke lock --image ubuntu2204` pin what can be had here" in gone.stdout


# ---- images that are built


@pytest.mark.engine
def test_compiler_differs_from_the_matrix(ready: Project) -> None:
    """Also where the image was made before the entry was changed: targets and flags follow from the version."""
    ready.change(lambda matrix: matrix["images"]["debian12"].update(gcc="11.4"))
    done = ready.build("R620")
    assert done.returncode == 3, done.text
    assert re.search(r"error: the image debian12 has gcc 12\.2\.\d+, but matrix\.yaml says 11\.4", done.text)
    assert "where: images.debian12.gcc" in done.text
    assert 'hint: write gcc: "12.2" there; targets and flags follow from it' in done.text
    assert "compile  debian12-sandybridge-none not run: it needs image:debian12" in done.text


@pytest.fixture
def another(tiny: Callable[..., Project], warm: Any, engine: Engine) -> Iterator[Project]:
    """A tiny product for an image of this test's own, on debian12's base."""
    from pikaforge.pipeline.image.base_image import Base

    project = tiny()

    def add(matrix: dict[str, Any]) -> None:
        # With the same entry it would be the same image; a version with three numbers makes it another one.
        entry = {**matrix["images"]["debian12"], "os": {"id": "forge-test", "version": "1"}, "gcc": "12.2.0"}
        matrix["images"]["forge-test"] = entry

    project.change(add)
    pins = warm.pins["debian12"]
    suite = pins.get("bootstrap", "")
    if suite:  # else it is a registry's, and has the same name for both
        base = engine.client.images.get(Base(image="debian12", suite=suite).tag)
        base.tag(Base(image="forge-test", suite=suite).tag)
    lock = {"version": 1, "sources": {}, "images": {**warm.pins, "forge-test": pins}}
    project.lock_path.write_text(json.dumps(lock), encoding="utf-8")
    yield project
    for tag in engine.tags("pikaforge/*"):
        if tag.startswith(("pikaforge/forge-test-", "pikaforge/base:forge-test-")):
            engine.client.images.remove(tag, force=True)


@pytest.mark.engine
def test_removed_image_is_made_anew(another: Project, engine: Engine) -> None:
    another.build("R620", image="forge-test", check=0)
    state = {f"{n['stage']}:{n['label']}": n for n in another.plan("R620", image="forge-test")["nodes"]}
    assert all(node["cached"] for node in state.values())
    facts = next(
        r["facts"] for r in another.stored("image").values() if "forge-test-build" in r["facts"].get("build", "")
    )
    engine.client.images.remove(facts["runtime"], force=True)

    state = {f"{n['stage']}:{n['label']}": n for n in another.plan("R620", image="forge-test")["nodes"]}
    assert state["image:forge-test"]["cached"] is False
    assert state["image:forge-test"]["why"] == "the engine does not hold it any more"

    done = another.build("R620", image="forge-test", check=0)
    assert (
        "note: the stored result of image:forge-test is made anew: the engine does not hold it any more"
        in done.stdout.splitlines()
    )
    assert done.lines("^image    forge-test done in ")
    # The same packages are the same image, so what was built on it stays.
    assert "compile  forge-test-sandybridge-none is up to date" in done.stdout
    assert engine.client.images.get(facts["runtime"])
    nodes = another.plan("R620", image="forge-test")["nodes"]
    assert [node["cached"] for node in nodes] == [True] * len(nodes)


@pytest.mark.engine
def test_images_are_described(ready: Project, engine: Engine) -> None:
    """What an image is made of is recorded, pinned, and labelled in the engine."""
    (facts,) = (r["facts"] for r in ready.stored("image").values() if "debian12-build" in r["facts"].get("build", ""))
    pins = ready.pins("images")["debian12"]
    assert facts["base"] == (f"bootstrap {pins['bootstrap']}" if "bootstrap" in pins else facts["base"])
    assert "bootstrap" in pins or pins["digest"] in facts["base"]
    for purpose in ("build", "runtime"):
        packages = dict(facts["packages"][purpose])
        assert re.match(r"\d", packages["libc6:amd64"])
        image = engine.client.images.get(facts[purpose])
        assert image.id == facts["ids"][facts[purpose]]
        assert image.labels["org.pikaforge.kind"] == "image"
    assert facts["gcc"].startswith("12.2")
    assert not {"gcc:amd64", "g++:amd64", "libgflags-dev:amd64"} & set(dict(facts["packages"]["runtime"]))
