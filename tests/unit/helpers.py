"""What unit tests are made of: small specifications, an engine that only records, and a workspace around it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from pikaforge.config import load
from pikaforge.config.schema import Spec
from pikaforge.cpu.microarch import features
from pikaforge.errors import ForgeError, FullDiskError
from pikaforge.formats.product_package import PackageAbout
from pikaforge.host.download import Downloads
from pikaforge.host.job import Executed, Input, Job, JobResult, RunningServer, ServerJob
from pikaforge.host.lockfile import Lock
from pikaforge.host.os_families.enterprise_linux import EL
from pikaforge.host.store import Store
from pikaforge.host.text import ignore
from pikaforge.host.workspace import GUEST, Workspace
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells

ROOT = Path(__file__).resolve().parents[2]

GUEST_SCRIPTS = (
    "lib.sh", "run.sh", "source.sh", "submodules.sh", "compile.sh", "bundle.sh", "licences.sh", "cc", "package.sh",
    "packages.sh", "specs.sh", "abi.sh", "libraries.sh", "allocator.sh", "toolchain.sh", "layout.sh", "debuginfo.sh",
    "rpm.sh", "rpmsign.sh", "ccache.conf",
)  # fmt: skip

BASE: dict[str, Any] = {
    "product": {
        "name": "demo",
        "version": "v1.0",
        "source": {"git": "https://example.org/demo.git", "tag": "v1.0"},
        "recipe": "recipe.sh",
        "binaries": ["bin/demo"],
        "files": ["conf/demo.conf"],
        "packages": {"debian": {"build": ["zlib1g-dev"], "runtime": ["rsync"]}},
        "server": {
            "command": ["bin/demo", "-c", "{conf}"],
            "port": 7000,
            "conf": {
                "path": "conf/demo.conf",
                "line": "{key} : {value}",
                "settings": {"port": "{port}", "dir": "{data}/db/"},
            },
            "version": {"command": ["bin/demo", "-v"], "match": "demo 1"},
        },
        "smoke": [{"check": "ping", "steps": [{"send": ["PING"], "expect": "PONG"}]}],
    },
    "hardware": {
        "R620": {"cpus": ["sandybridge", "ivybridge"]},
        "R720": {"cpus": ["sandybridge", "ivybridge"]},
        "R640": {"cpus": ["skylake_avx512", "cascadelake"]},
    },
    "images": {
        "el7": {"family": "el7", "os": {"id": "centos", "version": "7"}, "base": "centos:7", "gcc": "4.8.5"},
        "debian12": {
            "family": "debian",
            "os": {"id": "debian", "version": "12"},
            "base": "debian:bookworm-slim",
            "bootstrap": "bookworm",
            "gcc": "12.2",
        },
    },
    "allocators": {"none": {"kind": "none"}, "system": {"kind": "system"}},
    "defaults": {"image": "debian12", "tools": "debian12", "base_libraries": ["libc.so.*"]},
}


class Forbidden(AssertionError):
    """Something left the process that a unit test may not leave."""


class _Plain(yaml.SafeDumper):
    """Writes values out where they are used: matrix.yaml has no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def make_matrix(**changes: Any) -> str:
    """The text of a small matrix.yaml; each argument replaces a value, `__` stepping into it: `images__el7__gcc=…`."""
    data = deepcopy(BASE)
    for path, value in changes.items():
        *folders, last = path.split("__")
        part = data
        for name in folders:
            part = part.setdefault(name, {})
        part[last] = value
    return yaml.dump(data, Dumper=_Plain, sort_keys=False)


def make_spec(**changes: Any) -> Spec:
    """The specification of `make_matrix`."""
    return load.parse(make_matrix(**changes), file="matrix.yaml")


def the_cell(spec: Spec, cell_id: str) -> Cell:
    """The cell of this id."""
    return next(cell for cell in all_cells(spec) if cell.id == cell_id)


