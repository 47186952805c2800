"""SPDX expressions of products."""

from __future__ import annotations

import random

import pytest
from unit.helpers import make_spec

from pikaforge.config.licences import LONGEST, fault
from pikaforge.errors import ConfigError

GOOD = (
    "BSD-3-Clause",
    "MIT AND (Apache-2.0 OR GPL-2.0-or-later WITH Classpath-exception-2.0)",
    "LicenseRef-own.1",
    "MIT AND DocumentRef-a:LicenseRef-b",
    "NOASSERTION",
)
BAD = (
    "", " ", "BSD", "GPLv2+", "NONE", "MIT\nX", "MIT AND", "(MIT", "MIT)", "AND", "()", "MIT WITH MIT", "MIT MIT",
    "NOASSERTION AND MIT", "(" * LONGEST + "MIT",
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_expressions(text: str) -> None:
    assert fault(text) == ""
    assert make_spec(product__licence=text).product.licence == text


@pytest.mark.parametrize("text", BAD)
def test_no_expressions(text: str) -> None:
    assert fault(text)
    with pytest.raises(ConfigError, match="no SPDX expression"):
        make_spec(product__licence=text)


def test_nothing_ends_in_an_error_of_the_parser() -> None:
    words = ("MIT", "AND", "OR", "WITH", "(", ")", "BSD", "+", "-", "and", "LicenseRef-x", "\0", "\u202e")
    chance = random.Random(13)
    verdicts = {bool(fault(" ".join(chance.choices(words, k=chance.randint(0, 7))))) for _ in range(300)}
    assert verdicts == {True, False}
