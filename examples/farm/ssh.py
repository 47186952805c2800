"""A farm of hosts that are reached by ssh: `python examples/farm/ssh.py SCHEDULER WORKER…`.

Each host has a checkout of pikaforge at CHECKOUT with an environment in .farm (docs/farm.md), and a container engine. It
needs the Python packages distributed and asyncssh here. The cluster ends with this program.
"""

import os
import shlex
import signal
import sys

from distributed import SSHCluster

CHECKOUT = os.environ.get("CHECKOUT", "/srv/pikaforge")
STORE = os.environ["PIKAFORGE_STORE"]


def cluster(hosts, **connection):
    """Return the cluster: the scheduler on the first host, workers on the others."""
    return SSHCluster(
        hosts,
        connect_options=connection,
        remote_python=shlex.join(["env", f"PIKAFORGE_STORE={STORE}", f"{CHECKOUT}/.farm/bin/python"]),
        scheduler_options={"port": 8786, "dashboard": False},
        worker_options={"preload": ["pikaforge.farm.preload"]},
    )


if __name__ == "__main__":
    made = cluster(sys.argv[1:])  # with known_hosts, keys and users of ~/.ssh, as ssh(1)
    print(f"nox -s build -- all --farm {made.scheduler_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    made.close()
