"""Fixtures for all tests: the tool as a user runs it, a container engine, the sample's repositories, a project.

A test never runs the tool on the checkout's own matrix.yaml, because sources.lock is written beside it: `project` is
a copy that it may change.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import audit_memory
import costs
import engine_images
import forked
import programs
import pytest
import schedule
import thorough
import turns
import yaml
from thorough import whole

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

for _name in ("PIKAFORGE_CWD", "CI", *(name for name in os.environ if name.startswith("GITHUB_"))):
    # The tool asks a person, and not the CI system that runs its tests: there, `publish --to` needs no --yes, a build
    # of a tag is a release's, and lines are GitHub's. And what a test builds is not told in the job's summary.
    # setup.sh sets the first: the lines that reproduce an error would name nox, whose run is not tested there.
    os.environ.pop(_name, None)

programs.watch()
for _signal in (signal.SIGINT, signal.SIGHUP):
    # A shell starts what it runs in the background with these ignored, and the tool would inherit that.
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)
ROOT = Path(__file__).resolve().parents[1]
# The tool is started hundreds of times; compiling its modules anew takes 0.4 s of CPU time, half of a short run's.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
FORKS = costs.FORKS
TIMEOUT = 900.0
"""Seconds for one run of the tool; a bootstrap and an image build are among them on a machine without any image."""
OWNER = "org.pikaforge.owner"
"""Label of containers: machine-pid-started of the run that made them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", type=int, default=0, metavar="N", help="print the N dearest modules in CPU seconds")


def pytest_configure(config: pytest.Config) -> None:
    costs.watch(config)
    gc.disable()  # nothing of what collection makes is garbage
    if not hasattr(config, "workerinput"):
        config.add_cleanup(engine_images.TestRun().end)
        audit_memory.prepare(config)
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the largest groups first, which are not the longest; see schedule


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    thorough.leave_out(config, items)
    if hasattr(config, "workerinput"):
        schedule.arrange(items, _needs_engine)


def pytest_report_header(config: pytest.Config) -> str:
    """Say which of the long tests a run has."""
    run = thorough.run_parts(config)
    if len(run) == len(turns.PARTS):
        return ""
    return f"long tests of this commit ({turns.cost(run)} CPU seconds): {', '.join(run)}"


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the garbage collector look at nothing of what collection has made, now and at the end: it stays."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A run of the tool that ended."""

    argv: tuple[str, ...]
    pid: int
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def text(self) -> str:
        """Both outputs, one after the other."""
        return f"{self.stdout}{self.stderr}"

    def lines(self, pattern: str) -> list[str]:
        """The lines of standard output that match."""
        return [line for line in self.stdout.splitlines() if re.search(pattern, line)]

    def keep(self, path: Path) -> None:
        """Write it to a file, for other workers."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class Running:
    """A run of the tool that goes on, in a process group of its own."""

    def __init__(self, argv: tuple[str, ...], popen: subprocess.Popen[str] | forked.Run) -> None:
        self.argv = argv
        self._start = time.monotonic()
        self._popen = popen
        self.pid = self._popen.pid
        self._changed = threading.Condition()
        self._text = {"stdout": "", "stderr": ""}
        self._readers = [
            threading.Thread(target=self._read, args=(name, getattr(self._popen, name)), daemon=True)
            for name in self._text
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._text[name] += line
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str, timeout: float = 120.0) -> None:
        """Wait until a line of standard output matches; fail if the tool ends before."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not re.search(pattern, self._text["stdout"], re.MULTILINE):
                left = deadline - time.monotonic()
                if left <= 0 or not any(reader.is_alive() for reader in self._readers):
                    pytest.fail(f"no line matches {pattern!r}:\n{self._text['stdout']}{self._text['stderr']}")
                self._changed.wait(min(left, 0.5))

    @property
    def over(self) -> bool:
        """Whether its outputs are closed."""
        return not any(reader.is_alive() for reader in self._readers)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the tool, or to its group as a terminal does on Ctrl-C."""
        if group:
            os.killpg(self.pid, number)
        else:
            self._popen.send_signal(number)

    def finish(self, timeout: float = TIMEOUT) -> Done:
        """Wait for the end; what was printed is shown with a test that fails."""
        try:
            status = self._popen.wait(timeout)
            late = ""
        except subprocess.TimeoutExpired:
            self.end()
            status, late = self._popen.wait(), f", ended after {timeout:g} s"
        for reader in self._readers:
            reader.join(10)
        done = Done(
            argv=self.argv,
            pid=self.pid,
            returncode=status,
            stdout=self._text["stdout"],
            stderr=self._text["stderr"],
            seconds=time.monotonic() - self._start,
        )
        text = done.text if "--json" not in self.argv else f"(JSON)\n{done.stderr}"
        shown = f"$ pikaforge {' '.join(self.argv)}\n{text}[exit status {status} after {done.seconds:.1f} s{late}]"
        print(shown)  # pytest shows it with a failure
        if late:
            pytest.fail(shown)
        return done

    def end(self) -> None:
        """End the tool: first so that it can clean up."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()
            try:
                self._popen.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._popen.wait()


