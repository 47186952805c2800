"""A farm of SLURM jobs: `python examples/farm/slurm.py`, on a machine that may submit jobs.

Each node has podman without root, whose socket the job starts, and sees the checkout at CHECKOUT. It needs the Python
packages distributed and dask-jobqueue here. Jobs are submitted when there are nodes to make, and end when there are
none. PBSCluster, LSFCluster and the other classes of dask-jobqueue take the same arguments.
"""

import os
import shlex
import signal

from dask_jobqueue import SLURMCluster

CHECKOUT = os.environ.get("CHECKOUT", "/shared/pikaforge")
STORE = os.environ["PIKAFORGE_STORE"]
PAGES = "127.0.0.1:0"
"""Dask's pages: for nobody but this machine."""


def cluster(**more):
    """Return the cluster: jobs of 16 cores and 32 GB, for four hours each."""
    return SLURMCluster(
        cores=16,
        memory="32GB",
        processes=1,
        walltime="04:00:00",
        python=shlex.quote(f"{CHECKOUT}/.farm/bin/python"),
        worker_extra_args=["--preload", "pikaforge.farm.preload", "--no-dashboard", "--dashboard-address", PAGES],
        job_script_prologue=[
            f"export PIKAFORGE_STORE={shlex.quote(STORE)}",
            "export PIKAFORGE_FARM_OUT=${TMPDIR:-/tmp}/pikaforge-farm-$USER",
            "export DOCKER_HOST=unix://${TMPDIR:-/tmp}/podman-$$.sock",
            'podman system service --time=0 "$DOCKER_HOST" & podman=$!',
            """trap 'kill "$podman"; rm -f "${DOCKER_HOST#unix://}"' EXIT""",
            'until [ -S "${DOCKER_HOST#unix://}" ]; do kill -0 "$podman" || exit 1; sleep 0.1; done',
        ],
        **more,
    )


if __name__ == "__main__":
    made = cluster(scheduler_options={"port": 8786, "dashboard": False, "dashboard_address": PAGES})
    made.adapt(minimum_jobs=1, maximum_jobs=32)
    print(f"nox -s build -- all --farm {made.scheduler_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    made.close()
