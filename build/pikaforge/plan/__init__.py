"""From a specification and selectors to cells, and to the nodes that make them. Pure."""
