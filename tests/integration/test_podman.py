"""Podman behind docker's protocol: the same packages, and nothing left of runs that are ended from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import docker
import pytest
from conftest import Engine, Project, Tool
from integration.conftest import TINY_SOURCE, Shop, make_tiny
from integration.podman_service import NOFILE, Podman, Unusable, podman_as_root, podman_without_root, small_root
from integration.registry_stub import put_list

from pikaforge.errors import HostError
from pikaforge.host.compiler_cache import volume_of
from pikaforge.host.docker import DockerEngine
from pikaforge.host.images import ImageFacts, RegistryError
from pikaforge.host.job import CannotServe, Input, Job, RunningServer, ServerJob, files

if TYPE_CHECKING:
    from conftest import Running
    from integration.conftest import Warm
    from integration.registry_stub import Answers

pytestmark = pytest.mark.xdist_group("podman")

GROUP = "debian12-sandybridge-none"
SOON = 20.0
"""Seconds in which an ended run must be gone; stopping a container without an init would take ten for each."""
PROGRAMS = ("sh", "cat", "ls", "sleep", "mkdir", "timeout")
"""Of the machine, in the image `SMALL`."""
SMALL = "pikaforge-test/small:1"
CHECKS = {"ping", "replication", "open-files"}
"""Of the sample's: a server alone, two on a network of theirs, one with limits and another user."""
WAITING = "waits for its end"
LIMITS = """{
    struct rlimit files, core;
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_CORE, &core);
    dprintf(client, "+%ld %ld %ld\\r\\n", (long)files.rlim_cur, (long)files.rlim_max, (long)core.rlim_max);
}"""
"""What the tiny server answers: its limits of open files, and of core files."""


def unusable(reason: str) -> NoReturn:
    """Skip, or fail where podman is expected as any engine is."""
    if shutil.which("podman") is None and os.environ.get("PIKAFORGE_EXPECT_ENGINE") == "1":
        pytest.fail("podman is not installed: `bash setup.sh tests` installs it on Debian and Ubuntu")
    pytest.skip(reason)


@contextlib.contextmanager
def usable(service: contextlib.AbstractContextManager[Podman]) -> Iterator[Podman]:
    """A podman, or a skipped test."""
    if shutil.which("podman") is None:
        unusable("podman is not installed")
    with contextlib.ExitStack() as stack:
        try:
            podman = stack.enter_context(service)
        except Unusable as error:
            unusable(f"podman does not run here: {error}")
        yield podman


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """A podman of root's."""
    with usable(podman_as_root()) as service:
        yield service


@pytest.fixture(scope="module")
def observer(podman: Podman) -> Iterator[Engine]:
    """Looks at podman beside the tool."""
    client = docker.DockerClient(base_url=podman.address, timeout=120)
    yield Engine(client)
    client.close()