@contextmanager
def ended(running: Running) -> Iterator[Running]:
    """End the tool when the block is left."""
    try:
        yield running
    finally:
        running.end()


class Tool:
    """Runs `python -m pikaforge` from this checkout."""

    def __init__(self, always: Mapping[str, str] | None = None) -> None:
        """`always` is set in the environment of all runs."""
        self._always = dict(always or {})

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """This process's environment without what setup.sh, nox and GitHub's runner set, with build/ on the path."""
        env = {name: value for name, value in os.environ.items() if name not in ("PIKAFORGE_CWD", "GITHUB_ACTIONS")}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "build"), env.get("PYTHONPATH", "")]))
        return {**env, **self._always, **(extra or {})}

    @staticmethod
    def recall(path: Path) -> Done:
        """A run that was kept in a file."""
        return Done(**json.loads(path.read_text(encoding="utf-8")))

    @contextmanager
    def start(
        self, *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, umask: int = -1
    ) -> Iterator[Running]:
        """Start the tool; it is ended when the block is left."""
        argv = tuple(map(str, args))
        popen = subprocess.Popen(
            [sys.executable, "-m", "pikaforge", *argv],
            env=self.environment(env),
            cwd=cwd,
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with ended(Running(argv, popen)) as running:
            yield running

    def __call__(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        check: int | None = None,
        cwd: Path | None = None,
        umask: int = -1,
        timeout: float = TIMEOUT,
    ) -> Done:
        """Run the tool to its end, in a process that is forked where that is the same (see `forked`).

        Args:
            args: of the tool.
            env: on top of this process's.
            check: the exit status that it must have.
            cwd: where it runs.
            umask: with which it runs; -1 is this process's.
            timeout: seconds after which it is ended and the test fails.
        """
        argv, environment = tuple(map(str, args)), self.environment(env)
        if whole("starts") or not FORKS.same_start(environment):
            with self.start(*args, env=env, cwd=cwd, umask=umask) as running:
                done = running.finish(timeout)
        else:
            with ended(Running(argv, FORKS.start(argv, environment, cwd, umask))) as running:
                done = running.finish(timeout)
        if check is not None and done.returncode != check:
            pytest.fail(f"exit status {done.returncode}, not {check}:\n$ pikaforge {' '.join(done.argv)}\n{done.text}")
        return done


@pytest.fixture(scope="session")
def tool() -> Tool:
    """The tool as a program."""
    return Tool()


def owned(labels: Mapping[str, str], pid: int) -> bool:
    """Whether something with these labels belongs to a run of the tool."""
    return labels.get(OWNER, "").split("-")[1:2] == [str(pid)]


class Engine:
    """The container engine, as an observer beside the tool."""

    def __init__(self, client: DockerClient) -> None:
        self.client = client

    def containers(self, pid: int) -> list[Container]:
        """The containers that a run of the tool has at this moment, running or not."""
        found = self.client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)
        return [container for container in found if owned(container.labels, pid)]

    def tags(self, name: str | None = None) -> list[str]:
        """The tags of the engine's images. The SDK's own list asks for each image again, which may be gone by then."""
        return [tag for image in self.client.api.images(name) for tag in image["RepoTags"] or ()]

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Take down which containers are created while the block runs, told by the engine's own events.

        They are read as they come: the engine itself remembers only the last 256 (moby, daemon/events).
        """
        import docker

        listener = docker.from_env(timeout=600)
        marker = f"pikaforge-test-{secrets.token_hex(8)}"
        watch = Watch()
        stream: Any = listener.events(filters={"event": "create"}, decode=True)

        def read() -> None:
            for event in stream:
                if event["Actor"]["ID"] == marker:
                    return
                if event["Type"] == "container":
                    watch.created.append(event["Actor"]["Attributes"])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield watch
        finally:
            self.client.volumes.create(marker).remove()  # an event that comes after all those
            reader.join(60)
            assert not reader.is_alive(), "the engine tells no events"
            stream.close()
            listener.close()


class Watch:
    """What happened while it was looked at."""

    def __init__(self) -> None:
        self.created: list[dict[str, str]] = []

    def names(self, pid: int) -> list[str]:
        """Names of the containers that a run of the tool has created."""
        return [item["name"] for item in self.created if owned(item, pid)]


@pytest.fixture(scope="session")
def engine() -> Engine:
    """A container engine. Without one the test is skipped; with PIKAFORGE_EXPECT_ENGINE=1, as in CI, it fails."""
    try:
        import docker

        client = docker.from_env(timeout=120)
        client.ping()
    except Exception as error:  # noqa: BLE001  # whatever it is, there is no engine
        reason = f"no container engine answers: {error}"
        if os.environ.get("PIKAFORGE_EXPECT_ENGINE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    costs.mark(client)
    engine_images.note("an engine")
    return Engine(client)


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock against other processes."""
    with path.open("a") as stream:
        fcntl.flock(stream, kind)
        yield


