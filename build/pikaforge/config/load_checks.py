"""What a load test asks the server, as matrix.yaml writes it: which keys it has, and what its allocator holds."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from pikaforge.config.scalars import AllocatorName, Strict

GROUPS = ("keys", "expires")
"""Named groups of regular expressions, whose numbers are compared with what was written."""


class LoadQuestion(Strict):
    """A request after a load test; the regular expressions of all of them find `keys` and `expires`."""

    send: tuple[str | int, ...] = Field(min_length=1, description="The request.")
    match: str = Field(
        default="",
        description="Regular expression that the reply must contain. Its group (?P<keys>…) is the number of keys, "
        "(?P<expires>…) of those with a time to live.",
    )
    within: float = Field(
        default=0.0, ge=0, le=86_400, description="Ask again until it matches, for so many seconds: a scan takes long."
    )

    @field_validator("match")
    @classmethod
    def _is_a_pattern(cls, match: str) -> str:
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return match


class AllocatorQuestion(Strict):
    """A request before and after a load test, whose reply is shown beside the plot."""

    send: tuple[str | int, ...] = Field(min_length=1, description="The request.")
    allocators: tuple[AllocatorName, ...] = Field(
        default=(), description="Kinds of allocators that it is for; empty: all."
    )


class LoadChecks(Strict):
    """What `bench` asks the server before and after a load test, and how much disk a key takes."""

    counted: tuple[LoadQuestion, ...] = Field(
        default=(),
        description="Requests, in this order, by which what the server has is compared with what was written.",
    )
    statistics: tuple[AllocatorQuestion, ...] = Field(default=(), description="Requests for what the allocator holds.")
    disk_factor: float = Field(
        default=4.0,
        gt=0,
        le=100,
        description="Bytes on disk for each byte of a key, its value, and 64 bytes beside them, at most: logs, and "
        "copies while files are compacted. Before a load test it must have so much room.",
    )

    @model_validator(mode="after")
    def _counts_keys(self) -> LoadChecks:
        found = [name for question in self.counted for name in re.compile(question.match).groupindex]
        for name in GROUPS:
            if found.count(name) > 1:
                raise ValueError(f"`counted` finds {name} twice")
        if self.counted and "keys" not in found:
            raise ValueError("`counted` has no regular expression with the group (?P<keys>…)")
        return self
