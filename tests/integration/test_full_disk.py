"""Full disks, and engines that are stuck or die: the run ends soon, says why, and leaves nothing in the way of others.

What can make an engine stick is done with one of the test's own.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import docker
import pytest
from integration.builds import STAGES
from integration.conftest import make_tiny, pin_images
from integration.podman_service import small_root
from limits import within
from own_engine import OwnEngine, fill, own_engine, small_disk

from pikaforge.errors import ForgeError, FullDiskError, HostError
from pikaforge.formats.rpm import yum
from pikaforge.host import connection, engine_calls, sweeping
from pikaforge.host.docker import DockerEngine
from pikaforge.host.download import Downloads, PinnedFile
from pikaforge.host.git_cache import Cache
from pikaforge.host.job import Input, Job, JobResult, files
from pikaforge.host.no_container import HostEngine
from pikaforge.host.run_id import RunId

if TYPE_CHECKING:
    from conftest import Engine, Project
    from integration.conftest import Shop

IMAGE = "pikaforge-test/small:1"
SOON = 60.0
"""Seconds for what hung before."""
LONG = 240.0
"""The same for a run of the tool, on a machine that is busy."""
MIB = 1 << 20
PAGE = 4096


# ---- an engine of the test's own


@pytest.fixture(scope="module")
def own() -> Iterator[OwnEngine]:
    """With an image of some programs."""
    with own_engine("48m") as engine:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", engine.address)
            archive = Path(folder, "root.tar")
            archive.write_bytes(small_root("sh", "sleep", "dd"))
            DockerEngine().import_tar(archive, IMAGE, {})
        yield engine


@pytest.fixture
def there(own: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    """That engine, for a run that has ended: another one's sweep removes what it leaves."""
    monkeypatch.setenv("DOCKER_HOST", own.address)
    me = RunId.current()
    engine = DockerEngine()
    engine._run_id = RunId(machine=me.machine, pid=me.pid, started=str(int(me.started) - 1))
    return engine


def job(folder: Path, script: str, **more: object) -> Job:
    options: dict[str, object] = {"label": "x", "image": IMAGE, "env": {}, "inputs": (), "log": folder / "log"}
    return Job(argv=("sh", "-c", script), **{**options, **more})  # type: ignore[arg-type]


def ended_well(found: object) -> bool:
    """Whether a job has ended without an error. How much memory it had is seen now and then, of short ones seldom."""
    return isinstance(found, JobResult) and replace(found, memory=0) == JobResult(status=0)


def outcome(engine: DockerEngine | HostEngine, job: Job, into: Path) -> JobResult | ForgeError:
    """How a job ends, in time."""
    try:
        return within(SOON, lambda: engine.run(job, into))
    except ForgeError as error:
        return error


def blob(size: int) -> str:
    """Shell text that makes the output of a job."""
    return f"dd if=/dev/zero of=out/blob bs={MIB} count={size} 2>/dev/null"


def test_an_output_for_which_there_is_no_room(there: DockerEngine, tmp_path: Path) -> None:
    """The engine sends a file when writing fails. It holds the container's lock until the answer is closed."""
    with small_disk("2m") as disk:
        error = outcome(there, job(tmp_path, blob(6), outputs=("out/blob",)), disk)
        assert isinstance(error, FullDiskError), error
        assert error.message == f"no space left in {disk}"
    there.settle()
    assert there._client().api.containers(all=True) == []
    done = outcome(there, job(tmp_path, blob(6), outputs=("out/blob",)), tmp_path)
    assert isinstance(done, JobResult), done
    assert done.outputs["out/blob"].stat().st_size == 6 * MIB


def test_the_engines_own_disk(own: OwnEngine, there: DockerEngine, tmp_path: Path) -> None:
    """Jobs, images, and whatever else it makes. It loses what a job prints, because it keeps that on the same disk."""
    said = f"no space left in {own.folder}/data of the container engine: "
    error = outcome(there, job(tmp_path, f"{blob(60)} || exit 1"), tmp_path)
    assert isinstance(error, FullDiskError), error
    assert error.message.startswith(said)
    filler = fill(own.folder)
    (tmp_path / "large.tar").write_bytes(files({"large": os.urandom(MIB)}))
    with pytest.raises(FullDiskError, match=said):
        there.import_tar(tmp_path / "large.tar", "pikaforge-test/large:1", {})
    filler.unlink()
    assert ended_well(outcome(there, job(tmp_path, "echo more"), tmp_path))


