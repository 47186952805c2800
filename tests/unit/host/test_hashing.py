"""Keys change with everything that decides a result, and with nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pikaforge.host import hashing

MATERIAL: dict[str, Any] = {"flags": ["-march=x", "-mtune=x"], "recipe": "r", "nested": {"a": 1, "b": [2, 3]}}
INPUTS = {"source:v1": "aaa", "image:el7": "bbb"}


def test_a_key_is_32_hex_digits_and_always_the_same() -> None:
    key = hashing.key("compile", MATERIAL, INPUTS)
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")
    # Golden: another value here means that every stored result is worthless, so raise keys.FORMAT on purpose.
    assert key == "979d57a96bdcce2f525c8c4a3f890341"


@pytest.mark.parametrize(
    ("stage", "material", "inputs"),
    [
        ("smoke", MATERIAL, INPUTS),
        ("compile", {**MATERIAL, "recipe": "s"}, INPUTS),
        ("compile", {**MATERIAL, "flags": ["-mtune=x", "-march=x"]}, INPUTS),
        ("compile", {**MATERIAL, "flags": ["-march=x"]}, INPUTS),
        ("compile", {**MATERIAL, "nested": {"a": 1, "b": [3, 2]}}, INPUTS),
        ("compile", {**MATERIAL, "more": None}, INPUTS),
        ("compile", {k: v for k, v in MATERIAL.items() if k != "recipe"}, INPUTS),
        ("compile", MATERIAL, {**INPUTS, "image:el7": "ccc"}),
        ("compile", MATERIAL, {"source:v1": "aaa", "image:el8": "bbb"}),
        ("compile", MATERIAL, {"source:v1": "bbb", "image:el7": "aaa"}),
        ("compile", MATERIAL, {"source:v1": "aaa"}),
        ("compile", {**MATERIAL, "inputs": INPUTS}, {}),
    ],
)
def test_each_ingredient_counts(stage: str, material: dict[str, Any], inputs: dict[str, str]) -> None:
    assert hashing.key(stage, material, inputs) != hashing.key("compile", MATERIAL, INPUTS)


def test_the_order_of_a_mapping_does_not_count() -> None:
    turned = {name: MATERIAL[name] for name in reversed(MATERIAL)}
    turned["nested"] = {"b": [2, 3], "a": 1}
    inputs = {name: INPUTS[name] for name in reversed(INPUTS)}
    assert hashing.key("compile", turned, inputs) == hashing.key("compile", MATERIAL, INPUTS)


def test_the_format_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashing.key("compile", MATERIAL, INPUTS)
    monkeypatch.setattr(hashing, "FORMAT", hashing.FORMAT + 1)
    assert hashing.key("compile", MATERIAL, INPUTS) != before


@pytest.mark.parametrize("value", [{1, 2}, Path("/x"), b"bytes", object()])
def test_what_is_no_json_is_refused_rather_than_guessed(value: object) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        hashing.key("compile", {"x": value}, {})


@pytest.mark.parametrize("data", ["grüße", "grüße".encode()])
def test_digest(data: str | bytes) -> None:
    assert hashing.digest(data) == hashlib.sha256("grüße".encode()).hexdigest()


def test_file_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    assert hashing.file_digest(path) == hashing.digest("one")
    path.write_text("another")
    assert hashing.file_digest(path) == hashing.digest("another")
    path.write_text("sixteen")  # as long as the one before
    os.utime(path, ns=(0, 12345))
    assert hashing.file_digest(path) == hashing.digest("sixteen")


def test_files_digest_is_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name * 3)
    assert hashing.files_digest(tmp_path, ["b", "a"]) == {"a": hashing.digest("aaa"), "b": hashing.digest("bbb")}
    with pytest.raises(FileNotFoundError):
        hashing.files_digest(tmp_path, ["c"])


def test_files_that_were_looked_at_together_are_looked_at_again_after_the_block(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    with hashing.looking_once():
        first = hashing.files_digest(tmp_path, ["a"])
        first["b"] = ""  # whoever changes what was returned changes no key of another node
        (tmp_path / "a").write_text("another")
        assert hashing.files_digest(tmp_path, ["a"]) == {"a": hashing.digest("1")}
    assert hashing.files_digest(tmp_path, ["a"]) == {"a": hashing.digest("another")}
    with hashing.looking_once():
        assert hashing.files_digest(tmp_path, ["a"]) == {"a": hashing.digest("another")}


def _tree(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "sub" / "two").write_text("2")
    return folder


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "one").write_text("other"),
    "name": lambda tree: (tree / "one").rename(tree / "uno"),
    "place": lambda tree: (tree / "one").rename(tree / "sub" / "one"),
    "executable bit": lambda tree: (tree / "one").chmod(0o755),
    "added file": lambda tree: (tree / "three").write_text(""),
    "removed file": lambda tree: (tree / "sub" / "two").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tree_digest_sees(tmp_path: Path, change: str) -> None:
    before = hashing.tree_digest(_tree(tmp_path / "a"))
    changed = _tree(tmp_path / "b")
    CHANGES[change](changed)
    assert hashing.tree_digest(changed) != before


def test_tree_digest_does_not_see_time_place_and_other_modes(tmp_path: Path) -> None:
    first, second = _tree(tmp_path / "a"), _tree(tmp_path / "elsewhere")
    os.utime(second / "one", (1, 1))
    (second / "one").chmod(0o640)
    (second / "empty").mkdir()
    assert hashing.tree_digest(first) == hashing.tree_digest(second)


def test_the_digests_of_files_are_as_they_would_be_one_by_one() -> None:
    contents = {"utils/b.sh": b"1", "utils/a": b"2", "utils/a-b": b"1", 'with "quotes" and ü': b""}
    wanted = hashing.Encoded({name: hashing.digest(data) for name, data in contents.items()})
    assert hashing.Encoded.of_files(contents) == wanted
    assert hashing.Encoded.of_files({}) == hashing.Encoded({})


def test_many_encoded_values_in_one_key() -> None:
    values = [{"a": number, "text": f'"{number}"'} for number in range(12)]
    encoded = {f"part{number}": hashing.Encoded(value) for number, value in enumerate(values)}
    plain = {f"part{number}": value for number, value in enumerate(values)}
    assert hashing.key("compile", {"x": 1, **encoded}, INPUTS) == hashing.key("compile", {"x": 1, **plain}, INPUTS)


def test_a_file_is_looked_at_once_in_a_block_alone(tmp_path: Path) -> None:
    path = tmp_path / "script.sh"
    path.write_bytes(b"one")
    with hashing.looking_once():
        first = hashing.file_digest(path)
        path.write_bytes(b"three")
        assert hashing.file_digest(str(path)) == first
    assert hashing.file_digest(path) == hashing.digest(b"three")
    with hashing.looking_once():
        assert hashing.file_digest(path) == hashing.digest(b"three")
