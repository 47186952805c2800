"""sources.lock: made on first use, enforced afterwards."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from unit.helpers import refusal

from pikaforge.errors import EXIT_CONFIG, ConfigError
from pikaforge.host.lockfile import REFRESH, Lock

ENTRY = "https://example.org/demo.git#v1.0"
RESTORE = "restore it from version control, or remove it to pin anew"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sources.lock"


def test_first_use_writes_and_says_so(path: Path) -> None:
    lock = Lock(path)
    assert not path.exists(), "reading writes nothing"
    lock.check("sources", ENTRY, "commit", "aaa")
    lock.check("sources", ENTRY, "patch pull-1", "bbb")
    lock.check("images", "el7", "digest", "sha256:ccc")
    assert lock.notices == [
        f"sources.lock: {ENTRY}: commit pinned to aaa",
        f"sources.lock: {ENTRY}: patch pull-1 pinned to bbb",
        "sources.lock: el7: digest pinned to sha256:ccc",
    ]
    assert json.loads(path.read_text()) == {
        "version": 1,
        "sources": {ENTRY: {"commit": "aaa", "patch pull-1": "bbb"}},
        "images": {"el7": {"digest": "sha256:ccc"}},
    }


def test_what_is_pinned_passes_in_silence_also_in_the_next_run(path: Path) -> None:
    Lock(path).check("sources", ENTRY, "commit", "aaa")
    before = path.stat().st_mtime_ns
    for strict in (False, True):
        lock = Lock(path, strict=strict)
        lock.check("sources", ENTRY, "commit", "aaa")
        assert lock.notices == []
        assert lock.pins("sources", ENTRY) == {"commit": "aaa"}
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("strict", [False, True])
def test_another_value_is_refused(path: Path, strict: bool) -> None:
    Lock(path).check("sources", ENTRY, "patch pull-988", "old")
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        Lock(path, strict=strict).check("sources", ENTRY, "patch pull-988", "new")
    assert refusal(caught) == (
        f"patch pull-988 of {ENTRY} has changed: sources.lock says old, it is new now",
        str(path),
        "if the change is wanted: `invoke lock` refreshes the pins and shows the difference",
    )
    assert refusal(caught)[2] == REFRESH
    assert caught.value.exit_code == EXIT_CONFIG
    assert path.read_bytes() == before


def test_strict_refuses_what_is_not_pinned(path: Path) -> None:
    lock = Lock(path, strict=True)
    with pytest.raises(ConfigError) as caught:
        lock.check("images", "el7", "digest", "sha256:ccc")
    assert refusal(caught) == (
        "--locked: digest of el7 is not pinned (it is sha256:ccc now)",
        str(path),
        "run once without --locked, or `invoke lock`, and commit sources.lock",
    )
    assert not path.exists()
    assert lock.notices == []
    assert lock.pins("images", "el7") == {}


def test_refresh_replaces_and_shows_the_difference(path: Path) -> None:
    Lock(path).check("sources", ENTRY, "commit", "old")
    lock = Lock(path, refresh=True)
    lock.check("sources", ENTRY, "commit", "new")
    lock.check("sources", ENTRY, "commit", "new")
    assert lock.notices == [f"sources.lock: {ENTRY}: commit old -> new"]
    assert Lock(path).pins("sources", ENTRY) == {"commit": "new"}


def test_replace_moves_a_pin_and_forget_removes_an_entry(path: Path) -> None:
    lock = Lock(path)
    lock.check("images", "el7", "digest", "a")
    lock.replace("images", "el7", "packages", "p1")
    lock.replace("images", "el7", "packages", "p2")
    assert lock.notices[1:] == ["sources.lock: el7: packages None -> p1", "sources.lock: el7: packages p1 -> p2"]
    lock.forget("images", "el7")
    lock.forget("images", "el8")
    assert Lock(path).pins("images", "el7") == {}


def test_pins_are_a_copy(path: Path) -> None:
    lock = Lock(path)
    lock.check("images", "el7", "digest", "a")
    pins = lock.pins("images", "el7")
    assert isinstance(pins, dict)
    pins["digest"] = "b"
    assert lock.pins("images", "el7") == {"digest": "a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sources.lock cannot be read: Expecting value: line 1 column 1 (char 0)"),
        ('{"version": 1,', "sources.lock cannot be read: Expecting property name enclosed in double quotes"),
        ("<<<<<<< HEAD", "sources.lock cannot be read: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "sources.lock cannot be read: list indices must be integers or slices, not str"),
        ("null", "sources.lock cannot be read: 'NoneType' object is not subscriptable"),
        ("{}", "sources.lock cannot be read: 'version'"),
        ('{"version": 1, "sources": []}', "sources.lock cannot be read: 'list' object has no attribute 'items'"),
        ('{"version": 1, "images": {"el7": 5}}', "sources.lock cannot be read: 'int' object has no attribute 'items'"),
    ],
)
def test_a_file_that_is_no_lock_is_refused(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Lock(path)
    found, where, hint = refusal(caught)
    assert found.startswith(message)
    assert (where, hint) == (str(path), RESTORE)
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b'{"version": \xff}')
    with pytest.raises(
        ConfigError, match=r"^sources.lock cannot be read: 'utf-8' codec can't decode byte 0xff"
    ) as caught:
        Lock(path)
    assert refusal(caught)[1:] == (str(path), RESTORE)


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match=r"^sources.lock cannot be read: .*Is a directory") as caught:
        Lock(path)
    assert refusal(caught)[1:] == (str(path), RESTORE)


@pytest.mark.parametrize("version", ["2", '"1"', "null", "[1]"])
def test_another_version_is_refused(path: Path, version: str) -> None:
    path.write_text(f'{{"version": {version}, "sources": {{}}}}')
    with pytest.raises(ConfigError) as caught:
        Lock(path)
    shown = repr(json.loads(version))
    assert refusal(caught) == (
        f"sources.lock has version {shown}; this tool reads version 1",
        str(path),
        "update the tool, or remove the file to pin anew",
    )


def test_the_same_pins_are_the_same_bytes(tmp_path: Path) -> None:
    pins = [
        ("sources", "b", "y", "1"),
        ("sources", "a", "x", "2"),
        ("images", "z", "d", "3"),
        ("sources", "b", "a", "4"),
    ]
    texts = []
    for number, order in enumerate((pins, pins[::-1])):
        lock = Lock(tmp_path / str(number))
        for pin in order:
            lock.check(*pin)
        texts.append((tmp_path / str(number)).read_text())
    assert texts[0] == texts[1]
    assert texts[0].endswith("}\n")
    assert texts[0].index('"a": "4"') < texts[0].index('"y": "1"')


def test_threads_lose_no_pin(path: Path) -> None:
    lock = Lock(path)
    start = threading.Barrier(2)

    def pin(half: int) -> None:
        start.wait()
        for number in range(12):
            lock.check("sources", f"entry {number % 4}", f"pin {half}-{number}", str(number))
            lock.check("sources", "shared", f"pin {number}", "same")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pin, (0, 1)))
    again = Lock(path)
    found = {name for number in range(4) for name in again.pins("sources", f"entry {number}")}
    assert found == {f"pin {half}-{number}" for half in (0, 1) for number in range(12)}
    assert len(again.pins("sources", "shared")) == 12
    assert len(lock.notices) == 36, "what both threads pin is told once"
    assert [p.name for p in path.parent.iterdir()] == ["sources.lock"]


def test_what_two_runs_write_is_merged(path: Path) -> None:
    first, second = Lock(path), Lock(path)
    first.check("sources", ENTRY, "commit", "aaa")
    second.check("images", "el7", "digest", "sha256:ccc")
    first.check("sources", ENTRY, "patch pull-1", "bbb")
    second.forget("images", "el8")
    assert json.loads(path.read_text())["sources"] == {ENTRY: {"commit": "aaa", "patch pull-1": "bbb"}}
    assert json.loads(path.read_text())["images"] == {"el7": {"digest": "sha256:ccc"}}


def test_what_another_run_has_pinned_is_enforced(path: Path) -> None:
    first, second = Lock(path), Lock(path)
    first.check("sources", ENTRY, "commit", "aaa")
    second.check("sources", ENTRY, "commit", "aaa")
    assert second.notices == []
    with pytest.raises(ConfigError, match=r"has changed: sources\.lock says aaa, it is bbb now"):
        Lock(path).check("sources", ENTRY, "commit", "bbb")


def test_no_pin_is_lost_when_runs_write_at_the_same_time(path: Path) -> None:
    locks = [Lock(path) for _ in range(8)]

    def run(number: int) -> None:
        for pin in range(20):
            locks[number].check("sources", f"source {number}", f"pin {pin}", "x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    kept = json.loads(path.read_text())["sources"]
    assert sum(len(pins) for pins in kept.values()) == 160
    assert sorted(name.name for name in path.parent.iterdir()) == ["sources.lock"]
