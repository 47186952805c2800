"""A violation or warning of the audit."""

from __future__ import annotations

from pydantic import Field

from pikaforge.config.scalars import Strict


class LineRecord(Strict):
    """A violation or warning of the audit."""

    where: str = Field(description="File of the tree, or part of the configuration.")
    what: str = Field(description="What is wrong.")
    do: str = Field(default="", description="What to do.")

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" -> {self.do}" if self.do else "")
