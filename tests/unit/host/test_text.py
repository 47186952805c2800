"""Texts for people: nothing from outside controls a terminal or GitHub's runner."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pikaforge.host.http import TooLargeError
from pikaforge.host.text import one_line, printable, printable_json, size_text

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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is: ✓ ü\n  twice", "as it is: ✓ ü\n  twice"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\tc\x9b", "a\\x0db\\x09c\\x9b"),
        ("name\u202egnp.exe", "name\\u202egnp.exe"),
        ("line\u2028more\U000e0001", "line\\u2028more\\U000e0001"),
        ("half \udc80", "half \\udc80"),
        ("::error::no", ": :error::no"),
        ("x\n  ::set-output name=a::b", "x\n  : :set-output name=a::b"),
        ("std::string ::x", "std::string ::x"),
        ("text ##[error]no", "text ## [error]no"),
        ("###[group]", "### [group]"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_one_line() -> None:
    assert one_line("a\n::error::b") == "a\\x0a::error::b"
    assert one_line("::error::b") == ": :error::b"


def test_json_says_the_same() -> None:
    value = {"##[error]": ["::x", "\x1b[0m ##[group]"]}
    shown = printable_json(json.dumps(value, indent=2))
    assert json.loads(shown) == value
    assert "##[" not in shown
    assert "\x1b" not in shown
