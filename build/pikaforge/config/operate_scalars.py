"""Scalar types of the section `product.server.operate`.

All values end in shell scripts between single quotes, or in tables with tabs. So the patterns leave quotes, backslashes
and control characters out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

KEY_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]*$"
VALUE_PATTERN = r"^[ !#-&(-\[\]-~]*$"
"""Printable ASCII but for quotes and the backslash."""
SIZE_PATTERN = r"^[0-9]{1,15}[KMGT]?$"
TEMPLATE_PATTERN = r"^[A-Za-z0-9._{}/@+*-]+$"
WORD_PATTERN = r"^[A-Za-z0-9_.:@*-]+$"
CONDITION_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]*!?=[A-Za-z0-9_.-]*$"
TERM_PATTERN = r"^[a-z][a-z -]*$"
WHOLE_PATTERN = r"^-?[0-9]{1,9}$"
UNIT_PATTERN = r"^[a-z]+$"
COUNTS_PATTERN = r"^[A-Za-z_^$()|]+$"
PREFIX_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*\.$"
GLOB_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._*\[\]-]*$"

ConfKey = Annotated[str, Field(pattern=KEY_PATTERN, max_length=64)]
"""The name of a setting in the server's configuration file."""
ConfValue = Annotated[str, Field(pattern=VALUE_PATTERN, max_length=1024)]
"""What a setting is set to; may hold {port} and {data}."""
InfoKey = Annotated[str, Field(pattern=KEY_PATTERN, max_length=64)]
"""A name before the colon in a reply of INFO."""
Size = Annotated[str, Field(pattern=SIZE_PATTERN)]
"""Bytes, with K, M, G or T as powers of 1024."""
Template = Annotated[str, Field(pattern=TEMPLATE_PATTERN, max_length=255)]
"""A path that may hold the names of settings in braces."""
Word = Annotated[str, Field(pattern=WORD_PATTERN, max_length=64)]
"""A word of a command of RESP."""
Words = Annotated[tuple[Word, ...], Field(min_length=1)]
"""A command of RESP."""
Reason = Annotated[str, Field(pattern=VALUE_PATTERN, min_length=1, max_length=255)]
"""Text for people, printed by scripts."""

Row = tuple[str, ...]
"""A line of a table for scripts."""
EMPTY = "-"
"""What stands for an empty field: the shell takes two tabs for one."""
