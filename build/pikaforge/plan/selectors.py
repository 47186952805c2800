"""Which cells a selection means, among those that there are: delivered, or published."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pikaforge.config.scalars import EVERYTHING
from pikaforge.errors import ConfigError
from pikaforge.plan.selection import closest


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSelectors:
    """Selectors as the command line has them; unlike those of a build they mean every image and allocator."""

    selectors: Sequence[str] = ()
    """Models, cell ids, globs over ids, or `all`; none: all."""
    os: str = ""
    allocator: str = ""

    def of(self, known: Mapping[str, tuple[str, str, str]], *, what: str, hint: str) -> list[str]:
        """The chosen ids, in the order of `known`.

        Args:
            known: model, image and allocator by cell id.
            what: what they are: "built".
            hint: what to do about one that is not there.

        Raises:
            ConfigError: a selector means none of them.
        """
        fitting = {
            id_: model
            for id_, (model, image, allocator) in known.items()
            if self.os in ("", EVERYTHING, image) and self.allocator in ("", EVERYTHING, allocator)
        }
        chosen: set[str] = set()
        for selector in self.selectors or (EVERYTHING,):
            found = _matching(selector, fitting)
            if not found:
                options = "".join(
                    f" {option} {value}"
                    for option, value in (("--os", self.os), ("--allocator", self.allocator))
                    if value not in ("", EVERYTHING)
                )
                near = closest(selector, [*fitting.values(), *fitting])
                raise ConfigError(
                    f"nothing of {selector}{options} is {what}",
                    where="SELECTOR",
                    hint="\n".join(line for line in (near, hint) if line),
                )
            chosen.update(found)
        return [id_ for id_ in known if id_ in chosen]


def _matching(selector: str, fitting: Mapping[str, str]) -> Collection[str]:
    if selector == EVERYTHING:
        return set(fitting)
    of_model = {id_ for id_, model in fitting.items() if model == selector}
    return of_model or {id_ for id_ in fitting if fnmatch.fnmatchcase(id_, selector)}
