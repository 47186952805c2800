"""A hostile recipe in a container: what it may not do, what ends it, and what of it reaches another build."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pikaforge.host.compiler_cache import volume_of
from pikaforge.host.confinement import Bounds, OutputError
from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import Input, Job, JobResult, ServerJob, files

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Warm

pytestmark = pytest.mark.engine

LOOK = r"""
try() { what=$1; shift; if "$@" 2>/dev/null; then echo "$what: yes"; else echo "$what: no"; fi; }
echo "user: $(id -u):$(id -g)"
sed -n 's/^\(Cap[A-Za-z]*\|NoNewPrivs\):[[:space:]]*/\1: /p' /proc/self/status
try 'write to /usr' touch /usr/planted
try 'write to /etc' touch /etc/planted
try 'write to the root' touch /planted
try 'change a guest script' sh -c 'echo exit >>guest/script.sh'
try 'remove the guest scripts' rm -rf guest
try 'rename the guest scripts' mv guest elsewhere
try 'make a device' mknod out/device c 1 3
try 'give a file away' chown 0 src/file
try 'mount' mount -t tmpfs none src
try 'reach a network' sh -c 'grep -v " lo:\|Inter\|face" /proc/net/dev | grep -q :'
# The controls: what a build needs.
try 'write to out' touch out/file
try 'write to its source' sh -c 'echo more >>src/file && mkdir src/new'
try 'make folders' mkdir wrap
try 'run a program in /tmp' sh -c 'printf "#!/bin/sh\nexit 0\n" >/tmp/run && chmod 755 /tmp/run && /tmp/run'
try 'read a guest script' grep -q true guest/script.sh
try 'set a user bit' sh -c 'chmod 4755 out/file'
"""
ALLOWED = {
    *("write to out", "write to its source", "make folders", "run a program in /tmp", "read a guest script"),
    "set a user bit",  # of its own file, which is worth nothing there, and is refused in a tree
}
SMALL = Bounds(processes=64, memory=96 << 20, file=8 << 20, log=1 << 20)


@pytest.fixture
def engine_here() -> DockerEngine:
    return DockerEngine()


@pytest.fixture
def job(warm: Warm, tmp_path: Path) -> Job:
    return Job(
        label="test-hostile",
        image=warm.build_image,
        argv=("sh", "guest/script.sh"),
        env={},
        inputs=(
            Input(folder="guest", archive=files({"script.sh": b"true\n"}), sealed=True),
            Input(folder="src", archive=files({"file": b"text\n"})),
        ),
        log=tmp_path / "log",
        timeout=120,
    )


def test_what_a_build_may_do(job: Job, engine_here: DockerEngine, tmp_path: Path) -> None:
    done = engine_here.run(replace(job, argv=("sh", "-c", LOOK)), tmp_path)
    said = dict(line.split(": ", 1) for line in job.log.read_text().splitlines() if ": " in line)
    assert done.status == 0, said
    assert said.pop("user") == "65534:65534"
    assert said.pop("NoNewPrivs") == "1"
    capabilities = {said.pop(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert capabilities == {"0" * 16}
    assert {what for what, answer in said.items() if answer == "yes"} == ALLOWED
    assert set(said.values()) == {"yes", "no"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        # The shell ends when it cannot fork.
        ("while sleep 60 & do :; done", "it may have had more than 64 processes at once (limits.processes)"),
        ("head -c 20000000 /dev/zero >out/large", "a file became larger than 8 MiB (limits.file_mib)"),
        (
            "head -c 400000000 /dev/zero | tail -c 300000000 >/dev/null",
            "96 MiB of memory (limits.memory_mib, --memory)",
        ),
        ("yes $(printf '%09000d' 0)", "it printed more than 1 MiB (limits.log_mib)"),
    ],
)
def test_what_ends_a_build(job: Job, engine_here: DockerEngine, tmp_path: Path, script: str, reason: str) -> None:
    done = engine_here.run(replace(job, argv=("sh", "-c", script), bounds=SMALL), tmp_path)
    assert done.status != 0 or done.exceeded
    assert not done.timed_out
    assert reason in done.exceeded, job.log.read_text()[-500:]
    assert job.log.stat().st_size <= SMALL.log
    killed = "limits.memory_mib" in reason
    assert done.out_of_memory == killed
    assert (done.memory == SMALL.memory) == killed, "the next run plans with it"
    control = engine_here.run(replace(job, bounds=SMALL), tmp_path)
    assert replace(control, memory=0) == JobResult(status=0), "the control"


def test_what_a_build_uses_of_the_memory_is_seen(job: Job, engine_here: DockerEngine, tmp_path: Path) -> None:
    """Files that it writes do not count. The engine gives a sample a second, so it stays for some."""
    written = "head -c 300000000 /dev/zero >out/part; sync out/part; sleep 3"
    done = engine_here.run(replace(job, argv=("sh", "-c", written)), tmp_path)
    assert done.status == 0
    assert 0 < done.memory < 149_000_000
    held = "head -c 150000000 /dev/zero | tail -c 149000000 | { sleep 5; cat >/dev/null; }"
    done = engine_here.run(replace(job, argv=("sh", "-c", held)), tmp_path)
    assert done.status == 0
    assert 149_000_000 < done.memory < 250_000_000


def test_what_a_job_leaves_is_read_within_bounds(job: Job, engine_here: DockerEngine, tmp_path: Path) -> None:
    """A file with holes costs the engine nothing, and would have taken all memory here."""
    script = "truncate -s 2500M out/facts; ln -s /etc/passwd out/link; mkfifo out/pipe; echo fine >out/fine"
    left = replace(job, argv=("sh", "-c", script))
    with pytest.raises(OutputError, match=r"out/facts is larger than 16 MiB$"):
        engine_here.run(replace(left, facts=("out/facts",)), tmp_path)
    for name in ("link", "pipe"):
        with pytest.raises(OutputError, match=f"out/{name} is not a regular file"):
            engine_here.run(replace(left, outputs=(f"out/{name}",)), tmp_path)
    with pytest.raises(OutputError, match="the job left no "):
        engine_here.run(replace(left, outputs=("out/absent",)), tmp_path)
    done = engine_here.run(replace(left, facts=("out/fine",)), tmp_path)
    assert done.outputs["out/fine"].read_text() == "fine\n"


@pytest.fixture
def caches(engine_here: DockerEngine) -> Iterator[tuple[str, str]]:
    made = (secrets.token_hex(32), secrets.token_hex(32))
    yield made
    for cache in made:
        engine_here.settle()
        engine_here.remove_cache(volume_of(cache))


def test_a_cache_is_seen_by_its_own_source_only(
    job: Job, engine_here: DockerEngine, tmp_path: Path, caches: tuple[str, str]
) -> None:
    """What a build plants is there for the next one of its source: the control. Another source never sees it."""
    script = 'ls "$CCACHE_DIR"; echo planted >"$CCACHE_DIR/ccache.conf"'
    for cache, seen in ((caches[0], ""), (caches[0], "ccache.conf\n"), (caches[1], "")):
        job.log.unlink(missing_ok=True)
        assert engine_here.run(replace(job, argv=("sh", "-c", script), cache=cache), tmp_path).status == 0
        assert job.log.read_text() == seen
    made = [name for name, _ in engine_here.caches()]
    assert {volume_of(cache) for cache in caches} <= set(made)


PROGRAM = b'#include <stdio.h>\nint main(void) { puts("honest"); return 0; }\n'
BUILD = r"""
set -eu
PIKAFORGE_ROOT=$PWD
umask 022
. guest/toolchain.sh
export PIKAFORGE_CCACHE=1 CCACHE_COMPILERS=evil CCACHE_PREFIX=/forge/src/evil CCACHE_RECACHE=1
configure_ccache
printf 'compiler = /forge/src/evil\nprefix_command = /forge/src/evil\n' >"$CCACHE_DIR/ccache.conf"
env | grep ^CCACHE_ | sort
ccache gcc -c -o out/main.o src/main.c
ccache gcc -o out/main out/main.o
out/main
{ ccache --show-config || ccache --print-config; } 2>/dev/null | grep -i 'prefix_command\|max_size'
"""


def test_a_configuration_in_the_cache_is_not_obeyed(
    warm: Warm, engine_here: DockerEngine, tmp_path: Path, caches: tuple[str, str]
) -> None:
    """ccache reads the file that is ours, and no variable of the build's surroundings; the cache works nevertheless."""
    guest = Path(__file__).parents[2] / "docker/guest"
    scripts = {name: guest / name for name in ("lib.sh", "toolchain.sh", "ccache.conf")}
    job = Job(
        label="test-ccache",
        image=warm.build_image,
        argv=("sh", "guest/build.sh"),
        env={},
        inputs=(
            Input(folder="guest", archive=files({**scripts, "build.sh": BUILD.encode()}), sealed=True),
            Input(
                folder="src",
                archive=files(
                    {"main.c": PROGRAM, "evil": b"#!/bin/sh\necho evil >&2\nexec false\n"}, executable=["evil"]
                ),
            ),
        ),
        log=tmp_path / "log",
        cache=caches[0],
    )
    assert engine_here.run(job, tmp_path).status == 0, job.log.read_text()
    lines = job.log.read_text().splitlines()
    assert [line for line in lines if line.startswith("CCACHE_") and not line.startswith("CCACHE_EXTRAFILES")] == [
        "CCACHE_COMPILERCHECK=content",
        "CCACHE_CONFIGPATH=/forge/guest/ccache.conf",
        "CCACHE_DIR=/forge-cache",
        "CCACHE_INODECACHE=1",
        "CCACHE_TEMPDIR=/forge/wrap/.ccache",
    ]
    assert "honest" in lines
    assert any(line.endswith("prefix_command = ") for line in lines), lines
    assert any("max_size = 1.0" in line for line in lines), lines


