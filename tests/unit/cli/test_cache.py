"""The verb `cache`: what it prints, and which options go together."""

from __future__ import annotations

import gc
import json
import os
import time
from pathlib import Path

import pytest

from pikaforge.cli import main
from pikaforge.host.store import RECORD, Store

DAY = 86_400


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two compilations and a verdict, not used for 1, 2 and 3 days."""
    monkeypatch.delenv("PIKAFORGE_STORE", raising=False)
    store = Store(tmp_path / "store")
    for number, stage in enumerate(("compile", "compile", "smoke"), 1):
        key = f"{number:032x}"
        with store.scratch() as scratch:
            path = scratch / "made"
            path.write_bytes(b"x" * 2000)
            store.put(stage, key, identity="i", facts={}, files={"tree.tar": path})
        then = time.time() - number * DAY - 60
        os.utime(tmp_path / "store" / stage / key / RECORD, (then, then))
    del store
    gc.collect()
    return tmp_path


def run(out: Path, *words: str) -> int:
    return main.main(["cache", *words, "--out", str(out)])


def test_info_shows_sizes_by_stage(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out, "info") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1]) for line in lines[1:]] == [("compile", "2"), ("smoke", "1"), ("all", "3")]
    assert run(out, "info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"]["compile"]["count"] == 2
    assert found["results"]["compile"]["bytes"] > 4000
    assert found["shared"] is None


def test_info_says_whether_the_shared_store_answers(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIKAFORGE_STORE", str(out / "shared"))
    monkeypatch.setenv("PIKAFORGE_STORE_MODE", "read")
    run(out, "info")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"shared store {out / 'shared'}: does not answer: there is no such folder; results are taken, and none is put "
        "there"
    )
    (out / "shared").mkdir()
    run(out, "info", "--json")
    shared = json.loads(capsys.readouterr().out)["shared"]
    assert shared == {"url": str(out / "shared"), "unreachable": "", "write": False, "signed": False}


def test_prune_removes_the_oldest(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out, "prune", "--older-than", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["removed"] == [f"smoke/{3:032x}", f"compile/{2:032x}"]
    user = Store(out / "store")
    user.get("compile", f"{1:032x}")
    assert run(out, "prune", "--keep", "1") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"kept, because a running build uses it: compile/{1:032x}",
        "removed 0 results, 0.0 KiB",
    ]


def test_verify_names_what_is_damaged(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out, "verify") == 0
    assert capsys.readouterr().out == "0 damaged results\n"
    (out / "store" / "compile" / f"{1:032x}" / "tree.tar").write_bytes(b"y")
    assert run(out, "verify") == 4
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"damaged: compile/{1:032x}: ")
    assert last == "1 damaged result; `--yes` removes them, and a build makes them anew"
    assert run(out, "verify", "--yes", "--json") == 0
    assert [entry["removed"] for entry in json.loads(capsys.readouterr().out)["damaged"]] == [True]
    assert not (out / "store" / "compile" / f"{1:032x}").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prune",), "say how much may stay"),
        (("list", "--keep", "1G"), "`cache list` takes no --keep"),
        (("verify", "--older-than", "3"), "`cache verify` takes no --older-than"),
        (("prune", "--keep", "1G", "--yes"), "`cache prune` takes no --yes"),
        (("clean", "--json"), "`cache clean` takes no --json"),
    ],
)
def test_options_that_do_not_go_together(
    out: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run(out, *words) == 2
    assert message in capsys.readouterr().err
    assert len(list((out / "store").glob("*/*"))) == 3
