"""What goes wrong while files are read for an audit."""

from __future__ import annotations

from pikaforge.errors import ForgeError


class AuditError(ForgeError):
    """A file or package cannot be read, so nothing can be said of it; never a verdict."""
