"""The whole list of smoke checks against the sample, and each kind of step against what it is there to find."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker.errors
import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Done, Engine, Project

    from .conftest import Shop

pytestmark = pytest.mark.engine

OWNER = "org.pikaforge.owner"
GROUP = "debian12-sandybridge-none"


@pytest.fixture
def compiled(ready: Project, shop: Shop) -> Project:
    """A project whose sample is compiled and judged already: a run is the smoke stage and packing."""
    shop.take(ready, "source", "compile", "audit")
    return ready


def replace_checks(project: Project, *checks: dict[str, Any]) -> None:
    """Make these the product's checks."""

    def edit(matrix: dict[str, Any]) -> None:
        matrix["product"]["smoke"] = json.loads(json.dumps(checks))  # shared parts would be YAML anchors

    project.change(edit)


def keep_checks(project: Project, *names: str) -> None:
    """Leave only these checks of the product's."""

    def edit(matrix: dict[str, Any]) -> None:
        smoke = matrix["product"]["smoke"]
        matrix["product"]["smoke"] = [check for check in smoke if check["check"] in names]

    project.change(edit)


def own(name: str, *steps: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A check with a server of its own."""
    return {"check": name, "instances": {"main": {}}, "emulated": False, **options, "steps": list(steps)}


def facts(project: Project) -> dict[str, Any]:
    """What the stage recorded."""
    (record,) = project.stored("smoke").values()
    found: dict[str, Any] = record["facts"]
    return found


def reasons(done: Done) -> dict[str, str]:
    """Why checks failed, by name."""
    found = [line.removeprefix("  reason: check ").partition(": ") for line in done.lines(r"^  reason: check ")]
    return {name: text for name, _, text in found}


def read_checks(project: Project) -> list[dict[str, Any]]:
    """The product's checks as they are."""
    checks: list[dict[str, Any]] = yaml.safe_load(project.matrix.read_text(encoding="utf-8"))["product"]["smoke"]
    return checks


START = {"start": "main"}
SET = {"send": ["SET", "k", "v"], "expect": "OK"}
GET = {"send": ["GET", "k"], "expect": "v"}


def test_the_whole_list(compiled: Project, engine: Engine) -> None:
    done = compiled.build("R620", check=0)
    made = facts(compiled)
    native = {check["name"]: check for check in made["native"]["checks"]}
    assert {"expiry", "keyspace", "config", "snapshot", "replication", "durability", "open-files", "stop"} <= set(
        native
    )
    assert {name for name, check in native.items() if not check["passed"]} == {"config-unwritable"}
    assert all(check["seconds"] > 0 for check in native.values())
    # What the sample is known to do is recorded with its exchange, and is no more than advice.
    advice = native["config-unwritable"]
    assert (advice["required"], advice["skipped"]) == (False, "")
    assert advice["detail"].startswith("step 2: sent CONFIG REWRITE; wanted an error that matches '.'; got no reply: ")
    assert "the server main has ended: killed by SIGABRT" in advice["detail"]
    assert done.lines(
        r"^note: smoke:.* check config-unwritable failed natively, which is only advice: step 2: sent CON"
    )
    assert made["native"]["rest"].keys() == {"fds", "threads", "rss_kib"}
    assert all(value > 1 for value in made["native"]["rest"].values())
    # Only what passed is claimed by the package.
    with tarfile.open(compiled.package()) as tar:
        content = tar.extractfile("pika/manifest.json")
        assert content is not None
        claimed = json.load(content)["checks"]
    assert claimed == [check["name"] for check in made["checks"]]
    assert set(claimed) == set(native) - {"config-unwritable"}
    assert engine.containers(done.pid) == []
    assert networks(engine, done.pid) == []
    assert re.search(r"^2\d{4} of 22000 writes were acknowledged when it was killed$", native["durability"]["note"])


def test_every_kind_of_step_can_fail(compiled: Project) -> None:
    two = {"instances": {"main": {"settings": {"write-binlog": "no"}}, "second": {}}}
    follow = ["SLAVEOF", "{ip:main}", "{port:main}"]
    up = {"send": ["INFO", "REPLICATION"], "match": "master_link_status:up", "within": 1}
    load = {"send": ["SET", "w{n}", "v{n}"], "count": 400}
    replace_checks(
        compiled,
        own("forgotten", START, {"send": ["CONFIG", "SET", "dump-expire", 9], "expect": "OK"},
            {"stop": "main"}, START, {"send": ["CONFIG", "GET", "dump-expire"], "expect": ["dump-expire", "9"]}),
        own("blocked", START, {"start": "second"}, {"at": "second", "send": follow, "expect": "OK"},
            {"at": "second", **up}, **two),
        own("no-files", START, {"files": "dump/*", "within": 0.5}),
        own("no-copy", START, {"start": "second", "data": {"of": "main", "folder": "dump/x", "to": "db"}},
            instances={"main": {}, "second": {}}),
        own("accepted", {"start": "main", "refused": {"match": "limit"}}),
        own("refused", START, instances={"main": {"settings": {"databases": "2"}}}),
        own("unacknowledged", START, {"write": {**load, "expect": "YES"}}),
        own("other-value", START, {"write": load}, {"verify": {"send": ["GET", "w{n}"], "expect": "{n}"}}),
        own("dead", START, {"stop": "main", "signal": "KILL"}, GET),
    )  # fmt: skip
    done = compiled.build("R620", check=4)
    said = reasons(done)
    assert said.keys() == {
        "forgotten", "blocked", "no-files", "no-copy", "accepted", "refused", "unacknowledged", "other-value", "dead",
    }  # fmt: skip
    assert "9 of 13 smoke checks failed" in done.stdout
    assert (
        "step 5: sent CONFIG GET dump-expire; wanted ['dump-expire', '9']; got ['dump-expire', '0']"
        in said["forgotten"]
    )
    assert (
        "step 4: at second: sent INFO REPLICATION; wanted a match of 'master_link_status:up' within 1 s"
        in said["blocked"]
    )
    assert "wanted 1 or more that match dump/*, found 0; there is: nothing" in said["no-files"]
    assert "step 2: there are no files in dump/x below the data of main" in said["no-copy"]
    assert "wanted a refusal with a match of 'limit'; it runs, and answers" in said["accepted"]
    assert "step 1: start main: the server ended before it answered: exit status 255" in said["refused"]
    assert "of 400 writes: sent SET w" in said["unacknowledged"]
    assert "wanted 'YES'; got 'OK'" in said["unacknowledged"]
    assert (
        "400 of 400 acknowledged writes are not there; the first: sent GET w1; wanted '1'; got 'v1'"
        in said["other-value"]
    )
    assert "step 3: the server main is not running" in said["dead"]
    # The servers' own words are there too, under their names.
    assert "write-binlog is off" in done.stdout or "refused, main" in done.stdout
    assert compiled.stored("smoke") == {}


HELD = (
    "static std::string held; Status s; "
    'if (held.empty() && record.find("forge:write:") == std::string::npos) { '
    "s = WriteAll(current_->fd, record.data(), record.size()); } "
    "else if (held += record, held.size() > 60000) { "
    "s = WriteAll(current_->fd, held.data(), held.size()); held.clear(); }"
)
"""Writes are acknowledged before they are in the kernel's hands: what is held here dies with the process.

Only those of the durability check: what is held cannot be read either, and other checks would tell.
"""
LEFT_OUT = 'if (name == "000001.log") continue;'
"""A snapshot without the first segment."""


def planting(path: str, after: str, line: str, *, instead: bool = False) -> str:
    """Lines of a recipe that put a line after another one of the source, or instead of it."""
    place = re.sub(r"([].*[^$/\\])", r"\\\1", after)  # a basic regular expression of itself
    script = f"/{place}/{'c' if instead else 'a'}\\\n{line}"
    return f"sed -i -e {shlex.quote(script)} {path}\ngrep -qF {shlex.quote(line)} {path}\n"


def plant(recipe: Path, lines: str) -> None:
    """Put lines into a recipe, before it builds."""
    text = recipe.read_text(encoding="utf-8")
    assert text.count("\nset -eu\n") == 1
    recipe.write_text(text.replace("\nset -eu\n", f"\nset -eu\n{lines}\n"), encoding="utf-8")


def test_lost_writes_and_an_incomplete_snapshot_are_found(ready: Project, shop: Shop) -> None:
    shop.take(ready, "source")
    plant(
        ready.recipe,
        planting("third/rocksdb/src/db.cc", "const Status s = WriteAll(current_", HELD, instead=True)
        + planting("src/pika_bgsave.cc", "storage_->db()->ClosedSegments()", LEFT_OUT),
    )
    keep_checks(ready, "pipeline", "snapshot", "durability")
    dump = "dump/{today}"
    replace_checks(
        ready,
        *read_checks(ready),
        own(
            "restored",
            START,
            SET,
            {"send": ["BGSAVE"], "match": "."},
            {"files": f"{dump}/db0/info", "within": 10},
            {"start": "second", "data": {"of": "main", "folder": dump, "to": "db"}},
            {"at": "second", **GET},
            instances={"main": {}, "second": {}},
        ),
    )
    done = ready.build("R620", check=4)
    said = reasons(done)
    assert said.keys() == {"snapshot", "durability", "restored"}, done.text
    # The layout is judged first, and the content on its own.
    assert re.search(
        r"wanted 2 or more that match dump/forge_\d{8}/db0/\*, found 1; there is: \S+/info", said["snapshot"]
    )
    assert "at second: sent GET k; wanted 'v'; got (nil)" in said["restored"]
    assert "acknowledged writes are not there; the first: sent GET forge:write:" in said["durability"]
    assert "wanted 'value " in said["durability"]
    # The logs of the servers of a check that failed, and where they are whole.
    assert f"{GROUP}/smoke-durability-main.log" in done.stdout


def test_what_was_skipped_or_is_advice_never_counts_as_passed(compiled: Project) -> None:
    advice = own("advice", START, {"send": ["GET", "k"], "expect": "v"}, required=False)
    replace_checks(compiled, advice, own("after", START, needs=["advice"]))
    done = compiled.build("R620", check=0)
    made = facts(compiled)
    assert [check["name"] for check in made["checks"]] == ["version", "start", "allocator", "stop"]
    advised, skipped = made["native"]["checks"][-2:]
    assert (advised["passed"], advised["skipped"]) == (False, "")
    assert advised["detail"] == "step 2: sent GET k; wanted 'v'; got (nil)"
    assert (skipped["passed"], skipped["skipped"]) == (False, "it needs advice, which has not passed")
    assert done.lines("check after was skipped natively: it needs advice, which has not passed")


def networks(engine: Engine, pid: int) -> list[Any]:
    """The networks that a run of the tool has at this moment."""
    held = engine.client.networks.list(filters={"label": OWNER})
    return [network for network in held if f"-{pid}-" in network.attrs["Labels"][OWNER]]


PAIR = own(
    "pair",
    START,
    {"start": "second"},
    {"at": "second", "send": ["GET", "never"], "expect": "v", "within": 10},
    instances={"main": {}, "second": {}},
)
"""Two servers that are there for ten seconds."""


def test_servers_of_one_check_have_a_network_of_their_own(
    compiled: Project, engine: Engine, until: Callable[..., None]
) -> None:
    replace_checks(compiled, PAIR)
    seen: list[str] = []

    def both() -> bool:
        for network in networks(engine, running.pid):
            with contextlib.suppress(docker.errors.NotFound):  # it is gone already
                network.reload()
                names = [entry["Name"] for entry in network.attrs["Containers"].values()]
                if len(names) == 2:
                    seen.extend([network.name, *sorted(names)])
                    return True
        return False

    with compiled.tool.start(*compiled.arguments("build", "R620")) as running:
        until(both, "two containers on a network")
        done = running.finish()
    assert done.returncode == 4
    assert [name.rpartition("-")[0] for name in seen] == [
        f"pikaforge-smoke-{GROUP}-{name}" for name in ("pair", "pair-main", "pair-second")
    ]
    assert networks(engine, done.pid) == []


@pytest.mark.serial
def test_networks_of_a_killed_run_are_swept(compiled: Project, engine: Engine, until: Callable[..., None]) -> None:
    replace_checks(compiled, PAIR)
    with compiled.tool.start(*compiled.arguments("build", "R620")) as running:
        until(lambda: networks(engine, running.pid), "a network")
        running.signal(signal.SIGKILL)
        pid = running.finish().pid
    assert networks(engine, pid)
    replace_checks(compiled, own("quick", START))
    done = compiled.build("R620", check=0)
    assert done.lines(r"^note: removed \d+ leftovers of a run that was killed")
    assert networks(engine, pid) == []
