"""A farm of hosts that are reached by ssh: `python examples/farm/ssh.py SCHEDULER WORKER…`.

Each host has a checkout of pikaforge at CHECKOUT with an environment in .farm (docs/farm.md), and a container engine.
It needs the Python packages distributed and asyncssh here. The cluster ends with this program.
"""

import os
import shlex
import signal
import sys

from distributed import SSHCluster

CHECKOUT = os.environ.get("CHECKOUT", "/srv/pikaforge")
STORE = os.environ["PIKAFORGE_STORE"]
NO_PAGES = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


def cluster(hosts, port=8786, **worker):
    """Return the cluster: the scheduler on the first host, at the address of its name, and workers on the others."""
    return SSHCluster(
        hosts,
        remote_python=shlex.join(["env", f"PIKAFORGE_STORE={STORE}", f"{CHECKOUT}/.farm/bin/python"]),
        scheduler_options={"host": hosts[0], "port": port, **NO_PAGES},
        worker_options={"preload": ["pikaforge.farm.preload"], **NO_PAGES, **worker},
    )


if __name__ == "__main__":
    made = cluster(sys.argv[1:])  # with known_hosts, keys and users of ~/.ssh, as ssh(1)
    print(f"nox -s build -- all --farm {made.scheduler_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    made.close()
