"""The smoke stage: the server's conf, how its end is told, and which errors a run comes to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from unit.cell_results import IMAGE
from unit.cell_results import result as stage_result
from unit.helpers import WITHOUT_SERVER, Ending, FakeEngine, make_spec, members, tar_of, the_cell

from pikaforge.config.product import Conf
from pikaforge.errors import EXIT_STAGE, FullDiskError, HostError, StageError
from pikaforge.host.confinement import Bounds
from pikaforge.host.job import Executed, Input
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.smoke import resp, smoke
from pikaforge.pipeline.smoke.endings import describe_end
from pikaforge.pipeline.smoke.record import SmokeFacts, WayRecord
from pikaforge.pipeline.smoke.resp import ErrorReply, Reply
from pikaforge.pipeline.smoke.server import TreePlace, settle
from pikaforge.pipeline.smoke.wire import Closed, Garbled

CELL = "R620-debian12-none"
GROUP = "debian12-sandybridge-none"
WHERE = f"stage smoke, {GROUP}"

# ---- the conf

VALUES = {"port": "7001", "data": "/forge/data", "conf": "/forge/server.conf"}


def _conf(line: str, **more: Any) -> Conf:
    return Conf(path="conf/x.conf", line=line, settings={"port": "{port}", "dir": "{data}/db/"}, **more)


@pytest.mark.parametrize(
    ("line", "text", "settled"),
    [
        (
            "{key} : {value}",
            "# port : 1\nport : 9221\nthreads : 4\ndir : ./db\n",
            "# port : 1\nport : 7001\nthreads : 4\ndir : /forge/data/db/\n",
        ),
        ("{key} : {value}", "port:9221\ndir: x\n", "port : 7001\ndir : /forge/data/db/\n"),
        (
            "{key} {value}",
            "# a comment\nport 6379\n\ndir ./\nsave 900 1\nsave 300 10\n",
            "# a comment\nport 7001\n\ndir /forge/data/db/\nsave 900 1\nsave 300 10\n",
        ),
        ("{key}={value}", "port=1\n  dir=2\n", "port=7001\ndir=/forge/data/db/\n"),
        # What the base has not is added; what it has twice is set once.
        ("{key} {value}", "", "port 7001\ndir /forge/data/db/\n"),
        ("{key} {value}", "port 1\nport 2\ndir x", "port 7001\ndir /forge/data/db/\n"),
        # A longer name is another setting.
        ("{key} {value}", "port-x 1\nports 2\n", "port-x 1\nports 2\nport 7001\ndir /forge/data/db/\n"),
        ("{key} {value}", "port 1\r\ndir 2\r\n", "port 7001\ndir /forge/data/db/\n"),
    ],
)
def test_settings_replace_those_of_the_conf(line: str, text: str, settled: str) -> None:
    assert settle(_conf(line), text, VALUES) == settled


def test_what_tests_need_comes_on_top() -> None:
    conf = _conf("{key} {value}", testing={"maxclients": "10", "port": "1"})
    assert settle(conf, "maxclients 20000\n", VALUES) == "maxclients 10\nport 1\ndir /forge/data/db/\n"


# ---- how it ended


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (128, "exit status 128"),
        (128 + signal.SIGSEGV, "killed by SIGSEGV"),
        (128 + signal.SIGKILL, "killed by SIGKILL (most likely by the kernel, for lack of memory)"),
        (128 + signal.SIGILL, "killed by SIGILL (illegal instruction: built for a CPU that this one is not)"),
        (128 + 33, "killed by signal 33"),
        (255, "exit status 255"),
    ],
)
def test_the_end_of_a_server_in_words(status: int, text: str) -> None:
    assert describe_end(status) == text


# ---- the stage


class Wire:
    """Connections to a server that answers PING, and else what the test says."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply | Exception] = {"PING": "PONG"}
        self.opened = 0

    def connect(self, host: str, port: int, *, timeout: float = 10.0) -> Wire:
        assert (host, port) == ("server.invalid", 7000)
        self.opened += 1
        return self

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        replies: list[Reply] = []
        for request in requests:
            reply = self.replies[str(request[0])]
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies

    def close(self) -> None:
        pass


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(resp, "Connection", wire.connect)
    return wire


