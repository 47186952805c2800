"""Whether a run is for a release, by what a CI system says in the environment."""

from __future__ import annotations

from collections.abc import Mapping


def builds_release(environ: Mapping[str, str]) -> bool:
    """Return whether GitHub Actions' variables say that this is a run for a tag."""
    return environ.get("GITHUB_ACTIONS") == "true" and environ.get("GITHUB_REF_TYPE") == "tag"
