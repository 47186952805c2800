"""The command line: arguments in, exit status out. All expected errors are caught here, and nowhere else."""

from __future__ import annotations

import contextlib
import importlib
import io
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from pikaforge.cli.arguments import parser
from pikaforge.cli.context import Context
from pikaforge.cli.verbs import VERBS
from pikaforge.errors import EXIT_INTERRUPTED, ForgeError, HostError


def _verb(name: str) -> Callable[[Context], int]:
    """Return the function of a verb. Its module is imported here, so that other verbs start quickly without it."""
    module = importlib.import_module(f"pikaforge.cli.commands.{VERBS[name].module}")
    found: Callable[[Context], int] = getattr(module, name)
    return found


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that a cancelled CI job leaves nothing running."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; the exit status is 0, 2, 3, 4 or 5 (see `errors`), or 130 after Ctrl-C."""
    from pikaforge.cli import output  # noqa: PLC0415

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that has no arrow gets a question mark, not a traceback
        sys.stdout.reconfigure(errors="replace")
    arguments = parser().parse_args(argv)
    try:
        with _termination():
            return _verb(arguments.verb)(Context(arguments))
    except ForgeError as error:
        if arguments.debug:
            output.warn(traceback.format_exc())
        output.show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        output.show_error(
            ForgeError("interrupted; what was running is removed", hint="run it again: it continues where it stopped")
        )
        return EXIT_INTERRUPTED
    except OSError as error:
        if arguments.debug:
            output.warn(traceback.format_exc())
        output.show_error(
            HostError(
                f"{error.strerror or error}",
                where=str(error.filename or ""),
                hint="is the disk full, or a folder read-only?",
            )
        )
        return HostError.exit_code
