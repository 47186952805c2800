"""A series of patches, as series.yaml writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pikaforge.config.scalars import (
    URL_PATTERN,
    RelativePath,
    Strict,
    without_login,
)


class PatchEntry(Strict):
    """One entry of a series: a pull request, a local patch, or a quilt folder."""

    pull: int | None = Field(default=None, gt=0, description="Number of the pull request.")
    url: str | None = Field(default=None, pattern=URL_PATTERN, description="Its mailbox (.patch).")
    file: RelativePath | None = Field(default=None, description="A patch file beside the series.")
    quilt: RelativePath | None = Field(default=None, description="A folder with a quilt series, beside the series.")
    why: str = Field(default="", description="What it repairs or adds.")
    enabled: bool = Field(default=True, description="An entry that is not enabled is kept, and not applied.")
    already: Literal["skip", "refuse"] = Field(
        default="skip", description="What to do where the source has it already: leave it out, or end with an error."
    )

    _url_has_no_login = field_validator("url")(without_login)

    @model_validator(mode="after")
    def _one_kind(self) -> PatchEntry:
        if sum(kind is not None for kind in (self.pull, self.file, self.quilt)) != 1:
            raise ValueError("give exactly one of `pull`, `file`, `quilt`")
        if (self.pull is None) != (self.url is None):
            raise ValueError("`pull` and `url` go together")
        return self

    @property
    def needed(self) -> str | None:
        """The file beside the series that must be there; a pull request has none."""
        return f"{self.quilt}/series" if self.quilt is not None else self.file


class Series(Strict):
    """patches/<version>/series.yaml: the patches in the order in which they apply."""

    patches: tuple[PatchEntry, ...] = Field(description="In the order in which they apply.")
