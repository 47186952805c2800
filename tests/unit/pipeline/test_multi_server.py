"""Checks with servers of their own: each kind of step holds, and fails in words that tell what was wanted."""

from __future__ import annotations

import io
import signal
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from described import server_of
from unit.cell_results import IMAGE
from unit.cell_results import result as stage_result
from unit.helpers import Ending, FakeEngine, make_spec, members, refusal, tar_of, the_cell

from pikaforge.config.smoke_checks import Check
from pikaforge.cpu import emulation
from pikaforge.cpu.microarch import features
from pikaforge.errors import ConfigError, HostError, StageError
from pikaforge.host.confinement import NOBODY
from pikaforge.host.job import CannotServe, Executed, Input, RunningServer, ServerJob
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.smoke import multi_server, resp, smoke
from pikaforge.pipeline.smoke.multi_server import CheckVerdict, run_multi_server_check
from pikaforge.pipeline.smoke.record import SmokeFacts, WayRecord
from pikaforge.pipeline.smoke.resp import Connection, ErrorReply, Reply
from pikaforge.pipeline.smoke.server import ServerPlace
from pikaforge.pipeline.smoke.wire import Closed


def make_check(text: str) -> Check:
    """A check as matrix.yaml writes it."""
    return make_spec(product__smoke=[{"check": "it", **yaml.safe_load(text)}]).product.smoke[0]


# ---- servers of the tests: a dictionary that can be killed


@dataclass
class Memory:
    """A server that keeps strings; what it `forgets` of its data at its end is a defect."""

    name: str
    job: ServerJob
    data: dict[str, str] = field(default_factory=dict)
    ended: int | None = None
    """Its exit status, once it has ended."""
    at_term: int = 0
    forgets: int = 0
    starts: int = 1
    log: str = ""
    folders: dict[str, bytes] = field(default_factory=dict)
    days: list[str] = field(default_factory=lambda: ["20261122"])
    root: str = "/forge"
    port: int = 7000
    deaf: bool = False
    """It survives every signal."""
    files: tuple[str, ...] = ()
    """What it has mapped."""

    def address(self) -> tuple[str, int]:
        if self.ended is not None:
            raise ConnectionRefusedError("its port is gone")
        return self.name, self.port

    def wait(self, timeout: float) -> int | None:
        return self.ended

    def signal(self, name: str) -> None:
        if not self.deaf:
            self.ended = 128 + signal.SIGKILL if name == "KILL" else self.at_term
            for key in sorted(self.data)[: self.forgets]:
                del self.data[key]

    def execute(self, argv: Sequence[str], *, timeout: float) -> Executed:
        if self.ended is not None:
            raise HostError("it cannot be run in the container")
        return Executed(status=0, output=f"{self.name} ran {' '.join(argv)}".encode())

    def log_text(self) -> str:
        return self.log

    def restart(self) -> None:
        self.starts += 1
        self.ended = None

    def peer(self) -> str:
        return f"10.0.0.{len(self.name)}"

    def today(self) -> str:
        return self.days.pop(0) if len(self.days) > 1 else self.days[0]

    def fetch(self, folder: str) -> bytes | None:
        return self.folders.get(folder)

    def mapped_files(self) -> tuple[str, ...]:
        return self.files

    def resources(self) -> Mapping[str, int]:
        return {}

    def answer(self, request: Sequence[str | int]) -> Reply:
        words = [str(word) for word in request]
        if self.ended is not None:
            raise Closed("Connection closed by server.")
        if words[0] == "SET":
            if words[1] == "poison":
                self.ended = 139
                raise Closed("Connection closed by server.")
            self.data[words[1]] = words[2]
            return "OK"
        if words[0] == "GET":
            return self.data.get(words[1])
        return "PONG" if words[0] == "PING" else ErrorReply(f"unknown {' '.join(words)}")


