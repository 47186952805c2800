"""`python -m pikaforge`, and the command `pikaforge`."""

from __future__ import annotations

import signal
import sys


def run() -> int:
    """Run the tool; return the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until `main` takes care of signals there is nothing to remove, and a traceback would tell nothing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pikaforge.cli.main import main  # noqa: PLC0415

    return main()


if __name__ == "__main__":
    sys.exit(run())
