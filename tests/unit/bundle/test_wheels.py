"""Which wheels a bundle needs: those that pip has downloaded, and what these require on another Python."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import ROOT

from pikaforge.bundle import wheels
from pikaforge.errors import ConfigError, HostError, OfflineError, UnreachableError
from pikaforge.host import process
from pikaforge.host.process import Completed

INDEX = {
    "a": ['b>=1 ; python_version < "3.11"', 'c ; extra == "more"', 'd ; sys_platform == "win32"'],
    "b": ['e[x]>2; python_version < "3.13"'],
    "e": [],
}


class Pip:
    """Writes the wheels that are asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.status, self.errors = 0, b""

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        names = [word for word in argv if word[0] in "abe" and (len(word) == 1 or not word[1].isalnum())]
        self.asked.append(names)
        folder = Path(argv[argv.index("--dest") + 1])
        for word in names:
            with zipfile.ZipFile(folder / f"{word[0]}-1.0-py3-none-any.whl", "w") as archive:
                lines = [f"Requires-Dist: {line}\n" for line in INDEX[word[0]]]
                archive.writestr(f"{word[0]}-1.0.dist-info/METADATA", "Metadata-Version: 2.1\n" + "".join(lines))
        return Completed(argv=tuple(argv), status=self.status, stdout=b"", stderr=self.errors)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    made = Pip()
    monkeypatch.setattr(process, "run", made.run)
    return made


@pytest.mark.parametrize(("version", "found"), [("3.10", "abe"), ("3.11", "a")])
def test_what_another_python_requires_is_asked_for(tmp_path: Path, pip: Pip, version: str, found: str) -> None:
    made = wheels.wheels_for(version, ["a"], tmp_path)
    assert [path.name[0] for path in made] == list(found)
    rounds = len(pip.asked)
    assert wheels.wheels_for(version, ["a"], tmp_path) == made
    assert len(pip.asked) == rounds, "they are kept"
    assert wheels.wheels_for(version, ["a", "b"], tmp_path) != made


def test_an_index_out_of_reach(tmp_path: Path, pip: Pip) -> None:
    pip.status, pip.errors = 1, b"WARNING: x\nERROR: no a at https://me:secret@example.org/simple\n"
    with pytest.raises(UnreachableError, match=r"for Python 3\.11: ERROR: no a at https://\*\*\*@example.org/simple"):
        wheels.wheels_for("3.11", ["a"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offline_nothing_is_downloaded(tmp_path: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIKAFORGE_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"offline: Python wheels for 3\.11 is wanted"):
        wheels.wheels_for("3.11", ["a"], tmp_path)
    assert pip.asked == []


def test_the_requirements_of_this_project() -> None:
    found = wheels.requirements(ROOT / "pyproject.toml", ["publish"])
    assert any(each.startswith("pydantic>=") for each in found)
    assert any(each.startswith("twine>=") for each in found)
    assert not any(each.startswith(("pytest", "matplotlib")) for each in found)


def test_a_project_without_them(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[project]\n")
    with pytest.raises(HostError, match="no list"):
        wheels.requirements(tmp_path / "x.toml")


@pytest.mark.parametrize("text", ["3", "2.7", "3.9", "3.11.2", "3.11; x", "\x1b[2J"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wheels.check_version(text)
    assert "\x1b" not in caught.value.message
