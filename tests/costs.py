"""What each test module costs in CPU seconds: in the workers, in programs that tests run, and in containers.

`pytest --costs 15` prints the dearest fifteen; `.ci/run` does. Wall times say little on a machine that does other
things, too. Containers are no children of a worker: the engine's events tell which there are, and a thread of the
process that has started the workers reads their control groups. `starts` counts them: each costs the engine and its
helpers about half a second, which is in no other column. Without workers (`-n`) nothing is measured.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import pytest

OWNER = "org.pikaforge.owner"
"""Label of the tool's containers: machine-pid-started."""
TEST = "org.pikaforge.test"
"""Label of the containers that tests make by themselves: the worker's pid."""
INTERVAL = 0.2
"""Seconds between two looks at the containers; what one uses after the last look is not seen."""
OTHERS = "(containers without an owner: images in the making, also those of others)"
ANCESTORS = 16
FORKS = forked.Preloaded()
"""Of this process: its runs are no children of it, so what they cost is asked for."""

KINDS = ("pytest", "programs", "containers")
"""CPU seconds are of these kinds."""

Costs = defaultdict[str, defaultdict[str, float]]
"""By module: CPU seconds by kind, `wall` seconds, and the numbers of `tests` and of `starts` of containers."""


def new_costs() -> Costs:
    """No costs yet."""
    return defaultdict(lambda: defaultdict(float))


def used() -> dict[str, float]:
    """CPU seconds of this process and of the programs that it has waited for, and the time."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    programs = children.ru_utime + children.ru_stime + FORKS.seconds
    return {"pytest": time.process_time(), "programs": programs, "wall": time.monotonic()}


def mark(client: Any) -> None:
    """Let the containers that a client of the engine makes say which process wanted them."""
    create = client.api.create_container_from_config

    def marked(config: dict[str, Any], *args: Any, **options: Any) -> Any:
        config["Labels"] = {**(config.get("Labels") or {}), TEST: str(os.getpid())}
        return create(config, *args, **options)

    client.api.create_container_from_config = marked


class Measuring:
    """Takes down what the tests of this process cost."""

    def __init__(self, now: Path) -> None:
        self._costs = new_costs()
        self._now = now
        """File in which the module is that runs now."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        module = item.nodeid.partition("::")[0]
        self._now.write_text(module, encoding="utf-8")
        before = used()
        try:
            return (yield)
        finally:
            cost = self._costs[module]
            cost["tests"] += 1
            for kind, amount in used().items():
                cost[kind] += amount - before[kind]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        self._costs["(start of the workers, and collection)"]["pytest"] = time.process_time()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["costs"] = {module: dict(cost) for module, cost in self._costs.items()}


def control_group(pid: int) -> Path | None:
    """The file that says how much CPU time a process's control group has used, of version 1 or 2.

    None for the root group: the kernel names it for a process that has ended, and it counts the whole machine.
    """
    found = None
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if path == "/":
            continue
        if "cpuacct" in controllers.split(","):
            return Path("/sys/fs/cgroup/cpuacct", path.lstrip("/"), "cpuacct.usage")
        if not controllers:
            found = Path("/sys/fs/cgroup", path.lstrip("/"), "cpu.stat")
    return found


def seconds_in(file: Path) -> float:
    """What such a file says."""
    words = file.read_text(encoding="ascii").split()
    return int(words[1]) / 1e6 if file.name == "cpu.stat" else int(words[0]) / 1e9


@dataclass(slots=True)
class Watched:
    """A container."""

    module: str
    file: Path
    seconds: float = 0.0