CHECKS = [
    {"check": "ping", "steps": [{"send": ["PING"], "expect": "PONG"}]},
    {"check": "info", "why": "#988", "steps": [{"send": ["INFO"], "match": "role:master"}]},
]


@pytest.fixture
def run(workspace: Workspace, fake: FakeEngine, wire: Wire) -> Callable[..., Result]:
    """Run the stage, with an emulator or without; other arguments change the specification."""
    fake.endings["smoke-version"] = fake.endings["smoke-emulated-version"] = Ending(log="demo 1.0\n")
    fake.server.statuses = [None, None, 0]  # while it starts, after the checks, after the signal
    wire.replies["INFO"] = "role:master"

    def run(*, emulator: bool = False, **changes: Any) -> Result:
        spec = make_spec(product__smoke=CHECKS, **changes)
        with workspace.store.scratch() as scratch:
            (scratch / "tree.tar").write_bytes(tar_of({"conf/demo.conf": "port : 1\nthreads : 4\n", "bin/demo": "x"}))
            made = {"tree.tar": scratch / "tree.tar"}
            compiled = workspace.store.put("compile", "0" * 32, identity="i", facts={}, files=made)
        image = stage_result("image", IMAGE)
        (workspace.base / "qemu").write_text("an emulator")
        qemu = {"qemu-x86_64": workspace.base / "qemu"}
        made_of = Result(stage="image", key="k", identity="e", facts={}, files=qemu) if emulator else None
        return smoke.make(workspace, spec, the_cell(spec, CELL), compiled, image, key="1" * 32, emulator=made_of)

    return run


def test_a_server_that_does_all_it_should(run: Callable[..., Result], fake: FakeEngine, workspace: Workspace) -> None:
    result = run()
    facts = result.read(SmokeFacts)
    assert [check.name for check in facts.checks] == ALL_SIX
    assert all(check.passed for check in facts.checks)
    assert result.files == {}
    assert workspace.store.get("smoke", "1" * 32) == (result, "")
    assert fake.server.signals == ["TERM"]
    version, served = fake.jobs[0], fake.served[0]
    assert (version.argv, version.image, version.network) == (("./tree/bin/demo", "-v"), IMAGE.runtime, "none")
    assert (served.argv, served.image) == (("tree/bin/demo", "-c", "/forge/server.conf"), IMAGE.runtime)
    conf = members(served.inputs[1])["server.conf"][1].decode()
    assert conf == "port : 7000\nthreads : 4\ndir : /forge/data/db/\n"


def test_servers_and_commands_have_the_limits_of_the_configuration(fake: FakeEngine, tmp_path: Path) -> None:
    bounds = Bounds(processes=77)
    place = TreePlace(
        engine=fake,
        image="x",
        stem="smoke",
        group="x",
        tree=Input(folder="tree", archive=b""),
        log_path=tmp_path / "log",
        bounds=bounds,
    )
    server = make_spec().product.server
    assert server is not None
    with place.hold(), place.of_server(server, "port : 1\n", smoke._connect).serve(log=tmp_path / "log"):
        pass
    assert [job.bounds for job in fake.served] == [bounds, bounds]