class Site(FakeEngine):
    """An engine whose servers are `Memory`; `prepare` changes one before it is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.memories: dict[str, Memory] = {}
        self.prepare: dict[str, dict[str, Any]] = {}
        self.refusal = ""
        self.networks: list[str] = []
        self.gone: list[str] = []
        self.flags = frozenset({*features("sandybridge"), "pni"})

    @contextmanager
    def serve(self, job: ServerJob) -> Iterator[RunningServer]:
        self.served.append(job)
        if self.refusal:
            raise CannotServe(self.refusal)
        name = job.label.rpartition("-")[2]
        self.memories[name] = Memory(name=name, job=job, **self.prepare.get(name, {}))
        try:
            yield self.memories[name]
        finally:
            job.log.write_text(f"{name} serves\n{name} ends\n")
            self.gone.append(name)

    @contextmanager
    def network(self, label: str) -> Iterator[str]:
        self.networks.append(label)
        yield f"net-{label}"
        self.gone.append("network")

    def cpu_flags(self, image: str) -> frozenset[str]:
        return self.flags

    def cpu_model(self, image: str) -> str:
        return ""

    def known_cpu_flags(self) -> frozenset[str] | None:
        return self.flags


class Line:
    """A connection to a `Memory`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.closed = False

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        return [self._memory.answer(request) for request in requests]

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def place(site: Site, tmp_path: Path) -> ServerPlace:
    def connect(host: str, port: int, *, timeout: float = 10.0) -> Connection:
        return Line(site.memories[host])  # type: ignore[return-value]

    return ServerPlace(
        engine=site,
        server=server_of(make_spec(product__server__within=0.05).product),
        image="image:runtime",
        stem="smoke",
        group="debian12-sandybridge-none",
        tree=Input(folder="tree", archive=b""),
        conf="port : 1\n",
        log_path=tmp_path / "smoke.log",
        connect=connect,
    )


def judge(place: ServerPlace, text: str) -> CheckVerdict:
    return run_multi_server_check(make_check(text), place)


def detail(place: ServerPlace, text: str) -> str:
    verdict = judge(place, text)
    assert not verdict.record.passed
    assert verdict.record.failed
    return verdict.record.detail


# ---- steps that hold


def test_a_restart_keeps_the_data(place: ServerPlace, site: Site) -> None:
    verdict = judge(
        place,
        """
        instances: {main: {settings: {extra: "{data}/x"}}}
        steps:
          - start: main
          - {send: [SET, k, v], expect: OK}
          - stop: main
          - start: main
          - {send: [GET, k], expect: v}
        """,
    )
    assert verdict.record.passed, verdict
    assert verdict.tail == ()
    assert site.memories["main"].starts == 2
    assert site.networks == []
    (job,) = site.served
    assert job.label == "smoke-debian12-sandybridge-none-it-main"
    assert (job.network, job.unprivileged, job.open_files) == ("", False, None)
    assert "extra : /forge/data/x\n" in members(job.inputs[1])["server.conf"][1].decode()


def test_instances_reach_each_other_over_a_network_of_their_own(place: ServerPlace, site: Site) -> None:
    verdict = judge(
        place,
        """
        instances: {main: {unprivileged: true, open_files: 99}, second: {}}
        steps:
          - start: main
          - start: second
          - {at: second, send: [FOLLOW, "{ip:main}", "{port:main}", 5], error: "^unknown FOLLOW 10.0.0.4 7000 5$"}
          - {at: second, pipeline: [[PING], [GET, "{ip:second}"]], expect: [PONG, null]}
        """,
    )
    assert verdict.record.passed, verdict
    assert site.networks == ["smoke-debian12-sandybridge-none-it"]
    assert {job.network for job in site.served} == {"net-smoke-debian12-sandybridge-none-it"}
    assert (site.served[0].unprivileged, site.served[0].open_files) == (True, 99)
    assert site.gone == ["second", "main", "network"]


