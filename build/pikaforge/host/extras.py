"""Python packages that not every verb needs: imported when something needs them, with the way to get one that fails."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from types import ModuleType

from pikaforge.errors import HostError

UNLOADABLE = re.compile(r"(?P<library>\S+\.so[.\d]*): cannot open shared object file")
"""What the loader says (glibc, elf/dl-load.c) where a library of the system is missing."""
GLIB = "libglib2.0-0 (Debian, Ubuntu) or glib2 (EL)"
SYSTEM_PACKAGES: Mapping[str, str] = {"libgobject-2.0.so.0": GLIB, "libglib-2.0.so.0": GLIB}
"""Who has the libraries that wheels may leave to the system (PEP 599); setup.sh installs these packages."""


def load(module: str, *, package: str, extra: str) -> ModuleType:
    """Import a module of a Python package that an extra of this project brings.

    Args:
        module: what is imported, with dots.
        package: what pip calls the package that has it.
        extra: the extra, which has the name of the nox session that installs it.

    Raises:
        HostError: it cannot be imported, in Python's own words.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(error, module=module, package=package, extra=extra) from error


def require(module: str, *, package: str, extra: str) -> None:
    """Raise HostError unless a module is there, for one that runs as a program of its own; see `load`."""
    if importlib.util.find_spec(module) is None:
        error = ModuleNotFoundError(f"No module named {module!r}", name=module)
        raise _missing(error, module=module, package=package, extra=extra)


def _missing(error: ImportError, *, module: str, package: str, extra: str) -> HostError:
    return HostError(
        f"the Python package {package} cannot be imported: {' '.join(str(error).split())}",
        hint=_hint(error, module=module, package=package, extra=extra),
    )


def _hint(error: ImportError, *, module: str, package: str, extra: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return f"`nox -s {extra}` installs it; by hand: pip install 'pikaforge[{extra}]'"
    if (found := UNLOADABLE.search(str(error))) is None:
        return f"it is installed, but not whole, or not for this Python; remove .nox/{extra} and run again"
    if (system := SYSTEM_PACKAGES.get(found["library"])) is None:
        return f"it is installed; install the system's package that has {found['library']}, too"
    return f"it is installed, but needs {found['library']}: run `bash setup.sh`; by hand: install {system}"