class Shared:
    """A folder that all workers of this test run share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def once(self, name: str) -> Iterator[Path | None]:
        """For what one worker makes for all: its folder for the first that comes here, then None."""
        done = self.folder / f"{name}.done"
        with locked(self.folder / f"{name}.lock"):
            if done.exists():
                yield None
                return
            folder = self.folder / name
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            folder.mkdir()
            yield folder
            done.touch()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What the workers of this test run have in common."""
    base = tmp_path_factory.getbasetemp()
    return Shared(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


def _needs_engine(item: pytest.Item) -> bool:
    if item.get_closest_marker("apart") is not None:
        return False
    return item.get_closest_marker("engine") is not None or "engine" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests marked `serial` have the engine for themselves, all others share it; fixtures of modules included.

    Every start of the tool removes what killed runs left, so a test that leaves something on purpose must be alone.
    """
    if not _needs_engine(item):
        return (yield)
    kind = fcntl.LOCK_EX if item.get_closest_marker("serial") else fcntl.LOCK_SH
    folder = ROOT / "out"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Who waits for the engine holds the gate, so that those behind cannot overtake for ever.
        with locked(folder / ".tests-gate"):
            stack.enter_context(locked(folder / ".tests-turn", kind))
        return (yield)


@pytest.fixture(autouse=True)
def _engine_where_marked(request: pytest.FixtureRequest) -> None:
    """The mark `engine` alone is enough to be skipped, or to fail, without one."""
    if request.node.get_closest_marker("engine") is not None:
        request.getfixturevalue("engine")


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., None]:
    """Runs make-repo.sh: `make_sample(folder, SAMPLE_SUBMODULE_BASE=…)`."""

    def make(folder: Path, **env: str) -> None:
        script = ROOT / "tests" / "sample" / "make-repo.sh"
        done = subprocess.run(
            ["sh", str(script), str(folder)],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    return make


@pytest.fixture(scope="session")
def sample_repositories(make_sample: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's repositories as make-repo.sh makes them. Copy them before you change them."""
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder)
    return folder


