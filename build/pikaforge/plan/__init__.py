"""From a specification and a selection to cells and the nodes of the plan. Pure."""
