"""The files of the tool and of the configuration in a bundle, and what must never be among them.

Of a checkout, only files that git tracks are taken, as they are now: what lies about untracked may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pikaforge.bundle.writer import MemberFile
from pikaforge.config.patch_series import Series
from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError, HostError
from pikaforge.host.git_program import git
from pikaforge.host.lockfile import NAME as LOCK
from pikaforge.host.text import clean

TOP = (
    *("ansible", "benchmarks", "build", "docker", "docs", "monitoring", "patches", "tests"),
    *("*.md", "*.yaml", "*.json", "*.py", "*.sh", "*.toml", "LICENSE"),
)
"""What a folder that is no checkout of git has of the tool, such as one that came in a bundle."""
MADE = ("__pycache__", "download")
PRIVATE = re.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----\r?\n(?:[\w-]{1,40}: .*\r?\n)*\r?\n?[A-Za-z0-9+/=]{20,}"
)
"""A key in text form (RFC 7468; RFC 4880, 6.2). A line of it must follow, because programs name the first line."""
BINARY = (b"\x94", b"\x95", b"\x97", b"\xc5")
"""How an OpenPGP file with a secret key begins, if it is not in text form (RFC 4880, 4.2 and 5.5.1.3)."""
SECRET_NAMES = re.compile(r"\.?netrc|_netrc|\.pypirc|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)|.*\.kdbx|\.env")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTree:
    """The members of the tool and of the configuration."""

    members: Mapping[str, MemberFile]
    matrix: str
    """The member with the configuration file."""


def tool_tree(
    home: Path, matrix: Path, spec: Spec, series: Series | None, *, notice: Callable[[str], None]
) -> ToolTree:
    """Return the files of the tool, and those of a configuration that is not among them.

    Args:
        home: the checkout.
        matrix: the configuration file.
        spec: what it says.
        series: its patches.
        notice: gets, in one line, what is left out.

    Raises:
        ConfigError: a file of the configuration is missing or outside of its folder, or is a secret.
    """
    tool = _tracked(home, notice)
    found = {f"tool/{name}": _source(home / name) for name in tool}
    wanted = dict(_configuration(matrix, spec, series))
    inside = matrix.parent.resolve().is_relative_to(home.resolve())
    start = matrix.parent.resolve().relative_to(home.resolve()).as_posix() if inside else ""
    prefix = f"tool/{start}/".replace("/./", "/") if inside else ""
    if not inside or not all(f"{prefix}{name}" in found for name in wanted):
        prefix = "configuration/"
        found.update({f"{prefix}{name}": _source(path) for name, path in wanted.items()})
    lock = matrix.parent / LOCK
    if lock.is_file():
        found[f"{prefix}{LOCK}"] = _source(lock)
    for name, source in found.items():
        refuse_secret(name, source.path)
    return ToolTree(members=found, matrix=f"{prefix}{matrix.name}")


def _source(path: Path) -> MemberFile:
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{path} is no plain file, so it cannot be in a bundle", where="bundle")
    return MemberFile(path=path, executable=bool(path.stat().st_mode & 0o100))


def _tracked(home: Path, notice: Callable[[str], None]) -> list[str]:
    """Return the files of the tool, relative to its folder."""
    if not (home / ".git").exists():
        paths = (path for pattern in TOP for top in home.glob(pattern) for path in (top, *top.rglob("*")))
        names = {path.relative_to(home) for path in paths if path.is_file()}
        return sorted(
            name.as_posix()
            for name in names
            if not any(part in MADE or part.startswith(".") for part in name.parts) and name.name != LOCK
        )
    listed = git("-C", str(home), "ls-files", "-z", "--cached")
    if listed.status != 0:
        raise HostError(
            f"git cannot list the files of {home}: {clean(listed.errors().strip())[-300:]}",
            hint=f"if it belongs to another user: git config --global --add safe.directory {home}",
        )
    others = git("-C", str(home), "ls-files", "-z", "--others", "--exclude-standard", "--directory")
    left = [name for name in others.text().split("\0") if name and name != LOCK]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        notice(f"left out, because git does not track them: {', '.join(left[:5])}{more}")
    return [name for name in listed.text().split("\0") if name and name != LOCK and (home / name).is_file()]


def _configuration(matrix: Path, spec: Spec, series: Series | None) -> Iterator[tuple[str, Path]]:
    """Yield the files that a configuration names, relative to its folder."""
    base, product = matrix.parent, spec.product
    paths = [matrix, base / product.recipe]
    if product.sample is not None:
        paths += _below((base / product.sample).parent)
    if product.source.tarball is not None:
        paths.append(base / product.source.tarball)
    if product.patches is not None:
        beside = (base / product.patches).parent
        paths.append(base / product.patches)
        for entry in series.patches if series is not None else ():
            if entry.enabled and entry.file is not None:
                paths.append(beside / entry.file)
            elif entry.enabled and entry.quilt is not None:
                paths += _below(beside / entry.quilt)
    for path in paths:
        try:
            name = path.resolve().relative_to(base.resolve()).as_posix()
        except ValueError:
            raise ConfigError(
                f"{path} is outside of the folder of {matrix.name}, so it cannot be in a bundle",
                where=str(matrix),
                hint="move it below that folder",
            ) from None
        yield name, path


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not set(path.parts) & set(MADE))


def refuse_secret(name: str, path: Path) -> None:
    """Raise ConfigError if a file is a secret, or has a private key in it."""
    last = name.rpartition("/")[2]
    found = ""
    if SECRET_NAMES.fullmatch(last):
        found = "is a file of credentials, by its name"
    else:
        data = path.read_bytes()
        if PRIVATE.search(data) or (data[:1] in BINARY and last.endswith((".gpg", ".pgp", ".key", ".asc"))):
            found = "has a private key in it"
    if found:
        raise ConfigError(
            f"{path} {found}: such a file never goes into a bundle",
            where=name,
            hint="take it out of the checkout (and out of git); keys stay on the machine that signs",
        )


def public_keys(paths: list[Path]) -> dict[str, MemberFile]:
    """Return the members for files with public keys.

    Raises:
        ConfigError: one is none, or has a secret key.
    """
    found = {}
    for number, path in enumerate(paths):
        if not path.is_file():
            raise ConfigError(f"the key {path} does not exist", where="--key")
        refuse_secret(path.name, path)
        if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in path.read_bytes():
            raise ConfigError(
                f"{path} is no public key in text form", where="--key", hint="gpg --armor --export FINGERPRINT"
            )
        found[f"keys/{number}.asc"] = MemberFile(path=path)
    return found