# ---- servers

SERVER = rb"""#!/bin/sh
for folder in data tree /usr /tmp .; do
    if touch "$folder/file" 2>/dev/null; then echo "$folder: yes"; else echo "$folder: no"; fi
done
id -u
"""


@pytest.mark.parametrize(("unprivileged", "held"), [(False, False), (False, True), (True, False), (True, True)])
def test_where_a_server_can_write(
    warm: Warm, engine_here: DockerEngine, tmp_path: Path, unprivileged: bool, held: bool
) -> None:
    """It has a folder for its data, whether something is in it or not."""
    data = (Input(folder="data", archive=files({"old": b""})),) if held else ()
    job = ServerJob(
        label="test-server",
        image=warm.build_image,
        argv=("tree/run",),
        inputs=(Input(folder="tree", archive=files({"run": SERVER}, executable=["run"])), *data),
        port=0,
        log=tmp_path / "log",
        unprivileged=unprivileged,
    )
    with engine_here.serve(job) as server:
        assert server.wait(60) == 0
        lines = server.log_text().splitlines()
    assert lines.pop() == "65534"
    said = dict(line.split(": ") for line in lines)
    assert {folder for folder, answer in said.items() if answer == "yes"} == (
        {"data", "/tmp"} if unprivileged else {"data", "tree", "/tmp", "."}
    )