class Containers:
    """Looks at the containers of all workers, as long as the engine is on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, Watched] = {}
        self._ended: list[Watched] = []
        self.starts: Counter[str] = Counter()
        """Containers that were started, by module."""
        self._stop = threading.Event()
        self._client: Any = None
        self._events: Any = None

    def start(self) -> None:
        """Begin; does nothing where no engine answers."""
        try:
            import docker

            self._client = docker.from_env(timeout=600)
            self._events = self._client.events(filters={"type": "container", "event": "start"}, decode=True)
        except Exception:  # noqa: BLE001  # whatever it is, there are no containers to look at
            return
        for target in (self._listen, self._look):
            threading.Thread(target=target, daemon=True).start()

    def end(self) -> list[Watched]:
        """Stop; what was seen."""
        self._stop.set()
        if self._events is not None:
            self._events.close()
        return [*self._ended, *self._running.values()]

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # the stream ends with the run
            for event in self._events:
                with contextlib.suppress(Exception):  # it was too short-lived to be seen
                    self._meet(event["Actor"]["ID"], event["Actor"]["Attributes"])

    def _meet(self, name: str, labels: Mapping[str, str]) -> None:
        owner = labels.get(TEST) or labels.get(OWNER, "").partition("-")[2].partition("-")[0]
        module = self._module_of(int(owner)) if owner else OTHERS
        if not module:
            return  # somebody else's
        self.starts[module] += 1
        file = control_group(int(self._client.api.inspect_container(name)["State"]["Pid"]))
        if file is not None and file.is_file():
            self._running[name] = Watched(module, file)

    def _module_of(self, pid: int) -> str:
        """The module that the worker runs whose descendant a process is."""
        for _ in range(ANCESTORS):
            with contextlib.suppress(OSError):
                return (self._folder / str(pid)).read_text(encoding="utf-8")
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        return ""

    def _look(self) -> None:
        while not self._stop.wait(INTERVAL):
            for name, watched in list(self._running.items()):
                try:
                    watched.seconds = seconds_in(watched.file)
                except (OSError, ValueError):  # it has ended
                    self._ended.append(self._running.pop(name))


class Telling:
    """Adds up what the workers have taken down, and prints it."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._costs = new_costs()
        self._folder = Path(tempfile.mkdtemp(prefix="pikaforge-costs-"))
        self._containers = Containers(self._folder)

    def pytest_sessionstart(self) -> None:
        self._containers.start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["costs"] = str(self._folder)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for module, cost in getattr(node, "workeroutput", {}).get("costs", {}).items():
            for kind, amount in cost.items():
                self._costs[module][kind] += amount

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for watched in self._containers.end():
            self._costs[watched.module]["containers"] += watched.seconds
        for module, count in self._containers.starts.items():
            self._costs[module]["starts"] += count
        terminalreporter.section("CPU seconds of the dearest modules")
        for line in table(self._costs, self._top):
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def cpu(cost: Mapping[str, float]) -> float:
    """The CPU seconds of all kinds."""
    return sum(cost[kind] for kind in KINDS)


def table(costs: Costs, top: int) -> Iterator[str]:
    """The dearest modules, and what all of them cost together."""
    rows = sorted(costs.items(), key=lambda row: (-cpu(row[1]), row[0]))
    whole = {kind: sum(cost[kind] for cost in costs.values()) for kind in (*KINDS, "wall", "tests", "starts")}
    yield " total  pytest  programs  containers  starts    wall  tests  module"
    for module, cost in (*rows[:top], (f"all {len(rows)}", whole)):
        pytest_, programs, containers = (cost[kind] for kind in KINDS)
        yield (
            f"{cpu(cost):6.0f}{pytest_:8.0f}{programs:10.0f}{containers:12.0f}{cost['starts']:8.0f}"
            f"{cost['wall']:8.0f}{cost['tests']:7.0f}  {module}"
        )


def watch(config: pytest.Config) -> None:
    """Measure, in a worker; and print what it was, in the process that starts workers."""
    folder = getattr(config, "workerinput", {}).get("costs")
    if folder:
        config.pluginmanager.register(Measuring(Path(folder) / str(os.getpid())))
    elif config.getoption("--costs") and config.getoption("numprocesses", None):
        config.pluginmanager.register(Telling(config.getoption("--costs")))
