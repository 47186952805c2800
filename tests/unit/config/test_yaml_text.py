"""Strict YAML: what is read, where it stands, and each refusal with its words."""

from __future__ import annotations

import ast
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pikaforge.config import document, yaml_text, yaml_words
from pikaforge.errors import EXIT_CONFIG, ConfigError

TEXT = """\
# a comment
product:
  name: pika
  os: {id: debian, version: 22.10}
  steps:
    - [SET, 1, -2.5, null, ~, yes, "no", 2020-01-01]
    - send: >-
        two
        lines
  empty:
"""


@pytest.fixture(params=["libyaml", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each of PyYAML's two readers: the fast one is missing from some builds of it."""
    kind: str = request.param
    if kind == "libyaml" and not yaml.__with_libyaml__:
        pytest.skip("this PyYAML is without libyaml")
    monkeypatch.setattr(yaml_text, "_LOADER", yaml.CSafeLoader if kind == "libyaml" else yaml.SafeLoader)
    yield kind


def _refusal(text: str) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        yaml_text.parse(text, file="m.yaml")
    error = caught.value
    assert error.exit_code == EXIT_CONFIG
    assert error.also == ()
    return error.message, error.where, error.hint


def test_data(loader: str) -> None:
    assert yaml_text.parse(TEXT, file="m.yaml").data == {
        "product": {
            "name": "pika",
            "os": {"id": "debian", "version": 22.1},
            "steps": (
                ("SET", 1, -2.5, None, None, True, "no", "2020-01-01"),
                {"send": "two lines"},
            ),
            "empty": None,
        }
    }


@pytest.mark.parametrize(
    ("path", "key", "position"),
    [
        ((), False, (2, 1)),
        (("product",), False, (2, 1)),  # a block mapping is shown by its key, not by the line after
        (("product", "name"), False, (3, 9)),
        (("product", "name"), True, (3, 3)),
        (("product", "os", "version"), False, (4, 29)),
        (("product", "os", "version"), True, (4, 20)),
        (("product", "os", "absent"), False, (4, 3)),
        (("product", "os", "absent", 3, "deeper"), False, (4, 3)),
        (("product", "steps", 0), False, (6, 7)),
        (("product", "steps", 0, 2), False, (6, 16)),
        (("product", "steps", 1, "send"), False, (7, 13)),
        (("product", "steps", 9), False, (5, 3)),
    ],
)
def test_position(loader: str, path: tuple[str | int, ...], key: bool, position: tuple[int, int]) -> None:
    assert yaml_text.parse(TEXT, file="m.yaml").position(path, key=key) == position


def test_where_and_text(loader: str) -> None:
    document = yaml_text.parse(TEXT, file="m.yaml")
    path = ("product", "os", "version")
    assert document.where(path) == "m.yaml:4:29, product.os.version"
    assert document.where(()) == "m.yaml:2:1"
    assert document.text(path) == "22.10"
    assert document.text(("product", "steps", 0, 6)) == "no"
    assert document.text(("product", "steps", 0, 4)) == "~"
    assert document.text(("product", "empty")) == ""
    assert document.text(("product", "os")) is None
    assert document.text(("product", "os", "absent")) is None


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ((), ""),
        (("product", "smoke", 2, "steps", 0), "product.smoke[2].steps[0]"),
        (("images", "a.b", "gcc"), "images.'a.b'.gcc"),
        (("hardware", "a b\n"), "hardware.'a b\\n'"),
        ((3, "x" * 70), f"[3].'{'x' * 59}…'"),
    ],
)
def test_show_path(path: tuple[str | int, ...], shown: str) -> None:
    assert yaml_words.show_path(path) == shown


def _number(written: str) -> tuple[str, str]:
    message = f"programs read '{written}' as different numbers, or as text"
    return message, f'put text in quotes: "{written}"; write a number in plain decimal digits'