def dump(day: str) -> bytes:
    """What `fetch` of a dump's folder gives: members begin with the folder's own name; one is a hard link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo(day)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        info = tarfile.TarInfo(f"{day}/db0/1.log")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
        link = tarfile.TarInfo(f"{day}/db0/2.log")
        link.type, link.linkname = tarfile.LNKTYPE, f"{day}/db0/1.log"
        tar.addfile(link)
    return buffer.getvalue()


def test_a_copy_of_data_is_found_by_date(place: ServerPlace, site: Site) -> None:
    # It was made before midnight and is looked for afterwards.
    site.prepare["main"] = {"folders": {"data/dump/x20261122": dump("x20261122")}, "days": ["20261122", "20261123"]}
    verdict = judge(
        place,
        """
        instances: {main: {}, other: {unprivileged: true}}
        steps:
          - start: main
          - {files: "dump/x{today}/*.log", at_least: 2, match: "^data$"}
          - {start: other, data: {of: main, folder: "dump/x{today}", to: db}}
        """,
    )
    assert verdict.record.passed, verdict
    held = site.served[1].inputs[2]
    assert held.folder == "data"
    assert {name: data for name, (_, data) in members(held).items()} == {
        "data/db/db0/1.log": b"data",
        "data/db/db0/2.log": b"data",
    }
    assert isinstance(held.archive, bytes)
    with tarfile.open(fileobj=io.BytesIO(held.archive)) as tar:
        assert {member.uid for member in tar} == {NOBODY}


def test_all_of_the_data_can_be_copied(place: ServerPlace, site: Site) -> None:
    site.prepare["main"] = {"folders": {"data": dump("data")}}
    text = "{instances: {main: {}, other: {}}, steps: [{start: main}, {start: other, data: {of: main}}]}"
    assert judge(place, text).record.passed
    assert set(members(site.served[1].inputs[2])) == {"data/db0/1.log", "data/db0/2.log"}


LOAD = """
instances: {main: {}}
steps:
  - start: main
  - write: {send: [SET, "w{n}", "v{n}"], count: 400, connections: 4, batch: 10, kill_at: 300}
  - start: main
  - verify: {send: [GET, "w{n}"], expect: "v{n}"}
"""


def test_what_was_acknowledged_before_a_kill_is_there(place: ServerPlace, site: Site) -> None:
    verdict = judge(place, LOAD)
    assert verdict.record.passed, verdict
    assert site.memories["main"].starts == 2
    assert 300 <= len(site.memories["main"].data) <= 400


def test_an_expected_refusal(place: ServerPlace, site: Site) -> None:
    site.prepare["low"] = {"ended": 1, "log": "E the limit of open files is 10\n"}
    text = "{instances: {low: {open_files: 10}}, steps: [{start: low, refused: {match: limit of open, status: 1}}]}"
    assert judge(place, text).record.passed


def total(mebibytes: float) -> str:
    """The end of tcmalloc's statistics."""
    return f"ends\nMALLOC: = {int(mebibytes * (1 << 20)):12} ({mebibytes:7.1f} MiB) Virtual address space used\n"


SERVED = (
    "{instances: {main: {}, other: {}}, steps: [{start: main}, {start: other}, {at: other, served: {at_least: 4}}]}"
)


@pytest.mark.parametrize("kind", ["system", "gperftools"])
def test_memory_that_tcmalloc_served(place: ServerPlace, site: Site, kind: str) -> None:
    site.prepare["other"] = {"log": total(4.26)}
    outcome = judge(replace(place, allocator=kind), SERVED).record
    assert (outcome.passed, outcome.note) == (True, "tcmalloc served 4.3 MiB")
    assert {job.env["MALLOCSTATS"] for job in site.served} == {"1"}
    ended = {name: memory.ended for name, memory in site.memories.items()}
    assert ended == {"main": None, "other": 0}, "tcmalloc tells at the end of the one that is asked"


def test_memory_that_another_allocator_served(place: ServerPlace, site: Site) -> None:
    outcome = judge(place, SERVED).record
    assert (outcome.passed, outcome.note) == (True, "")
    assert {job.env["MALLOCSTATS"] for job in site.served} == {"1"}, "it is asked here, too, and must say nothing"


def test_other_checks_ask_for_no_statistics(place: ServerPlace, site: Site) -> None:
    assert judge(place, "{instances: {main: {}}, steps: [{start: main}, {stop: main}]}").record.passed
    assert dict(site.served[0].env) == {}


def test_a_server_can_be_started_again_after_that(place: ServerPlace, site: Site) -> None:
    text = "{instances: {main: {}}, steps: [{start: main}, {served: {at_least: 1}}, {start: main}]}"
    assert judge(place, text).record.passed
    assert site.memories["main"].starts == 2


# ---- steps that do not hold


