"""A build with nothing to do: what it imports and starts, and that it notices all that a build notices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.builds import ENDED, SampleBuild

from pikaforge.host.connection import address

if TYPE_CHECKING:
    from conftest import Engine, Project
    from integration.conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("nothing-to-do"), pytest.mark.long(60)]

ROOT = Path(__file__).resolve().parents[2]
PROBE = """\
import json, sys
started, asked = [], []
def hook(event, args):
    if event == "subprocess.Popen":
        started.append(str(args[0]))
sys.addaudithook(hook)
from pikaforge.cli.main import main
status = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"status": status, "modules": sorted(sys.modules), "started": started}, file)
"""
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
WORKING = ("docker", "requests", "urllib3", "iced_x86", "rich", "numpy", "yaml")
"""What a build may not import that has no kept answer, but finds all results in the store. It does draw the page of the
report, by jinja2, to see whether that is the same."""


class Call:
    """Calls of the tool in processes of their own, for one project."""

    def __init__(self, project: Project, folder: Path, environment: dict[str, str]) -> None:
        self.project, self._record = project, folder / "record.json"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "build"), **environment}
        self.record: dict[str, Any] = {}
        self.at_first: set[str] = set()
        """What the first build with all results has imported of `WORKING`."""

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


class Proxy:
    """A socket in front of the engine's, which does not have an image as often as it is asked for by then."""

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
            if self.times > 0 and self.lost in begin.split(b"\r\n", 1)[0]:
                self.times -= 1
                body = b'{"message":"no such image"}'
                head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nConnection: close\r\n"
                client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
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
    proxy = Proxy(tmp_path_factory.mktemp("s") / "s")
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def made(
    shop: Shop, sample_build: Callable[..., SampleBuild], tmp_path_factory: pytest.TempPathFactory, proxy: Proxy
) -> Call:
    """A project in which all is up to date; one for all tests, because each build that is none costs seconds."""
    folder = tmp_path_factory.mktemp("nothing")
    project = shop.ready(folder / "project")
    shop.take(project, *ENDED, build=sample_build("R620"))
    made = Call(project, folder, {"DOCKER_HOST": f"unix://{proxy.path}"})
    made()  # puts the packages into dist/
    made()
    assert not made.replayed
    made.at_first = made.imported(WORKING)
    return made


@pytest.fixture
def call(made: Call, proxy: Proxy) -> Call:
    """That project, after a build that has said so and kept that; what the test before has spoilt is mended."""
    proxy.times = 0
    for _ in range(3):
        made()
        if made.replayed:
            return made
    pytest.fail("no answer is kept after three builds")


def test_it_imports_and_starts_nothing_for_working(call: Call) -> None:
    assert call.at_first == set(), "a build that finds all results does not, either"
    wanted = call()
    assert call.replayed
    assert call.imported(NEVER) == set()
    assert {name for name in call.record["modules"] if name.startswith("pikaforge")} == OWN
    assert call.record["started"] == []
    assert "everything is up to date" in wanted.splitlines()
    before = {path: path.stat().st_mtime_ns for path in call.project.dist.rglob("*")}
    assert call() == wanted
    assert {path: path.stat().st_mtime_ns for path in call.project.dist.rglob("*")} == before


def test_it_prints_what_a_build_without_a_kept_answer_prints(call: Call) -> None:
    kept = call()
    assert call.replayed
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
    call()
    assert call.replayed
    facts = next(r["facts"] for r in call.project.stored("image").values() if r["facts"]["runtime"])
    assert all(node["cached"] for node in json.loads(call("plan", "--json"))["nodes"])
    proxy.lost, proxy.times = facts["runtime"].encode(), 2  # for the kept answer, and for the plan
    nodes = json.loads(call("plan", "--json"))["nodes"]
    assert not call.replayed
    assert "the engine does not hold it any more" in {node["why"] for node in nodes}
    proxy.times = 3  # for the kept answer, before the run, and in it
    assert "is made anew: the engine does not hold it any more" in call()
    assert not call.replayed
    call()
    assert "everything is up to date" in call()
    assert call.replayed


def test_a_damaged_result_is_noticed(call: Call) -> None:
    call()
    assert call.replayed
    (tree,) = (call.project.out / "store" / "package").glob("*/pika-v3.4.0-R620.tar.gz")
    data = bytearray(tree.read_bytes())
    data[len(data) // 2] ^= 1
    times = tree.stat()
    tree.unlink()  # it is a link to what other tests have
    tree.write_bytes(data)
    os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "does not have the digest it was stored with" in call()
    assert not call.replayed


def test_an_edited_dist_is_noticed_and_mended(call: Call) -> None:
    call()
    assert call.replayed
    package = call.project.package()
    whole = package.read_bytes()
    edits = {package: b"x", package.parent / "SHA256SUMS": b"", call.project.dist / "report.json": b"{}"}
    for path, text in edits.items():
        before = path.read_bytes()
        path.write_bytes(text)
        call()
        assert not call.replayed, path
        found = path.read_bytes()
        # A report that was lost has no times of earlier runs.
        assert found == before or (path.suffix == ".json" and len(found) > len(before) // 2), path
    assert package.read_bytes() == whole
    call()
    call()
    assert call.replayed


@pytest.mark.parametrize(
    "name", ["matrix.yaml", "build/recipes/pika.sh", "patches/v3.4.0/series.yaml", "tests/sample/server/src/pika.cc"]
)
def test_a_changed_input_is_noticed(call: Call, name: str) -> None:
    call("plan", "--json")
    call("plan", "--json")
    assert call.replayed
    path = call.project.folder / name
    before = path.read_bytes()
    path.write_bytes(before + b"\n# another line\n")
    call("plan", "--json")
    path.write_bytes(before)
    assert not call.replayed
