"""`completion`: print the script by which a shell completes, or write the list of names that it reads."""

from __future__ import annotations

from pikaforge.cli import completion as scripts
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE
from pikaforge.host.durable import write_atomically

LIST = "completion.txt"
"""In the folder of results."""


def completion(context: Context) -> int:
    """Run `completion`; return the exit status."""
    names = context.out.absolute() / LIST
    if context.arguments.shell == "names":
        names.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(names, "".join(f"{line}\n" for line in scripts.lines(context.spec)))
        return EXIT_DONE
    matrix = context.matrix.absolute()
    output.show(scripts.script(context.arguments.shell, matrix=matrix, names=names))
    return EXIT_DONE