@pytest.mark.parametrize(
    ("kind", "prepared", "said"),
    [
        (
            "gperftools",
            {"log": "MALLOC: nothing"},
            (
                "step 3: the memory of other: Compiled, but tcmalloc not used: at the server's end it has printed "
                "no statistics (MALLOCSTATS=1)"
            ),
        ),
        (
            "system",
            {"log": total(3.9)},
            "step 3: the memory of other: tcmalloc has served 3.9 MiB, less than 4: something else serves the rest",
        ),
        (
            "none",
            {"log": total(9)},
            "step 3: the memory of other: the allocator is none, but tcmalloc has printed its statistics",
        ),
        # It is ended as a `stop` step does that; a server that dies then prints nothing.
        ("gperftools", {"at_term": 139}, "step 3: stop other: sent SIGTERM; killed by SIGSEGV"),
        (
            "gperftools",
            {"deaf": True, "log": total(9)},
            "step 3: stop other: sent SIGTERM; it still runs after 20 s",
        ),
    ],
)
def test_memory_that_was_served_by_the_wrong_one(
    kind: str, prepared: dict[str, Any], said: str, place: ServerPlace, site: Site
) -> None:
    site.prepare["other"] = prepared
    assert detail(replace(place, allocator=kind), SERVED) == said


def test_the_memory_of_a_server_that_does_not_run(place: ServerPlace) -> None:
    text = "{instances: {main: {}}, steps: [{start: main}, {stop: main}, {served: {at_least: 1}}]}"
    assert detail(place, text) == "step 3: the server main is not running: it takes a `start` step first"


ONE = "instances: {{main: {{}}}}\nsteps: [{}]"


@pytest.mark.parametrize(
    ("steps", "prepared", "said"),
    [
        (
            "{start: main}, {send: [GET, k], expect: v}",
            {},
            "step 2: sent GET k; wanted 'v'; got (nil)",
        ),
        (
            "{start: main}, {send: [SET, poison, v], expect: OK}",
            {},
            (
                "step 2: sent SET poison v; wanted 'OK'; got no reply: Connection closed by server.; "
                "the server main has ended: killed by SIGSEGV"
            ),
        ),
        (
            "{start: main}",
            {"ended": 1},
            "step 1: start main: the server ended before it answered: exit status 1",
        ),
        ("{send: [PING], expect: PONG}", {}, "step 1: the server main is not running: it takes a `start` step first"),
        ("{start: main}, {start: main}", {}, "step 2: the server main is already running"),
        ("{start: main}, {stop: main}, {stop: main}", {}, "step 3: the server main is not running"),
        (
            "{start: main}, {stop: main}",
            {"deaf": True},
            "step 2: stop main: sent SIGTERM; it still runs after 20 s",
        ),
        ("{start: main}, {stop: main}", {"at_term": 139}, "step 2: stop main: sent SIGTERM; killed by SIGSEGV"),
        (
            "{start: main, refused: {match: limit}}",
            {},
            "step 1: start main: wanted a refusal with a match of 'limit'; it runs, and answers",
        ),
        (
            "{start: main, refused: {match: limit}}",
            {"ended": 0, "log": "limit"},
            "wanted a refusal with a match of 'limit' and exit status another than 0; exit status 0",
        ),
        (
            "{start: main, refused: {match: limit, status: 2}}",
            {"ended": 1, "log": "limit"},
            "wanted a refusal with a match of 'limit' and exit status 2; exit status 1",
        ),
        (
            "{start: main, refused: {match: limit}}",
            {"ended": 1, "log": "no memory"},
            "wanted a refusal with a match of 'limit'; it printed 'no memory' (exit status 1)",
        ),
        (
            '{start: main}, {files: "dump/*"}',
            {},
            "step 2: files of main: wanted 1 or more that match dump/*, found 0; there is: nothing",
        ),
        (
            '{start: main}, {files: "x/db0/*", at_least: 3}',
            {"folders": {"data/x/db0": dump("db0")}},
            "wanted 3 or more that match x/db0/*, found 2; there is: x/db0/db0/1.log, x/db0/db0/2.log",
        ),
        (
            '{start: main}, {files: "x/*", match: other}',
            {"folders": {"data/x": dump("x")}},
            "step 2: files of main: wanted a match of 'other' in x/db0/1.log; it holds b'data'",
        ),
        (
            '{start: main}, {write: {send: [BAD, "{n}"], count: 5, batch: 2, connections: 1}}',
            {},
            "step 2: of 5 writes: sent BAD 1; wanted 'OK'; got (error) unknown BAD 1",
        ),
        (
            '{start: main}, {write: {send: [SET, "poison", "{n}"], count: 5}}',
            {},
            (
                "step 2: of 5 writes: 0 writes were acknowledged, then: Connection closed by server.; "
                "the server main has ended: killed by SIGSEGV"
            ),
        ),
    ],
)
def test_what_a_step_that_fails_says(
    steps: str, prepared: dict[str, Any], said: str, place: ServerPlace, site: Site
) -> None:
    site.prepare["main"] = prepared
    assert said in detail(place, ONE.format(steps))


