"""`python -m pikaforge`."""

from __future__ import annotations

import sys

from pikaforge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
