"""Python packages that not every verb needs. They are imported when they are needed, with an error that says how to get
them."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from types import ModuleType

from pikaforge.errors import HostError, ProgramError

UNLOADABLE = re.compile(r"(?P<library>\S+\.so[.\d]*): cannot open shared object file")
"""What the loader says if a library of the system is missing (glibc, elf/dl-load.c)."""
GLIB = "libglib2.0-0 (Debian, Ubuntu) or glib2 (EL)"
SYSTEM_PACKAGES: Mapping[str, str] = {"libgobject-2.0.so.0": GLIB, "libglib-2.0.so.0": GLIB}
"""System packages by the libraries that wheels may leave to the system (PEP 599). setup.sh installs them."""


def load(module: str, *, package: str, extra: str, session: str = "") -> ModuleType:
    """Import a module of a Python package that is installed with an extra of this project.

    Args:
        module: its name with dots.
        package: the name of its package for pip.
        extra: the extra.
        session: the nox session that installs it, with its arguments; without one, that of the extra's name.

    Raises:
        HostError: it cannot be imported. The message has Python's own words.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(error, module=module, package=package, extra=extra, session=session) from error


def require(module: str, *, package: str, extra: str) -> None:
    """Raise HostError unless a module is installed; for one that runs as a program. See `load`."""
    if importlib.util.find_spec(module) is None:
        error = ModuleNotFoundError(f"No module named {module!r}", name=module)
        raise _missing(error, module=module, package=package, extra=extra)


def _missing(error: ImportError, *, module: str, package: str, extra: str, session: str = "") -> HostError:
    return ProgramError(
        f"the Python package {package} cannot be imported: {' '.join(str(error).split())}",
        hint=_hint(error, module=module, package=package, extra=extra, session=session or extra),
    )


def _hint(error: ImportError, *, module: str, package: str, extra: str, session: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return f"`nox -s {session}` installs it; by hand: pip install 'pikaforge[{extra}]'"
    if (found := UNLOADABLE.search(str(error))) is None:
        return f"it is installed, but not whole, or not for this Python; remove .nox/{extra} and run again"
    if (system := SYSTEM_PACKAGES.get(found["library"])) is None:
        return f"it is installed; install the system's package that has {found['library']}, too"
    return f"it is installed, but needs {found['library']}: run `bash setup.sh`; by hand: install {system}"
