"""Which files of a server's logs expire: `product.server.operate.logs`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from pikaforge.config.operate_scalars import EMPTY, GLOB_PATTERN, PREFIX_PATTERN, ConfKey, Row
from pikaforge.config.scalars import Name, Strict


class Logs(Strict):
    """Log files that the server writes and never removes. What does not begin with `prefix` is never touched."""

    folder: ConfKey = Field(description="The setting with the folder; other files, such as binlogs, may be in it.")
    prefix: str = Field(pattern=PREFIX_PATTERN, max_length=32, description="What the names of log files begin with.")
    files: str = Field(pattern=GLOB_PATTERN, max_length=128, description="The names of log files, as a glob.")
    links: tuple[Name, ...] = Field(description="Links to the current ones, which stay, whatever their age.")
    days: int = Field(default=7, ge=1, le=3650, description="After how many days without a change a file goes.")

    @model_validator(mode="after")
    def _all_begin_with_the_prefix(self) -> Logs:
        if not all(name.startswith(self.prefix) for name in (self.files, *self.links)):
            raise ValueError("`files` and `links` begin with `prefix`")
        return self

    def rows(self) -> Iterator[Row]:
        """Yield the lines of utils/operate/logs.tsv."""
        yield ("logs", self.folder, self.prefix, self.files, " ".join(self.links) or EMPTY, str(self.days))
