"""`store` of matrix.yaml: where machines share stored results."""

from __future__ import annotations

from pydantic import Field, field_validator

from pikaforge.config.scalars import SERVER_PATTERN, Strict

PLACE_PATTERN = r"^[^\s'\"@?#<>&\x00-\x1f\x7f]+$"
"""Without user, password, query or fragment: these could be secrets."""
SECONDS = 15
"""Seconds that a server may let wait."""


class SharedStoreOptions(Strict):
    """A store of results that several machines share, besides the folder of each.

    Credentials are never part of it: they come from the environment, a file or a netrc.
    """

    url: str = Field(
        pattern=PLACE_PATTERN,
        max_length=1024,
        description="A folder (relative to this file, or absolute), or the URL of a server that takes PUT (http, "
        "https), of a bucket (s3), or of another kind that the Python package fsspec knows.",
    )
    endpoint: str | None = Field(
        default=None, pattern=SERVER_PATTERN, description="Of S3: the server, if it is not that of AWS."
    )
    write: bool = Field(default=True, description="Whether results that are made are put there.")
    keys: tuple[str, ...] = Field(
        default=(),
        max_length=100,
        description="Files with public keys, relative to this file: only what one of these has signed is taken.",
    )
    timeout: int = Field(
        default=SECONDS, ge=1, le=600, description="Seconds without an answer after which it counts as out of reach."
    )

    @field_validator("keys")
    @classmethod
    def _keys_are_paths(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if not all(key.strip() and key.isprintable() for key in keys):
            raise ValueError("a key is the path of a file")
        return keys
