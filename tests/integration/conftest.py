"""Fixtures for tests with a real engine: a finished build to start from, a tiny product, and servers of files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.builds import RELEASE, STAGES, SampleBuild, make_release
from integration.builds_of_redis import RedisBuild
from integration.registry_stub import Answers
from integration.trees import Tree
from own_engine import own_engine
from standins import registry
from survival import Island, Survivor

from pikaforge.host.store import locked

if TYPE_CHECKING:
    from conftest import Engine, Project, Shared, Tool

ROOT = Path(__file__).resolve().parents[2]

IDENTITY = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@sample.invalid",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@sample.invalid",
}

TINY_SOURCE = r"""
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stop(int number) { (void)number; _exit(0); }

int main(int argc, char** argv) {
  char line[200], request[4096];
  int port = 0, on = 1;
  if (argc == 2 && strcmp(argv[1], "-v") == 0) { puts("pika_version: 3.4.0"); return 0; }
  FILE* conf = argc == 3 ? fopen(argv[2], "r") : NULL;
  if (conf == NULL) return 1;
  while (fgets(line, sizeof line, conf)) sscanf(line, "port : %d", &port);
  fclose(conf);
  signal(SIGTERM, stop);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (bind(listener, (struct sockaddr*)&at, sizeof at) || listen(listener, 16)) { perror("bind"); return 1; }
  printf("tiny serves port %d\n", port);
  fflush(stdout);
  for (;;) {
    int client = accept(listener, NULL, NULL);
    while (read(client, request, sizeof request) > 0) {
      ANSWER
    }
    close(client);
  }
}
"""
"""A server that answers every request alike; ANSWER says how."""
PONG = 'if (write(client, "+PONG\\r\\n", 7) != 7) break;'


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """A finished build of R620 from the sample, in the checkout's own out/."""

    store: Path
    keys: Mapping[str, list[str]]
    """By stage."""
    identities: Mapping[str, str]
    """By stage, but for images."""
    pins: Mapping[str, Any]
    """The images section of sources.lock."""

    @property
    def build_image(self) -> str:
        """The tag of debian12's build image."""
        records = [self.store / "image" / key / "result.json" for key in self.keys["image"]]
        facts = [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in records]
        return next(str(f["build"]) for f in facts if "/debian12-" in str(f.get("build")))