def _failure(run: Callable[..., Result], **changes: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        run(**changes)
    assert (caught.value.where, caught.value.exit_code) == (WHERE, EXIT_STAGE)
    return caught.value


def test_all_checks_that_failed_are_told(run: Callable[..., Result], fake: FakeEngine, wire: Wire) -> None:
    fake.endings["smoke-version"] = Ending(status=1, log="demo 1.0\n")
    wire.replies["INFO"] = ErrorReply("LOADING")
    fake.server.statuses = [None, None, 139]
    error = _failure(run)
    assert error.message == "3 of 6 smoke checks failed: version, info, stop"
    assert error.failure.findings == (
        r"check version: bin/demo -v: wanted exit status 0, got exit status 1; it printed 'demo 1.0\n'",
        "check info: step 1: sent INFO; wanted a match of 'role:master'; got (error) LOADING (#988)",
        "check stop: sent SIGTERM; wanted exit status 0; killed by SIGSEGV",
    )


FULL = FullDiskError("no space left in /var/lib/docker of the container engine")


def test_what_fails_on_a_full_disk_is_not_the_products_fault(
    run: Callable[..., Result], fake: FakeEngine, wire: Wire
) -> None:
    wire.replies["INFO"] = ErrorReply("ERR")
    fake.full = FULL
    with pytest.raises(FullDiskError, match="no space left in /var/lib/docker"):
        run()


def test_the_disk_decides_nothing_where_all_is_good(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.full = FULL
    assert run()


def test_a_version_that_is_another(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.endings["smoke-version"] = Ending(log="demo 2.0\n")
    error = _failure(run)
    assert error.message == "1 of 6 smoke checks failed: version"
    assert error.failure.findings == (
        r"check version: bin/demo -v: wanted a match of 'demo 1'; it printed 'demo 2.0\n'",
    )


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (Ending(status=137, timed_out=True), "it still ran after 60 s; it printed ''"),
        (
            Ending(status=137, exceeded="a program of it was killed, most likely because ..."),
            "wanted exit status 0, got exit status 137: a program of it was killed, most likely because ...; it ",
        ),
        (
            Ending(status=137),
            "wanted exit status 0, got killed by SIGKILL (most likely by the kernel, for lack of memory)",
        ),
    ],
    ids=["too long", "too much", "killed"],
)
def test_a_version_command_that_was_killed(
    run: Callable[..., Result], fake: FakeEngine, ending: Ending, said: str
) -> None:
    fake.endings["smoke-version"] = ending
    error = _failure(run)
    assert any(line.startswith(f"check version: bin/demo -v: {said}") for line in error.failure.findings)


def test_a_version_command_that_dies_of_an_illegal_instruction(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.endings["smoke-version"] = Ending(status=128 + signal.SIGILL)
    assert _failure(run).failure.findings == (
        (
            "check version: bin/demo -v: wanted exit status 0, got killed by SIGILL "
            "(illegal instruction: built for a CPU that this one is not); it printed ''"
        ),
    )


def test_a_server_that_ends_before_it_answers(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.statuses = [1]
    assert _failure(run).message == "the server ended before it answered: exit status 1"


def test_a_server_that_dies_during_the_checks(run: Callable[..., Result], fake: FakeEngine, wire: Wire) -> None:
    wire.replies["INFO"] = Closed("Connection closed by server.")
    fake.server.statuses = [None, 139]
    error = _failure(run)
    assert error.message == "the server died during the checks: killed by SIGSEGV"
    assert error.failure.findings == (
        (
            "check info: step 1: sent INFO; wanted a match of 'role:master'; "
            "got no reply: Connection closed by server. (#988)"
        ),
    )
    assert fake.server.signals == []


def test_a_server_that_will_not_stop(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.statuses = [None, None, None]
    assert _failure(run, product__server__stop={"signal": "INT", "within": 1.5}).failure.findings == (
        "check stop: sent SIGINT; it still runs after 1.5 s",
    )


def test_a_server_that_never_answers(
    run: Callable[..., Result], fake: FakeEngine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.replies["PING"] = ErrorReply("LOADING the data set")
    fake.server.statuses = []
    error = _failure(run, product__server__within=0.05)
    assert error.message == "the server did not answer within 0.05 s: LOADING the data set"


def test_a_server_that_loads_first_is_waited_for(run: Callable[..., Result], fake: FakeEngine, wire: Wire) -> None:
    replies: list[Reply] = ["PONG", "PONG", ErrorReply("LOADING")]

    def exchange(requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        return [replies.pop()] if replies else ["role:master"]

    wire.exchange = exchange  # type: ignore[method-assign]
    fake.server.statuses = [None, None, None, 0]
    assert run().read(SmokeFacts).checks[1].name == "start"


# ---- what a failure leaves for the report

NO_EMULATOR = "defaults.emulator names no image to take one from"
ALL_SIX = ["version", "start", "ping", "info", "allocator", "stop"]
TWICE: list[int | None] = [None, None, 0] * 2


def _ways(error: StageError) -> tuple[WayRecord, WayRecord]:
    """Both ways that a failure leaves; and they are all that there is."""
    facts = error.failure.facts
    assert isinstance(facts, SmokeFacts)
    assert (facts.tried, facts.checks) == ("", ())
    return facts.native, facts.emulated


def test_a_failure_leaves_what_was_found_out(run: Callable[..., Result], wire: Wire) -> None:
    wire.replies["INFO"] = ErrorReply("LOADING")
    error = _failure(run)
    native, emulated = _ways(error)
    assert (native.ran, native.problem) == (True, "1 of 6 smoke checks failed: info") == (True, error.message)
    assert ([c.name for c in native.checks], native.failed) == (ALL_SIX, ("info",))
    assert native.checks[3].detail.startswith("step 1: sent INFO; ")
    assert native.rest == {"fds": 10, "threads": 2, "rss_kib": 1000}
    assert native.machine == "Test CPU (icelake)"
    assert emulated == WayRecord(ran=False, reason=NO_EMULATOR)


def test_after_a_native_failure_the_emulated_run_is_left_out_and_says_so(
    run: Callable[..., Result], wire: Wire, fake: FakeEngine
) -> None:
    wire.replies["INFO"] = ErrorReply("LOADING")
    _, emulated = _ways(_failure(run, emulator=True))
    assert (emulated.ran, emulated.reason, emulated.problem) == (False, "the native run has failed", "")
    assert (emulated.cpu, emulated.checks) == ("SandyBridge", ())
    assert [job.label for job in fake.jobs] == [f"smoke-version-{GROUP}"]


def test_a_failure_under_emulation_leaves_the_native_run_as_passed(
    run: Callable[..., Result], fake: FakeEngine
) -> None:
    fake.server.statuses = [None, None, 0, None, None, 139]
    error = _failure(run, emulator=True)
    native, emulated = _ways(error)
    assert (native.ran, native.reason, native.problem) == (True, "", "")
    assert [c.name for c in native.checks if c.passed] == ALL_SIX
    assert (emulated.ran, emulated.reason, emulated.cpu) == (True, "", "SandyBridge")
    assert (emulated.problem, emulated.failed) == ("1 of 5 smoke checks failed: stop", ("stop",))
    assert error.message == f"under emulation of SandyBridge: {emulated.problem}"


def test_a_server_that_dies_leaves_the_checks_until_then(
    run: Callable[..., Result], fake: FakeEngine, wire: Wire
) -> None:
    wire.replies["INFO"] = Closed("Connection closed by server.")
    fake.server.statuses = [None, 139]
    native, emulated = _ways(_failure(run, emulator=True))
    assert native.problem == "the server died during the checks: killed by SIGSEGV"
    assert [(c.name, c.passed) for c in native.checks] == [
        ("version", True), ("start", True), ("ping", True), ("info", False),
    ]  # fmt: skip
    assert (native.rest, emulated.reason) == ({}, "the native run has failed")


def test_a_failure_keeps_its_evidence(run: Callable[..., Result], fake: FakeEngine, workspace: Workspace) -> None:
    fake.server.statuses = [1]
    failure = _failure(run).failure
    assert (failure.stage, failure.label, failure.status) == ("smoke", GROUP, 1)
    assert failure.log == str(workspace.out / "logs" / GROUP / "smoke.log")


def test_where_nothing_can_be_tried_nothing_is_found_out(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.cpu_flags = lambda image: frozenset()  # type: ignore[method-assign]
    error = _failure(run)
    assert error.message.startswith("sandybridge cannot be tested here: not natively, this machine lacks ")
    assert error.message.endswith(f"not emulated, {NO_EMULATOR}")
    assert (error.failure.facts, fake.jobs) == (None, [])


def test_two_runs_that_pass_are_both_told(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.statuses = list(TWICE)
    facts = run(emulator=True).read(SmokeFacts)
    assert [check.name for check in facts.checks] == ALL_SIX
    assert (facts.target, facts.tried) == ("sandybridge", "sandybridge")
    for way in (facts.native, facts.emulated):
        assert (way.ran, way.reason, way.problem, way.failed) == (True, "", "", ())
    assert (facts.native.cpu, facts.emulated.cpu, facts.emulated.rest) == ("", "SandyBridge", {})


def test_where_this_cpu_is_older_the_failure_is_the_emulated_runs(
    run: Callable[..., Result], fake: FakeEngine, wire: Wire
) -> None:
    fake.cpu_flags = lambda image: frozenset()  # type: ignore[method-assign]
    wire.replies["INFO"] = ErrorReply("LOADING")
    native, emulated = _ways(_failure(run, emulator=True))
    assert (native.ran, native.problem, native.checks) == (False, "", ())
    assert native.reason.startswith("this machine lacks ")
    assert (emulated.ran, emulated.reason, emulated.failed) == (True, "", ("info",))


def test_the_key_follows_server_and_checks() -> None:
    base = smoke.material(make_spec())
    assert smoke.material(make_spec()) == base
    assert smoke.material(make_spec(hardware__R620={"cpus": ["haswell"]})) == base
    assert smoke.material(make_spec(product__server__port=7001)) != base
    assert smoke.material(make_spec(product__smoke=CHECKS)) != base
    nil = [{"check": "ping", "steps": [{"send": ["PING"], "expect": None}]}]
    pong = [{"check": "ping", "steps": [{"send": ["PING"], "match": ""}]}]
    assert smoke.material(make_spec(product__smoke=nil)) != smoke.material(make_spec(product__smoke=pong))


# ---- the allocator of the running server

OURS, HOSTS = "/forge/tree/lib/libtcmalloc.so.4.5.9", "/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4.5.9"
PINNED = {"version": "2.7", "url": "https://example.org/g-2.7.tar.gz", "sha256": "7" * 64}
KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "system": {"allocators__none__kind": "system"},
    "gperftools": {
        "allocators__none": {"kind": "gperftools", "unwinder": "frame-pointers", "tarball": "g"},
        "tarballs": {"g": PINNED},
    },
}
"""Changes that make the cell's allocator, whatever it is called, one of this kind."""
UNMAPPED = "Compiled, but tcmalloc not used: /proc/PID/maps shows no libtcmalloc.so"


@pytest.mark.parametrize(
    ("kind", "mapped", "detail"),
    [
        ("none", (), ""),
        ("none", (OURS,), f"the allocator is none, but {OURS} is mapped"),
        ("none", (HOSTS,), f"the allocator is none, but {HOSTS} is mapped"),
        *(
            case
            for kind in ("system", "gperftools")
            for case in (
                (kind, (OURS,), ""),
                (kind, (), UNMAPPED),
                (kind, ("/forge/tree/lib/libtcmalloc_minimal.so.4",), UNMAPPED),
                (kind, (HOSTS,), f"{HOSTS} is mapped, and not the one that travels in the tree"),
                (
                    kind,
                    (OURS, "/lib/libjemalloc.so.2"),
                    f"there are 2 allocators in one process: {OURS}, /lib/libjemalloc.so.2",
                ),
            )
        ),
    ],
)
def test_the_server_has_mapped_the_allocator_of_its_cell(
    run: Callable[..., Result], fake: FakeEngine, kind: str, mapped: tuple[str, ...], detail: str
) -> None:
    fake.server.files = (*fake.server.files, *mapped)
    if not detail:
        made = {check.name: check for check in run(**KINDS[kind]).read(SmokeFacts).checks}
        assert (made["allocator"].passed, made["allocator"].required) == (True, True)
        return
    error = _failure(run, **KINDS[kind])
    assert error.message == "1 of 6 smoke checks failed: allocator"
    assert error.failure.findings == (f"check allocator: {detail}",)
    assert fake.server.signals == ["TERM"], "it is stopped all the same"


def test_a_tree_elsewhere(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.root, fake.server.files = "/home/user/out/work/smoke", (OURS,)
    assert _failure(run, **KINDS["system"]).failure.findings == (
        f"check allocator: {OURS} is mapped, and not the one that travels in the tree",
    )


@pytest.mark.parametrize("error", [HostError("docker exec failed"), IndexError("no process")])
def test_what_cannot_be_looked_at_does_not_pass(
    run: Callable[..., Result], fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse() -> tuple[str, ...]:
        raise error

    monkeypatch.setattr(fake.server, "mapped_files", refuse)
    assert _failure(run).failure.findings == (f"check allocator: what the server has mapped cannot be read: {error}",)


def test_under_emulation_the_emulator_is_what_runs(run: Callable[..., Result], fake: FakeEngine) -> None:
    fake.cpu_flags = lambda image: frozenset()  # type: ignore[method-assign]
    fake.server.files = ("/usr/lib/libtcmalloc.so.4",)
    assert [check.name for check in run(emulator=True).read(SmokeFacts).checks] == [
        "version", "start", "ping", "info", "stop",
    ]  # fmt: skip


# ---- servers without a configuration file, and products without a server


def test_a_server_without_a_configuration_file(run: Callable[..., Result], fake: FakeEngine) -> None:
    run(product__server__conf=None, product__server__command=["bin/demo", "-p", "{port}", "-d", "{data}"])
    [served] = fake.served
    assert served.argv == ("tree/bin/demo", "-p", "7000", "-d", "/forge/data")
    assert [item.folder for item in served.inputs] == ["tree"]


def test_a_server_that_refuses_to_serve_as_root(run: Callable[..., Result], fake: FakeEngine) -> None:
    run(product__server__unprivileged=True)
    assert [job.unprivileged for job in fake.served] == [True]


def test_a_server_that_speaks_something_else_is_not_waited_for(
    run: Callable[..., Result], fake: FakeEngine, wire: Wire
) -> None:
    wire.replies["PING"] = Garbled("what came is no RESP: 'ERROR'")
    fake.server.statuses = [None]
    error = _failure(run)
    assert error.message == ("the server does not speak what `server.ready` says (resp): what came is no RESP: 'ERROR'")


def _tool(*argvs: list[str], **more: Any) -> dict[str, Any]:
    """Changes that make the demo a tool with a check of commands."""
    steps = [{"probe": {"kind": "command", "argv": argv, **more}} for argv in argvs]
    return {**WITHOUT_SERVER, "product__smoke": [{"check": "tool", "steps": steps}]}


@pytest.fixture
def run_tool(workspace: Workspace, fake: FakeEngine) -> Callable[..., Result]:
    """Run the stage for a product without a server."""

    def run(*, emulator: bool = False, **changes: Any) -> Result:
        spec = make_spec(**{**_tool(["bin/demo", "-v"]), **changes})
        with workspace.store.scratch() as scratch:
            (scratch / "tree.tar").write_bytes(tar_of({"bin/demo": "x"}))
            made = {"tree.tar": scratch / "tree.tar"}
            compiled = workspace.store.put("compile", "0" * 32, identity="i", facts={}, files=made)
        (workspace.base / "qemu").write_text("an emulator")
        qemu = {"qemu-x86_64": workspace.base / "qemu"}
        made_of = Result(stage="image", key="k", identity="e", facts={}, files=qemu) if emulator else None
        image = stage_result("image", IMAGE)
        return smoke.make(workspace, spec, the_cell(spec, CELL), compiled, image, key="1" * 32, emulator=made_of)

    return run


def test_the_commands_of_a_product_without_a_server_share_a_place(
    run_tool: Callable[..., Result], fake: FakeEngine
) -> None:
    facts = run_tool(**_tool(["bin/demo", "{data}/x"], ["bin/demo", "{tree}/bin/demo"], match="demo")).read(SmokeFacts)
    assert ([check.name for check in facts.checks], facts.tried) == (["tool"], "sandybridge")
    [held] = fake.served
    assert (held.port, held.image, held.argv[0]) == (0, IMAGE.runtime, "/bin/sleep")
    assert fake.jobs == []
    assert fake.server.commands == [
        ("tree/bin/demo", "/forge/data/x"),
        ("tree/bin/demo", "/forge/tree/bin/demo"),
    ]


def test_commands_run_under_emulation_too(run_tool: Callable[..., Result], fake: FakeEngine) -> None:
    facts = run_tool(emulator=True).read(SmokeFacts)
    assert [[check.name for check in way.checks] for way in (facts.native, facts.emulated)] == [["tool"]] * 2
    native, emulated = fake.server.commands
    assert native == ("tree/bin/demo", "-v")
    assert emulated == ("emulator/qemu-x86_64", "-cpu", "SandyBridge", "/forge/tree/bin/demo", "-v")


@pytest.mark.parametrize(
    ("done", "detail"),
    [
        (Executed(status=0, output=b"demo 2.0\n"), r"the output 'demo 2.0\n'"),
        (Executed(status=1, output=b"no\n"), r"exit status 1; it printed 'no\n'"),
        (Executed(status=124, output=b""), "exit status 124 (it did not end in time); it printed ''"),
        (
            Executed(status=128 + signal.SIGILL, output=b"\x80\x1b[2J"),
            (
                "killed by SIGILL (illegal instruction: built for a CPU that this one is not); "
                r"it printed '\\x80\x1b[2J'"
            ),
        ),
    ],
)
def test_a_command_that_goes_wrong(
    run_tool: Callable[..., Result], fake: FakeEngine, done: Executed, detail: str
) -> None:
    fake.server.executed = [done]
    error = _failure(run_tool, **_tool(["bin/demo", "-v"], match="demo 1"))
    assert error.message == "1 of 1 smoke checks failed: tool"
    assert error.failure.findings == (
        f"check tool: step 1: ran bin/demo -v; wanted exit status 0 and a match of 'demo 1'; got {detail}",
    )


def test_a_command_that_must_fail(run_tool: Callable[..., Result], fake: FakeEngine) -> None:
    fake.server.executed = [Executed(status=44, output=b"no such thing")]
    assert run_tool(**_tool(["bin/demo", "x"], status=44, match="no such")).read(SmokeFacts).checks[0].passed


@pytest.mark.parametrize(("ended", "kind"), [(137, StageError), (None, HostError)])
def test_a_command_that_cannot_be_run(
    run_tool: Callable[..., Result],
    fake: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    ended: int | None,
    kind: type[Exception],
) -> None:
    """If what it would run in is still there, the engine is at fault, and not the product."""

    def refuse(argv: Sequence[str], *, timeout: float) -> Executed:
        raise HostError("it cannot be run in the container")

    monkeypatch.setattr(fake.server, "execute", refuse)
    fake.server.statuses = [ended]
    with pytest.raises(kind):
        run_tool()


def test_the_key_follows_the_kind_of_probe() -> None:
    tools = [make_spec(**_tool(["bin/demo", word])) for word in ("-v", "-h")]
    keys = [smoke.material(spec) for spec in (make_spec(), *tools)]
    assert keys[0] != keys[1] != keys[2]