def refusal(error: pytest.ExceptionInfo[ForgeError]) -> tuple[str, str, str]:
    """What the user reads: message, where, hint."""
    return error.value.message, error.value.where, error.value.hint


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the fake engine ends a job."""

    status: int = 0
    outputs: Mapping[str, bytes] = field(default_factory=dict)
    log: str = ""
    timed_out: bool = False
    exceeded: str = ""


@dataclass
class FakeServer:
    """A server whose address is what the test says, and which ends as it says."""

    root: str = "/forge"
    port: int = 7000
    statuses: list[int | None] = field(default_factory=list)
    """What `wait` returns, one a call; then None for ever."""
    signals: list[str] = field(default_factory=list)
    files: tuple[str, ...] = ("/forge/tree/bin/demo", "/lib/libc.so.6")
    commands: list[tuple[str, ...]] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=lambda: [Executed(status=0, output=b"demo 1.0\n")])
    """How commands end, one after the other; the last one for ever."""

    def address(self) -> tuple[str, int]:
        return "server.invalid", 7000

    def wait(self, timeout: float) -> int | None:
        return self.statuses.pop(0) if self.statuses else None

    def signal(self, name: str) -> None:
        self.signals.append(name)

    def execute(self, argv: Sequence[str], *, timeout: float) -> Executed:
        self.commands.append(tuple(argv))
        return self.executed.pop(0) if len(self.executed) > 1 else self.executed[0]

    def log_text(self) -> str:
        return ""

    def restart(self) -> None:
        raise AssertionError("no test has said what happens then")

    def peer(self) -> str:
        return "peer.invalid"

    def today(self) -> str:
        return "20230101"

    def fetch(self, folder: str) -> bytes | None:
        return None

    def mapped_files(self) -> tuple[str, ...]:
        return self.files

    def resources(self) -> Mapping[str, int]:
        return {"fds": 10, "threads": 2, "rss_kib": 1000}


class FakeEngine:
    """An `Engine` that runs nothing: it records what was asked, and gives what `endings` says.

    `endings` maps the start of a job's label to how it ends, or to a function of the job; the longest start counts.
    """

    kind: Literal["docker", "host"] = "docker"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.served: list[ServerJob] = []
        self.endings: dict[str, Ending | Callable[[Job], Ending]] = {}
        self.server = FakeServer()
        self.aborted = 0
        self.settled = 0
        self.verified = 0
        self.full: FullDiskError | None = None

    def verify(self) -> None:
        self.verified += 1

    def root(self, label: str) -> str:
        return "/forge"

    def cores(self) -> int:
        return 3

    def memory(self) -> int:
        return 0

    def run(self, job: Job, into: Path) -> JobResult:
        self.jobs.append(job)
        found = [start for start in self.endings if job.label.startswith(start)]
        if not found:
            raise AssertionError(f"no test has said how the job {job.label} ends")
        ending = self.endings[max(found, key=len)]
        if not isinstance(ending, Ending):
            ending = ending(job)
        with job.log.open("a", encoding="utf-8") as log:
            log.write(ending.log)
        if ending.status or ending.timed_out:
            return JobResult(status=ending.status, timed_out=ending.timed_out, exceeded=ending.exceeded)
        outputs = {}
        for path in (*job.outputs, *job.facts):
            target = into / Path(path).name
            target.write_bytes(ending.outputs[path])
            outputs[path] = target
        return JobResult(status=0, outputs=outputs)

    @contextmanager
    def serve(self, job: ServerJob) -> Iterator[RunningServer]:
        self.served.append(job)
        yield self.server

    def forget(self, kept: str) -> None:
        raise AssertionError("no test has said what happens then")

    @contextmanager
    def network(self, label: str) -> Iterator[str]:
        yield f"network-{label}"

    def cpu_flags(self, image: str) -> frozenset[str]:
        return frozenset({*features("sandybridge"), "pni"})

    def cpu_model(self, image: str) -> str:
        return "Test CPU (icelake)"

    def known_cpu_flags(self) -> frozenset[str] | None:
        return self.cpu_flags("")

    def refuse_full(self) -> None:
        if self.full:
            raise self.full

    def sweep(self, notice: Callable[[str], None] = ignore) -> int:
        return 0

    def abort(self) -> None:
        self.aborted += 1

    def settle(self) -> None:
        self.settled += 1


def make_workspace(folder: Path, engine: FakeEngine, *, strict: bool = False) -> Workspace:
    """A workspace whose checkout, results and packages are all below `folder`."""
    home = folder / "home"
    if not home.exists():
        (home / GUEST).mkdir(parents=True)
        for name in GUEST_SCRIPTS:
            (home / GUEST / name).write_text(f"# {name}\n")
        (folder / "recipe.sh").write_text("make\n")
    return Workspace(
        base=folder,
        out=folder / "out",
        dist=folder / "dist",
        engine=engine,
        store=Store(folder / "out" / "store"),
        lock=Lock(folder / "sources.lock", strict=strict),
        jobs=2,
        downloads=Downloads(folder / "out" / "downloads"),
        home=home,
    )


def about(**changes: Any) -> PackageAbout:
    """What the header of the demo's packages says."""
    plain = PackageAbout(
        name="demo",
        version="v1.0",
        release="1",
        dist="el9",
        services=EL.services("9"),
        summary="A server",
        description="It serves.",
        licence="MIT",
        url="https://example.org/demo",
    )
    return replace(plain, **changes)


def members(item: Input) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file of an input, by its path below the root."""
    stream = io.BytesIO(item.archive if isinstance(item.archive, bytes) else item.archive.read_bytes())
    found: dict[str, tuple[int, bytes]] = {}
    with tarfile.open(fileobj=stream) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                found[f"{item.folder}/{member.name}".lstrip("/")] = (member.mode, content.read())
    return found


def tar_of(contents: Mapping[str, str]) -> bytes:
    """A tar archive as the guests make them: every name begins with `./`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


WITHOUT_SERVER: dict[str, Any] = {
    "product__server": None,
    "product__files": [],
    "product__smoke": [
        {"check": "version", "steps": [{"probe": {"kind": "command", "argv": ["bin/demo", "-v"], "match": "demo 1"}}]}
    ],
}
"""Changes of `make_spec` that make the demo a tool."""