# ---- whole builds


def test_what_a_recipe_leaves_is_named(tiny: Callable[..., Project]) -> None:
    """The limits of matrix.yaml reach its container, and what cannot be packed ends the stage that made it."""
    hostile = tiny(
        prologue='mkdir -p "$OUT/bin"; : >"$OUT/bin/su"; chmod 4755 "$OUT/bin/su"; mkfifo "$OUT/bin/pipe"\n'
        "echo most: $(ulimit -f)\n"
    )
    hostile.change(lambda matrix: matrix.update(limits={"file_mib": 100}))
    done = hostile.build("R620", check=4)
    (reason,) = done.lines(r"^  reason: ")
    assert "-rwsr-xr-x bin/su" in reason
    assert "prw-r--r-- bin/pipe" in reason
    (log,) = hostile.out.glob("logs/*/compile.log")
    assert "most: 204800" in log.read_text(encoding="utf-8")
    assert hostile.stored("compile") == {}


def test_a_release_uses_no_cache(tiny: Callable[..., Project]) -> None:
    """A stored result that was made with one is made again; what is packed is the same, and its provenance is not."""
    product = tiny()
    product.build("R620", check=0)
    before = product.package().read_bytes()
    assert _caches(product)[0].startswith("sha256:")
    done = product.build("R620", "--locked", check=0)
    assert re.search(
        r"^note: the stored result of compile:\S+ is made anew: a compiler cache may have", done.stdout, re.M
    )
    assert not done.lines(r"^package .* done in"), "its key is the same"
    assert _caches(product) == ["none", "none"]
    assert product.package().read_bytes() == before
    product.build("R620", check=0)
    assert _caches(product) == ["none", "none"], "a result without a cache serves everybody"


def _caches(product: Project) -> list[str]:
    """The cache of the compilation, as report and provenance have it."""
    report = json.loads((product.dist / "report.json").read_text(encoding="utf-8"))
    statement = json.loads(Path(f"{product.package()}.intoto.json").read_text(encoding="utf-8"))
    (recorded,) = [stage["cache"] for stage in report["cells"][0]["stages"] if stage["stage"] == "compile"]
    named = statement["predicate"]["buildDefinition"]["internalParameters"]["compilerCaches"]
    return [recorded, named["compile"]]
