"""A farm of hosts that are reached by ssh: `python examples/farm/ssh.py SCHEDULER WORKER…`.

Each host has a checkout of pikaforge at CHECKOUT with an environment in .farm (docs/farm.md), and a container engine. It
needs the Python packages distributed and asyncssh here. The cluster ends with this program.
"""

import os
import signal
import sys

from distributed import SSHCluster

CHECKOUT = os.environ.get("CHECKOUT", "/srv/pikaforge")
STORE = os.environ["PIKAFORGE_STORE"]

if __name__ == "__main__":
    cluster = SSHCluster(
        sys.argv[1:],
        connect_options={"known_hosts": os.path.expanduser("~/.ssh/known_hosts")},
        remote_python=f"env PIKAFORGE_STORE={STORE} {CHECKOUT}/.farm/bin/python",
        scheduler_options={"port": 8786, "dashboard": False},
        worker_options={"preload": ["pikaforge.farm.preload"]},
    )
    print(f"nox -s build -- all --farm {cluster.scheduler_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    cluster.close()
