"""How a server takes snapshots, and how one becomes its data again: `product.server.operate.snapshot`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from pikaforge.config.operate_scalars import COUNTS_PATTERN, EMPTY, ConfKey, ConfValue, InfoKey, Row, Template, Words
from pikaforge.config.scalars import RelativePath, Strict


class InfoState(Strict):
    """An entry of INFO, and how its value begins in one state."""

    key: InfoKey = Field(description="The entry.")
    value: ConfValue = Field(min_length=1, description="The beginning of its value.")


class Count(Strict):
    """How the keys of an instance are counted."""

    scan: Words | None = Field(default=None, description="Starts a count; null: the server always knows.")
    busy: InfoState | None = Field(default=None, description="How INFO looks while it counts.")
    read: Words = Field(description="Shows the counts, NAME=NUMBER between commas, blanks and colons.")
    keys: str = Field(pattern=COUNTS_PATTERN, max_length=128, description="Regular expression of the names of counts.")
    expires: str = Field(
        pattern=COUNTS_PATTERN, max_length=128, description="Of the counts of keys with a time to live."
    )


class Snapshot(Strict):
    """Snapshots that the server takes while it runs, and what `instance.sh` makes of them: backup and restore."""

    take: Words = Field(default=("BGSAVE",), description="Starts one.")
    busy: InfoState = Field(description="How INFO looks while one is taken.")
    result: InfoState | None = Field(default=None, description="How INFO looks if the last one is good.")
    path: Template = Field(description="Where it is: settings in braces, and {date} as YYYYMMDD.")
    complete: RelativePath | None = Field(
        default=None, description="A file in it that is written last; null: the snapshot is one file, put there whole."
    )
    leave: tuple[RelativePath, ...] = Field(default=(), description="Files of a snapshot that are no data.")
    data: RelativePath | None = Field(default=None, description="The part of a snapshot that becomes data; null: all.")
    into: Template = Field(description="What it becomes: settings in braces.")
    aside: tuple[Template, ...] = Field(default=(), description="What does not go with other data, such as binlogs.")
    blocked_by: dict[ConfKey, ConfValue] = Field(
        default_factory=dict, description="Settings under which the server would not read restored data: it is refused."
    )
    count: Count = Field(description="How keys are counted.")
    keep: int = Field(default=7, ge=1, le=1000, description="How many backups stay.")
    within: int = Field(default=7200, ge=1, le=604800, description="Seconds that a snapshot, or a count, may take.")

    @model_validator(mode="after")
    def _names_its_places(self) -> Snapshot:
        if self.complete is None and (self.data is not None or self.leave):
            raise ValueError("a snapshot that is one file has no `data` and nothing to `leave`")
        return self

    def rows(self) -> Iterator[Row]:
        """Yield the lines of utils/operate/snapshot.tsv."""
        yield ("take", " ".join(self.take))
        yield ("busy", self.busy.key, self.busy.value)
        if self.result is not None:
            yield ("result", self.result.key, self.result.value)
        yield ("path", self.path)
        yield ("complete", self.complete or EMPTY)
        for path in self.leave:
            yield ("leave", path)
        yield ("data", self.data or EMPTY)
        yield ("into", self.into)
        for place in self.aside:
            yield ("aside", place)
        for key, value in self.blocked_by.items():
            yield ("blocked", key, value)
        yield ("keep", str(self.keep))
        yield ("within", str(self.within))
        yield ("scan", " ".join(self.count.scan or (EMPTY,)))
        if self.count.busy is not None:
            yield ("counting", self.count.busy.key, self.count.busy.value)
        yield ("read", " ".join(self.count.read))
        yield ("keys", self.count.keys)
        yield ("expires", self.count.expires)
