"""The clusters of examples/farm, run as they are: hosts with ssh, and a queue of jobs. A build on each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.farms import tool_path
from survival import listed, processes

from pikaforge.host.connection import address

if TYPE_CHECKING:
    from conftest import Project

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("farm-clusters"), pytest.mark.long(60)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "farm"
CLUSTER = """\
import sys
sys.path.insert(0, sys.argv[1])
{begin}
print("address", made.scheduler_address, flush=True)
sys.stdin.read()
made.close()
"""
"""Starts the cluster of an example on loopback, says where, and ends it at the end of its input."""
SSH = """\
import ssh
made = ssh.cluster(["127.0.0.1"] * 3, port=0, host="127.0.0.1")
"""
QUEUE = """\
import slurm
made = slurm.cluster(interface="lo", scheduler_options={"port": 0, "dashboard_address": slurm.PAGES})
made.adapt(minimum_jobs=1, maximum_jobs=2)
"""
SBATCH = """\
#!/bin/sh
set -eu
number=$(( $(cat "$QUEUE/last" 2>/dev/null || echo 100) + 1 ))
echo "$number" >"$QUEUE/last"
cp "$1" "$QUEUE/$number.sh"
SLURM_JOB_ID=$number setsid bash "$QUEUE/$number.sh" >"$QUEUE/$number.log" 2>&1 &
echo $! >"$QUEUE/$number.pid"
echo "Submitted batch job $number"
"""
SCANCEL = """\
#!/bin/sh
for number in "$@"; do kill -TERM -- "-$(cat "$QUEUE/$number.pid")"; done
"""
PODMAN = """\
#!/bin/sh
[ "$1 $2 $3" = "system service --time=0" ] || exit 1
ln -s "$ENGINE" "${4#unix://}"
exec tail -f /dev/null
"""
"""Gives a job the engine of this machine."""


@contextmanager
def program(argv: list[str], env: Mapping[str, str], begin: str) -> Iterator[str]:
    """Run a program until the block ends, which closes its input; what it prints behind a word."""
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdin is not None
        try:
            lines = iter(running.stdout.readline, "")
            yield next(line.removeprefix(begin).strip() for line in lines if line.startswith(begin))
            running.stdin.close()
            assert running.wait(timeout=60) == 0
        finally:
            running.kill()


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """The environment of clusters: a checkout with .farm, a shared store, and a home of their own."""
    pytest.importorskip("distributed", reason="the extra `farm` has it")
    (tmp_path / "check out").mkdir()
    (tmp_path / "check out" / ".farm").symlink_to(sys.prefix)
    for name in ("shared", "home", "tmp", "queue", "bin"):
        (tmp_path / name).mkdir()
    return {
        **os.environ,
        "PYTHONPATH": tool_path(),
        "PYTHONDONTWRITEBYTECODE": "1",  # none beside the examples
        "CHECKOUT": str(tmp_path / "check out"),
        "PIKAFORGE_STORE": str(tmp_path / "shared"),
        "PIKAFORGE_FARM_OUT": str(tmp_path / "workers"),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
    }


@pytest.fixture
def project(tiny: Callable[..., Project], surroundings: dict[str, str]) -> Project:
    """A project whose workers have the images."""
    made = tiny()

    def natively(matrix: dict[str, Any]) -> None:
        matrix["defaults"]["emulator"] = None

    made.change(natively)
    shutil.copytree(made.out / "store" / "image", Path(surroundings["PIKAFORGE_FARM_OUT"]) / "store" / "image")
    return made


def build_on(cluster: str, project: Project, surroundings: Mapping[str, str]) -> str:
    """Build on a cluster; what is printed."""
    env = {"PIKAFORGE_STORE": surroundings["PIKAFORGE_STORE"], "DOCKER_HOST": "unix:///nonexistent"}
    done = project.build("R620", "R640", "--farm", cluster, "--no-compiler-cache", env=env, check=0)
    assert all(project.package(model).is_file() for model in ("R620", "R640"))
    return done.text


def running(surroundings: Mapping[str, str]) -> list[int]:
    """The processes of hosts and jobs."""
    return processes(surroundings["PIKAFORGE_STORE"], "PIKAFORGE_STORE")


def test_hosts_with_ssh(
    project: Project, surroundings: dict[str, str], tmp_path: Path, until: Callable[..., None]
) -> None:
    pytest.importorskip("asyncssh", reason="the extra `tests` has it")
    server = [sys.executable, str(Path(__file__).with_name("ssh_server.py")), surroundings["HOME"] + "/user"]
    mine = {**surroundings, "HOME": surroundings["HOME"] + "/user"}
    del mine["PIKAFORGE_FARM_OUT"]
    with subprocess.Popen(server, env=surroundings, stdout=subprocess.PIPE, text=True) as sshd:
        try:
            assert sshd.stdout is not None and int(sshd.stdout.readline()) > 0
            with program([sys.executable, "-c", CLUSTER.format(begin=SSH), str(EXAMPLES)], mine, "address ") as cluster:
                assert cluster.startswith("tcp://127.0.0.1:")
                assert "the farm has 2 workers" in build_on(cluster, project, surroundings)
            assert sshd.poll() is None
            until(lambda: running(surroundings) == [sshd.pid], lambda: f"an end of {listed(running(surroundings))}")
        finally:
            sshd.kill()


def test_a_queue_of_jobs(
    project: Project, surroundings: dict[str, str], tmp_path: Path, until: Callable[..., None]
) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `tests` has it")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL), ("podman", PODMAN)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    env = {
        **surroundings,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "QUEUE": str(tmp_path / "queue"),
        "ENGINE": address().removeprefix("unix://"),
        "USER": "ann",
    }
    shutil.move(tmp_path / "workers", tmp_path / "tmp" / "pikaforge-farm-ann")
    with program([sys.executable, "-c", CLUSTER.format(begin=QUEUE), str(EXAMPLES)], env, "address ") as cluster:
        assert cluster.startswith("tcp://127.0.0.1:")
        build_on(cluster, project, surroundings)
    jobs = list((tmp_path / "queue").glob("*.sh"))
    assert 1 <= len(jobs) <= 2, "as many as adapt() may submit"
    until(lambda: running(surroundings) == [], lambda: f"an end of {listed(running(surroundings))}")
