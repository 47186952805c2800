"""The seam of shared stores, as pipelines use it. `sharing.results` has the one that there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from pikaforge.host.store import Result, Store


class SharedStore(Protocol):
    """Results that machines share.

    No method raises because the store is out of reach, refuses something, or holds what is bad: that is a notice, and
    the result is made here. Several threads may call them.
    """

    where: str
    """The store, as it is shown: without secrets."""

    def fetch(
        self, stage: str, key: str, *, into: Store, facts: type[BaseModel], unfit: Callable[[Result], str]
    ) -> Result | None:
        """Copy a result into the local store.

        Args:
            stage: of the result.
            key: of the result.
            into: the local store.
            facts: the model of the stage's facts.
            unfit: says why a result cannot be used here; "" if it can. Its files are there then.

        Returns:
            The result as the local store has it; None if there is none that can be taken.

        Raises:
            FullDiskError: there is no room for it here.
            HostError: the run was interrupted.
        """

    def summary(self) -> str:
        """Return in words what went through the store since the last call; "" if nothing did."""

    def record(self, stage: str, key: str, *, facts: type[BaseModel], into: Path) -> Result | None:
        """Return a result without its large files, for who needs to know it and not to build on it.

        Args:
            stage: of the result.
            key: of the result.
            facts: the model of the stage's facts.
            into: a folder for small files. Where others would be in it, there is nothing.

        Returns:
            The result; None if there is none that can be taken.

        Raises:
            FullDiskError: there is no room for it here.
            HostError: the run was interrupted.
        """

    def offer(self, result: Result, *, replace: bool = True, whole: bool = False) -> bool:
        """Put a result of the local store there; return whether it is there now.

        Args:
            result: the result.
            replace: whether to put it there even if there is one.
            whole: whether to send its files again that are there with their size: they are known to be damaged.

        Raises:
            HostError: the run was interrupted.
        """
