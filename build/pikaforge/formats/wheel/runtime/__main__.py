"""The same as the command: `python3 -m` and the name of this package."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