def test_writes_that_are_lost_are_counted(place: ServerPlace, site: Site) -> None:
    site.prepare["main"] = {"forgets": 3}
    said = detail(place, LOAD)
    assert said.startswith("step 4: 3 of ")
    assert "acknowledged writes are not there; the first: sent GET w1; wanted 'v1'; got (nil)" in said


def test_a_copy_of_what_is_not_there(place: ServerPlace) -> None:
    said = detail(
        place,
        "{instances: {main: {}, other: {}}, steps: [{start: main}, "
        "{start: other, data: {of: main, folder: dump/x, to: db}}]}",
    )
    assert said == "step 2: there are no files in dump/x below the data of main"


def test_a_server_that_ends_behind_the_back(place: ServerPlace, site: Site) -> None:
    site.prepare["main"] = {}
    check = "{why: because, instances: {main: {}, other: {}}, steps: [{start: main}, {start: other}]}"
    ready = place.ready

    def end_main(server: RunningServer) -> tuple[int | None, str]:
        if len(site.memories) == 2:
            site.memories["main"].ended = 134
        return ready(server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerPlace, "ready", lambda self, server: end_main(server))
        said = detail(place, check)
    assert said == "after the last step: the server main has ended: killed by SIGABRT (because)"


def test_logs_of_a_failure_are_told(place: ServerPlace) -> None:
    verdict = judge(place, ONE.format("{start: main}, {send: [GET, k], expect: v}"))
    assert [line.rpartition("/")[2] for line in verdict.tail] == ["smoke-it-main.log):", "main serves", "main ends"]
    assert verdict.tail[0].startswith("it, main (")


def test_what_cannot_be_done_here_is_skipped_and_not_passed(place: ServerPlace, site: Site) -> None:
    site.refusal = "no other user here"
    outcome = judge(place, ONE.format("{start: main}")).record
    assert (outcome.passed, outcome.failed, outcome.skipped) == (False, False, "no other user here")


def test_servers_without_a_private_network_are_noted(
    place: ServerPlace, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def none(label: str) -> Iterator[str]:
        yield ""

    monkeypatch.setattr(site, "network", none)
    outcome = judge(place, "{instances: {main: {}, other: {}}, steps: [{start: main}]}").record
    assert (outcome.passed, outcome.note) == (True, multi_server.LOOPBACK)


# ---- the language


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [{}]", "give exactly one of `send`, `pipeline`, `start`, `stop`, `write`, `verify`, `files`"),
        ("steps: [{send: [PING], start: main, expect: PONG}]", "give exactly one of `send`"),
        ("steps: [{start: main}]", "steps[0]: `start` needs `instances` of the check's own"),
        ("steps: [{at: main, send: [PING], expect: PONG}]", "steps[0]: `at` needs `instances` of the check's own"),
        (ONE.format("{start: other}"), "steps[0]: there is no instance 'other'; known are `main`"),
        (ONE.format("{at: x, send: [A], expect: B}"), "there is no instance 'x'"),
        (ONE.format('{send: ["{ip:y}"], expect: B}'), "there is no instance 'y'"),
        (ONE.format("{start: main, data: {of: z, folder: a, to: b}}"), "there is no instance 'z'"),
        (ONE.format("{start: main, expect: PONG}"), "`start` takes no `expect`"),
        (ONE.format("{start: main, signal: KILL}"), "`start` takes no `signal`"),
        (ONE.format("{send: [A]}"), "give exactly one of `expect`, `unordered`, `match`, `error`"),
        (ONE.format("{files: '*', error: x}"), "`files` takes no `error`"),
        (ONE.format("{files: /etc/*}"), "a path below a server's data does not begin with `/`"),
        (ONE.format("{files: ../x}"), "a path may not leave its folder"),
        (ONE.format("{verify: {send: [A], expect: B}}"), "`verify` needs a `write` step before it"),
        (
            ONE.format("{write: {send: [A], count: 300, kill_at: 200}}"),
            "`count` must exceed `kill_at` by more than one batch per connection",
        ),
        ("{needs: [other], steps: [{send: [A], expect: B}]}", "there is no check before this one 'other'"),
        (ONE.format("{start: main, refused: {match: '('}}"), "not a regular expression"),
        ('{instances: {main: {settings: {a: "{x}"}}}, steps: [{start: main}]}', "there is no placeholder '{x}'"),
        ("steps: [{served: {at_least: 1}}]", "steps[0]: `served` needs `instances` of the check's own"),
        (ONE.format("{at: x, served: {at_least: 1}}"), "steps[0]: there is no instance 'x'"),
        (ONE.format("{served: {at_least: 1}, within: 3}"), "`served` takes no `within`"),
        (ONE.format("{served: {at_least: 1}, signal: KILL}"), "`served` takes no `signal`"),
        (ONE.format("{served: {at_least: 1}, stop: main}"), "give exactly one of `send`"),
        (ONE.format("{served: {at_least: 0}}"), "`at_least` must be greater than 0"),
        (ONE.format("{served: {}}"), "the key `at_least` is missing"),
        ("{allocators: [tcmalloc], steps: [{send: [A], expect: B}]}", "`allocators[0]` must be 'none', 'system' or"),
    ],
)
def test_steps_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_check(text)
    assert message in refusal(caught)[0]


