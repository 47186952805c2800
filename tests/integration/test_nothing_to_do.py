"""A build with nothing to do: what it imports and starts, and that it notices all that a build notices."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.builds import ENDED, SampleBuild

from pikaforge.cli.unchanged.answer import OWNER
from pikaforge.host.connection import address
from pikaforge.host.engine_socket import owned
from pikaforge.host.leftovers import RUNTIME

if TYPE_CHECKING:
    from conftest import Engine, Project
    from integration.conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("nothing-to-do"), pytest.mark.long(60)]

ROOT = Path(__file__).resolve().parents[2]
PROBE = """\
import json, sys
from importlib.machinery import PathFinder

class OwnPlaces:
    def find_spec(self, name, path=None, target=None):
        if name != "pikaforge.host.leftovers":
            return None
        found = PathFinder.find_spec(name, path)
        load = found.loader.exec_module
        def exec_module(module):
            load(module)
            module.SHORT = ()
        found.loader.exec_module = exec_module
        return found

sys.meta_path.insert(0, OwnPlaces())
started, asked = [], []
def hook(event, args):
    if event == "subprocess.Popen":
        started.append(str(args[0]))
sys.addaudithook(hook)
from pikaforge.cli.main import main
status = main(sys.argv[2:])
checked = []
if "pydantic" in sys.modules:
    from pydantic import BaseModel
    left = [BaseModel]
    while left:
        for model in left.pop().__subclasses__():
            left.append(model)
            if model.__pydantic_complete__ and model.__module__.startswith("pikaforge."):
                checked.append(model.__name__)
with open(sys.argv[1], "w") as file:
    found = {"status": status, "modules": sorted(sys.modules), "started": started, "checked": sorted(checked)}
    json.dump(found, file)
"""
"""Runs the tool, without looks into /tmp: what other tests' killed runs leave there keeps answers from holding."""
NEVER = (
    "docker", "requests", "urllib3", "http.client", "pydantic", "pydantic_core", "jinja2", "markupsafe", "iced_x86",
    "elftools", "rich", "numpy", "yaml", "archspec", "packaging", "argparse", "subprocess", "tempfile", "dataclasses",
    "email", "importlib.metadata", "ssl", "asyncio",
)  # fmt: skip
"""What a build with a kept answer may not import."""
OWN = {
    "pikaforge", "pikaforge.cli", "pikaforge.cli.main", "pikaforge.cli.unchanged", "pikaforge.cli.unchanged.answer",
    "pikaforge.cli.unchanged.request", "pikaforge.cli.unchanged.state", "pikaforge.host",
    "pikaforge.host.ended_runs", "pikaforge.host.engine_socket", "pikaforge.host.own_files",
}  # fmt: skip
"""The modules of the tool that it imports."""
LOOK = """\
import os, sys
from pikaforge.cli import main
main._call = lambda given: 99
sys.exit(main.main(sys.argv[1:]))
"""
"""Gives a kept answer; without one, it does not build, but ends with status 99."""
WORKING = ("docker", "requests", "urllib3", "iced_x86", "rich", "numpy", "yaml")
"""What a build may not import that has no kept answer, but finds all results in the store. It does draw the page of the
report, by jinja2, to see whether that is the same."""


