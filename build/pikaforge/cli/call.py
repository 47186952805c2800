"""One call: arguments in, exit status out. All expected errors are caught here, and nowhere else."""

from __future__ import annotations

import errno
import importlib
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pikaforge.cli import signals
from pikaforge.cli.arguments import parser
from pikaforge.cli.verbs import VERBS
from pikaforge.errors import ForgeError, HostError, InterruptionError
from pikaforge.host.disk import full_disk, is_full

if TYPE_CHECKING:
    from pikaforge.cli.context import Context


def _verb(name: str) -> Callable[[Context], int]:
    """Return the function of a verb. Its module is imported here, so that other verbs start quickly without it."""
    module = importlib.import_module(f"pikaforge.cli.commands.{VERBS[name].module}")
    found: Callable[[Context], int] = getattr(module, name)
    return found


def _advice(error: OSError) -> str:
    """Return what to do about an error of the system that no part of the tool expects."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the folder is read-only, or somebody else's: --out and --dist name others"
    if error.errno == errno.ENOENT:
        return "is a file of this checkout missing? `git status` shows it"
    if isinstance(error, ConnectionError) or (error.filename is None and error.strerror is None):
        # The exceptions of HTTP libraries are OSErrors without a number.
        return "a connection to the engine, or to a server, has ended: run this again, and it goes on where it was"
    return "--debug shows where it happened"


def call(argv: Sequence[str]) -> int:
    """Run the verb of a call; return the exit status."""
    from pikaforge.cli import output  # noqa: PLC0415

    arguments = parser().parse_args(argv)
    from pikaforge.cli.context import Context  # noqa: PLC0415  # help has ended before, and needs no models

    try:
        with signals.interrupting():
            return _verb(arguments.verb)(Context(arguments, argv))
    except ForgeError as error:
        if arguments.debug:
            output.warn(traceback.format_exc())
        output.show_error(error)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        try:
            output.show_error(
                InterruptionError(
                    "interrupted; what was running is removed", hint="run it again: it continues where it stopped"
                )
            )
        except OSError:  # the terminal is gone, too
            signals.drop_streams()
        return signals.status_of(interrupt)
    except OSError as error:
        if signals.reader_is_gone(error):
            signals.drop_streams()
            return signals.HUNG_UP
        if arguments.debug:
            output.warn(traceback.format_exc())
        if is_full(error):
            output.show_error(full_disk(error))
        else:
            where = str(error.filename or "")
            output.show_error(HostError(f"{error.strerror or error}", where=where, hint=_advice(error)))
        return HostError.exit_code