class Project:
    """A matrix.yaml with what it names, in a folder of its own; results and packages stay beside it."""

    def __init__(self, top: Path, tool: Tool) -> None:
        self.folder = top / "project"
        self.out = top / "out"
        self.dist = top / "dist"
        self.tool = tool
        if not self.matrix.exists():  # else it is one that was made before
            for name in ("patches", "build/recipes", "tests/sample"):
                shutil.copytree(ROOT / name, self.folder / name)
            shutil.copy(ROOT / "matrix.yaml", self.matrix)

    @property
    def matrix(self) -> Path:
        """matrix.yaml."""
        return self.folder / "matrix.yaml"

    @property
    def recipe(self) -> Path:
        """The product's recipe."""
        return self.folder / "build/recipes/pika.sh"

    def change(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change matrix.yaml: `edit` gets its content."""
        content = yaml.safe_load(self.matrix.read_text(encoding="utf-8"))
        edit(content)
        content = json.loads(json.dumps(content))  # parts that an edit has shared would be YAML anchors
        self.matrix.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def series(self, *entries: Mapping[str, Any]) -> Path:
        """Write the series anew; the folder in which it is, for `file` and `quilt` entries."""
        path = self.folder / "patches/v3.4.0/series.yaml"
        path.write_text(yaml.safe_dump({"patches": [dict(entry) for entry in entries]}), encoding="utf-8")
        return path.parent

    @staticmethod
    def pull(number: int, base: str = "http://127.0.0.1:9") -> dict[str, Any]:
        """An entry for a pull request; without a server of the test's own, its URL answers nobody."""
        return {"pull": number, "url": f"{base}/{number}.patch"}

    @property
    def places(self) -> tuple[str, ...]:
        """Options that keep a run inside this project."""
        return ("--matrix", str(self.matrix), "--out", str(self.out), "--dist", str(self.dist))

    def arguments(
        self, verb: str, *args: str | Path, source: str | Path = "sample", image: str = "debian12"
    ) -> list[str]:
        """The command line of a run in this project."""
        chosen = ["--source", str(source)] if source else []
        system = ["--os", image] if image and verb in ("build", "plan") else []
        # What is about other things than packing makes one format.
        formats = ["--formats", "tar"] if verb in ("build", "plan") and "--formats" not in args else []
        return [verb, *map(str, args), *chosen, *system, *formats, *self.places]

    def build(
        self,
        *args: str | Path,
        source: str | Path = "sample",
        image: str = "debian12",
        check: int | None = None,
        **options: Any,
    ) -> Done:
        """Run `build`; options are those of the tool fixture."""
        return self.tool(*self.arguments("build", *args, source=source, image=image), check=check, **options)

    def plan(self, *args: str | Path, source: str | Path = "sample", image: str = "debian12") -> dict[str, Any]:
        """Run `plan --json`."""
        done = self.tool(*self.arguments("plan", "--json", *args, source=source, image=image), check=0)
        plan: dict[str, Any] = json.loads(done.stdout)
        return plan

    @property
    def lock_path(self) -> Path:
        """sources.lock."""
        return self.folder / "sources.lock"

    def pins(self, section: str) -> dict[str, dict[str, str]]:
        """A section of sources.lock."""
        pins: dict[str, dict[str, str]] = json.loads(self.lock_path.read_text(encoding="utf-8"))[section]
        return pins

    def package(self, model: str = "R620", image: str = "debian12") -> Path:
        """The package of a model."""
        return self.dist / image / f"pika-v3.4.0-{model}.tar.gz"

    def stored(self, stage: str) -> dict[str, dict[str, Any]]:
        """What the store has of a stage: records by key."""
        records = sorted((self.out / "store" / stage).glob("*/result.json"))
        return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in records}

    def half_done(self) -> list[Path]:
        """Results in the making and work folders; there are none unless something runs."""
        return [*(self.out / "store").glob(".new-*"), *(self.out / "work").glob("*")]


@pytest.fixture(scope="session")
def new_project(tool: Tool) -> Callable[[Path], Project]:
    """Makes a project below a folder, or finds the one that is there."""
    return lambda top: Project(top, tool)


@pytest.fixture
def project(tmp_path: Path, new_project: Callable[[Path], Project]) -> Project:
    """A copy of the checkout's matrix.yaml, patches, recipes and sample, which the test may change."""
    return new_project(tmp_path)