def test_which_checks_run_emulated() -> None:
    assert make_check("steps: [{send: [A], expect: B}]").runs_emulated
    assert not make_check(ONE.format("{start: main}")).runs_emulated
    assert make_check("{emulated: true, instances: {main: {}}, steps: [{start: main}]}").runs_emulated
    assert not make_check("{emulated: false, steps: [{send: [A], expect: B}]}").runs_emulated


# ---- which CPUs this machine can stand in for


def test_every_target_of_the_matrix_has_a_stand_or_a_reason() -> None:
    assert emulation.stand_for("sandybridge").cpu == "SandyBridge"
    assert "AVX-512" in emulation.stand_for("skylake_avx512").reason
    assert "AVX-512" in emulation.stand_for("zen4").reason
    assert "AVX-512" in emulation.stand_for("x86_64_v4").reason
    assert "no CPU model" in emulation.stand_for("bulldozer").reason


def test_what_a_machine_lacks() -> None:
    has = frozenset({*features("haswell"), "pni"}) - {"sse3"}
    assert emulation.lacking("sandybridge", has) == ()
    assert emulation.lacking("haswell", has) == ()
    assert emulation.lacking("broadwell", has) == ("adx", "rdseed")
    assert "pni" in emulation.lacking("nehalem", frozenset())
    assert emulation.lacking("zen3", frozenset({*features("zen3"), "pni"}) - {"pku"}) == ()


def test_only_what_all_processors_have_counts() -> None:
    text = "processor : 0\nflags\t\t: fpu avx avx2\n\nprocessor : 1\nflags\t\t: fpu avx\nvmx flags\t: ept\n"
    assert emulation.flags_of(text) == {"fpu", "avx"}
    assert emulation.flags_of("nothing") == frozenset()


# ---- the two ways of the stage

GROUP = "debian12-sandybridge-none"


