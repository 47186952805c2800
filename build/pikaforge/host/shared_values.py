"""Equal values of JSON as one object, so that facts that many results have take memory once."""

from __future__ import annotations

from operator import is_
from typing import TypeVar, cast

Value = TypeVar("Value")


class SharedValues:
    """Values that were seen. Whoever gets one does not change it. Several threads may ask at once.

    A dict or list is found by the identities of its members, which are such values, too. So it is compared without
    reading what is in them.
    """

    def __init__(self) -> None:
        self._plain: dict[object, object] = {}
        self._made: dict[int, dict[str, object] | list[object]] = {}
        self._whole: dict[str, object] = {}

    def of(self, value: Value) -> Value:
        """Return a value like this one: the first that was given here, with the same types and the same order."""
        return cast("Value", self._of(value))

    def under(self, digest: str, value: Value) -> Value:
        """Return a value as `of` does; one that was given under the same digest without another look at it."""
        known = self._whole.get(digest)
        if known is None:
            known = self._whole.setdefault(digest, self.of(value))
        return cast("Value", known)

    def _of(self, value: object) -> object:
        kind = type(value)
        if kind is str:
            return self._plain.setdefault(value, value)
        if isinstance(value, dict):
            plain, of = self._plain.setdefault, self._of
            return self._known(
                {
                    cast("str", plain(name, name)): plain(member, member) if type(member) is str else of(member)
                    for name, member in value.items()
                }
            )
        if isinstance(value, list):
            plain, of = self._plain.setdefault, self._of
            return self._known([plain(member, member) if type(member) is str else of(member) for member in value])
        if kind is int or kind is float:
            # 1 and 1.0 are equal, and so are 0.0 and -0.0.
            return self._plain.setdefault((kind, repr(value)), value)
        return value

    def _known(self, made: dict[str, object] | list[object]) -> object:
        members = list(made.values()) if isinstance(made, dict) else made
        names = tuple(made) if isinstance(made, dict) else None
        # What has the same number and is another value takes its place: then less is shared, and nothing is wrong.
        number = hash((names, *map(id, members)))
        known = self._made.get(number)
        if known is not None and type(known) is type(made) and len(known) == len(members):
            if isinstance(known, dict):
                if tuple(known) == names and all(map(is_, known.values(), members)):
                    return known
            elif all(map(is_, known, members)):
                return known
        self._made[number] = made
        return made