REFUSALS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "duplicate key": (
        "images:\n  el7: 1\n  el8: 2\n  el7: 3\n",
        ("the key 'el7' is here twice; first in line 2", "m.yaml:4:3, images.el7", "remove one of them"),
    ),
    "duplicate key, differently written": (
        "{a: 1, 'a': 2}",
        ("the key 'a' is here twice; first in line 1", "m.yaml:1:8, a", "remove one of them"),
    ),
    "anchor": (
        "a:\n  b: &x [1]\n",
        ("the anchor &x is not supported", "m.yaml:2:6, a.b", "write values out where they are used"),
    ),
    "anchor of a key": (
        "a:\n  &x b: 1\n",
        ("the anchor &x is not supported", "m.yaml:2:3, a", "write values out where they are used"),
    ),
    "alias": ("a: [1, *x]\n", ("the alias *x is not supported", "m.yaml:1:8, a[1]", "write the value out")),
    "tag": (
        "a: !!str 22.10\n",
        (
            "the tag '!!str' is not supported",
            "m.yaml:1:4, a",
            "remove it; text that looks like a number goes in quotes",
        ),
    ),
    "tag of one's own": (
        "a: !run {b: c}\n",
        (
            "the tag '!run' is not supported",
            "m.yaml:1:4, a",
            "remove it; text that looks like a number goes in quotes",
        ),
    ),
    "merge key": (
        "a:\n  <<: {b: 1}\n",
        ("the merge key << is not supported", "m.yaml:2:3, a", "write the keys out"),
    ),
    "several documents": (
        "a: 1\n---\nb: 2\n",
        ("the file holds more than one document", "m.yaml:2:1", "remove the line `---` and what follows"),
    ),
    "key that is a boolean": (
        "hardware:\n  on: 1\n",
        (
            "the key on is read as the boolean true, and a key must be a string",
            "m.yaml:2:3, hardware",
            'put it in quotes: "on"',
        ),
    ),
    "key that is a number": (
        "hardware:\n  7: 1\n",
        (
            "the key 7 is read as the number 7, and a key must be a string",
            "m.yaml:2:3, hardware",
            'put it in quotes: "7"',
        ),
    ),
    "key that is null": (
        "null: 1\n",
        (
            "the key null is read as nothing, and a key must be a string",
            "m.yaml:1:1",
            'put it in quotes: "null"',
        ),
    ),
    "key that is missing": (
        "a:\n  ?\n  : 1\n",
        ("a key is missing before the colon", "m.yaml:2:4, a", "write one"),
    ),
    "key that is a list": (
        "a:\n  [b]: 1\n",
        (
            "a key must be a string, and this is a list or mapping",
            "m.yaml:2:3, a",
            "put it in quotes if it is meant as text",
        ),
    ),
    "key of many meanings": ("010: 1\n", (_number("010")[0], "m.yaml:1:1", _number("010")[1])),
    "empty": ("", ("the file is empty", "m.yaml", "restore it, e.g. with git checkout")),
    "only a comment": ("# a\n", ("the file is empty", "m.yaml", "restore it, e.g. with git checkout")),
    "only a document's beginning": (
        "---\n",
        ("the file is empty", "m.yaml", "restore it, e.g. with git checkout"),
    ),
    "control character": (
        "a: 1\nb: x\x1b[1m\n",
        (
            "the control character U+001B may not be in the file",
            "m.yaml:2:5",
            'remove it, or write it in double quotes as an escape, such as "\\u0000"',
        ),
    ),
    "half of a character": (
        "a: \ud800\n",
        (
            "the control character U+D800 may not be in the file",
            "m.yaml:1:4",
            'remove it, or write it in double quotes as an escape, such as "\\u0000"',
        ),
    ),
    "nesting": (
        "[" * 40,
        (
            "the values are nested deeper than 32 levels",
            "m.yaml:1:33, " + "[0]" * 32,
            "nothing here needs that: check the brackets",
        ),
    ),
    "size": (
        "a" * (yaml_text.SIZE_LIMIT + 1),
        ("the file is larger than 1 MiB", "m.yaml", "is this the file you meant?"),
    ),
    "unclosed quote": (
        "a: 'x\nb: 1\n",
        (
            ("this is not YAML: found unexpected end of stream (while scanning a quoted scalar that begins in line 1)"),
            "m.yaml:3:1",
            "look for an unclosed quote or bracket, or a wrong indentation, here or in the lines before",
        ),
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal(loader: str, text: str, expected: tuple[str, str, str]) -> None:
    assert _refusal(text) == expected


@pytest.mark.parametrize(
    "written",
    [
        "010",
        "08",
        "0o7",
        "0x1F",
        "0b1",
        "1_000",
        "1_0.5",
        "1:30",
        "1:30.5",
        "1e3",
        "1.0e+999",
        ".inf",
        "-.INF",
        ".nan",
        "9999999999999999999",
    ],
)
def test_numbers_of_many_meanings_are_refused(loader: str, written: str) -> None:
    message, hint = _number(written)
    assert _refusal(f"a: {written}\n") == (message, "m.yaml:1:4, a", hint)
    assert yaml_text.parse(f"a: '{written}'\n", file="m.yaml").data == {"a": written}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0", 0),
        ("-10", -10),
        ("+3", 3),
        ("22.10", 22.1),
        ("1.", 1.0),
        ("1.5e+3", 1500.0),
        ("on", True),
        ("OFF", False),
        ("true", True),
        ("Null", None),
        ("4.8.5", "4.8.5"),
        ("v3.4.0", "v3.4.0"),
        ("centos:7", "centos:7"),
        ("=", "="),
        ("2020-01-01 10:00:00", "2020-01-01 10:00:00"),
        ("y", "y"),
        ("none", "none"),
    ],
)
def test_scalars(loader: str, written: str, value: object) -> None:
    found = yaml_text.parse(f"a: {written}\n", file="m.yaml").value(["a"])
    assert (found, type(found)) == (value, type(value))


