"""Wheels of the tool's dependencies, with which nox, invoke and the tool are installed where no index is in reach.

pip downloads for another Python, but takes the requirements of packages for the Python that it runs on (pip's manual,
`pip download --python-version`). So what a package requires is read from its wheel here, and asked for by name, until
nothing is missing.
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import cast

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from pikaforge.errors import ConfigError, HostError, UnreachableError
from pikaforge.host import hashing, offline, process
from pikaforge.host.archives import archive_errors
from pikaforge.host.run_id import RunId
from pikaforge.host.text import clean

BUILD = ("pip", "nox>=2024.10", "invoke>=2.2", "hatchling>=1.27", "editables>=0.3")
"""What makes the environments: those of setup.sh, and what installs this project (PEP 660)."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)
"""The oldest glibc among systems that have a Python of 3.10 or newer in their packages is 2.28."""
VERSION = re.compile(r"3\.[1-9][0-9]")
ROUNDS = 10
TIMEOUT = 1800.0
COMPLETE = "complete"


def running() -> str:
    """Return the version of the Python that runs, as 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def check_version(text: str) -> str:
    """Return a version of Python, such as 3.11.

    Raises:
        ConfigError: it is none that the tool runs on.
    """
    if not VERSION.fullmatch(text):
        raise ConfigError(
            f"{clean(text)!r} is no version of Python", where="--python", hint="such as 3.11; 3.10 or later"
        )
    return text


def requirements(project: Path, extras: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the dependencies that pyproject.toml names.

    Raises:
        HostError: it has none.
    """
    text = project.read_text(encoding="utf-8")
    found = _strings(text, "dependencies")
    for extra in extras:
        found += _strings(text, extra)
    return tuple(found)


def _strings(text: str, key: str) -> list[str]:
    """Return the list of strings of a key in a TOML text, which Python before 3.11 cannot read."""
    start = re.search(rf"^{re.escape(key)} = \[", text, re.MULTILINE)
    end = re.compile(r"^\]|\]$", re.MULTILINE).search(text, start.end()) if start else None
    if start is None or end is None:
        raise HostError(f"pyproject.toml has no list `{key}`")
    return re.findall(r'"([^"]*)"', text[start.end() : end.start()])


def wheels_for(version: str, wanted: Sequence[str], folder: Path) -> list[Path]:
    """Return wheels of some requirements and of all that they require, for one Python; they are kept in a folder.

    Raises:
        UnreachableError: pip cannot get them.
    """
    wanted = tuple(dict.fromkeys((*BUILD, *wanted)))
    kept = folder / f"{version}-{hashing.digest(repr((wanted, PLATFORMS)))[:16]}"
    if not (kept / COMPLETE).is_file():
        offline.refuse(f"Python wheels for {version}")
        beside = folder / f".{kept.name}.{RunId.current().text}-new"
        try:
            beside.mkdir(parents=True)
            _fill(version, wanted, beside)
            (beside / COMPLETE).touch()
            shutil.rmtree(kept, ignore_errors=True)
            beside.rename(kept)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return sorted(kept.glob("*.whl"))


def _fill(version: str, wanted: tuple[str, ...], folder: Path) -> None:
    """Download wheels until nothing that one of them requires is missing."""
    asked = list(wanted)
    for _ in range(ROUNDS):
        _download(version, asked, folder)
        missing = _missing(version, folder)
        if not missing:
            return
        asked += missing
        for path in folder.glob("*.whl"):  # with further requirements, other versions may be right
            path.unlink()
    raise HostError(f"the requirements of the wheels for Python {version} have no end: {', '.join(asked[-5:])}")


def _download(version: str, asked: Iterable[str], folder: Path) -> None:
    argv = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)),
        *("--only-binary=:all:", "--python-version", version, "--implementation", "cp"),
        *("--abi", f"cp{version.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
        *(part for platform in PLATFORMS for part in ("--platform", platform)),
        *asked,
    ]
    done = process.run(argv, timeout=TIMEOUT)
    if done.status != 0:
        lines = [line for line in done.errors().splitlines() if line.startswith("ERROR")]
        said = clean((lines or done.errors().splitlines() or ["no message"])[-1])
        raise UnreachableError(
            f"pip cannot get the wheels for Python {version}: {re.sub(r'//[^/@ ]*@', '//***@', said)[:300]}",
            where="--python",
            hint="is a package index reachable? pip's own settings apply (PIP_*)",
        )


def _missing(version: str, folder: Path) -> list[str]:
    """Return the requirements of the wheels in a folder that no wheel there meets."""
    have = {parse_wheel_filename(path.name)[0] for path in folder.glob("*.whl")}
    environment: dict[str, str] = {
        **cast(dict[str, str], default_environment()),
        "python_version": version,
        "python_full_version": f"{version}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: list[str] = []
    for path in sorted(folder.glob("*.whl")):
        for text in _required(path):
            try:
                each = Requirement(text)
            except InvalidRequirement:
                continue
            applies = each.marker is None or each.marker.evaluate({**environment, "extra": ""})
            if applies and canonicalize_name(each.name) not in have:
                each.marker = None
                found.append(str(each))
    return list(dict.fromkeys(found))


def _required(wheel: Path) -> list[str]:
    """Return the lines Requires-Dist of a wheel."""
    with archive_errors(str(wheel)), zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        text = archive.read(name).decode("utf-8", "replace")
    return HeaderParser().parsestr(text).get_all("Requires-Dist") or []
