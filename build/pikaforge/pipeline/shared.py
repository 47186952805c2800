"""Results of nodes that machines share: which are asked for, and which are put into the shared store.

A stage says whether its results may be shared (`Stage.shared`). Those of the host engine are not: their keys do not
describe the machine that they were made on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pikaforge.host.store import Result
from pikaforge.pipeline.stage import RunContext, stage_of
from pikaforge.plan.plan import Node

if TYPE_CHECKING:
    from pikaforge.host.shared_store import SharedStore


def fetched(node: Node, run: RunContext, key: str) -> Result | None:
    """Return the result of a node from the shared store, copied into the local one; None if it has none to take."""
    store = _store_of(node, run)
    if store is None:
        return None
    stage = stage_of(node)
    return store.fetch(
        stage.name, key, into=run.workspace.store, facts=stage.facts, unfit=partial(stage.unfit, run=run)
    )


def offered(node: Node, run: RunContext, result: Result, *, replace: bool = True) -> bool:
    """Put the result of a node into the shared store; return whether it is there now.

    Args:
        node: of the result.
        run: the run.
        result: of the local store.
        replace: whether to put it there even if there is one.
    """
    store = _store_of(node, run)
    return store is not None and store.offer(result, replace=replace)


def _store_of(node: Node, run: RunContext) -> SharedStore | None:
    """Return the store that results of a node go to; None if they are not shared."""
    workspace = run.workspace
    return workspace.shared if workspace.engine.kind != "host" and stage_of(node).shared else None