DOCKERFILE = f"""
FROM {IMAGE} AS build
RUN dd if=/dev/zero of=/first bs={MIB} count=3
COPY large /large
ARG SAID=
RUN if [ "$SAID" ]; then echo "$SAID" >&2; exit 100; fi; dd if=/dev/zero of=/second bs={MIB} count=3
"""
LARGE = b"large" * (MIB // 2)


def test_images_on_a_disk_that_gets_full_at_any_step(own: OwnEngine, there: DockerEngine, tmp_path: Path) -> None:
    """The context, each step, and what is kept of it: the disk is named, no part of an image has the name, and the next
    run goes on to the same files."""
    context = files({"Dockerfile": DOCKERFILE.encode(), "large": LARGE})
    tag, log, failed, room = "pikaforge-test/steps:1", tmp_path / "log", 0, 0
    options: dict[str, Any] = {"context": context, "target": "build", "tag": tag, "labels": {}, "log": log}
    with pytest.raises(FullDiskError, match="You don't have enough free space in /var/cache/apt/archives"):
        said = "E: You don't have enough free space in /var/cache/apt/archives/."
        there.build(args={"SAID": said}, **options)
    while True:
        _forget(there)
        filler = fill(own.folder, leave=room)
        try:
            made = there.build(args={}, **options)
        except FullDiskError as error:
            assert f"{own.folder}/data of the container engine: " in error.message
            failed += 1
        else:
            assert made is not None, log.read_text()
            break
        finally:
            filler.unlink()
        assert there._client().api.containers(all=True) == []
        assert there.image(tag) is None
        assert there.build(args={}, **options) is not None
        assert _sums(there, tag, tmp_path) == (3 * MIB, LARGE, 3 * MIB)
        room += MIB
    assert failed > 5
    _forget(there)


def _forget(engine: DockerEngine) -> None:
    """Remove all images but the first one, with what failed builds have left of them."""
    api: Any = engine._client().api
    with suppress(docker.errors.NotFound):
        api.remove_image("pikaforge-test/steps:1", force=True)
    api.prune_images(filters={"dangling": True})
    api.prune_builds()


def _sums(engine: DockerEngine, tag: str, folder: Path) -> tuple[int, bytes, int]:
    """What the image holds: two sizes, and the bytes of a file."""
    outputs = ("first", "large", "second")
    script = " && ".join(f"dd if=/{name} of=out/{name} bs={MIB} 2>/dev/null" for name in outputs)
    into = Path(tempfile.mkdtemp(dir=folder))
    wanted = tuple(f"out/{name}" for name in outputs)
    done = engine.run(job(folder, script, image=tag, outputs=wanted), into)
    first, large, second = (done.outputs[name] for name in wanted)
    return first.stat().st_size, large.read_bytes(), second.stat().st_size


@pytest.fixture
def held(there: DockerEngine, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A container of a run that has ended, whose lock somebody holds; the function lets it go."""
    api = there._client().api
    made = api.create_container(IMAGE, ["sleep", "1"], labels=there._labels("job"))
    api.put_archive(made["Id"], "/", io.BytesIO(files({"blob": bytes(6 * MIB)})))
    url = f"{api.base_url}/v{api.api_version}/containers/{made['Id']}/archive"
    answer = api.get(url, params={"path": "/blob"}, headers={"Accept-Encoding": "identity"}, stream=True)
    pieces = answer.iter_content(1)
    assert next(pieces)
    yield answer.close
    answer.close()


def test_a_container_that_somebody_holds_does_not_hold_a_sweep(
    there: DockerEngine,
    held: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    monkeypatch.setattr(sweeping, "ONE", 1.0)
    notices: list[str] = []
    assert within(SOON, lambda: DockerEngine().sweep(notices.append)) == 0
    assert [re.sub("[0-9a-f]{12}", "ID", notice) for notice in notices] == [
        "the engine has not removed container ID of a run that has ended; it is left for a later run"
    ]
    held()
    until(lambda: there._client().api.containers(all=True) == [], "the removal that had to wait")


def test_an_engine_that_is_stopped_does_not_hold_a_sweep(
    own: OwnEngine, there: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PROBE", 0.5)
    there.verify()
    there.caches()  # by the SDK, which asks for the engine's version first
    with monkeypatch.context() as patch:
        patch.setattr(engine_calls, "LIMITS", ())
        patch.setattr(engine_calls, "WORK", 1.0)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            with pytest.raises(HostError) as caught:
                within(SOON, there.sweep)
        finally:
            os.kill(own.pid, signal.SIGCONT)
    said = "is silent: GET /v1.41/containers/json got no answer in 1 s; it does not answer others, either"
    assert said in caught.value.message
    assert there.sweep() == 0


def test_an_engine_that_dies_while_a_job_runs(
    own: OwnEngine, there: DockerEngine, tmp_path: Path, until: Callable[..., None]
) -> None:
    """The message says what happened, and another run removes what is left once an engine is there again."""

    def kill() -> None:
        until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text() == "begun\n", "the job's line")
        own.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    error = outcome(there, job(tmp_path, "echo begun; sleep 600"), tmp_path)
    killer.join(SOON)
    assert isinstance(error, HostError), error
    assert error.message.startswith("the container engine does not answer any more: Connection ")
    assert "its own log says why" in error.hint
    assert "full" not in f"{error.message}{error.hint}"
    own.start()
    assert within(SOON, DockerEngine().sweep) == 1
    assert ended_well(outcome(DockerEngine(), job(tmp_path, "echo more"), tmp_path))


# ---- without an engine


@pytest.mark.parametrize("what", ["inputs", "log", "job", "output"])
def test_the_host_engine_on_a_full_disk(what: str, tmp_path: Path) -> None:
    """A job on this machine unpacks, prints and writes below out/."""
    with small_disk("3m") as disk:
        work, log, into = (tmp_path / name for name in ("work", "log", "into"))
        into.mkdir()
        script, inputs = "echo done; exit 1", tuple[Input, ...]()
        if what == "inputs":
            work, inputs = disk / "work", (Input(folder="src", archive=files({"blob": bytes(4 * MIB)})),)
        elif what == "log":
            log, script = disk / "log", "dd if=/dev/zero bs=1M count=4"
        elif what == "job":
            work, script = disk / "work", blob(4)
        else:
            into, script = disk, blob(4)
        error = outcome(HostEngine(work), job(tmp_path, script, inputs=inputs, log=log, outputs=("out/blob",)), into)
        assert isinstance(error, FullDiskError), error
        assert error.message.startswith(f"no space left in {disk}")
        assert list(disk.glob("work/*")) == []


@pytest.mark.parametrize("leave", [0, 2 * PAGE])
def test_metadata_for_which_there_is_no_room(leave: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """createrepo_c writes into TMPDIR, and its error does not say why."""
    yum.library()
    with small_disk("1m") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        filler = fill(disk, leave=leave)
        with pytest.raises(FullDiskError) as caught:
            yum.metadata({}, {}, revision=1)
        assert caught.value.message.startswith(f"no space left in {disk}")
        filler.unlink()
        files, _ = yum.metadata({}, {}, revision=1)
        assert len(files) == 3


def test_git_on_a_full_disk(git: Callable[..., str], tmp_path: Path) -> None:
    """A cache that cannot grow is not damaged, and is not made anew."""
    repository = tmp_path / "repository"
    git("init", "--quiet", repository)
    (repository / "blob").write_bytes(os.urandom(4 * MIB))
    git("-C", repository, "add", "blob")
    git("-C", repository, "commit", "--quiet", "--message", "x")
    commit = git("-C", repository, "rev-parse", "HEAD")
    with small_disk("2m") as disk:
        notices: list[str] = []
        cache = Cache(disk / "git", local=True, notice=notices.append)
        with pytest.raises(FullDiskError) as caught:
            cache.fetch(repository.as_uri(), commit)
        assert re.match(f"no space left (in {disk}/git/\\S+ )?for `git`: .*No space left", caught.value.message)
        assert notices == []


def test_git_on_a_disk_that_gets_full_at_any_step(git: Callable[..., str], tmp_path: Path) -> None:
    """Making the repository, fetching, noting what was fetched: git has other words for each."""
    repository = tmp_path / "repository"
    git("init", "--quiet", repository)
    (repository / "blob").write_bytes(os.urandom(3 * PAGE))
    git("-C", repository, "add", "blob")
    git("-C", repository, "commit", "--quiet", "--message", "x")
    commit = git("-C", repository, "rev-parse", "HEAD")
    full, room = 0, 0
    while True:
        with small_disk("1m") as disk:
            notices: list[str] = []
            filler = fill(disk, leave=room * PAGE)
            try:
                Cache(disk / "git", local=True, notice=notices.append).fetch(repository.as_uri(), commit)
            except FullDiskError:
                full += 1
            else:
                break
            filler.unlink()
            path = Cache(disk / "git", local=True, notice=notices.append).fetch(repository.as_uri(), commit)
            git("--git-dir", path, "fsck", "--full", "--no-dangling")
            assert [notice for notice in notices if "damaged" in notice] == [], f"{room} pages"
        room += 1
    assert full > 5


def test_a_download_for_which_there_is_no_room(tmp_path: Path) -> None:
    blob = bytes(3 * MIB)
    (tmp_path / "blob").write_bytes(blob)
    wanted = PinnedFile(name="b", url=(tmp_path / "blob").as_uri(), sha256=hashlib.sha256(blob).hexdigest())
    with small_disk("2m") as disk:
        with pytest.raises(FullDiskError) as caught:
            Downloads(disk / "downloads").get(wanted)
        assert caught.value.message == f"no space left in {disk}/downloads"
    assert Downloads(tmp_path / "downloads").get(wanted).stat().st_size == 3 * MIB


# ---- the tool, as a user runs it


class Door:
    """A socket behind which an engine is, until it is closed."""

    def __init__(self, folder: Path) -> None:
        url = urlsplit(connection.address())
        if url.scheme != "unix":
            pytest.skip("the engine is not behind a socket of this machine")
        self.address = f"unix://{folder}/door"
        self._engine = url.path
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/door")
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._engine)
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """As if the engine had been killed."""
        for end in (self._listener, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.engine
def test_an_engine_that_dies_in_a_build_and_then_a_full_disk(
    tiny: Callable[..., Project], ready: Project, engine: Engine, until: Callable[..., None]
) -> None:
    """Each trouble ends the run with its name; the next run removes what was left."""
    log = "logs/debian12-sandybridge-none/compile.log"
    with small_disk("48m") as disk, tempfile.TemporaryDirectory(prefix="pf-") as folder:
        shutil.copytree(ready.out, disk / "out")
        ready.out = disk / "out"
        tiny(prologue="echo forge-test: waits; exec sleep 600")
        door = Door(Path(folder))
        with ready.tool.start(*ready.arguments("build", "R620"), env={"DOCKER_HOST": door.address}) as running:
            compiled = ready.out / log
            until(lambda: compiled.is_file() and "forge-test: waits" in compiled.read_text(), "the recipe's line")
            door.close()
            died = running.finish(LONG)
        assert died.returncode == 3, died.text
        assert "error: the container engine does not answer any more: " in died.stdout
        assert "goes on where it was" in died.stdout
        assert "Traceback" not in died.text

        make_tiny(ready, prologue=f'mkdir -p "$OUT/conf"; dd if=/dev/urandom of="$OUT/conf/blob" bs={MIB} count=8')
        fill(disk, leave=3 * MIB)
        full = ready.build("R620", check=3, timeout=LONG)
        assert f"error: no space left in {ready.out}/store\n" in full.stderr
        assert "Traceback" not in full.text
        assert engine.containers(full.pid) == []
        until(lambda: engine.containers(died.pid) == [], "the removal, which may be that of another run")
        assert ready.half_done() == []
        assert "source   v3.4.0 is up to date" in full.stdout, "it goes on where it was"


@pytest.mark.engine
def test_packages_for_which_there_is_no_room(
    shop: Shop, new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    """In dist/, and where they are unpacked to be verified."""
    project = new_project(tmp_path)
    shop.take(project, *STAGES)
    pin_images(project, shop.warm)
    with small_disk("16m") as disk:
        project.dist = disk / "dist"
        filler = fill(disk, leave=10 * PAGE)
        full = project.build("R620", check=3)
        assert f"error: no space left in {project.dist}/debian12" in full.stderr
        assert "Traceback" not in full.text
        filler.unlink()
        project.build("R620", check=0)
        verify = ("verify", project.package(), "--unsigned")
        fill(disk)
        late = project.tool(*verify, env={"TMPDIR": str(disk)}, check=3)
        assert late.stderr.startswith(f"error: no space left in {disk}")
