"""The listing of a result in a shared store: what it is, and the digests of its files.

A listing is one object. It has the statement as a text, and digest and signature of exactly this text. The statement
names stage and key, so that nobody can put the listing of one result in the place of another. The digest finds wrong
bits where nothing is signed. Files are objects of their own, by their digest. They are written before the listing, so
that what a listing names was there.

Nothing of a listing is trusted: size, depth, names, numbers and letters are bounded before anything is made of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from pikaforge.config.scalars import DIGEST_PATTERN, Strict
from pikaforge.host.hashing import digest
from pikaforge.host.json_text import JsonError, verify_size
from pikaforge.host.store import RECORD, Result, sha256
from pikaforge.host.text import CONTROLS, one_line, size_text

FORMAT: Literal[1] = 1
KIND: Literal["pikaforge result"] = "pikaforge result"
"""A key may sign other things, too: packages, sums. None of them is a statement of this kind."""
LIMIT = 8 << 20
"""Bytes of a listing."""
FILES_LIMIT = 100
STAGE_PATTERN = r"^[a-z][a-z0-9-]{0,39}$"
KEY_PATTERN = r"^[0-9a-f]{32}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+~=^:-]{0,199}$"
"""Names of files in a result; neither a path nor hidden."""
IDENTITY_PATTERN = r"^[!-~]{1,200}$"

Stage = Annotated[str, Field(pattern=STAGE_PATTERN)]
Key = Annotated[str, Field(pattern=KEY_PATTERN)]


class ListingError(ValueError):
    """A listing is none that can be used. The text says why, and has no control characters."""


class ListedFile(Strict):
    """A file of a result."""

    name: str = Field(pattern=NAME_PATTERN)
    sha256: str = Field(pattern=DIGEST_PATTERN)
    bytes: int = Field(ge=0, le=1 << 44)


class ResultStatement(Strict):
    """What is said of a result, and signed."""

    kind: Literal["pikaforge result"] = KIND
    format: Literal[1] = FORMAT
    stage: Stage
    key: Key
    identity: str = Field(pattern=IDENTITY_PATTERN)
    facts: dict[str, JsonValue]
    files: tuple[ListedFile, ...] = Field(max_length=FILES_LIMIT)


class ResultListing(Strict):
    """A statement as it was signed."""

    statement: str = Field(max_length=LIMIT)
    sha256: str = Field(pattern=DIGEST_PATTERN)
    """Of the statement: facts decide as much as files do."""
    signature: str = Field(default="", max_length=1 << 16)
    """Detached, in OpenPGP's text form; "" without a key."""


def path_of(stage: str, key: str) -> str:
    """Return the path of a result's listing."""
    return f"results/{stage}/{key}.json"


def path_of_file(digest: str) -> str:
    """Return the path of the file with a SHA-256."""
    return f"files/{digest[:2]}/{digest}"


def statement_of(result: Result) -> ResultStatement:
    """Return the statement of a stored result.

    Raises:
        ListingError: it cannot be shared: a reader would refuse it.
        OSError: a file cannot be read.
    """
    made = {
        "stage": result.stage,
        "key": result.key,
        "identity": result.identity,
        "facts": dict(result.facts),
        "files": tuple(
            {"name": name, "sha256": sha256(path), "bytes": path.stat().st_size}
            for name, path in sorted(result.files.items())
        ),
    }
    try:
        statement = ResultStatement.model_validate(made)
    except ValidationError as error:
        raise ListingError(_first(error)) from None
    _check(statement)
    return statement


def written(statement: ResultStatement, sign: Callable[[bytes], str]) -> bytes:
    """Return a statement as a listing.

    Args:
        statement: the statement.
        sign: returns the signature of a text; "" without a key.

    Raises:
        ListingError: a reader would refuse it.
    """
    text = statement.model_dump_json()
    _check_size(text.encode())
    listing = ResultListing(statement=text, sha256=digest(text), signature=sign(text.encode()))
    data = listing.model_dump_json().encode()
    _check_size(data)
    return data


def _check_size(data: bytes) -> None:
    if len(data) > LIMIT:
        raise ListingError(f"its listing has more than {size_text(LIMIT)}")
    try:
        verify_size(data)
    except JsonError as error:
        raise ListingError(str(error)) from None


def parsed(data: bytes) -> ResultListing:
    """Return a listing; its statement is not looked at yet.

    Raises:
        ListingError: it is none, or is damaged.
    """
    _check_size(data)
    try:
        listing = ResultListing.model_validate_json(data)
    except ValidationError as error:
        raise ListingError(f"it is no listing: {_first(error)}") from None
    if digest(listing.statement.encode("utf-8", "surrogatepass")) != listing.sha256:
        raise ListingError("its listing is damaged: the statement does not have its digest")
    return listing


def statement_in(listing: ResultListing, *, stage: str, key: str) -> ResultStatement:
    """Return the statement of a listing.

    Raises:
        ListingError: it is none, or of another result.
    """
    text = listing.statement.encode("utf-8", "surrogatepass")
    _check_size(text)
    try:
        statement = ResultStatement.model_validate_json(text)
    except ValidationError as error:
        raise ListingError(f"its statement cannot be read: {_first(error)}") from None
    if (statement.stage, statement.key) != (stage, key):
        raise ListingError(f"it is of another result, {statement.stage}/{statement.key}")
    _check(statement)
    return statement


def _check(statement: ResultStatement) -> None:
    names = [file.name for file in statement.files]
    if len(set(names)) < len(names) or RECORD in names:
        raise ListingError("two of its files have one name, or one that the store needs")
    if _controls(statement.facts):
        raise ListingError("there are control characters in its facts")


def _controls(value: JsonValue | Mapping[str, JsonValue]) -> bool:
    """Return whether there is a control character in a text, beside the ends of lines and tabulators."""
    if isinstance(value, str):
        return not value.isprintable() and any(
            unicodedata.category(letter) in CONTROLS and letter not in "\n\t" for letter in value
        )
    if isinstance(value, Mapping):
        return any(_controls(name) or _controls(part) for name, part in value.items())
    return isinstance(value, list) and any(map(_controls, value))


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return one_line(f"{place}: {first['msg']}" if place else first["msg"])[:300]
