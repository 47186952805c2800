"""Texts for people."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pikaforge.host.http import TooLargeError
from pikaforge.host.text import size_text

SOURCES = Path(__file__).resolve().parents[3] / "build" / "pikaforge"


@pytest.mark.parametrize(
    ("number", "text"),
    [(19, "19 bytes"), (1 << 10, "1 KiB"), (512 << 10, "512 KiB"), (1 << 20, "1 MiB"), (16 << 30, "16 GiB")],
)
def test_a_limit_is_never_zero(number: int, text: str) -> None:
    assert size_text(number) == text
    assert str(TooLargeError(number)).endswith(f"is larger than {text}")


def test_no_module_counts_in_one_unit_alone() -> None:
    """Such as a limit of some KiB, which is "0 MiB" then. yaml_text has a limit of its own, and imports nothing."""
    found = [p.name for p in SOURCES.rglob("*.py") if re.search(r">> [123]0} [KMG]iB", p.read_text(encoding="utf-8"))]
    assert found == ["yaml_text.py"]