@pytest.fixture
def here(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    """Podman as the tool's engine, in this process, with the image `SMALL`."""
    monkeypatch.setenv("DOCKER_HOST", podman.address)
    return with_image(DockerEngine(), podman.folder)


def with_image(engine: DockerEngine, folder: Path) -> DockerEngine:
    """Import the image `SMALL`, unless it is there."""
    if engine.image(SMALL) is None:
        archive = folder / "small.tar"
        archive.write_bytes(small_root(*PROGRAMS))
        engine.import_tar(archive, SMALL, {})
    return engine


@pytest.fixture(scope="module")
def stocked(podman: Podman, engine: Engine, observer: Engine, warm: Warm) -> None:
    """Podman holds the images of the finished build, so that no package is installed again."""
    records = [json.loads((warm.store / "image" / key / "result.json").read_text()) for key in warm.keys["image"]]
    names = sorted({name for record in records for name in record["facts"]["ids"]})
    assert names
    api = engine.client.api
    with api.get(f"{api.base_url}/images/get", params={"names": names}, stream=True, timeout=600) as saved:
        saved.raise_for_status()
        other: Any = observer.client.api
        loaded = other.load_image(saved.iter_content(1 << 20))
        assert not [event for event in loaded if "error" in event]
    assert podman


@pytest.fixture(scope="module")
def podman_shop(stocked: None, podman: Podman, warm: Warm) -> Shop:
    """Makes projects whose engine is podman, and that have its images already."""
    tool = Tool({"DOCKER_HOST": podman.address})
    return Shop(warm, lambda top: Project(top, tool))


@pytest.fixture
def small(podman_shop: Shop, tmp_path: Path) -> Project:
    """A project with the tiny product and its source."""
    project = podman_shop.ready(tmp_path)
    make_tiny(project)
    podman_shop.take(project, "source")
    return project


def record(store: Path, stage: str, key: str) -> dict[str, Any]:
    """What a store has of a node."""
    found: dict[str, Any] = json.loads((store / stage / key / "result.json").read_text(encoding="utf-8"))
    return found


# ---- the same


def test_both_engines_make_the_same(
    podman_shop: Shop, shop: Shop, warm: Warm, observer: Engine, tmp_path: Path
) -> None:
    """The sample, from its repository to the package, which names the checks that it has passed: so both run these."""
    project, other = podman_shop.ready(tmp_path / "podman"), shop.ready(tmp_path / "docker")
    shop.take(other, "source", "compile", "audit")

    def few_checks(matrix: dict[str, Any]) -> None:
        checks = [check for check in matrix["product"]["smoke"] if check["check"] in CHECKS]
        matrix["product"]["smoke"] = checks

    for each in (project, other):
        each.change(few_checks)
    done = project.build("R620", check=0)
    assert done.lines(rf"^compile  {GROUP} done in ")
    for stage in ("source", "compile", "audit"):
        for key in warm.keys[stage]:
            mine, docker_has = record(project.out / "store", stage, key), record(warm.store, stage, key)
            assert (stage, mine["identity"], mine["files"]) == (stage, docker_has["identity"], docker_has["files"])
    (smoke,) = project.stored("smoke").values()
    passed = {check["name"] for check in smoke["facts"]["native"]["checks"] if check["passed"]}
    assert passed >= CHECKS
    assert observer.containers(done.pid) == []
    assert observer.client.networks.list(filters={"label": "org.pikaforge.owner"}) == []

    assert other.build("R620", check=0).lines(r"^package  R620-debian12-none done in ")
    assert list(project.stored("package")) == list(other.stored("package")), "its key, and all before it"
    made, expected = (
        {path.name: sha256(path.read_bytes()).hexdigest() for path in each.dist.glob("*/*") if path.is_file()}
        for each in (project, other)
    )
    assert {project.package().name, "SHA256SUMS"} < set(made)
    assert made == expected


def test_an_imported_image_is_the_same(
    engine: Engine, podman: Podman, observer: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, labels and layers."""
    archive = tmp_path / "root.tar"
    archive.write_bytes(files({"file": b"content"}))
    layer = f"sha256:{sha256(archive.read_bytes()).hexdigest()}"
    reference = f"pikaforge-test/imported:{secrets.token_hex(6)}"
    labels = {"org.pikaforge.base": "a suite"}
    for observed, address in ((engine, None), (observer, podman.address)):
        if address is not None:
            monkeypatch.setenv("DOCKER_HOST", address)
        here = DockerEngine()
        facts = here.import_tar(archive, reference, labels)
        assert facts.labels == {**labels, "org.pikaforge.kind": "image"}
        assert here.image(reference) == facts
        assert observed.client.images.get(reference).attrs["RootFS"]["Layers"] == [layer]
        assert any(tag.endswith(reference) for _, tags, _ in here.owned_images() for tag in tags)
        here.remove_image(reference)
        here.remove_image(reference)  # gone already
        assert here.image(reference) is None


def test_images_are_built(here: DockerEngine, tmp_path: Path) -> None:
    """Upon an image by its short name: one stage of several, with arguments and labels; a step that fails is told."""
    log = tmp_path / "log"
    text = "ARG BASE\nFROM ${BASE} AS first\nARG WORD\nCOPY file /file\nRUN cat /file && echo ${WORD}\n"
    text += "FROM ${BASE} AS second\nRUN cat /nothing\n"
    context = files({"Dockerfile": text.encode(), "file": b"copied\n"})

    def build(target: str) -> ImageFacts | None:
        return here.build(
            context=context,
            target=target,
            tag=f"pikaforge-test/{target}:1",
            args={"BASE": SMALL, "WORD": "given"},
            labels={"org.pikaforge.image": "x"},
            log=log,
        )

    made = build("first")
    assert made is not None
    assert (made.labels["org.pikaforge.image"], made.labels["org.pikaforge.kind"]) == ("x", "image")
    assert {"copied", "given"} <= set(log.read_text().split())
    assert build("second") is None
    assert "/nothing" in log.read_text()
    assert here.image("pikaforge-test/second:1") is None


def test_pins_are_the_same(
    engine: Engine, here: DockerEngine, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of several architectures is pinned by the digest of all of them, whichever engine has pulled it."""
    digest = put_list(answers, "forge/base", b"content")
    reference = f"127.0.0.1:{answers.port}/forge/base"
    facts = here.pull(f"{reference}:latest")
    assert facts.digests[0] == f"{reference}@{digest}"
    assert here.pull(facts.digests[0]).id == facts.id
    with monkeypatch.context() as patch:
        patch.delenv("DOCKER_HOST")
        other = DockerEngine()
        assert other.pull(f"{reference}:latest").digests == (f"{reference}@{digest}",)
        other.remove_image(f"{reference}:latest")
    with pytest.raises(RegistryError, match=rf"^cannot pull {reference}:other: .*(404|manifest unknown|not found)"):
        here.pull(f"{reference}:other")


# ---- containers


def test_a_job_has_limits_that_the_machine_allows(here: DockerEngine, tmp_path: Path) -> None:
    """Without root's right to raise them, podman's own defaults would start nothing."""
    job = Job(
        label="limits",
        image=SMALL,
        argv=("sh", "-c", "cat /proc/self/limits > out/limits; cat in/word more/word > out/words"),
        env={},
        inputs=(
            Input(folder="in", archive=padded(tmp_path)),
            Input(folder="more", archive=padded(tmp_path).read_bytes()),
        ),
        outputs=("out/limits", "out/words"),
        log=tmp_path / "log",
    )
    done = here.run(job, tmp_path)
    assert done.status == 0, job.log.read_text()
    limits = done.outputs["out/limits"].read_text()
    assert re.search(rf"^Max open files +{NOFILE} +{NOFILE} ", limits, re.MULTILINE)
    assert re.search(r"^Max processes +(\d+) +\1 ", limits, re.MULTILINE)
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert done.outputs["out/words"].read_text() == "word\nword\n"


def padded(folder: Path) -> Path:
    """An archive with more behind its end than a pipe holds; podman's reader has left by then (buildah issue 6573)."""
    path = folder / "padded.tar"
    path.write_bytes(files({"word": b"word\n"}) + bytes(1 << 20))
    return path


@pytest.fixture(scope="module")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The tree of a tiny server; `SMALL` has its libraries, which are this machine's."""
    folder = tmp_path_factory.mktemp("tiny")
    text = "#include <sys/resource.h>\n" + TINY_SOURCE.replace("ANSWER", LIMITS)
    (folder / "tiny.c").write_text(text, encoding="ascii")
    subprocess.run(["gcc", "-O1", "-o", str(folder / "tiny"), str(folder / "tiny.c")], check=True)
    return files({"bin/tiny": folder / "tiny", "conf": b"port : 9221\n"}, executable=["bin/tiny"])


@contextlib.contextmanager
def served(
    here: DockerEngine, folder: Path, tree: bytes, *, network: str = "", open_files: int | None = None, kept: str = ""
) -> Iterator[RunningServer]:
    """The tiny server in a container."""
    job = ServerJob(
        label="test",
        image=SMALL,
        argv=("tree/bin/tiny", "-c", "/forge/tree/conf"),
        inputs=(Input(folder="tree", archive=tree),),
        port=9221,
        log=folder / "server.log",
        network=network,
        unprivileged=True,
        open_files=open_files,
        kept=kept,
    )
    with here.serve(job) as server:
        yield server


def answer(server: RunningServer, until: Callable[..., None]) -> str:
    """What it says to whatever is sent."""
    said = b""

    def ask() -> bytes:
        nonlocal said
        with contextlib.suppress(OSError), socket.create_connection(server.address(), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            said = connection.recv(100)
        return said

    until(ask, "an answer of the server")
    return said.decode("ascii").strip()


def walk(here: DockerEngine, folder: Path, tree: bytes, until: Callable[..., None]) -> None:
    """All that smoke checks do with servers: reach them, look into them, end them, start them again."""
    with here.network("test") as network, served(here, folder, tree, network=network, open_files=300) as server:
        assert answer(server, until) == "+300 300 0"
        assert re.match(r"\d+\.\d+\.\d+\.\d+$", server.peer())
        assert any(path.endswith("/tiny") for path in server.mapped_files())
        assert server.resources()["threads"] == 1
        assert server.wait(0.1) is None
        server.signal("TERM")
        assert server.wait(SOON) == 0
        server.signal("TERM")  # it has ended: no error
        with pytest.raises(ConnectionRefusedError):
            server.address()
        server.restart()
        assert answer(server, until) == "+300 300 0"
        assert server.fetch("tree") is not None
        assert server.fetch("nothing") is None
    assert (folder / "server.log").read_text().splitlines() == ["tiny serves port 9221"] * 2


def test_servers(here: DockerEngine, tmp_path: Path, tiny_tree: bytes, until: Callable[..., None]) -> None:
    walk(here, tmp_path, tiny_tree, until)


ELSEWHERE = "127.0.0.2"
"""An address of this machine that the tool does not know as one: an engine there is a remote one."""


def keep(here: DockerEngine, folder: Path, tree: bytes, until: Callable[..., None]) -> None:
    """Data of a load test that is interrupted: they outlive the server, until they are forgotten."""
    kept = f"bench-test-{secrets.token_hex(4)}"
    for known in ("", "word\n"):
        with served(here, folder, tree, kept=kept) as server:
            assert answer(server, until).startswith("+")
            assert (found := server.fetch("data")) is not None
            assert (b"word\n" in found) == bool(known)
            assert server.execute(("/bin/sh", "-c", "echo word >data/file"), timeout=SOON).status == 0
    assert kept in "".join(name for name, _ in here.kept_volumes())
    here.forget(kept)
    assert kept not in "".join(name for name, _ in here.kept_volumes())


def test_data_of_a_server_outlive_it(
    here: DockerEngine,
    podman: Podman,
    tmp_path: Path,
    *,
    tiny_tree: bytes,
    until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(here, tmp_path, tiny_tree, until)
    with socket.socket() as probe:
        probe.bind((ELSEWHERE, 0))
        address = f"tcp://{ELSEWHERE}:{probe.getsockname()[1]}"
    monkeypatch.setenv("DOCKER_HOST", address)
    with podman.serve(address):
        remote = DockerEngine()
        with served(remote, tmp_path, tiny_tree) as server:
            assert server.address()[0] == ELSEWHERE
        keep(remote, tmp_path, tiny_tree, until)


def test_more_open_files_than_allowed_are_no_defect(here: DockerEngine, tmp_path: Path, tiny_tree: bytes) -> None:
    with (
        pytest.raises(CannotServe, match=f"may not give a container {NOFILE * 2} open files"),
        served(here, tmp_path, tiny_tree, open_files=NOFILE * 2),
    ):
        pass


def test_podman_without_root(
    tmp_path: Path, tiny_tree: bytes, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no notice of limits that are asked for by docker's protocol, so they are set another way."""
    with usable(podman_without_root()) as podman:
        monkeypatch.setenv("DOCKER_HOST", podman.address)
        here = with_image(DockerEngine(), podman.folder)
        assert here.facts().rootless
        walk(here, tmp_path, tiny_tree, until)
        with (
            pytest.raises(CannotServe, match=f"limit of open files is {NOFILE}, {NOFILE * 2} are wanted"),
            served(here, tmp_path, tiny_tree, open_files=NOFILE * 2),
        ):
            pass
        job = Job(
            label="fails",
            image=SMALL,
            argv=("sh", "-c", "echo $PIKAFORGE_ROOT; exit 7"),
            env={},
            inputs=(),
            log=tmp_path / "log",
            cache="test",
        )
        assert here.run(job, tmp_path).status == 7
        assert job.log.read_text() == "/forge\n"
        here.settle()
        assert here.remove_cache(volume_of("test"))


def test_what_podman_lacks_is_named(podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's package only recommends it."""
    conf = podman.configure("bare.conf", 'init_path = "/nonexistent/catatonit"')
    address = f"unix://{podman.folder}/b"
    with podman.serve(address, conf):
        monkeypatch.setenv("DOCKER_HOST", address)
        here = with_image(DockerEngine(), podman.folder)
        job = Job(label="x", image=SMALL, argv=("true",), env={}, inputs=(), log=tmp_path / "log")
        with pytest.raises(HostError) as caught:
            here.run(job, tmp_path)
    assert "container-init binary not found" in caught.value.message
    assert "install the package catatonit where podman runs" in caught.value.hint


# ---- ended from outside


@contextlib.contextmanager
def compiling(project: Project, until: Callable[..., None], address: str = "") -> Iterator[Running]:
    """A run that is in the middle of a compilation, which does not end."""
    make_tiny(project, prologue=f"echo {WAITING}; exec sleep 600")
    env = {"DOCKER_HOST": address} if address else {}
    with project.tool.start(*project.arguments("build", "R620"), env=env) as running:
        log = project.out / "logs" / GROUP / "compile.log"
        until(lambda: log.is_file() and WAITING in log.read_text(errors="replace"), "the recipe's first line")
        yield running
    make_tiny(project)


def test_interrupt(small: Project, observer: Engine, until: Callable[..., None]) -> None:
    with compiling(small, until) as running:
        assert len(observer.containers(running.pid)) == 1
        running.signal(signal.SIGTERM)
        done = running.finish(SOON)
    assert done.returncode == 128 + signal.SIGTERM, done.text
    assert "error: interrupted; what was running is removed" in done.stderr
    assert "Traceback" not in done.text
    assert observer.containers(done.pid) == []
    assert small.half_done() == []


def test_what_a_killed_run_left_is_removed(
    small: Project, observer: Engine, until: Callable[..., None], here: DockerEngine
) -> None:
    """By the next run, which begins with that; what belongs to a run that lives is not touched."""
    with here.network("living") as living:
        with compiling(small, until) as running:
            running.signal(signal.SIGKILL)
            killed = running.finish(SOON)
        (left,) = observer.containers(killed.pid)
        assert left.status == "running"
        assert here.sweep() == 1
        assert observer.containers(killed.pid) == []
        assert [network.name for network in observer.client.networks.list(names=[living])] == [living]


def test_a_service_that_dies(small: Project, podman: Podman, observer: Engine, until: Callable[..., None]) -> None:
    """Reached over TCP, as on another machine. Its containers live on without it, until the next run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with podman.serve(address) as service, compiling(small, until, address) as running:
        service.kill()
        done = running.finish(SOON)
    assert done.returncode == 3, done.text
    assert f"compile  {GROUP} FAILED" in done.stdout
    assert "error: the container engine does not answer any more: Connection " in done.stdout  # refused, or reset
    assert "hint: `bash setup.sh` starts it; run this again then: it goes on where it was" in done.stdout
    assert "Traceback" not in done.text
    (left,) = observer.containers(done.pid)
    assert left.status == "running"
    with podman.serve(address):
        again = small.build("R620", check=0, env={"DOCKER_HOST": address})
    assert re.search(r"^note: removed \d+ leftovers? of a run that was killed$", again.stdout, re.MULTILINE)
    assert observer.containers(done.pid) == []
    assert again.lines(rf"^compile  {GROUP} done in ")
    assert small.package().is_file()
