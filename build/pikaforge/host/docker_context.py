"""Contexts of docker's command line: names of engines that a user has made, of which one may be the current one.

The order is docker's own (docs.docker.com, "Docker contexts"): DOCKER_HOST, then DOCKER_CONTEXT, then `currentContext`
in config.json. `default` is no context. A context that is named and cannot be read is refused: docker would not go to
another engine, either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pikaforge.errors import EngineError

DEFAULT = "default"
HINT = (
    "`docker context ls` shows those that there are; DOCKER_CONTEXT=default, or DOCKER_HOST, overrides the current one"
)


class _File(BaseModel):
    """A file of docker's command line. It has more fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class _CommandLine(_File):
    """config.json."""

    current: str | None = Field(default=None, alias="currentContext")


class _Endpoint(_File):
    """Part of `_Context`."""

    host: str = Field(alias="Host")
    skip_verify: bool = Field(default=False, alias="SkipTLSVerify")


class _Endpoints(_File):
    """Part of `_Context`."""

    docker: _Endpoint


class _Context(_File):
    """meta.json."""

    endpoints: _Endpoints = Field(alias="Endpoints")


FileT = TypeVar("FileT", bound=_File)


def with_context(given: Mapping[str, str]) -> dict[str, str]:
    """Return variables with DOCKER_HOST (and those of TLS) of the context that is in use, if one is.

    Raises:
        HostError: the context cannot be read.
    """
    folder = _folder(given)
    if given.get("DOCKER_HOST") or folder is None:
        return dict(given)
    name = given.get("DOCKER_CONTEXT") or _current(folder / "config.json")
    if name in ("", DEFAULT):
        return dict(given)
    digest = hashlib.sha256(name.encode()).hexdigest()
    file = folder / "contexts" / "meta" / digest / "meta.json"
    if not file.is_file():
        raise EngineError(f"there is no docker context {name!r}", where=str(folder / "contexts"), hint=HINT)
    endpoint = _read(file, _Context).endpoints.docker
    found = {key: value for key, value in given.items() if key not in ("DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")}
    certificates = folder / "contexts" / "tls" / digest / "docker"
    if certificates.is_dir():
        found["DOCKER_CERT_PATH"] = str(certificates)
        found["DOCKER_TLS_VERIFY"] = "" if endpoint.skip_verify else "1"
    return {**found, "DOCKER_HOST": endpoint.host}


def _folder(given: Mapping[str, str]) -> Path | None:
    """Return the folder of docker's settings."""
    if given.get("DOCKER_CONFIG"):
        return Path(given["DOCKER_CONFIG"])
    return Path(given["HOME"], ".docker") if given.get("HOME") else None


def _current(file: Path) -> str:
    try:
        text = file.read_bytes()  # not `is_file` first: so a watch knows that it was looked for
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    except OSError as error:
        raise _unreadable(file, error.strerror) from error
    return _parsed(file, text, _CommandLine).current or ""


def _read(file: Path, kind: type[FileT]) -> FileT:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error.strerror) from error
    return _parsed(file, text, kind)


def _parsed(file: Path, text: bytes, kind: type[FileT]) -> FileT:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _unreadable(file, error.errors(include_url=False, include_input=False)[0]["msg"]) from error


def _unreadable(file: Path, reason: str | None) -> EngineError:
    return EngineError(f"docker's settings cannot be read: {reason}", where=str(file), hint=HINT)
