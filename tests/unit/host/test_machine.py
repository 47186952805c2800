"""Which operating system this machine has, and by which package database that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from pikaforge.errors import HostError
from pikaforge.host import machine, process


@pytest.mark.parametrize(
    ("programs", "status", "wanted"),
    [
        ({"dpkg-query"}, "Package: libc6\n", "dpkg"),
        ({"dpkg-query"}, "", "dpkg"),
        ({"rpm"}, None, "rpm"),
        ({"dpkg-query", "rpm"}, "Package: libc6\n", "dpkg"),
        ({"dpkg-query", "rpm"}, "", "rpm"),
        ({"dpkg-query", "rpm"}, None, "rpm"),
    ],
    ids=["debian", "empty", "el", "debian-with-rpm", "el-with-dpkg", "el-whose-dpkg-was-never-used"],
)
def test_the_package_database_is_the_one_that_is_in_use(
    programs: set[str], status: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "find", lambda name: f"/usr/bin/{name}" if name in programs else None)
    path = tmp_path / "status"
    if status is not None:
        path.write_text(status, encoding="utf-8")
    assert machine.package_manager(path) == wanted


def test_a_machine_without_a_package_database_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(HostError, match="neither dpkg nor rpm"):
        machine.package_manager(tmp_path / "status")
