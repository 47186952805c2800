"""What is printed: nothing from outside controls a terminal or GitHub's runner."""

from __future__ import annotations

import json

import pytest

from pikaforge.host.text import one_line, printable, printable_json


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