@pytest.fixture
def stage(tmp_path: Path, workspace: Workspace, site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the stage on servers of memory."""

    def connect(host: str, port: int, *, timeout: float = 10.0) -> Line:
        return Line(site.memories[host])

    monkeypatch.setattr(resp, "Connection", connect)
    shop = replace(workspace, engine=site)
    site.endings = {"smoke-version": Ending(log="demo 1"), "smoke-emulated-version": Ending(log="demo 1")}

    def run(checks: list[dict[str, Any]], *, emulator: bool = True, cell: str = "R620-debian12-none") -> SmokeFacts:
        spec = make_spec(product__smoke=checks, product__server__within=0.05)
        with shop.store.scratch() as scratch:
            (scratch / "tree.tar").write_bytes(tar_of({"conf/demo.conf": "port : 1\n", "bin/demo": "x"}))
            compiled = shop.store.put(
                "compile", "0" * 32, identity="i", facts={}, files={"tree.tar": scratch / "tree.tar"}
            )
            (scratch / "qemu").write_bytes(b"emulator")
            streamed = shop.store.put(
                "image", "2" * 32, identity="i", facts={}, files={smoke.EMULATOR: scratch / "qemu"}
            )
        image, held = stage_result("image", IMAGE), streamed if emulator else None
        made = smoke.make(shop, spec, the_cell(spec, cell), compiled, image, key="1" * 32, emulator=held)
        return made.read(SmokeFacts)

    return run


PING = {"check": "ping", "steps": [{"send": ["PING"], "expect": "PONG"}]}


def own(*more: dict[str, Any], name: str = "own", **options: Any) -> dict[str, Any]:
    """A check with a server of its own."""
    return {"check": name, "instances": {"main": {}}, "steps": [{"start": "main"}, *more], **options}


def names(way: WayRecord | SmokeFacts) -> list[str]:
    return [check.name for check in way.checks]


def test_both_ways(stage: Any, site: Site) -> None:
    facts = stage([PING, own()])
    assert names(facts.native) == ["version", "start", "ping", "allocator", "stop", "own"]
    assert names(facts.emulated) == ["version", "start", "ping", "stop"]
    assert names(facts) == names(facts.native)
    assert (facts.emulated.ran, facts.emulated.cpu, facts.native.ran) == (True, "SandyBridge", True)
    emulated = site.served[-1]
    assert emulated.argv[:4] == ("emulator/qemu-x86_64", "-cpu", "SandyBridge", "/forge/tree/bin/demo")
    assert members(emulated.inputs[-1]) == {"emulator/qemu-x86_64": (0o755, b"emulator")}
    assert site.jobs[-1].argv == ("emulator/qemu-x86_64", "-cpu", "SandyBridge", "./tree/bin/demo", "-v")
    assert smoke.remarks(facts) == []


def test_a_machine_that_cannot_run_the_target_says_so(stage: Any, site: Site) -> None:
    site.flags -= {"avx"}
    facts = stage([PING, own()])
    assert (facts.native.ran, facts.native.reason) == (False, "this machine lacks avx")
    assert names(facts.native) == []
    assert names(facts) == names(facts.emulated) == ["version", "start", "ping", "stop"]
    assert smoke.remarks(facts) == ["not run natively: this machine lacks avx"]


def test_what_cannot_be_tried_at_all_fails(stage: Any, site: Site) -> None:
    with pytest.raises(StageError) as caught:
        stage([PING], cell="R640-debian12-none")
    assert caught.value.message.startswith("skylake_avx512 cannot be tested here: not natively, this machine lacks ")
    assert "avx512f" in caught.value.message
    assert "not emulated, skylake_avx512: it has AVX-512" in caught.value.message
    assert "DOCKER_HOST" in caught.value.hint
    assert site.served == []


def test_no_emulator_is_said(stage: Any) -> None:
    facts = stage([PING], emulator=False)
    assert not facts.emulated.ran
    assert smoke.remarks(facts) == ["not emulated: defaults.emulator names no image to take one from"]


def test_advice_and_what_needs_it(stage: Any) -> None:
    advice = own({"send": ["GET", "k"], "expect": "v"}, name="advice", required=False)
    facts = stage([PING, advice, own(needs=["advice"])])
    assert names(facts) == ["version", "start", "ping", "allocator", "stop"]
    assert names(facts.native) == ["version", "start", "ping", "allocator", "stop", "advice", "own"]
    failed, skipped = facts.native.checks[-2:]
    assert (failed.passed, failed.required) == (False, False)
    assert failed.detail == "step 2: sent GET k; wanted 'v'; got (nil)"
    assert (skipped.passed, skipped.skipped) == (False, "it needs advice, which has not passed")
    assert [remark.partition(":")[0] for remark in smoke.remarks(facts)] == [
        "check advice failed natively, which is only advice",
        "check own was skipped natively",
    ]


def test_an_illegal_instruction_under_emulation_is_told_with_the_cpu(stage: Any, site: Site) -> None:
    site.endings["smoke-emulated-version"] = Ending(status=128 + signal.SIGILL)
    with pytest.raises(StageError) as caught:
        stage([PING])
    assert caught.value.message == "under emulation of SandyBridge: 1 of 4 smoke checks failed: version"
    assert "killed by SIGILL" in caught.value.failure.findings[0]
    assert caught.value.hint.startswith("it holds an instruction that sandybridge lacks")


def test_the_key_follows_the_emulated_cpu() -> None:
    spec = make_spec()
    assert smoke.material(spec, "sandybridge") != smoke.material(spec, "haswell")
    assert smoke.material(spec, "sandybridge") != smoke.material(spec, "sandybridge", emulator="x")


# ---- which allocators a check is for


def pinging(name: str, *allocators: str) -> dict[str, Any]:
    return {"check": name, "steps": [{"send": ["PING"], "expect": "PONG"}], "allocators": list(allocators)}


EXTENSION = [
    PING,
    pinging("stats", "system", "gperftools"),
    pinging("no-stats", "none"),
    own(name="load", allocators=["gperftools"]),
    own(name="any", needs=["stats"]),
]
OURS = "/forge/tree/lib/libtcmalloc.so.4"


@pytest.mark.parametrize(("allocator", "check"), [("none", "no-stats"), ("system", "stats")])
def test_checks_for_other_allocators_are_not_made(stage: Any, site: Site, allocator: str, check: str) -> None:
    site.prepare["system"] = {"files": (OURS,)}
    facts = stage(EXTENSION, cell=f"R620-debian12-{allocator}")
    assert names(facts.native) == ["version", "start", "ping", check, "allocator", "stop", "any"]
    assert names(facts.emulated) == ["version", "start", "ping", check, "stop"]
    assert all(each.passed for each in facts.native.checks)


def test_a_check_that_fails_counts_only_where_it_is_for(stage: Any, site: Site) -> None:
    bad = {"check": "bad", "steps": [{"send": ["PING"], "expect": "no"}], "allocators": ["system"]}
    assert "bad" not in names(stage([PING, bad]))
    site.prepare["system"] = {"files": (OURS,)}
    with pytest.raises(StageError, match="1 of 6 smoke checks failed: bad"):
        stage([PING, bad], cell="R620-debian12-system")


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ([], ["none", "system", "gperftools"]),
        (["none"], ["none"]),
        (["system", "gperftools"], ["system", "gperftools"]),
    ],
)
def test_which_allocators_a_check_is_for(given: list[str], kinds: list[str]) -> None:
    check = make_check(yaml.safe_dump({"allocators": given, "steps": [{"send": ["A"], "expect": "B"}]}))
    assert [kind for kind in ("none", "system", "gperftools") if check.serves(kind)] == kinds


def test_the_key_follows_the_checks_for_its_allocator_alone() -> None:
    with_all, without = make_spec(product__smoke=EXTENSION), make_spec(product__smoke=[*EXTENSION[:3], EXTENSION[4]])
    assert smoke.material(with_all, allocator="none") == smoke.material(without, allocator="none")
    assert smoke.material(with_all, allocator="system") == smoke.material(without, allocator="system")
    assert smoke.material(with_all, allocator="gperftools") != smoke.material(without, allocator="gperftools")
    kinds = {str(smoke.material(make_spec(), allocator=kind)) for kind in ("none", "system", "gperftools")}
    assert len(kinds) == 3, "what the built-in check wants is another thing for each"


# ---- probes


def test_a_probe_asks_an_instance_and_may_name_another(place: ServerPlace) -> None:
    text = """
    instances: {main: {}, second: {}}
    steps:
    - {start: main}
    - {start: second}
    - at: second
      probe: {kind: command, argv: [bin/demo, "{ip:main}:{port:main}", "{data}", "{port}"], match: "second ran"}
    """
    assert judge(place, text).record.passed
    probe = "tree/bin/demo 10.0.0.4:7000 /forge/data 7000"
    assert detail(place, text.replace("second ran", "nothing")).endswith(f"got the output 'second ran {probe}'")


def test_a_probe_of_a_server_that_has_ended(place: ServerPlace, site: Site) -> None:
    text = """
    instances: {main: {}}
    steps:
    - {start: main}
    - {send: [SET, poison, v], expect: OK}
    """
    assert "has ended: killed by SIGSEGV" in detail(place, text)
    text = text.replace("{send: [SET, poison, v], expect: OK}", "{stop: main}\n    - {probe: {kind: tcp}}")
    assert detail(place, text) == "step 3: the server main is not running: it takes a `start` step first"


def test_a_server_without_a_configuration_file_has_none(place: ServerPlace, site: Site) -> None:
    server = server_of(
        make_spec(product__server__conf=None, product__server__command=["bin/demo", "-p", "{port}"]).product
    )
    bare = replace(place, server=server, conf="")
    assert judge(bare, "{instances: {main: {}}, steps: [{start: main}]}").record.passed
    assert [item.folder for item in site.served[0].inputs] == ["tree"]
    assert site.served[0].argv == ("tree/bin/demo", "-p", "7000")
