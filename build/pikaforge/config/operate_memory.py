"""What an instance takes of memory, and which settings bound it: `product.server.operate.memory`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from pikaforge.config.operate_scalars import (
    CONDITION_PATTERN,
    EMPTY,
    TERM_PATTERN,
    WHOLE_PATTERN,
    ConfKey,
    ConfValue,
    Reason,
    Row,
    Size,
    Words,
)
from pikaforge.config.scalars import Strict


class Factor(Strict):
    """What a term is multiplied by: a number or a size, or what a setting says."""

    key: ConfKey | None = Field(default=None, description="The setting; null: always `value`.")
    value: Size = Field(description="The number, or what counts where the setting is not there.")
    when: str | None = Field(
        default=None,
        pattern=CONDITION_PATTERN,
        max_length=128,
        description="Only where a setting is so: `KEY=VALUE` or `KEY!=VALUE`; one that is not there is empty.",
    )

    def row(self, term: str) -> Row:
        """Return the line of the table."""
        return ("times", term, self.key or EMPTY, self.value, self.when or EMPTY)


class Term(Strict):
    """A part of what an instance takes: the value of a setting, times factors."""

    name: str = Field(pattern=TERM_PATTERN, max_length=32, description="As plans call it.")
    key: ConfKey | None = Field(default=None, description="The setting that bounds it; null: it is always `value`.")
    value: Size = Field(description="The size, or what counts where the setting is not there.")
    share: int = Field(
        default=0, ge=0, le=1000, description="Its share of what is left after the fixed terms; 0: it is not planned."
    )
    least: Size = Field(default="0", description="The least that a plan sets.")
    most: Size | None = Field(default=None, description="The most that a plan sets; null: no limit.")
    step: Size = Field(default="1", description="A plan sets multiples of this.")
    lower_only: bool = Field(default=False, description="Whether a plan never sets more than the configuration has.")
    unbounded: str | None = Field(
        default=None, pattern=WHOLE_PATTERN, description="The value of the setting that stands for no bound."
    )
    times: tuple[Factor, ...] = Field(default=(), description="What it is multiplied by.")
    why: Reason = Field(description="What it is, and where the figures come from.")

    @model_validator(mode="after")
    def _is_planned_by_a_setting(self) -> Term:
        if self.share and self.key is None:
            raise ValueError("a term with a `share` needs a `key` that the plan can set")
        if self.share and not self.step.strip("0KMGT"):
            raise ValueError("`step` must be above 0")
        return self

    def rows(self) -> Iterator[Row]:
        """Yield the lines of the table."""
        yield (
            "term",
            self.name,
            self.key or EMPTY,
            self.value,
            str(self.share),
            self.least,
            self.most or EMPTY,
            self.step,
            "lower" if self.lower_only else EMPTY,
            self.unbounded or EMPTY,
            self.why,
        )
        for factor in self.times:
            yield factor.row(self.name)


class Reserve(Strict):
    """What stays free for the allocator: fragments, caches of its threads, pages that it gives back late."""

    percent: int = Field(ge=0, le=90, description="Of the budget.")
    least: Size = Field(default="0", description="At least so much.")
    why: Reason = Field(description="Where the figures come from.")


class Memory(Strict):
    """How `deploy.sh --memory` finds settings that stay below a budget. The last planned term takes the rest."""

    settings: dict[ConfKey, ConfValue] = Field(
        default_factory=dict, description="Set with every plan, because the terms can be bounded only so."
    )
    reserve: Reserve = Field(description="The allocator's part.")
    terms: Annotated[tuple[Term, ...], Field(min_length=1)] = Field(description="In order of planning.")
    statistics: tuple[Words, ...] = Field(
        default=(), description="Commands whose replies show what the allocator holds; a server may refuse them."
    )

    @model_validator(mode="after")
    def _terms_differ(self) -> Memory:
        names = [term.name for term in self.terms]
        keys = [term.key for term in self.terms if term.key is not None]
        if len(set(names)) != len(names) or len(set(keys)) != len(keys):
            raise ValueError("each term has a `name` and a `key` of its own")
        if not any(term.share for term in self.terms):
            raise ValueError("give at least one term a `share`, else nothing can be planned")
        return self

    def rows(self) -> Iterator[Row]:
        """Yield the lines of utils/operate/memory.tsv."""
        yield ("reserve", str(self.reserve.percent), self.reserve.least, self.reserve.why)
        for key, value in self.settings.items():
            yield ("set", key, value)
        for term in self.terms:
            yield from term.rows()
        for words in self.statistics:
            yield ("ask", " ".join(words))
