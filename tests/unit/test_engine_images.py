"""Which images a test run removes from the engine at its end, and when it removes none."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import engine_images
import pytest
from engine_images import STAND_IN, USED, HeldImage, TestRun, note, superseded

START = 1000
NEW, OLD, OLDER = START + 1, START - 10, START - 20
STOOD_IN = frozenset({STAND_IN, "org.pikaforge.kind"})


def image(
    id_: str, created: int, *tags: str, digests: tuple[str, ...] = (), labels: frozenset[str] = frozenset()
) -> HeldImage:
    return HeldImage(id=id_, created=created, tags=tags, digests=digests, labels=labels)


def gone(*images: HeldImage, used: frozenset[str] = frozenset(), port: int = 0) -> list[str]:
    return superseded(images, used, listens=lambda number: number == port, since=START)


def test_the_newest_of_each_name_stays() -> None:
    images = [
        image("a", OLDER, "pikaforge-test/rpm:01", "pikaforge-test/rpm:02"),
        image("b", OLD, "pikaforge-test/rpm:03"),
        image("c", OLDER, "pikaforge-test/apt:04"),
        image("d", OLDER, "pikaforge-test/standin:el7-05"),
        image("e", OLDER, "pikaforge-test/standin:el9-06"),
        image("f", OLD, "pikaforge-test/standin:el9-07"),
        image("g", OLDER, "pikaforge/el9-build:08", labels=STOOD_IN),
        image("h", OLD, "pikaforge/el9-build:09", labels=STOOD_IN),
    ]
    assert gone(*images) == [
        "pikaforge-test/rpm:01",
        "pikaforge-test/rpm:02",
        "pikaforge-test/standin:el9-06",
        "pikaforge/el9-build:08",
    ]


def test_what_this_run_has_used_stays_in_place_of_the_newest() -> None:
    images = [
        image("a", OLDER, "pikaforge-test/rpm:01", "pikaforge-test/rpm:02"),
        image("b", OLD, "pikaforge-test/rpm:03"),
    ]
    assert gone(*images, used=frozenset({"pikaforge-test/rpm:02"})) == ["pikaforge-test/rpm:03"]


def test_what_this_run_has_made_stays() -> None:
    images = [
        image("a", NEW, "pikaforge/el9-build:01", labels=STOOD_IN),
        image("b", NEW + 1, "pikaforge/el9-build:02", labels=STOOD_IN),
        image("c", NEW, labels=STOOD_IN),
    ]
    assert gone(*images) == []


def test_names_of_registries_that_have_ended_go() -> None:
    images = [
        image("a", OLD, "127.0.0.1:5001/debian:bookworm-slim", digests=("127.0.0.1:5001/debian@sha256:ab",)),
        image("b", OLD, "127.0.0.1:5002/rockylinux:9", "pikaforge-test/standin:el9-01"),
    ]
    assert gone(*images) == [
        "127.0.0.1:5001/debian:bookworm-slim",
        "127.0.0.1:5001/debian@sha256:ab",
        "127.0.0.1:5002/rockylinux:9",
    ]
    assert gone(*images, port=5001) == ["127.0.0.1:5002/rockylinux:9"], "a test run goes on"


def test_parts_of_old_stand_ins_go() -> None:
    assert gone(image("sha256:ab", OLD, labels=STOOD_IN)) == ["sha256:ab"]


def test_control_images_that_may_be_a_users_stay() -> None:
    kind = frozenset({"org.pikaforge.kind"})
    images = [
        image("a", OLDER, "pikaforge/debian12-build:01", labels=kind),
        image("b", OLD, "pikaforge/debian12-build:02", labels=kind),
        image("c", OLDER, labels=kind),
        image("d", OLDER),
        image("e", OLDER, "debian:12", digests=("debian@sha256:ab",)),
        image("f", OLDER, "registry.example.org:5000/x:1"),
    ]
    assert gone(*images) == []


class TestTheRun:
    @pytest.fixture
    def swept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[frozenset[str]]:
        """What was asked for of the engine."""
        found: list[frozenset[str]] = []
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setenv(USED, "")
        monkeypatch.setattr(engine_images, "_is_local", lambda: True)
        monkeypatch.setattr(engine_images, "sweep", lambda used, _since: found.append(used))
        return found

    def test_it_sweeps_once_with_what_it_has_used(self, swept: list[frozenset[str]]) -> None:
        run = TestRun()
        assert note("x:1") == "x:1"
        run.end()
        assert swept == [frozenset({"x:1"})]

    def test_a_run_that_has_used_no_engine_sweeps_nothing(self, swept: list[frozenset[str]], tmp_path: Path) -> None:
        TestRun().end()
        assert swept == []
        assert [path.name for path in tmp_path.iterdir()] == [engine_images.LOCK]

    def test_beside_another_run_nothing_is_swept(self, swept: list[frozenset[str]], tmp_path: Path) -> None:
        with (tmp_path / engine_images.LOCK).open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_SH)
            run = TestRun()
            note("x:1")
            run.end()
            assert swept == []

    def test_an_engine_elsewhere_is_left_alone(
        self, swept: list[frozenset[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_images, "_is_local", lambda: False)
        run = TestRun()
        note("x:1")
        run.end()
        assert swept == []

    def test_an_engine_that_has_ended_fails_no_run(
        self, swept: list[frozenset[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sweep(*_: object) -> None:
            raise OSError("no engine")

        monkeypatch.setattr(engine_images, "sweep", sweep)
        run = TestRun()
        note("x:1")
        run.end()
        assert not Path(os.environ[USED]).exists()
