"""Equal values of JSON become one object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pikaforge.host.durable import write_pieces
from pikaforge.host.shared_values import SharedValues
from pikaforge.host.store import Store


def test_equal_values_are_one_object() -> None:
    text = '{"packages": {"libc6": "2.36", "zlib1g": "1.2"}, "files": [{"path": "bin/demo", "bytes": 123456}]}'
    values = SharedValues()
    one, other = values.of(json.loads(text)), values.of(json.loads(text))
    assert one == json.loads(text)
    assert other is one
    changed = values.of({**json.loads(text), "files": []})
    assert changed["packages"] is one["packages"]
    assert changed["files"] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], [True]),
        ([1], [1.0]),
        ([0.0], [-0.0]),
        ([None], ["None"]),
        ([[]], [{}]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1234567, "1234567"], ["1234567", 1234567]),
    ],
)
def test_values_of_other_types_or_in_another_order_stay_what_they_are(one: object, other: object) -> None:
    values = SharedValues()
    assert json.dumps(values.of(one)) == json.dumps(one)
    assert json.dumps(values.of(other)) == json.dumps(other)


def test_results_of_a_store_share_what_they_have_in_common(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    packages = {f"package-{number}": f"{number}.0" for number in range(5)}
    for key in ("1", "2"):
        store.put("package", key, identity=key, facts={"cell": key, "packages": dict(packages)}, files={})
    one, other = (store.peek("package", key) for key in ("1", "2"))
    assert one is not None and other is not None
    assert one.facts == {"cell": "1", "packages": packages}
    assert other.facts["packages"] is one.facts["packages"]


def test_a_file_of_pieces_is_written_only_if_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    made: list[bytes] = []

    def pieces(*texts: bytes) -> list[bytes]:
        made.extend(texts)
        return list(texts)

    write_pieces(path, lambda: pieces(b"one ", b"two"))
    before = path.stat()
    write_pieces(path, lambda: pieces(b"one t", b"wo"))
    assert (path.stat().st_ino, path.read_bytes()) == (before.st_ino, b"one two")
    for longer in (b"one two three", b"one", b"two"):
        write_pieces(path, lambda text=longer: pieces(text))  # type: ignore[misc]
        assert path.read_bytes() == longer
