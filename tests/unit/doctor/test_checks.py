"""Each check judges facts in which something is planted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import make_spec

from pikaforge.cpu import microarch
from pikaforge.doctor import servers
from pikaforge.doctor.checks import CHECKS, judge
from pikaforge.doctor.facts import (
    BaseSeen,
    ClockSeen,
    Facts,
    KeysSeen,
    LockSeen,
    LoginSeen,
    Purpose,
    ServerSeen,
    SourceSeen,
)
from pikaforge.doctor.figures import GIB
from pikaforge.doctor.finding import Diagnosis, worst
from pikaforge.doctor.programs import PROGRAMS
from pikaforge.host.confinement import Abilities
from pikaforge.host.disk import Space
from pikaforge.host.engine_seen import EngineSeen
from pikaforge.host.questions import Answered
from pikaforge.plan.budget import COMPILER

ROOT = Path(__file__).resolve().parents[3]
NOW = 1_800_000_000.0
ENGINE = EngineSeen(
    kind="docker",
    address="unix:///var/run/docker.sock",
    version="27.1",
    driver="overlay2",
    root="/var/lib/docker",
    cores=4,
    abilities=Abilities(memory=32 * GIB),
)
PATCH = Purpose(what="patch pull-1", kind="patch", needed=True)
ROOMS = tuple(
    Space(what=what, folder=Path(f"/{what}"), free=200 * GIB, device=number)
    for number, what in enumerate(("results", "packages", "images"))
)


def _server(purpose: Purpose = PATCH, url: str = "https://patches.example/1.patch", **answer: Any) -> ServerSeen:
    return ServerSeen(url=url, purpose=purpose, answer=Answered(**{"status": 200, "ahead": 0.4, **answer}))


WELL = Facts(
    spec=make_spec(),
    images=("debian12",),
    installer="sudo apt-get install",
    programs={name: f"/usr/bin/{name}" for program in PROGRAMS for name in program.names},
    engine=ENGINE,
    rooms=ROOMS,
    available=16 * GIB,
    bases=(BaseSeen(image="debian12", reference="debian:bookworm-slim", bootstrap="bookworm", held=True, registry=""),),
    source=SourceSeen(url="https://example.org/demo.git", ref="v1.0"),
    servers=(_server(),),
    flags=microarch.kernel_flags("sapphirerapids"),
    emulator="debian13",
    keys=KeysSeen(signing="A" * 40, verifying=("/keys.asc",)),
    lock=LockSeen(path="/sources.lock", there=True, source=True),
    clock=ClockSeen(now=NOW, newest=NOW - 60),
)


def _not_ok(facts: Facts) -> list[Diagnosis]:
    return [finding for finding in judge(facts) if finding.state != "ok"]


def _only(**changes: Any) -> Diagnosis:
    """The one finding that is not ok if some facts are others."""
    (finding,) = _not_ok(replace(WELL, **changes))
    assert finding.stops
    assert finding.mend
    return finding


def test_a_machine_that_lacks_nothing() -> None:
    found = judge(WELL)
    assert _not_ok(WELL) == []
    assert worst(found) == "ok"
    assert {finding.check for finding in found} == {check.name for check in CHECKS}, "the control: each one spoke"
    assert not any(finding.stops or finding.mend for finding in found)


def _without(*names: str) -> dict[str, str | None]:
    return {name: None if name in names else path for name, path in WELL.programs.items()}


LACKS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "no engine": (
        {"engine": EngineSeen(kind="engine", problem="no container engine answers", hint="start it")},
        "engine",
        "lacking",
        "no container engine answers",
    ),
    "an engine without limits": (
        {"engine": replace(ENGINE, abilities=Abilities(memory=32 * GIB, limits_memory=False))},
        "engine",
        "warning",
        "it cannot limit memory",
    ),
    "a full disk": (
        {"rooms": (replace(ROOMS[0], free=1000), *ROOMS[1:])},
        "disk",
        "lacking",
        "/results: 1000 bytes free",
    ),
    "a small disk": (
        {"rooms": (*ROOMS[:2], replace(ROOMS[2], free=GIB))},
        "disk",
        "warning",
        "/images: 1 GiB free; a first build of what is wanted takes about 1 GiB",
    ),
    "a folder of somebody else": (
        {"rooms": (replace(ROOMS[0], writable=False), *ROOMS[1:])},
        "disk",
        "lacking",
        "/results cannot be written by this user",
    ),
    "little memory": (
        {"engine": replace(ENGINE, abilities=Abilities(memory=2 * COMPILER))},
        "memory",
        "warning",
        "4 compilers at once",
    ),
    "no memory for one compiler": (
        {"engine": replace(ENGINE, abilities=Abilities(memory=COMPILER))},
        "memory",
        "lacking",
        "4 compilers at once",
    ),
    "a limit above the machine": (
        {"spec": make_spec(limits={"memory_mib": 64 << 10})},
        "memory",
        "warning",
        "a job may use 64 GiB, and the machine has 32 GiB",
    ),
    "memory that others use": (
        {"available": 1 << 20},
        "memory",
        "warning",
        "other programs leave 1 MiB",
    ),
    "no git": ({"programs": _without("git")}, "tools", "lacking", "it is not installed"),
    "no gpgv": ({"programs": _without("gpgv", "gpgv2")}, "tools", "warning", "it is not installed"),
    "no source": (
        {"source": SourceSeen(url="u", ref="v1.0", problem="cannot reach u", mend=("a proxy?",))},
        "source",
        "lacking",
        "cannot reach u",
    ),
    "no source, but it is here": (
        {"source": SourceSeen(url="u", ref="v1.0", problem="cannot reach u", mend=("a proxy?",), held=True)},
        "source",
        "warning",
        "cannot reach u; the pinned commit is in out/git",
    ),
    "no registry, and no other way": (
        {"bases": (BaseSeen(image="el7", reference="centos:7", bootstrap="", held=False, registry="no such host"),)},
        "registry",
        "lacking",
        "no such host",
    ),
    "no registry, but packages": (
        {"bases": (BaseSeen(image="d", reference="d:1", bootstrap="sid", held=False, registry="no such host"),)},
        "registry",
        "warning",
        "no such host; it is made of the packages of sid",
    ),
    "a registry that nobody can ask": (
        {"bases": (BaseSeen(image="d", reference="d:1", bootstrap="sid", held=False, registry=None),)},
        "registry",
        "warning",
        "this engine does not tell whether its registry answers",
    ),
    "a closed port": (
        {"servers": (_server(status=0, reason="Connection refused", ahead=None),)},
        "servers",
        "lacking",
        "Connection refused: patch pull-1",
    ),
    "a patch that is not there": (
        {"servers": (_server(status=404),)},
        "servers",
        "lacking",
        "it answers 404",
    ),
    "a patch that is here already": (
        {"servers": (_server(replace(PATCH, held=True), status=503),)},
        "servers",
        "warning",
        "it answers 503 Service Unavailable: patch pull-1 (in out/ already)",
    ),
    "a destination that is down": (
        {"servers": (_server(Purpose(what="destination vault", kind="publish", needed=False), status=502),)},
        "servers",
        "warning",
        "it answers 502 Bad Gateway: destination vault",
    ),
    "a shared store that is down": (
        {"servers": (_server(Purpose(what="shared store", kind="store", needed=False), status=503),)},
        "servers",
        "warning",
        "it answers 503 Service Unavailable: shared store",
    ),
    "no emulator": (
        {"emulator": ""},
        "emulator",
        "warning",
        "none is configured (defaults.emulator)",
    ),
    "a target that nothing runs": (
        {"flags": microarch.kernel_flags("haswell")},
        "emulator",
        "warning",
        "natively: sandybridge; neither: skylake_avx512",
    ),
    "an expired key": (
        {"keys": KeysSeen(signing_problem="the signing key has expired", signing_mend=("extend it",))},
        "keys",
        "lacking",
        "the signing key has expired",
    ),
    "no key": ({"keys": KeysSeen()}, "keys", "warning", "none is set"),
    "a key that old systems do not know": (
        {"keys": KeysSeen(signing="A" * 40, remarks=("it is not RSA",))},
        "keys",
        "warning",
        f"{'A' * 40} can sign; it is not RSA",
    ),
    "keys to verify with that cannot be read": (
        {"keys": KeysSeen(signing="A" * 40, verifying=("/k",), verifying_problem="cannot read /k")},
        "keys",
        "warning",
        "cannot read /k",
    ),
    "no credentials": (
        {"logins": (LoginSeen(destination="vault", url="https://v.example", source="", mend=("set them",)),)},
        "keys",
        "warning",
        "there are none",
    ),
    "a clock that is behind": (
        {"servers": (_server(ahead=-3600.0),)},
        "clock",
        "warning",
        "3600 s behind the time of the one server that said it",
    ),
    "a clock of another year": (
        {"servers": (_server(ahead=40_000_000.0),)},
        "clock",
        "lacking",
        "40000000 s ahead of the time of the one server that said it",
    ),
    "a clock that went back": (
        {"clock": ClockSeen(now=NOW, newest=NOW + 86_400)},
        "clock",
        "warning",
        "a result in out/ is from 2027-01-16 08:00:00 UTC, and here it is 2027-01-15 08:00:00 UTC",
    ),
    "a lock that cannot be read": (
        {"lock": LockSeen(path="/sources.lock", there=True, problem="sources.lock cannot be read")},
        "lock",
        "lacking",
        "sources.lock cannot be read",
    ),
    "a lock without a pin": (
        {"lock": LockSeen(path="/sources.lock", there=True, source=True, images=("debian12",))},
        "lock",
        "warning",
        "not pinned: debian12",
    ),
    "no lock": (
        {"lock": LockSeen(path="/sources.lock", there=False)},
        "lock",
        "warning",
        "there is none yet; not pinned: the source",
    ),
}


@pytest.mark.parametrize("name", list(LACKS))
def test_what_is_planted_is_found_alone(name: str) -> None:
    changes, check, state, says = LACKS[name]
    finding = _only(**changes)
    assert (finding.check, finding.state) == (check, state)
    assert finding.says.startswith(says)


def test_each_check_has_something_planted() -> None:
    assert {check for _, check, _, _ in LACKS.values()} | {"configuration"} == {check.name for check in CHECKS}


def test_a_broken_matrix_is_said_and_the_rest_goes_on() -> None:
    facts = replace(WELL, configuration=("error: bad", "  where: matrix.yaml:3"), spec=None, images=(), servers=())
    (finding,) = _not_ok(facts)
    assert (finding.check, finding.state, finding.says) == (
        "configuration",
        "lacking",
        "error: bad\n  where: matrix.yaml:3",
    )
    assert {"engine", "disk", "memory", "tools", "clock"} <= {each.check for each in judge(facts)}


def test_folders_of_one_file_system_share_its_room() -> None:
    tight = tuple(replace(room, device=7, free=3 * GIB // 2) for room in ROOMS)
    assert {finding.subject for finding in _not_ok(replace(WELL, rooms=tight))} == {"results", "packages", "images"}
    apart = tuple(replace(room, free=2 * GIB) for room in ROOMS)
    assert _not_ok(replace(WELL, rooms=apart)) == []


@pytest.mark.parametrize(
    ("installer", "line"),
    [
        ("apt-get install", "apt-get install gpg"),
        ("sudo dnf install", "sudo dnf install gnupg2"),
        ("yum install", "yum install gnupg2"),
        ("", "install gpg (Debian, Ubuntu) or gnupg2 (EL)"),
    ],
)
def test_the_line_that_mends_fits_the_system(installer: str, line: str) -> None:
    assert _only(programs=_without("gpg", "gpg2"), installer=installer).mend[0] == line


def test_a_program_that_the_system_does_not_have() -> None:
    assert "EPEL" in _only(programs=_without("mmdebstrap"), installer="dnf install").mend[0]


def test_a_machine_that_builds_itself_needs_a_compiler() -> None:
    host = EngineSeen(kind="host", cores=4, abilities=Abilities(memory=32 * GIB, limits_memory=False))
    assert _not_ok(replace(WELL, engine=host)) == []
    finding = _only(engine=host, programs=_without("gcc"))
    assert (finding.check, finding.state, finding.subject) == ("tools", "lacking", "gcc")


def test_one_server_that_is_wrong_does_not_make_the_clock_wrong() -> None:
    servers = [_server(url=f"https://{number}.example/", ahead=ahead) for number, ahead in enumerate((0.0, 1.0, 9e6))]
    assert _not_ok(replace(WELL, servers=tuple(servers))) == []


def test_no_secret_of_a_url_is_shown() -> None:
    server = _server(url="https://user:geheim@patches.example/1?token=geheim", status=500)
    shown = "".join(finding.model_dump_json() for finding in judge(replace(WELL, servers=(server,))))
    assert "patches.example" in shown
    assert "geheim" not in shown


def test_a_line_to_paste_has_no_shell_text_of_a_url() -> None:
    finding = _only(servers=(_server(url="https://$(touch${IFS}x);y/", status=0, reason="gone", ahead=None),))
    assert finding.mend[0].startswith("curl -I 'https://$(touch${IFS}x);y' shows more")


def test_setup_installs_the_same_packages() -> None:
    text = (ROOT / "setup.sh").read_text(encoding="utf-8")
    listed = {
        found[1]: (found[2], found[3])
        for found in re.finditer(r'need ([a-z][\w+-]*) ([\w+-]+) (\S*|"\$\([^"]*\)") "', text)
    }
    for program in PROGRAMS:
        name = program.names[-1]
        if name in listed:
            apt, dnf = listed[name]
            assert program.apt == apt, name
            assert dnf.startswith('"$(') or dnf.strip("'") == program.dnf, name
    assert {"git", "tar", "gzip", "gcc", "make", "mmdebstrap"} <= listed.keys(), "the control: they are found"


@pytest.mark.parametrize(("url", "wanted"), [("https://store.example.org/pika", True), ("/srv/store", False)])
def test_a_shared_store_on_a_server_is_asked(tmp_path: Path, url: str, wanted: bool) -> None:
    spec = make_spec(store={"url": url})
    found = [each for each in servers.of_spec(spec, ["debian12"], out=tmp_path) if each.purpose.kind == "store"]
    assert bool(found) is wanted