@pytest.fixture(scope="session")
def warm(engine: Engine, new_project: Callable[[Path], Project], shared: Shared) -> Warm:
    """Made once for all workers; what is in out/ of earlier test runs is taken, so only the first one is slow."""
    with shared.once("warm") as folder:
        if folder is not None:
            project = new_project(folder)
            project.out = ROOT / "out"
            project.build("R620", check=0)
            nodes = project.plan("R620")["nodes"]
            keys: dict[str, list[str]] = {stage: [n["key"] for n in nodes if n["stage"] == stage] for stage in STAGES}
            records = {s: project.out / "store" / s / keys[s][0] / "result.json" for s in STAGES}
            identities = {s: json.loads(path.read_text(encoding="utf-8"))["identity"] for s, path in records.items()}
            made = {"keys": keys, "pins": project.pins("images"), "identities": identities}
            (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")
    made = json.loads((shared.folder / "warm" / "made.json").read_text(encoding="utf-8"))
    return Warm(store=ROOT / "out" / "store", keys=made["keys"], identities=made["identities"], pins=made["pins"])


@pytest.fixture(scope="session")
def sample_build(
    warm: Warm, new_project: Callable[[Path], Project], shared: Shared, tool: Tool
) -> Callable[..., SampleBuild]:
    """The sample, built from a selection: `sample_build("R620", "--formats", ALL_FORMATS).dist` has the packages.

    One worker builds for all, once for each list of arguments (and `image`, debian12 unless it is named). Results are
    kept in the checkout's out/ under their keys, so what two selections have in common is made once, too: after
    `sample_build("R620")` with another list of formats nothing but packing is done. Packages are not signed. A project
    of a test's own gets them by `shop.take(project, "compile", …, "package", build=sample_build(…))`. Who wants to see
    that something is made begins with `shop.ready` instead.
    """

    def make(*words: str, image: str = "debian12") -> SampleBuild:
        name = f"sample-{hashlib.sha256(json.dumps([image, *words]).encode()).hexdigest()[:16]}"
        with shared.once(name) as folder:
            if folder is not None:
                # Not two at once: what they have in common would be made twice.
                with locked(shared.folder / "sample.lock"):
                    project = placed(new_project(folder), warm)
                    project.build(*words, image=image, check=0).keep(folder / "done.json")
                    nodes = project.plan(*words, image=image)["nodes"]
                    keys = {stage: [n["key"] for n in nodes if n["stage"] == stage] for stage in STAGES}
                    (folder / "keys.json").write_text(json.dumps(keys), encoding="utf-8")
        made = shared.folder / name
        return SampleBuild(
            project=placed(new_project(made), warm),
            done=tool.recall(made / "done.json"),
            keys=json.loads((made / "keys.json").read_text(encoding="utf-8")),
            image=image,
        )

    return make


def placed(project: Project, warm: Warm) -> Project:
    """Let a project keep its results where those of the finished build are, and pin what that has pinned."""
    project.out = ROOT / "out"
    pin_images(project, warm)
    return project


def pin_images(project: Project, warm: Warm) -> None:
    """Pin the images that are there."""
    if not project.lock_path.exists():
        lock = {"version": 1, "sources": {}, "images": warm.pins}
        project.lock_path.write_text(json.dumps(lock), encoding="utf-8")


@pytest.fixture(scope="session")
def sample_tree(sample_build: Callable[..., SampleBuild]) -> Tree:
    """The package of the sample for R620 on debian12, as a tree that tests may change, and break."""
    return Tree.read(sample_build("R620").project.package(), "bin/pika")


@pytest.fixture(scope="session")
def second_tree(warm: Warm, new_project: Callable[[Path], Project], shared: Shared) -> Tree:
    """Release 2 of the sample's package. Its configuration has one more line."""
    with shared.once("sample-release-2") as folder:
        if folder is not None:
            project = placed(new_project(folder), warm)
            project.change(lambda matrix: matrix["product"].update(release="2"))
            project.build("R620", check=0)
    package = new_project(shared.folder / "sample-release-2").package()
    return Tree.read(package, "bin/pika").with_line("conf/pika.conf", "# of release 2")


@pytest.fixture(scope="session")
def redis_build(engine: Engine, shared: Shared) -> RedisBuild:
    """redis, built for two models on debian12; made once for all workers."""
    with shared.once("redis") as folder:
        if folder is not None:
            (folder / "output").write_text(RedisBuild(folder=folder, output="").make(), encoding="utf-8")
    folder = shared.folder / "redis"
    return RedisBuild(folder=folder, output=(folder / "output").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def redis_tree(redis_build: RedisBuild) -> Tree:
    """The package of redis for R620, as a tree that tests may change, and break."""
    return Tree.read(redis_build.package(), "bin/redis-server")


class Shop:
    """Makes projects that do not begin at the beginning."""

    def __init__(self, warm: Warm, new_project: Callable[[Path], Project]) -> None:
        self.warm = warm
        self._new_project = new_project

    def ready(self, top: Path) -> Project:
        """A project whose images are there already, so that a run begins with the source."""
        project = self._new_project(top)
        self.take(project, "image")
        pin_images(project, self.warm)
        return project

    def take(self, project: Project, *stages: str, build: SampleBuild | None = None) -> None:
        """Give a project results of the finished build, or of another one.

        Entries are never written to, so links to them do.
        """
        keys = self.warm.keys if build is None else build.keys
        for stage in stages:
            for key in keys[stage]:
                entry = project.out / "store" / stage / key
                entry.mkdir(parents=True)
                for path in (self.warm.store / stage / key).iterdir():
                    try:
                        (entry / path.name).hardlink_to(path)
                    except OSError:  # another file system
                        (entry / path.name).write_bytes(path.read_bytes())


@pytest.fixture(scope="session")
def shop(warm: Warm, new_project: Callable[[Path], Project]) -> Shop:
    """Projects to start from."""
    return Shop(warm, new_project)


@pytest.fixture
def ready(shop: Shop, tmp_path: Path) -> Project:
    """A project with the images of the finished build."""
    return shop.ready(tmp_path)


def make_tiny(project: Project, *, answer: str = PONG, prologue: str = "") -> None:
    """Make the product one C file with one check, for tests of what is around it."""
    project.recipe.write_text(
        f"#!/bin/sh\nset -eu\n{prologue}\n"
        'mkdir -p "$OUT/bin" "$OUT/conf"\n'
        "cat >tiny.c <<'END'\n" + TINY_SOURCE.replace("ANSWER", answer) + "END\n"
        'gcc -O1 -g -o "$OUT/bin/pika" tiny.c\n'
        'printf "port : 9221\\n" >"$OUT/conf/pika.conf"\n',
        encoding="utf-8",
    )

    def few_checks(matrix: dict[str, Any]) -> None:
        matrix["product"]["smoke"] = [{"check": "ping", "steps": [{"send": ["PING"], "expect": "PONG"}]}]

    project.change(few_checks)


@pytest.fixture(scope="session")
def shrink() -> Callable[..., None]:
    """As `tiny`, for a project that needs no images: `shrink(project, answer=…, prologue=…)`."""
    return make_tiny


@pytest.fixture
def tiny(ready: Project, shop: Shop) -> Callable[..., Project]:
    """Make a project's product tiny: `tiny(answer=C statement, prologue=lines of the recipe)`."""

    def make(**options: str) -> Project:
        make_tiny(ready, **options)
        shop.take(ready, "source")
        return ready

    return make


@pytest.fixture(scope="session")
def island(warm: Warm) -> Iterator[Island]:
    """An engine for what must not trouble others: it may be killed, filled, and counted. With the sample's images."""
    import docker

    records = [warm.store / "image" / key / "result.json" for key in warm.keys["image"]]
    facts = [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in records]
    tags = tuple(sorted({str(f[kind]) for f in facts for kind in ("build", "runtime") if f.get(kind)}))
    with own_engine("6g", bridged=True) as engine:
        there = Island(engine=engine)
        with closing(docker.from_env(timeout=120)) as here, there.client() as client:
            api: Any = client.api
            for tag in tags:
                api.load_image(here.images.get(tag).save(named=tag))
        yield there


@pytest.fixture(scope="module")
def survivor(island: Island, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Survivor:
    """A tiny product on that engine, which was built once."""
    project = shop.ready(tmp_path_factory.mktemp("survivor"))
    make_tiny(project)
    env = {"DOCKER_HOST": island.engine.address}
    survivor = Survivor(project=project, env=env, island=island)
    survivor.learn()
    return survivor


def wait_until(holds: Callable[[], object], what: str | Callable[[], str], timeout: float = 60.0) -> None:
    """Look again and again until something holds; what is waited for tells nobody.

    Args:
        holds: what is waited for.
        what: the same in words. A function is asked when time is up.
        timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`until(condition, "what it is")`."""
    return wait_until


NO_WAY_TO_FETCH = 3
"""Exit status of fetch.sh where apt cannot fetch."""


@pytest.fixture(scope="session")
def debian_source() -> Callable[[str], Path]:
    """The folder with a source package of Debian's, by its name; fetched once for all test runs of a checkout."""

    def fetch(package: str) -> Path:
        folder = Path(os.environ.get("PIKAFORGE_TEST_OUT") or ROOT / "out") / "debian" / package
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{package}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers want the same ones at the same time
            done = subprocess.run(
                ["sh", str(ROOT / "tests" / "products" / "fetch.sh"), package, str(folder)],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
        if done.returncode == NO_WAY_TO_FETCH:
            pytest.skip(f"Debian's source package cannot be fetched here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return fetch


@pytest.fixture(scope="session")
def gperftools(warm: Warm, debian_source: Callable[[str], Path], shared: Shared) -> Path:
    """gperftools 2.10 with its configure, as its releases are; made once for all workers.

    Debian's copy is the tree of its git, in which each build would have to make configure first.
    """
    folder = debian_source("google-perftools")
    assert (folder / "version").read_text(encoding="utf-8").startswith("2.10-")
    with shared.once("gperftools") as made:
        if made is not None:
            make_release(folder / "google-perftools.orig.tar.gz", warm.build_image, made)
    return shared.folder / "gperftools" / RELEASE


@pytest.fixture(scope="session")
def registry_program(shared: Shared) -> Path:
    """The program of a container registry, for `standins.registry.serve`; fetched once for all workers."""
    try:
        with shared.once("registry") as folder:
            if folder is not None:
                (folder / "program").write_text(str(registry.program(folder)), encoding="utf-8")
    except registry.NoRegistry as error:
        pytest.skip(str(error))
    return Path((shared.folder / "registry" / "program").read_text(encoding="utf-8"))


class Git:
    """git without this machine's configuration."""

    def __call__(self, *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run git; its output, without the line's end."""
        argv = ["git", "-c", "protocol.file.allow=always", *map(str, args)]
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **IDENTITY, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="session")
def git() -> Git:
    """git, to prepare repositories with."""
    return Git()


class _Quiet(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, seen: list[str], **options: Any) -> None:
        self._seen = seen
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: Any) -> None:
        self._seen.append(format % args)


@dataclass(slots=True)
class Web:
    """A folder behind HTTP on this machine's loopback interface."""

    folder: Path
    url: str
    seen: list[str] = field(default_factory=list)
    """Requests with their answers' status."""


@pytest.fixture
def web() -> Iterator[Callable[[Path], Web]]:
    """Serve a folder: `web(folder).url`."""
    servers: list[ThreadingHTTPServer] = []

    def serve(folder: Path) -> Web:
        seen: list[str] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder), seen=seen))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Web(folder=folder, url=f"http://127.0.0.1:{server.server_address[1]}", seen=seen)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A server that knows nothing yet."""
    server = Answers()
    yield server
    server.close()


@pytest.fixture
def git_daemon() -> Iterator[Callable[[Path], str]]:
    """Serve the repositories of a folder by git's own protocol: `git_daemon(folder)` is the URL."""
    running: list[subprocess.Popen[bytes]] = []

    def serve(folder: Path) -> str:
        for _ in range(20):  # the port may be taken between the two lines
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            daemon = subprocess.Popen(
                ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", f"--base-path={folder}", "--export-all"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **IDENTITY},
                start_new_session=True,
            )
            running.append(daemon)
            while daemon.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError:
                    time.sleep(0.02)
                else:
                    return f"git://127.0.0.1:{port}"
        pytest.skip("git daemon does not start here")

    yield serve
    for daemon in running:
        if daemon.poll() is None:
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
