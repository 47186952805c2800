"""Packages of the extras that are missing, or that cannot be loaded."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pikaforge.bench import figures
from pikaforge.errors import HostError
from pikaforge.formats.deb import apt
from pikaforge.formats.rpm import yum
from pikaforge.host import extras
from pikaforge.pages import page
from pikaforge.publish.sites import pypi

GOBJECT = "libgobject-2.0.so.0: cannot open shared object file: No such file or directory"
NEWER = "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by planted/_c.so)"


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path, before all others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def plant(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (GOBJECT, "it is installed, but needs libgobject-2.0.so.0: run `bash setup.sh`; by hand: install libglib2.0-0"),
        (
            "libfoo_bar-1.so.23: cannot open shared object file: No such file or directory",
            "it is installed; install the system's package that has libfoo_bar-1.so.23, too",
        ),
        (NEWER, "it is installed, but not whole, or not for this Python; remove .nox/publish and run again"),
        ("cannot import name 'x' from 'planted_one'", "it is installed, but not whole"),
        ("two\nlines", "it is installed, but not whole"),
    ],
)
def test_what_python_says_is_shown(planted: Path, said: str, hint: str) -> None:
    plant(planted, "planted_one", f"raise ImportError({said!r})")
    with pytest.raises(HostError) as caught:
        extras.load("planted_one", package="planted", extra="publish")
    assert caught.value.message == f"the Python package planted cannot be imported: {' '.join(said.split())}"
    assert caught.value.hint.startswith(hint)


def test_a_package_that_lacks_another_one_is_not_said_to_be_missing(planted: Path) -> None:
    plant(planted, "planted_two", "import planted_and_gone")
    with pytest.raises(HostError, match="No module named 'planted_and_gone'") as caught:
        extras.load("planted_two", package="planted", extra="bench")
    assert caught.value.hint.startswith("it is installed, but not whole")


def test_a_package_that_is_missing() -> None:
    for module in ("planted_and_gone", "planted_and_gone.inner"):
        with pytest.raises(HostError, match="planted cannot be imported: No module named 'planted_and_gone'") as caught:
            extras.load(module, package="planted", extra="bench")
        assert caught.value.hint == "`nox -s bench` installs it; by hand: pip install 'pikaforge[bench]'"
    with pytest.raises(HostError, match="planted cannot be imported: No module named 'planted_and_gone'") as caught:
        extras.require("planted_and_gone", package="planted", extra="bench")
    assert caught.value.hint == "`nox -s bench` installs it; by hand: pip install 'pikaforge[bench]'"


@pytest.mark.parametrize(
    ("use", "module", "package"),
    [
        (yum.library, "createrepo_c", "createrepo_c"),
        (apt.library, "debian", "python-debian"),
        (figures.library, "matplotlib", "matplotlib"),
        (page.library, "jinja2", "Jinja2"),
    ],
)
def test_each_user_of_an_extra_says_so(
    use: Callable[[], object], module: str, package: str, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = "bench" if module == "matplotlib" else "publish"
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    plant(planted, module, f"raise ImportError({GOBJECT!r})")
    with pytest.raises(HostError, match=f"the Python package {package} cannot be imported: {GOBJECT}"):
        use()
    plant(planted, module, f"raise ModuleNotFoundError('No module named {module}', name={module!r})")
    with pytest.raises(HostError, match=f"the Python package {package} cannot be imported: No module") as caught:
        use()
    assert caught.value.hint == f"`nox -s {extra}` installs it; by hand: pip install 'pikaforge[{extra}]'"


def test_an_index_wants_twine(monkeypatch: pytest.MonkeyPatch) -> None:
    pypi.verify()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(HostError, match="the Python package twine cannot be imported: No module named 'twine'"):
        pypi.verify()
