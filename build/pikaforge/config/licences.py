"""Licences by their SPDX expressions (SPDX specification 2.3, annex D)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

NOASSERTION = "NOASSERTION"
"""SPDX's word for a licence that is not stated."""
REFERENCE = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
"""A licence that SPDX's list does not have."""
LONGEST = 256
"""Characters of an expression that is looked at: the parser calls itself for each parenthesis."""


@lru_cache(maxsize=1)
def licensing() -> Any:
    """Return the parser, which has the list of SPDX. It takes 0.05 s to make."""
    from license_expression import get_spdx_licensing  # noqa: PLC0415  # 0.1 s, and only where a licence is stated

    return get_spdx_licensing()


def fault(text: str) -> str:
    """Return what is wrong with an SPDX expression; "" if it is one, or the word for none."""
    if text == NOASSERTION:
        return ""
    if not text.strip() or not text.isprintable() or len(text) > LONGEST:
        return f"it has no words, or more than {LONGEST} characters, or line ends"
    # References have no place in the list; any licence can stand for them.
    try:
        licensing().parse(REFERENCE.sub("MIT", text), validate=True, strict=True)
    except Exception as error:  # noqa: BLE001  # 30.4 has an IndexError for `()`, beside errors of its own
        return str(error).partition("\n")[0]
    return ""


def spdx_expression(text: str) -> str:
    """Return an SPDX expression; for validators of fields.

    Raises:
        ValueError: it is none, or names a licence that SPDX does not know.
    """
    if why := fault(text):
        raise ValueError(
            f"{text!r} is no SPDX expression ({why}): such as BSD-3-Clause, or MIT AND Apache-2.0, by the names of "
            "spdx.org/licenses; LicenseRef-NAME for others"
        )
    return text