class Call:
    """Calls of the tool in processes of their own, for one project."""

    def __init__(self, project: Project, folder: Path, environment: dict[str, str]) -> None:
        self.project, self._record = project, folder / "record.json"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "build"), **environment}
        self.record: dict[str, Any] = {}

    def __call__(self, verb: str = "build", *more: str) -> str:
        """Run a verb; what it prints. `record` has its modules and the programs that it has started."""
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(self._record), *self.project.arguments(verb, "R620", *more)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        self.record = json.loads(self._record.read_text(encoding="utf-8"))
        assert self.record["status"] == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def replayed(self) -> bool:
        """Whether the last call has given a kept answer."""
        return "pikaforge.cli.call" not in self.record["modules"]

    def imported(self, names: tuple[str, ...]) -> set[str]:
        """Those modules that the last call has imported."""
        return {name for name in names if name in self.record["modules"]}

    def holds(self, verb: str = "build", **environment: str) -> bool:
        """Whether a kept answer to a call would be given; nothing is built."""
        done = subprocess.run(
            [sys.executable, "-c", LOOK, *self.project.arguments(verb, "R620")],
            env={**self.environment, **environment},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (0, 99), done.stderr
        return done.returncode == 0


class Proxy:
    """A socket in front of the engine's, which does not have an image as often as it is asked for by then.

    It holds nothing of runs that have ended: other tests kill theirs, and what those leave keeps answers from holding.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lost, self.times = path, b"", 0
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            begin = client.recv(1 << 16)
            asked = begin.split(b"\r\n", 1)[0]
            if self.times > 0 and self.lost in asked:
                self.times -= 1
                _reply(client, b"404 Not Found", b'{"message":"no such image"}')
                return
            if any(b"GET %s " % path.encode() in asked for path in owned(OWNER)):
                _reply(client, b"200 OK", b"[]")
                return
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
                engine.connect(address().removeprefix("unix://"))
                engine.sendall(begin)
                back = threading.Thread(target=_copy, args=(engine, client), daemon=True)
                back.start()
                _copy(client, engine)
                back.join()

    def close(self) -> None:
        self._server.close()


def _reply(client: socket.socket, status: bytes, body: bytes) -> None:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\n" % status
    client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Proxy]:
    if not address().startswith("unix://"):
        pytest.skip("the engine is on another machine")
    proxy = Proxy(tmp_path_factory.mktemp("p") / "s")
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def settled(
    shop: Shop, sample_build: Callable[..., SampleBuild], tmp_path_factory: pytest.TempPathFactory, proxy: Proxy
) -> Call:
    """A project in which all is up to date, after a build that has said so and kept that."""
    folder = tmp_path_factory.mktemp("settled")
    project = shop.ready(folder / "project")
    shop.take(project, *ENDED, build=sample_build("R620"))
    _part(project.out / "store")
    temporary = folder / "temporary"
    temporary.mkdir()
    call = Call(project, folder, {"DOCKER_HOST": f"unix://{proxy.path}", "TMPDIR": str(temporary), RUNTIME: ""})
    call()  # puts the packages into dist/
    call()
    assert not call.replayed
    assert call.imported(WORKING) == set(), "a build that finds all results does not, either"
    assert not {"Spec", "Product", "Check"} & set(call.record["checked"]), "what was parsed before is not checked again"
    return call


def _part(store: Path) -> None:
    """Copy what is linked: another test's link to a file changes its ctime, and such a file may have changed."""
    for path in [path for path in store.rglob("*") if path.is_file()]:
        copy = path.with_name(f"{path.name}.copy")
        shutil.copy2(path, copy)
        copy.replace(path)


@pytest.fixture
def call(settled: Call, proxy: Proxy) -> Call:
    """The project of all these tests, whatever one has left: the next call has an answer."""
    proxy.times = 0
    for _ in range(3):
        if settled.holds():
            return settled
        settled()
    raise AssertionError("a build with nothing to do does not keep its answer")


def does_nothing(call: Call) -> str:
    """Call for an answer, and see that it was there; what it says."""
    said = call()
    assert call.replayed
    assert call.imported(NEVER) == set()
    assert {name for name in call.record["modules"] if name.startswith("pikaforge")} == OWN
    assert call.record["started"] == []
    return said


def test_it_imports_and_starts_nothing_for_working(call: Call) -> None:
    wanted = does_nothing(call)
    assert "everything is up to date" in wanted.splitlines()
    before = {path: path.stat().st_mtime_ns for path in call.project.dist.rglob("*")}
    assert call() == wanted
    assert {path: path.stat().st_mtime_ns for path in call.project.dist.rglob("*")} == before


def test_it_prints_what_a_build_without_a_kept_answer_prints(call: Call) -> None:
    kept = call()
    for file in (call.project.out / "answers").glob("*.json"):
        file.unlink()
    fresh = call()
    assert not call.replayed
    ended = " is up to date"
    lines = [[line for line in text.splitlines() if not line.endswith(ended)] for text in (kept, fresh)]
    assert [line for line in lines[1] if not line.startswith("took ")] == lines[0]
    assert sorted(kept.splitlines()) == sorted(line for line in fresh.splitlines() if not line.startswith("took "))


def test_events_are_those_of_a_build(call: Call) -> None:
    fresh = call("build", "--json")
    kept = call("build", "--json")
    assert call.replayed

    def events(text: str) -> list[str]:
        found = [json.loads(line) for line in text.splitlines()]
        return sorted(json.dumps({**each, "time": "", "seconds": 0}) for each in found)

    assert events(kept) == events(fresh)


def test_a_missing_image_is_noticed(call: Call, proxy: Proxy) -> None:
    facts = next(r["facts"] for r in call.project.stored("image").values() if r["facts"]["runtime"])
    assert all(node["cached"] for node in json.loads(call("plan", "--json"))["nodes"])
    proxy.lost, proxy.times = facts["runtime"].encode(), 2  # for the kept answer, and for the plan
    nodes = json.loads(call("plan", "--json"))["nodes"]
    assert not call.replayed
    assert "the engine does not hold it any more" in {node["why"] for node in nodes}
    proxy.times = 3  # for the kept answer, before the run, and in it
    assert "is made anew: the engine does not hold it any more" in call()
    assert not call.replayed


def test_a_damaged_result_is_noticed_and_the_build_that_mends_it_knows_the_next_answer(call: Call) -> None:
    (tree,) = (call.project.out / "store" / "package").glob("*/pika-v3.4.0-R620.tar.gz")
    data = bytearray(tree.read_bytes())
    data[len(data) // 2] ^= 1
    times = tree.stat()
    tree.write_bytes(data)
    os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not call.holds()
    assert "does not have the digest it was stored with" in call()
    assert not call.replayed
    assert "everything is up to date" in does_nothing(call), "it was kept by the build that has made the package"


def test_an_edited_dist_is_noticed_and_mended(call: Call) -> None:
    package = call.project.package()
    edits = {package: b"x", package.parent / "SHA256SUMS": b"", call.project.dist / "report.json": b"{}"}
    before = {path: path.read_bytes() for path in edits}
    for path, text in edits.items():
        path.write_bytes(text)
        assert not call.holds(), path
        path.write_bytes(before[path])
        assert call.holds(), path
    for path, text in edits.items():
        path.write_bytes(text)
    call()
    assert not call.replayed
    for path in edits:
        found = path.read_bytes()
        # A report that was lost has no times of earlier runs.
        assert found == before[path] or (path.suffix == ".json" and len(found) > len(before[path]) // 2), path


INPUTS = ("matrix.yaml", "build/recipes/pika.sh", "patches/v3.4.0/series.yaml", "tests/sample/server/src/pika.cc")


def test_a_changed_input_is_noticed(call: Call) -> None:
    for name in INPUTS:
        path = call.project.folder / name
        whole, mode = path.read_bytes(), path.stat().st_mode
        path.write_bytes(whole + b"\n# another line\n")
        assert not call.holds(), name
        path.write_bytes(whole)
        assert call.holds(), f"{name} was written again, and is the same"
        path.chmod(mode ^ 0o111)  # git has this bit, too
        assert not call.holds(), name
        path.chmod(mode)
    beside = call.project.folder / "tests/sample/server/src/another.cc"
    beside.touch()
    assert not call.holds(), "a further file of the source"
    beside.unlink()
    assert call.holds()


def test_what_is_around_a_build_is_noticed(call: Call, tmp_path: Path) -> None:
    assert not call.holds(PIKAFORGE_STORE=str(tmp_path / "store"))
    assert not call.holds(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert not call.holds(DOCKER_HOST=f"unix://{tmp_path}/none")
    assert not call.holds(TZ="Pacific/Kiritimati" if time.gmtime().tm_hour >= 10 else "Etc/GMT+12")
    logs = call.project.out / "logs"
    there = logs.is_dir()
    logs.rename(tmp_path / "logs") if there else logs.mkdir()
    assert not call.holds(), "the report has links to logs"
    (tmp_path / "logs").rename(logs) if there else logs.rmdir()
    assert call.holds()


def test_a_plan_that_is_computed_imports_little(call: Call) -> None:
    call("plan")
    for file in (call.project.out / "answers").glob("*.json"):
        file.unlink()
    call("plan")
    assert not call.replayed
    heavy = (*WORKING, "jinja2", "license_expression", "multiprocessing", "http.client", "ssl")
    assert call.imported(heavy) == set()
    assert not [name for name in call.record["modules"] if name.startswith("pikaforge.audit.isa")]
    assert not {"Spec", "Product", "Check", "Series"} & set(call.record["checked"])