# The two readers have words of their own for these; place and hint are the same.
@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("a:\n\tb: 1\n", "m.yaml:2:1", "put spaces in place of the tab"),
        (
            "a: b: c\n",
            "m.yaml:1:5",
            "put text that holds a colon and a space in quotes, or check the indentation",
        ),
        ("a: @b\n", "m.yaml:1:4", "put text that begins with this character in quotes"),
        ("a: >=11\n", "m.yaml:1:5", 'put text that begins with > or | in quotes, such as ">=11"'),
        ("a: [b]]\n", "m.yaml:1:7", None),
        ("a:\n  - b\n c: d\n", "m.yaml:3:2", None),
    ],
)
def test_syntax(loader: str, text: str, where: str, hint: str | None) -> None:
    usual = "look for an unclosed quote or bracket, or a wrong indentation, here or in the lines before"
    message, found, advice = _refusal(text)
    assert message.startswith("this is not YAML: ")
    assert (found, advice) == (where, hint or usual)


def test_escape_of_no_character(loader: str) -> None:
    message, _, hint = _refusal('a: "\\UFFFFFFFF"\n')
    assert message.startswith("this is not YAML: ")
    assert hint


def test_billion_laughs_are_refused_fast(loader: str) -> None:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    started = time.process_time()
    message, where, _ = _refusal("\n".join(lines))
    assert (message, where) == ("the anchor &a0 is not supported", "m.yaml:1:5, a0")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["[", "{", "- ", "? ", "{a: ", "'"])
def test_megabytes_of_one_character_are_refused_fast(loader: str, text: str) -> None:
    started = time.process_time()
    _refusal(text * (yaml_text.SIZE_LIMIT // len(text) - 1))
    assert time.process_time() - started < 5


def _unreadable(path: Path) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        yaml_text.read(path)
    return caught.value.message, caught.value.where, caught.value.hint


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes("\ufeffa: ü\n".encode())
    assert yaml_text.read(path) == "a: ü\n"


def test_read_refusals(tmp_path: Path) -> None:
    absent, latin, large = tmp_path / "absent", tmp_path / "latin", tmp_path / "large"
    latin.write_bytes("a: 1\nbü: \xfc\n".encode().replace(b"\xc3\xbc\n", b"\xfc\n"))
    large.write_bytes(b"#" * (yaml_text.SIZE_LIMIT + 1))
    assert _unreadable(absent) == (
        "there is no such file",
        str(absent),
        "run from the folder that has it, or name another file",
    )
    assert _unreadable(tmp_path) == ("this is a folder", str(tmp_path), "name the file in it")
    assert _unreadable(latin) == (
        "the file is not UTF-8: it holds the byte 0xfc",
        f"{latin}:2:5",
        "save it as UTF-8",
    )
    assert _unreadable(large) == ("the file is larger than 1 MiB", str(large), "is this the file you meant?")
    assert _unreadable(absent / "below") == (
        *_unreadable(absent)[:1],
        str(absent / "below"),
        "run from the folder that has it, or name another file",
    )


def test_read_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    path = tmp_path / "m.yaml"
    message = "the file cannot be read: Permission denied"
    assert _unreadable(path) == (message, str(path), "check its owner and permissions")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_read_stops_at_the_limit() -> None:
    assert _unreadable(Path("/dev/zero"))[0] == "the file is larger than 1 MiB"


def test_pydantic_is_not_imported() -> None:
    """It takes 0.2 s, and the lock is read with this module alone."""
    sources = (Path(str(module.__file__)).read_text(encoding="utf-8") for module in (yaml_text, document, yaml_words))
    tree = ast.parse("\n".join(sources).replace("from __future__ import annotations", ""))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    ours = {"pikaforge.errors", "pikaforge.config.document", "pikaforge.config.yaml_words"}
    assert imported - sys.stdlib_module_names - {"collections.abc"} == {"yaml", *ours}
