"""`python -m pikaforge`."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until `main` takes care of signals there is nothing to remove, and a traceback would tell nothing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pikaforge.cli.main import main

    sys.exit(main())
